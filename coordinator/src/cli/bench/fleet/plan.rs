//! What is simulated and for how long, checked; the same in both processes.

use std::time::Duration;

use super::{Args, Cost, Profile};
use crate::error::Error;

/// Files that a process has open beside its connections.
const OTHER_FILES: u64 = 64;

/// Sigma of the logarithm of a heavy-tailed lease's time.
pub(super) const TAIL: f64 = 1.0;

/// The plan.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) evaluators: usize,
    pub(super) latency: Duration,
    pub(super) cost: Cost,
    pub(super) profile: Profile,
    pub(super) slow: usize,
    pub(super) slow_factor: f64,
    pub(super) population: usize,
    pub(super) dim: usize,
    pub(super) examples: u32,
    pub(super) layers: u32,
    pub(super) until: Until,
    pub(super) seed: u64,
}

/// When to stop timing.
#[derive(Clone, Copy, Debug)]
pub(super) enum Until {
    /// After so many generations.
    Generations(u64),
    /// With the generation that ends after so long.
    Elapsed(Duration),
}

impl Plan {
    /// Checks the options.
    ///
    /// # Errors
    /// [`Error::Input`] naming the option that is wrong.
    pub(super) fn new(args: &Args) -> Result<Self, Error> {
        let wrong = |text: String| Err(Error::Input(text));
        for (name, count) in [
            ("evaluators", args.evaluators as u64),
            ("population", args.population as u64),
            ("dim", args.dim as u64),
            ("examples", args.examples.into()),
            ("layers", args.layers.into()),
            ("generations", args.generations.unwrap_or(1)),
        ] {
            if count == 0 {
                return wrong(format!("--{name} must be 1 or more"));
            }
        }
        if args.slow > args.evaluators {
            return wrong(format!("--slow {} of --evaluators {}", args.slow, args.evaluators));
        }
        let seconds = |name: &str, seconds: f64| {
            let found = Duration::try_from_secs_f64(seconds).ok().filter(|found| found.as_secs() < 86_400);
            found.ok_or_else(|| Error::Input(format!("--{name} must be 0 or more, and less than a day")))
        };
        if !(args.slow_factor >= 1.0 && args.slow_factor <= 1e4) {
            return wrong("--slow-factor must be between 1 and 10000".to_owned());
        }
        let needed = args.evaluators as u64 + OTHER_FILES;
        if let Some(allowed) = shared::system::open_files_limit().filter(|&allowed| allowed < needed) {
            return wrong(format!(
                "--evaluators {}: this process may open {allowed} files and needs {needed}; say `ulimit -n {needed}` first",
                args.evaluators
            ));
        }
        Ok(Self {
            evaluators: args.evaluators,
            latency: seconds("latency-ms", args.latency_ms / 1e3)?,
            cost: args.cost,
            profile: args.profile,
            slow: args.slow,
            slow_factor: args.slow_factor,
            population: args.population,
            dim: args.dim,
            examples: args.examples,
            layers: args.layers,
            until: match args.generations {
                Some(generations) => Until::Generations(generations),
                None => Until::Elapsed(seconds("seconds", args.seconds)?),
            },
            seed: args.seed,
        })
    }

    /// How long the fleet bears an evaluator that says nothing: in the failing profile, where evaluators fall silent on
    /// purpose, less than they are.
    pub(super) fn silence(&self) -> Duration {
        Duration::from_secs(if self.profile == Profile::Failing { 3 } else { 15 })
    }

    /// The mean time of a lease of an evaluator's fair share, in seconds, as it was asked for.
    fn mean_latency(&self) -> f64 {
        let mean = if self.profile == Profile::HeavyTailed { (TAIL * TAIL / 2.0).exp() } else { 1.0 };
        self.latency.as_secs_f64() * mean
    }

    /// Seconds of a generation if all evaluators were busy all the time, at their own speeds.
    pub(super) fn ideal_seconds(&self) -> f64 {
        let shares = (self.evaluators - self.slow) as f64 + self.slow as f64 / self.slow_factor;
        self.mean_latency() * self.evaluators as f64 / shares
    }
}
