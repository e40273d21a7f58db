//! The matrix C and its decomposition C = B D^2 B^T, which lags a few generations behind (it costs O(n^3)).

use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch};
use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, MatMut, MatRef, Par};
use serde::{Deserialize, Serialize};

/// Doublings of the smallest variance that a failed decomposition tries before it gives up.
const REPAIRS: usize = 64;

/// A full covariance matrix. All matrices are column-major, `[dim * dim]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Covariance {
    dim: usize,
    /// C. Only the lower triangle is meant; the rest is 0 and stays 0.
    #[serde(with = "lower_triangle")]
    matrix: Vec<f64>,
    /// B: column i is the i-th principal axis.
    axes: Vec<f64>,
    /// D: standard deviations along the axes, `[dim]`, ascending.
    lengths: Vec<f64>,
    /// Updates of C so far, and their number when B and D were made.
    updates: u64,
    decomposed_at: u64,
}

impl Covariance {
    /// The identity, but for pycma's slight slope on the diagonal (it keeps the eigenvalues apart), so that a run
    /// has pycma's numbers from the first generation on.
    pub(super) fn new(dim: usize) -> Covariance {
        let mut matrix = vec![0.0; dim * dim];
        let mut axes = vec![0.0; dim * dim];
        let slope = 1e-4 / dim as f64;
        for (i, c) in matrix.iter_mut().step_by(dim + 1).enumerate() {
            *c = (slope * i as f64).exp();
        }
        for b in axes.iter_mut().step_by(dim + 1) {
            *b = 1.0;
        }
        let lengths = matrix.iter().step_by(dim + 1).map(|c| c.sqrt()).collect();
        Covariance { dim, matrix, axes, lengths, updates: 0, decomposed_at: 0 }
    }

    /// Whether every array has the length that `dim` asks for; false only for bytes that we did not write.
    pub(super) fn is_shaped(&self, dim: usize) -> bool {
        let square = [self.matrix.len(), self.axes.len()].iter().all(|&found| found == dim * dim);
        square && self.dim == dim && self.lengths.len() == dim
    }

    /// Whether C holds finite numbers only.
    pub(super) fn is_finite(&self) -> bool {
        self.matrix.iter().all(|c| c.is_finite())
    }

    /// C's diagonal, `[dim]`.
    pub(super) fn variances(&self) -> impl Iterator<Item = f64> + '_ {
        self.matrix.iter().step_by(self.dim + 1).copied()
    }

    /// C's entry in row i, column j (0 outside).
    pub(super) fn entry(&self, i: usize, j: usize) -> f64 {
        let (row, column) = if i < j { (j, i) } else { (i, j) };
        if row < self.dim { self.matrix.get(column * self.dim + row).copied().unwrap_or(0.0) } else { 0.0 }
    }

    /// C with both triangles, `[dim * dim]`.
    pub(super) fn whole(&self) -> Vec<f64> {
        let n = self.dim;
        (0..n * n).map(|at| self.entry(at % n, at / n)).collect()
    }

    /// Puts another matrix in C's place, of which the lower triangle is meant.
    pub(super) fn set(&mut self, whole: impl Iterator<Item = f64>) {
        let n = self.dim;
        for (at, (c, value)) in self.matrix.iter_mut().zip(whole).enumerate() {
            *c = if at % n >= at / n { value } else { 0.0 };
        }
    }

    /// D, ascending: roots of the last decomposition's eigenvalues.
    pub(super) fn lengths(&self) -> &[f64] {
        &self.lengths
    }

    /// Axis i (taken modulo `dim`) times its standard deviation, `[dim]`.
    pub(super) fn scaled_axis(&self, i: u64) -> impl Iterator<Item = f64> + '_ {
        let i = (i % self.dim as u64) as usize;
        let length = self.lengths.get(i).copied().unwrap_or(0.0);
        self.axes.iter().skip(i * self.dim).take(self.dim).map(move |b| b * length)
    }

    /// Decomposes C if B and D are at least `lazy_gap` updates old. `None`: C has no positive decomposition.
    pub(super) fn refresh(&mut self, lazy_gap: f64) -> Option<()> {
        let due = self.decomposed_at as f64 + lazy_gap;
        if (self.updates as f64) < due {
            return Some(());
        }
        for _ in 0..REPAIRS {
            if self.decompose().is_some() {
                self.decomposed_at = self.updates;
                return Some(());
            }
            // pycma's repair: the smallest old variance is added everywhere
            let least = self.lengths.iter().fold(f64::INFINITY, |least, d| least.min(d * d));
            self.matrix.iter_mut().step_by(self.dim + 1).for_each(|c| *c += least);
            self.lengths.iter_mut().for_each(|d| *d = (*d * *d + least).sqrt());
        }
        None
    }

    /// B and D from C; leaves them as they are unless every eigenvalue is finite and above 0.
    fn decompose(&mut self) -> Option<()> {
        let n = self.dim;
        if !self.is_finite() {
            return None;
        }
        let scratch =
            self_adjoint_evd_scratch::<f64>(n, ComputeEigenvectors::Yes, Par::Seq, Default::default());
        let mut memory = MemBuffer::try_new(scratch).ok()?;
        let mut values = Diag::<f64>::zeros(n);
        let mut axes = vec![0.0; n * n];
        self_adjoint_evd(
            MatRef::from_column_major_slice(&self.matrix, n, n),
            values.as_mut(),
            Some(MatMut::from_column_major_slice_mut(&mut axes, n, n)),
            Par::Seq, // one thread: the same bits whatever else runs
            MemStack::new(&mut memory),
            Default::default(),
        )
        .ok()?;
        let values: Vec<f64> = values.column_vector().iter().copied().collect();
        if !values.iter().all(|v| *v > 0.0 && v.is_finite()) {
            return None;
        }
        self.axes = axes;
        self.lengths = values.iter().map(|v| v.sqrt()).collect();
        Some(())
    }

    /// `C^(1/2) z = B D B^T z` for each vector; `vectors`: `[count * dim]`, one after the other.
    pub(super) fn stretch(&self, vectors: &[f64]) -> Vec<f64> {
        let mut along = self.along_axes(vectors);
        self.scale(&mut along, |d| d);
        self.off_axes(&along)
    }

    /// `C^(-1/2) y = B D^-1 B^T y` for each vector.
    pub(super) fn whiten(&self, vectors: &[f64]) -> Vec<f64> {
        let mut along = self.along_axes(vectors);
        self.scale(&mut along, |d| 1.0 / d);
        self.off_axes(&along)
    }

    /// `||C^(-1/2) y||` for each vector: B's rotation back does not change a length.
    pub(super) fn mahalanobis(&self, vectors: &[f64]) -> Vec<f64> {
        let mut along = self.along_axes(vectors);
        self.scale(&mut along, |d| 1.0 / d);
        along.chunks_exact(self.dim).map(|row| row.iter().map(|v| v * v).sum::<f64>().sqrt()).collect()
    }

    /// `C <- keep * C + sum_k w_k v_k v_k^T` (eq. 47); lower triangle only, O(n^2) a vector.
    pub(super) fn update(&mut self, keep: f64, weights: &[f64], vectors: &[f64]) {
        let n = self.dim;
        self.matrix.iter_mut().for_each(|c| *c *= keep);
        let mut weighted = vectors.to_vec();
        for (row, w) in weighted.chunks_exact_mut(n).zip(weights) {
            row.iter_mut().for_each(|v| *v *= w);
        }
        let count = vectors.len() / n;
        triangular::matmul(
            MatMut::from_column_major_slice_mut(&mut self.matrix, n, n),
            BlockStructure::TriangularLower,
            Accum::Add,
            MatRef::from_column_major_slice(&weighted, n, count),
            BlockStructure::Rectangular,
            MatRef::from_column_major_slice(vectors, n, count).transpose(),
            BlockStructure::Rectangular,
            1.0,
            Par::Seq,
        );
        self.updates += 1;
    }

    /// `B^T v` for each vector.
    fn along_axes(&self, vectors: &[f64]) -> Vec<f64> {
        self.rotate(MatRef::from_column_major_slice(&self.axes, self.dim, self.dim).transpose(), vectors)
    }

    /// `B v` for each vector.
    fn off_axes(&self, vectors: &[f64]) -> Vec<f64> {
        self.rotate(MatRef::from_column_major_slice(&self.axes, self.dim, self.dim), vectors)
    }

    fn rotate(&self, by: MatRef<'_, f64>, vectors: &[f64]) -> Vec<f64> {
        let (n, count) = (self.dim, vectors.len() / self.dim);
        let mut rotated = vec![0.0; n * count];
        let into = MatMut::from_column_major_slice_mut(&mut rotated, n, count);
        let from = MatRef::from_column_major_slice(vectors, n, count);
        matmul(into, Accum::Replace, by, from, 1.0, Par::Seq);
        rotated
    }

    fn scale(&self, along: &mut [f64], factor: impl Fn(f64) -> f64) {
        for row in along.chunks_exact_mut(self.dim) {
            row.iter_mut().zip(&self.lengths).for_each(|(v, d)| *v *= factor(*d));
        }
    }
}

/// Writes a symmetric matrix as its lower triangle, column after column: half the bytes of a checkpoint.
mod lower_triangle {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(matrix: &[f64], to: S) -> Result<S::Ok, S::Error> {
        let n = matrix.len().isqrt();
        let columns = matrix.chunks_exact(n.max(1)).enumerate();
        let packed: Vec<f64> = columns.flat_map(|(j, column)| column.iter().skip(j).copied()).collect();
        packed.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<f64>, D::Error> {
        let packed = Vec::<f64>::deserialize(from)?;
        let n = (2 * packed.len()).isqrt(); // n (n + 1) / 2 entries
        if n == 0 || n > super::super::MAX_DIM || n * (n + 1) / 2 != packed.len() {
            return Err(D::Error::custom(format!("{} entries are no triangle of a matrix", packed.len())));
        }
        let mut matrix = vec![0.0; n * n];
        let mut entries = packed.into_iter();
        for (j, column) in matrix.chunks_exact_mut(n).enumerate() {
            column.iter_mut().skip(j).zip(entries.by_ref()).for_each(|(c, entry)| *c = entry);
        }
        Ok(matrix)
    }
}
