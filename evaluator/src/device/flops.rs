//! What the engine counts for a candidate and a context is what a device does for them: that nothing is computed twice
//! which they share, nor a row that nobody reads.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device};

use super::{DeviceBackbone, DeviceEngine, counted};
use crate::backbone::{Backbone, Dtype};
use crate::engine::{Around, Engine, Injection, ReadOut, Settings, Tokens};
use crate::kernel;
use crate::models::locate::{Located, WEIGHTS};

const PROMPT: usize = 4;

fn backbone(name: &str) -> Backbone {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models").join(name);
    let weights = vec![folder.join(WEIGHTS)];
    Backbone::load(&Located { name: name.to_owned(), revision: None, folder, weights }, Dtype::F32).unwrap()
}

fn engine(backbone: &Arc<Backbone>, read_out: &str, injection: Injection) -> DeviceEngine {
    let label_ids = vec![20, 21, 22];
    let read_out = match read_out {
        "masked-lm" => ReadOut::MaskedLm { label_ids },
        "next-token" => ReadOut::NextToken { label_ids },
        "seq2seq" => ReadOut::Seq2Seq { label_ids, mask: 4 },
        _ => {
            let class_embeddings = vec![vec![1.0; backbone.hidden()]; 2];
            ReadOut::Similarity { temperature: 0.05, class_embeddings }
        }
    };
    let example = |rows: u32| Tokens { ids: (1..=rows).collect(), read_out: rows as usize - 2 };
    let settings = Settings {
        injection,
        prompt_tokens: PROMPT,
        initial_ids: None,
        around: Around { before: Some(1), after: None },
        read_out,
        max_batch_tokens: 512,
        pool: Arc::new(rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap()),
    };
    let host =
        Engine::new(Arc::clone(backbone), settings, vec![example(9), example(5), example(14)]).unwrap();
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
