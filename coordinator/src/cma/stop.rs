//! Reasons to end a search, named as pycma names them, with pycma 4.5's default tolerances.

use std::collections::VecDeque;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Error;
use super::geometry::Geometry;

/// When to stop: pycma's names, meanings and defaults. A tolerance of 0 never stops a search, but for
/// `tolflatfitness`; infinity is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stopping {
    /// Generations; `None`: `100 + 150 (dim + 3)^2 / sqrt(population)`.
    pub maxiter: Option<u64>,
    /// Candidates whose losses were told: no generation begins when as many were; `None`: no limit.
    pub maxfevals: Option<u64>,
    /// A loss that is good enough; `None`: none is.
    pub ftarget: Option<f64>,
    /// Standard deviations and path below this in every coordinate.
    pub tolx: f64,
    /// Range of losses, in the last generation and over the recent ones' best.
    pub tolfun: f64,
    /// Range of the recent generations' best losses.
    pub tolfunhist: f64,
    /// Range of a generation's losses, as a share of how far their median has come down.
    pub tolfunrel: f64,
    /// Generations over which best and median losses have not improved; `None`: `100 + 100 dim^1.5 / population`; 0:
    /// never.
    pub tolstagnation: Option<u64>,
    /// Consecutive flat generations that are still borne.
    pub tolflatfitness: u32,
    /// A standard deviation over its first value.
    pub tolfacupx: f64,
    /// sigma over its first value and C's longest axis.
    pub tolupsigma: f64,
    /// C's condition number.
    pub tolconditioncov: f64,
    /// A mean that rests: less than this far, for this many generations and this share of all of them.
    pub tolxstagnation: (f64, f64, f64),
}

impl Default for Stopping {
    fn default() -> Stopping {
        Stopping {
            maxiter: None,
            maxfevals: None,
            ftarget: None,
            tolx: 1e-11,
            tolfun: 1e-11,
            tolfunhist: 1e-12,
            tolfunrel: 0.0,
            tolstagnation: None,
            tolflatfitness: 1,
            tolfacupx: 1e3,
            tolupsigma: 1e20,
            tolconditioncov: 1e14,
            tolxstagnation: (1e-9, 20.0, 0.1),
        }
    }
}

impl Stopping {
    /// Generations that a search may have.
    pub(super) fn most_generations(&self, dim: usize, population: usize) -> u64 {
        let (n, population) = (dim as f64, population as f64);
        self.maxiter.unwrap_or((100.0 + (150.0 * (n + 3.0).powi(2) / population.sqrt()).floor()) as u64)
    }

    /// An error unless every tolerance is a number that is not negative.
    pub(super) fn check(&self) -> Result<(), Error> {
        let tolerances = [
            ("tolx", self.tolx),
            ("tolfun", self.tolfun),
            ("tolfunhist", self.tolfunhist),
            ("tolfunrel", self.tolfunrel),
            ("tolfacupx", self.tolfacupx),
            ("tolupsigma", self.tolupsigma),
            ("tolconditioncov", self.tolconditioncov),
            ("tolxstagnation", self.tolxstagnation.0),
            ("tolxstagnation's generations", self.tolxstagnation.1),
            ("tolxstagnation's share", self.tolxstagnation.2),
        ];
        let wrong = tolerances.into_iter().find(|(_, value)| value.is_nan() || *value < 0.0);
        wrong.map_or(Ok(()), |(name, found)| Err(Error::Tolerance { name, found }))?;
        match self.ftarget {
            Some(target) if target.is_nan() => Err(Error::NotFinite("ftarget")),
            _ => Ok(()),
        }
    }
}

/// Why the search may end. None of them hinders another `ask`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum StopReason {
    /// A loss was as good as it need be.
    FTarget,
    /// As many candidates were evaluated as may be.
    MaxFEvals,
    /// As many generations were made as may be.
    MaxIter,
    /// Steps have become negligible in every coordinate.
    TolX,
    /// The losses of the last and of the recent generations differ by less than `tolfun`.
    TolFun,
    /// The recent generations' best losses differ by less than `tolfunhist`.
    TolFunHist,
    /// A generation's losses differ by less than a share of how far their median has come down.
    TolFunRel,
    /// Neither the best nor the median losses have improved for long.
    TolStagnation,
    /// Three quarters of a population had the same loss, in more than `tolflatfitness` generations running.
    TolFlatFitness,
    /// A standard deviation has grown by more than `tolfacupx`: the initial sigma was far too small, or the search diverges.
    TolFacUpX,
    /// sigma grows although C does not: creeping.
    TolUpSigma,
    /// C's condition number exceeds `tolconditioncov`.
    TolConditionCov,
    /// The mean has rested for more than 20 generations and a tenth of all.
    TolXStagnation,
    /// A tenth of a standard deviation along a principal axis does not change the mean.
    NoEffectAxis,
    /// A fifth of a standard deviation in some coordinate does not change the mean.
    NoEffectCoord,
    /// The distribution is no longer made of finite numbers, or has no decomposition: a [`Restarting`](super::Restarting)
    /// takes it for an end.
    Diverged,
}

impl StopReason {
    /// pycma's name of the criterion.
    pub fn name(self) -> &'static str {
        match self {
            StopReason::FTarget => "ftarget",
            StopReason::MaxFEvals => "maxfevals",
            StopReason::MaxIter => "maxiter",
            StopReason::TolX => "tolx",
            StopReason::TolFun => "tolfun",
            StopReason::TolFunHist => "tolfunhist",
            StopReason::TolFunRel => "tolfunrel",
            StopReason::TolStagnation => "tolstagnation",
            StopReason::TolFlatFitness => "tolflatfitness",
            StopReason::TolFacUpX => "tolfacupx",
            StopReason::TolUpSigma => "tolupsigma",
            StopReason::TolConditionCov => "tolconditioncov",
            StopReason::TolXStagnation => "tolxstagnation",
            StopReason::NoEffectAxis => "noeffectaxis",
            StopReason::NoEffectCoord => "noeffectcoord",
            StopReason::Diverged => "diverged",
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
    stopping: Stopping,
    dim: usize,
    population: usize,
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
    /// Every fifth generation's best and median loss, newest first.
    long: VecDeque<(f64, f64)>,
    /// The first generation's median loss, and the smallest since.
    medians: Option<(f64, f64)>,
    /// The generation that the best loss is of.
    improved: u64,
}

/// Generations between two that tolstagnation looks at, and how many of these it remembers.
const LONG: (u64, usize) = (5, 20_000);

impl History {
    pub(super) fn new(stopping: &Stopping, mean: &[f64], population: usize) -> History {
        let (dim, resting) = (mean.len(), mean.to_vec());
        let keep = (10.0 + 30.0 * dim as f64 / population as f64) as usize;
        History {
            stopping: *stopping,
            dim,
            population,
            recent: VecDeque::new(),
            keep,
            range: f64::INFINITY,
            flat: 0,
            resting,
            moved: 0,
            generations: 0,
            long: VecDeque::new(),
            medians: None,
            improved: 0,
        }
    }

    pub(super) fn stopping(&self) -> &Stopping {
        &self.stopping
    }

    pub(super) fn is_shaped(&self, dim: usize) -> bool {
        self.resting.len() == dim && self.dim == dim && self.population > 0
    }

    /// Takes in one generation: its losses in rank order (infinite where not finite), the new mean, and whether the best
    /// loss of all is among them.
    pub(super) fn note(&mut self, sorted: &[f64], mean: &[f64], improved: bool) {
        self.generations += 1;
        let (Some(&best), Some(&worst)) = (sorted.first(), sorted.last()) else {
            return;
        };
        let upper = sorted.get(sorted.len() * 3 / 4).copied().unwrap_or(worst);
        self.flat = if best < upper { 0 } else { self.flat.saturating_add(1) };
        self.range = if worst.is_finite() { worst - best } else { f64::INFINITY };
        self.recent.push_front(best);
        self.recent.truncate(self.keep);
        if improved {
            self.improved = self.generations;
        }
        let median = middle(sorted);
        if self.generations.is_multiple_of(LONG.0) {
            self.long.push_front((best, median));
            self.long.truncate(LONG.1);
        }
        let (first, least) = self.medians.unwrap_or((median, median));
        self.medians = Some((first, least.min(median)));

        let idle = (self.generations - self.moved.min(self.generations)) as f64;
        let delta = self.stopping.tolxstagnation.0 * f64::max(1.0, idle / self.patience()).sqrt();
        let squares: f64 = self.resting.iter().zip(mean).map(|(a, b)| (a - b) * (a - b)).sum();
        if squares.sqrt() > delta {
            self.resting = mean.to_vec();
            self.moved = self.generations;
        }
    }

    fn patience(&self) -> f64 {
        let (_, generations, share) = self.stopping.tolxstagnation;
        generations + share * self.generations as f64
    }

    /// The reasons that losses, the budget and the mean's way give.
    pub(super) fn reasons(&self, best_loss: Option<f64>, evaluations: u64) -> Vec<StopReason> {
        let best = self.recent.iter().copied().fold(f64::INFINITY, f64::min);
        let worst = self.recent.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let range = if worst.is_finite() { worst - best } else { f64::INFINITY };
        let idle = self.generations.saturating_sub(self.moved) as f64;
        let stopping = &self.stopping;
        let come_down = self.medians.map_or(0.0, |(first, least)| first - least);
        let mut found = Vec::new();
        let mut add = |reason, holds: bool| holds.then(|| found.push(reason));
        add(
            StopReason::FTarget,
            stopping.ftarget.zip(best_loss).is_some_and(|(target, best)| best <= target),
        );
        add(StopReason::MaxFEvals, stopping.maxfevals.is_some_and(|most| evaluations >= most));
        add(StopReason::MaxIter, self.generations >= stopping.most_generations(self.dim, self.population));
        add(StopReason::TolFun, self.range < stopping.tolfun && range < stopping.tolfun);
        add(StopReason::TolFunHist, self.recent.len() > 9 && range < stopping.tolfunhist);
        add(StopReason::TolFunRel, self.range < stopping.tolfunrel * come_down);
        add(StopReason::TolStagnation, self.stagnates());
        add(StopReason::TolFlatFitness, self.flat > stopping.tolflatfitness);
        add(StopReason::TolXStagnation, idle > self.patience());
        found
    }

    /// pycma's rule: the medians of the newest tenth (or more) of best and of median losses are no better than those of
    /// the tenth before it.
    fn stagnates(&self) -> bool {
        let (n, population) = (self.dim as f64, self.population as f64);
        let wanted = self.stopping.tolstagnation.unwrap_or((100.0 + 100.0 * n.powf(1.5) / population) as u64);
        let count = f64::max(wanted as f64 / 5.0 / 2.0, self.long.len() as f64 / 10.0) as usize;
        let early = self.generations as f64 <= n * (5.0 + 100.0 / population);
        let improved = (self.generations - self.improved.min(self.generations)) as f64 <= wanted as f64 / 2.0;
        if wanted == 0 || early || improved || self.long.len() <= 100 || 2 * count >= self.long.len() {
            return false;
        }
        let no_better = |of: fn(&(f64, f64)) -> f64| {
            let part = |skip: usize| {
                let mut part: Vec<f64> = self.long.iter().skip(skip).take(count).map(of).collect();
                part.sort_by(f64::total_cmp);
                middle(&part)
            };
            part(0) >= part(count)
        };
        no_better(|(_, median)| *median) && no_better(|(best, _)| *best)
    }
}

/// The median of sorted numbers.
fn middle(sorted: &[f64]) -> f64 {
    let at = sorted.len() / 2;
    let upper = sorted.get(at).copied().unwrap_or(f64::INFINITY);
    if sorted.len() % 2 == 1 {
        return upper;
    }
    let lower = sorted.get(at.wrapping_sub(1)).copied().unwrap_or(upper);
    if lower == upper { upper } else { (lower + upper) / 2.0 }
}

/// What the criteria look at in the distribution.
pub(super) struct Distribution<'a> {
    pub(super) mean: &'a [f64],
    pub(super) sigma: f64,
    pub(super) sigma_start: f64,
    pub(super) path_c: &'a [f64],
    pub(super) geometry: &'a Geometry,
    /// Completed generations.
    pub(super) generation: u64,
}

impl Distribution<'_> {
    /// The reasons that the distribution gives.
    pub(super) fn reasons(&self, stopping: &Stopping) -> Vec<StopReason> {
        let (sigma, geometry) = (self.sigma, self.geometry);
        let deviations = geometry.deviations();
        let stds = || deviations.iter().map(|d| sigma * d);
        let unmoved = |(m, step): (&f64, f64)| *m == *m + step;
        let tiny = |(at, p): (usize, &f64)| sigma * (geometry.scale(at) * p.abs()) < stopping.tolx;
        let small = stds().all(|s| s < stopping.tolx) && self.path_c.iter().enumerate().all(tiny);
        let first = |at: usize| self.sigma_start * geometry.first_scale(at);
        let mut found = Vec::new();
        let mut add = |reason, holds: bool| holds.then(|| found.push(reason));
        add(StopReason::TolX, small);
        add(
            StopReason::TolFacUpX,
            stds().enumerate().any(|(at, s)| s > first(at) * stopping.tolfacupx && stopping.tolfacupx > 0.0),
        );
        add(StopReason::NoEffectCoord, self.mean.iter().zip(stds().map(|s| 0.2 * s)).any(unmoved));
        if !self.is_plain(stopping) {
            let (shortest, longest) = geometry.extremes();
            let creeping = sigma / longest > self.sigma_start * stopping.tolupsigma;
            add(StopReason::TolUpSigma, creeping && stopping.tolupsigma > 0.0);
            let crooked = longest > stopping.tolconditioncov.sqrt() * shortest;
            add(StopReason::TolConditionCov, crooked && stopping.tolconditioncov > 0.0);
            let still =
                |axis: Vec<f64>| self.mean.iter().zip(axis.iter().map(|a| 0.1 * sigma * a)).all(unmoved);
            add(StopReason::NoEffectAxis, geometry.axis(self.generation).is_some_and(still));
        }
        found
    }

    /// Whether none of the reasons that lie in C's principal axes can hold, as far as bounds of the axes' lengths tell.
    fn is_plain(&self, stopping: &Stopping) -> bool {
        let Some((shortest, longest)) = self.geometry.extremes_within() else {
            return false;
        };
        let creeping = self.sigma / shortest > self.sigma_start * stopping.tolupsigma;
        let crooked = longest > stopping.tolconditioncov.sqrt() * shortest;
        // an axis has an entry of this size at least in some coordinate; half of it, for what rounding may take
        let entry = shortest / (self.mean.len() as f64).sqrt() / 2.0;
        let moves = |(at, m): (usize, &f64)| {
            let step = 0.1 * self.sigma * self.geometry.scale(at) * entry;
            *m != *m + step && *m != *m - step
        };
        let plain = |tolerance: f64, holds: bool| !holds || tolerance == 0.0;
        plain(stopping.tolupsigma, creeping)
            && plain(stopping.tolconditioncov, crooked)
            && self.mean.iter().enumerate().all(moves)
    }
}
