//! The engine against Hugging Face transformers' logits (tests/golden/models/README.md names tools and versions).
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)] // a helper's failure is the test's

mod golden;

use evaluator::backbone::Dtype;
use evaluator::engine::Injection;
use golden::{Case, TOLERANCE, close, folder};

impl Case {
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

#[test]
fn cpt_equals_transformers() {
    check_tiny("cpt-tiny");
}

/// What sentence-transformers' folders say about pooling, in place of the mean.
#[test]
fn other_poolings_equal_transformers() {
    for (model, mode, read_out) in [
        ("bert-tiny", "pooling_mode_cls_token", "similarity_cls"),
        ("qwen3-tiny", "pooling_mode_lasttoken", "similarity_last"),
    ] {
        let (case, _copy) = Case::with_pooling(model, mode);
        case.check(Injection::Add, read_out);
        case.check(Injection::Prefix, read_out);
    }
}

#[test]
fn minilm_equals_transformers() {
    let model = golden::minilm();
    if !model.exists() {
        eprintln!("skipped: no MiniLM at {} (scripts/fetch-minilm brings it)", model.display());
        return;
    }
    let case = Case::open(&folder("minilm"), &model);
    case.check(Injection::Add, "similarity");
    case.check(Injection::Prefix, "similarity");
}

/// Models whose layers project rows as they come, without a norm or a rotation.
const POST_NORM: [&str; 5] = ["bert-tiny", "roberta-tiny", "deberta-v3-tiny", "bart-tiny", "cpt-tiny"];

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
        ("cpt-tiny", "masked_lm"),
        ("t5-tiny", "seq2seq"),
        ("bart-tiny", "seq2seq"),
    ] {
        for dtype in [Dtype::F32, Dtype::Bf16, Dtype::Int8] {
            if let Some(case) = Case::computed_in(dtype, &folder(model), &folder(model)) {
                check_company(&case, read_out, dtype, POST_NORM.contains(&model));
            }
        }
    }
}

fn check_company(case: &Case, read_out: &str, dtype: Dtype, linear: bool) {
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
            // the same deep prompt scored from the bottom: the cached context changes no bit either, but where the
            // tuned layer's projections are linear in the prompt, W h + W p is rounded otherwise than W (h + p)
            let mut deep = context.clone();
            deep[layer].clone_from(&candidates[0]);
            let scored = other.score(Some(&deep), &case.train()).unwrap();
            if linear && injection == Injection::Add {
                let largest = scored.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
                let bound = largest
                    * if dtype == Dtype::F32 { 1e-5 } else { 4.0 * context.len() as f32 * roundings(dtype) };
                let near = |(a, b): (&f32, &f32)| (a - b).abs() <= bound;
                assert!(scored.iter().zip(&all[0]).all(near), "{dtype} layer {layer}");
            } else {
                assert_eq!(scored, all[0]);
            }
        }
    }
}

/// Half a step of a row's integers over its range, and of an output's weights over their largest: what rounding to
/// 8-bit integers changes a factor by at most. For bfloat16 it is 2^-9 of the factor itself.
fn roundings(dtype: Dtype) -> f32 {
    match dtype {
        Dtype::F32 => 0.0,
        Dtype::F16 => 2.0 * 2.0_f32.powi(-12),
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
