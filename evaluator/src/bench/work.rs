//! The folder that scripts/bench-peers writes: a model, examples, and the prompts that its peers get too.
//!
//! `work.json` names the model's folder, the examples' ids, the read-out and the threads; `prompts.safetensors` holds
//! `context` `[L, n, H]` and `candidates` `[m, n, H]`, which are tried at every layer.

use std::path::{Path, PathBuf};

use candle_core::{Device, safetensors};
use serde::Deserialize;

use super::BenchError;

/// `work.json`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Work {
    pub(super) model: PathBuf,
    pub(super) examples: Vec<Example>,
    pub(super) prompt_tokens: usize,
    pub(super) initial_ids: Vec<u32>,
    pub(super) read_out: String,
    #[serde(default)]
    pub(super) label_ids: Vec<u32>,
    #[serde(default)]
    pub(super) class_phrases: Vec<Vec<u32>>,
    pub(super) temperature: f32,
    pub(super) injection: String,
    pub(super) threads: usize,
    #[serde(skip)]
    pub(super) context: Vec<Vec<f32>>,
    #[serde(skip)]
    pub(super) candidates: Vec<Vec<f32>>,
}

/// One example.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Example {
    pub(super) ids: Vec<u32>,
    pub(super) read_out: usize,
}

impl Work {
    /// Reads the folder.
    pub(super) fn read(folder: &Path) -> Result<Self, BenchError> {
        let path = folder.join("work.json");
        let wrong = |reason: String| BenchError::Work { path: path.clone(), reason };
        let text = std::fs::read_to_string(&path).map_err(|error| wrong(error.to_string()))?;
        let mut work: Self = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        let path = folder.join("prompts.safetensors");
        let wrong = |reason: String| BenchError::Work { path: path.clone(), reason };
        let tensors = safetensors::load(&path, &Device::Cpu).map_err(|error| wrong(error.to_string()))?;
        let rows = |name: &str| {
            let tensor = tensors.get(name).ok_or_else(|| wrong(format!("no tensor `{name}`")))?;
            let rows = tensor.flatten_from(1).and_then(|tensor| tensor.to_vec2());
            rows.map_err(|error| wrong(format!("tensor `{name}`: {error}")))
        };
        work.context = rows("context")?;
        work.candidates = rows("candidates")?;
        Ok(work)
    }
}
