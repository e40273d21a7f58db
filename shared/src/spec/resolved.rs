//! [`RunSpec`]: a run file checked and completed; stored as `run.toml` in the run folder.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Device;
use super::limits::{BatchTokens, Bytes};
use crate::task::{Loss, Metric, Template};

/// An enum of the run file: its variants, their names there, and both directions between them.
macro_rules! named {
    ($(#[$doc:meta])* $type:ident { $($(#[$variant_doc:meta])* $variant:ident = $name:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $type {
            $($(#[$variant_doc])* #[serde(rename = $name)] $variant,)+
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl $type {
            /// Its name in a run file.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }

        impl std::str::FromStr for $type {
            type Err = String;

            fn from_str(name: &str) -> Result<Self, String> {
                match name {
                    $($name => Ok(Self::$variant),)+
                    other => Err(format!("\"{other}\" is none of: {}", [$($name),+].join(", "))),
                }
            }
        }
    };
}

named!(
    /// From the last hidden states to one logit a class.
    ReadOut {
        /// The label words' logits at the mask.
        MaskedLm = "masked-lm",
        /// The label words' logits after the last token.
        NextToken = "next-token",
        /// The label words' logits at a decoder position.
        Seq2Seq = "seq2seq",
        /// Cosine of the mean-pooled text with each mean-pooled label phrase, divided by the temperature.
        Similarity = "similarity",
    }
);
named!(
    /// How a prompt enters a layer.
    Injection {
        /// Added to the hidden states at the prompt's positions.
        Add = "add",
        /// Replaces the hidden states at the prompt's positions, which then serve as keys and values only.
        Prefix = "prefix",
    }
);
named!(
    /// What the prompt's positions hold before tuning.
    Init {
        /// Fixed ids of the vocabulary.
        Vocabulary = "vocabulary",
        /// Nothing.
        None = "none",
    }
);
named!(
    /// Which layers are tuned.
    Method {
        /// All of them.
        Bbtv2 = "bbtv2",
        /// The input layer.
        Bbt = "bbt",
    }
);
named!(
    /// Distribution of the projections' entries.
    ProjectionKind {
        /// Normal with the designed standard deviation (spec 3.1).
        Normal = "normal",
        /// Uniform in `±1/sqrt(d)` (spec 3.3).
        Uniform = "uniform",
    }
);
named!(
    /// Which `z` of a layer the other layers see.
    Incumbent {
        /// The best of the run so far.
        Best = "best",
        /// The mean of the distribution.
        Mean = "mean",
        /// The best of the last generation.
        GenerationBest = "generation-best",
    }
);
named!(
    /// What of a layer's covariance is learnt; docs/cma.md compares them.
    Covariance {
        /// All of it.
        Full = "full",
        /// Its diagonal.
        Separable = "separable",
        /// Its diagonal at first, then all of it.
        DiagonalStart = "diagonal-start",
        /// A few directions.
        LimitedMemory = "limited-memory",
        /// What fits the dimension and the budget.
        Auto = "auto",
    }
);
named!(
    /// How fast a layer's mean and covariance move.
    LearningRates {
        /// As CMA-ES says.
        Fixed = "fixed",
        /// By as much of it as the signal is worth.
        Adapted = "adapted",
    }
);
named!(
    /// What the kept deep prompt is chosen by on dev.
    Select {
        /// The metric, then the loss.
        Metric = "metric",
        /// The loss.
        Loss = "loss",
    }
);
named!(
    /// Whether an evaluator keeps the projections.
    KeepProjections {
        /// While they fit.
        Auto = "auto",
        /// In memory.
        Memory = "memory",
        /// Nowhere: they are made anew for each piece of work.
        Regenerate = "regenerate",
    }
);
named!(
    /// Numeric type of the blocks' linear layers; all else is computed in 32-bit floats.
    Dtype {
        /// 32-bit floats.
        F32 = "f32",
        /// 16-bit floats throughout; on a GPU alone.
        F16 = "f16",
        /// Inputs and weights rounded to bfloat16, summed in 32-bit floats.
        Bf16 = "bf16",
        /// Inputs and weights rounded to 8-bit integers, summed exactly.
        Int8 = "int8",
    }
);

impl Default for Dtype {
    /// What loses nothing.
    fn default() -> Self {
        Self::F32
    }
}

/// Everything a run is, with absolute paths and no defaults left to fill in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunSpec {
    /// The backbone and how it is read.
    pub model: ModelSpec,
    /// The task.
    pub task: TaskSpec,
    /// The prompt.
    pub prompt: PromptSpec,
    /// The search.
    pub search: SearchSpec,
    /// Where and with what it runs; changes no result.
    pub run: RunSettings,
}

/// `[model]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelSpec {
    /// Absolute folder, or hub id.
    pub path: String,
    /// Hub revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Numeric type.
    pub dtype: Dtype,
    /// Device.
    pub device: Device,
    /// Read-out.
    pub read_out: ReadOut,
    /// Divisor of the cosines.
    pub temperature: f32,
}

/// `[task]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// For reports.
    pub name: String,
    /// The pool.
    pub train: PathBuf,
    /// The test set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<PathBuf>,
    /// The template.
    pub template: Template,
    /// Label words, in label order.
    pub words: Vec<String>,
    /// Examples a class.
    pub shots: usize,
    /// What a candidate scores.
    pub loss: Loss,
    /// What dev and test are rated by.
    pub metric: Metric,
}

/// `[prompt]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PromptSpec {
    /// Prompt tokens a layer.
    pub tokens: usize,
    /// How it enters a layer.
    pub injection: Injection,
    /// What it starts from.
    pub init: Init,
}

/// `[search]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SearchSpec {
    /// Which layers are tuned.
    pub method: Method,
    /// Intrinsic dimension of one layer.
    pub dim: usize,
    /// Candidates in a generation.
    pub population: usize,
    /// Initial step size.
    pub sigma: f64,
    /// Prompt's standard deviation in those of its host.
    pub alpha: f64,
    /// Calls.
    pub budget: u64,
    /// Seed of everything random.
    pub seed: u64,
    /// Distribution of the projections.
    pub projection: ProjectionKind,
    /// What the other layers see.
    pub incumbent: Incumbent,
    /// What dev keeps a prompt by.
    pub select: Select,
    /// Generations between two scores on dev.
    pub dev_every: u64,
    /// What of a layer's covariance is learnt. Like the keys below it is not written where it has its default: such a
    /// run's hash is that of a run file which does not know the key.
    #[serde(default = "full", skip_serializing_if = "is_full")]
    pub covariance: Covariance,
    /// How fast mean and covariance move.
    #[serde(default = "fixed", skip_serializing_if = "is_fixed")]
    pub learning_rates: LearningRates,
    /// What no entry of a layer's `z` leaves: lower and upper bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bounds: Option<[f64; 2]>,
    /// Whether a layer's incumbent is evaluated again with each of its generations.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reevaluate: bool,
    /// Whether hopeless candidates are spared examples.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub racing: bool,
    /// Seconds after which a generation ends with what has come in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<f64>,
}

fn full() -> Covariance {
    Covariance::Full
}

fn is_full(covariance: &Covariance) -> bool {
    *covariance == Covariance::Full
}

fn fixed() -> LearningRates {
    LearningRates::Fixed
}

fn is_fixed(rates: &LearningRates) -> bool {
    *rates == LearningRates::Fixed
}

/// `[run]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunSettings {
    /// The run folder.
    pub folder: PathBuf,
    /// Threads of the embedded evaluator; 0 means all cores.
    pub threads: usize,
    /// Rows in flight at most.
    pub max_batch_tokens: BatchTokens,
    /// Memory that the run may take; what the machine has left where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// Whether the projections are kept.
    pub projections: KeepProjections,
    /// Seconds until unanswered work is given to another evaluator.
    pub lease_timeout_s: u64,
    /// Seconds that a finished run tries to write what it has found.
    pub write_timeout_s: u64,
}

impl RunSpec {
    /// Identifies what the result depends on: everything but `[run]`, the task's name, and where files lie.
    /// `train_sha256` stands for the pool; the model is checked by its own hashes, the test set changes no prompt,
    /// and has a hash of its own beside the scores on it.
    pub fn hash(&self, train_sha256: &str) -> String {
        let mut defining = self.clone();
        defining.model.path = String::new();
        defining.model.revision = None;
        defining.task.name = String::new();
        defining.task.train = PathBuf::from(train_sha256);
        defining.task.test = None;
        let parts = (&defining.model, &defining.task, &defining.prompt, &defining.search);
        let text = serde_json::to_vec(&parts).unwrap_or_default(); // plain data: cannot fail
        Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
