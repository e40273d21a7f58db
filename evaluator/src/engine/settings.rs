//! What an engine is built with, and what it cannot do.

use std::sync::Arc;

use rayon::ThreadPool;
use thiserror::Error;

use super::{ReadOut, Tokens};
use crate::backbone::Backbone;

/// How a prompt enters a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Injection {
    /// Added to the hidden states at the prompt's positions.
    Add,
    /// Replaces them: keys and values only.
    Prefix,
}

impl std::fmt::Display for Injection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Add => "add",
            Self::Prefix => "prefix",
        })
    }
}

/// The special tokens that a tokenizer puts before and after every text, where it does. A prompt stands after the one
/// before, or first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Around {
    /// `[CLS]`, `<s>`, `<bos>`.
    pub before: Option<u32>,
    /// `[SEP]`, `</s>`.
    pub after: Option<u32>,
}

/// What an engine is built with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How a prompt enters a layer.
    pub injection: Injection,
    /// Prompt tokens a layer, `n`.
    pub prompt_tokens: usize,
    /// Token ids at the prompt's positions; `None` is a zero word at each.
    pub initial_ids: Option<Vec<u32>>,
    /// The special tokens that the tokenizer puts around a text.
    pub around: Around,
    /// The read-out.
    pub read_out: ReadOut,
    /// Rows in flight at most, over all threads.
    pub max_batch_tokens: usize,
    /// The compute pool.
    pub pool: Arc<ThreadPool>,
}

/// What an engine cannot do.
#[derive(Debug, Error)]
pub enum EngineError {
    /// A read-out that the model has not.
    #[error("this model cannot be read by \"{asked}\"; use model.read_out = \"{supported}\"")]
    ReadOut {
        /// The one asked for.
        asked: &'static str,
        /// Those it has.
        supported: String,
    },
    /// A label word outside the vocabulary.
    #[error("a label word's token id lies outside the vocabulary of {vocab}")]
    Label {
        /// Its size.
        vocab: usize,
    },
    /// A token id outside the vocabulary: the tokenizer is another model's.
    #[error(
        "example {example}: token id {id} lies outside the model's vocabulary of {vocab}; is tokenizer.json this model's?"
    )]
    Token {
        /// Its index.
        example: usize,
        /// The id.
        id: u32,
        /// The vocabulary's size.
        vocab: usize,
    },
    /// More tokens than the model has positions.
    #[error("example {example}: {tokens} tokens, prompt included; the model allows {limit}")]
    TooLong {
        /// Its index.
        example: usize,
        /// Its tokens.
        tokens: usize,
        /// The limit.
        limit: usize,
    },
    /// A text that does not begin as all others do.
    #[error("example {example}: it does not begin with the tokenizer's first special token")]
    Beginning {
        /// Its index.
        example: usize,
    },
    /// The device's arithmetic, most often its memory.
    #[error("the device: {0}")]
    Device(#[from] candle_core::Error),
    /// A layer, prompt or range that does not fit this engine.
    #[error("{0}")]
    Shape(String),
}

/// Whether every example fits the model, and begins with the token before the prompt.
pub(super) fn check(
    backbone: &Backbone,
    examples: &[Tokens],
    prompt: usize,
    before: Option<u32>,
) -> Result<(), EngineError> {
    let (limit, vocab) = (backbone.max_tokens(), backbone.vocab());
    for (example, tokens) in examples.iter().enumerate() {
        let count = tokens.ids.len() + prompt;
        if count > limit {
            return Err(EngineError::TooLong { example, tokens: count, limit });
        }
        if let Some(&id) = tokens.ids.iter().find(|&&id| id as usize >= vocab) {
            return Err(EngineError::Token { example, id, vocab });
        }
        // what a causal model makes of the rows before the text is shared by all examples
        if backbone.is_causal() && before.is_some() && tokens.ids.first().copied() != before {
            return Err(EngineError::Beginning { example });
        }
        if tokens.ids.len() <= tokens.read_out {
            let text = format!(
                "example {example}: row {} of {} tokens is to be read",
                tokens.read_out,
                tokens.ids.len()
            );
            return Err(EngineError::Shape(text));
        }
    }
    Ok(())
}
