//! Llama and its kin: pre-norm or sandwich, RMS norm, rotary positions, grouped queries, gated feed-forward, causal.
//!
//! Llama 2 and 3, SmolLM, Mistral, Qwen 2, 2.5 and 3, Gemma 2 and 3 differ in [`Traits`] and in their configurations.

use std::sync::Arc;

use serde::Deserialize;

use super::choices::{Activation, FeedForward, Heads, NormKind, Norms, Sight};
use super::load::{Bias, Loader, NormForm};
use super::rope::{MOST_POSITIONS, RopeKeys, Rotaries};
use super::{
    Backbone, Block, Dtype, Embeddings, LmHead, PageError, Pooling, Predicts, Sizes, above_zero, divides,
    parse,
};
use crate::models::gguf::Gguf;
use crate::models::locate::Located;
use crate::models::weights::{WeightError, Weights};

/// `model_type` of the families this page serves.
pub(super) const FAMILIES: &[&str] = &["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text"];

#[derive(Deserialize)]
struct Config {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    hidden_act: Option<Activation>,
    hidden_activation: Option<Activation>,
    #[serde(flatten)]
    rope: RopeKeys,
    layer_types: Option<Vec<String>>,
    sliding_window: Option<usize>,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<usize>,
    sliding_window_pattern: Option<usize>,
    use_bidirectional_attention: Option<bool>,
    query_pre_attn_scalar: Option<f64>,
    attn_logit_softcapping: Option<f64>,
    final_logit_softcapping: Option<f64>,
    tie_word_embeddings: Option<bool>,
    pad_token_id: Option<usize>,
}

/// What a family has that its configuration does not say.
struct Traits {
    /// Biases of query, key and value, whatever `attention_bias` says.
    biased: bool,
    /// A norm of each query and key head.
    head_norms: bool,
    /// Gemma: norms on both sides of a branch, weights stored less one, embeddings scaled by the root of their width.
    gemma: bool,
    /// Which layers have a window, where there is one and `layer_types` does not say.
    windows: Windows,
}

enum Windows {
    /// Every layer.
    All,
    /// From `max_window_layers` on, if `use_sliding_window`.
    Above,
    /// All but each n-th; `sliding_window_pattern` may say another n.
    AllBut(usize),
}

impl Traits {
    fn of(family: &str) -> Self {
        let plain = Self { biased: false, head_norms: false, gemma: false, windows: Windows::All };
        match family {
            "qwen2" => Self { biased: true, windows: Windows::Above, ..plain },
            "qwen3" => Self { head_norms: true, windows: Windows::Above, ..plain },
            "gemma2" => Self { gemma: true, windows: Windows::AllBut(2), ..plain },
            "gemma3_text" => Self { gemma: true, head_norms: true, windows: Windows::AllBut(6), ..plain },
            _ => plain,
        }
    }
}

/// Loads weights in the layout of Hugging Face's `LlamaForCausalLM` and its kin.
pub(super) fn load(text: &str, family: &str, located: &Located, dtype: Dtype) -> Result<Backbone, PageError> {
    let config = parse(text)?;
    let weights = Weights::open(&located.folder, &located.weights)?;
    let traits = Traits::of(family);
    let offset = if traits.gemma { 1.0 } else { 0.0 };
    of_weights(config, traits, (&weights, dtype), offset)
}

/// Loads a GGUF file, whose norms' weights are stored as they are.
pub(super) fn load_gguf(gguf: Arc<Gguf>, dtype: Dtype) -> Result<Backbone, PageError> {
    let (family, text) = gguf.config().map_err(WeightError::from)?;
    of_weights(parse(&text)?, Traits::of(family), (&Weights::of_gguf(gguf), dtype), 0.0)
}

fn of_weights(
    config: Config,
    traits: Traits,
    (weights, dtype): (&Weights, Dtype),
    offset: f32,
) -> Result<Backbone, PageError> {
    let width = config.check()?;
    let tokens = config.max_position_embeddings.min(MOST_POSITIONS);
    let rotaries = config.rope.tables(width, tokens, 10_000.0)?;
    let form = NormForm { kind: NormKind::Rms, eps: config.rms_norm_eps as f32, offset };
    let loader = Loader::new(weights, dtype, &["model.", ""], "embed_tokens.weight", form);
    let (hidden, vocab) = (config.hidden_size, config.vocab_size);
    let embeddings = Embeddings {
        word: loader.table("embed_tokens.weight", &[vocab, hidden])?,
        scale: if traits.gemma { (hidden as f32).sqrt() } else { 1.0 },
        position: None,
        token_type: None,
        norm: None,
    };
    let head = LmHead {
        predicts: Predicts::Next,
        transform: None,
        decoder: loader.decoder("lm_head.weight", &[vocab, hidden], config.tie_word_embeddings)?,
        bias: None,
        scale: 1.0,
        cap: config.final_logit_softcapping.map(|cap| cap as f32),
    };
    let page = Page { loader, config, traits, rotaries, width };
    Ok(Backbone {
        sizes: Sizes { hidden, vocab, tokens, padding: page.config.pad_token_id },
        embeddings,
        blocks: (0..page.config.num_hidden_layers)
            .map(|layer| page.block(layer))
            .collect::<Result<_, _>>()?,
        final_norm: Some(page.loader.norm("norm", hidden)?),
        head: Some(head),
        decoder: None,
        pooling: Pooling::default(),
    })
}

impl Config {
    fn keys(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// A head's width, once the configuration is known to make sense.
    fn check(&self) -> Result<usize, PageError> {
        above_zero(&[("num_hidden_layers", self.num_hidden_layers), ("vocab_size", self.vocab_size)])?;
        let heads = ("num_attention_heads", self.num_attention_heads);
        divides(heads, ("num_key_value_heads", self.keys()))?;
        if self.use_bidirectional_attention == Some(true) {
            return Err(PageError::Config("use_bidirectional_attention is not supported".to_owned()));
        }
        if self.sliding_window == Some(0) {
            return Err(PageError::Config("sliding_window must be above 0, or null".to_owned()));
        }
        if let Some(kinds) = self.layer_types.as_ref().filter(|kinds| kinds.len() != self.num_hidden_layers) {
            let text = format!("layer_types names {} layers of {}", kinds.len(), self.num_hidden_layers);
            return Err(PageError::Config(text));
        }
        match self.head_dim {
            Some(width) => Ok(width),
            None => {
                divides(("hidden_size", self.hidden_size), heads)?;
                Ok(self.hidden_size / self.num_attention_heads)
            }
        }
    }
}

struct Page<'a> {
    loader: Loader<'a>,
    config: Config,
    traits: Traits,
    rotaries: Rotaries,
    width: usize,
}

impl Page<'_> {
    /// The window of a layer, if it has one.
    fn window(&self, layer: usize) -> Option<usize> {
        let config = &self.config;
        let has = match (&config.layer_types, &self.traits.windows) {
            (Some(kinds), _) => kinds.get(layer).is_some_and(|kind| kind == "sliding_attention"),
            (None, Windows::All) => true,
            (None, Windows::Above) => {
                config.use_sliding_window == Some(true) && layer >= config.max_window_layers.unwrap_or(0)
            }
            (None, Windows::AllBut(each)) => {
                !(layer + 1).is_multiple_of(config.sliding_window_pattern.unwrap_or(*each))
            }
        };
        config.sliding_window.filter(|_| has)
    }

    fn block(&self, layer: usize) -> Result<Block, WeightError> {
        let (loader, config) = (&self.loader, &self.config);
        let hidden = config.hidden_size;
        let name = |rest: &str| format!("layers.{layer}.{rest}");
        let window = self.window(layer);
        let scalar = config.query_pre_attn_scalar.unwrap_or(self.width as f64);
        let heads = Heads {
            queries: config.num_attention_heads,
            keys: config.keys(),
            width: self.width,
            scale: (1.0 / scalar.sqrt()) as f32,
            cap: config.attn_logit_softcapping.map(|cap| cap as f32),
            sight: window.map_or(Sight::Back, Sight::Last),
        };
        let biased = Bias::from(self.traits.biased || config.attention_bias);
        let head_norm =
            |rest: &str| self.traits.head_norms.then(|| loader.norm(&name(rest), self.width)).transpose();
        let (key, value) = (name("self_attn.k_proj"), name("self_attn.v_proj"));
        Ok(Block {
            query: loader.linear(&name("self_attn.q_proj"), (heads.query_width(), hidden), biased)?,
            key_value: loader.stacked(&[&key, &value], (heads.key_width(), hidden), biased)?,
            query_norm: head_norm("self_attn.q_norm")?,
            key_norm: head_norm("self_attn.k_norm")?,
            rotary: Some(if window.is_some() { &self.rotaries.window } else { &self.rotaries.full }.clone()),
            relative: None,
            disentangled: None,
            output: loader.linear(
                &name("self_attn.o_proj"),
                (hidden, heads.query_width()),
                Bias::from(config.attention_bias),
            )?,
            heads,
            attention_norms: self.norms(&name("input_layernorm"), &name("post_attention_layernorm"))?,
            cross: None,
            feed_forward: self.feed_forward(&name("mlp"))?,
            feed_forward_norms: if self.traits.gemma {
                self.norms(&name("pre_feedforward_layernorm"), &name("post_feedforward_layernorm"))?
            } else {
                loader.pre_norm(&name("post_attention_layernorm"), hidden)?
            },
        })
    }

    /// The norms of a branch: on both sides in Gemma, before it in the others.
    fn norms(&self, before: &str, after: &str) -> Result<Norms, WeightError> {
        let norms = self.loader.pre_norm(before, self.config.hidden_size)?;
        let branch = self.traits.gemma.then(|| self.loader.norm(after, self.config.hidden_size));
        Ok(Norms { branch: branch.transpose()?, ..norms })
    }

    fn feed_forward(&self, name: &str) -> Result<FeedForward, WeightError> {
        let (config, bias) = (&self.config, Bias::from(self.config.mlp_bias));
        let (hidden, wide) = (config.hidden_size, config.intermediate_size);
        let (gate, up) = (format!("{name}.gate_proj"), format!("{name}.up_proj"));
        // Gemma's older configurations name the wrong one in `hidden_act`
        let named = if self.traits.gemma { config.hidden_activation } else { config.hidden_act };
        let own = if self.traits.gemma { Activation::GeluTanh } else { Activation::Silu };
        Ok(FeedForward {
            up: self.loader.stacked(&[&gate, &up], (wide, hidden), bias)?,
            gated: true,
            activation: named.unwrap_or(own),
            down: self.loader.linear(&format!("{name}.down_proj"), (hidden, wide), bias)?,
        })
    }
}
