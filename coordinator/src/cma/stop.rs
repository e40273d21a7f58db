//! Reasons to end a search, named as pycma names them, with pycma 4.5's default tolerances.

use std::collections::VecDeque;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Standard deviations and path below this in every coordinate.
const TOL_X: f64 = 1e-11;
/// Range of losses, in the last generation and over the recent ones' best.
const TOL_FUN: f64 = 1e-11;
/// Range of the recent generations' best losses.
const TOL_FUN_HIST: f64 = 1e-12;
/// Consecutive flat generations that are still borne.
const TOL_FLAT_FITNESS: u32 = 1;
/// A standard deviation over its first value.
const TOL_FAC_UP_X: f64 = 1e3;
/// sigma over its first value and C's longest axis.
const TOL_UP_SIGMA: f64 = 1e20;
/// C's condition number.
const TOL_CONDITION_COV: f64 = 1e14;
/// A mean that rests: less than this far, for this many generations and this share of all of them.
const TOL_X_STAGNATION: (f64, f64, f64) = (1e-9, 20.0, 0.1);

/// Why the search may end. None of them hinders another `ask`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum StopReason {
    /// Steps have become negligible in every coordinate (1e-11).
    TolX,
    /// The losses of the last and of the recent generations differ by less than 1e-11.
    TolFun,
    /// The recent generations' best losses differ by less than 1e-12.
    TolFunHist,
    /// Three quarters of a population had the same loss, in more than one generation running.
    TolFlatFitness,
    /// A standard deviation has grown a thousandfold: the initial sigma was far too small, or the search diverges.
    TolFacUpX,
    /// sigma grows although C does not: creeping.
    TolUpSigma,
    /// C's condition number exceeds 1e14.
    TolConditionCov,
    /// The mean has moved less than 1e-9 for more than 20 generations and a tenth of all.
    TolXStagnation,
    /// A tenth of a standard deviation along a principal axis does not change the mean.
    NoEffectAxis,
    /// A fifth of a standard deviation in some coordinate does not change the mean.
    NoEffectCoord,
}

impl StopReason {
    /// pycma's name of the criterion.
    pub fn name(self) -> &'static str {
        match self {
            StopReason::TolX => "tolx",
            StopReason::TolFun => "tolfun",
            StopReason::TolFunHist => "tolfunhist",
            StopReason::TolFlatFitness => "tolflatfitness",
            StopReason::TolFacUpX => "tolfacupx",
            StopReason::TolUpSigma => "tolupsigma",
            StopReason::TolConditionCov => "tolconditioncov",
            StopReason::TolXStagnation => "tolxstagnation",
            StopReason::NoEffectAxis => "noeffectaxis",
            StopReason::NoEffectCoord => "noeffectcoord",
        }
    }
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the criteria remember of past generations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct History {
    /// Generations' best losses, newest first; about `10 + 30 dim / population` of them.
    recent: VecDeque<f64>,
    keep: usize,
    /// Worst less best loss of the last generation.
    range: f64,
    flat: u32,
    /// Where the mean last was when it moved noticeably, and in which generation.
    resting: Vec<f64>,
    moved: u64,
    generations: u64,
}

impl History {
    pub(super) fn new(mean: &[f64], population: usize) -> History {
        let keep = (10.0 + 30.0 * mean.len() as f64 / population as f64) as usize;
        let resting = mean.to_vec();
        History {
            recent: VecDeque::new(),
            keep,
            range: f64::INFINITY,
            flat: 0,
            resting,
            moved: 0,
            generations: 0,
        }
    }

    pub(super) fn is_shaped(&self, dim: usize) -> bool {
        self.resting.len() == dim
    }

    /// Takes in one generation: its losses in rank order (infinite where not finite) and the new mean.
    pub(super) fn note(&mut self, sorted: &[f64], mean: &[f64]) {
        self.generations += 1;
        let (Some(&best), Some(&worst)) = (sorted.first(), sorted.last()) else {
            return;
        };
        let upper = sorted.get(sorted.len() * 3 / 4).copied().unwrap_or(worst);
        self.flat = if best < upper { 0 } else { self.flat.saturating_add(1) };
        self.range = if worst.is_finite() { worst - best } else { f64::INFINITY };
        self.recent.push_front(best);
        self.recent.truncate(self.keep);

        let idle = (self.generations - self.moved.min(self.generations)) as f64;
        let delta = TOL_X_STAGNATION.0 * f64::max(1.0, idle / self.patience()).sqrt();
        let squares: f64 = self.resting.iter().zip(mean).map(|(a, b)| (a - b) * (a - b)).sum();
        if squares.sqrt() > delta {
            self.resting = mean.to_vec();
            self.moved = self.generations;
        }
    }

    fn patience(&self) -> f64 {
        TOL_X_STAGNATION.1 + TOL_X_STAGNATION.2 * self.generations as f64
    }

    /// The reasons that losses and the mean's way give.
    pub(super) fn reasons(&self) -> Vec<StopReason> {
        let best = self.recent.iter().copied().fold(f64::INFINITY, f64::min);
        let worst = self.recent.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let range = if worst.is_finite() { worst - best } else { f64::INFINITY };
        let idle = self.generations.saturating_sub(self.moved) as f64;
        let mut found = Vec::new();
        let mut add = |reason, holds: bool| holds.then(|| found.push(reason));
        add(StopReason::TolFun, self.range < TOL_FUN && range < TOL_FUN);
        add(StopReason::TolFunHist, self.recent.len() > 9 && range < TOL_FUN_HIST);
        add(StopReason::TolFlatFitness, self.flat > TOL_FLAT_FITNESS);
        add(StopReason::TolXStagnation, idle > self.patience());
        found
    }
}

/// What the criteria look at in the distribution.
pub(super) struct Distribution<'a> {
    pub(super) mean: &'a [f64],
    pub(super) sigma: f64,
    pub(super) sigma_start: f64,
    pub(super) path_c: &'a [f64],
    /// Roots of C's diagonal, `[dim]`.
    pub(super) deviations: &'a [f64],
    /// D, ascending.
    pub(super) lengths: &'a [f64],
    /// One principal axis times its standard deviation, `[dim]`.
    pub(super) axis: &'a [f64],
}

impl Distribution<'_> {
    /// The reasons that the distribution gives.
    pub(super) fn reasons(&self) -> Vec<StopReason> {
        let sigma = self.sigma;
        let (Some(shortest), Some(longest)) = (self.lengths.first(), self.lengths.last()) else {
            return Vec::new();
        };
        let stds = || self.deviations.iter().map(|d| sigma * d);
        let unmoved = |(m, step): (&f64, f64)| *m == *m + step;
        let small = stds().all(|s| s < TOL_X) && self.path_c.iter().all(|p| sigma * p.abs() < TOL_X);
        let mut found = Vec::new();
        let mut add = |reason, holds: bool| holds.then(|| found.push(reason));
        add(StopReason::TolX, small);
        add(StopReason::TolFacUpX, stds().any(|s| s > self.sigma_start * TOL_FAC_UP_X));
        add(StopReason::TolUpSigma, sigma / longest > self.sigma_start * TOL_UP_SIGMA);
        add(StopReason::TolConditionCov, *longest > TOL_CONDITION_COV.sqrt() * shortest);
        add(
            StopReason::NoEffectAxis,
            self.mean.iter().zip(self.axis.iter().map(|a| 0.1 * sigma * a)).all(unmoved),
        );
        add(StopReason::NoEffectCoord, self.mean.iter().zip(stds().map(|s| 0.2 * s)).any(unmoved));
        found
    }
}
