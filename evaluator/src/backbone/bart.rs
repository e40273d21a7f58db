//! BART: a post-norm encoder and decoder with learned positions that start at 2.

use serde::Deserialize;

use super::choices::{Activation, FeedForward, Heads, NormKind, Sight};
use super::cross::Cross;
use super::load::{Bias, Loader, NormForm};
use super::{
    Backbone, Block, Decoder, Dtype, Embeddings, Given, LmHead, PageError, Pooling, Positions, Predicts,
    Sizes, Table, above_zero, divides, parse,
};
use crate::models::locate::Located;
use crate::models::weights::{WeightError, Weights};

/// `model_type` of the families this page serves.
pub(super) const FAMILIES: &[&str] = &["bart"];

/// Row of the first position.
const FIRST: usize = 2;

#[derive(Deserialize)]
struct Config {
    vocab_size: usize,
    d_model: usize,
    encoder_layers: usize,
    decoder_layers: usize,
    encoder_attention_heads: usize,
    decoder_attention_heads: usize,
    encoder_ffn_dim: usize,
    decoder_ffn_dim: usize,
    max_position_embeddings: usize,
    activation_function: Activation,
    #[serde(default)]
    scale_embedding: bool,
    decoder_start_token_id: Option<u32>,
    eos_token_id: Option<u32>,
    pad_token_id: Option<usize>,
    #[serde(default)]
    normalize_before: bool,
}

/// Loads weights in the layout of Hugging Face's `BartForConditionalGeneration`.
pub(super) fn load(
    text: &str,
    _family: &str,
    located: &Located,
    dtype: Dtype,
) -> Result<Backbone, PageError> {
    let config: Config = parse(text)?;
    let hidden = config.d_model;
    divides(("d_model", hidden), ("encoder_attention_heads", config.encoder_attention_heads))?;
    divides(("d_model", hidden), ("decoder_attention_heads", config.decoder_attention_heads))?;
    above_zero(&[
        ("encoder_layers", config.encoder_layers),
        ("decoder_layers", config.decoder_layers),
        ("vocab_size", config.vocab_size),
    ])?;
    if config.normalize_before {
        return Err(PageError::Config("normalize_before is not supported".to_owned()));
    }
    let weights = &Weights::open(&located.folder, &located.weights)?;
    // the epsilon is no key of theirs
    let form = NormForm { kind: NormKind::Layer { bias: true }, eps: 1e-5, offset: 0.0 };
    let loader = Loader::new(weights, dtype, &["model.", ""], "shared.weight", form);
    let vocab = config.vocab_size;
    let bias = "final_logits_bias";
    let head = LmHead {
        predicts: Predicts::Decoded,
        transform: None,
        decoder: loader.decoder("lm_head.weight", &[vocab, hidden], None)?,
        bias: weights.contains(bias).then(|| weights.get(bias, &[1, vocab])).transpose()?,
        scale: 1.0,
        cap: None,
    };
    let word = loader.tensor("shared.weight", &[vocab, hidden])?.into();
    let page = Page { loader, config };
    let config = &page.config;
    let start = config.decoder_start_token_id.or(config.eos_token_id).unwrap_or(2);
    Ok(Backbone {
        sizes: Sizes { hidden, vocab, tokens: config.max_position_embeddings, padding: config.pad_token_id },
        embeddings: page.embeddings("encoder", &word)?,
        blocks: (0..config.encoder_layers)
            .map(|layer| page.encoder_block(layer))
            .collect::<Result<_, _>>()?,
        final_norm: None,
        head: Some(head),
        decoder: Some(Decoder {
            given: Given::Shifted(start),
            embeddings: page.embeddings("decoder", &word)?,
            blocks: (0..config.decoder_layers)
                .map(|layer| page.decoder_block(layer))
                .collect::<Result<_, _>>()?,
            final_norm: None,
        }),
        pooling: Pooling::default(),
    })
}

struct Page<'a> {
    loader: Loader<'a>,
    config: Config,
}

impl Page<'_> {
    fn embeddings(&self, stack: &str, word: &Table) -> Result<Embeddings, WeightError> {
        let (loader, hidden) = (&self.loader, self.config.d_model);
        let rows = self.config.max_position_embeddings + FIRST;
        let table = loader.tensor(&format!("{stack}.embed_positions.weight"), &[rows, hidden])?;
        Ok(Embeddings {
            word: word.clone(),
            scale: if self.config.scale_embedding { (hidden as f32).sqrt() } else { 1.0 },
            position: Some(Positions { table, first: FIRST }),
            token_type: None,
            norm: Some(loader.norm(&format!("{stack}.layernorm_embedding"), hidden)?),
        })
    }

    fn encoder_block(&self, layer: usize) -> Result<Block, WeightError> {
        let (heads, wide) = (self.config.encoder_attention_heads, self.config.encoder_ffn_dim);
        self.block(&format!("encoder.layers.{layer}"), self.heads(heads, Sight::All), wide)
    }

    fn decoder_block(&self, layer: usize) -> Result<Block, WeightError> {
        let (heads, wide) = (self.config.decoder_attention_heads, self.config.decoder_ffn_dim);
        let name = format!("decoder.layers.{layer}");
        let across = Attention::load(self, &format!("{name}.encoder_attn"))?;
        let cross = Cross {
            heads: self.heads(heads, Sight::All),
            query: across.query,
            key_value: across.key_value,
            output: across.output,
            norms: self.loader.post_norm(&format!("{name}.encoder_attn_layer_norm"), self.config.d_model)?,
        };
        Ok(Block { cross: Some(cross), ..self.block(&name, self.heads(heads, Sight::Back), wide)? })
    }

    fn heads(&self, heads: usize, sight: Sight) -> Heads {
        let width = self.config.d_model / heads;
        Heads { queries: heads, keys: heads, width, scale: 1.0 / (width as f32).sqrt(), cap: None, sight }
    }

    fn block(&self, name: &str, heads: Heads, wide: usize) -> Result<Block, WeightError> {
        let (loader, hidden) = (&self.loader, self.config.d_model);
        let own = Attention::load(self, &format!("{name}.self_attn"))?;
        Ok(Block {
            heads,
            query: own.query,
            key_value: own.key_value,
            query_norm: None,
            key_norm: None,
            rotary: None,
            relative: None,
            disentangled: None,
            output: own.output,
            attention_norms: loader.post_norm(&format!("{name}.self_attn_layer_norm"), hidden)?,
            cross: None,
            feed_forward: FeedForward {
                up: loader.linear(&format!("{name}.fc1"), (wide, hidden), Bias::Yes)?,
                gated: false,
                activation: self.config.activation_function,
                down: loader.linear(&format!("{name}.fc2"), (hidden, wide), Bias::Yes)?,
            },
            feed_forward_norms: loader.post_norm(&format!("{name}.final_layer_norm"), hidden)?,
        })
    }
}

/// The linear layers of an attention, over itself or across.
struct Attention {
    query: super::Linear,
    key_value: super::Linear,
    output: super::Linear,
}

impl Attention {
    fn load(page: &Page<'_>, name: &str) -> Result<Self, WeightError> {
        let square = (page.config.d_model, page.config.d_model);
        let (key, value) = (format!("{name}.k_proj"), format!("{name}.v_proj"));
        Ok(Self {
            query: page.loader.linear(&format!("{name}.q_proj"), square, Bias::Yes)?,
            key_value: page.loader.stacked(&[&key, &value], square, Bias::Yes)?,
            output: page.loader.linear(&format!("{name}.out_proj"), square, Bias::Yes)?,
        })
    }
}
