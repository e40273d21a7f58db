//! What a model is and what it takes: for whoever chooses one.

use std::path::Path;

use serde_json::Value;
use shared::gguf::Head;
use shared::model::CONFIG;

use crate::backbone::{Backbone, Dtype};
use crate::limits::Limits;
use crate::memory::{Footprint, Kept, Sizes};
use crate::model::{LoadError, Model};
use crate::models::census::Census;
use crate::models::locate;

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
    /// Bytes of its tables of words, which stay in the file: a few rows are looked up at a time.
    pub table_bytes: u64,
    /// Bytes that its weights take in memory.
    pub weight_bytes: u64,
    /// What a run keeps under the limits given; its bytes are all that the process takes.
    pub kept: Kept,
}

/// Loads the model called `name` as an evaluator does, and looks at it; a relative path is relative to `base`. The memory
/// is that of a run of `sizes` under `limits`.
///
/// # Errors
/// See [`LoadError`].
pub fn inspect(
    name: &str,
    base: &Path,
    revision: Option<&str>,
    dtype: Dtype,
    sizes: Sizes,
    limits: impl FnOnce(&Backbone) -> Limits,
) -> Result<Facts, LoadError> {
    let located = locate::locate(name, base, revision)?;
    let model = Model::from_located(&located, dtype)?;
    let backbone = &model.backbone;
    let census = Census::of(&located.weights).map_err(crate::backbone::ModelError::from)?;
    let footprint = Footprint::new(&model, sizes);
    let limits = limits(backbone);
    Ok(Facts {
        family: located.gguf().map_or_else(|| family(&located.folder), architecture),
        layers: backbone.layers(),
        hidden: backbone.hidden(),
        parameters: census.parameters,
        dtype: census.dtypes.into_iter().collect::<Vec<_>>().join(", "),
        vocabulary: backbone.vocab(),
        max_tokens: backbone.max_tokens(),
        read_outs: backbone.read_outs(),
        table_bytes: backbone.table_bytes() as u64,
        weight_bytes: footprint.weights,
        kept: footprint.within(&limits, limits.bytes()),
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
