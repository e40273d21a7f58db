//! The shape that candidates are drawn with: a scale for each coordinate, and between the coordinates a full covariance, a
//! few directions, or nothing.

use serde::{Deserialize, Serialize};

use super::covariance::Covariance;
use super::limited::Directions;
use super::params::Params;
use super::parts::{MOVED, of_parts};
use super::{Options, Variant};

/// Exponent of a scale's change in one generation, at most; only candidates that were put in from far away reach it.
const LARGEST_CHANGE: f64 = 5.0;
/// In the first generations pycma lets deviations exceed their maximum by the slope on C's first diagonal.
const SLOPE: f64 = 1e-4;

/// What is learnt between the coordinates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Model {
    /// Nothing, or nothing yet.
    Identity,
    /// A covariance matrix.
    Full(Covariance),
    /// A few directions.
    Limited(Directions),
}

/// The distribution but for its mean and step size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Geometry {
    dim: usize,
    /// What each coordinate is multiplied with, now and at first, `[dim]`; none: 1.
    scales: Option<Scales>,
    model: Model,
    /// Coordinates' largest standard deviations, `[dim]`.
    widest: Option<Vec<f64>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Scales {
    now: Vec<f64>,
    first: Vec<f64>,
}

impl Geometry {
    pub(super) fn new(options: &Options, variant: Variant, widest: Option<Vec<f64>>) -> Geometry {
        let dim = options.dim;
        let model = match variant {
            Variant::Full | Variant::Auto => Model::Full(Covariance::new(dim)),
            Variant::Separable | Variant::DiagonalStart { .. } => Model::Identity,
            Variant::LimitedMemory => Model::Limited(Directions::new(dim)),
        };
        let first = options.stds.clone();
        let needed = first.is_some() || widest.is_some() || matches!(model, Model::Identity);
        let scales = needed.then(|| {
            let first = first.unwrap_or_else(|| vec![1.0; dim]);
            Scales { now: first.clone(), first }
        });
        Geometry { dim, scales, model, widest }
    }

    pub(super) fn model(&self) -> &Model {
        &self.model
    }

    pub(super) fn model_mut(&mut self) -> &mut Model {
        &mut self.model
    }

    /// Makes way for a full covariance; the scales stay.
    pub(super) fn begin_full(&mut self) {
        if self.model == Model::Identity {
            self.model = Model::Full(Covariance::new(self.dim));
        }
    }

    /// Whether what is learnt is in the scales alone.
    pub(super) fn is_diagonal(&self) -> bool {
        matches!(self.model, Model::Identity)
    }

    /// Candidates, each from as many standard normal numbers as it has variables.
    pub(super) fn candidates(&self, normals: &[f64], mean: &[f64], sigma: f64) -> Vec<Vec<f64>> {
        let each = if self.is_diagonal() { MOVED } else { self.dim.max(MOVED) };
        of_parts(normals, self.dim, each * normals.len(), |normals| {
            let steps = self.steps(normals); // ~ N(0, C) (eq. 39, with C's Cholesky factor)
            let around = |y: &[f64]| mean.iter().zip(y).map(|(m, y)| m + sigma * y).collect();
            steps.chunks_exact(self.dim).map(around).collect() // ~ N(m, sigma^2 C) (eq. 40)
        })
    }

    /// Steps, `[count * dim]`, from as many standard normal numbers.
    fn steps(&self, normals: &[f64]) -> Vec<f64> {
        let mut steps = match &self.model {
            Model::Identity => normals.to_vec(),
            Model::Full(covariance) => covariance.stretch(normals),
            Model::Limited(directions) => directions.stretch(normals),
        };
        if let Some(scales) = &self.scales {
            for step in steps.chunks_exact_mut(self.dim) {
                step.iter_mut().zip(&scales.now).for_each(|(y, scale)| *y *= scale);
            }
        }
        steps
    }

    /// A coordinate's scale.
    pub(super) fn scale(&self, at: usize) -> f64 {
        self.scales.as_ref().and_then(|scales| scales.now.get(at)).copied().unwrap_or(1.0)
    }

    /// A vector without the coordinates' scales.
    pub(super) fn unscaled(&self, vector: &[f64]) -> Vec<f64> {
        match &self.scales {
            None => vector.to_vec(),
            Some(scales) => vector.iter().zip(&scales.now).map(|(v, scale)| v / scale).collect(),
        }
    }

    /// What has the standard normal distribution where `unscaled`, without the coordinates' scales, has the candidates'
    /// at step size 1.
    pub(super) fn whiten(&self, unscaled: &[f64]) -> Vec<f64> {
        match &self.model {
            Model::Identity => unscaled.to_vec(),
            Model::Full(covariance) => covariance.whiten(unscaled),
            Model::Limited(directions) => directions.whiten(unscaled),
        }
    }

    /// Learns scales: each grows by the factor `exp((sum_k w_k (v_k^2 - 1)) / 2)`, with `vectors` that are standard normal
    /// but for selection (pycma's `DiagonalDecoding`).
    pub(super) fn learn_scales(&mut self, rates: &[f64], vectors: &[f64]) {
        let Some(scales) = &mut self.scales else {
            return;
        };
        let sum: f64 = rates.iter().sum();
        for (i, scale) in scales.now.iter_mut().enumerate() {
            let squares = vectors.iter().skip(i).step_by(self.dim).zip(rates);
            let exponent = (squares.map(|(v, rate)| rate * (v * v)).sum::<f64>() - sum) / 2.0;
            *scale *= exponent.clamp(-LARGEST_CHANGE, LARGEST_CHANGE).exp();
        }
    }

    /// Sets scales; only where there are any.
    pub(super) fn set_scales(&mut self, values: impl Iterator<Item = f64>) {
        if let Some(scales) = &mut self.scales {
            scales.now.iter_mut().zip(values).for_each(|(scale, value)| *scale = value);
        }
    }

    /// Keeps standard deviations below their largest.
    pub(super) fn narrow(&mut self, sigma: f64, generation: u64) {
        let Some(widest) = &self.widest else {
            return;
        };
        let leave = if generation <= 2 { SLOPE.exp() } else { 1.0 };
        let deviations = self.deviations();
        let Some(scales) = &mut self.scales else {
            return;
        };
        for ((scale, deviation), widest) in scales.now.iter_mut().zip(deviations).zip(widest) {
            let std = sigma * deviation;
            if std > widest * leave {
                *scale *= widest / std;
            }
        }
    }

    /// Coordinates' standard deviations at step size 1, `[dim]`. Of directions only the scales count: they are too few
    /// to matter to a coordinate.
    pub(super) fn deviations(&self) -> Vec<f64> {
        match &self.model {
            Model::Full(covariance) => {
                covariance.variances().enumerate().map(|(i, c)| self.scale(i) * c.sqrt()).collect()
            }
            Model::Identity | Model::Limited(_) => (0..self.dim).map(|i| self.scale(i)).collect(),
        }
    }

    /// Their values at the start, `[dim]`.
    pub(super) fn first_scale(&self, at: usize) -> f64 {
        self.scales.as_ref().and_then(|scales| scales.first.get(at)).copied().unwrap_or(1.0)
    }

    /// Shortest and longest principal axis at step size 1, without the scales.
    pub(super) fn extremes(&self) -> (f64, f64) {
        match &self.model {
            Model::Full(covariance) => {
                let lengths = covariance.lengths();
                (lengths.first().copied().unwrap_or(1.0), lengths.last().copied().unwrap_or(1.0))
            }
            Model::Identity | Model::Limited(_) => (1.0, 1.0),
        }
    }

    /// Two lengths that all principal axes' lie between, as in [`Geometry::extremes`], where that is seen with little work.
    pub(super) fn extremes_within(&self) -> Option<(f64, f64)> {
        match &self.model {
            Model::Full(covariance) => covariance.lengths_within(),
            Model::Identity | Model::Limited(_) => Some((1.0, 1.0)),
        }
    }

    /// One principal axis times its standard deviation, `[dim]`, where there are any.
    pub(super) fn axis(&self, i: u64) -> Option<Vec<f64>> {
        let Model::Full(covariance) = &self.model else {
            return None;
        };
        Some(covariance.scaled_axis(i).enumerate().map(|(at, b)| self.scale(at) * b).collect())
    }

    /// The covariance's entry in row i and column j, without the coordinates' scales where `scaled` is false; 0 outside.
    pub(super) fn entry(&self, i: usize, j: usize) -> f64 {
        match &self.model {
            Model::Full(covariance) => covariance.entry(i, j),
            _ if i == j && i < self.dim => 1.0,
            _ => 0.0,
        }
    }

    pub(super) fn is_finite(&self) -> bool {
        let scales = (0..self.dim).all(|i| self.scale(i).is_finite() && self.scale(i) > 0.0);
        scales
            && match &self.model {
                Model::Identity => true,
                // an entry of C cannot overflow before its row's diagonal entry does
                Model::Full(covariance) => covariance.variances().all(|c| c.is_finite()),
                Model::Limited(directions) => directions.is_finite(),
            }
    }

    /// Whether the parts fit one another; false only for bytes that we did not write.
    pub(super) fn is_shaped(&self, params: &Params) -> bool {
        let dim = params.dim;
        let scales = self.scales.as_ref().is_none_or(|s| s.now.len() == dim && s.first.len() == dim);
        let model = match &self.model {
            Model::Identity => self.scales.is_some(),
            Model::Full(covariance) => covariance.is_shaped(dim),
            Model::Limited(directions) => directions.is_shaped(dim),
        };
        let widest = self.widest.as_ref().is_none_or(|widest| widest.len() == dim && self.scales.is_some());
        self.dim == dim && scales && model && widest
    }
}
