//! What a checkpoint holds; `shared::frame` says how its bytes are kept safe.

use serde::{Deserialize, Serialize};
use shared::messages::ModelIdentity;

use crate::search::{DevScore, Search};

/// Everything a run needs to go on as if nothing had happened. Written after each generation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Hash of what defines the result; another one is another run.
    pub spec_hash: String,
    /// The model the run began with.
    pub model: ModelIdentity,
    /// Standard deviation of the projections' entries, `[L]`.
    pub projection_stds: Vec<f32>,
    /// The training examples' rows in the pool, in the order that losses are summed in.
    pub train_rows: Vec<usize>,
    /// The search.
    pub search: Search,
    /// Length of `events.jsonl`; what lies behind belongs to a generation that was lost.
    pub events_bytes: u64,
    /// Wall-clock seconds spent searching so far.
    pub seconds: f64,
    /// The zero prompt's and the manual prompt's scores.
    pub before: Before,
    /// Set when everything is done.
    pub finished: Option<Finished>,
}

/// Scores taken before the search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Before {
    /// The manual prompt on the dev examples.
    pub dev: DevScore,
    /// The manual prompt on the test set, when there is one.
    pub test: Option<f64>,
    /// SHA-256 of that test set: scores before and after are of the same one, or are taken again.
    pub test_sha256: Option<String>,
}

/// Scores taken after it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    /// The selected deep prompt on the training examples.
    pub train_loss: f64,
    /// The selected deep prompt on the test set, when there is one.
    pub test: Option<f64>,
}
