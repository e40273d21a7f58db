//! T5, v1.1 and Flan-T5: pre-norm, RMS norm, biases of the scores by distance, no other positions, no scaling.

use serde::Deserialize;

use super::choices::{Activation, FeedForward, Heads, NormKind, Relative, Sight};
use super::cross::Cross;
use super::load::{Bias, Loader, NormForm};
use super::rope::MOST_POSITIONS;
use super::{
    Backbone, Block, Decoder, Dtype, Embeddings, Given, LmHead, PageError, Pooling, Predicts, Sizes,
    above_zero, parse,
};
use crate::models::locate::Located;
use crate::models::weights::{WeightError, Weights};

/// `model_type` of the families this page serves.
pub(super) const FAMILIES: &[&str] = &["t5"];

#[derive(Deserialize)]
struct Config {
    vocab_size: usize,
    d_model: usize,
    d_kv: usize,
    d_ff: usize,
    num_heads: usize,
    num_layers: usize,
    num_decoder_layers: Option<usize>,
    relative_attention_num_buckets: usize,
    relative_attention_max_distance: Option<usize>,
    layer_norm_epsilon: f64,
    feed_forward_proj: Option<String>,
    tie_word_embeddings: Option<bool>,
    scale_decoder_outputs: Option<bool>,
    decoder_start_token_id: Option<u32>,
    pad_token_id: Option<usize>,
}

/// Loads weights in the layout of Hugging Face's `T5ForConditionalGeneration`.
pub(super) fn load(
    text: &str,
    _family: &str,
    located: &Located,
    dtype: Dtype,
) -> Result<Backbone, PageError> {
    let config: Config = parse(text)?;
    let (activation, gated) = config.feed_forward()?;
    above_zero(&[
        ("num_layers", config.num_layers),
        ("num_heads", config.num_heads),
        ("vocab_size", config.vocab_size),
        ("relative_attention_num_buckets", config.relative_attention_num_buckets / 4),
    ])?;
    let weights = &Weights::open(&located.folder, &located.weights)?;
    let form = NormForm { kind: NormKind::Rms, eps: config.layer_norm_epsilon as f32, offset: 0.0 };
    let loader = Loader { weights, dtype, prefix: "", norm: form };
    let (hidden, vocab) = (config.d_model, config.vocab_size);
    let word = loader.tensor("shared.weight", &[vocab, hidden])?.into();
    let embeddings = Embeddings { word, scale: 1.0, position: None, token_type: None, norm: None };
    let decoder = loader.decoder("lm_head.weight", &[vocab, hidden], config.tie_word_embeddings)?;
    let scaled = config.scale_decoder_outputs.unwrap_or(decoder.is_none());
    let head = LmHead {
        predicts: Predicts::Decoded,
        transform: None,
        decoder,
        bias: None,
        scale: if scaled { 1.0 / (hidden as f32).sqrt() } else { 1.0 },
        cap: None,
    };
    let page = Page { loader, config, activation, gated };
    let start = page.config.decoder_start_token_id.unwrap_or(0);
    let decoder_layers = page.config.num_decoder_layers.unwrap_or(page.config.num_layers);
    Ok(Backbone {
        sizes: Sizes { hidden, vocab, tokens: MOST_POSITIONS, padding: page.config.pad_token_id },
        blocks: page.blocks(Stack::Encoder, page.config.num_layers)?,
        final_norm: Some(page.loader.norm("encoder.final_layer_norm", hidden)?),
        head: Some(head),
        decoder: Some(Decoder {
            given: Given::Mask(start),
            embeddings: embeddings.clone(),
            blocks: page.blocks(Stack::Decoder, decoder_layers)?,
            final_norm: Some(page.loader.norm("decoder.final_layer_norm", hidden)?),
        }),
        embeddings,
        pooling: Pooling::default(),
    })
}

impl Config {
    /// The feed-forward's activation, and whether it is gated.
    fn feed_forward(&self) -> Result<(Activation, bool), PageError> {
        match self.feed_forward_proj.as_deref().unwrap_or("relu") {
            "relu" => Ok((Activation::Relu, false)),
            "gelu" => Ok((Activation::GeluErf, false)),
            "gated-gelu" => Ok((Activation::GeluTanh, true)), // their gated-gelu is the approximate one
            "gated-silu" => Ok((Activation::Silu, true)),
            other => {
                let known = "relu, gelu, gated-gelu, gated-silu";
                let text = format!("feed_forward_proj \"{other}\" is not supported; supported are: {known}");
                Err(PageError::Config(text))
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stack {
    Encoder,
    Decoder,
}

struct Page<'a> {
    loader: Loader<'a>,
    config: Config,
    activation: Activation,
    gated: bool,
}

impl Page<'_> {
    fn blocks(&self, stack: Stack, layers: usize) -> Result<Vec<Block>, WeightError> {
        let relative = self.relative(stack)?;
        (0..layers).map(|layer| self.block(stack, layer, &relative)).collect()
    }

    fn heads(&self, sight: Sight) -> Heads {
        let (heads, width) = (self.config.num_heads, self.config.d_kv);
        Heads { queries: heads, keys: heads, width, scale: 1.0, cap: None, sight }
    }

    fn block(&self, stack: Stack, layer: usize, relative: &Relative) -> Result<Block, WeightError> {
        let (loader, hidden) = (&self.loader, self.config.d_model);
        let encoder = stack == Stack::Encoder;
        let first = if encoder { "encoder" } else { "decoder" };
        let name = |rest: &str| format!("{first}.block.{layer}.layer.{rest}");
        let heads = self.heads(if encoder { Sight::All } else { Sight::Back });
        let (wide, key, value) = (heads.query_width(), name("0.SelfAttention.k"), name("0.SelfAttention.v"));
        let last = if encoder { 1 } else { 2 };
        Ok(Block {
            heads,
            query: loader.linear(&name("0.SelfAttention.q"), (wide, hidden), Bias::No)?,
            key_value: loader.stacked(&[&key, &value], (wide, hidden), Bias::No)?,
            query_norm: None,
            key_norm: None,
            rotary: None,
            relative: Some(relative.clone()),
            disentangled: None,
            output: loader.linear(&name("0.SelfAttention.o"), (hidden, wide), Bias::No)?,
            attention_norms: loader.pre_norm(&name("0.layer_norm"), hidden)?,
            cross: (!encoder).then(|| self.cross(&name("1"))).transpose()?,
            feed_forward: self.feed_forward(&name(&format!("{last}.DenseReluDense")))?,
            feed_forward_norms: loader.pre_norm(&name(&format!("{last}.layer_norm")), hidden)?,
        })
    }

    fn cross(&self, name: &str) -> Result<Cross, WeightError> {
        let (loader, hidden, heads) = (&self.loader, self.config.d_model, self.heads(Sight::All));
        let (key, value) = (format!("{name}.EncDecAttention.k"), format!("{name}.EncDecAttention.v"));
        let wide = heads.query_width();
        Ok(Cross {
            heads,
            query: loader.linear(&format!("{name}.EncDecAttention.q"), (wide, hidden), Bias::No)?,
            key_value: loader.stacked(&[&key, &value], (wide, hidden), Bias::No)?,
            output: loader.linear(&format!("{name}.EncDecAttention.o"), (hidden, wide), Bias::No)?,
            norms: loader.pre_norm(&format!("{name}.layer_norm"), hidden)?,
        })
    }

    fn feed_forward(&self, name: &str) -> Result<FeedForward, WeightError> {
        let (hidden, wide) = (self.config.d_model, self.config.d_ff);
        let (plain, gate, up) = (format!("{name}.wi"), format!("{name}.wi_0"), format!("{name}.wi_1"));
        let names: &[&str] = if self.gated { &[&gate, &up] } else { &[&plain] };
        Ok(FeedForward {
            up: self.loader.stacked(names, (wide, hidden), Bias::No)?,
            gated: self.gated,
            activation: self.activation,
            down: self.loader.linear(&format!("{name}.wo"), (hidden, wide), Bias::No)?,
        })
    }

    /// The first block's biases, which all blocks use.
    fn relative(&self, stack: Stack) -> Result<Relative, WeightError> {
        let first = if stack == Stack::Encoder { "encoder" } else { "decoder" };
        let name = format!("{first}.block.0.layer.0.SelfAttention.relative_attention_bias.weight");
        let (heads, count) = (self.config.num_heads, self.config.relative_attention_num_buckets);
        let table = self.loader.tensor(&name, &[count, heads])?;
        let reach = self.config.relative_attention_max_distance.unwrap_or(128);
        let bucket = |distance: isize| match stack {
            Stack::Encoder => {
                let half = count / 2;
                let after = if distance > 0 { half } else { 0 };
                after + bucket(distance.unsigned_abs(), half, reach)
            }
            Stack::Decoder => bucket(distance.min(0).unsigned_abs(), count, reach),
        };
        Ok(Relative::new(heads, reach, |head, distance| table[bucket(distance) * heads + head]))
    }
}

/// The bucket of a distance: half of them for small ones each, the others on a logarithmic scale up to `reach`. Rounds
/// to f32 where PyTorch does.
fn bucket(distance: usize, count: usize, reach: usize) -> usize {
    let exact = count / 2;
    if distance < exact {
        return distance;
    }
    let stretched =
        libm::logf(distance as f32 / exact as f32) / libm::log(reach as f64 / exact as f64) as f32;
    (exact + (stretched * (count - exact) as f32) as usize).min(count - 1)
}
