//! ModernBERT: pre-norm, bidirectional, rotary positions, windows in most layers, gated feed-forward.

use serde::Deserialize;

use super::choices::{Activation, FeedForward, Heads, NormKind, Norms, Sight};
use super::load::{Bias, Loader, NormForm};
use super::rope::{MOST_POSITIONS, RopeKeys, Rotaries};
use super::{
    Backbone, Block, Dtype, Embeddings, LmHead, PageError, Pooling, Predicts, Sizes, Transform, above_zero,
    divides, parse,
};
use crate::models::locate::Located;
use crate::models::weights::{WeightError, Weights};

/// `model_type` of the families this page serves.
pub(super) const FAMILIES: &[&str] = &["modernbert"];

#[derive(Deserialize)]
struct Config {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    max_position_embeddings: usize,
    #[serde(default = "epsilon")]
    norm_eps: f64,
    #[serde(default)]
    norm_bias: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    classifier_bias: bool,
    #[serde(default = "yes")]
    decoder_bias: bool,
    #[serde(default = "gelu")]
    hidden_activation: Activation,
    #[serde(default = "gelu")]
    classifier_activation: Activation,
    #[serde(default = "three")]
    global_attn_every_n_layers: usize,
    layer_types: Option<Vec<String>>,
    #[serde(default = "window")]
    local_attention: usize,
    #[serde(flatten)]
    rope: RopeKeys,
    tie_word_embeddings: Option<bool>,
    pad_token_id: Option<usize>,
}

fn epsilon() -> f64 {
    1e-5
}

fn yes() -> bool {
    true
}

fn gelu() -> Activation {
    Activation::GeluErf
}

fn three() -> usize {
    3
}

fn window() -> usize {
    128
}

/// Loads weights in the layout of Hugging Face's `ModernBertModel`/`ModernBertForMaskedLM`.
pub(super) fn load(
    text: &str,
    _family: &str,
    located: &Located,
    dtype: Dtype,
) -> Result<Backbone, PageError> {
    let config: Config = parse(text)?;
    let hidden = config.hidden_size;
    divides(("hidden_size", hidden), ("num_attention_heads", config.num_attention_heads))?;
    above_zero(&[
        ("num_hidden_layers", config.num_hidden_layers),
        ("vocab_size", config.vocab_size),
        ("global_attn_every_n_layers", config.global_attn_every_n_layers),
    ])?;
    let tokens = config.max_position_embeddings.min(MOST_POSITIONS);
    let rotaries = config.rope.tables(hidden / config.num_attention_heads, tokens, 160_000.0)?;
    let weights = &Weights::open(&located.folder, &located.weights)?;
    let kind = NormKind::Layer { bias: config.norm_bias };
    let form = NormForm { kind, eps: config.norm_eps as f32, offset: 0.0 };
    let loader = Loader::new(weights, dtype, &["model.", ""], "embeddings.tok_embeddings.weight", form);
    let embeddings = Embeddings {
        word: loader.tensor("embeddings.tok_embeddings.weight", &[config.vocab_size, hidden])?.into(),
        scale: 1.0,
        position: None,
        token_type: None,
        norm: Some(loader.norm("embeddings.norm", hidden)?),
    };
    let page = Page { loader, config, rotaries };
    Ok(Backbone {
        sizes: Sizes { hidden, vocab: page.config.vocab_size, tokens, padding: page.config.pad_token_id },
        embeddings,
        blocks: (0..page.config.num_hidden_layers)
            .map(|layer| page.block(layer))
            .collect::<Result<_, _>>()?,
        final_norm: Some(page.loader.norm("final_norm", hidden)?),
        head: page.head()?,
        decoder: None,
        pooling: Pooling::default(),
    })
}

struct Page<'a> {
    loader: Loader<'a>,
    config: Config,
    rotaries: Rotaries,
}

impl Page<'_> {
    fn block(&self, layer: usize) -> Result<Block, WeightError> {
        let (loader, config) = (&self.loader, &self.config);
        let (hidden, wide) = (config.hidden_size, config.intermediate_size);
        let name = |rest: &str| format!("layers.{layer}.{rest}");
        let local = match &config.layer_types {
            Some(kinds) => kinds.get(layer).is_some_and(|kind| kind == "sliding_attention"),
            None => !layer.is_multiple_of(config.global_attn_every_n_layers),
        };
        let width = hidden / config.num_attention_heads;
        let attention = Bias::from(config.attention_bias);
        let mlp = Bias::from(config.mlp_bias);
        let fused = loader.tensor(&name("attn.Wqkv.weight"), &[3 * hidden, hidden])?;
        let bias = match attention {
            Bias::Yes => Some(loader.tensor(&name("attn.Wqkv.bias"), &[3 * hidden])?),
            Bias::No => None,
        };
        let fused = (fused.as_slice(), bias.as_deref());
        Ok(Block {
            heads: Heads {
                queries: config.num_attention_heads,
                keys: config.num_attention_heads,
                width,
                scale: 1.0 / (width as f32).sqrt(),
                cap: None,
                sight: if local { Sight::Around(config.local_attention / 2) } else { Sight::All },
            },
            query: loader.part(fused, 0..hidden, hidden),
            key_value: loader.part(fused, hidden..3 * hidden, hidden),
            query_norm: None,
            key_norm: None,
            rotary: Some(if local { &self.rotaries.window } else { &self.rotaries.full }.clone()),
            relative: None,
            disentangled: None,
            output: loader.linear(&name("attn.Wo"), (hidden, hidden), attention)?,
            // the embeddings' norm serves the first layer
            attention_norms: match layer {
                0 => Norms::default(),
                _ => loader.pre_norm(&name("attn_norm"), hidden)?,
            },
            cross: None,
            feed_forward: FeedForward {
                up: loader.linear(&name("mlp.Wi"), (2 * wide, hidden), mlp)?,
                gated: true,
                activation: config.hidden_activation,
                down: loader.linear(&name("mlp.Wo"), (hidden, wide), mlp)?,
            },
            feed_forward_norms: loader.pre_norm(&name("mlp_norm"), hidden)?,
        })
    }

    /// The masked-LM head; sentence encoders have none.
    fn head(&self) -> Result<Option<LmHead>, WeightError> {
        let (config, weights) = (&self.config, self.loader.weights);
        if !weights.contains("head.dense.weight") {
            return Ok(None);
        }
        let (hidden, vocab) = (config.hidden_size, config.vocab_size);
        let head = self.loader.of_head();
        let bias = config.decoder_bias.then(|| weights.get("decoder.bias", &[vocab])).transpose()?;
        Ok(Some(LmHead {
            predicts: Predicts::Mask,
            transform: Some(Transform {
                dense: head.linear("head.dense", (hidden, hidden), Bias::from(config.classifier_bias))?,
                activation: config.classifier_activation,
                norm: head.norm("head.norm", hidden)?,
            }),
            decoder: head.decoder("decoder.weight", &[vocab, hidden], config.tie_word_embeddings)?,
            bias,
            scale: 1.0,
            cap: None,
        }))
    }
}
