//! What the engine counts for a candidate and a context is what a device does for them: that nothing is computed twice
//! which they share, nor a row that nobody reads.

use std::sync::Arc;

use candle_core::{DType, Device};

use super::{DeviceBackbone, DeviceEngine, counted};
use crate::backbone::Backbone;
use crate::engine::Injection;
use crate::engine::tiny::{self, PROMPT, backbone};
use crate::kernel;

fn engine(backbone: &Arc<Backbone>, read_out: &str, injection: Injection) -> DeviceEngine {
    let host = tiny::engine(Arc::clone(backbone), read_out, injection, false);
    let weights = DeviceBackbone::of(backbone, &Device::Cpu, DType::F32).unwrap();
    DeviceEngine::new(host, Arc::new(weights)).unwrap()
}

/// Operations since the last time: the device's, and those of the label words, which are the processor's.
fn seen() -> f64 {
    (counted::take() + kernel::counted::take()) as f64
}

fn check(backbone: &Arc<Backbone>, read_out: &str, injection: Injection, at: &str) {
    let mut engine = engine(backbone, read_out, injection);
    let prompt = vec![0.1; PROMPT * backbone.hidden()];
    for layer in 0..backbone.layers() {
        seen();
        engine.evaluate(layer, &[], 0..3).unwrap();
        assert_eq!(seen(), engine.host().context_flops(layer), "context, {at} layer {layer}");
        engine.evaluate(layer, std::slice::from_ref(&prompt), 0..3).unwrap();
        let one = engine.host().flops(layer);
        assert_eq!(seen(), one, "candidate, {at} layer {layer}");
        engine.evaluate(layer, &vec![prompt.clone(); 3], 0..3).unwrap();
        let three = seen();
        // what a decoder is given is the same for all candidates, so its first queries, keys and values are, too
        let shared = backbone.decoder.is_some() && three < 3.0 * one && three > 2.0 * one;
        assert!(shared || three == 3.0 * one, "three candidates, {at} layer {layer}: {three}, {one} each");
    }
}

#[test]
fn are_what_the_engine_counts_in_every_family() {
    let encoders = ["bert", "roberta", "deberta-v3", "modernbert"];
    let causal = ["gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3"];
    for name in encoders.into_iter().chain(causal).chain(["bart", "cpt", "t5", "t5v11"]) {
        let backbone = Arc::new(backbone(&format!("{name}-tiny")));
        for injection in [Injection::Add, Injection::Prefix] {
            for read_out in backbone.read_outs() {
                check(&backbone, read_out, injection, &format!("{name} {read_out} {injection:?}"));
            }
        }
    }
}
