//! What a search starts from, and what it takes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::bounds::{Bounds, Walls};
use super::error::{finite, length};
use super::limited;
use super::params::{Params, default_population};
use super::stop::Stopping;
use super::{Error, LearningRates, MAX_DIM, MAX_POPULATION, MEMORY, MIN_POPULATION};

/// What of the covariance is learnt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Variant {
    /// All of it: `dim^2 / 2` numbers; learns slowly in high dimension, and everything.
    #[default]
    Full,
    /// Its diagonal: pycma's `CMA_diagonal = True`. Learns about `dim` times as fast, and only scales.
    Separable,
    /// Its diagonal for so many generations, then all of it: pycma's `CMA_diagonal = generations`. `None`: MATLAB CMA-ES'
    /// old rule, `1 + 100 dim / sqrt(population)`.
    DiagonalStart {
        /// Generations with a diagonal covariance.
        generations: Option<u64>,
    },
    /// A few directions, about `3 ln dim` of them: LM-MA-ES (arXiv 1705.06693), for very high dimension.
    LimitedMemory,
    /// What [`Options::choice`] says.
    Auto,
}

impl Variant {
    /// Its name in a run file.
    pub fn name(self) -> &'static str {
        match self {
            Variant::Full => "full",
            Variant::Separable => "separable",
            Variant::DiagonalStart { .. } => "diagonal-start",
            Variant::LimitedMemory => "limited-memory",
            Variant::Auto => "auto",
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Variant {
    type Err = String;

    fn from_str(name: &str) -> Result<Variant, String> {
        let all = [
            Variant::Full,
            Variant::Separable,
            Variant::DiagonalStart { generations: None },
            Variant::LimitedMemory,
            Variant::Auto,
        ];
        let names = all.map(Variant::name).join(", ");
        let found = all.into_iter().find(|variant| variant.name() == name);
        found.ok_or_else(|| format!("\"{name}\" is none of: {names}"))
    }
}

/// What a search starts from. [`Options::new`] has pycma's defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// Number of variables, 1 to [`MAX_DIM`].
    pub dim: usize,
    /// Candidates a generation, [`MIN_POPULATION`] to [`MAX_POPULATION`] (pycma's `popsize`); `None`:
    /// `4 + floor(3 ln dim)` (eq. 48).
    pub population: Option<usize>,
    /// Candidates that form the new mean (pycma's `CMA_mu`), at most half of the population; `None`: half of it.
    pub mu: Option<usize>,
    /// Initial step size (pycma's `sigma0`); finite and above 0.
    pub sigma: f64,
    /// Initial mean, `[dim]` (pycma's `x0`); `None`: the origin.
    pub mean: Option<Vec<f64>>,
    /// Each coordinate's standard deviation as a multiple of `sigma`, `[dim]` (pycma's `CMA_stds`); `None`: 1.
    pub stds: Option<Vec<f64>>,
    /// Where candidates may lie (pycma's `bounds`, by its `BoundTransform`); `None`: anywhere.
    pub bounds: Option<Bounds>,
    /// Whether bad candidates take variance away (negative weights, eq. 53; pycma's `CMA_active`).
    pub active: bool,
    /// What of the covariance is learnt.
    pub variant: Variant,
    /// Multiplies the rank-one learning rate c_1 (pycma's `CMA_rankone`).
    pub rankone: f64,
    /// Multiplies the rank-mu learning rate c_mu (pycma's `CMA_rankmu`).
    pub rankmu: f64,
    /// Whether mean and covariance move by as much as their signal is worth: for noisy or rugged losses.
    pub learning: LearningRates,
    /// Seed of a [`Restarting`](super::Restarting); 0 is one like any other. A [`State`](super::State) is given its normals.
    pub seed: u64,
    /// When to stop.
    pub stopping: Stopping,
    /// Bytes that a state may take; more is refused before it is taken.
    pub memory: u64,
}

/// A variant, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// What was chosen; never [`Variant::Auto`].
    pub variant: Variant,
    /// Why, in a sentence.
    pub why: String,
}

impl Options {
    /// pycma's defaults around the origin.
    pub fn new(dim: usize, sigma: f64) -> Options {
        Options {
            dim,
            population: None,
            mu: None,
            sigma,
            mean: None,
            stds: None,
            bounds: None,
            active: true,
            variant: Variant::Full,
            rankone: 1.0,
            rankmu: 1.0,
            learning: LearningRates::Fixed,
            seed: 0,
            stopping: Stopping::default(),
            memory: MEMORY,
        }
    }

    /// Candidates a generation.
    pub fn population(&self) -> usize {
        self.population.unwrap_or_else(|| default_population(self.dim))
    }

    /// The variant, and why: the one that was named, or for [`Variant::Auto`] by this rule. The limited-memory variant
    /// where the full covariance would not fit into `memory`, or where the budget is known (`stopping.maxiter` or
    /// `maxfevals`) and the full covariance would change by less than a tenth within it; else full. Learning rates are
    /// adapted with the separable variant in place of the limited-memory one, where the full one does not fit, and else
    /// with that.
    pub fn choice(&self) -> Choice {
        let chosen = |variant, why| Choice { variant, why };
        if self.variant != Variant::Auto {
            return chosen(self.variant, "it was named".to_owned());
        }
        let (full, allowed) = (self.bytes(Variant::Full), self.memory);
        let adapted = self.learning == LearningRates::Adapted;
        if full > allowed {
            let why = format!("a full covariance would take {full} bytes, more than the {allowed} allowed");
            return chosen(if adapted { Variant::Separable } else { Variant::LimitedMemory }, why);
        }
        if adapted {
            let why =
                "a full covariance fits into memory, and the limited-memory variant adapts no learning rates";
            return chosen(Variant::Full, why.to_owned());
        }
        let Some(generations) = self.generations() else {
            return chosen(Variant::Full, "a full covariance fits into memory".to_owned());
        };
        let rates = Params::new(&Options { variant: Variant::Full, ..self.clone() }).map(|p| p.c_1 + p.c_mu);
        let learnt = rates.unwrap_or(1.0) * generations as f64;
        if learnt < WORTHWHILE {
            let why = format!(
                "in {generations} generations a full covariance would change by {learnt:.2e} of itself"
            );
            return chosen(Variant::LimitedMemory, why);
        }
        chosen(Variant::Full, format!("a full covariance has {generations} generations to learn in"))
    }

    /// Generations that the budget allows, where there is one.
    fn generations(&self) -> Option<u64> {
        let Stopping { maxiter, maxfevals, .. } = self.stopping;
        let by_calls = maxfevals.map(|calls| calls / self.population().max(1) as u64);
        maxiter.into_iter().chain(by_calls).min()
    }

    /// Bytes that a state takes at its peak, from sizes alone.
    pub fn memory_bytes(&self) -> u64 {
        self.bytes(self.choice().variant)
    }

    fn bytes(&self, variant: Variant) -> u64 {
        let sum = |terms: Vec<(u64, &str)>| terms.iter().map(|(bytes, _)| bytes).sum();
        sum(self.terms(variant))
    }

    /// What the state's memory consists of: bytes, and of what.
    fn terms(&self, variant: Variant) -> Vec<(u64, &'static str)> {
        let numbers = |count: u64| count.saturating_mul(8);
        let (dim, population) = (self.dim as u64, self.population() as u64);
        let square = dim.saturating_mul(dim);
        let mut terms = match variant {
            Variant::Full | Variant::DiagonalStart { .. } | Variant::Auto => {
                vec![(
                    numbers(square.saturating_mul(4)),
                    "4 dim^2 numbers: covariance, axes and the scratch of a decomposition",
                )]
            }
            Variant::Separable => Vec::new(),
            Variant::LimitedMemory => {
                vec![(numbers(limited::directions(self.dim) as u64 * dim), "the directions")]
            }
        };
        if self.learning == LearningRates::Adapted && variant != Variant::Separable {
            terms.push((numbers(square.saturating_mul(5)), "5 dim^2 numbers for adapted learning rates"));
        }
        terms.push((
            numbers(dim.saturating_mul(3 * population + 10)),
            "dim (3 population + 10) numbers for candidates and vectors",
        ));
        terms
    }

    /// An error unless a search can start from this.
    pub(super) fn check(&self) -> Result<(), Error> {
        let (dim, population) = (self.dim, self.population());
        if !(1..=MAX_DIM).contains(&dim) {
            return Err(Error::Dimension(dim));
        }
        if !(MIN_POPULATION..=MAX_POPULATION).contains(&population) {
            return Err(Error::Population(population));
        }
        if let Some(mu) = self.mu
            && !(1..=population / 2).contains(&mu)
        {
            return Err(Error::Mu { mu, most: population / 2 });
        }
        if !(self.sigma.is_finite() && self.sigma > 0.0) {
            return Err(Error::Sigma(self.sigma));
        }
        if let Some(mean) = &self.mean {
            length("entries of the mean", mean.len(), dim)?;
            finite("the initial mean", mean)?;
        }
        if let Some(stds) = &self.stds {
            length("standard deviations", stds.len(), dim)?;
            let wrong = stds.iter().position(|s| !(s.is_finite() && *s > 0.0));
            wrong.map_or(Ok(()), |at| Err(Error::Std { at, found: stds[at] }))?;
        }
        if let Some(bounds) = &self.bounds {
            let origin = vec![0.0; dim];
            Walls::new(bounds, dim)?.check("the initial mean", self.mean.as_ref().unwrap_or(&origin))?;
        }
        self.stopping.check()?;
        for (name, found) in [("rankone", self.rankone), ("rankmu", self.rankmu)] {
            if !(found.is_finite() && found >= 0.0) {
                return Err(Error::Tolerance { name, found });
            }
        }
        self.check_together()?;
        self.check_memory()
    }

    fn check_together(&self) -> Result<(), Error> {
        let variant = self.choice().variant;
        if self.learning == LearningRates::Adapted && !matches!(variant, Variant::Full | Variant::Separable) {
            return Err(Error::Together(
                "learning rates are adapted with the full or the separable variant alone",
            ));
        }
        if self.learning == LearningRates::Adapted && self.bounds.is_some() {
            return Err(Error::Together("learning rates are adapted without bounds alone"));
        }
        Ok(())
    }

    fn check_memory(&self) -> Result<(), Error> {
        let variant = self.choice().variant;
        let (needed, allowed) = (self.bytes(variant), self.memory);
        if needed <= allowed {
            return Ok(());
        }
        let sum: Vec<String> =
            self.terms(variant).iter().map(|(bytes, what)| format!("{bytes} for {what}")).collect();
        let smaller = [Variant::LimitedMemory, Variant::Separable];
        let fits = smaller.into_iter().find(|other| self.bytes(*other) <= allowed);
        Err(Error::Memory {
            variant: variant.name(),
            dim: self.dim,
            population: self.population(),
            sum: sum.join(", "),
            needed,
            allowed,
            instead: match fits {
                Some(other) => format!("the {other} variant would take {}", self.bytes(other)),
                None => "fewer variables or candidates would fit".to_owned(),
            },
        })
    }
}

/// A full covariance that changes by less than this share of itself within the budget is not worth learning.
const WORTHWHILE: f64 = 0.1;
