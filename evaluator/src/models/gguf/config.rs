//! What llama.cpp calls things and what Hugging Face's models call them: architectures, keys and tensors.

use candle_core::quantized::gguf_file::Value;
use serde_json::{Map, json};

use super::{Gguf, GgufError};

/// An architecture, and how its file differs from Hugging Face's checkpoint.
#[derive(Debug)]
pub(super) struct Family {
    /// `general.architecture`.
    pub(super) architecture: &'static str,
    /// `model_type`.
    model_type: &'static str,
    /// Whether the rows of query and key heads have their halves interleaved.
    interleaved: bool,
    /// Norms on both sides of a branch.
    gemma: bool,
}

const FAMILIES: &[Family] = &[
    Family { architecture: "llama", model_type: "llama", interleaved: true, gemma: false },
    Family { architecture: "qwen2", model_type: "qwen2", interleaved: false, gemma: false },
    Family { architecture: "qwen3", model_type: "qwen3", interleaved: false, gemma: false },
    Family { architecture: "gemma2", model_type: "gemma2", interleaved: false, gemma: true },
    Family { architecture: "gemma3", model_type: "gemma3_text", interleaved: false, gemma: true },
];

/// Layers of the largest Gemma 2 and Gemma 3, which scale scores by a width that no key tells.
const LARGEST: [(&str, usize); 2] = [("gemma2", 46), ("gemma3", 62)];

/// The base of Gemma 3's layers with a window, where a file does not say.
const GEMMA_WINDOW_BASE: f64 = 10_000.0;

/// A block's tensors, as the file and as Hugging Face's checkpoints call them.
const BLOCK: &[(&str, &str)] = &[
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("attn_norm", "input_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];
const PLAIN_NORMS: &[(&str, &str)] = &[("ffn_norm", "post_attention_layernorm")];
const GEMMA_NORMS: &[(&str, &str)] = &[
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];

/// Frequencies' divisors: Llama 3's stretched rotary positions, worked out by llama.cpp's converter.
const DIVISORS: &str = "rope_freqs.weight";

pub(super) fn supported() -> String {
    FAMILIES.iter().map(|family| family.architecture).collect::<Vec<_>>().join(", ")
}

impl Family {
    pub(super) fn of(architecture: &str) -> Option<&'static Self> {
        FAMILIES.iter().find(|family| family.architecture == architecture)
    }

    fn block(&self) -> impl Iterator<Item = &'static (&'static str, &'static str)> {
        BLOCK.iter().chain(if self.gemma { GEMMA_NORMS } else { PLAIN_NORMS })
    }

    /// The file's name of a tensor that Hugging Face's checkpoints call `name`.
    pub(super) fn tensor(&self, name: &str) -> Option<String> {
        let name = name.strip_prefix("model.").unwrap_or(name);
        match name {
            "embed_tokens.weight" => return Some("token_embd.weight".to_owned()),
            "norm.weight" => return Some("output_norm.weight".to_owned()),
            "lm_head.weight" => return Some("output.weight".to_owned()),
            _ => {}
        }
        let (layer, rest) = name.strip_prefix("layers.")?.split_once('.')?;
        let (stem, end) = rest.rsplit_once('.')?;
        let (own, _) = self.block().find(|(_, theirs)| *theirs == stem)?;
        Some(format!("blk.{layer}.{own}.{end}"))
    }

    /// The key of the number of heads, where a tensor's rows are heads with their halves interleaved.
    pub(super) fn interleaved(&self, tensor: &str) -> Option<&'static str> {
        let stem = tensor.rsplit('.').nth(1).filter(|_| self.interleaved)?;
        match stem {
            "attn_q" => Some("attention.head_count"),
            "attn_k" => Some("attention.head_count_kv"),
            _ => None,
        }
    }
}

impl Gguf {
    /// Whether a tensor is one that the family's page reads: what it would pass over might matter.
    pub(super) fn belongs(&self, tensor: &str) -> bool {
        if ["token_embd.weight", "output_norm.weight", "output.weight", DIVISORS].contains(&tensor) {
            return true;
        }
        let parts: Vec<&str> = tensor.split('.').collect();
        match parts[..] {
            ["blk", _, stem, "weight"] => self.family.block().any(|(own, _)| *own == stem),
            ["blk", _, "attn_q" | "attn_k" | "attn_v" | "attn_output", "bias"] if self.biased() => true,
            ["blk", _, "attn_q" | "attn_k" | "attn_v", "bias"] => self.family.architecture == "qwen2",
            _ => false,
        }
    }

    /// Whether all projections of the attention have biases.
    fn biased(&self) -> bool {
        self.content.tensor_infos.contains_key("blk.0.attn_output.bias")
    }

    /// The family's `model_type`, and the configuration that Hugging Face's model would have.
    ///
    /// # Errors
    /// A key that is missing, or asks for what there is not.
    pub(crate) fn config(&self) -> Result<(&'static str, String), GgufError> {
        let need = |key: &str| {
            let name = format!("{}.{key}", self.family.architecture);
            self.number(key)?.ok_or_else(|| self.wrong(format!("{name} is missing")))
        };
        let (layers, hidden) = (need("block_count")?, need("embedding_length")?);
        let queries = need("attention.head_count")?;
        let keys = self.number("attention.head_count_kv")?.unwrap_or(queries);
        let width = self.number("attention.key_length")?;
        let each = width.unwrap_or(hidden / queries.max(1));
        for key in ["attention.key_length", "attention.value_length", "rope.dimension_count"] {
            if self.number(key)?.is_some_and(|other| other != each) {
                let name = format!("{}.{key}", self.family.architecture);
                return Err(
                    self.wrong(format!("{name} is not {each}, the width of a head; that is not supported"))
                );
            }
        }
        let (shape, _) = self.place("token_embd.weight")?;
        let mut config = Map::new();
        let mut set = |key: &str, value: serde_json::Value| drop(config.insert(key.to_owned(), value));
        set("vocab_size", json!(shape.first()));
        set("hidden_size", json!(hidden));
        set("intermediate_size", json!(need("feed_forward_length")?));
        set("num_hidden_layers", json!(layers));
        set("num_attention_heads", json!(queries));
        set("num_key_value_heads", json!(keys));
        set("max_position_embeddings", json!(need("context_length")?));
        set("rms_norm_eps", json!(self.real("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-6)));
        set("attention_bias", json!(self.biased()));
        set("sliding_window", json!(self.number("attention.sliding_window")?.filter(|window| *window > 0)));
        set("attn_logit_softcapping", json!(self.real("attn_logit_softcapping")?));
        set("final_logit_softcapping", json!(self.real("final_logit_softcapping")?));
        set("head_dim", json!(width));
        set("rope_theta", json!(self.real("rope.freq_base")?));
        set("rope_scaling", self.rope_scaling(each)?);
        if self.family.gemma {
            let largest = LARGEST.contains(&(self.family.architecture, layers));
            set("query_pre_attn_scalar", json!(if largest { hidden / queries.max(1) } else { each }));
        }
        if self.family.architecture == "gemma3" {
            let base = self.real("rope.freq_base_swa")?.unwrap_or(GEMMA_WINDOW_BASE);
            set("rope_local_base_freq", json!(base));
        }
        match self.value(&format!("{}.attention.sliding_window_pattern", self.family.architecture)) {
            Some(Value::Array(kinds)) => {
                set("layer_types", json!(kinds.iter().map(kind).collect::<Vec<_>>()))
            }
            Some(_) => set("sliding_window_pattern", json!(self.number("attention.sliding_window_pattern")?)),
            None => {}
        }
        Ok((self.family.model_type, serde_json::Value::Object(config).to_string()))
    }

    fn rope_scaling(&self, width: usize) -> Result<serde_json::Value, GgufError> {
        let key = format!("{}.rope.scaling.type", self.family.architecture);
        let kind = match self.value(&key) {
            Some(Value::String(kind)) => kind.as_str(),
            _ => "none",
        };
        let factor = self.real("rope.scaling.factor")?;
        match kind {
            "none" if self.content.tensor_infos.contains_key(DIVISORS) => {
                let divisors = self.values(DIVISORS, &[width / 2])?;
                Ok(json!({ "rope_type": "divisors", "divisors": divisors }))
            }
            "none" => Ok(serde_json::Value::Null),
            "linear" => Ok(json!({ "rope_type": "linear", "factor": factor })),
            other => {
                Err(self.wrong(format!("{key} \"{other}\" is not supported; supported are: none, linear")))
            }
        }
    }

    /// A whole number that the file says of its architecture.
    pub(super) fn number(&self, key: &str) -> Result<Option<usize>, GgufError> {
        let Some(number) = self.real(key)? else { return Ok(None) };
        if number < 0.0 || number.fract() != 0.0 || number > f64::from(u32::MAX) {
            let text = format!("{}.{key} is {number}; a whole number is expected", self.family.architecture);
            return Err(self.wrong(text));
        }
        Ok(Some(number as usize))
    }

    /// A number that the file says of its architecture.
    fn real(&self, key: &str) -> Result<Option<f64>, GgufError> {
        let name = format!("{}.{key}", self.family.architecture);
        let number = match self.value(&name) {
            None => return Ok(None),
            Some(value) => real(value),
        };
        match number {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(format!("{name} is no number; one for each layer is not supported"))),
        }
    }
}

fn real(value: &Value) -> Option<f64> {
    match *value {
        Value::U8(x) => Some(f64::from(x)),
        Value::I8(x) => Some(f64::from(x)),
        Value::U16(x) => Some(f64::from(x)),
        Value::I16(x) => Some(f64::from(x)),
        Value::U32(x) => Some(f64::from(x)),
        Value::I32(x) => Some(f64::from(x)),
        Value::U64(x) => Some(x as f64),
        Value::I64(x) => Some(x as f64),
        Value::F32(x) => Some(f64::from(x)),
        Value::F64(x) => Some(x),
        Value::Bool(_) | Value::String(_) | Value::Array(_) => None,
    }
}

/// A layer's kind, from whether it has a window.
fn kind(window: &Value) -> &'static str {
    let has = matches!(window, Value::Bool(true)) || real(window).is_some_and(|number| number != 0.0);
    if has { "sliding_attention" } else { "full_attention" }
}
