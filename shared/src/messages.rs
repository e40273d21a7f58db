//! The contract between a coordinator and an evaluator: orders go out, reports come back.
//!
//! Plain data, no socket and no tensor. A link is two bounded channels of these; `wire` carries them over gRPC.
//! Order of messages is kept within one link, so an order may rely on those before it.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::ids::{ContextVersion, Layer, LeaseId, RunId};
use crate::spec::{Init, Injection, ProjectionKind, ReadOut};
use crate::task::{Example, Loss};

/// What an evaluator says of itself before anything else.
#[derive(Clone, Debug, PartialEq)]
pub struct Hello {
    /// `proto::PROTOCOL_VERSION` of the evaluator; 0 is never valid.
    pub protocol: u32,
    /// A name for people: host name and process id, or what the user chose.
    pub name: String,
    /// Version of the evaluator's program.
    pub version: String,
    /// The model it holds.
    pub model: ModelIdentity,
    /// Device kind, `cpu` or `cuda:0`; same kind means same bits.
    pub device: String,
    /// What the blocks' linear layers are computed in, by its name in a run file: `f32`.
    pub dtype: String,
    /// Rows (real tokens) it keeps in flight at most: the measure of its capacity.
    pub max_batch_tokens: u32,
}

/// Which model, and its shape: what must agree between all evaluators of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelIdentity {
    /// Folder name or hub id, for people; does not take part in the comparison.
    pub name: String,
    /// Hub revision, when there is one; does not take part in the comparison.
    pub revision: Option<String>,
    /// SHA-256 of the weights' files, hexadecimal.
    pub weights_sha256: String,
    /// SHA-256 of `config.json`.
    pub config_sha256: String,
    /// SHA-256 of `tokenizer.json`.
    pub tokenizer_sha256: String,
    /// Layers that take a prompt.
    pub layers: u32,
    /// Width of a hidden state.
    pub hidden: u32,
}

impl ModelIdentity {
    /// Whether both are the same model, whatever they are called and wherever they lie.
    pub fn same_model(&self, other: &Self) -> bool {
        let key = |m: &Self| {
            let hashes = (m.weights_sha256.clone(), m.config_sha256.clone(), m.tokenizer_sha256.clone());
            (hashes, m.layers, m.hidden)
        };
        key(self) == key(other)
    }
}

impl fmt::Display for ModelIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = self.weights_sha256.get(..12).unwrap_or(&self.weights_sha256);
        write!(f, "{} (weights {short}, {} layers of {})", self.name, self.layers, self.hidden)
    }
}

/// Coordinator to evaluator.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// Tokenise the examples, build the engine, answer [`Report::Ready`].
    Prepare(Box<Prepare>),
    /// The projections' scale and the whole context; evaluation may begin.
    Start(Start),
    /// One layer's incumbent has changed.
    SetContext(ContextUpdate),
    /// Do this work and answer it.
    Lease(Lease),
    /// The run has ended: free what it holds.
    Forget(RunId),
    /// No more work will come: finish, then leave.
    Drain,
}

/// Everything an evaluator must know of a run before it can measure the statistics for the projections.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepare {
    /// The run.
    pub run: RunId,
    /// From the last hidden states to one logit a class.
    pub read_out: ReadOut,
    /// Divisor of the cosines of the similarity read-out.
    pub temperature: f32,
    /// Template source, `{text} ... {mask}`.
    pub template: String,
    /// One label word or phrase a class, in label order.
    pub words: Vec<String>,
    /// How a prompt enters a layer.
    pub injection: Injection,
    /// Prompt tokens a layer.
    pub tokens: u32,
    /// What the prompt rows hold before anything is added.
    pub init: Init,
    /// What a candidate scores on an example.
    pub loss: Loss,
    /// Distribution of the projections' entries.
    pub projection: ProjectionKind,
    /// Intrinsic dimension `d` of one layer.
    pub dim: u32,
    /// Seed of the projections.
    pub seed: u64,
    /// The k-shot training examples, in the order losses are reported in; empty when only scores are wanted.
    pub train: Vec<Example>,
    /// The k-shot dev examples.
    pub dev: Vec<Example>,
}

/// The projections' scale and a snapshot of the context.
#[derive(Clone, Debug, PartialEq)]
pub struct Start {
    /// The run.
    pub run: RunId,
    /// Standard deviation of the entries of each layer's projection, `[L]` (unused by the uniform projection).
    pub projection_stds: Vec<f32>,
    /// Version of this snapshot.
    pub version: ContextVersion,
    /// Incumbent `z` of every layer, `[L][d]`.
    pub context: Vec<Vec<f32>>,
}

/// One layer's new incumbent.
#[derive(Clone, Debug, PartialEq)]
pub struct ContextUpdate {
    /// The run.
    pub run: RunId,
    /// The context's version after this update: the previous one plus one.
    pub version: ContextVersion,
    /// The layer that changed.
    pub layer: Layer,
    /// Its incumbent, `[d]`.
    pub z: Vec<f32>,
}

/// Work handed to one evaluator for a limited time.
#[derive(Clone, Debug, PartialEq)]
pub struct Lease {
    /// Names the answer.
    pub id: LeaseId,
    /// The run.
    pub run: RunId,
    /// Context version the work is to be done under: one that has arrived, or the next one, which the work waits for.
    pub version: ContextVersion,
    /// What to do.
    pub work: Work,
    /// W3C trace context of the lease's span, where the coordinator sends traces; no answer depends on it.
    pub trace: Option<String>,
}

/// What a lease asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// Losses of candidates of one layer on a range of the training examples.
    Evaluate {
        /// The layer whose prompt differs between the candidates.
        layer: Layer,
        /// The candidates' `z`, `[candidates][d]`.
        candidates: Vec<Vec<f32>>,
        /// Which training examples.
        examples: Range<u32>,
        /// Evaluated beside them; there may then be no candidates.
        canary: Option<Canary>,
    },
    /// Losses, predictions and logits of one deep prompt.
    Score {
        /// Which deep prompt.
        prompt: Prompted,
        /// On what.
        examples: ExampleSet,
    },
}

/// One candidate of the layer on one training example, the same for every evaluator of a generation: their losses must
/// agree.
#[derive(Clone, Debug, PartialEq)]
pub struct Canary {
    /// The candidate, `[d]`.
    pub z: Vec<f32>,
    /// The training example.
    pub example: u32,
}

/// The deep prompt a score is taken with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prompted {
    /// None: the template alone, the manual prompt.
    Manual,
    /// The context's incumbents at the lease's version.
    Context,
}

/// Examples a score is taken on.
#[derive(Clone, Debug, PartialEq)]
pub enum ExampleSet {
    /// A range of the run's training examples.
    Train(Range<u32>),
    /// A range of the run's dev examples.
    Dev(Range<u32>),
    /// These, which the evaluator does not keep.
    Inline(Vec<Example>),
}

impl ExampleSet {
    /// Number of examples.
    pub fn len(&self) -> usize {
        match self {
            Self::Train(range) | Self::Dev(range) => range.len(),
            Self::Inline(examples) => examples.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Evaluator to coordinator.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// A run is prepared.
    Ready(Box<Ready>),
    /// A lease's answer.
    Answer(Answer),
    /// Something cannot be done, and why.
    Refused(Refused),
    /// Still here; counts the work done so far, so that a frozen engine differs from a slow one.
    Heartbeat {
        /// Candidate-examples evaluated since the process started.
        progress: u64,
    },
    /// Everything asked before [`Order::Drain`] is answered; or, unasked, the evaluator wants to leave
    /// and gives back whatever it has not answered.
    Leaving,
}

/// What preparing a run has shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Ready {
    /// The run.
    pub run: RunId,
    /// Standard deviation of the hidden states at the input of each layer, `[L]` (spec 3.2); empty without training examples.
    pub layer_stds: Vec<f32>,
    /// Prompt a layer starts from, `p0`, `[L * tokens * hidden]`; empty when it is zero everywhere.
    pub initial: Vec<f32>,
    /// Token ids at the prompt's positions, `[tokens]`; empty with `init = "none"`.
    pub initial_ids: Vec<u32>,
    /// Token id of each label word; empty for the similarity read-out.
    pub label_ids: Vec<u32>,
    /// Real tokens of the training examples, prompt rows included.
    pub train_tokens: u64,
    /// Floating-point operations of one candidate on the training set at each layer, `[L]`.
    pub flops: Vec<f64>,
    /// Bytes the evaluator expects to hold for this run beside the weights.
    pub memory_bytes: u64,
}

/// A lease's answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The lease.
    pub lease: LeaseId,
    /// One a candidate, in the lease's order; exactly one for a score.
    pub outcomes: Vec<Outcome>,
    /// Of the lease's canary, where it brought one.
    pub canary: Option<CanaryOutcome>,
}

/// What a canary has scored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CanaryOutcome {
    /// Its loss.
    pub loss: f32,
    /// The predicted class.
    pub predicted: u32,
}

/// One candidate's results on the examples of a lease.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Loss of each example, in example order.
    pub losses: Vec<f32>,
    /// Predicted class of each example.
    pub predicted: Vec<u32>,
    /// Logits `[examples * classes]`; empty for [`Work::Evaluate`], where nobody reads them.
    pub logits: Vec<f32>,
}

/// A refusal: of one lease, of a run, or of a whole evaluator.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    /// The run it concerns.
    pub run: RunId,
    /// The lease it concerns; `None` when the run itself cannot be prepared.
    pub lease: Option<LeaseId>,
    /// Why.
    pub refusal: Refusal,
}

/// Why something was refused. What the other side does next depends on the variant, never on the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The user's input is wrong: the same on every evaluator, so the run ends with exit code 2.
    #[error("{0}")]
    Input(String),
    /// The same of one example, by its line; which file it was read from is known to whoever sent it.
    #[error("line {line}: {problem}")]
    Example {
        /// [`Example::line`].
        line: u32,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// This evaluator holds another model than the run's.
    #[error("{0}")]
    Model(String),
    /// This evaluator is not believed: its machine or its build is not sound.
    #[error("{0}")]
    Quarantined(String),
    /// The two programs do not speak the same protocol.
    #[error("{0}")]
    Protocol(String),
    /// The evaluator lost what the lease builds on, or its engine failed: try elsewhere.
    #[error("{0}")]
    Failed(String),
}
