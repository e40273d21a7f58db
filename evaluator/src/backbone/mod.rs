//! The backbone: configuration and weights, immutable once loaded.

mod attention;
mod bert;
mod block;

use std::path::PathBuf;

use candle_transformers::models::bert::{Config, HiddenAct};
use serde::Deserialize;
use thiserror::Error;

use crate::kernel::{Packed, add_layer_norm, gelu_erf, gelu_tanh, gemm, relu};
use crate::models::locate::Located;
use crate::models::weights::WeightError;

pub(crate) use block::{Block, Hidden, Input, Projected, PromptRows, Scratch, Wanted};

/// Why a model's files cannot be used.
#[derive(Debug, Error)]
pub enum ModelError {
    /// `config.json` cannot be read.
    #[error("{}: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// An architecture we have no page for.
    #[error("{}: model_type \"{found}\" is not supported; supported are: {}", path.display(), bert::FAMILIES.join(", "))]
    Architecture {
        /// The file.
        path: PathBuf,
        /// What it names.
        found: String,
    },
    /// The weights.
    #[error(transparent)]
    Weights(#[from] WeightError),
}

/// A linear layer: `y = x W^T + b`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Linear {
    pub(crate) weight: Packed,
    pub(crate) bias: Vec<f32>,
}

impl Linear {
    /// `rows` rows from `x` (`[rows, depth]`, rows `stride` apart) to `out` (`[rows, outputs]`).
    pub(crate) fn forward(&self, x: &[f32], rows: usize, out: &mut Vec<f32>) {
        out.resize(rows * self.weight.outputs(), 0.0);
        let (depth, outputs) = (self.weight.depth(), self.weight.outputs());
        gemm(x, depth, rows, &self.weight, Some(&self.bias), out, outputs);
    }
}

/// Layer norm.
#[derive(Clone, Debug, Default)]
pub(crate) struct Norm {
    pub(crate) weight: Vec<f32>,
    pub(crate) bias: Vec<f32>,
    pub(crate) eps: f32,
}

impl Norm {
    /// `out = LayerNorm(out + residual)`, row by row.
    pub(crate) fn add(&self, out: &mut [f32], residual: &[f32]) {
        add_layer_norm(out, residual, &self.weight, &self.bias, self.eps);
    }
}

/// The feed-forward's activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    GeluErf,
    GeluTanh,
    Relu,
}

impl Activation {
    fn from_config(activation: HiddenAct) -> Self {
        match activation {
            HiddenAct::Gelu => Self::GeluErf,
            HiddenAct::GeluApproximate => Self::GeluTanh,
            HiddenAct::Relu => Self::Relu,
        }
    }

    /// Element by element, in place.
    pub(crate) fn apply(self, values: &mut [f32]) {
        match self {
            Self::GeluErf => gelu_erf(values),
            Self::GeluTanh => gelu_tanh(values),
            Self::Relu => relu(values),
        }
    }
}

/// Embedding tables and their norm.
#[derive(Clone, Debug)]
pub(crate) struct Embeddings {
    /// `[vocab, hidden]`
    pub(crate) word: Vec<f32>,
    /// `[positions, hidden]`
    pub(crate) position: Vec<f32>,
    /// Row 0 of the token types, `[hidden]`: a single sequence has no other.
    pub(crate) token_type: Vec<f32>,
    pub(crate) norm: Norm,
    /// Position of the first token.
    pub(crate) first_position: usize,
}

/// The masked-LM head up to the vocabulary, and the vocabulary's weights.
#[derive(Clone, Debug)]
pub(crate) struct MlmHead {
    pub(crate) dense: Linear,
    pub(crate) norm: Norm,
    /// Decoder, `[vocab, hidden]`; `None` when it is tied to the word embeddings.
    pub(crate) decoder: Option<Vec<f32>>,
    /// `[vocab]`
    pub(crate) bias: Vec<f32>,
}

/// Configuration and weights of one model.
#[derive(Debug)]
pub struct Backbone {
    pub(crate) config: Config,
    pub(crate) activation: Activation,
    pub(crate) embeddings: Embeddings,
    pub(crate) blocks: Vec<Block>,
    pub(crate) head: Option<MlmHead>,
}

#[derive(Deserialize)]
struct Architecture {
    model_type: Option<String>,
}

impl Backbone {
    /// Loads a located model.
    ///
    /// # Errors
    /// See [`ModelError`].
    pub fn load(located: &Located) -> Result<Self, ModelError> {
        let path = located.folder.join("config.json");
        let config = |reason: String| ModelError::Config { path: path.clone(), reason };
        let text = std::fs::read_to_string(&path).map_err(|e| config(e.to_string()))?;
        let named: Architecture = serde_json::from_str(&text).map_err(|e| config(e.to_string()))?;
        let family = named.model_type.unwrap_or_default();
        if !bert::FAMILIES.contains(&family.as_str()) {
            return Err(ModelError::Architecture { path, found: family });
        }
        let parsed: Config = serde_json::from_str(&text).map_err(|e| config(e.to_string()))?;
        check(&parsed).map_err(config)?;
        bert::load(&located.folder, &located.weights, parsed, &family)
    }

    /// Layers that take a prompt.
    pub fn layers(&self) -> usize {
        self.blocks.len()
    }

    /// Width of a hidden state.
    pub fn hidden(&self) -> usize {
        self.config.hidden_size
    }

    /// Entries of the vocabulary.
    pub fn vocab(&self) -> usize {
        self.config.vocab_size
    }

    /// Id of the padding token.
    pub fn padding(&self) -> usize {
        self.config.pad_token_id
    }

    /// Tokens an input may have, special tokens and prompt rows included.
    pub fn max_tokens(&self) -> usize {
        self.config.max_position_embeddings.saturating_sub(self.embeddings.first_position)
    }

    /// Whether there is a masked-LM head.
    pub fn has_head(&self) -> bool {
        self.head.is_some()
    }

    /// Embeds tokens: `ids[i]` at position `positions[i]`; a missing id is a zero word. Appends to `out`.
    pub(crate) fn embed(&self, tokens: impl Iterator<Item = (Option<u32>, usize)>, out: &mut Vec<f32>) {
        let (hidden, tables) = (self.hidden(), &self.embeddings);
        for (id, position) in tokens {
            let position = (position + tables.first_position) * hidden;
            let start = out.len();
            out.extend_from_slice(&tables.position[position..position + hidden]);
            let row = &mut out[start..];
            if let Some(id) = id {
                let word = id as usize * hidden;
                row.iter_mut().zip(&tables.word[word..word + hidden]).for_each(|(x, w)| *x += w);
            }
            tables.norm.add(row, &tables.token_type);
        }
    }
}

fn check(config: &Config) -> Result<(), String> {
    let heads = config.num_attention_heads;
    if heads == 0 || !config.hidden_size.is_multiple_of(heads) {
        return Err(format!(
            "hidden_size {} is no multiple of num_attention_heads {heads}",
            config.hidden_size
        ));
    }
    if config.num_hidden_layers == 0 || config.vocab_size == 0 || config.type_vocab_size == 0 {
        return Err("num_hidden_layers, vocab_size and type_vocab_size must be above 0".to_owned());
    }
    Ok(())
}
