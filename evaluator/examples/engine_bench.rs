//! Times the engine on work that `scripts/bench-peers` has written: `engine_bench FOLDER [DTYPE]`.
//!
//! The folder holds `work.json` and `prompts.safetensors` (see the script). Prints one JSON object: seconds per
//! candidate averaged over the layers, per layer, and the first candidate's logits at each layer, so that the peer's
//! losses can be compared.
#![allow(clippy::print_stdout, clippy::unwrap_used)] // a bench ends at its first problem

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{Device, safetensors};
use evaluator::backbone::{Backbone, Dtype};
use evaluator::engine::{self, Around, Engine, Injection, ReadOut, Settings, Tokens};
use evaluator::models::locate::{self, Located};
use serde::Deserialize;

#[derive(Deserialize)]
struct Work {
    model: PathBuf,
    examples: Vec<Example>,
    prompt_tokens: usize,
    initial_ids: Vec<u32>,
    read_out: String,
    #[serde(default)]
    label_ids: Vec<u32>,
    #[serde(default)]
    class_phrases: Vec<Vec<u32>>,
    injection: String,
    threads: usize,
}

#[derive(Deserialize)]
struct Example {
    ids: Vec<u32>,
    read_out: usize,
}

fn main() {
    let folder = std::env::args().nth(1).map(PathBuf::from).unwrap();
    let work: Work =
        serde_json::from_str(&std::fs::read_to_string(folder.join("work.json")).unwrap()).unwrap();
    let prompts = safetensors::load(folder.join("prompts.safetensors"), &Device::Cpu).unwrap();
    let rows = |name: &str| -> Vec<Vec<f32>> { prompts[name].flatten_from(1).unwrap().to_vec2().unwrap() };
    let (context, candidates) = (rows("context"), rows("candidates"));
    let dtype = std::env::args().nth(2).map_or(Dtype::F32, |name| name.parse().unwrap());
    let mut engine = build(&work, dtype);
    let examples = 0..work.examples.len();
    for (layer, prompt) in context.iter().enumerate() {
        engine.set_prompt(layer, prompt).unwrap();
    }
    let (mut seconds, mut logits) = (Vec::new(), Vec::new());
    for (layer, prompt) in context.iter().enumerate() {
        engine.set_prompt(layer, prompt).unwrap();
        let began = Instant::now(); // moving the cached context up is part of the work
        let found = engine.evaluate(layer, &candidates, examples.clone()).unwrap();
        seconds.push(began.elapsed().as_secs_f64() / candidates.len() as f64);
        logits.push(found[0].clone());
    }
    let mean = seconds.iter().sum::<f64>() / seconds.len() as f64;
    let flops: f64 = (0..context.len()).map(|layer| engine.flops(layer)).sum::<f64>() / context.len() as f64;
    let line = serde_json::json!({
        "seconds_per_candidate": mean, "per_layer": seconds, "gflops": flops / mean / 1e9, "logits": logits,
    });
    println!("{line}");
}

fn build(work: &Work, dtype: Dtype) -> Engine {
    // a folder of random weights has no tokenizer, so it is not looked for
    let weights = vec![work.model.join(locate::WEIGHTS)];
    let located = Located { name: "bench".to_owned(), revision: None, folder: work.model.clone(), weights };
    let backbone = Arc::new(Backbone::load(&located, dtype).unwrap());
    let tokens = |ids: &[u32], read_out| Tokens { ids: ids.to_vec(), read_out };
    let read_out = if work.read_out == "masked-lm" {
        ReadOut::MaskedLm { label_ids: work.label_ids.clone() }
    } else {
        let phrases: Vec<Tokens> = work.class_phrases.iter().map(|ids| tokens(ids, 0)).collect();
        ReadOut::Similarity {
            temperature: 0.05,
            class_embeddings: engine::embed(&backbone, &phrases).unwrap(),
        }
    };
    let settings = Settings {
        injection: if work.injection == "add" { Injection::Add } else { Injection::Prefix },
        prompt_tokens: work.prompt_tokens,
        initial_ids: Some(work.initial_ids.clone()),
        around: Around {
            before: work.examples[0].ids.first().copied(),
            after: work.examples[0].ids.last().copied(),
        },
        read_out,
        max_batch_tokens: shared::spec::DEFAULT_MAX_BATCH_TOKENS,
        pool: Arc::new(rayon::ThreadPoolBuilder::new().num_threads(work.threads).build().unwrap()),
    };
    let train = work.examples.iter().map(|example| tokens(&example.ids, example.read_out)).collect();
    Engine::new(backbone, settings, train).unwrap()
}
