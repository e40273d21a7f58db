//! A search from its seed to its end, begun again when it stops: IPOP and BIPOP by pycma's rules (`fmin2`'s `restarts`,
//! `incpopsize` and `bipop`).
//!
//! IPOP doubles the population with each restart. BIPOP goes on like this, but whenever its small searches have cost less
//! than its large ones it begins a small one, of a population between the first and the last large one and with a smaller
//! step size. Everything random is a function of the options' seed and of how far the search has come.

use serde::{Deserialize, Serialize};
use shared::random::{Domain, Stream};

use super::error::{finite, length};
use super::normals::normals;
use super::stored::Version;
use super::{Error, MAX_POPULATION, Options, State, StopReason};

/// When and how to begin again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Restarts {
    /// Never.
    #[default]
    None,
    /// Each search has so many times the population of the one before.
    Ipop {
        /// Restarts at most.
        most: u64,
        /// pycma's `incpopsize`, above 1.
        increase: f64,
    },
    /// As `Ipop`, and small searches between them, which count for no restart.
    Bipop {
        /// Restarts with a larger population at most.
        most: u64,
        /// pycma's `incpopsize`, above 1.
        increase: f64,
        /// Small searches get so much of the large ones' evaluations (pycma's `bipop`), usually 1.
        share: f64,
    },
}

impl Restarts {
    /// IPOP, doubling, nine times at most: pycma's defaults.
    pub const IPOP: Restarts = Restarts::Ipop { most: 9, increase: 2.0 };
    /// BIPOP, doubling, nine times at most: pycma's defaults.
    pub const BIPOP: Restarts = Restarts::Bipop { most: 9, increase: 2.0, share: 1.0 };

    fn check(self) -> Result<(), Error> {
        let (increase, share) = match self {
            Restarts::None => (2.0, 1.0),
            Restarts::Ipop { increase, .. } => (increase, 1.0),
            Restarts::Bipop { increase, share, .. } => (increase, share),
        };
        if !(increase.is_finite() && increase > 1.0) {
            return Err(Error::Together("the population's increase must be finite and above 1"));
        }
        if !(share.is_finite() && share >= 0.0) {
            return Err(Error::Together("the small searches' share must be finite and not negative"));
        }
        Ok(())
    }
}

/// Where searches begin.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Start {
    /// At the options' mean, all of them.
    #[default]
    Mean,
    /// Each at a random place between two corners.
    Between {
        /// `[dim]`.
        lower: Vec<f64>,
        /// `[dim]`.
        upper: Vec<f64>,
    },
}

/// A search that has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// Candidates a generation.
    pub population: usize,
    /// Whether it was one of BIPOP's small ones.
    pub small: bool,
    /// Candidates whose losses were told.
    pub evaluations: u64,
    /// The best of them.
    pub best: Option<f64>,
    /// Why.
    pub reasons: Vec<StopReason>,
}

/// One search after another. Serialised it loses no bit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Restarting {
    version: Version,
    options: Options,
    restarts: Restarts,
    start: Start,
    state: State,
    small: bool,
    ended: Vec<Ended>,
    best: Option<(Vec<f64>, f64)>,
    bad_losses: u64,
    /// Why all is over; empty while it is not.
    over: Vec<StopReason>,
}

/// Ends that are remembered in detail.
const REMEMBERED: usize = 1000;

impl Restarting {
    /// The first search, at the options' mean.
    ///
    /// # Errors
    /// Options or restarts that no search can start from.
    pub fn new(options: &Options, restarts: Restarts) -> Result<Restarting, Error> {
        Restarting::starting(options, restarts, Start::Mean)
    }

    /// The first search, where `start` says.
    ///
    /// # Errors
    /// As [`Restarting::new`]; corners that are no corners or lie outside the bounds.
    pub fn starting(options: &Options, restarts: Restarts, start: Start) -> Result<Restarting, Error> {
        restarts.check()?;
        if let Start::Between { lower, upper } = &start {
            for corner in [lower, upper] {
                length("entries of a corner", corner.len(), options.dim)?;
                finite("a corner", corner)?;
                State::new(&Options { mean: Some(corner.clone()), ..options.clone() })?;
            }
        }
        let options = Options { population: Some(options.population()), ..options.clone() };
        let state = State::new(&Options { mean: mean(&options, &start, 0), ..options.clone() })?;
        Ok(Restarting {
            version: Version,
            options,
            restarts,
            start,
            state,
            small: true, // as pycma counts the first one
            ended: Vec::new(),
            best: None,
            bad_losses: 0,
            over: Vec::new(),
        })
    }

    /// The next candidates. Asking again before `tell` gives the same ones; after the end it goes on asking the last search.
    ///
    /// # Errors
    /// As [`State::ask`], but that a search that has broken down is begun again if it may be.
    pub fn ask(&mut self) -> Result<Vec<Vec<f64>>, Error> {
        loop {
            let count = self.state.population() * self.state.dim();
            let stream = Stream::new(self.options.seed, Domain::Search, self.ended.len() as u64);
            let normals = normals(stream, self.state.generation() * count as u64, count);
            match self.state.ask(&normals) {
                Err(error @ (Error::Diverged { .. } | Error::Decomposition { .. })) => {
                    if !self.over.is_empty() {
                        return Err(error);
                    }
                    self.end(vec![StopReason::Diverged])?;
                    if !self.over.is_empty() {
                        return Err(error);
                    }
                }
                asked => return asked,
            }
        }
    }

    /// Learns from the candidates' losses; begins the next search when this one has ended.
    ///
    /// # Errors
    /// As [`State::tell`], but that a search that has broken down is begun again if it may be.
    pub fn tell(&mut self, candidates: &[Vec<f64>], losses: &[f64]) -> Result<(), Error> {
        let bad = self.state.bad_losses();
        let told = self.state.tell(candidates, losses);
        let broken = matches!(told, Err(Error::Diverged { .. } | Error::Decomposition { .. }));
        if !broken {
            told?;
        }
        self.bad_losses += self.state.bad_losses() - bad;
        if let Some((x, loss)) = self.state.best()
            && self.best.as_ref().is_none_or(|(_, best)| loss < *best)
        {
            self.best = Some((x.to_vec(), loss));
        }
        let reasons = if broken { vec![StopReason::Diverged] } else { self.state.stop() };
        if reasons.is_empty() || !self.over.is_empty() {
            return Ok(());
        }
        self.end(reasons)
    }

    /// Why all is over; empty while it is not.
    pub fn stop(&self) -> &[StopReason] {
        &self.over
    }

    /// The best candidate of all searches and its loss; the first of equals; none while no loss was finite.
    pub fn best(&self) -> Option<(&[f64], f64)> {
        self.best.as_ref().map(|(x, loss)| (x.as_slice(), *loss))
    }

    /// The search at work, or the last one.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Points for the search at work, as [`State::inject`].
    ///
    /// # Errors
    /// As [`State::inject`].
    pub fn inject(&mut self, points: &[Vec<f64>], force: bool) -> Result<(), Error> {
        self.state.inject(points, force)
    }

    /// The searches that have ended, the oldest first.
    pub fn ended(&self) -> &[Ended] {
        &self.ended
    }

    /// Candidates whose losses were told, over all searches.
    pub fn evaluations(&self) -> u64 {
        let before: u64 = self.ended.iter().map(|ended| ended.evaluations).sum();
        if self.over.is_empty() { before + self.state.evaluations() } else { before }
    }

    /// Losses told that were not finite, over all searches.
    pub fn bad_losses(&self) -> u64 {
        self.bad_losses
    }

    /// Ends the search at work, and all of it or begins the next.
    fn end(&mut self, reasons: Vec<StopReason>) -> Result<(), Error> {
        self.ended.push(Ended {
            population: self.state.population(),
            small: self.small,
            evaluations: self.state.evaluations(),
            best: self.state.best().map(|(_, loss)| loss),
            reasons: reasons.clone(),
        });
        let final_reason = [StopReason::FTarget, StopReason::MaxFEvals];
        let most = match self.restarts {
            Restarts::None => 0,
            Restarts::Ipop { most, .. } | Restarts::Bipop { most, .. } => most,
        };
        let spent = self.evaluations_ended();
        let out_of_budget = self.options.stopping.maxfevals.is_some_and(|limit| spent >= limit);
        let searches = self.ended.len() as u64;
        if searches - self.small_restarts() > most
            || searches >= REMEMBERED as u64
            || out_of_budget
            || reasons.iter().any(|reason| final_reason.contains(reason))
        {
            self.over = reasons;
            return Ok(());
        }
        match self.begin() {
            // a population that has grown too large for the memory allowed
            Err(Error::Memory { .. }) => self.over = reasons,
            begun => begun?,
        }
        Ok(())
    }

    fn evaluations_ended(&self) -> u64 {
        self.ended.iter().map(|ended| ended.evaluations).sum()
    }

    /// Small searches that were restarts: the first search is none.
    fn small_restarts(&self) -> u64 {
        self.ended.iter().skip(1).filter(|ended| ended.small).count() as u64
    }

    /// Begins the next search.
    fn begin(&mut self) -> Result<(), Error> {
        let run = self.ended.len() as u64;
        let first = self.options.population();
        let cost = |small: bool| -> u64 {
            self.ended.iter().filter(|ended| ended.small == small).map(|ended| ended.evaluations).sum()
        };
        let mut options = Options { mean: mean(&self.options, &self.start, run), ..self.options.clone() };
        // the budget of generations is the first search's in all of them
        let generations = self.options.stopping.most_generations(self.options.dim, first);
        let population = |multiplier: f64| ((first as f64 * multiplier) as usize).min(MAX_POPULATION);
        let small;
        (small, options.population, options.stopping.maxiter) = match self.restarts {
            Restarts::None => return Ok(()),
            Restarts::Ipop { increase, .. } => {
                (false, Some(population(increase.powf(run as f64))), Some(generations))
            }
            Restarts::Bipop { increase, share, .. } => {
                let (cheap, dear) = (cost(true) as f64, cost(false) as f64);
                let small = cheap < share * f64::max(1.0, dear);
                let larger = run - self.small_restarts() - u64::from(small);
                let multiplier = increase.powf(larger as f64);
                if small {
                    let mut chance = [0.0; 2];
                    Stream::new(self.options.seed, Domain::Sample, run).fill_uniforms(0, &mut chance);
                    options.sigma *= 0.01f64.powf(chance[0]);
                    let population = population(multiplier.powf(chance[1] * chance[1]));
                    let half = (0.5 * dear / population as f64) as u64;
                    (true, Some(population), Some(half.min(generations).max(1)))
                } else {
                    (false, Some(population(multiplier)), Some(generations))
                }
            }
        };
        let spent = self.evaluations_ended();
        options.stopping.maxfevals = self.options.stopping.maxfevals.map(|limit| limit - spent.min(limit));
        self.state = State::new(&options)?;
        self.small = small;
        Ok(())
    }
}

/// Where a search begins.
fn mean(options: &Options, start: &Start, run: u64) -> Option<Vec<f64>> {
    let Start::Between { lower, upper } = start else {
        return options.mean.clone();
    };
    let mut chance = vec![0.0; lower.len()];
    // behind the two numbers that a small search takes
    Stream::new(options.seed, Domain::Sample, run).fill_uniforms(2, &mut chance);
    let between = |((low, high), chance): ((&f64, &f64), &f64)| low + chance * (high - low);
    Some(lower.iter().zip(upper).zip(&chance).map(between).collect())
}
