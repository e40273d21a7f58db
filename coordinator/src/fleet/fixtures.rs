//! What the fleet's tests begin with: a hello, a run to prepare, what preparing it finds. The tests over the wire, which
//! are outside this crate, include this file by its path.

use shared::ids::RunId;
use shared::messages::{Hello, ModelIdentity, Prepare, Ready};
use shared::spec::{Init, Injection, ProjectionKind, ReadOut};
use shared::task::{Example, Loss};

/// The only run.
pub(super) const RUN: RunId = RunId(1);

/// A model of two layers that has nothing but a name for its weights.
pub(super) fn model(weights: &str) -> ModelIdentity {
    let weights_sha256 = weights.to_owned();
    ModelIdentity { name: "tiny".to_owned(), weights_sha256, layers: 2, hidden: 3, ..Default::default() }
}

/// An evaluator with that model.
pub(super) fn hello(weights: &str) -> Hello {
    Hello {
        protocol: proto::PROTOCOL_VERSION,
        name: "fake".to_owned(),
        version: "1".to_owned(),
        model: model(weights),
        device: "cpu".to_owned(),
        dtype: "f32".to_owned(),
        max_batch_tokens: 1,
    }
}

/// `n` examples of class 0.
pub(super) fn examples(n: u32) -> Vec<Example> {
    let example = |i| Example { text: format!("text {i}"), text_pair: None, label: 0, line: 1 + i };
    (0..n).map(example).collect()
}

/// Two classes, four training and three dev examples, `z` of two numbers.
pub(super) fn prepare() -> Prepare {
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
        dim: 2,
        seed: 1,
        train: examples(4),
        dev: examples(3),
    }
}

/// What an honest evaluator finds.
pub(super) fn ready(run: RunId) -> Ready {
    Ready {
        run,
        layer_stds: vec![0.5, 0.25],
        initial: vec![0.7; 6],
        initial_ids: vec![9],
        label_ids: vec![4, 5],
        train_tokens: 9,
        flops: vec![1e9; 2],
        memory_bytes: 1,
    }
}
