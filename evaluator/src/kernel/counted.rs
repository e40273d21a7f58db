//! Operations of the products that a thread has run: what the engine's own count is tested against.

use std::cell::Cell;

thread_local! {
    static DONE: Cell<usize> = const { Cell::new(0) };
}

/// Counts a product.
pub(super) fn add(flops: usize) {
    DONE.set(DONE.get() + flops);
}

/// The sum since the last time.
pub(crate) fn take() -> usize {
    DONE.take()
}
