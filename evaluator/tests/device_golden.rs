//! The device's engine against Hugging Face transformers' logits, and against our engine: on candle's processor device, or
//! on the GPU that `ZEROTH_TEST_DEVICE` names (docs/gpu.md).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)] // a helper's failure is the test's

mod golden;

use std::sync::Arc;

use candle_core::{DType, Device};
use evaluator::backbone::Backbone;
use evaluator::device::{self, DeviceBackbone, DeviceEngine};
use evaluator::engine::Injection;
use golden::{Case, close, folder};
use shared::spec::Dtype;

/// Largest difference from our engine in `f32`, relative to the largest logit.
const FROM_OURS: f32 = 1e-5;

/// Largest difference from transformers' `f32`, relative to the largest logit: some steps of the type, whose half is 2^-9
/// and 2^-12 of a number, in every product of every layer.
const HALVES: [(DType, f32); 2] = [(DType::BF16, 0.06), (DType::F16, 0.01)];
/// T5's scores are not scaled, so its softmaxes are sharp.
const HALVES_OF_T5: [(DType, f32); 2] = [(DType::BF16, 0.2), (DType::F16, 0.03)];

fn on_device(backbone: &Backbone, dtype: DType) -> Arc<DeviceBackbone> {
    let device = match std::env::var("ZEROTH_TEST_DEVICE") {
        Ok(name) => device::open(name.parse().unwrap(), Dtype::F32).unwrap().expect("a GPU is named").0,
        Err(_) => Device::Cpu,
    };
    Arc::new(DeviceBackbone::of(backbone, &device, dtype).unwrap())
}

fn engine(
    case: &Case,
    backbone: &Arc<DeviceBackbone>,
    (injection, read_out): (Injection, &str),
    budget: usize,
) -> DeviceEngine {
    DeviceEngine::new(case.engine(injection, read_out, budget, 1), Arc::clone(backbone)).unwrap()
}

/// Largest difference of two lists, relative to the largest number of the second.
fn apart(ours: &[f32], others: &[f32]) -> f32 {
    assert_eq!(ours.len(), others.len());
    let scale = others.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
    assert!(ours.iter().all(|x| x.is_finite()));
    ours.iter().zip(others).fold(0.0_f32, |largest, (a, b)| largest.max((a - b).abs())) / scale
}

fn name(injection: Injection) -> &'static str {
    if injection == Injection::Add { "add" } else { "prefix" }
}

/// Everything the golden file holds for one injection and read-out, cut in three ways.
fn check(case: &Case, injection: Injection, read_out: &str) {
    let (name, train, backbone) = (name(injection), case.train(), on_device(&case.backbone, DType::F32));
    let context = case.prompts(&format!("{name}.prompts"));
    let candidates = case.prompts(&format!("{name}.candidates"));
    let mut ours = case.engine(injection, read_out, 4096, 2);
    for (layer, std) in
        engine(case, &backbone, (injection, read_out), 64).layer_stds().unwrap().iter().enumerate()
    {
        let other = ours.layer_stds()[layer];
        assert!((std - other).abs() <= 1e-5 * other, "{name}: standard deviation of layer {layer}");
    }
    context.iter().enumerate().for_each(|(layer, prompt)| ours.set_prompt(layer, prompt).unwrap());
    for budget in [4096, 60, 1] {
        let mut engine = engine(case, &backbone, (injection, read_out), budget);
        let plain = engine.score(None, &train).unwrap();
        close(&plain, &case.flat(&format!("plain.{read_out}")), "plain");
        assert!(apart(&plain, &ours.score(None, &train).unwrap()) <= FROM_OURS, "plain, from ours");
        let under = engine.score(Some(&context), &train).unwrap();
        close(&under, &case.flat(&format!("{name}.{read_out}")), "under the context");
        context.iter().enumerate().for_each(|(layer, prompt)| engine.set_prompt(layer, prompt).unwrap());
        // up, so that the cache climbs, and down, so that it starts anew
        for layer in (0..context.len()).chain([0]) {
            let what = format!("{name} with a budget of {budget}, population of layer {layer}");
            let logits = engine.evaluate(layer, &candidates, 0..train.len()).unwrap().concat();
            close(&logits, &case.flat(&format!("{name}.population.{layer}.{read_out}")), &what);
            let others = ours.evaluate(layer, &candidates, 0..train.len()).unwrap().concat();
            assert!(apart(&logits, &others) <= FROM_OURS, "{what}, from ours: {}", apart(&logits, &others));
            let part = engine.evaluate(layer, &candidates[1..], 1..train.len()).unwrap().concat();
            let others = ours.evaluate(layer, &candidates[1..], 1..train.len()).unwrap().concat();
            assert!(apart(&part, &others) <= FROM_OURS, "{what}, a part: {}", apart(&part, &others));
        }
        // fewer candidates with the same examples: plans are kept by both
        let fewer = engine.evaluate(0, &candidates[1..], 0..train.len()).unwrap().concat();
        let others = ours.evaluate(0, &candidates[1..], 0..train.len()).unwrap().concat();
        assert!(apart(&fewer, &others) <= FROM_OURS, "{name}: fewer candidates");
        // another prompt for a layer above the population's, under plans that are kept
        engine.set_prompt(context.len() - 1, &candidates[0]).unwrap();
        ours.set_prompt(context.len() - 1, &candidates[0]).unwrap();
        let logits = engine.evaluate(0, &candidates, 0..train.len()).unwrap().concat();
        let others = ours.evaluate(0, &candidates, 0..train.len()).unwrap().concat();
        assert!(apart(&logits, &others) <= FROM_OURS, "{name}: another prompt above");
        ours.set_prompt(context.len() - 1, &context[context.len() - 1]).unwrap();
    }
}

/// Populations in half the bits: near, and not the same.
fn check_halves(case: &Case, injection: Injection, read_out: &str, bounds: [(DType, f32); 2]) {
    for (dtype, bound) in bounds {
        let (name, backbone) = (name(injection), on_device(&case.backbone, dtype));
        let mut engine = engine(case, &backbone, (injection, read_out), 4096);
        let context = case.prompts(&format!("{name}.prompts"));
        context.iter().enumerate().for_each(|(layer, prompt)| engine.set_prompt(layer, prompt).unwrap());
        let candidates = case.prompts(&format!("{name}.candidates"));
        let mut largest = 0.0_f32;
        for layer in 0..context.len() {
            let logits = engine.evaluate(layer, &candidates, 0..case.train().len()).unwrap().concat();
            let golden = case.flat(&format!("{name}.population.{layer}.{read_out}"));
            largest = largest.max(apart(&logits, &golden));
        }
        eprintln!("{dtype:?} {name} {read_out}: {largest:.5} of the largest logit");
        assert!(largest <= bound, "{dtype:?} {name} {read_out}: {largest} from transformers' f32");
        assert!(largest > 1e-6, "{dtype:?} computes in f32");
    }
}

fn check_tiny(model: &str) {
    let case = Case::open(&folder(model), &folder(model));
    assert!(!case.golden.read_outs.is_empty(), "{model} has read-outs");
    let bounds = if model.starts_with("t5") { HALVES_OF_T5 } else { HALVES };
    for injection in [Injection::Add, Injection::Prefix] {
        for read_out in &case.golden.read_outs {
            check(&case, injection, read_out);
        }
        check_halves(&case, injection, &case.golden.read_outs[0], bounds);
    }
}

#[test]
fn bert() {
    check_tiny("bert-tiny");
}

#[test]
fn roberta() {
    check_tiny("roberta-tiny");
}

#[test]
fn gpt2() {
    check_tiny("gpt2-tiny");
}

#[test]
fn llama() {
    check_tiny("llama-tiny");
}

#[test]
fn mistral() {
    check_tiny("mistral-tiny");
}

#[test]
fn qwen2() {
    check_tiny("qwen2-tiny");
}

#[test]
fn qwen3() {
    check_tiny("qwen3-tiny");
}

#[test]
fn gemma2() {
    check_tiny("gemma2-tiny");
}

#[test]
fn gemma3() {
    check_tiny("gemma3-tiny");
}

#[test]
fn modernbert() {
    check_tiny("modernbert-tiny");
}

#[test]
fn deberta_v3() {
    check_tiny("deberta-v3-tiny");
}

#[test]
fn t5() {
    check_tiny("t5-tiny");
}

#[test]
fn t5v11() {
    check_tiny("t5v11-tiny");
}

#[test]
fn bart() {
    check_tiny("bart-tiny");
}

#[test]
fn cpt() {
    check_tiny("cpt-tiny");
}

/// What sentence-transformers' folders say about pooling, in place of the mean.
#[test]
fn other_poolings() {
    for (model, mode, read_out) in [
        ("bert-tiny", "pooling_mode_cls_token", "similarity_cls"),
        ("qwen3-tiny", "pooling_mode_lasttoken", "similarity_last"),
    ] {
        let (case, _copy) = Case::with_pooling(model, mode);
        check(&case, Injection::Add, read_out);
        check(&case, Injection::Prefix, read_out);
    }
}

#[test]
fn minilm() {
    let model = golden::minilm();
    if !model.exists() {
        eprintln!("skipped: no MiniLM at {} (scripts/fetch-minilm brings it)", model.display());
        return;
    }
    let case = Case::open(&folder("minilm"), &model);
    for injection in [Injection::Add, Injection::Prefix] {
        check(&case, injection, "similarity");
        check_halves(&case, injection, "similarity", HALVES);
    }
}
