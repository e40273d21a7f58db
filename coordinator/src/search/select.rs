//! Dev selection: which deep prompt of the whole run is kept.

use serde::{Deserialize, Serialize};
use shared::spec::Select;

use super::Context;

/// A deep prompt's score on the dev examples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct DevScore {
    /// Accuracy or F1, higher is better.
    pub metric: f64,
    /// Mean loss, lower is better.
    pub loss: f64,
}

impl DevScore {
    /// Whether it is better by `rule`; an equal score does not replace an earlier one.
    fn beats(&self, other: &Self, rule: Select) -> bool {
        match rule {
            Select::Loss => self.loss < other.loss,
            Select::Metric => {
                self.metric > other.metric || (self.metric == other.metric && self.loss < other.loss)
            }
        }
    }
}

/// A deep prompt and how it was chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Selected {
    /// Its score.
    pub score: DevScore,
    /// Its `z`s, `[L][d]`.
    pub zs: Vec<Vec<f32>>,
    /// Calls spent when it was found.
    pub calls: u64,
}

/// The best deep prompt so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    best: Option<Selected>,
}

impl Selection {
    /// Keeps `context` if it beats what is kept by `rule`; true when it does. A NaN loss never does.
    pub(super) fn offer(&mut self, rule: Select, score: DevScore, context: &Context, calls: u64) -> bool {
        let beats = |best: &Selected| score.beats(&best.score, rule);
        let better = score.loss.is_finite() && self.best.as_ref().is_none_or(beats);
        if better {
            self.best = Some(Selected { score, zs: context.zs().to_vec(), calls });
        }
        better
    }

    /// What is kept.
    pub(super) fn best(&self) -> Option<&Selected> {
        self.best.as_ref()
    }
}
