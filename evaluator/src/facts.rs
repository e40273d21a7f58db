//! What a model is and what it takes: for whoever chooses one.

use std::path::Path;

use serde_json::Value;
use shared::gguf::Head;
use shared::model::CONFIG;

use crate::backbone::Dtype;
use crate::engine;
use crate::model::{LoadError, Model};
use crate::models::census::Census;
use crate::models::locate;
use crate::session::PROGRAM_BYTES;

/// The run that the memory is worked out for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// What the blocks' linear layers are computed in.
    pub dtype: Dtype,
    /// Rows in flight at most; the training examples are taken to have as many.
    pub max_batch_tokens: usize,
    /// Prompt tokens a layer.
    pub prompt_tokens: usize,
    /// Dimension of a layer's search space.
    pub dim: usize,
    /// Threads of the compute pool.
    pub threads: usize,
}

/// A model in numbers and words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// `model_type` of its configuration.
    pub family: String,
    /// Layers that take a prompt.
    pub layers: usize,
    /// Width of a hidden state.
    pub hidden: usize,
    /// Parameters stored.
    pub parameters: u64,
    /// As what they are stored, `bf16`, or `bf16, f32`.
    pub dtype: String,
    /// Entries of the vocabulary.
    pub vocabulary: usize,
    /// Tokens an input may have, special tokens and prompt rows included.
    pub max_tokens: usize,
    /// By the names that a run file uses.
    pub read_outs: &'static [&'static str],
    /// Bytes that its weights take in memory.
    pub weight_bytes: u64,
    /// These, and what an evaluator holds beside them at most.
    pub memory_bytes: u64,
}

/// Loads the model called `name` as an evaluator does, and looks at it; a relative path is relative to `base`.
///
/// # Errors
/// See [`LoadError`].
pub fn inspect(name: &str, base: &Path, revision: Option<&str>, budget: Budget) -> Result<Facts, LoadError> {
    let located = locate::locate(name, base, revision)?;
    let model = Model::from_located(&located, budget.dtype)?;
    let backbone = &model.backbone;
    let census = Census::of(&located.weights).map_err(crate::backbone::ModelError::from)?;
    let weight_bytes = backbone.weight_bytes() as u64;
    let Budget { dtype: _, max_batch_tokens, prompt_tokens, dim, threads } = budget;
    let working = engine::working_bytes(backbone, max_batch_tokens, max_batch_tokens, threads) as u64;
    Ok(Facts {
        family: located.gguf().map_or_else(|| family(&located.folder), architecture),
        layers: backbone.layers(),
        hidden: backbone.hidden(),
        parameters: census.parameters,
        dtype: census.dtypes.into_iter().collect::<Vec<_>>().join(", "),
        vocabulary: backbone.vocab(),
        max_tokens: backbone.max_tokens(),
        read_outs: backbone.read_outs(),
        weight_bytes,
        memory_bytes: weight_bytes
            + working
            + engine::prompt_bytes(backbone, prompt_tokens, dim)
            + model.encoder.bytes() as u64
            + PROGRAM_BYTES,
    })
}

/// What a GGUF file, which has been read before, calls the architecture.
fn architecture(file: &Path) -> String {
    let head = Head::read(file).unwrap_or_default();
    head.text("general.architecture").unwrap_or_default().to_owned()
}

/// What the configuration, which has been read before, calls the architecture.
fn family(folder: &Path) -> String {
    let text = std::fs::read(folder.join(CONFIG)).unwrap_or_default();
    let config: Value = serde_json::from_slice(&text).unwrap_or_default();
    config["model_type"].as_str().unwrap_or_default().to_owned()
}
