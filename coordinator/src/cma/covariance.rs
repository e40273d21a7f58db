//! The matrix C and its Cholesky factor L, C = L L^T, which lags a few generations behind (it costs O(n^3)).
//!
//! Steps are `L z`: distributed as N(0, C) and, as L is unique, free of the signs that an eigensolver happens to choose.
//! A factor takes a tenth of a decomposition's time. What does ask for B and D, C = B D^2 B^T, gets them worked out from
//! L when it asks: stop criteria, and p_sigma's `C^(-1/2) y` where Lanczos' method does not converge.
//!
//! Work on many vectors is cut into parts (`parts.rs`): the number of threads changes no bit.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor::{cholesky_in_place, cholesky_in_place_scratch};
use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::linalg::triangular_inverse::invert_lower_triangular;
use faer::linalg::triangular_solve::solve_lower_triangular_in_place;
use faer::prelude::{Reborrow, ReborrowMut};
use faer::{Accum, MatMut, MatRef, Par};
use serde::{Deserialize, Serialize};

use super::axes::{Axes, Derived};
use super::parts::{MOVED, PART, in_parts, of_parts};
use super::{lanczos, lower_triangle};

/// Doublings of the smallest variance that a failed decomposition tries before it gives up.
const REPAIRS: usize = 64;
/// Variables from which on Lanczos' method is tried, and its steps: as many as take a decomposition's time or less.
const LANCZOS_FROM: usize = 100;
const LANCZOS_STEPS: usize = 64;
/// Conditions, judged by L's diagonal (the true one is larger), above which Lanczos' method is not even tried, and above
/// which C is no longer positive but by chance.
const LANCZOS_CONDITION: f64 = 1e3;
const WORST_CONDITION: f64 = 1e16;
/// A condition below which no rounding of a decomposition matters to its result's size.
const PLAIN_CONDITION: f64 = 1e10;

/// A full covariance matrix. All matrices are column-major, `[dim * dim]`; of C and L only the lower triangle is meant,
/// the rest is 0 and stays 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Covariance {
    dim: usize,
    /// C.
    #[serde(with = "lower_triangle")]
    matrix: Vec<f64>,
    /// L.
    #[serde(with = "lower_triangle")]
    factor: Vec<f64>,
    /// Updates of C so far, and their number when L was made.
    updates: u64,
    decomposed_at: u64,
    /// Decompositions that C had to be repaired for.
    repairs: u64,
    /// B and D of `L L^T`, a function of L alone.
    #[serde(skip)]
    axes: Derived<Axes>,
    /// What is known of D without them.
    #[serde(skip)]
    within: Derived<(f64, f64)>,
}

impl Covariance {
    /// The identity, but for pycma's slight slope on the diagonal (it keeps the eigenvalues apart), so that a run
    /// has pycma's numbers from the first generation on.
    pub(super) fn new(dim: usize) -> Covariance {
        let mut matrix = vec![0.0; dim * dim];
        let slope = 1e-4 / dim as f64;
        for (i, c) in matrix.iter_mut().step_by(dim + 1).enumerate() {
            *c = (slope * i as f64).exp();
        }
        let factor = matrix.iter().map(|c| c.sqrt()).collect();
        Covariance {
            dim,
            matrix,
            factor,
            updates: 0,
            decomposed_at: 0,
            repairs: 0,
            axes: Derived::default(),
            within: Derived::default(),
        }
    }

    /// Whether every array has the length that `dim` asks for; false only for bytes that we did not write.
    pub(super) fn is_shaped(&self, dim: usize) -> bool {
        let square = [self.matrix.len(), self.factor.len()].iter().all(|&found| found == dim * dim);
        square && self.dim == dim
    }

    /// Whether C holds finite numbers only.
    pub(super) fn is_finite(&self) -> bool {
        self.matrix.iter().all(|c| c.is_finite())
    }

    /// How often C was no longer positive and had to be repaired.
    pub(super) fn repairs(&self) -> u64 {
        self.repairs
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

    /// D, ascending: roots of the eigenvalues of the C that L was made from; empty if it has none.
    pub(super) fn lengths(&self) -> &[f64] {
        self.axes().map_or(&[], Axes::lengths)
    }

    /// Two numbers that all of D lies between, where that is seen without working B and D out: a tenth of their work. `None`
    /// where they are not far less than [`PLAIN_CONDITION`] apart.
    pub(super) fn lengths_within(&self) -> Option<(f64, f64)> {
        if let Some(axes) = self.axes.known() {
            return Some((*axes.lengths().first()?, *axes.lengths().last()?));
        }
        self.within
            .get(|| bounds_of_lengths(self.factor(), condition_at_least(&self.factor, self.dim)))
            .copied()
    }

    /// Axis i (taken modulo `dim`) of the C that L was made from, times its standard deviation, `[dim]`.
    pub(super) fn scaled_axis(&self, i: u64) -> impl Iterator<Item = f64> + '_ {
        self.axes().into_iter().flat_map(move |axes| axes.scaled((i % self.dim as u64) as usize))
    }

    /// Decomposes C if L is at least `lazy_gap` updates old. `None`: C has no positive decomposition.
    pub(super) fn refresh(&mut self, lazy_gap: f64) -> Option<()> {
        let due = self.decomposed_at as f64 + lazy_gap;
        if (self.updates as f64) < due {
            return Some(());
        }
        let mut least = None; // of the old variances
        for _ in 0..REPAIRS {
            if let Some(factor) = self.decompose() {
                self.factor = factor;
                (self.axes, self.within) = (Derived::default(), Derived::default());
                self.decomposed_at = self.updates;
                self.repairs += u64::from(least.is_some());
                return Some(());
            }
            // pycma's repair: the smallest old variance is added everywhere
            let added = match least {
                None => self.lengths().first()?.powi(2),
                Some(before) => 2.0 * before,
            };
            self.matrix.iter_mut().step_by(self.dim + 1).for_each(|c| *c += added);
            least = Some(added);
        }
        None
    }

    /// L from C; `None` unless C is finite and positive.
    fn decompose(&self) -> Option<Vec<f64>> {
        let n = self.dim;
        if !self.is_finite() {
            return None;
        }
        let mut factor = self.matrix.clone();
        let mut memory =
            MemBuffer::try_new(cholesky_in_place_scratch::<f64>(n, Par::Seq, Default::default())).ok()?;
        cholesky_in_place(
            MatMut::from_column_major_slice_mut(&mut factor, n, n),
            Default::default(),
            Par::Seq, // one thread: the same bits whatever else runs
            MemStack::new(&mut memory),
            Default::default(),
        )
        .ok()?;
        for (j, column) in factor.chunks_exact_mut(n).enumerate() {
            column.iter_mut().take(j).for_each(|l| *l = 0.0); // whatever the arithmetic has left there
        }
        (condition_at_least(&factor, n) < WORST_CONDITION).then_some(factor)
    }

    /// Steps `L z ~ N(0, C)`, one for each standard normal vector; `vectors`: `[count * dim]`, one after the other.
    pub(super) fn stretch(&self, vectors: &[f64]) -> Vec<f64> {
        let (n, count) = (self.dim, vectors.len() / self.dim);
        let mut steps = vec![0.0; vectors.len()];
        triangular::matmul(
            MatMut::from_column_major_slice_mut(&mut steps, n, count),
            BlockStructure::Rectangular,
            Accum::Replace,
            self.factor(),
            BlockStructure::TriangularLower,
            MatRef::from_column_major_slice(vectors, n, count),
            BlockStructure::Rectangular,
            1.0,
            Par::Seq,
        );
        steps
    }

    /// `C^(-1/2) y`, C's symmetric root, for each vector: makes a step y standard normal without turning it.
    pub(super) fn whiten(&self, vectors: &[f64]) -> Vec<f64> {
        let (n, alone) = (self.dim, vectors.len() == self.dim);
        let tried = alone && n >= LANCZOS_FROM && condition_at_least(&self.factor, n) < LANCZOS_CONDITION;
        let quickly =
            if tried { lanczos::inverse_root(vectors, LANCZOS_STEPS, |v| self.product(v)) } else { None };
        let white = quickly.or_else(|| Some(self.axes()?.whiten(vectors)));
        white.unwrap_or_else(|| vec![f64::NAN; vectors.len()])
    }

    /// `||C^(-1/2) y|| = ||L^-1 y||` for each vector: the two differ by a rotation, which changes no length.
    pub(super) fn mahalanobis(&self, vectors: &[f64]) -> Vec<f64> {
        let n = self.dim;
        of_parts(vectors, n, n * vectors.len(), |vectors| {
            let mut white = vectors.to_vec();
            let count = vectors.len() / n;
            let columns = MatMut::from_column_major_slice_mut(&mut white, n, count);
            solve_lower_triangular_in_place(self.factor(), columns, Par::Seq);
            white.chunks_exact(n).map(|row| row.iter().map(|v| v * v).sum::<f64>().sqrt()).collect()
        })
    }

    /// `C <- keep * C + sum_k w_k v_k v_k^T` (eq. 47); lower triangle only, O(n^2) a vector.
    pub(super) fn update(&mut self, keep: f64, weights: &[f64], vectors: &[f64]) {
        let (n, count) = (self.dim, vectors.len() / self.dim);
        let mut weighted = vec![0.0; vectors.len()];
        in_parts(&mut weighted, PART * n, MOVED * vectors.len(), |part, rows| {
            let from = vectors.chunks_exact(n).zip(weights).skip(part * PART);
            for (row, (vector, w)) in rows.chunks_exact_mut(n).zip(from) {
                row.iter_mut().zip(vector).for_each(|(weighted, v)| *weighted = v * w);
            }
        });
        let (left, right) = (
            MatRef::from_column_major_slice(&weighted, n, count),
            MatRef::from_column_major_slice(vectors, n, count),
        );
        in_parts(&mut self.matrix, PART * n, n * vectors.len(), |part, columns| {
            columns.iter_mut().for_each(|c| *c *= keep);
            let (top, width) = (part * PART, columns.len() / n);
            let right = right.subrows(top, width).transpose();
            let columns = MatMut::from_column_major_slice_mut(columns, n, width);
            let (square, below) = columns.subrows_mut(top, n - top).split_at_row_mut(width);
            triangular::matmul(
                square,
                BlockStructure::TriangularLower,
                Accum::Add,
                left.subrows(top, width),
                BlockStructure::Rectangular,
                right,
                BlockStructure::Rectangular,
                1.0,
                Par::Seq,
            );
            let left = left.subrows(top + width, n - top - width);
            matmul(below, Accum::Add, left, right, 1.0, Par::Seq);
        });
        self.updates += 1;
    }

    fn factor(&self) -> MatRef<'_, f64> {
        MatRef::from_column_major_slice(&self.factor, self.dim, self.dim)
    }

    /// `L L^T v`, panel by panel: the zeros above them are left out.
    fn product(&self, vector: &[f64]) -> Vec<f64> {
        let (n, factor) = (self.dim, self.factor());
        let mut along = vec![0.0; n];
        let mut product = vec![0.0; n];
        for (part, along) in along.chunks_mut(PART).enumerate() {
            let (top, width) = (part * PART, along.len());
            let panel = factor.submatrix(top, top, n - top, width);
            let vector = MatRef::from_column_major_slice(vector, n, 1).subrows(top, n - top);
            let mut along = MatMut::from_column_major_slice_mut(along, width, 1);
            matmul(along.rb_mut(), Accum::Replace, panel.transpose(), vector, 1.0, Par::Seq);
            let product = MatMut::from_column_major_slice_mut(&mut product, n, 1).subrows_mut(top, n - top);
            matmul(product, Accum::Add, panel, along.rb(), 1.0, Par::Seq);
        }
        product
    }

    /// B and D of `L L^T`.
    fn axes(&self) -> Option<&Axes> {
        self.axes.get(|| {
            let n = self.dim;
            let mut matrix = vec![0.0; n * n];
            triangular::matmul(
                MatMut::from_column_major_slice_mut(&mut matrix, n, n),
                BlockStructure::TriangularLower,
                Accum::Replace,
                self.factor(),
                BlockStructure::TriangularLower,
                self.factor().transpose(),
                BlockStructure::TriangularUpper,
                1.0,
                Par::Seq,
            );
            Axes::of(&matrix, n)
        })
    }
}

/// Bounds of the singular values of L: by the norms of it and of its inverse.
fn bounds_of_lengths(factor: MatRef<'_, f64>, condition: f64) -> Option<(f64, f64)> {
    let n = factor.nrows();
    if condition > PLAIN_CONDITION {
        return None;
    }
    let mut inverse = vec![0.0; n * n];
    let into = MatMut::from_column_major_slice_mut(&mut inverse, n, n);
    invert_lower_triangular(into, factor, Par::Seq);
    let (least, most) = (1.0 / inverse.iter().map(|l| l * l).sum::<f64>().sqrt(), factor.norm_l2());
    ((most / least).powi(2) < PLAIN_CONDITION).then_some((least, most))
}

/// A bound from below for `L L^T`'s condition number.
fn condition_at_least(factor: &[f64], dim: usize) -> f64 {
    let diagonal = || factor.iter().step_by(dim + 1);
    let (least, most) =
        diagonal().fold((f64::INFINITY, 0.0), |(least, most): (f64, f64), l| (least.min(*l), most.max(*l)));
    (most / least).powi(2)
}

#[cfg(test)]
mod tests {
    use shared::random::{Domain, Stream};

    use super::*;

    const DIM: usize = 200;

    fn vectors(count: usize, index: u64) -> Vec<f64> {
        let mut numbers = vec![0.0; count * DIM];
        Stream::new(1, Domain::Sample, index).fill_normals(0, &mut numbers);
        numbers
    }

    /// By Lanczos' method, by B and D, and what a step was drawn from: all have the same length, the first two are equal.
    #[test]
    fn white_either_way() {
        let mut covariance = Covariance::new(DIM);
        covariance.update(0.5, &[2e-3; 300], &vectors(300, 1));
        covariance.refresh(1.0).unwrap();
        let normal = vectors(1, 2);
        let step = covariance.stretch(&normal);
        let product = |v: &[f64]| covariance.product(v);
        let quickly = lanczos::inverse_root(&step, LANCZOS_STEPS, product).unwrap();
        let by_axes = covariance.axes().unwrap().whiten(&step);
        let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
        let apart: Vec<f64> = quickly.iter().zip(&by_axes).map(|(a, b)| a - b).collect();
        assert!(norm(&apart) < 1e-12 * norm(&normal), "{}", norm(&apart));
        assert!((norm(&quickly) / norm(&normal) - 1.0).abs() < 1e-12);
        assert!((covariance.mahalanobis(&step)[0] / norm(&normal) - 1.0).abs() < 1e-12);
    }

    /// What is known of the axes' lengths without them holds for them, and nothing is said where C is badly conditioned.
    #[test]
    fn lengths_lie_within() {
        let mut covariance = Covariance::new(DIM);
        assert!(covariance.lengths_within().is_some());
        for generation in 0..4 {
            covariance.update(0.6, &[3e-3; 300], &vectors(300, generation));
            covariance.refresh(1.0).unwrap();
            let (least, most) = covariance.lengths_within().unwrap();
            assert!(covariance.axes.known().is_none());
            let lengths = covariance.lengths();
            assert!(lengths.iter().all(|d| least < *d && *d < most), "{least} {most} {lengths:?}");
            assert!(most / least < DIM as f64 * lengths[DIM - 1] / lengths[0]);
            assert_eq!(covariance.lengths_within(), Some((lengths[0], lengths[DIM - 1])));
        }
        let long: Vec<f64> = (0..DIM).map(|i| if i < 2 { 1e6 } else { 0.0 }).collect();
        covariance.update(1.0, &[1.0], &long);
        covariance.refresh(1.0).unwrap();
        assert_eq!(covariance.lengths_within(), None);
    }
}
