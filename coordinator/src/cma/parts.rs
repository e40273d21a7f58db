//! Work on many vectors, cut into parts by sizes alone; each part is one thread's, so that the number of threads changes no
//! bit.

use rayon::prelude::*;

/// Vectors of a part.
pub(super) const PART: usize = 64;
/// Multiplications from which on parts are spread over threads.
const SPREAD_FROM: usize = 1 << 22;
/// As many multiplications as moving a number takes the time of.
pub(super) const MOVED: usize = 64;

/// `work` on every part of `size` numbers, in place; so many `multiplications` in all.
pub(super) fn in_parts(
    whole: &mut [f64],
    size: usize,
    multiplications: usize,
    work: impl Fn(usize, &mut [f64]) + Sync + Send,
) {
    if multiplications < SPREAD_FROM {
        whole.chunks_mut(size).enumerate().for_each(|(part, numbers)| work(part, numbers));
    } else {
        whole.par_chunks_mut(size).enumerate().for_each(|(part, numbers)| work(part, numbers));
    }
}

/// What `make` gives for each part of the vectors, of `dim` numbers each, one after the other.
pub(super) fn of_parts<T: Send>(
    vectors: &[f64],
    dim: usize,
    multiplications: usize,
    make: impl Fn(&[f64]) -> Vec<T> + Sync + Send,
) -> Vec<T> {
    let size = PART * dim;
    let made: Vec<Vec<T>> = if multiplications < SPREAD_FROM {
        vectors.chunks(size).map(make).collect()
    } else {
        vectors.par_chunks(size).map(make).collect()
    };
    made.into_iter().flatten().collect()
}
