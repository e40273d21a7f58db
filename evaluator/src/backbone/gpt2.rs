//! GPT-2: pre-norm, causal, learned positions; its linear layers are stored `[inputs, outputs]`.

use serde::Deserialize;

use super::choices::{Activation, FeedForward, Heads, Linear, NormKind, Sight};
use super::load::{Loader, NormForm, transposed};
use super::{
    Backbone, Block, Dtype, Embeddings, LmHead, PageError, Pooling, Positions, Predicts, Sizes, above_zero,
    divides, parse,
};
use crate::models::locate::Located;
use crate::models::weights::{WeightError, Weights};

/// `model_type` of the families this page serves.
pub(super) const FAMILIES: &[&str] = &["gpt2"];

#[derive(Deserialize)]
struct Config {
    vocab_size: usize,
    n_embd: usize,
    n_layer: usize,
    n_head: usize,
    n_positions: usize,
    n_inner: Option<usize>,
    #[serde(default = "gelu_new")]
    activation_function: Activation,
    #[serde(default = "epsilon")]
    layer_norm_epsilon: f64,
    #[serde(default = "yes")]
    scale_attn_weights: bool,
    #[serde(default)]
    scale_attn_by_inverse_layer_idx: bool,
    tie_word_embeddings: Option<bool>,
    pad_token_id: Option<usize>,
}

fn gelu_new() -> Activation {
    Activation::GeluTanh
}

fn epsilon() -> f64 {
    1e-5
}

fn yes() -> bool {
    true
}

/// Loads weights in the layout of Hugging Face's `GPT2Model`/`GPT2LMHeadModel`.
pub(super) fn load(
    text: &str,
    _family: &str,
    located: &Located,
    dtype: Dtype,
) -> Result<Backbone, PageError> {
    let config: Config = parse(text)?;
    divides(("n_embd", config.n_embd), ("n_head", config.n_head))?;
    above_zero(&[("n_layer", config.n_layer), ("vocab_size", config.vocab_size)])?;
    let weights = &Weights::open(&located.folder, &located.weights)?;
    let form =
        NormForm { kind: NormKind::Layer { bias: true }, eps: config.layer_norm_epsilon as f32, offset: 0.0 };
    let loader = Loader::new(weights, dtype, &["transformer.", ""], "wte.weight", form);
    let (hidden, vocab) = (config.n_embd, config.vocab_size);
    let embeddings = Embeddings {
        word: loader.tensor("wte.weight", &[vocab, hidden])?.into(),
        scale: 1.0,
        position: Some(Positions {
            table: loader.tensor("wpe.weight", &[config.n_positions, hidden])?,
            first: 0,
        }),
        token_type: None,
        norm: None,
    };
    let head = LmHead {
        predicts: Predicts::Next,
        transform: None,
        decoder: loader.decoder("lm_head.weight", &[vocab, hidden], config.tie_word_embeddings)?,
        bias: None,
        scale: 1.0,
        cap: None,
    };
    Ok(Backbone {
        sizes: Sizes { hidden, vocab, tokens: config.n_positions, padding: config.pad_token_id },
        embeddings,
        blocks: (0..config.n_layer).map(|layer| block(&loader, &config, layer)).collect::<Result<_, _>>()?,
        final_norm: Some(loader.norm("ln_f", hidden)?),
        head: Some(head),
        decoder: None,
        pooling: Pooling::default(),
    })
}

fn block(loader: &Loader<'_>, config: &Config, layer: usize) -> Result<Block, WeightError> {
    let hidden = config.n_embd;
    let wide = config.n_inner.unwrap_or(4 * hidden);
    let name = |rest: &str| format!("h.{layer}.{rest}");
    let width = hidden / config.n_head;
    let scale = if config.scale_attn_weights { 1.0 / (width as f32).sqrt() } else { 1.0 };
    let depth = if config.scale_attn_by_inverse_layer_idx { (layer + 1) as f32 } else { 1.0 };
    let (weight, bias) = stored(loader, &name("attn.c_attn"), (3 * hidden, hidden))?;
    let fused = (weight.as_slice(), Some(bias.as_slice()));
    Ok(Block {
        heads: Heads {
            queries: config.n_head,
            keys: config.n_head,
            width,
            scale: scale / depth,
            cap: None,
            sight: Sight::Back,
        },
        query: loader.part(fused, 0..hidden, hidden),
        key_value: loader.part(fused, hidden..3 * hidden, hidden),
        query_norm: None,
        key_norm: None,
        rotary: None,
        relative: None,
        disentangled: None,
        output: linear(loader, &name("attn.c_proj"), (hidden, hidden))?,
        attention_norms: loader.pre_norm(&name("ln_1"), hidden)?,
        cross: None,
        feed_forward: FeedForward {
            up: linear(loader, &name("mlp.c_fc"), (wide, hidden))?,
            gated: false,
            activation: config.activation_function,
            down: linear(loader, &name("mlp.c_proj"), (hidden, wide))?,
        },
        feed_forward_norms: loader.pre_norm(&name("ln_2"), hidden)?,
    })
}

/// A linear layer's weight, turned to `[outputs, inputs]`, and its bias.
fn stored(
    loader: &Loader<'_>,
    name: &str,
    (outputs, inputs): (usize, usize),
) -> Result<(Vec<f32>, Vec<f32>), WeightError> {
    let weight = loader.tensor(&format!("{name}.weight"), &[inputs, outputs])?;
    Ok((transposed(&weight, inputs, outputs), loader.tensor(&format!("{name}.bias"), &[outputs])?))
}

fn linear(loader: &Loader<'_>, name: &str, shape: (usize, usize)) -> Result<Linear, WeightError> {
    let (weight, bias) = stored(loader, name, shape)?;
    Ok(loader.part((&weight, Some(&bias)), 0..shape.0, shape.1))
}
