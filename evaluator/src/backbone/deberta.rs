//! DeBERTa v2 and v3: BERT's block with attention by content and relative position.

use std::sync::Arc;

use serde::Deserialize;

use super::choices::{Activation, FeedForward, Heads, NormKind, Sight};
use super::disentangled::Disentangled;
use super::load::{Bias, Loader, NormForm};
use super::{
    Backbone, Block, Dtype, Embeddings, LmHead, PageError, Pooling, Positions, Predicts, Sizes, Transform,
    above_zero, divides, parse,
};
use crate::models::locate::Located;
use crate::models::weights::{WeightError, Weights};

/// `model_type` of the families this page serves.
pub(super) const FAMILIES: &[&str] = &["deberta-v2"];

#[derive(Deserialize)]
struct Config {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    hidden_act: Activation,
    max_position_embeddings: usize,
    #[serde(default)]
    type_vocab_size: usize,
    layer_norm_eps: f64,
    #[serde(default)]
    pad_token_id: usize,
    #[serde(default)]
    relative_attention: bool,
    #[serde(default)]
    max_relative_positions: i64,
    #[serde(default)]
    position_buckets: i64,
    #[serde(default)]
    share_att_key: bool,
    #[serde(default)]
    pos_att_type: Kinds,
    #[serde(default)]
    norm_rel_ebd: String,
    #[serde(default)]
    position_biased_input: bool,
    #[serde(default)]
    conv_kernel_size: usize,
    embedding_size: Option<usize>,
}

/// `"p2c|c2p"`, or a list.
#[derive(Deserialize)]
#[serde(untagged)]
enum Kinds {
    One(String),
    Many(Vec<String>),
}

impl Default for Kinds {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl Kinds {
    fn has(&self, kind: &str) -> bool {
        match self {
            Self::One(text) => text.split('|').any(|part| part.trim() == kind),
            Self::Many(parts) => parts.iter().any(|part| part == kind),
        }
    }
}

/// Loads weights in the layout of Hugging Face's `DebertaV2Model`/`DebertaV2ForMaskedLM`.
pub(super) fn load(
    text: &str,
    _family: &str,
    located: &Located,
    dtype: Dtype,
) -> Result<Backbone, PageError> {
    let config: Config = parse(text)?;
    config.check()?;
    let weights = &Weights::open(&located.folder, &located.weights)?;
    let form =
        NormForm { kind: NormKind::Layer { bias: true }, eps: config.layer_norm_eps as f32, offset: 0.0 };
    let loader = Loader::new(weights, dtype, &["deberta.", ""], "embeddings.word_embeddings.weight", form);
    let page = Page { loader, config };
    let config = &page.config;
    let relative = page.relative()?;
    Ok(Backbone {
        sizes: Sizes {
            hidden: config.hidden_size,
            vocab: config.vocab_size,
            tokens: config.max_position_embeddings,
            padding: Some(config.pad_token_id),
        },
        embeddings: page.embeddings()?,
        blocks: (0..config.num_hidden_layers)
            .map(|layer| page.block(layer, &relative))
            .collect::<Result<_, _>>()?,
        final_norm: None,
        head: page.head()?,
        decoder: None,
        pooling: Pooling::default(),
    })
}

impl Config {
    fn check(&self) -> Result<(), PageError> {
        divides(("hidden_size", self.hidden_size), ("num_attention_heads", self.num_attention_heads))?;
        above_zero(&[
            ("num_hidden_layers", self.num_hidden_layers),
            ("vocab_size", self.vocab_size),
            ("max_position_embeddings", self.max_position_embeddings),
        ])?;
        let both = self.pos_att_type.has("c2p") && self.pos_att_type.has("p2c");
        let known = self.relative_attention && self.share_att_key && both && self.position_buckets >= 4;
        let wanted =
            "relative_attention, share_att_key, pos_att_type \"p2c|c2p\" and position_buckets of 4 or more";
        if !known {
            return Err(PageError::Config(format!("only {wanted} are supported")));
        }
        if self.conv_kernel_size > 0 || self.embedding_size.is_some_and(|size| size != self.hidden_size) {
            let text = "conv_kernel_size, and an embedding_size of its own, are not supported";
            return Err(PageError::Config(text.to_owned()));
        }
        Ok(())
    }

    /// Rows of the relative positions' table on each side.
    fn span(&self) -> usize {
        self.position_buckets.unsigned_abs() as usize
    }

    /// The table's row for query minus key: near distances one each, far ones by their logarithm. Rounds to f32 where
    /// PyTorch does.
    fn rows(&self) -> Vec<usize> {
        let span = self.span() as i64;
        let middle = span / 2;
        let most = match self.max_relative_positions {
            most if most >= 1 => most as f32,
            _ => self.max_position_embeddings as f32,
        };
        let reach = self.max_position_embeddings as i64;
        let row = |distance: i64| {
            let bucket = if distance.abs() <= middle {
                distance
            } else {
                let log = libm::logf(distance.abs() as f32 / middle as f32);
                let whole = libm::logf((most - 1.0) / middle as f32);
                let far = (log / whole * (middle - 1) as f32).ceil() as i64 + middle;
                far * distance.signum()
            };
            (bucket + span).clamp(0, 2 * span - 1) as usize
        };
        (-reach..=reach).map(row).collect()
    }
}

/// The relative positions: their table, normed, and each distance's row in it.
struct Table {
    embeddings: Vec<f32>,
    rows: Arc<Vec<usize>>,
}

struct Page<'a> {
    loader: Loader<'a>,
    config: Config,
}

impl Page<'_> {
    fn embeddings(&self) -> Result<Embeddings, WeightError> {
        let (config, hidden) = (&self.config, self.config.hidden_size);
        let table =
            |name: &str, rows| self.loader.tensor(&format!("embeddings.{name}.weight"), &[rows, hidden]);
        let mut token_type = None;
        if config.type_vocab_size > 0 {
            let mut types = table("token_type_embeddings", config.type_vocab_size)?;
            types.truncate(hidden);
            token_type = Some(types);
        }
        let position = match config.position_biased_input {
            true => Some(Positions {
                table: table("position_embeddings", config.max_position_embeddings)?,
                first: 0,
            }),
            false => None,
        };
        Ok(Embeddings {
            word: table("word_embeddings", config.vocab_size)?.into(),
            scale: 1.0,
            position,
            token_type,
            norm: Some(self.loader.norm("embeddings.LayerNorm", hidden)?),
        })
    }

    fn relative(&self) -> Result<Table, WeightError> {
        let (config, hidden) = (&self.config, self.config.hidden_size);
        let name = "encoder.rel_embeddings.weight";
        let mut embeddings = self.loader.tensor(name, &[2 * config.span(), hidden])?;
        if config.norm_rel_ebd.contains("layer_norm") {
            self.loader.norm("encoder.LayerNorm", hidden)?.apply(&mut embeddings);
        }
        Ok(Table { embeddings, rows: Arc::new(config.rows()) })
    }

    fn block(&self, layer: usize, relative: &Table) -> Result<Block, WeightError> {
        let (loader, config) = (&self.loader, &self.config);
        let (hidden, wide) = (config.hidden_size, config.intermediate_size);
        let name = |rest: &str| format!("encoder.layer.{layer}.{rest}");
        let width = hidden / config.num_attention_heads;
        let (key, value) = (name("attention.self.key_proj"), name("attention.self.value_proj"));
        let query = name("attention.self.query_proj");
        // once and for all inputs, so exactly
        let project = |name: &str| {
            let mut rows = Vec::new();
            let linear = loader.exact().linear(name, (hidden, hidden), Bias::Yes)?;
            linear.forward(&relative.embeddings, 2 * config.span(), &mut rows);
            Ok::<_, WeightError>(rows)
        };
        let (keys, queries) = (project(&key)?, project(&query)?);
        Ok(Block {
            heads: Heads {
                queries: config.num_attention_heads,
                keys: config.num_attention_heads,
                width,
                scale: 1.0 / (3.0 * width as f32).sqrt(), // three sums in one
                cap: None,
                sight: Sight::All,
            },
            query: loader.linear(&query, (hidden, hidden), Bias::Yes)?,
            key_value: loader.stacked(&[&key, &value], (hidden, hidden), Bias::Yes)?,
            query_norm: None,
            key_norm: None,
            rotary: None,
            relative: None,
            disentangled: Some(Disentangled::new(keys, queries, Arc::clone(&relative.rows))),
            output: loader.linear(&name("attention.output.dense"), (hidden, hidden), Bias::Yes)?,
            attention_norms: loader.post_norm(&name("attention.output.LayerNorm"), hidden)?,
            cross: None,
            feed_forward: FeedForward {
                up: loader.linear(&name("intermediate.dense"), (wide, hidden), Bias::Yes)?,
                gated: false,
                activation: config.hidden_act,
                down: loader.linear(&name("output.dense"), (hidden, wide), Bias::Yes)?,
            },
            feed_forward_norms: loader.post_norm(&name("output.LayerNorm"), hidden)?,
        })
    }

    /// The masked-LM head, by DeBERTa's own names or by BERT's; sentence encoders have none.
    fn head(&self) -> Result<Option<LmHead>, WeightError> {
        let names = [
            ("lm_predictions.lm_head", "lm_predictions.lm_head"),
            ("cls.predictions", "cls.predictions.transform"),
        ];
        let weights = self.loader.weights;
        let has = |(_, inner): &&(&str, &str)| weights.contains(&format!("{inner}.dense.weight"));
        let Some((outer, inner)) = names.iter().find(has) else { return Ok(None) };
        let (hidden, vocab) = (self.config.hidden_size, self.config.vocab_size);
        let head = self.loader.of_head();
        Ok(Some(LmHead {
            predicts: Predicts::Mask,
            transform: Some(Transform {
                dense: head.linear(&format!("{inner}.dense"), (hidden, hidden), Bias::Yes)?,
                activation: self.config.hidden_act,
                norm: head.norm(&format!("{inner}.LayerNorm"), hidden)?,
            }),
            decoder: head.decoder(&format!("{outer}.decoder.weight"), &[vocab, hidden], None)?,
            bias: Some(weights.get(&format!("{outer}.bias"), &[vocab])?),
            scale: 1.0,
            cap: None,
        }))
    }
}
