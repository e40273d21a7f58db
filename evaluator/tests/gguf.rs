//! GGUF files: the golden models written as such give what their dequantised weights give, and wrong files are refused
//! with a line that says what is wrong.
#![allow(clippy::unwrap_used, clippy::panic)] // a helper's failure is the test's

mod tiny;

use std::path::Path;
use std::sync::Arc;

use candle_core::quantized::gguf_file::Value;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use evaluator::backbone::{Backbone, Dtype};
use evaluator::engine::{Around, Engine, Injection, ReadOut, Settings, Tokens};
use evaluator::model::Model;
use evaluator::models::gguf::Gguf;
use evaluator::models::locate;
use evaluator::models::tokenizer::TextEncoder;
use tiny::{Tiny, golden, read};

const FAMILIES: [(&str, &str); 5] = [
    ("llama", "llama-tiny"),
    ("qwen2", "qwen2-tiny"),
    ("qwen3", "qwen3-tiny"),
    ("gemma2", "gemma2-tiny"),
    ("gemma3", "gemma3-tiny"),
];

/// Logits of the golden texts: plain, and under prompts of no pattern in both injections; and each alone.
fn logits(backbone: &Arc<Backbone>, name: &str) -> Vec<f32> {
    let golden = read(&golden(name).join("golden.json"));
    let ids = |value: &serde_json::Value| -> Vec<u32> { serde_json::from_value(value.clone()).unwrap() };
    let examples: Vec<Tokens> = golden["examples"]
        .as_array()
        .unwrap()
        .iter()
        .map(|example| {
            let ids = ids(&example["ids"]);
            Tokens { read_out: ids.len() - 1, ids }
        })
        .collect();
    let leads = golden["lead"] == 1;
    let mut all = Vec::new();
    for injection in [Injection::Add, Injection::Prefix] {
        let settings = Settings {
            injection,
            prompt_tokens: 2,
            initial_ids: Some(vec![5, 6]),
            around: Around { before: leads.then(|| examples[0].ids[0]), after: None },
            read_out: ReadOut::NextToken { label_ids: ids(&golden["label_ids"]) },
            max_batch_tokens: 4096,
            pool: Arc::new(rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap()),
        };
        let engine = Engine::new(Arc::clone(backbone), settings, examples.clone()).unwrap();
        let number = |i: usize| ((i * 7919 + 13) % 1009) as f32 / 1009.0 - 0.5;
        let layer = |layer: usize| (0..2 * backbone.hidden()).map(|i| number(i + 100 * layer)).collect();
        let prompts: Vec<Vec<f32>> = (0..backbone.layers()).map(layer).collect();
        all.extend(engine.layer_stds());
        for prompts in [None, Some(&prompts[..])] {
            let together = engine.score(prompts, &examples).unwrap();
            let alone = |example: &Tokens| engine.score(prompts, std::slice::from_ref(example)).unwrap();
            let alone: Vec<f32> = examples.iter().flat_map(alone).collect();
            assert!(same(&together, &alone), "{name}: a batch differs from its examples alone");
            all.extend(together);
        }
    }
    all
}

fn same(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

fn load(path: &Path) -> Arc<Backbone> {
    Arc::new(Backbone::load(&locate::in_gguf(path).unwrap(), Dtype::F32).unwrap())
}

#[test]
fn a_file_gives_what_its_dequantised_weights_give() {
    for (architecture, name) in FAMILIES {
        let folder = tempfile::tempdir().unwrap();
        let tiny = Tiny::of(architecture, name);
        let found = logits(&load(&tiny.write(folder.path())), name);
        let plain = locate::in_folder(&tiny.write_plain(folder.path())).unwrap();
        let expected = logits(&Arc::new(Backbone::load(&plain, Dtype::F32).unwrap()), name);
        if architecture == "llama" {
            // Llama 3's stretched frequencies come as rounded divisors in the file: measured 1e-6
            let largest = expected.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
            let difference = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(
                found.len() == expected.len() && difference <= 1e-5 * largest,
                "{difference} of {largest}"
            );
        } else {
            assert!(same(&found, &expected), "{name}: {found:?} is not {expected:?}");
        }
    }
}

#[test]
fn a_file_has_its_tokenizer_and_is_its_own_fingerprint() {
    for (architecture, name) in FAMILIES {
        let folder = tempfile::tempdir().unwrap();
        let path = Tiny::of(architecture, name).write(folder.path());
        let model = Model::load(path.file_name().unwrap().to_str().unwrap(), folder.path(), None, Dtype::F32)
            .unwrap();
        let theirs = TextEncoder::load(&golden(name)).unwrap();
        assert_eq!(model.encoder.around(), theirs.around());
        for encoding in read(&golden(name).join("golden.json"))["encodings"].as_array().unwrap() {
            let text = encoding["text"].as_str().unwrap();
            let expected: Vec<u32> = serde_json::from_value(encoding["ids"].clone()).unwrap();
            assert_eq!(model.encoder.encode(text, 1000).unwrap().ids, expected, "{name}: {text:?}");
        }
        let identity = &model.identity;
        assert_eq!(identity.name, name);
        assert_eq!(
            (identity.layers as usize, identity.hidden as usize),
            (model.backbone.layers(), model.backbone.hidden())
        );
        assert_eq!(identity.weights_sha256, identity.config_sha256);
        assert_eq!(identity.weights_sha256, identity.tokenizer_sha256);
    }
}

/// What is said of a file that `change` has changed.
fn refused(change: impl FnOnce(&mut Tiny)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut tiny = Tiny::of("qwen3", "qwen3-tiny");
    change(&mut tiny);
    said(&tiny.write(folder.path()))
}

/// The one line that a file is refused with.
fn said(path: &Path) -> String {
    let error = Backbone::load(&locate::in_gguf(path).unwrap(), Dtype::F32).unwrap_err().to_string();
    assert!(error.starts_with(path.to_str().unwrap()) && !error.contains('\n'), "{error}");
    error
}

#[test]
fn a_file_that_is_cut_names_the_tensor_that_is_not_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = Tiny::of("qwen3", "qwen3-tiny").write(folder.path());
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 64]).unwrap();
    let error = said(&path);
    assert!(error.contains("tensor `output_norm.weight` ends at byte"), "{error}");
    assert!(error.ends_with("is it complete?"), "{error}");
    std::fs::write(&path, &whole[..2000]).unwrap();
    let error = said(&path);
    assert!(error.ends_with("it ends within its head; is it complete?"), "{error}");
    std::fs::write(&path, "{\"model_type\": \"qwen3\"}").unwrap();
    let error = said(&path);
    assert!(error.contains("it is no GGUF file"), "{error}");
}

#[test]
fn a_quantisation_that_is_not_read_is_named_with_its_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let path = Tiny::of("qwen3", "qwen3-tiny").write(folder.path());
    let mut bytes = std::fs::read(&path).unwrap();
    let name = b"blk.1.ffn_down.weight";
    let at = bytes.windows(name.len()).position(|window| window == name).unwrap() + name.len() + 4 + 2 * 8;
    bytes[at..at + 4].copy_from_slice(&23_u32.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let error = said(&path);
    assert!(
        error.contains("tensor `blk.1.ffn_down.weight` is of type IQ4_XS; supported are: F32, F16"),
        "{error}"
    );
}

#[test]
fn other_models_are_refused() {
    let error = refused(|tiny| tiny.metadata[0].1 = Value::String("phi3".to_owned()));
    assert!(
        error.contains("general.architecture \"phi3\" is not supported; supported are: llama, qwen2, qwen3"),
        "{error}"
    );
    let error = refused(|tiny| tiny.tensors.retain(|(name, _)| name != "blk.2.attn_k.weight"));
    assert!(error.contains("tensor `blk.2.attn_k.weight` is missing"), "{error}");
    let error = refused(|tiny| tiny.set("embedding_length", Value::U32(31)));
    assert!(
        error.contains("tensor `token_embd.weight` has shape [335, 30], the file's keys ask for [335, 31]"),
        "{error}"
    );
    let error = refused(|tiny| {
        let router = Tensor::zeros((4, 30), candle_core::DType::F32, &Device::Cpu).unwrap();
        let router = QTensor::quantize(&router, GgmlDType::F32).unwrap();
        tiny.tensors.push(("blk.0.ffn_gate_inp.weight".to_owned(), router));
    });
    assert!(
        error.contains("tensor `blk.0.ffn_gate_inp.weight` is none of architecture \"qwen3\""),
        "{error}"
    );
    let error = refused(|tiny| tiny.set("rope.scaling.type", Value::String("yarn".to_owned())));
    assert!(error.contains("qwen3.rope.scaling.type \"yarn\" is not supported"), "{error}");
    let error = refused(|tiny| tiny.set("attention.head_count", Value::Array(vec![Value::U32(6)])));
    assert!(error.contains("qwen3.attention.head_count is no number"), "{error}");
}

#[test]
fn a_tokenizer_of_another_kind_is_refused() {
    let tokenizer = |key: &str, value: &str| {
        let folder = tempfile::tempdir().unwrap();
        let mut tiny = Tiny::of("qwen3", "qwen3-tiny");
        tiny.metadata.retain(|(other, _)| other != key);
        tiny.metadata.push((key.to_owned(), Value::String(value.to_owned())));
        let gguf = Gguf::open(&tiny.write(folder.path())).unwrap();
        TextEncoder::of_gguf(&gguf).unwrap_err().to_string()
    };
    let error = tokenizer("tokenizer.ggml.model", "bert");
    assert!(
        error.contains("tokenizer.ggml.model \"bert\" is not supported; supported are: gpt2, llama"),
        "{error}"
    );
    let error = tokenizer("tokenizer.ggml.pre", "poro-chat");
    assert!(
        error.contains("tokenizer.ggml.pre \"poro-chat\" is not supported; supported are: default"),
        "{error}"
    );
}
