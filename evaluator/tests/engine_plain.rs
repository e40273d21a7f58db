//! The engine against a plain forward of the whole model for each candidate, written with candle's tensors: nothing
//! cached, nothing packed, every row of every layer, one example after the other.
#![allow(clippy::unwrap_used, clippy::panic)] // a helper's failure is the test's

use std::path::Path;
use std::sync::Arc;

use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use evaluator::backbone::{Backbone, Dtype};
use evaluator::engine::{self, Around, Engine, Injection, ReadOut, Settings, Tokens};
use evaluator::models::locate;

/// Largest difference allowed, relative to the largest logit.
const TOLERANCE: f32 = 1e-5;
const LAYERS: usize = 3;
const HIDDEN: usize = 40;
const HEADS: usize = 5;
const PROMPT: usize = 4;

/// A model as a folder of weights, read by candle and nothing of ours.
struct Plain {
    vb: VarBuilder<'static>,
    prefix: &'static str,
    first_position: u32,
    eps: f64,
}

impl Plain {
    fn open(name: &str) -> Self {
        let file = folder(name).join("model.safetensors");
        let tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
        let roberta = name.starts_with("roberta");
        Self {
            vb: VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu),
            prefix: if roberta { "roberta" } else { "bert" },
            first_position: if roberta { 2 } else { 0 },
            eps: if roberta { 1e-5 } else { 1e-12 },
        }
    }

    fn get(&self, name: &str) -> Result<Tensor> {
        self.vb.get_unchecked(&format!("{}.{name}", self.prefix))
    }

    fn linear(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let weight = self.get(&format!("{name}.weight"))?;
        x.matmul(&weight.t()?)?.broadcast_add(&self.get(&format!("{name}.bias"))?)
    }

    fn norm(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        let scaled = centred.broadcast_div(&(variance + self.eps)?.sqrt()?)?;
        let weighted = scaled.broadcast_mul(&self.get(&format!("{name}.weight"))?)?;
        weighted.broadcast_add(&self.get(&format!("{name}.bias"))?)
    }

    fn attention(&self, x: &Tensor, layer: &str) -> Result<Tensor> {
        let rows = x.dim(0)?;
        let heads = |name: &str| {
            let all = self.linear(x, &format!("{layer}.attention.self.{name}"))?;
            all.reshape((rows, HEADS, HIDDEN / HEADS))?.transpose(0, 1)?.contiguous()
        };
        let (q, k, v) = (heads("query")?, heads("key")?, heads("value")?);
        let scores = (q.matmul(&k.t()?.contiguous()?)? / ((HIDDEN / HEADS) as f64).sqrt())?;
        let context = candle_nn::ops::softmax_last_dim(&scores)?.matmul(&v)?;
        let context = context.transpose(0, 1)?.contiguous()?.reshape((rows, HIDDEN))?;
        self.linear(&context, &format!("{layer}.attention.output.dense"))
    }

    /// Last hidden states of one example under a whole deep prompt, `[1 + n + rest, hidden]`.
    fn forward(
        &self,
        tokens: &Tokens,
        initial: &[u32],
        injection: Injection,
        deep: &[Vec<f32>],
    ) -> Result<Tensor> {
        let ids = [&tokens.ids[..1], initial, &tokens.ids[1..]].concat();
        let count = ids.len() as u32;
        let positions: Vec<u32> = (0..count).map(|p| p + self.first_position).collect();
        let rows = |table: &str, ids: Vec<u32>| {
            self.get(&format!("embeddings.{table}.weight"))?.embedding(&Tensor::new(ids, &Device::Cpu)?)
        };
        let types = rows("token_type_embeddings", vec![0; ids.len()])?;
        let x = ((rows("word_embeddings", ids)? + rows("position_embeddings", positions)?)? + types)?;
        let mut x = self.norm(&x, "embeddings.LayerNorm")?;
        for (index, prompt) in deep.iter().enumerate() {
            x = place(&x, prompt, injection)?;
            let layer = format!("encoder.layer.{index}");
            let attended = self.attention(&x, &layer)?;
            x = self.norm(&(x + attended)?, &format!("{layer}.attention.output.LayerNorm"))?;
            let wide = self.linear(&x, &format!("{layer}.intermediate.dense"))?.gelu_erf()?;
            let narrow = self.linear(&wide, &format!("{layer}.output.dense"))?;
            x = self.norm(&(x + narrow)?, &format!("{layer}.output.LayerNorm"))?;
        }
        Ok(x)
    }

    /// Mean over the rows that are no prompt rows.
    fn pooled(&self, last: &Tensor, prompt: usize) -> Result<Tensor> {
        let rest = last.dim(0)? - 1 - prompt;
        Tensor::cat(&[last.narrow(0, 0, 1)?, last.narrow(0, 1 + prompt, rest)?], 0)?.mean(0)
    }
}

/// Adds or puts a prompt at rows 1..=n.
fn place(x: &Tensor, prompt: &[f32], injection: Injection) -> Result<Tensor> {
    let n = prompt.len() / HIDDEN;
    let prompt = Tensor::from_slice(prompt, (n, HIDDEN), &Device::Cpu)?;
    let old = x.narrow(0, 1, n)?;
    let new = if injection == Injection::Add { (old + prompt)? } else { prompt };
    Tensor::cat(&[x.narrow(0, 0, 1)?, new, x.narrow(0, 1 + n, x.dim(0)? - 1 - n)?], 0)
}

fn cosine(a: &Tensor, b: &Tensor) -> Result<f32> {
    let dot = |a: &Tensor, b: &Tensor| (a * b)?.sum_all()?.to_scalar::<f32>();
    Ok(dot(a, b)? / (dot(a, a)?.sqrt() * dot(b, b)?.sqrt()))
}

fn folder(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models").join(name)
}

/// Numbers without pattern in ±0.5, the same every time.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..count).map(|_| next()).collect()
}

fn check(name: &str, injection: Injection) {
    let plain = Plain::open(name);
    let backbone = Arc::new(Backbone::load(&locate::in_folder(&folder(name)).unwrap(), Dtype::F32).unwrap());
    // short and long, in no order
    let example = |(i, &len): (usize, &usize)| Tokens {
        ids: (0..len).map(|t| 6 + ((t * 7 + i * 13) % 90) as u32).collect(),
        read_out: 0,
    };
    let examples: Vec<Tokens> = [9, 2, 31, 5, 17].iter().enumerate().map(example).collect();
    let phrases: Vec<Tokens> = [3, 4, 6].iter().enumerate().map(example).collect();
    let initial: Vec<u32> = (10..10 + PROMPT as u32).collect();
    let class_embeddings = engine::embed(&backbone, &phrases).unwrap();
    let nothing = vec![Vec::new(); LAYERS];
    let classes: Vec<Tensor> = phrases
        .iter()
        .map(|p| plain.pooled(&plain.forward(p, &[], Injection::Add, &nothing).unwrap(), 0).unwrap())
        .collect();
    let engine = |max_batch_tokens| {
        let settings = Settings {
            injection,
            prompt_tokens: PROMPT,
            initial_ids: Some(initial.clone()),
            around: Around { before: Some(2), after: Some(3) },
            read_out: ReadOut::Similarity { temperature: 0.05, class_embeddings: class_embeddings.clone() },
            max_batch_tokens,
            pool: Arc::new(rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap()),
        };
        Engine::new(Arc::clone(&backbone), settings, examples.clone()).unwrap()
    };
    let context: Vec<Vec<f32>> = (0..LAYERS).map(|l| numbers(PROMPT * HIDDEN, l as u64)).collect();
    let candidates: Vec<Vec<f32>> = (0..3).map(|c| numbers(PROMPT * HIDDEN, 100 + c)).collect();
    for budget in [8192, 1] {
        let mut engine = engine(budget); // a budget of 1 makes each example a task of its own: nothing is packed
        context.iter().enumerate().for_each(|(l, p)| engine.set_prompt(l, p).unwrap());
        for layer in 0..LAYERS {
            let ours = engine.evaluate(layer, &candidates, 0..examples.len()).unwrap();
            for (candidate, ours) in candidates.iter().zip(&ours) {
                let mut deep = context.clone();
                deep[layer].clone_from(candidate);
                for (example, ours) in examples.iter().zip(ours.chunks(classes.len())) {
                    let last = plain.forward(example, &initial, injection, &deep).unwrap();
                    let pooled = plain.pooled(&last, PROMPT).unwrap();
                    for (class, &ours) in classes.iter().zip(ours) {
                        let theirs = cosine(&pooled, class).unwrap() / 0.05;
                        let apart = (ours - theirs).abs() / 20.0; // 20 is the largest logit there can be
                        assert!(
                            apart <= TOLERANCE,
                            "{name} {injection:?} layer {layer}: {ours}, plain {theirs}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn bert_add_equals_a_plain_forward() {
    check("bert-tiny", Injection::Add);
}

#[test]
fn bert_prefix_equals_a_plain_forward() {
    check("bert-tiny", Injection::Prefix);
}

#[test]
fn roberta_add_equals_a_plain_forward() {
    check("roberta-tiny", Injection::Add);
}

#[test]
fn roberta_prefix_equals_a_plain_forward() {
    check("roberta-tiny", Injection::Prefix);
}
