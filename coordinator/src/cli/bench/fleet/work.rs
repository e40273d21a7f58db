//! The model and run that both processes pretend to, and the losses they agree on: each depends on every bit of its
//! candidate and on its example, so that one in the wrong place is noticed.

use proto::v1;
use shared::ids::RunId;
use shared::messages::{Hello, ModelIdentity, Prepare};
use shared::spec::{Init, Injection, ProjectionKind, ReadOut};
use shared::task::{Example, Loss};

use super::plan::Plan;

/// The only run.
pub(super) const RUN: RunId = RunId(1);

/// Width of the pretended model.
const HIDDEN: u32 = 8;

/// What evaluator number `index` says of itself.
pub(super) fn hello(plan: &Plan, index: usize) -> Hello {
    Hello {
        protocol: proto::PROTOCOL_VERSION,
        name: format!("simulated-{index}"),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        model: ModelIdentity {
            name: "simulated".to_owned(),
            weights_sha256: "none".to_owned(),
            layers: plan.layers,
            hidden: HIDDEN,
            ..ModelIdentity::default()
        },
        device: "cpu".to_owned(),
        dtype: "f32".to_owned(),
        max_batch_tokens: 1,
    }
}

/// The run, as evaluators are to prepare it.
pub(super) fn prepare(plan: &Plan) -> Prepare {
    let example = |i| Example { text: "simulated".to_owned(), text_pair: None, label: i % 2, line: 1 + i };
    Prepare {
        run: RUN,
        read_out: ReadOut::MaskedLm,
        temperature: 1.0,
        template: "{text} {mask}".to_owned(),
        words: vec!["a".to_owned(), "b".to_owned()],
        injection: Injection::Add,
        tokens: 1,
        init: Init::None,
        loss: Loss::Ce,
        projection: ProjectionKind::Normal,
        dim: plan.dim as u32,
        seed: plan.seed,
        train: (0..plan.examples).map(example).collect(),
        dev: Vec::new(),
    }
}

/// What every evaluator finds when it prepares the run.
pub(super) fn ready(plan: &Plan, run: u64) -> v1::Ready {
    v1::Ready {
        run,
        layer_stds: 1f32.to_le_bytes().repeat(plan.layers as usize),
        initial: Vec::new(),
        initial_ids: Vec::new(),
        label_ids: vec![0, 1],
        train_tokens: u64::from(plan.examples),
        flops: vec![1.0; plan.layers as usize],
        memory_bytes: 0,
    }
}

/// What a candidate's losses depend on, from the bits of its numbers.
pub(super) fn key(bits: impl Iterator<Item = u32>) -> u32 {
    bits.fold(0x811C_9DC5, |key, bits| key.wrapping_add(bits))
}

/// Loss and predicted class of the candidate with that key on one example.
pub(super) fn outcome(key: u32, example: u32) -> (f32, u32) {
    let mixed = (key ^ example.wrapping_mul(0x9E37_79B9)).wrapping_mul(0x85EB_CA6B);
    ((mixed >> 8) as f32 / (1 << 24) as f32, mixed & 1)
}
