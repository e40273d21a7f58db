//! From rendered text to token ids: the model's own tokenizer, and nothing added that it does not add itself.

use std::path::{Path, PathBuf};

use thiserror::Error;
use tokenizers::Tokenizer;

use super::gguf::{Gguf, GgufError};
use super::locate::TOKENIZER;

/// The first id of the official prompt words (spec 0-1: ids 1000..1049).
const FIRST_PROMPT_ID: usize = 1000;

/// How mask tokens are written; T5's is its first sentinel.
const MASKS: &[&str] = &["[MASK]", "<mask>", "<extra_id_0>"];

/// Bytes of a vocabulary's entry in the tokenizer's tables, with its merges. Measured: 442 where there are 262144.
const ENTRY_BYTES: usize = 512;

/// A model's tokenizer, set to neither pad nor cut.
#[derive(Debug)]
pub struct TextEncoder {
    tokenizer: Tokenizer,
    path: PathBuf,
    mask: Option<(u32, String)>,
    special: Vec<u32>,
    around: (Vec<u32>, Vec<u32>),
}

/// A text as the model reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The ids, special tokens included, without prompt rows.
    pub ids: Vec<u32>,
    /// Positions of the mask token among them, ascending.
    pub masks: Vec<usize>,
}

/// A tokenizer that cannot be used.
#[derive(Debug, Error)]
pub enum TokenizerError {
    /// The file cannot be opened.
    #[error("cannot read {path}: {source}")]
    Read {
        /// `tokenizer.json`.
        path: PathBuf,
        /// What happened.
        source: std::io::Error,
    },
    /// The file is not a tokenizer.
    #[error("{path} is not a tokenizer that can be read: {problem}")]
    Corrupt {
        /// `tokenizer.json`.
        path: PathBuf,
        /// What the reader says.
        problem: String,
    },
    /// A GGUF file's tokenizer.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The tokenizer of another model.
    #[error(
        "{path} makes ids up to {largest} (\"{token}\"), but config.json has vocab_size {vocab_size}: \
         this tokenizer belongs to another model"
    )]
    OtherModel {
        /// `tokenizer.json`.
        path: PathBuf,
        /// The largest id it can make.
        largest: u32,
        /// That id's token.
        token: String,
        /// What the model's embedding has.
        vocab_size: usize,
    },
    /// The padding token of another model.
    #[error(
        "{path} gives {token} the id {id}, but config.json has pad_token_id {expected}: this tokenizer belongs \
         to another model"
    )]
    OtherPadding {
        /// `tokenizer.json`.
        path: PathBuf,
        /// Its padding token.
        token: &'static str,
        /// The token's id.
        id: u32,
        /// What the model says.
        expected: usize,
    },
}

/// A text that cannot be given to the model.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// The tokenizer refused.
    #[error("the tokenizer cannot encode {text:?}: {problem}")]
    Refused {
        /// The text, as rendered.
        text: String,
        /// What it says.
        problem: String,
    },
    /// More tokens than the model has positions for.
    #[error(
        "{tokens} tokens, but at most {max_tokens} fit beside the prompt; shorten or split the text, or use a \
         shorter template or fewer prompt.tokens"
    )]
    TooLong {
        /// What the text has, special tokens included.
        tokens: usize,
        /// What there is room for.
        max_tokens: usize,
    },
    /// No mask, or several.
    #[error("{count} mask tokens in the text; a masked language model is read at exactly one")]
    Masks {
        /// How many.
        count: usize,
    },
}

/// A label word that no single logit belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LabelWordError {
    /// Not one token.
    #[error(
        "label word \"{word}\" is {} tokens for this tokenizer ({}); choose a word that is one token \
         (a leading space counts: \" great\" and \"great\" may be different tokens)",
        .pieces.len(), quoted(.pieces)
    )]
    NotOneToken {
        /// The word, as given.
        word: String,
        /// What it is cut into.
        pieces: Vec<String>,
    },
    /// The tokenizer's unknown token.
    #[error(
        "label word \"{word}\" is not in this tokenizer's vocabulary (it becomes {piece}); \
         choose another word"
    )]
    Unknown {
        /// The word, as given.
        word: String,
        /// The token that stands for what is unknown.
        piece: String,
    },
    /// The tokenizer refused.
    #[error("label word \"{word}\": {problem}")]
    Refused {
        /// The word, as given.
        word: String,
        /// What it says.
        problem: String,
    },
}

fn quoted(pieces: &[String]) -> String {
    pieces.iter().map(|piece| format!("{piece:?}")).collect::<Vec<_>>().join(", ")
}

impl Encoded {
    /// The row of the one mask.
    ///
    /// # Errors
    /// [`EncodeError::Masks`] if there is none or more than one.
    pub fn mask(&self) -> Result<usize, EncodeError> {
        match self.masks[..] {
            [row] => Ok(row),
            _ => Err(EncodeError::Masks { count: self.masks.len() }),
        }
    }
}

impl TextEncoder {
    /// The tokenizer of a model's folder. Length limits and padding that its file asks for are switched off:
    /// rows are packed, and a text that is cut silently could lose its mask.
    ///
    /// # Errors
    /// [`TokenizerError::Read`] or [`TokenizerError::Corrupt`].
    pub fn load(folder: &Path) -> Result<Self, TokenizerError> {
        let path = folder.join(TOKENIZER);
        let bytes =
            std::fs::read(&path).map_err(|source| TokenizerError::Read { path: path.clone(), source })?;
        let corrupt = |problem: tokenizers::Error| TokenizerError::Corrupt {
            path: path.clone(),
            problem: problem.to_string(),
        };
        Self::new(Tokenizer::from_bytes(bytes).map_err(corrupt)?, path)
    }

    /// The tokenizer that a GGUF file describes.
    ///
    /// # Errors
    /// [`TokenizerError::Gguf`] or [`TokenizerError::Corrupt`].
    pub fn of_gguf(gguf: &Gguf) -> Result<Self, TokenizerError> {
        Self::new(gguf.tokenizer()?, gguf.path().to_owned())
    }

    fn new(mut tokenizer: Tokenizer, path: PathBuf) -> Result<Self, TokenizerError> {
        let corrupt = |problem: tokenizers::Error| TokenizerError::Corrupt {
            path: path.clone(),
            problem: problem.to_string(),
        };
        tokenizer.with_truncation(None).map_err(corrupt)?;
        tokenizer.with_padding(None);
        let mut special: Vec<(u32, String)> = tokenizer
            .get_added_tokens_decoder()
            .into_iter()
            .filter(|(_, token)| token.special)
            .map(|(id, token)| (id, token.content))
            .collect();
        special.sort();
        let mask = special.iter().find(|(_, content)| MASKS.contains(&content.as_str())).cloned();
        let around = around(&tokenizer).map_err(corrupt)?;
        let special = special.into_iter().map(|(id, _)| id).collect();
        Ok(Self { tokenizer, path, mask, special, around })
    }

    /// Bytes that the tokenizer takes, at most.
    pub fn bytes(&self) -> usize {
        self.tokenizer.get_vocab_size(true) * ENTRY_BYTES
    }

    /// The special tokens that the tokenizer puts before and after every text.
    pub fn around(&self) -> (&[u32], &[u32]) {
        (&self.around.0, &self.around.1)
    }

    /// Refuses a tokenizer whose ids do not fit the model's embedding of `vocab_size` rows.
    ///
    /// # Errors
    /// [`TokenizerError::OtherModel`].
    pub fn check_vocabulary(&self, vocab_size: usize) -> Result<(), TokenizerError> {
        let ids = self.tokenizer.get_vocab(true).into_iter().map(|(token, id)| (id, token));
        let largest = ids.filter(|&(id, _)| self.comes_from_text(id)).max();
        match largest {
            Some((largest, token)) if largest as usize >= vocab_size => {
                Err(TokenizerError::OtherModel { path: self.path.clone(), largest, token, vocab_size })
            }
            _ => Ok(()),
        }
    }

    /// Whether a text can have this id. A special token that is neither the mask nor put around texts (Gemma's image
    /// token, beyond its text model's vocabulary) comes only from one that spells it out, and then the engine refuses.
    fn comes_from_text(&self, id: u32) -> bool {
        let (before, after) = &self.around;
        let is_mask = self.mask.as_ref().is_some_and(|&(mask, _)| mask == id);
        is_mask || before.contains(&id) || after.contains(&id) || !self.special.contains(&id)
    }

    /// Refuses a tokenizer whose padding token, where it has one, is not the model's: ids may all exist in a larger
    /// vocabulary and yet mean something else.
    ///
    /// # Errors
    /// [`TokenizerError::OtherPadding`].
    pub fn check_padding(&self, expected: Option<usize>) -> Result<(), TokenizerError> {
        let Some(expected) = expected else { return Ok(()) };
        let known = ["[PAD]", "<pad>"].into_iter();
        let other = known.filter_map(|token| Some((token, self.tokenizer.token_to_id(token)?)));
        match other.filter(|&(_, id)| id as usize != expected).last() {
            Some((token, id)) => {
                Err(TokenizerError::OtherPadding { path: self.path.clone(), token, id, expected })
            }
            None => Ok(()),
        }
    }

    /// The mask token's id, if this tokenizer has one.
    pub fn mask_id(&self) -> Option<u32> {
        self.mask.as_ref().map(|&(id, _)| id)
    }

    /// The mask token as a template writes it (`[MASK]`, `<mask>`), if this tokenizer has one.
    pub fn mask_token(&self) -> Option<&str> {
        self.mask.as_ref().map(|(_, token)| token.as_str())
    }

    /// Encodes a rendered template as one sequence, with the special tokens that the tokenizer itself adds.
    ///
    /// # Errors
    /// [`EncodeError::TooLong`] over `max_tokens` (special tokens count): nothing is cut here, see
    /// [`Self::encode_cutting`].
    pub fn encode(&self, rendered: &str, max_tokens: usize) -> Result<Encoded, EncodeError> {
        let encoded = self.encode_any(rendered)?;
        match encoded.ids.len() {
            tokens if tokens > max_tokens => Err(EncodeError::TooLong { tokens, max_tokens }),
            _ => Ok(encoded),
        }
    }

    /// As [`Self::encode`], but a text that is too long loses its end, and the template stays whole: `render`
    /// puts what is left of `text` into it. The second value says whether something was cut.
    ///
    /// # Errors
    /// [`EncodeError::TooLong`] if the template alone is too long.
    pub fn encode_cutting(
        &self,
        text: &str,
        max_tokens: usize,
        render: impl Fn(&str) -> String,
    ) -> Result<(Encoded, bool), EncodeError> {
        let whole = self.encode_any(&render(text))?;
        if whole.ids.len() <= max_tokens {
            return Ok((whole, false));
        }
        let ends: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        let kept = |letters: usize| text.get(..ends.get(letters).copied().unwrap_or(0)).unwrap_or_default();
        // The longest beginning that fits, by halving; `fits` is known to fit, `too_long` is known not to.
        let mut best = self.encode(&render(""), max_tokens)?;
        let (mut fits, mut too_long) = (0, ends.len());
        while too_long - fits > 1 {
            let middle = fits + (too_long - fits) / 2;
            match self.encode(&render(kept(middle)), max_tokens) {
                Ok(encoded) => (best, fits) = (encoded, middle),
                Err(EncodeError::TooLong { .. }) => too_long = middle,
                Err(other) => return Err(other),
            }
        }
        Ok((best, true))
    }

    fn encode_any(&self, rendered: &str) -> Result<Encoded, EncodeError> {
        let encoding = self.tokenizer.encode_fast(rendered, true).map_err(|problem| {
            EncodeError::Refused { text: rendered.to_owned(), problem: problem.to_string() }
        })?;
        let ids = encoding.get_ids().to_vec();
        let mask = self.mask.as_ref().map(|&(id, _)| id);
        let masks = (0..ids.len()).filter(|&row| mask.is_some() && ids.get(row).copied() == mask).collect();
        Ok(Encoded { ids, masks })
    }

    /// The id whose logit is the class's. The word is encoded alone and as given, no space put before it
    /// (spec 2.3).
    ///
    /// # Errors
    /// See [`LabelWordError`]: it must be exactly one token, and a known one.
    pub fn label_word_id(&self, word: &str) -> Result<u32, LabelWordError> {
        // Not `encode_fast`: it keeps no pieces.
        let encoding = self.tokenizer.encode(word, false).map_err(|problem| LabelWordError::Refused {
            word: word.to_owned(),
            problem: problem.to_string(),
        })?;
        match (encoding.get_ids(), encoding.get_tokens()) {
            (&[id], [piece]) if self.special.contains(&id) && piece != word => {
                Err(LabelWordError::Unknown { word: word.to_owned(), piece: piece.clone() })
            }
            (&[id], _) => Ok(id),
            (_, pieces) => {
                Err(LabelWordError::NotOneToken { word: word.to_owned(), pieces: pieces.to_vec() })
            }
        }
    }

    /// The ids at the `n` prompt rows before anything is tuned: 1000, 1001, ... where the vocabulary has
    /// them, as the official code does; otherwise the first ids that are no special token (over again if they
    /// run out).
    pub fn initial_prompt_ids(&self, n: usize, vocab_size: usize) -> Vec<u32> {
        let ordinary = |id: &u32| !self.special.contains(id);
        let id = |id: usize| u32::try_from(id).ok();
        let official: Vec<u32> =
            (FIRST_PROMPT_ID..FIRST_PROMPT_ID.saturating_add(n)).filter_map(id).collect();
        if FIRST_PROMPT_ID.saturating_add(n) <= vocab_size {
            return official;
        }
        let first: Vec<u32> = (0..vocab_size).filter_map(id).filter(ordinary).take(n).collect();
        first.iter().copied().cycle().take(n).collect()
    }
}

/// What the tokenizer puts before and after a letter.
fn around(tokenizer: &Tokenizer) -> Result<(Vec<u32>, Vec<u32>), tokenizers::Error> {
    let encoding = tokenizer.encode("a", true)?;
    let (ids, added) = (encoding.get_ids(), encoding.get_special_tokens_mask());
    let before = added.iter().take_while(|&&added| added == 1).count();
    let after = added.iter().skip(before).rev().take_while(|&&added| added == 1).count();
    let part = |range: std::ops::Range<usize>| ids.get(range).unwrap_or_default().to_vec();
    Ok((part(0..before), part(ids.len() - after..ids.len())))
}
