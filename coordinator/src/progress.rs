//! What a run is doing right now: one value, watched by the terminal and by clients.

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Where a run stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It waits for its turn: a standing coordinator has enough at work.
    Queued,
    /// No evaluator has prepared it yet.
    #[default]
    Waiting,
    /// The manual prompt is being scored.
    Before,
    /// Generations are being evaluated.
    Searching,
    /// The selected deep prompt is being scored.
    After,
    /// Done.
    Done,
    /// Ended by an error.
    Failed,
    /// Ended by the user.
    Cancelled,
}

impl State {
    /// Whether nothing more will come.
    pub fn over(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

/// A run's progress.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Task name.
    pub task: String,
    /// What it is doing.
    pub state: State,
    /// Generations finished.
    pub generation: u64,
    /// Sweep of the last one, from 1.
    pub sweep: u64,
    /// Sweeps in all.
    pub sweeps: u64,
    /// Layer of the last one, from 0.
    pub layer: u32,
    /// Layers tuned.
    pub layers: u32,
    /// Calls spent.
    pub calls: u64,
    /// Calls that will be spent.
    pub budget: u64,
    /// The smallest loss of a candidate so far.
    pub best_loss: Option<f64>,
    /// Dev metric of the deep prompt kept so far.
    pub best_dev: Option<f64>,
    /// Test metric of the manual prompt.
    pub test_before: Option<f64>,
    /// Calls a second since this process began searching.
    pub calls_per_second: f64,
    /// Why it ended, when it failed.
    pub message: String,
}

impl Progress {
    /// Seconds that the calls to come will take at the pace so far; `None` where there is none.
    pub fn seconds_left(&self) -> Option<f64> {
        let left = self.budget.saturating_sub(self.calls) as f64;
        (self.state == State::Searching && self.calls_per_second > 0.0).then(|| left / self.calls_per_second)
    }
}

/// The writing end.
pub type Reporter = watch::Sender<Progress>;
