//! The run specification: what the user typed ([`RunFile`]) and what it means ([`RunSpec`]).

mod device;
mod error;
mod file;
mod keys;
mod limits;
mod resolved;

pub use device::Device;
pub use error::SpecError;
pub use file::RunFile;
pub use keys::{KEYS, Key};
pub use limits::{BatchTokens, Bytes};
pub use resolved::{
    Covariance, Dtype, Incumbent, Init, Injection, KeepProjections, LearningRates, Method, ModelSpec,
    ProjectionKind, PromptSpec, ReadOut, RunSettings, RunSpec, SearchSpec, Select, TaskSpec,
};

/// Rows an evaluator keeps in flight unless told otherwise.
pub const DEFAULT_MAX_BATCH_TOKENS: usize = 8192;

#[cfg(test)]
mod tests;
