//! A simulated device: one lease after the other, each for its time; and what goes wrong with it now and then.

use std::time::Duration;

use tokio::time::Instant;

use super::plan::{Plan, TAIL};
use super::{Cost, Profile};

/// Longest heavy-tailed lease, in medians.
const LONGEST: f64 = 50.0;

/// Of a thousand leases of a failing evaluator, so many end its stream, silence it, or are refused.
const TROUBLE: [(u64, Trouble); 3] = [(4, Trouble::Cut), (1, Trouble::Silence), (5, Trouble::Refuse)];

/// What happens instead of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The stream is cut; the evaluator comes back.
    Cut,
    /// Nothing more is said or read for some seconds, then the stream is cut.
    Silence,
    /// The lease is refused.
    Refuse,
}

/// A device of one evaluator.
#[derive(Clone, Debug)]
pub(super) struct Device {
    seconds: f64,
    profile: Profile,
    cost: Cost,
    /// Candidates times examples that take the latency.
    share: f64,
    random: u64,
    free_at: Instant,
}

impl Device {
    pub(super) fn new(plan: &Plan, index: usize) -> Self {
        let factor = if index < plan.slow { plan.slow_factor } else { 1.0 };
        Self {
            seconds: plan.latency.as_secs_f64() * factor,
            profile: plan.profile,
            cost: plan.cost,
            share: plan.population as f64 / plan.evaluators as f64 * f64::from(plan.examples),
            random: mix(plan.seed ^ mix(index as u64 + 1)),
            free_at: Instant::now(),
        }
    }

    /// When a lease of so many candidates times examples that has come `now` is done.
    pub(super) fn done_at(&mut self, now: Instant, size: usize) -> Instant {
        let part = if self.cost == Cost::Candidate { size as f64 / self.share } else { 1.0 };
        let tail = match self.profile {
            Profile::HeavyTailed => (TAIL * self.normal()).exp().min(LONGEST),
            Profile::Constant | Profile::Failing => 1.0,
        };
        self.free_at = self.free_at.max(now) + Duration::from_secs_f64(self.seconds * part * tail);
        self.free_at
    }

    /// Whether this lease goes wrong.
    pub(super) fn trouble(&mut self) -> Option<Trouble> {
        if self.profile != Profile::Failing {
            return None;
        }
        let mut drawn = self.next() % 1000;
        for (share, trouble) in TROUBLE {
            if drawn < share {
                return Some(trouble);
            }
            drawn -= share;
        }
        None
    }

    /// How long the evaluator stays away after its stream has ended.
    pub(super) fn away(&mut self) -> Duration {
        Duration::from_millis(50 + self.next() % 200)
    }

    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.random)
    }

    fn uniform(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * self.uniform().ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

/// The finaliser of splitmix64.
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}
