//! BERT and RoBERTa: post-norm, bidirectional, learned positions; they differ in first position and head.

use candle_transformers::models::bert::{Config, HiddenAct};

use super::choices::{Activation, FeedForward, Heads, NormKind, Sight};
use super::load::{Bias, Loader, NormForm};
use super::{
    Backbone, Block, Dtype, Embeddings, LmHead, PageError, Pooling, Positions, Predicts, Sizes, Transform,
    above_zero, divides, parse,
};
use crate::models::locate::Located;
use crate::models::weights::{WeightError, Weights};

/// `model_type` of the families this page serves.
pub(super) const FAMILIES: &[&str] = &["bert", "roberta", "xlm-roberta"];

/// Loads weights in the layout of Hugging Face's `BertModel`/`BertForMaskedLM` and their RoBERTa counterparts.
pub(super) fn load(text: &str, family: &str, located: &Located, dtype: Dtype) -> Result<Backbone, PageError> {
    let config: Config = parse(text)?;
    divides(("hidden_size", config.hidden_size), ("num_attention_heads", config.num_attention_heads))?;
    above_zero(&[
        ("num_hidden_layers", config.num_hidden_layers),
        ("vocab_size", config.vocab_size),
        ("type_vocab_size", config.type_vocab_size),
    ])?;
    let weights = &Weights::open(&located.folder, &located.weights)?;
    let form =
        NormForm { kind: NormKind::Layer { bias: true }, eps: config.layer_norm_eps as f32, offset: 0.0 };
    let probe = "embeddings.word_embeddings.weight";
    let loader = Loader::new(weights, dtype, &["bert.", "roberta.", ""], probe, form);
    let first = if family == "bert" { 0 } else { config.pad_token_id + 1 };
    let page = Page { loader, config };
    let embeddings = page.embeddings(first)?;
    let blocks =
        (0..page.config.num_hidden_layers).map(|layer| page.block(layer)).collect::<Result<_, _>>()?;
    let head = match family {
        "bert" => page.head(
            "cls.predictions.transform.dense",
            "cls.predictions.transform.LayerNorm",
            "cls.predictions",
        )?,
        _ => page.head("lm_head.dense", "lm_head.layer_norm", "lm_head")?,
    };
    let sizes = Sizes {
        hidden: page.config.hidden_size,
        vocab: page.config.vocab_size,
        tokens: page.config.max_position_embeddings.saturating_sub(first),
        padding: Some(page.config.pad_token_id),
    };
    Ok(Backbone {
        sizes,
        embeddings,
        blocks,
        final_norm: None,
        head,
        decoder: None,
        pooling: Pooling::default(),
    })
}

fn activation(named: HiddenAct) -> Activation {
    match named {
        HiddenAct::Gelu => Activation::GeluErf,
        HiddenAct::GeluApproximate => Activation::GeluTanh,
        HiddenAct::Relu => Activation::Relu,
    }
}

struct Page<'a> {
    loader: Loader<'a>,
    config: Config,
}

impl Page<'_> {
    fn embeddings(&self, first: usize) -> Result<Embeddings, WeightError> {
        let (config, hidden) = (&self.config, self.config.hidden_size);
        let table =
            |name: &str, rows| self.loader.tensor(&format!("embeddings.{name}.weight"), &[rows, hidden]);
        let mut token_type = table("token_type_embeddings", config.type_vocab_size)?;
        token_type.truncate(hidden);
        Ok(Embeddings {
            word: table("word_embeddings", config.vocab_size)?.into(),
            scale: 1.0,
            position: Some(Positions {
                table: table("position_embeddings", config.max_position_embeddings)?,
                first,
            }),
            token_type: Some(token_type),
            norm: Some(self.loader.norm("embeddings.LayerNorm", hidden)?),
        })
    }

    fn block(&self, layer: usize) -> Result<Block, WeightError> {
        let (loader, config) = (&self.loader, &self.config);
        let (hidden, wide) = (config.hidden_size, config.intermediate_size);
        let name = |rest: &str| format!("encoder.layer.{layer}.{rest}");
        let width = hidden / config.num_attention_heads;
        Ok(Block {
            heads: Heads {
                queries: config.num_attention_heads,
                keys: config.num_attention_heads,
                width,
                scale: 1.0 / (width as f32).sqrt(),
                cap: None,
                sight: Sight::All,
            },
            query: loader.linear(&name("attention.self.query"), (hidden, hidden), Bias::Yes)?,
            key_value: loader.stacked(
                &[&name("attention.self.key"), &name("attention.self.value")],
                (hidden, hidden),
                Bias::Yes,
            )?,
            query_norm: None,
            key_norm: None,
            rotary: None,
            relative: None,
            disentangled: None,
            output: loader.linear(&name("attention.output.dense"), (hidden, hidden), Bias::Yes)?,
            attention_norms: loader.post_norm(&name("attention.output.LayerNorm"), hidden)?,
            cross: None,
            feed_forward: FeedForward {
                up: loader.linear(&name("intermediate.dense"), (wide, hidden), Bias::Yes)?,
                gated: false,
                activation: activation(config.hidden_act),
                down: loader.linear(&name("output.dense"), (hidden, wide), Bias::Yes)?,
            },
            feed_forward_norms: loader.post_norm(&name("output.LayerNorm"), hidden)?,
        })
    }

    /// The masked-LM head; sentence encoders have none.
    fn head(&self, dense: &str, norm: &str, bias: &str) -> Result<Option<LmHead>, WeightError> {
        let weights = self.loader.weights;
        if !weights.contains(&format!("{dense}.weight")) {
            return Ok(None);
        }
        let (hidden, vocab) = (self.config.hidden_size, self.config.vocab_size);
        let decoder = format!("{bias}.decoder.weight");
        let head = self.loader.of_head();
        Ok(Some(LmHead {
            predicts: Predicts::Mask,
            transform: Some(Transform {
                dense: head.linear(dense, (hidden, hidden), Bias::Yes)?,
                activation: activation(self.config.hidden_act),
                norm: head.norm(norm, hidden)?,
            }),
            decoder: head.decoder(&decoder, &[vocab, hidden], None)?,
            bias: Some(weights.get(&format!("{bias}.bias"), &[vocab])?),
            scale: 1.0,
            cap: None,
        }))
    }
}
