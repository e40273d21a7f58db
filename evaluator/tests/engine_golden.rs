//! The engine against Hugging Face transformers' logits (tests/golden/models/README.md names tools and versions).
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)] // a helper's failure is the test's

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor, safetensors};
use evaluator::backbone::{Backbone, Dtype, ModelError};
use evaluator::engine::{self, Around, Engine, Injection, ReadOut, Settings, Tokens};
use evaluator::models::locate;
use evaluator::models::tokenizer::TextEncoder;
use serde::Deserialize;

/// Largest difference allowed, relative to the largest logit.
const TOLERANCE: f32 = 1e-4;

#[derive(Deserialize)]
struct Golden {
    label_ids: Option<Vec<u32>>,
    class_phrases: Vec<Ids>,
    temperature: f32,
    initial_ids: Vec<u32>,
    examples: Vec<Ids>,
    #[serde(default = "one")]
    lead: usize,
    #[serde(default)]
    read_outs: Vec<String>,
}

/// The row after the first special token, where the older files do not say.
fn one() -> usize {
    1
}

#[derive(Deserialize)]
struct Ids {
    ids: Vec<u32>,
    #[serde(default)]
    read_out: usize,
}

impl Ids {
    fn tokens(&self) -> Tokens {
        Tokens { ids: self.ids.clone(), read_out: self.read_out }
    }
}

struct Case {
    golden: Golden,
    tensors: HashMap<String, Tensor>,
    dtype: Dtype,
    backbone: Arc<Backbone>,
    /// The mask token's id, where there is one.
    mask: u32,
}

impl Case {
    fn open(values: &Path, model: &Path) -> Self {
        Self::computed_in(Dtype::F32, values, model).unwrap()
    }

    /// `None` where this processor cannot.
    fn computed_in(dtype: Dtype, values: &Path, model: &Path) -> Option<Self> {
        let backbone = match Backbone::load(&locate::in_folder(model).unwrap(), dtype) {
            Err(error @ ModelError::Processor { .. }) => {
                eprintln!("skipped: {error}");
                return None;
            }
            loaded => Arc::new(loaded.unwrap()),
        };
        let text = std::fs::read_to_string(values.join("golden.json")).unwrap();
        Some(Self {
            golden: serde_json::from_str(&text).unwrap(),
            tensors: safetensors::load(values.join("golden.safetensors"), &Device::Cpu).unwrap(),
            dtype,
            backbone,
            mask: TextEncoder::load(model).unwrap().mask_id().unwrap_or_default(),
        })
    }

    fn tensor(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("{name} is in the golden file"))
    }

    fn flat(&self, name: &str) -> Vec<f32> {
        self.tensor(name).flatten_all().unwrap().to_vec1().unwrap()
    }

    /// `[a, n, H]` as `[a][n * H]`.
    fn prompts(&self, name: &str) -> Vec<Vec<f32>> {
        let tensor = self.tensor(name);
        tensor.flatten_from(1).unwrap().to_vec2().unwrap()
    }

    fn train(&self) -> Vec<Tokens> {
        self.golden.examples.iter().map(Ids::tokens).collect()
    }

    fn read_out(&self, name: &str) -> ReadOut {
        let label_ids = || self.golden.label_ids.clone().unwrap();
        match name {
            "masked_lm" => return ReadOut::MaskedLm { label_ids: label_ids() },
            "next_token" => return ReadOut::NextToken { label_ids: label_ids() },
            "seq2seq" => return ReadOut::Seq2Seq { label_ids: label_ids(), mask: self.mask },
            _ => {}
        }
        let phrases: Vec<Tokens> = self.golden.class_phrases.iter().map(Ids::tokens).collect();
        let class_embeddings = engine::embed(&self.backbone, &phrases).unwrap();
        let golden = name.replace("similarity", "class_embeddings");
        if self.dtype == Dtype::F32 {
            close(&class_embeddings.concat(), &self.flat(&golden), "class embeddings");
        }
        ReadOut::Similarity { temperature: self.golden.temperature, class_embeddings }
    }

    fn engine(
        &self,
        injection: Injection,
        read_out: &str,
        max_batch_tokens: usize,
        threads: usize,
    ) -> Engine {
        let settings = Settings {
            injection,
            prompt_tokens: self.golden.initial_ids.len(),
            initial_ids: Some(self.golden.initial_ids.clone()),
            around: Around {
                before: self.golden.examples[0].ids.first().copied().filter(|_| self.golden.lead == 1),
                after: self.golden.examples[0].ids.last().copied(),
            },
            read_out: self.read_out(read_out),
            max_batch_tokens,
            pool: Arc::new(rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()),
        };
        Engine::new(Arc::clone(&self.backbone), settings, self.train()).unwrap()
    }

    /// Everything the golden file holds for one injection and read-out.
    fn check(&self, injection: Injection, read_out: &str) {
        let name = if injection == Injection::Add { "add" } else { "prefix" };
        let mut engine = self.engine(injection, read_out, 4096, 2);
        let (train, context) = (self.train(), self.prompts(&format!("{name}.prompts")));
        close(&engine.score(None, &train).unwrap(), &self.flat(&format!("plain.{read_out}")), "plain");
        let under = engine.score(Some(&context), &train).unwrap();
        close(&under, &self.flat(&format!("{name}.{read_out}")), "under the context");
        let zero = vec![vec![0.0; context[0].len()]; context.len()];
        if injection == Injection::Add {
            let initial = engine.score(Some(&zero), &train).unwrap();
            close(&initial, &self.flat(&format!("initial.{read_out}")), "initial ids, nothing added");
        }
        for (layer, prompt) in context.iter().enumerate() {
            engine.set_prompt(layer, prompt).unwrap();
        }
        let candidates = self.prompts(&format!("{name}.candidates"));
        for layer in 0..context.len() {
            let logits = engine.evaluate(layer, &candidates, 0..train.len()).unwrap();
            let golden = self.flat(&format!("{name}.population.{layer}.{read_out}"));
            close(&logits.concat(), &golden, &format!("{name}, population of layer {layer}"));
        }
    }

    /// Hidden states of the first example after every layer.
    fn check_states(&self, injection: Injection) {
        let name = if injection == Injection::Add { "add" } else { "prefix" };
        let engine = self.engine(injection, &self.golden.read_outs[0], 4096, 1);
        let context = self.prompts(&format!("{name}.prompts"));
        let example = &self.train()[0];
        for (name, prompts) in [("plain", None), (name, Some(context.as_slice()))] {
            let golden = self.prompts(&format!("{name}.hidden"));
            let ours = engine.states(prompts, example).unwrap();
            assert_eq!(ours.len(), golden.len(), "{name}: layers");
            let lead = self.golden.lead * self.backbone.hidden();
            for (layer, (ours, golden)) in ours.iter().zip(&golden).enumerate() {
                let what = format!("{name}, states before layer {layer}");
                let prompt = lead..lead + prompts.map_or(0, |prompts| prompts[0].len());
                close(&ours.text, &[&golden[..lead], &golden[prompt.end..]].concat(), &what);
                if !ours.prompt.is_empty() {
                    close(&ours.prompt, &golden[prompt], &what);
                }
            }
        }
    }
}

fn close(ours: &[f32], golden: &[f32], what: &str) {
    assert_eq!(ours.len(), golden.len(), "{what}");
    let scale = golden.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
    for (i, (a, b)) in ours.iter().zip(golden).enumerate() {
        assert!(
            (a - b).abs() <= TOLERANCE * scale,
            "{what}: {a} at {i}, transformers has {b} (scale {scale})"
        );
    }
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models").join(name)
}

fn check_tiny(name: &str) {
    let case = Case::open(&folder(name), &folder(name));
    assert!(!case.golden.read_outs.is_empty(), "{name} has read-outs");
    for injection in [Injection::Add, Injection::Prefix] {
        for read_out in case.golden.read_outs.iter() {
            case.check(injection, read_out);
        }
        case.check_states(injection);
    }
}

#[test]
fn bert_equals_transformers() {
    check_tiny("bert-tiny");
}

#[test]
fn roberta_equals_transformers() {
    check_tiny("roberta-tiny");
}

#[test]
fn gpt2_equals_transformers() {
    check_tiny("gpt2-tiny");
}

#[test]
fn llama_equals_transformers() {
    check_tiny("llama-tiny");
}

#[test]
fn mistral_equals_transformers() {
    check_tiny("mistral-tiny");
}

#[test]
fn qwen2_equals_transformers() {
    check_tiny("qwen2-tiny");
}

#[test]
fn qwen3_equals_transformers() {
    check_tiny("qwen3-tiny");
}

#[test]
fn gemma2_equals_transformers() {
    check_tiny("gemma2-tiny");
}

#[test]
fn gemma3_equals_transformers() {
    check_tiny("gemma3-tiny");
}

#[test]
fn modernbert_equals_transformers() {
    check_tiny("modernbert-tiny");
}

#[test]
fn deberta_v3_equals_transformers() {
    check_tiny("deberta-v3-tiny");
}

#[test]
fn t5_equals_transformers() {
    check_tiny("t5-tiny");
}

#[test]
fn t5_v1_1_equals_transformers() {
    check_tiny("t5v11-tiny");
}

#[test]
fn bart_equals_transformers() {
    check_tiny("bart-tiny");
}

/// What sentence-transformers' folders say about pooling, in place of the mean.
#[test]
fn other_poolings_equal_transformers() {
    for (model, mode, read_out) in [
        ("bert-tiny", "pooling_mode_cls_token", "similarity_cls"),
        ("qwen3-tiny", "pooling_mode_lasttoken", "similarity_last"),
    ] {
        let copy = tempfile::tempdir().unwrap();
        for file in ["config.json", "model.safetensors", "tokenizer.json"] {
            std::fs::copy(folder(model).join(file), copy.path().join(file)).unwrap();
        }
        std::fs::create_dir(copy.path().join("1_Pooling")).unwrap();
        let modes = format!("{{\"word_embedding_dimension\": 30, \"{mode}\": true}}");
        std::fs::write(copy.path().join("1_Pooling/config.json"), modes).unwrap();
        let case = Case::open(&folder(model), copy.path());
        case.check(Injection::Add, read_out);
        case.check(Injection::Prefix, read_out);
    }
}

#[test]
fn minilm_equals_transformers() {
    let model = std::env::var_os("ZEROTH_MINILM").map(PathBuf::from);
    let model = model.unwrap_or_else(|| folder("../../../models/all-MiniLM-L6-v2"));
    if !model.exists() {
        eprintln!("skipped: no MiniLM at {} (scripts/fetch-minilm brings it)", model.display());
        return;
    }
    let case = Case::open(&folder("minilm"), &model);
    case.check(Injection::Add, "similarity");
    case.check(Injection::Prefix, "similarity");
}

/// The same candidates whatever else is in the call: alone, in another order, on a part of the examples, with another
/// token budget, with another number of threads, and reached through another history of the context.
#[test]
fn a_candidate_has_the_same_bits_in_any_company() {
    for (model, read_out) in [
        ("bert-tiny", "masked_lm"),
        ("roberta-tiny", "similarity"),
        ("gpt2-tiny", "next_token"),
        ("llama-tiny", "similarity"),
        ("mistral-tiny", "next_token"),
        ("qwen2-tiny", "similarity"),
        ("qwen3-tiny", "next_token"),
        ("gemma2-tiny", "similarity"),
        ("gemma3-tiny", "next_token"),
        ("modernbert-tiny", "masked_lm"),
        ("deberta-v3-tiny", "masked_lm"),
        ("t5-tiny", "seq2seq"),
        ("bart-tiny", "seq2seq"),
    ] {
        for dtype in [Dtype::F32, Dtype::Bf16, Dtype::Int8] {
            if let Some(case) = Case::computed_in(dtype, &folder(model), &folder(model)) {
                check_company(&case, read_out);
            }
        }
    }
}

fn check_company(case: &Case, read_out: &str) {
    for (injection, name) in [(Injection::Add, "add"), (Injection::Prefix, "prefix")] {
        let candidates = case.prompts(&format!("{name}.candidates"));
        let context = case.prompts(&format!("{name}.prompts"));
        let examples = case.golden.examples.len();
        let started = |budget, threads| {
            let mut engine = case.engine(injection, read_out, budget, threads);
            context.iter().enumerate().for_each(|(l, p)| engine.set_prompt(l, p).unwrap());
            engine
        };
        let mut reference = started(4096, 1);
        for layer in 0..context.len() {
            let all = reference.evaluate(layer, &candidates, 0..examples).unwrap();
            let classes = all[0].len() / examples;
            for (budget, threads) in [(4096, 2), (30, 1), (1, 3)] {
                assert_eq!(started(budget, threads).evaluate(layer, &candidates, 0..examples).unwrap(), all);
            }
            let mut other = started(4096, 2);
            other.evaluate(context.len() - 1, &candidates[..1], 0..1).unwrap();
            for (candidate, logits) in candidates.iter().zip(&all).rev() {
                for example in 0..examples {
                    let one = other.evaluate(layer, std::slice::from_ref(candidate), example..example + 1);
                    assert_eq!(one.unwrap()[0], logits[example * classes..(example + 1) * classes]);
                }
            }
            // the same deep prompt scored from the bottom: the cached context changes no bit either
            let mut deep = context.clone();
            deep[layer].clone_from(&candidates[0]);
            assert_eq!(other.score(Some(&deep), &case.train()).unwrap(), all[0]);
        }
    }
}

/// Half a step of a row's integers over its range, and of an output's weights over their largest: what rounding to
/// 8-bit integers changes a factor by at most. For bfloat16 it is 2^-9 of the factor itself.
fn roundings(dtype: Dtype) -> f32 {
    match dtype {
        Dtype::F32 => 0.0,
        Dtype::Bf16 => 2.0 * 2.0_f32.powi(-9),
        Dtype::Int8 => 0.5 / 255.0 + 0.5 / 127.0,
    }
}

/// A rounded linear layer changes its output by no more than its factors' roundings in all. From bottom to top a row goes
/// through four of them a block (query with key and value, output, up, down), and norms keep what comes out at the size
/// of what went in; so logits may differ by four roundings a block of their largest.
#[test]
fn bf16_and_int8_stay_within_their_roundings_of_transformers() {
    for (model, read_out) in [
        ("bert-tiny", "masked_lm"),
        ("roberta-tiny", "masked_lm"),
        ("gpt2-tiny", "next_token"),
        ("llama-tiny", "next_token"),
        ("gemma3-tiny", "next_token"),
        ("modernbert-tiny", "masked_lm"),
        ("deberta-v3-tiny", "masked_lm"),
        ("t5-tiny", "seq2seq"),
        ("bart-tiny", "seq2seq"),
    ] {
        for dtype in [Dtype::Bf16, Dtype::Int8] {
            let Some(case) = Case::computed_in(dtype, &folder(model), &folder(model)) else { continue };
            for (injection, name) in [(Injection::Add, "add"), (Injection::Prefix, "prefix")] {
                let engine = case.engine(injection, read_out, 4096, 1);
                let context = case.prompts(&format!("{name}.prompts"));
                let ours = engine.score(Some(&context), &case.train()).unwrap();
                let golden = case.flat(&format!("{name}.{read_out}"));
                let scale = golden.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
                let pairs = ours.iter().zip(&golden);
                let off = pairs.fold(0.0_f32, |largest, (a, b)| largest.max((a - b).abs())) / scale;
                let bound = 4.0 * context.len() as f32 * roundings(dtype);
                eprintln!("{model} {dtype} {name}: {off:.5} of {bound:.5}");
                assert!(off <= bound, "{model} in {dtype}, {name}: {off}, {bound} allowed");
                assert!(off > TOLERANCE, "{model} in {dtype}, {name}: {off}, as if it were f32");
            }
        }
    }
}
