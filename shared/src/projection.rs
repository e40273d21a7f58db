//! The projection `A_l`: the fixed random matrix from the search space of a layer to its prompt.
//!
//! Its entries come from [`Stream`] by (seed, layer, place): every node makes the same matrix, any rows of it
//! alone.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::random::{Domain, Stream};

/// How the entries are distributed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// `N(0, std^2)`; [`designed_std`] gives the method's.
    Normal {
        /// Standard deviation.
        std: f32,
    },
    /// `U(-1/sqrt(d), 1/sqrt(d))`: the original choice of BBT, independent of the model.
    Uniform,
}

/// The projection of one layer, `[rows, dim]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Projection {
    /// The run's seed.
    pub seed: u64,
    /// The layer.
    pub layer: u32,
    /// Numbers in the layer's prompt: `n_prompt * hidden`.
    pub rows: usize,
    /// The intrinsic dimension `d`: numbers in `z`.
    pub dim: usize,
    /// The entries' distribution.
    pub kind: Kind,
}

/// BBTv2's standard deviation of the entries, `s_l = alpha sigma_hat_l / (sqrt(d) sigma)`: with `z ~ N(0,
/// sigma^2)` the prompt's standard deviation is `alpha sigma_hat_l`, where `sigma_hat` is that of the layer's
/// hidden states.
pub fn designed_std(alpha: f64, sigma_hat: f64, dim: usize, sigma: f64) -> f32 {
    (alpha * sigma_hat / ((dim as f64).sqrt() * sigma)) as f32
}

impl Projection {
    /// The whole matrix, row-major `[rows, dim]`.
    pub fn matrix(&self) -> Vec<f32> {
        let mut matrix = vec![0.0; self.rows * self.dim];
        self.fill_rows(0..self.rows, &mut matrix);
        matrix
    }

    /// Writes the rows `rows` to `out`, `[rows.len(), dim]` (a shorter `out` takes the first of them): the
    /// same bits however a matrix is cut, so that threads can share its making.
    pub fn fill_rows(&self, rows: Range<usize>, out: &mut [f32]) {
        let stream = Stream::new(self.seed, Domain::Projection, u64::from(self.layer));
        let first = rows.start as u64 * self.dim as u64;
        let wanted = out.len().min(rows.len() * self.dim);
        let Some(out) = out.get_mut(..wanted) else { return };
        match self.kind {
            Kind::Normal { std } => {
                let std = f64::from(std);
                stream.normals(first, out, |normal| (normal * std) as f32);
            }
            Kind::Uniform => {
                let bound = 1.0 / (self.dim as f64).sqrt();
                stream.uniforms(first, out, |uniform| ((2.0 * uniform - 1.0) * bound) as f32);
            }
        }
    }

    /// `A z`, the bits of [`apply`] with the whole matrix, of which a few rows at a time are made.
    pub fn product(&self, z: &[f32]) -> Vec<f32> {
        const BLOCK: usize = 256;
        let mut made = vec![0.0; BLOCK.min(self.rows) * self.dim];
        let blocks = (0..self.rows).step_by(BLOCK).map(|first| first..self.rows.min(first + BLOCK));
        let product = |rows: Range<usize>| {
            let made = &mut made[..rows.len() * self.dim];
            self.fill_rows(rows, made);
            apply(made, z)
        };
        blocks.flat_map(product).collect()
    }

    /// SHA-256, in lower-case hexadecimal, of the whole matrix' bytes (f32, little-endian): nodes that agree
    /// on it compute with the same matrix. Costs as much as making the matrix; `checksum_rows` can take fewer
    /// rows.
    pub fn checksum(&self) -> String {
        self.checksum_rows(0..self.rows)
    }

    /// [`Self::checksum`] of some rows only.
    pub fn checksum_rows(&self, rows: Range<usize>) -> String {
        let mut hash = Sha256::new();
        let mut row = vec![0.0; self.dim];
        for index in rows {
            self.fill_rows(index..index + 1, &mut row);
            for entry in &row {
                hash.update(entry.to_le_bytes());
            }
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// `A z`: one number a row of `matrix` (row-major, as many columns as `z` has numbers, which the caller has
/// checked: what is left over after the last whole row is not looked at).
pub fn apply(matrix: &[f32], z: &[f32]) -> Vec<f32> {
    apply_many(matrix, z, z.len())
}

/// `A z` for each of many `z` (`zs`: `[count, dim]`), as `[count, rows]`; the same bits as [`apply`] for each
/// alone.
pub fn apply_many(matrix: &[f32], zs: &[f32], dim: usize) -> Vec<f32> {
    if dim == 0 {
        return Vec::new();
    }
    let (rows, count) = (matrix.len() / dim, zs.len() / dim);
    let mut out = vec![0.0; count * rows];
    // Row by row, so that a row is read from memory once for all candidates.
    for (index, row) in matrix.chunks_exact(dim).enumerate() {
        let column = out.iter_mut().skip(index).step_by(rows);
        for (value, z) in column.zip(zs.chunks_exact(dim)) {
            *value = dot(row, z);
        }
    }
    out
}

const LANES: usize = 16;

/// The dot product in a fixed order, whatever the width of the machine's vectors: term `i` goes to sum `i %
/// 16`, and the sixteen sums fold in halves.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    for (sum, (a, b)) in sums.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *sum += a * b;
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    sums[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    const SMALL: Projection =
        Projection { seed: 42, layer: 1, rows: 7, dim: 5, kind: Kind::Normal { std: 0.5 } };

    #[test]
    fn rows_are_the_same_however_the_matrix_is_cut() {
        for dim in [1, 5, 16, 33] {
            for kind in [Kind::Normal { std: 0.02 }, Kind::Uniform] {
                let projection = Projection { dim, kind, ..SMALL };
                let matrix = projection.matrix();
                assert_eq!(matrix.len(), 7 * dim);
                for start in 0..7 {
                    for end in start..=7 {
                        let mut part = vec![0.0; (end - start) * dim];
                        projection.fill_rows(start..end, &mut part);
                        assert_eq!(part, matrix[start * dim..end * dim]);
                    }
                }
            }
        }
    }

    #[test]
    fn a_product_needs_no_whole_matrix() {
        for (rows, dim) in [(1, 1), (255, 3), (256, 16), (700, 5)] {
            let projection = Projection { rows, dim, ..SMALL };
            let z: Vec<f32> = (0..dim).map(|i| (i as f32).cos()).collect();
            assert_eq!(projection.product(&z), apply(&projection.matrix(), &z));
        }
    }

    #[test]
    fn layers_and_seeds_have_matrices_of_their_own() {
        let matrix = SMALL.matrix();
        assert_ne!(matrix, Projection { layer: 2, ..SMALL }.matrix());
        assert_ne!(matrix, Projection { seed: 43, ..SMALL }.matrix());
        assert_eq!(matrix, Projection { rows: 9, ..SMALL }.matrix()[..35]);
    }

    #[test]
    fn a_fill_that_is_too_short_or_too_long_stays_inside() {
        let matrix = SMALL.matrix();
        let mut short = [0.0; 3];
        SMALL.fill_rows(0..7, &mut short);
        assert_eq!(short, matrix[..3]);
        let mut long = [9.0; 8];
        SMALL.fill_rows(0..1, &mut long);
        assert_eq!((&long[..5], &long[5..]), (&matrix[..5], &[9.0; 3][..]));
    }

    #[test]
    fn the_designed_deviation_gives_the_prompt_the_hosts() {
        // alpha 0.2, sigma_hat 0.75, d 500, sigma 0.2: s = 0.75 / sqrt(500).
        assert_eq!(designed_std(0.2, 0.75, 500, 0.2), 0.033_541_02);
        let std = designed_std(0.3, 0.75, 500, 0.2);
        let projection = Projection { seed: 1, layer: 0, rows: 4000, dim: 500, kind: Kind::Normal { std } };
        let mut z = vec![0.0; 500];
        Stream::new(1, Domain::Search, 0).normals(0, &mut z, |normal| (normal * 0.2) as f32);
        let prompt = apply(&projection.matrix(), &z);
        let variance = prompt.iter().map(|p| f64::from(*p).powi(2)).sum::<f64>() / prompt.len() as f64;
        // One z of 500 numbers: its length alone varies by 1/sqrt(1000), 3.2 %.
        assert!((variance.sqrt() / (0.3 * 0.75) - 1.0).abs() < 0.1, "{}", variance.sqrt());
    }

    #[test]
    fn uniform_entries_lie_within_one_over_root_d() {
        let projection = Projection { seed: 1, layer: 0, rows: 2000, dim: 100, kind: Kind::Uniform };
        let matrix = projection.matrix();
        assert!(matrix.iter().all(|a| a.abs() <= 0.1));
        let variance = matrix.iter().map(|a| f64::from(*a).powi(2)).sum::<f64>() / matrix.len() as f64;
        assert!((variance * 300.0 - 1.0).abs() < 0.02, "{variance}");
    }

    #[test]
    fn applies_the_matrix() {
        assert_eq!(apply(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[1.0, 0.5]), [2.0, 5.0, 8.0]);
        assert_eq!(apply(&[1.0, 2.0], &[]), [0.0; 0]);
        assert_eq!(apply(&[], &[1.0]), [0.0; 0]);
        for dim in [1, 15, 16, 17, 40, 500] {
            let projection = Projection { rows: 50, dim, ..SMALL };
            let (matrix, zs) = (projection.matrix(), Projection { layer: 9, rows: 3, dim, ..SMALL }.matrix());
            let many = apply_many(&matrix, &zs, dim);
            for (z, prompt) in zs.chunks(dim).zip(many.chunks(50)) {
                assert_eq!(apply(&matrix, z), prompt);
                for (row, value) in matrix.chunks(dim).zip(prompt) {
                    let terms = row.iter().zip(z).map(|(a, z)| f64::from(*a) * f64::from(*z));
                    let (exact, size) =
                        terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
                    assert!(
                        (f64::from(*value) - exact).abs() <= 1e-6 * size,
                        "{value} for {exact}, dim {dim}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_order_of_summation_is_fixed() {
        // Sixteen sums, folded in halves: written out once more, naively.
        let row: Vec<f32> = (0..37).map(|i| (i as f32).sin()).collect();
        let z: Vec<f32> = (0..37).map(|i| (i as f32 * 0.7).cos()).collect();
        let mut sums: Vec<f32> = vec![0.0; 16];
        for i in 0..37 {
            sums[i % 16] += row[i] * z[i];
        }
        while sums.len() > 1 {
            let upper = sums.split_off(sums.len() / 2);
            sums.iter_mut().zip(upper).for_each(|(sum, other)| *sum += other);
        }
        assert_eq!(apply(&row, &z), [sums[0]]);
    }

    #[test]
    fn numbers_match_an_independent_implementation() {
        // Made by scripts/golden/projection.py, which has its own ChaCha and Box-Muller.
        let golden: Value = serde_json::from_str(include_str!("../../tests/golden/projection.json")).unwrap();
        assert_eq!(golden["scheme"], crate::random::SCHEME);
        let cases = golden["cases"].as_array().unwrap();
        assert!(cases.len() >= 4);
        for case in cases {
            let number = |key: &str| case[key].as_u64().unwrap();
            let kind = match case["std"].as_f64() {
                Some(std) => Kind::Normal { std: std as f32 },
                None => Kind::Uniform,
            };
            let (rows, dim) = (number("rows") as usize, number("dim") as usize);
            let projection =
                Projection { seed: number("seed"), layer: number("layer") as u32, rows, dim, kind };
            let stream = Stream::new(projection.seed, Domain::Projection, number("layer"));
            let expected: Vec<u32> = serde_json::from_value(case["words"].clone()).unwrap();
            let mut words = vec![0; expected.len()];
            stream.fill_words(number("first_word"), &mut words);
            assert_eq!(words, expected, "{projection:?}");
            let expected: Vec<f64> = serde_json::from_value(case["normals"].clone()).unwrap();
            let mut normals = vec![0.0; expected.len()];
            stream.fill_normals(0, &mut normals);
            for (found, expected) in normals.iter().zip(&expected) {
                assert!((found - expected).abs() <= 1e-12, "{found} for {expected}, {projection:?}");
            }
            assert_eq!(projection.checksum(), case["sha256"], "{projection:?}");
        }
    }
}
