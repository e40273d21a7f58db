//! BERT and RoBERTa: the names their weights have, and where they differ (first position, head).

use std::path::{Path, PathBuf};

use candle_transformers::models::bert::Config;

use super::{Activation, Backbone, Block, Embeddings, Linear, MlmHead, ModelError, Norm};
use crate::kernel::Packed;
use crate::models::weights::{WeightError, Weights};

/// `model_type` of the families this page serves.
pub(super) const FAMILIES: &[&str] = &["bert", "roberta", "xlm-roberta"];

/// Loads weights in the layout of Hugging Face's `BertModel`/`BertForMaskedLM` and their RoBERTa counterparts.
pub(super) fn load(
    folder: &Path,
    files: &[PathBuf],
    config: Config,
    family: &str,
) -> Result<Backbone, ModelError> {
    let weights = Weights::open(folder, files)?;
    let probe = "embeddings.word_embeddings.weight";
    let prefix =
        ["bert.", "roberta.", ""].into_iter().find(|prefix| weights.contains(&format!("{prefix}{probe}")));
    let loader = Loader { weights: &weights, prefix: prefix.unwrap_or(""), config: &config };
    let embeddings = loader.embeddings(if family == "bert" { 0 } else { config.pad_token_id + 1 })?;
    let blocks = (0..config.num_hidden_layers).map(|layer| loader.block(layer)).collect::<Result<_, _>>()?;
    let head = match family {
        "bert" => loader.head(
            "cls.predictions.transform.dense",
            "cls.predictions.transform.LayerNorm",
            "cls.predictions",
        )?,
        _ => loader.head("lm_head.dense", "lm_head.layer_norm", "lm_head")?,
    };
    let activation = Activation::from_config(config.hidden_act);
    Ok(Backbone { activation, embeddings, blocks, head, config })
}

struct Loader<'a> {
    weights: &'a Weights,
    prefix: &'a str,
    config: &'a Config,
}

impl Loader<'_> {
    fn embeddings(&self, first_position: usize) -> Result<Embeddings, WeightError> {
        let (config, hidden) = (self.config, self.config.hidden_size);
        let table = |name: &str, rows| {
            self.weights.get(&format!("{}embeddings.{name}.weight", self.prefix), &[rows, hidden])
        };
        let mut token_type = table("token_type_embeddings", config.type_vocab_size)?;
        token_type.truncate(hidden);
        Ok(Embeddings {
            word: table("word_embeddings", config.vocab_size)?,
            position: table("position_embeddings", config.max_position_embeddings)?,
            token_type,
            norm: self.norm(&format!("{}embeddings.LayerNorm", self.prefix))?,
            first_position,
        })
    }

    fn block(&self, layer: usize) -> Result<Block, WeightError> {
        let (hidden, wide) = (self.config.hidden_size, self.config.intermediate_size);
        let name = |rest: &str| format!("{}encoder.layer.{layer}.{rest}", self.prefix);
        Ok(Block {
            heads: self.config.num_attention_heads,
            activation: Activation::from_config(self.config.hidden_act),
            query: self.linear(&name("attention.self.query"), hidden, hidden)?,
            key_value: self.stacked(&name("attention.self.key"), &name("attention.self.value"))?,
            output: self.linear(&name("attention.output.dense"), hidden, hidden)?,
            attention_norm: self.norm(&name("attention.output.LayerNorm"))?,
            up: self.linear(&name("intermediate.dense"), wide, hidden)?,
            down: self.linear(&name("output.dense"), hidden, wide)?,
            output_norm: self.norm(&name("output.LayerNorm"))?,
        })
    }

    /// The masked-LM head; sentence encoders have none.
    fn head(&self, dense: &str, norm: &str, bias: &str) -> Result<Option<MlmHead>, WeightError> {
        if !self.weights.contains(&format!("{dense}.weight")) {
            return Ok(None);
        }
        let (hidden, vocab) = (self.config.hidden_size, self.config.vocab_size);
        let decoder = format!("{bias}.decoder.weight");
        let untied = self.weights.contains(&decoder).then(|| self.weights.get(&decoder, &[vocab, hidden]));
        Ok(Some(MlmHead {
            dense: self.linear(dense, hidden, hidden)?,
            norm: self.norm(norm)?,
            decoder: untied.transpose()?,
            bias: self.weights.get(&format!("{bias}.bias"), &[vocab])?,
        }))
    }

    fn linear(&self, name: &str, outputs: usize, inputs: usize) -> Result<Linear, WeightError> {
        let weight = self.weights.get(&format!("{name}.weight"), &[outputs, inputs])?;
        let bias = self.weights.get(&format!("{name}.bias"), &[outputs])?;
        Ok(Linear { weight: Packed::from_rows(&weight, outputs, inputs), bias })
    }

    /// Two square layers as one: keys, then values.
    fn stacked(&self, keys: &str, values: &str) -> Result<Linear, WeightError> {
        let hidden = self.config.hidden_size;
        let weight = |name: &str| self.weights.get(&format!("{name}.weight"), &[hidden, hidden]);
        let bias = |name: &str| self.weights.get(&format!("{name}.bias"), &[hidden]);
        let weights = [weight(keys)?, weight(values)?].concat();
        let bias = [bias(keys)?, bias(values)?].concat();
        Ok(Linear { weight: Packed::from_rows(&weights, 2 * hidden, hidden), bias })
    }

    fn norm(&self, name: &str) -> Result<Norm, WeightError> {
        let hidden = self.config.hidden_size;
        // checkpoints of the first years call them gamma and beta
        let old = self.weights.contains(&format!("{name}.gamma"));
        let (weight, bias) = if old { ("gamma", "beta") } else { ("weight", "bias") };
        Ok(Norm {
            weight: self.weights.get(&format!("{name}.{weight}"), &[hidden])?,
            bias: self.weights.get(&format!("{name}.{bias}"), &[hidden])?,
            eps: self.config.layer_norm_eps as f32,
        })
    }
}
