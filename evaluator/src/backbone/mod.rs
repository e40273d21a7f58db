//! The backbone: configuration and weights, immutable once loaded.
//!
//! One block (`block`) is made of choices (`choices`); a family is a page that reads its configuration's keys, names
//! its tensors and picks the choices.

mod attention;
mod bart;
mod bert;
mod block;
mod bytes;
mod choices;
mod cpt;
mod cross;
mod deberta;
mod decoder;
mod disentangled;
mod dtype;
mod gpt2;
mod keys;
mod known;
mod llama;
mod load;
mod modernbert;
mod pooling;
mod rope;
mod rotary;
mod t5;
mod weight;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use thiserror::Error;

use crate::models::gguf::{Gguf, GgufError};
use crate::models::locate::Located;
use crate::models::weights::{WeightError, Weights};

pub(crate) use block::{Block, Hidden, Input, PromptRows, Scratch, Wanted};
pub(crate) use choices::{
    Activation, FeedForward, Heads, Linear, Norm, NormKind, Norms, Place, Relative, Sight,
};
pub(crate) use cross::{Cross, Encoded};
pub(crate) use decoder::{Decoder, Given};
pub(crate) use disentangled::Disentangled;
pub use dtype::Dtype;
use dtype::runs_here;
pub(crate) use known::{Known, Parts, Projected};
pub use pooling::Pooling;
pub(crate) use rotary::Rotary;
pub(crate) use weight::Table;

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
    #[error("{}: model_type \"{found}\" is not supported; supported are: {}", path.display(), supported().join(", "))]
    Architecture {
        /// The file.
        path: PathBuf,
        /// What it names.
        found: String,
    },
    /// A processor that cannot compute in the type asked for.
    #[error(
        "model.dtype = \"{dtype}\" needs a processor with {lacks}, which this one has not; use model.dtype = \"f32\""
    )]
    Processor {
        /// The type.
        dtype: Dtype,
        /// The instructions it has not.
        lacks: &'static str,
    },
    /// A GGUF file.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The weights.
    #[error(transparent)]
    Weights(#[from] WeightError),
}

/// What is wrong with a model, before it is known where it lies.
#[derive(Debug, Error)]
pub(crate) enum PageError {
    /// A configuration that asks for what there is not, or contradicts itself.
    #[error("{0}")]
    Config(String),
    /// The weights.
    #[error(transparent)]
    Weights(#[from] WeightError),
}

/// A family's page: the configuration's text, its `model_type` and the weights and what its linear layers are computed in,
/// to a backbone.
type Page = fn(&str, &str, &Weights, Dtype) -> Result<Backbone, PageError>;

/// Every page with the `model_type`s it serves.
const PAGES: &[(&[&str], Page)] = &[
    (bert::FAMILIES, bert::load),
    (gpt2::FAMILIES, gpt2::load),
    (llama::FAMILIES, llama::load),
    (modernbert::FAMILIES, modernbert::load),
    (deberta::FAMILIES, deberta::load),
    (bart::FAMILIES, bart::load),
    (t5::FAMILIES, t5::load),
];

fn supported() -> Vec<&'static str> {
    PAGES.iter().flat_map(|(families, _)| families.iter().copied()).collect()
}

/// What the numbers of a configuration come to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) hidden: usize,
    pub(crate) vocab: usize,
    /// Tokens an input may have, special tokens and prompt rows included.
    pub(crate) tokens: usize,
    /// Id of the padding token, where the configuration names one.
    pub(crate) padding: Option<usize>,
}

/// Learned absolute positions.
#[derive(Clone, Debug)]
pub(crate) struct Positions {
    /// `[positions, hidden]`
    pub(crate) table: Vec<f32>,
    /// Row of the first token.
    pub(crate) first: usize,
}

/// Embedding tables and their norm: `norm(position + scale * word + token_type)`.
#[derive(Clone, Debug)]
pub(crate) struct Embeddings {
    /// `[vocab, hidden]`
    pub(crate) word: Table,
    pub(crate) scale: f32,
    pub(crate) position: Option<Positions>,
    /// A row of the token types, `[hidden]`: a single sequence has one alone.
    pub(crate) token_type: Option<Vec<f32>>,
    pub(crate) norm: Option<Norm>,
}

impl Embeddings {
    /// Embeds tokens: `ids[i]` at position `positions[i]`; a missing id is a zero word. Appends to `out`.
    pub(crate) fn embed(
        &self,
        hidden: usize,
        tokens: impl Iterator<Item = (Option<u32>, usize)>,
        out: &mut Vec<f32>,
    ) {
        for (id, position) in tokens {
            let start = out.len();
            match &self.position {
                Some(learned) => {
                    let position = (position + learned.first) * hidden;
                    out.extend_from_slice(&learned.table[position..position + hidden]);
                }
                None => out.resize(start + hidden, 0.0),
            }
            let row = &mut out[start..];
            if let Some(id) = id {
                let add = |word: &[f32]| row.iter_mut().zip(word).for_each(|(x, w)| *x += w * self.scale);
                self.word.row(id as usize, hidden, add);
            }
            match (&self.norm, &self.token_type) {
                (Some(norm), Some(token_type)) => norm.apply_sum(row, token_type),
                (Some(norm), None) => norm.apply(row),
                (None, Some(token_type)) => crate::kernel::add(row, token_type),
                (None, None) => {}
            }
        }
        self.word.forget(); // around each row looked up, the system maps sixteen pages
    }
}

/// What a head predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Predicts {
    /// The token at a mask.
    Mask,
    /// The token after the last one.
    Next,
    /// The decoder's next token, where an encoder reads the text.
    Decoded,
}

/// What a masked-LM head does before the vocabulary.
#[derive(Clone, Debug)]
pub(crate) struct Transform {
    pub(crate) dense: Linear,
    pub(crate) activation: Activation,
    pub(crate) norm: Norm,
}

/// The head of a language model: from a last hidden state to the vocabulary.
#[derive(Clone, Debug)]
pub(crate) struct LmHead {
    pub(crate) predicts: Predicts,
    pub(crate) transform: Option<Transform>,
    /// Decoder, `[vocab, hidden]`; `None` when it is tied to the word embeddings.
    pub(crate) decoder: Option<Table>,
    /// `[vocab]`
    pub(crate) bias: Option<Vec<f32>>,
    /// Factor of the hidden state before the decoder.
    pub(crate) scale: f32,
    /// Soft-capping of the logits.
    pub(crate) cap: Option<f32>,
}

/// Packed rows: those of several sequences one after the other.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    /// `[rows, hidden]`
    pub(crate) text: &'a [f32],
    /// Each sequence's rows.
    pub(crate) spans: &'a [Range<usize>],
    /// Each sequence's row that is read, from its span's start.
    pub(crate) picks: &'a [usize],
}

/// Configuration and weights of one model.
#[derive(Debug)]
pub struct Backbone {
    pub(crate) sizes: Sizes,
    pub(crate) embeddings: Embeddings,
    pub(crate) blocks: Vec<Block>,
    /// After the last block.
    pub(crate) final_norm: Option<Norm>,
    pub(crate) head: Option<LmHead>,
    /// What reads the encoder's output, in an encoder-decoder model.
    pub(crate) decoder: Option<Decoder>,
    /// How the similarity read-out makes one row of all.
    pub(crate) pooling: Pooling,
}

#[derive(Deserialize)]
struct Architecture {
    model_type: Option<String>,
}

impl Backbone {
    /// Loads a located model whose blocks' linear layers will be computed in `dtype`.
    ///
    /// # Errors
    /// See [`ModelError`].
    pub fn load(located: &Located, dtype: Dtype) -> Result<Self, ModelError> {
        if let Some(file) = located.gguf() {
            return Self::of_gguf(Arc::new(Gguf::open(file)?), dtype);
        }
        runs_here(dtype)?;
        let path = located.folder.join("config.json");
        let config = |reason: String| ModelError::Config { path: path.clone(), reason };
        let text = std::fs::read_to_string(&path).map_err(|e| config(e.to_string()))?;
        let weights = || Ok(Weights::open(&located.folder, &located.weights)?);
        let backbone = Self::of_config(&text, &path, weights, dtype)?;
        Ok(Self { pooling: Pooling::of_folder(&located.folder)?, ..backbone })
    }

    /// The model of a configuration with random weights, `optional` ones among them: for benchmarks.
    ///
    /// # Errors
    /// [`ModelError::Config`], [`ModelError::Architecture`] or [`ModelError::Processor`].
    pub fn random(config: &str, optional: &'static [&'static str], dtype: Dtype) -> Result<Self, ModelError> {
        runs_here(dtype)?;
        let path = PathBuf::from("config.json");
        Self::of_config(config, &path, || Ok(Weights::random(optional)), dtype)
    }

    /// The model of a configuration's text, which `path` names, once its family is known.
    fn of_config(
        text: &str,
        path: &Path,
        weights: impl FnOnce() -> Result<Weights, ModelError>,
        dtype: Dtype,
    ) -> Result<Self, ModelError> {
        let config = |reason: String| ModelError::Config { path: path.to_owned(), reason };
        let named: Architecture = serde_json::from_str(text).map_err(|e| config(e.to_string()))?;
        let family = named.model_type.unwrap_or_default();
        let Some((_, page)) = PAGES.iter().find(|(families, _)| families.contains(&family.as_str())) else {
            return Err(ModelError::Architecture { path: path.to_owned(), found: family });
        };
        page(text, &family, &weights()?, dtype).map_err(|error| match error {
            PageError::Config(reason) => config(reason),
            PageError::Weights(error) => ModelError::Weights(error),
        })
    }

    /// The model of a GGUF file; its weights stay there, but for those that are computed in another type than `f32`.
    ///
    /// # Errors
    /// See [`ModelError`].
    pub fn of_gguf(gguf: Arc<Gguf>, dtype: Dtype) -> Result<Self, ModelError> {
        runs_here(dtype)?;
        let path = gguf.path().to_owned();
        llama::load_gguf(gguf, dtype).map_err(|error| match error {
            PageError::Config(reason) => ModelError::Config { path, reason },
            PageError::Weights(error) => ModelError::Weights(error),
        })
    }

    /// Layers that take a prompt.
    pub fn layers(&self) -> usize {
        self.blocks.len()
    }

    /// Width of a hidden state.
    pub fn hidden(&self) -> usize {
        self.sizes.hidden
    }

    /// Entries of the vocabulary.
    pub fn vocab(&self) -> usize {
        self.sizes.vocab
    }

    /// Id of the padding token, where the configuration names one.
    pub fn padding(&self) -> Option<usize> {
        self.sizes.padding
    }

    /// Tokens an input may have, special tokens and prompt rows included.
    pub fn max_tokens(&self) -> usize {
        self.sizes.tokens
    }

    /// How the similarity read-out makes one row of all.
    pub fn pooling(&self) -> Pooling {
        self.pooling
    }

    /// Whether no row sees what comes after it, so that a prompt at the beginning never sees the text.
    pub fn is_causal(&self) -> bool {
        self.blocks.iter().all(|block| block.heads.sight.is_causal())
    }

    /// The read-outs this model has, by the names a run file uses.
    pub fn read_outs(&self) -> &'static [&'static str] {
        match self.head.as_ref().map(|head| head.predicts) {
            Some(Predicts::Mask) => &["masked-lm", "similarity"],
            Some(Predicts::Next) => &["next-token", "similarity"],
            Some(Predicts::Decoded) => &["seq2seq"],
            None => &["similarity"],
        }
    }

    /// Embeds tokens, see [`Embeddings::embed`].
    pub(crate) fn embed(&self, tokens: impl Iterator<Item = (Option<u32>, usize)>, out: &mut Vec<f32>) {
        self.embeddings.embed(self.hidden(), tokens, out);
    }

    /// What comes after the last block, in place.
    pub(crate) fn finish(&self, rows: &mut [f32]) {
        if let Some(norm) = &self.final_norm {
            norm.apply(rows);
        }
    }
}

/// Reads a configuration's keys.
fn parse<T: for<'a> Deserialize<'a>>(text: &str) -> Result<T, PageError> {
    serde_json::from_str(text).map_err(|e| PageError::Config(e.to_string()))
}

/// Refuses a configuration whose heads cannot share its width evenly.
fn divides(hidden: (&str, usize), heads: (&str, usize)) -> Result<(), PageError> {
    if heads.1 == 0 || !hidden.1.is_multiple_of(heads.1) {
        let text = format!("{} {} is no multiple of {} {}", hidden.0, hidden.1, heads.0, heads.1);
        return Err(PageError::Config(text));
    }
    Ok(())
}

/// Refuses a configuration with a zero where there must be something.
fn above_zero(sizes: &[(&str, usize)]) -> Result<(), PageError> {
    if sizes.iter().all(|(_, size)| *size > 0) {
        return Ok(());
    }
    let names: Vec<&str> = sizes.iter().map(|(name, _)| *name).collect();
    Err(PageError::Config(format!("{} must be above 0", names.join(", "))))
}
