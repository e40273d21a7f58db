//! Learning rates that follow the signal: LRA-CMA-ES (Nomura, Akimoto, Ono 2023, arXiv 2304.03473, version 4's constants).
//!
//! CMA-ES makes its step; mean and covariance then go a part of the way, `eta`, which grows while steps agree with one
//! another and shrinks while they do not: where losses are noisy or the landscape is rugged.

use serde::{Deserialize, Serialize};

/// How fast mean and covariance move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LearningRates {
    /// As CMA-ES says.
    #[default]
    Fixed,
    /// By as much of it as the steps' signal is worth (LRA-CMA-ES).
    Adapted,
}

/// The signal-to-noise ratio that is aimed at, in units of `eta`.
const ALPHA: f64 = 1.4;
/// How fast eta changes.
const GAMMA: f64 = 0.1;
/// How fast a signal's averages forget: the mean's and the covariance's.
const BETA: (f64, f64) = (0.1, 0.03);

/// One parameter's steps, in local coordinates: their average, and the average of their squared length.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Signal {
    beta: f64,
    eta: f64,
    average: Vec<f64>,
    square: f64,
}

impl Signal {
    fn new(beta: f64, length: usize) -> Signal {
        Signal { beta, eta: 1.0, average: vec![0.0; length], square: 0.0 }
    }

    pub(super) fn eta(&self) -> f64 {
        self.eta
    }

    /// Takes in a step; gives the share of it that is to be made.
    pub(super) fn note(&mut self, step: &[f64]) -> f64 {
        let beta = self.beta;
        for (average, step) in self.average.iter_mut().zip(step) {
            *average = (1.0 - beta) * *average + beta * step;
        }
        let squares = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>();
        self.square = (1.0 - beta) * self.square + beta * squares(step);
        let signal = squares(&self.average);
        let noise = self.square - signal;
        let ratio = (signal - beta / (2.0 - beta) * self.square) / noise;
        let wanted = (ratio / (ALPHA * self.eta) - 1.0).clamp(-1.0, 1.0);
        if wanted.is_finite() {
            self.eta *= (f64::min(GAMMA * self.eta, beta) * wanted).exp();
        }
        self.eta = self.eta.min(1.0);
        self.eta
    }

    fn is_shaped(&self, length: usize) -> bool {
        self.average.len() == length
    }
}

/// The two parameters' signals.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Signals {
    pub(super) mean: Signal,
    pub(super) covariance: Signal,
}

impl Signals {
    /// `entries`: `dim` for a diagonal covariance, `dim * dim` for a full one.
    pub(super) fn new(dim: usize, entries: usize) -> Signals {
        Signals { mean: Signal::new(BETA.0, dim), covariance: Signal::new(BETA.1, entries) }
    }

    pub(super) fn is_shaped(&self, dim: usize, entries: usize) -> bool {
        self.mean.is_shaped(dim) && self.covariance.is_shaped(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreement_keeps_the_rate_and_noise_lowers_it() {
        let (mut steady, mut noisy) = (Signal::new(0.1, 2), Signal::new(0.1, 2));
        for k in 0..300u32 {
            steady.note(&[1.0, 0.5]);
            let side = if k.is_multiple_of(2) { 1.0 } else { -1.0 };
            noisy.note(&[side, -side]);
        }
        assert_eq!(steady.eta(), 1.0);
        assert!(noisy.eta() < 0.1, "{}", noisy.eta());
        steady.note(&[0.0, f64::NAN]);
        assert!(steady.eta().is_finite());
    }
}
