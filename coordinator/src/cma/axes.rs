//! Principal axes of C = B D^2 B^T. Sampling does without them; stop criteria and a badly conditioned C ask for them.

use std::sync::OnceLock;

use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch};
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

/// Eigenvalues below this share of the largest are rounding alone: they count as this much.
const LEAST_SHARE: f64 = f64::EPSILON;

/// B and D of a symmetric, positive matrix.
#[derive(Clone, Debug)]
pub(super) struct Axes {
    /// B: column i is the i-th principal axis; column-major, `[dim * dim]`.
    axes: Vec<f64>,
    /// D: standard deviations along the axes, `[dim]`, ascending.
    lengths: Vec<f64>,
}

impl Axes {
    /// Of the matrix whose lower triangle is given, column-major; `None`: it has no finite decomposition.
    pub(super) fn of(matrix: &[f64], dim: usize) -> Option<Axes> {
        let scratch =
            self_adjoint_evd_scratch::<f64>(dim, ComputeEigenvectors::Yes, Par::Seq, Default::default());
        let mut memory = MemBuffer::try_new(scratch).ok()?;
        let mut values = Diag::<f64>::zeros(dim);
        let mut axes = vec![0.0; dim * dim];
        self_adjoint_evd(
            MatRef::from_column_major_slice(matrix, dim, dim),
            values.as_mut(),
            Some(MatMut::from_column_major_slice_mut(&mut axes, dim, dim)),
            Par::Seq, // one thread: the same bits whatever else runs
            MemStack::new(&mut memory),
            Default::default(),
        )
        .ok()?;
        let values: Vec<f64> = values.column_vector().iter().copied().collect();
        let least = LEAST_SHARE * values.last()?;
        let lengths: Vec<f64> = values.iter().map(|v| v.max(least).sqrt()).collect();
        lengths.iter().all(|d| *d > 0.0 && d.is_finite()).then_some(Axes { axes, lengths })
    }

    /// D, `[dim]`, ascending.
    pub(super) fn lengths(&self) -> &[f64] {
        &self.lengths
    }

    /// Axis i times its standard deviation, `[dim]`.
    pub(super) fn scaled(&self, i: usize) -> impl Iterator<Item = f64> + '_ {
        let dim = self.lengths.len();
        let length = self.lengths.get(i).copied().unwrap_or(0.0);
        self.axes.iter().skip(i * dim).take(dim).map(move |b| b * length)
    }

    /// `C^(-1/2) y = B D^-1 B^T y` for each vector.
    pub(super) fn whiten(&self, vectors: &[f64]) -> Vec<f64> {
        let dim = self.lengths.len();
        let axes = MatRef::from_column_major_slice(&self.axes, dim, dim);
        let mut along = rotate(axes.transpose(), vectors);
        for row in along.chunks_exact_mut(dim) {
            row.iter_mut().zip(&self.lengths).for_each(|(v, d)| *v /= d);
        }
        rotate(axes, &along)
    }
}

fn rotate(by: MatRef<'_, f64>, vectors: &[f64]) -> Vec<f64> {
    let (dim, count) = (by.nrows(), vectors.len() / by.nrows());
    let mut rotated = vec![0.0; vectors.len()];
    let into = MatMut::from_column_major_slice_mut(&mut rotated, dim, count);
    let from = MatRef::from_column_major_slice(vectors, dim, count);
    matmul(into, Accum::Replace, by, from, 1.0, Par::Seq);
    rotated
}

/// What follows from the rest of a state and is worked out when somebody asks; it is no part of the state.
#[derive(Clone, Debug)]
pub(super) struct Derived<T>(OnceLock<Option<T>>);

impl<T> Derived<T> {
    pub(super) fn get(&self, make: impl FnOnce() -> Option<T>) -> Option<&T> {
        self.0.get_or_init(make).as_ref()
    }

    /// If somebody has asked already.
    pub(super) fn known(&self) -> Option<&T> {
        self.0.get()?.as_ref()
    }
}

impl<T> Default for Derived<T> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

/// Two states are equal whether or not somebody has asked.
impl<T> PartialEq for Derived<T> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
