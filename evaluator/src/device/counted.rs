//! Operations that a thread's passes on devices have needed: what the engine's own count is tested against. Attention
//! counts what its rows see, not what pads them.

use std::cell::Cell;

use super::block::Positions;
use super::look::Look;
use crate::backbone::Heads;

thread_local! {
    static DONE: Cell<usize> = const { Cell::new(0) };
}

/// Counts a product.
pub(super) fn add(flops: usize) {
    DONE.set(DONE.get() + flops);
}

/// Counts the scores and weighted values of an attention.
pub(super) fn attention(heads: &Heads, positions: Option<&Positions>, look: &Look) {
    for &(queries, keys) in &look.met {
        let of_positions = positions.map_or(0, |table| {
            let middle = table.rows.len() / 2;
            let columns = table.rows[middle + keys - 1] + 1 - table.rows[middle + 1 - keys];
            columns * (queries + keys)
        });
        add(2 * look.candidates * (2 * queries * keys + of_positions) * heads.query_width());
    }
}

/// The sum since the last time.
pub(super) fn take() -> usize {
    DONE.take()
}
