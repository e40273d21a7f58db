//! Tokenizers that GGUF files describe make the ids that transformers' reader of such files makes
//! (`scripts/golden/gguf_tokenizers.py`). Gemma's are compared in `gguf_gemma.rs`.
#![allow(clippy::unwrap_used, clippy::panic)] // a helper's failure is the test's

#[allow(dead_code)] // not every test needs all of it
mod tiny;

use candle_core::quantized::gguf_file::Value;
use evaluator::models::gguf::Gguf;
use evaluator::models::tokenizer::TextEncoder;
use serde_json::Value as Json;
use tiny::{Tiny, golden, read};

/// A JSON value as a file has it.
fn value(json: &Json) -> Value {
    match json {
        Json::String(text) => Value::String(text.clone()),
        Json::Array(values) => Value::Array(values.iter().map(value).collect()),
        number if number.is_f64() => Value::F32(number.as_f64().unwrap() as f32),
        number => Value::I32(number.as_i64().unwrap() as i32),
    }
}

/// The tokenizer of a Llama with that description in the place of its own.
fn encoder(case: &Json, more: &[(&str, Value)]) -> TextEncoder {
    let folder = tempfile::tempdir().unwrap();
    let mut tiny = Tiny::of("llama", "llama-tiny");
    tiny.metadata.retain(|(key, _)| !key.starts_with("tokenizer."));
    let described = case.as_object().unwrap().iter().filter(|(key, _)| *key != "encodings");
    let described = described.map(|(key, json)| (key.as_str(), value(json)));
    for (key, value) in described.chain(more.iter().cloned()) {
        tiny.metadata.push((format!("tokenizer.ggml.{key}"), value));
    }
    TextEncoder::of_gguf(&Gguf::open(&tiny.write(folder.path())).unwrap()).unwrap()
}

fn cases() -> Vec<Json> {
    let file = golden("../gguf_tokenizers.json");
    read(&file)["cases"].as_array().unwrap().clone()
}

#[test]
fn texts_become_the_ids_of_transformers() {
    for case in cases() {
        let encoder = encoder(&case, &[("add_bos_token", Value::Bool(false))]);
        for encoding in case["encodings"].as_array().unwrap() {
            let text = encoding["text"].as_str().unwrap();
            let expected: Vec<u32> = serde_json::from_value(encoding["ids"].clone()).unwrap();
            let found = encoder.encode(text, 1000).unwrap().ids;
            assert_eq!(found, expected, "{} {}: {text:?}", case["model"], case["pre"]);
        }
    }
}

#[test]
fn a_first_token_stands_where_the_file_or_its_kind_asks_for_it() {
    let first = ("bos_token_id", Value::U32(1));
    let around = |case: &Json, more: &[(&str, Value)]| {
        let encoder = encoder(case, more);
        let (before, after) = encoder.around();
        (before.to_vec(), after.to_vec())
    };
    let end = [("eos_token_id", Value::U32(2)), ("add_eos_token", Value::Bool(true))];
    for case in cases() {
        let unsaid = if case["pre"] == "llama-bpe" || case["model"] == "llama" { vec![1] } else { vec![] };
        assert_eq!(around(&case, std::slice::from_ref(&first)), (unsaid, vec![]));
        let asked = [&[first.clone(), ("add_bos_token", Value::Bool(true))][..], &end[..]].concat();
        assert_eq!(around(&case, &asked), (vec![1], vec![2]));
    }
}
