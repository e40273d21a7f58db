//! Models that cannot be used are refused in one line that says what and where; shards and half precision are read.
#![allow(clippy::unwrap_used, clippy::panic)] // a helper's failure is the test's

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, safetensors};
use evaluator::backbone::{Backbone, Dtype};
use evaluator::engine::{Around, Engine, Injection, ReadOut, Settings, Tokens};
use evaluator::models::locate;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models").join(name)
}

/// A copy of a golden model, to be damaged.
fn copy(name: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(golden(name).join(file), copy.path().join(file)).unwrap();
    }
    copy
}

/// A copy with a part of its configuration replaced.
fn with_config(name: &str, from: &str, to: &str) -> tempfile::TempDir {
    let copy = copy(name);
    let path = copy.path().join("config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from} in {text}");
    std::fs::write(path, text.replace(from, to)).unwrap();
    copy
}

fn load(folder: &Path) -> Result<Backbone, String> {
    let loaded = Backbone::load(&locate::in_folder(folder).map_err(|e| e.to_string())?, Dtype::F32);
    loaded.map_err(|error| error.to_string())
}

/// The one line that refuses a folder.
fn refused(folder: &Path) -> String {
    let error = load(folder).err().unwrap();
    assert!(!error.contains('\n'), "one line: {error}");
    assert!(error.starts_with(folder.to_str().unwrap()), "names the place: {error}");
    error
}

fn tensors(folder: &Path) -> HashMap<String, Tensor> {
    safetensors::load(folder.join("model.safetensors"), &Device::Cpu).unwrap()
}

#[test]
fn an_architecture_without_a_page_names_those_with_one() {
    let error = refused(with_config("llama-tiny", "\"llama\"", "\"mamba\"").path());
    assert!(error.contains("model_type \"mamba\" is not supported; supported are: bert, roberta"), "{error}");
    for family in ["gpt2", "llama", "qwen3", "gemma3_text", "modernbert", "deberta-v2", "bart", "t5"] {
        assert!(error.contains(family), "{family}: {error}");
    }
}

#[test]
fn what_a_page_does_not_do_is_named() {
    for (model, from, to, expected) in [
        ("llama-tiny", "\"rope_type\": \"llama3\"", "\"rope_type\": \"yarn\"", "rope_type \"yarn\""),
        ("llama-tiny", "\"factor\": 8.0,", "", "lacks factor"),
        ("llama-tiny", "\"silu\"", "\"mish\"", "mish"),
        ("llama-tiny", "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 4", "no multiple of"),
        ("mistral-tiny", "\"sliding_window\": 7", "\"sliding_window\": 0", "sliding_window"),
        ("gemma3-tiny", "attention\": false,\n  \"use_c", "attention\": true,\n  \"use_c", "bidirectional"),
        ("t5-tiny", "\"relu\"", "\"gated-mish\"", "feed_forward_proj \"gated-mish\""),
        ("deberta-v3-tiny", "p2c|c2p", "p2c", "pos_att_type"),
        ("bert-tiny", "\"num_attention_heads\": 5", "\"num_attention_heads\": 0", "num_attention_heads 0"),
    ] {
        let error = refused(with_config(model, from, to).path());
        assert!(error.contains("config.json") && error.contains(expected), "{model}, {to}: {error}");
    }
}

#[test]
fn a_configuration_that_contradicts_the_weights_names_the_tensor_and_both_shapes() {
    for (model, from, to, tensor, found, expected) in [
        ("gpt2-tiny", "\"n_inner\": null", "\"n_inner\": 99", "mlp.c_fc.weight", "[33, 132]", "[33, 99]"),
        (
            "llama-tiny",
            "\"intermediate_size\": 52",
            "\"intermediate_size\": 50",
            "layers.0.mlp.gate_proj.weight",
            "[52, 36]",
            "[50, 36]",
        ),
        (
            "modernbert-tiny",
            "\"vocab_size\": 339",
            "\"vocab_size\": 340",
            "embeddings.tok_embeddings.weight",
            "[339, 36]",
            "[340, 36]",
        ),
    ] {
        let error = refused(with_config(model, from, to).path());
        let all = [tensor, found, expected].iter().all(|part| error.contains(part));
        assert!(all, "{model}: {error}");
    }
}

#[test]
fn a_missing_tensor_and_a_truncated_file_are_named() {
    let folder = copy("qwen3-tiny");
    let mut all = tensors(folder.path());
    let name = "model.layers.1.self_attn.q_norm.weight";
    all.remove(name).unwrap();
    safetensors::save(&all, folder.path().join("model.safetensors")).unwrap();
    let error = refused(folder.path());
    assert!(error.contains(&format!("tensor `{name}` is missing")), "{error}");

    let folder = copy("qwen3-tiny");
    let path = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert!(refused(folder.path()).contains("is it complete?"));
}

#[test]
fn a_pooling_that_is_none_of_ours_is_named() {
    let folder = copy("bert-tiny");
    std::fs::create_dir(folder.path().join("1_Pooling")).unwrap();
    std::fs::write(folder.path().join("1_Pooling/config.json"), r#"{"pooling_mode_max_tokens": true}"#)
        .unwrap();
    let error = refused(folder.path());
    assert!(error.contains("1_Pooling") && error.contains("cls, mean and last token"), "{error}");
}

fn engine(backbone: Arc<Backbone>, read_out: ReadOut) -> Result<Engine, String> {
    let settings = Settings {
        injection: Injection::Add,
        prompt_tokens: 2,
        initial_ids: Some(vec![7, 8]),
        around: Around { before: Some(2), after: None },
        read_out,
        max_batch_tokens: 512,
        pool: Arc::new(rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap()),
    };
    let train = vec![Tokens { ids: vec![2, 30, 31, 32, 33], read_out: 4 }];
    Engine::new(backbone, settings, train).map_err(|error| error.to_string())
}

#[test]
fn a_read_out_that_a_model_has_not_names_those_it_has() {
    let words = vec![10, 11];
    for (model, read_out, asked, has) in [
        ("llama-tiny", ReadOut::MaskedLm { label_ids: words.clone() }, "masked-lm", "next-token"),
        ("bert-tiny", ReadOut::NextToken { label_ids: words.clone() }, "next-token", "masked-lm"),
        ("t5-tiny", ReadOut::NextToken { label_ids: words.clone() }, "next-token", "seq2seq"),
        ("gpt2-tiny", ReadOut::Seq2Seq { label_ids: words.clone(), mask: 0 }, "seq2seq", "next-token"),
    ] {
        let error = engine(Arc::new(load(&golden(model)).unwrap()), read_out).err().unwrap();
        assert!(error.contains(&format!("cannot be read by \"{asked}\"")), "{error}");
        assert!(error.contains(&format!("use model.read_out = \"{has}\"")), "{error}");
    }
}

/// Two shards in bf16 give what one file of the same rounded numbers in f32 gives, to the bit.
#[test]
fn shards_and_half_precision_are_read() {
    for dtype in [DType::BF16, DType::F16] {
        let (sharded, whole) = (copy("llama-tiny"), copy("llama-tiny"));
        let rounded: HashMap<String, Tensor> = tensors(sharded.path())
            .into_iter()
            .map(|(name, tensor)| (name, tensor.to_dtype(dtype).unwrap()))
            .collect();
        let widened: HashMap<String, Tensor> =
            rounded.iter().map(|(n, t)| (n.clone(), t.to_dtype(DType::F32).unwrap())).collect();
        safetensors::save(&widened, whole.path().join("model.safetensors")).unwrap();

        std::fs::remove_file(sharded.path().join("model.safetensors")).unwrap();
        let mut map = serde_json::Map::new();
        for (index, file) in ["a.safetensors", "b.safetensors"].into_iter().enumerate() {
            let part: HashMap<String, Tensor> = rounded
                .iter()
                .filter(|(n, _)| n.len() % 2 == index)
                .map(|(n, t)| (n.clone(), t.clone()))
                .collect();
            part.keys().for_each(|name| drop(map.insert(name.clone(), file.into())));
            safetensors::save(&part, sharded.path().join(file)).unwrap();
        }
        let index = serde_json::json!({"metadata": {}, "weight_map": map}).to_string();
        std::fs::write(sharded.path().join("model.safetensors.index.json"), index).unwrap();

        let logits = |folder: &Path| {
            let read_out = ReadOut::NextToken { label_ids: vec![10, 11, 12] };
            let mut engine = engine(Arc::new(load(folder).unwrap()), read_out).unwrap();
            engine.evaluate(1, &[vec![0.25; 72]], 0..1).unwrap()
        };
        assert_eq!(logits(sharded.path()), logits(whole.path()), "{dtype:?}");
        assert_ne!(logits(whole.path()), logits(&golden("llama-tiny")), "{dtype:?} rounds");
    }
}
