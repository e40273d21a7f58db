//! CPT (Shao et al. 2021, arXiv 2109.05729): BERT's encoder in a checkpoint that calls itself a BART.
//!
//! `model_type` says "bart" and the configuration's keys are BART's, but the names of the weights are BERT's, and they
//! alone tell the two apart. The encoder is the paper's shared encoder and understanding decoder, one above the other;
//! it is read at a mask by the word embeddings. As in BBTv2's code the generation decoder is not run.

use candle_transformers::models::bert::{Config as BertConfig, HiddenAct};
use serde::Deserialize;

use super::bert::Page;
use super::choices::NormKind;
use super::load::{Loader, NormForm};
use super::{Backbone, Dtype, LmHead, PageError, Predicts, parse};
use crate::models::weights::{WeightError, Weights};

/// What the encoder's names begin with.
const PREFIXES: &[&str] = &["model.encoder.", "encoder."];

const POSITIONS: &str = "embeddings.position_embeddings.weight";

/// The names of the word embeddings, which encoder, decoder and head share. A file of safetensors keeps one of them,
/// and not always the same.
const WORDS: &[&str] = &[
    "model.encoder.embeddings.word_embeddings.weight",
    "encoder.embeddings.word_embeddings.weight",
    "model.shared.weight",
    "shared.weight",
    "model.decoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
    "lm_head.weight",
];

/// The token type that every token has.
const TOKEN_TYPE: usize = 1;

#[derive(Deserialize)]
struct Config {
    vocab_size: usize,
    d_model: usize,
    encoder_layers: usize,
    encoder_attention_heads: usize,
    encoder_ffn_dim: usize,
    max_position_embeddings: usize,
    pad_token_id: usize,
    tie_word_embeddings: Option<bool>,
}

/// Whether a checkpoint that calls itself a BART is a CPT.
pub(super) fn is(weights: &Weights) -> bool {
    PREFIXES.iter().any(|prefix| weights.contains(&format!("{prefix}{POSITIONS}")))
}

/// Loads weights in the layout of `CPTForConditionalGeneration` (github.com/fastnlp/CPT, `finetune/modeling_cpt.py`),
/// under a configuration that BART's page has checked.
pub(super) fn load(text: &str, weights: &Weights, dtype: Dtype) -> Result<Backbone, PageError> {
    let config: Config = parse(text)?;
    let (vocab, hidden) = (config.vocab_size, config.d_model);
    let mut encoder = encoder(&config);
    let form =
        NormForm { kind: NormKind::Layer { bias: true }, eps: encoder.layer_norm_eps as f32, offset: 0.0 };
    let loader = Loader::new(weights, dtype, PREFIXES, POSITIONS, form);
    encoder.max_position_embeddings = positions(&loader, &config)?;
    let page = Page { loader, config: encoder };
    let words = WORDS.iter().find(|name| weights.contains(name)).unwrap_or(&WORDS[0]);
    let embeddings = page.embeddings(page.loader.whole_table(words, &[vocab, hidden])?, 0, TOKEN_TYPE)?;
    let bias = "final_logits_bias";
    let head = LmHead {
        predicts: Predicts::Mask,
        transform: None,
        decoder: page.loader.decoder(
            "lm_head.weight",
            &[vocab, hidden],
            config.tie_word_embeddings.or(Some(true)),
        )?,
        bias: weights.contains(bias).then(|| weights.get(bias, &[1, vocab])).transpose()?,
        scale: 1.0,
        cap: None,
    };
    Ok(page.backbone(embeddings, Some(head))?)
}

/// The encoder's configuration: what `CPTModel` does not hand on has BERT's defaults, whatever BART's keys say.
fn encoder(config: &Config) -> BertConfig {
    BertConfig {
        vocab_size: config.vocab_size,
        hidden_size: config.d_model,
        num_hidden_layers: config.encoder_layers,
        num_attention_heads: config.encoder_attention_heads,
        intermediate_size: config.encoder_ffn_dim,
        hidden_act: HiddenAct::Gelu,
        type_vocab_size: 2,
        layer_norm_eps: 1e-12,
        pad_token_id: config.pad_token_id,
        ..BertConfig::default()
    }
}

/// Rows of the encoder's positions. `max_position_embeddings` is the decoder's number: checkpoints of before December
/// 2022 have 512 rows where it says 1024.
fn positions(loader: &Loader<'_>, config: &Config) -> Result<usize, WeightError> {
    match loader.tensor(POSITIONS, &[config.max_position_embeddings, config.d_model]) {
        Ok(_) => Ok(config.max_position_embeddings),
        Err(WeightError::Shape { found, .. }) if found.get(1) == Some(&config.d_model) => Ok(found[0]),
        Err(error) => Err(error),
    }
}
