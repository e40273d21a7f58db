//! A run's projections `A_l`, and prompts made with them: from matrices in memory, or from rows that are made anew each
//! time, a block of them for all candidates at once. Both give the same bits.

use std::fmt;
use std::sync::Arc;

use rayon::ThreadPool;
use rayon::prelude::*;
use shared::projection::{Projection, apply_many};

/// Rows of a projection that a task makes or multiplies at a time: enough work to be worth a steal, few enough to stay
/// in a thread's cache.
const BLOCK: usize = 256;

/// Whether the matrices are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// All of them, `[L][rows, dim]` numbers of `f32`.
    InMemory,
    /// None: each use makes them anew.
    Nothing,
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InMemory => "kept",
            Self::Nothing => "made anew",
        })
    }
}

/// The projections of all layers, of one shape.
pub struct Projections {
    layers: Vec<Projection>,
    /// `[L][rows, dim]`; empty where they are made anew.
    matrices: Vec<Vec<f32>>,
    pool: Arc<ThreadPool>,
}

impl Projections {
    /// Makes the matrices that are kept.
    pub fn new(layers: Vec<Projection>, keep: Keep, pool: Arc<ThreadPool>) -> Self {
        let matrices = match keep {
            Keep::InMemory => layers.iter().map(|projection| matrix(projection, &pool)).collect(),
            Keep::Nothing => Vec::new(),
        };
        Self { layers, matrices, pool }
    }

    /// `A_l z` of each `z` (of `dim` numbers), `[candidates][rows]`; `None` where there is no such layer.
    pub fn prompts(&self, layer: usize, zs: &[Vec<f32>]) -> Option<Vec<Vec<f32>>> {
        let projection = self.layers.get(layer)?;
        let mut prompts = vec![vec![0.0; projection.rows]; zs.len()];
        if zs.iter().flatten().all(|&z| z == 0.0) {
            return Some(prompts); // what any matrix makes of it
        }
        let flat = zs.concat();
        let product = |(block, part): (usize, &mut Vec<f32>)| {
            let first = block * BLOCK;
            let rows = first..projection.rows.min(first + BLOCK);
            *part = match self.matrices.get(layer) {
                Some(matrix) => {
                    let entries = rows.start * projection.dim..rows.end * projection.dim;
                    apply_many(&matrix[entries], &flat, projection.dim)
                }
                None => {
                    let mut made = vec![0.0; rows.len() * projection.dim];
                    projection.fill_rows(rows, &mut made);
                    apply_many(&made, &flat, projection.dim)
                }
            };
        };
        let mut parts = vec![Vec::new(); projection.rows.div_ceil(BLOCK)];
        self.pool.install(|| parts.par_iter_mut().enumerate().for_each(product));
        for (block, part) in parts.iter().enumerate() {
            let rows = part.len() / zs.len();
            for (prompt, part) in prompts.iter_mut().zip(part.chunks(rows.max(1))) {
                prompt[block * BLOCK..][..rows].copy_from_slice(part);
            }
        }
        Some(prompts)
    }
}

/// A whole matrix, its rows made in parallel.
fn matrix(projection: &Projection, pool: &ThreadPool) -> Vec<f32> {
    let dim = projection.dim;
    let mut matrix = vec![0.0; projection.rows * dim];
    pool.install(|| {
        matrix.par_chunks_mut(BLOCK * dim.max(1)).enumerate().for_each(|(block, out)| {
            let first = block * BLOCK;
            projection.fill_rows(first..first + out.len() / dim, out);
        });
    });
    matrix
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::projection::{Kind, apply};

    fn layers(rows: usize, dim: usize) -> Vec<Projection> {
        let kinds = [Kind::Normal { std: 0.3 }, Kind::Uniform];
        let layer = |(layer, kind)| Projection { seed: 7, layer, rows, dim, kind };
        (0..).zip(kinds).map(layer).collect()
    }

    #[test]
    fn prompts_have_the_same_bits_kept_or_made_anew_alone_or_together() {
        for (rows, dim) in [(1, 1), (BLOCK, 16), (3 * BLOCK + 17, 33)] {
            let both = [1, 3].map(|threads| {
                let pool = Arc::new(rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap());
                let keep = if threads == 1 { Keep::InMemory } else { Keep::Nothing };
                Projections::new(layers(rows, dim), keep, pool)
            });
            assert_eq!((both[0].matrices.len(), both[1].matrices.len()), (2, 0));
            let z = |c: usize| (0..dim).map(|i| ((i * 31 + c * 7) as f32).sin()).collect::<Vec<f32>>();
            let zs: Vec<Vec<f32>> = (0..5).map(z).chain([vec![0.0; dim]]).collect();
            for (layer, projection) in layers(rows, dim).iter().enumerate() {
                let expected: Vec<Vec<f32>> = zs.iter().map(|z| apply(&projection.matrix(), z)).collect();
                for projections in &both {
                    assert_eq!(projections.prompts(layer, &zs).unwrap(), expected);
                    for (z, alone) in zs.iter().zip(&expected) {
                        assert_eq!(&projections.prompts(layer, std::slice::from_ref(z)).unwrap()[0], alone);
                    }
                }
            }
        }
    }

    #[test]
    fn there_is_no_other_layer_and_no_candidate_needs_no_prompt() {
        let pool = Arc::new(rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap());
        for keep in [Keep::InMemory, Keep::Nothing] {
            let projections = Projections::new(layers(5, 2), keep, Arc::clone(&pool));
            assert_eq!(projections.prompts(2, &[vec![1.0, 2.0]]), None);
            assert_eq!(projections.prompts(0, &[]), Some(Vec::new()));
        }
    }
}
