//! The search's state: ask for candidates, tell their losses, generation by generation.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::bounds::Walls;
use super::error::{all_finite, finite, length};
use super::geometry::{Geometry, Model};
use super::learning::Signals;
use super::params::Params;
use super::stop::{Distribution, History, StopReason};
use super::stored::Version;
use super::{Error, LearningRates, Options, Variant};

mod injection;
mod update;

use injection::Injected;

/// Everything that CMA-ES knows. Serialised it loses no bit: a state that is read back goes on as the one written
/// would have. Bytes of another version or shape are refused on reading.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct State {
    version: Version,
    params: Params,
    variant: Variant,
    /// Completed generations, g.
    generation: u64,
    /// Whether candidates are out whose losses were not told.
    asked: bool,
    /// m, `[dim]`; with bounds it is where the search is, not its image.
    mean: Vec<f64>,
    sigma: f64,
    sigma_start: f64,
    /// p_sigma, `[dim]`.
    path_sigma: Vec<f64>,
    /// p_c, `[dim]`.
    path_c: Vec<f64>,
    geometry: Geometry,
    bounded: Option<Bounded>,
    /// What is to be among the next candidates.
    injected: Vec<Injected>,
    /// How many of them are among the candidates that are out: the first ones.
    placed: usize,
    signals: Option<Signals>,
    best: Option<Best>,
    /// Whether the best candidate's loss is no longer believed: the next generation has it anew.
    doubted: bool,
    /// Losses that were not finite.
    bad_losses: u64,
    history: History,
}

/// The best candidate told so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Best {
    candidate: Vec<f64>,
    loss: f64,
}

/// Bounds, and the points whose images were asked to be evaluated, `[population][dim]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Bounded {
    walls: Walls,
    sent: Vec<Vec<f64>>,
}

/// A candidate with its loss and its place in the population.
struct Ranked<'a> {
    index: usize,
    x: &'a [f64],
    loss: f64,
}

/// What a generation's losses will have made of a state.
#[derive(Clone, Debug, PartialEq)]
pub struct Foreseen {
    /// The mean, `[dim]`.
    pub mean: Vec<f64>,
    /// The best candidate and its loss; none while no loss was finite.
    pub best: Option<(Vec<f64>, f64)>,
}

impl State {
    /// A search that has not begun.
    ///
    /// # Errors
    /// Options that no search can start from, or that take more memory than they allow.
    pub fn new(options: &Options) -> Result<State, Error> {
        options.check()?;
        let variant = options.choice().variant;
        let params = Params::of(options, variant);
        let dim = params.dim;
        let walls = options.bounds.as_ref().map(|bounds| Walls::new(bounds, dim)).transpose()?;
        let start = options.mean.clone().unwrap_or_else(|| vec![0.0; dim]);
        let mean = walls.as_ref().map_or_else(|| start.clone(), |walls| walls.preimage(&start));
        let widest = walls.as_ref().map(|walls| walls.widest().collect());
        let mut geometry = Geometry::new(options, variant, widest);
        geometry.narrow(options.sigma, 0);
        let entries = if geometry.is_diagonal() { dim } else { dim * dim };
        let adapted = options.learning == LearningRates::Adapted;
        Ok(State {
            version: Version,
            variant,
            generation: 0,
            asked: false,
            sigma: options.sigma,
            sigma_start: options.sigma,
            path_sigma: vec![0.0; dim],
            path_c: vec![0.0; dim],
            geometry,
            bounded: walls.map(|walls| Bounded { walls, sent: Vec::new() }),
            injected: Vec::new(),
            placed: 0,
            signals: adapted.then(|| Signals::new(dim, entries)),
            best: None,
            doubted: false,
            bad_losses: 0,
            history: History::new(&options.stopping, &mean, params.population),
            mean,
            params,
        })
    }

    /// The next candidates, `[population][dim]`, from standard normal numbers, `[population * dim]`, a candidate's
    /// after another's. Decomposes C when it is due. Asking again before `tell`, with the same normals, gives the
    /// same candidates.
    ///
    /// # Errors
    /// Wrong number of normals, or not finite; [`Error::Decomposition`], [`Error::Diverged`].
    pub fn ask(&mut self, normals: &[f64]) -> Result<Vec<Vec<f64>>, Error> {
        let Params { dim, population, lazy_gap, .. } = self.params;
        length("normals", normals.len(), population * dim)?;
        finite("the normals", normals)?;
        // adapted learning rates measure steps with C's root as it is
        let lazy_gap = if self.signals.is_some() { 0.0 } else { lazy_gap };
        if let Model::Full(covariance) = self.geometry.model_mut() {
            covariance.refresh(lazy_gap).ok_or(Error::Decomposition { generation: self.generation })?;
        }
        let mut candidates = self.geometry.candidates(normals, &self.mean, self.sigma);
        let placed = self.place_injected(normals, &mut candidates);
        let finite = candidates.iter().all(|x| all_finite(x));
        self.or_diverged("a candidate", finite)?;
        (self.asked, self.placed) = (true, placed);
        Ok(match &mut self.bounded {
            None => candidates,
            Some(bounded) => {
                let images = candidates.iter().map(|x| bounded.walls.image(x)).collect();
                bounded.sent = candidates;
                images
            }
        })
    }

    /// Learns from the losses of the candidates that `ask` gave, in the same order. A loss that is not finite ranks
    /// last and is counted; equal losses rank by index. What the caller changed in a candidate is learnt as if it had been
    /// drawn.
    ///
    /// # Errors
    /// No `ask` before; another number of candidates, losses or variables; a candidate that is not finite or outside the
    /// bounds; [`Error::Diverged`], and with adapted learning rates [`Error::Decomposition`].
    pub fn tell(&mut self, candidates: &[Vec<f64>], losses: &[f64]) -> Result<(), Error> {
        self.check_told(candidates, losses)?;
        let points = self.points(candidates);
        let ranked = rank(&points, losses);
        self.asked = false;
        self.generation += 1;
        if self.params.start.is_some_and(|(last, _)| self.generation > last) {
            self.geometry.begin_full();
        }
        self.learn(&ranked)?;

        let sorted: Vec<f64> = ranked.iter().map(|ranked| ranked.loss).collect();
        self.bad_losses += losses.iter().filter(|loss| !loss.is_finite()).count() as u64;
        self.injected.drain(..self.placed.min(self.injected.len()));
        self.placed = 0;
        let better = self.better(candidates, &ranked).map(|(x, loss)| (x.to_vec(), loss));
        self.history.note(&sorted, &self.mean, better.is_some());
        if let Some((candidate, loss)) = better {
            self.best = Some(Best { candidate, loss });
        }
        self.doubted = false;
        if let Some(bounded) = &mut self.bounded {
            bounded.sent = Vec::new();
        }
        self.check_finite()
    }

    /// What [`State::tell`] will make of the mean and of the best candidate: neither needs the covariance, so whoever
    /// waits for them alone need not wait for the rest.
    ///
    /// # Errors
    /// As [`State::tell`], but for what shows only there.
    pub fn foresee(&self, candidates: &[Vec<f64>], losses: &[f64]) -> Result<Foreseen, Error> {
        self.check_told(candidates, losses)?;
        let points = self.points(candidates);
        let ranked = rank(&points, losses);
        let told = || self.best.as_ref().map(|best| (best.candidate.clone(), best.loss));
        let best = self.better(candidates, &ranked).map(|(x, loss)| (x.to_vec(), loss)).or_else(told);
        let mut mean = self.recombine(&ranked);
        if let Some(signals) = &self.signals {
            let shift: Vec<f64> = mean.iter().zip(&self.mean).map(|(m, old)| m - old).collect();
            let eta = signals.mean.clone().note(&self.local(&shift, self.sigma));
            mean = partly(&self.mean, &shift, eta);
        }
        Ok(Foreseen { mean: self.image(&mean), best })
    }

    /// The best candidate told so far and its loss; the first of equals; none while no loss was finite.
    pub fn best(&self) -> Option<(&[f64], f64)> {
        self.best.as_ref().map(|best| (best.candidate.as_slice(), best.loss))
    }

    /// The distribution's mean m, `[dim]`; with bounds it may lie outside, and [`State::favourite`] is its image.
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// The mean as it would be evaluated, `[dim]`: where the search believes the best place to be (pycma's `xfavorite`).
    pub fn favourite(&self) -> Vec<f64> {
        self.image(&self.mean)
    }

    /// The step size.
    pub fn sigma(&self) -> f64 {
        self.sigma
    }

    /// Completed generations.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Candidates whose losses were told.
    pub fn evaluations(&self) -> u64 {
        self.generation * self.params.population as u64
    }

    /// Candidates a generation.
    pub fn population(&self) -> usize {
        self.params.population
    }

    /// Number of variables.
    pub fn dim(&self) -> usize {
        self.params.dim
    }

    /// What of the covariance is learnt; never [`Variant::Auto`].
    pub fn variant(&self) -> Variant {
        self.variant
    }

    /// The strategy's constants.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The step size's evolution path p_sigma, `[dim]`.
    pub fn path_sigma(&self) -> &[f64] {
        &self.path_sigma
    }

    /// The rank-one evolution path p_c, `[dim]`.
    pub fn path_c(&self) -> &[f64] {
        &self.path_c
    }

    /// C's entry in row i and column j, without the coordinates' [scales](State::scale); 0 outside of it.
    pub fn covariance(&self, i: usize, j: usize) -> f64 {
        self.geometry.entry(i, j)
    }

    /// What coordinate i is multiplied with after C's root: learnt in the separable variant, else as the options say.
    pub fn scale(&self, i: usize) -> f64 {
        self.geometry.scale(i)
    }

    /// Coordinates' standard deviations, `[dim]` (pycma's `es.stds`).
    pub fn stds(&self) -> Vec<f64> {
        self.geometry.deviations().iter().map(|d| self.sigma * d).collect()
    }

    /// Losses told that were not finite.
    pub fn bad_losses(&self) -> u64 {
        self.bad_losses
    }

    /// How often C was so badly conditioned that it had to be repaired before candidates could be drawn.
    pub fn repairs(&self) -> u64 {
        match self.geometry.model() {
            Model::Full(covariance) => covariance.repairs(),
            Model::Identity | Model::Limited(_) => 0,
        }
    }

    /// Shares of a step that mean and covariance make, where learning rates are adapted.
    pub fn learning_rates(&self) -> Option<(f64, f64)> {
        self.signals.as_ref().map(|signals| (signals.mean.eta(), signals.covariance.eta()))
    }

    /// Why the search may end, in a fixed order; empty while it should go on, and before the first `tell`.
    pub fn stop(&self) -> Vec<StopReason> {
        if self.generation == 0 {
            return Vec::new();
        }
        let distribution = Distribution {
            mean: &self.mean,
            sigma: self.sigma,
            sigma_start: self.sigma_start,
            path_c: &self.path_c,
            geometry: &self.geometry,
            generation: self.generation,
        };
        let best = self.best.as_ref().map(|best| best.loss);
        let mut reasons = self.history.reasons(best, self.evaluations());
        reasons.extend(distribution.reasons(self.history.stopping()));
        reasons.sort();
        reasons
    }

    fn check_told(&self, candidates: &[Vec<f64>], losses: &[f64]) -> Result<(), Error> {
        if !self.asked {
            return Err(Error::NotAsked);
        }
        length("candidates", candidates.len(), self.params.population)?;
        length("losses", losses.len(), self.params.population)?;
        for candidate in candidates {
            length("variables of a candidate", candidate.len(), self.params.dim)?;
            finite("a candidate", candidate)?;
            if let Some(bounded) = &self.bounded {
                bounded.walls.check("a candidate", candidate)?;
            }
        }
        Ok(())
    }

    /// Where the search knows the candidates to be: with bounds, the points whose images they are.
    fn points<'a>(&self, candidates: &'a [Vec<f64>]) -> Cow<'a, [Vec<f64>]> {
        let Some(Bounded { walls, sent }) = &self.bounded else {
            return Cow::Borrowed(candidates);
        };
        let point = |(index, image): (usize, &Vec<f64>)| match sent.get(index) {
            Some(point) if walls.image(point) == *image => point.clone(),
            _ => walls.preimage(image), // the caller changed it
        };
        Cow::Owned(candidates.iter().enumerate().map(point).collect())
    }

    fn image(&self, point: &[f64]) -> Vec<f64> {
        self.bounded.as_ref().map_or_else(|| point.to_vec(), |bounded| bounded.walls.image(point))
    }

    fn or_diverged(&self, what: &'static str, finite: bool) -> Result<(), Error> {
        if finite { Ok(()) } else { Err(Error::Diverged { generation: self.generation, what }) }
    }

    /// Whether the parts fit one another; false only for bytes that we did not write.
    pub(super) fn is_shaped(&self) -> bool {
        let Params { dim, population, mu, ref weights, .. } = self.params;
        let vectors = [&self.mean, &self.path_sigma, &self.path_c];
        let sized = (1..=super::MAX_DIM).contains(&dim)
            && (super::MIN_POPULATION..=super::MAX_POPULATION).contains(&population);
        sized
            && weights.len() == population
            && (1..=population).contains(&mu)
            && vectors.iter().all(|v| v.len() == dim)
            && self.best.as_ref().is_none_or(|best| best.candidate.len() == dim)
            && self.geometry.is_shaped(&self.params)
            && self.bounded.as_ref().is_none_or(|bounded| {
                bounded.walls.is_shaped(dim) && bounded.sent.iter().all(|point| point.len() == dim)
            })
            && self.injected.iter().all(|injected| injected.point.len() == dim)
            && self.placed <= population
            && self.signals.as_ref().is_none_or(|signals| {
                signals.is_shaped(dim, if self.geometry.is_diagonal() { dim } else { dim * dim })
            })
            && self.history.is_shaped(dim)
    }
}

/// Candidates with their losses, best first; a loss that is not finite becomes infinite and so ranks last.
fn rank<'a>(points: &'a [Vec<f64>], losses: &[f64]) -> Vec<Ranked<'a>> {
    let known = |loss: &f64| if loss.is_finite() { *loss } else { f64::INFINITY };
    let together = points.iter().zip(losses).enumerate();
    let mut ranked: Vec<_> =
        together.map(|(index, (x, loss))| Ranked { index, x: x.as_slice(), loss: known(loss) }).collect();
    // stable: equal losses keep the order of their indices
    ranked.sort_by(|a, b| a.loss.partial_cmp(&b.loss).unwrap_or(std::cmp::Ordering::Equal));
    ranked
}

/// A part of the way from one point to another.
fn partly(from: &[f64], shift: &[f64], share: f64) -> Vec<f64> {
    from.iter().zip(shift).map(|(from, shift)| from + share * shift).collect()
}
