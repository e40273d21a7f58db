//! The search: one CMA-ES state a layer, the context they share, and the deep prompt that is kept.
//!
//! Pure: draw a population ([`Search::asking`]), `accept` its losses, `select` by dev score. Who evaluates, and when, is
//! `run`'s business; what takes time is apart ([`Asking`], [`Telling`]), so that it can run beside an evaluation. A
//! [`Search`] serialises exactly, so a resumed run goes on with the same bits.

mod beside;
mod context;
pub mod race;
mod select;

pub use beside::{Asked, Asking, Telling, Told};
pub use context::Context;
pub use race::Race;
pub use select::{DevScore, Selected, Selection};

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use shared::ids::{ContextVersion, Layer, RunId};
use shared::messages::ContextUpdate;
use shared::spec::{Incumbent, Select};
use shared::task::loss::{Loss, Metric, population_loss};

use crate::cma;
use crate::fleet::Gathered;

/// What a search needs to know of its run.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Layers of the backbone, the context's length.
    pub layers: usize,
    /// Layers that are tuned, from the input side: all of them (BBTv2) or one (BBT).
    pub tuned: usize,
    /// Intrinsic dimension of one layer.
    pub dim: usize,
    /// Candidates in one generation.
    pub population: usize,
    /// Initial step size.
    pub sigma: f64,
    /// What of a layer's covariance is learnt.
    pub covariance: cma::Variant,
    /// How fast mean and covariance move.
    pub learning: cma::LearningRates,
    /// What no entry of a `z` leaves: lower and upper bound.
    pub bounds: Option<[f64; 2]>,
    /// Whether a layer's best point is evaluated again with each of its generations.
    pub reevaluate: bool,
    /// Calls that may be spent; a generation begins only where it is covered whole.
    pub budget: u64,
    /// Training examples: what one call evaluates a candidate on.
    pub examples: u64,
    /// Seed of the candidates.
    pub seed: u64,
    /// Which `z` of a layer the other layers see.
    pub incumbent: Incumbent,
    /// What dev keeps a deep prompt by.
    pub select: Select,
    /// Generations between two scores on dev, at least 1.
    pub dev_every: u64,
    /// What a candidate scores on an example.
    pub loss: Loss,
    /// The metric behind `Loss::Metric`.
    pub metric: Metric,
    /// Whether candidates are spared examples that cannot bring them into the better half.
    pub racing: bool,
}

/// Bytes that one layer's state may take where `search.covariance` is `auto`: a full covariance of 4,096 variables fits.
const AUTO: u64 = 640 << 20;

impl Plan {
    /// What a layer's optimiser starts from, and why its variant.
    pub fn options(&self) -> (cma::Options, String) {
        let named = cma::Options {
            population: Some(self.population),
            variant: self.covariance,
            learning: self.learning,
            bounds: self.bounds.map(|[lower, upper]| cma::Bounds { lower: vec![lower], upper: vec![upper] }),
            ..cma::Options::new(self.dim, self.sigma)
        };
        // the budget ends a search, not a layer's optimiser: it counts for the choice alone
        let generations = self.budget / (self.population * self.tuned).max(1) as u64;
        let stopping = cma::Stopping { maxiter: Some(generations), ..cma::Stopping::default() };
        let choice = cma::Options { stopping, memory: AUTO, ..named.clone() }.choice();
        (cma::Options { variant: choice.variant, ..named }, choice.why)
    }

    /// What of a layer's covariance is learnt and why, where it is not all of it because nobody said otherwise.
    pub fn said(&self) -> Option<String> {
        let (options, why) = self.options();
        (self.covariance != cma::Variant::Full).then(|| format!("{}: {why}", options.variant))
    }
}

/// Bytes that a search of `tuned` layers holds while a checkpoint is made: each layer's covariance and its factor,
/// `[dim, dim]` each, and once more what is written of them, two triangles; of two layers a second copy: those that are asked
/// and told meanwhile. Without a covariance matrix a layer takes what its vectors do, twice.
pub fn memory_bytes(tuned: usize, dim: usize, covariance: cma::Variant) -> u64 {
    let options = cma::Options { variant: covariance, memory: AUTO, ..cma::Options::new(dim, 1.0) };
    if let linear @ (cma::Variant::Separable | cma::Variant::LimitedMemory) = options.choice().variant {
        return 2 * (tuned as u64 + 1) * cma::Options { variant: linear, ..options }.memory_bytes();
    }
    let matrix = 8 * (dim * dim) as u64;
    let layers = tuned as u64;
    (layers + 2) * 2 * matrix + layers * matrix
}

/// One population, ready to be evaluated.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal {
    /// The layer it belongs to.
    pub layer: Layer,
    /// The context it is evaluated under.
    pub version: ContextVersion,
    /// The candidates as the optimiser knows them, `[population][dim]`.
    points: Vec<Vec<f64>>,
    /// Candidates in the better half.
    mu: usize,
}

impl Proposal {
    /// The candidates as they travel, `[population][dim]`.
    pub fn candidates(&self) -> Vec<Vec<f32>> {
        self.points.iter().map(|z| to_f32(z)).collect()
    }
}

/// What a generation has shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// Its number in the run, from 1.
    pub number: u64,
    /// Its sweep, from 1.
    pub sweep: u64,
    /// Its layer.
    pub layer: Layer,
    /// One loss a candidate.
    pub losses: Vec<f64>,
    /// The best loss of the run so far at this layer.
    pub best: f64,
}

/// A generation whose losses have come.
#[derive(Debug)]
pub struct Accepted {
    /// What it has shown.
    pub generation: Generation,
    /// The context's change: all that the next generation waits for.
    pub update: ContextUpdate,
    /// What its layer's distribution has yet to learn.
    pub telling: Telling,
}

/// What a search has cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Spent {
    /// Candidates.
    candidates: u64,
    /// Candidates times examples that they were not evaluated on.
    spared: u64,
    /// Examples of a call.
    examples: u64,
}

impl Spent {
    /// In calls, rounded up.
    fn calls(self) -> u64 {
        self.candidates - self.spared / self.examples.max(1)
    }
}

/// The state of one run's search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Search {
    /// Shared with a checkpoint that is being made; who changes one meanwhile makes its own copy. A layer that is at its
    /// arithmetic is away.
    #[serde(with = "beside::states")]
    states: Vec<Option<Arc<cma::State>>>,
    context: Context,
    selection: Selection,
    generation: u64,
    spent: Spent,
    best_loss: Option<f64>,
}

impl Search {
    /// A search at its beginning: every `z` is 0.
    ///
    /// # Errors
    /// Settings that the optimiser refuses.
    pub fn new(plan: &Plan) -> Result<Self, cma::Error> {
        let (options, _) = plan.options();
        let states = (0..plan.tuned).map(|_| cma::State::new(&options).map(|state| Some(Arc::new(state))));
        let states = states.collect::<Result<_, _>>()?;
        Ok(Self {
            states,
            context: Context::new(plan.layers, plan.dim),
            selection: Selection::default(),
            generation: 0,
            spent: Spent { examples: plan.examples, ..Spent::default() },
            best_loss: None,
        })
    }

    /// What draws the next population, bottom layer to top and again, or the one `ahead` generations after it; its layer is
    /// away until [`Search::asked`]. `None` when what is left of the budget does not cover it for certain, or when its
    /// layer has losses to learn from before.
    pub fn asking(&mut self, plan: &Plan, ahead: u64) -> Option<Asking> {
        let tuned = plan.tuned as u64;
        if self.affordable(plan) <= ahead || ahead >= tuned {
            return None;
        }
        let layer = Layer(((self.generation + ahead) % tuned) as u32);
        let version = ContextVersion(self.context.version().0 + ahead);
        Some(Asking::new(layer, version, self.states[layer.index()].take()?, plan))
    }

    /// Takes what was drawn: its layer's state has come to know of it.
    pub fn asked(&mut self, asked: Asked) -> Proposal {
        self.states[asked.proposal.layer.index()] = Some(asked.state);
        asked.proposal
    }

    /// Generations that what is left of the budget covers whole: as many will come, or more where racing saves calls.
    pub fn affordable(&self, plan: &Plan) -> u64 {
        plan.budget.saturating_sub(self.calls()) / plan.population as u64
    }

    /// A race for a proposal's generation.
    pub fn race(plan: &Plan, proposal: &Proposal) -> Race {
        Race::new(plan.loss, plan.population, proposal.mu, plan.examples as usize)
    }

    /// Takes off what a race has saved: the examples that each candidate has not seen.
    pub fn spare(&mut self, plan: &Plan, seen: &[u32]) {
        self.spent.spared += seen.iter().map(|&seen| plan.examples - u64::from(seen)).sum::<u64>();
    }

    /// Takes the losses of a proposal: counts it and sets its layer's incumbent (paper: Algorithm 1). What the layer's
    /// distribution learns of them comes later: the layer is away until [`Search::told`].
    ///
    /// `labels` are those of the training examples, in order.
    ///
    /// # Errors
    /// As [`cma::State::foresee`].
    pub fn accept(
        &mut self,
        plan: &Plan,
        run: RunId,
        proposal: Proposal,
        gathered: &Gathered,
        labels: &[u32],
    ) -> Result<Accepted, cma::Error> {
        let losses: Vec<f64> = gathered
            .losses
            .iter()
            .zip(&gathered.predicted)
            .map(|(losses, predicted)| population_loss(plan.loss, plan.metric, losses, predicted, labels))
            .collect();
        let Proposal { layer, points, .. } = proposal;
        let state = self.states[layer.index()].take().ok_or(cma::Error::NotAsked)?;
        let foreseen = state.foresee(&points, &losses)?;
        let mean = &foreseen.mean;
        let (best_z, best) = foreseen.best.as_ref().map_or((mean, f64::NAN), |(z, loss)| (z, *loss)); // all were NaN
        let z = to_f32(match plan.incumbent {
            Incumbent::Best => best_z,
            Incumbent::Mean => mean,
            Incumbent::GenerationBest => smallest(&losses).map_or(best_z, |i| &points[i]),
        });
        self.generation += 1;
        self.spent.candidates += plan.population as u64;
        if best.is_finite() {
            self.best_loss = Some(self.best_loss.map_or(best, |old| old.min(best)));
        }
        let number = self.generation;
        let sweep = (number - 1) / plan.tuned as u64 + 1;
        Ok(Accepted {
            update: self.context.set(run, layer, z),
            telling: Telling::new(layer, state, points, losses.clone()),
            generation: Generation { number, sweep, layer, losses, best },
        })
    }

    /// Takes what a layer's distribution has learnt; gives its step size.
    pub fn told(&mut self, told: Told) -> f64 {
        let sigma = told.state.sigma();
        self.states[told.layer.index()] = Some(told.state);
        sigma
    }

    /// Whether the context is to be scored on dev now: every `dev_every` generations, and when the budget is spent.
    pub fn wants_dev(&self, plan: &Plan) -> bool {
        self.generation.is_multiple_of(plan.dev_every) || self.affordable(plan) == 0
    }

    /// Offers the context, scored on dev, to the selection; true when it is the new best.
    pub fn select(&mut self, plan: &Plan, score: DevScore) -> bool {
        self.selection.offer(plan.select, score, &self.context, self.calls())
    }

    /// The context: every layer's incumbent.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The deep prompt that is kept, if any was scored.
    pub fn selected(&self) -> Option<&Selected> {
        self.selection.best()
    }

    /// Makes the selected deep prompt the context, for the final scores.
    pub fn settle(&mut self) {
        if let Some(selected) = self.selection.best() {
            self.context.replace(&selected.zs);
        }
    }

    /// Calls spent, rounded up where candidates were spared examples.
    pub fn calls(&self) -> u64 {
        self.spent.calls()
    }

    /// Calls that racing has saved: with those spent, a call a candidate.
    pub fn saved_calls(&self) -> f64 {
        self.spent.spared as f64 / self.spent.examples.max(1) as f64
    }

    /// Generations finished.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The smallest loss of any candidate so far.
    pub fn best_loss(&self) -> Option<f64> {
        self.best_loss
    }
}

/// Index of the smallest finite loss, the first among equals.
fn smallest(losses: &[f64]) -> Option<usize> {
    let finite = losses.iter().enumerate().filter(|(_, loss)| loss.is_finite());
    finite.min_by(|a, b| a.1.total_cmp(b.1)).map(|(index, _)| index)
}

/// A point as it travels and as the projection takes it (the official code casts here too).
fn to_f32(z: &[f64]) -> Vec<f32> {
    z.iter().map(|&x| x as f32).collect()
}

#[cfg(test)]
mod tests;
