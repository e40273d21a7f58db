//! Writes a golden model as a GGUF file, and beside it the folder of what its quantised numbers stand for.

use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor, safetensors};
use serde_json::{Value as Json, json};

/// A file to be written.
pub(crate) struct Tiny {
    pub(crate) name: &'static str,
    pub(crate) architecture: &'static str,
    pub(crate) metadata: Vec<(String, Value)>,
    pub(crate) tensors: Vec<(String, QTensor)>,
    config: Json,
    plain: Vec<(String, Tensor)>,
}

pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models").join(name)
}

pub(crate) fn read(path: &Path) -> Json {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The types that rows of this length can have; every tensor takes the next one.
fn kinds(width: usize) -> &'static [GgmlDType] {
    if width.is_multiple_of(32) {
        &[GgmlDType::Q8_0, GgmlDType::Q4_0, GgmlDType::Q5_1]
    } else {
        &[GgmlDType::F16, GgmlDType::F32, GgmlDType::BF16]
    }
}

impl Tiny {
    /// The golden model `ARCHITECTURE-tiny`.
    pub(crate) fn of(architecture: &'static str, name: &'static str) -> Self {
        let folder = golden(name);
        let mut config = read(&folder.join("config.json"));
        let number = |key: &str| config[key].as_u64().map(|x| x as u32);
        let (hidden, heads) = (number("hidden_size").unwrap(), number("num_attention_heads").unwrap());
        let width = number("head_dim").unwrap_or(hidden / heads);
        let keys = number("num_key_value_heads").unwrap();
        let mut tiny = Self {
            name,
            architecture,
            metadata: Vec::new(),
            tensors: Vec::new(),
            config: Json::Null,
            plain: Vec::new(),
        };
        let base = config["rope_theta"].as_f64().or(config["rope_parameters"]["rope_theta"].as_f64());
        tiny.metadata.push(("general.architecture".to_owned(), Value::String(architecture.to_owned())));
        for (key, value) in [
            ("block_count", number("num_hidden_layers")),
            ("embedding_length", Some(hidden)),
            ("feed_forward_length", number("intermediate_size")),
            ("context_length", number("max_position_embeddings")),
            ("attention.head_count", Some(heads)),
            ("attention.head_count_kv", Some(keys)),
            ("attention.key_length", number("head_dim")),
            ("attention.value_length", number("head_dim")),
            ("attention.sliding_window", number("sliding_window")),
            ("attention.sliding_window_pattern", number("sliding_window_pattern")),
        ] {
            value.into_iter().for_each(|value| tiny.set(key, Value::U32(value)));
        }
        for (key, value) in [
            ("attention.layer_norm_rms_epsilon", config["rms_norm_eps"].as_f64()),
            ("rope.freq_base", base),
            ("rope.freq_base_swa", config["rope_local_base_freq"].as_f64()),
            ("attn_logit_softcapping", config["attn_logit_softcapping"].as_f64()),
            ("final_logit_softcapping", config["final_logit_softcapping"].as_f64()),
        ] {
            value.into_iter().for_each(|value| tiny.set(key, Value::F32(value as f32)));
        }
        if architecture.starts_with("gemma") {
            config["query_pre_attn_scalar"] = json!(width); // a file cannot say another
        }
        tiny.weights(&folder, (heads as usize, keys as usize));
        if config["rope_scaling"].is_object() {
            let divisors = divisors(&config, base.unwrap(), width as usize);
            tiny.push("rope_freqs.weight", &divisors, GgmlDType::F32);
        }
        tiny.tokenizer(&folder, &config);
        Self { config, ..tiny }
    }

    pub(crate) fn set(&mut self, key: &str, value: Value) {
        let key = format!("{}.{key}", self.architecture);
        self.metadata.retain(|(other, _)| *other != key);
        self.metadata.push((key, value));
    }

    fn push(&mut self, name: &str, tensor: &Tensor, kind: GgmlDType) {
        self.tensors.push((name.to_owned(), QTensor::quantize(tensor, kind).unwrap()));
    }

    fn weights(&mut self, folder: &Path, (queries, keys): (usize, usize)) {
        let tensors = safetensors::load(folder.join("model.safetensors"), &Device::Cpu).unwrap();
        let mut names: Vec<&String> = tensors.keys().collect();
        names.sort();
        for (index, name) in names.into_iter().enumerate() {
            let tensor = &tensors[name];
            let gguf = self.name_of(name);
            if tensor.rank() == 1 {
                let norm = self.architecture.starts_with("gemma") && name.ends_with("norm.weight");
                let stored = if norm { (tensor + 1.0).unwrap() } else { tensor.clone() };
                self.push(&gguf, &stored, GgmlDType::F32);
                self.plain.push((name.clone(), tensor.clone()));
                continue;
            }
            let choices = kinds(tensor.dims()[1]);
            let kind = choices[index % choices.len()];
            let heads = match gguf.split('.').nth(2) {
                Some("attn_q") => Some(queries),
                Some("attn_k") => Some(keys),
                _ => None,
            };
            match heads.filter(|_| self.architecture == "llama") {
                Some(heads) => self.push(&gguf, &interleaved(tensor, heads), kind),
                None => self.push(&gguf, tensor, kind),
            }
            let quantised = QTensor::quantize(tensor, kind).unwrap();
            self.plain.push((name.clone(), quantised.dequantize(&Device::Cpu).unwrap()));
        }
    }

    fn name_of(&self, name: &str) -> String {
        let gemma = self.architecture.starts_with("gemma");
        let mut name = name.replace("model.layers", "blk").replace("model.", "");
        for (theirs, own) in [
            ("embed_tokens", "token_embd"),
            ("lm_head", "output"),
            ("self_attn.q_proj", "attn_q"),
            ("self_attn.k_proj", "attn_k"),
            ("self_attn.v_proj", "attn_v"),
            ("self_attn.o_proj", "attn_output"),
            ("self_attn.q_norm", "attn_q_norm"),
            ("self_attn.k_norm", "attn_k_norm"),
            ("mlp.gate_proj", "ffn_gate"),
            ("mlp.up_proj", "ffn_up"),
            ("mlp.down_proj", "ffn_down"),
            ("input_layernorm", "attn_norm"),
            ("pre_feedforward_layernorm", "ffn_norm"),
            ("post_feedforward_layernorm", "post_ffw_norm"),
            ("post_attention_layernorm", if gemma { "post_attention_norm" } else { "ffn_norm" }),
        ] {
            name = name.replace(theirs, own);
        }
        if name == "norm.weight" { "output_norm.weight".to_owned() } else { name }
    }

    fn tokenizer(&mut self, folder: &Path, config: &Json) {
        let tokenizer = read(&folder.join("tokenizer.json"));
        let mut vocabulary: Vec<(u64, String)> = Vec::new();
        for (token, id) in tokenizer["model"]["vocab"].as_object().unwrap() {
            vocabulary.push((id.as_u64().unwrap(), token.clone()));
        }
        let added = tokenizer["added_tokens"].as_array().unwrap();
        for token in added {
            let id = token["id"].as_u64().unwrap();
            if !vocabulary.iter().any(|(other, _)| *other == id) {
                vocabulary.push((id, token["content"].as_str().unwrap().to_owned()));
            }
        }
        vocabulary.sort();
        let is_added = |id: u64| added.iter().any(|token| token["id"] == json!(id));
        let types = vocabulary.iter().map(|(id, _)| Value::I32(if is_added(*id) { 3 } else { 1 })).collect();
        let tokens = vocabulary.into_iter().map(|(_, token)| Value::String(token)).collect();
        let merge = |pair: &Json| format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap());
        let merges = tokenizer["model"]["merges"].as_array().unwrap();
        let merges = merges.iter().map(|pair| Value::String(merge(pair))).collect();
        let leads = tokenizer["post_processor"].is_object();
        for (key, value) in [
            ("model", Value::String("gpt2".to_owned())),
            ("pre", Value::String("gpt-2".to_owned())),
            ("tokens", Value::Array(tokens)),
            ("token_type", Value::Array(types)),
            ("merges", Value::Array(merges)),
            ("bos_token_id", Value::U32(config["bos_token_id"].as_u64().unwrap() as u32)),
            ("add_bos_token", Value::Bool(leads)),
        ] {
            self.metadata.push((format!("tokenizer.ggml.{key}"), value));
        }
    }

    /// Writes the file `NAME.gguf`.
    pub(crate) fn write(&self, folder: &Path) -> PathBuf {
        let path = folder.join(format!("{}.gguf", self.name));
        let mut file = std::fs::File::create(&path).unwrap();
        let metadata: Vec<(&str, &Value)> =
            self.metadata.iter().map(|(key, value)| (&**key, value)).collect();
        let tensors: Vec<(&str, &QTensor)> = self.tensors.iter().map(|(name, t)| (&**name, t)).collect();
        gguf_file::write(&mut file, &metadata, &tensors).unwrap();
        path
    }

    /// Writes the folder of what the file's numbers stand for.
    pub(crate) fn write_plain(&self, folder: &Path) -> PathBuf {
        let path = folder.join(self.name);
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("config.json"), self.config.to_string()).unwrap();
        std::fs::copy(golden(self.name).join("tokenizer.json"), path.join("tokenizer.json")).unwrap();
        let tensors = self.plain.iter().cloned().collect();
        safetensors::save(&tensors, path.join("model.safetensors")).unwrap();
        path
    }
}

/// The rows of each head as llama.cpp's converter orders them: its halves interleaved.
fn interleaved(tensor: &Tensor, heads: usize) -> Tensor {
    let (rows, width) = tensor.dims2().unwrap();
    let halves = tensor.reshape((heads, 2, rows / heads / 2, width)).unwrap();
    halves.transpose(1, 2).unwrap().contiguous().unwrap().reshape((rows, width)).unwrap()
}

/// Llama 3's scaling as that converter writes it.
fn divisors(config: &Json, base: f64, width: usize) -> Tensor {
    let scaling = |key: &str| config["rope_scaling"][key].as_f64().unwrap();
    let (factor, low, high) = (scaling("factor"), scaling("low_freq_factor"), scaling("high_freq_factor"));
    let context = scaling("original_max_position_embeddings");
    let divisor = |pair: usize| {
        let wave = std::f64::consts::TAU * base.powf((2 * pair) as f64 / width as f64);
        if wave < context / high {
            1.0
        } else if wave > context / low {
            factor as f32
        } else {
            let smooth = (context / wave - low) / (high - low);
            (1.0 / ((1.0 - smooth) / factor + smooth)) as f32
        }
    };
    let divisors: Vec<f32> = (0..width / 2).map(divisor).collect();
    Tensor::from_vec(divisors, width / 2, &Device::Cpu).unwrap()
}
