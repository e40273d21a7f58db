//! A whole session on a device (candle's processor device): orders in, losses out, as a session without it.
#![allow(clippy::unwrap_used)] // a helper's failure is the test's

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device};
use evaluator::backbone::Dtype;
use evaluator::device::DeviceBackbone;
use evaluator::limits::Limits;
use evaluator::model::Model;
use evaluator::resources::Resources;
use evaluator::session::Session;
use shared::ids::{ContextVersion, Layer, LeaseId, RunId};
use shared::messages::{ContextUpdate, ExampleSet, Lease, Outcome, Prepare, Prompted, Start, Work};
use shared::spec::{BatchTokens, Init, Injection, ProjectionKind, ReadOut};
use shared::task::{Example, Loss};

const RUN: RunId = RunId(7);
const DIM: usize = 3;

fn examples() -> Vec<Example> {
    let example =
        |(line, text): (u32, &str)| Example { text: text.to_owned(), text_pair: None, label: line % 2, line };
    [(1, "a b c"), (2, "no"), (3, "d e f g h"), (4, "yes b")].map(example).to_vec()
}

fn prepare(injection: Injection) -> Prepare {
    Prepare {
        run: RUN,
        read_out: ReadOut::MaskedLm,
        temperature: 1.0,
        template: "{text} {mask}".to_owned(),
        words: vec!["a".to_owned(), "b".to_owned()],
        injection,
        tokens: 2,
        init: Init::Vocabulary,
        loss: Loss::Ce,
        projection: ProjectionKind::Normal,
        dim: DIM as u32,
        seed: 1,
        train: examples(),
        dev: examples(),
    }
}

/// The statistics found, and the outcomes of a population under a changed context and of scores.
fn outcomes(model: &Arc<Model>, injection: Injection) -> (Vec<f32>, Vec<Outcome>) {
    let limits = Limits { max_batch_tokens: BatchTokens::Rows(64), ..Limits::default() };
    let resources = Resources::new(1, limits).unwrap();
    let (mut session, ready) = Session::prepare(model, &resources, prepare(injection)).unwrap();
    let layers = model.backbone.layers();
    let context = vec![vec![0.0; DIM]; layers];
    let start = Start { run: RUN, projection_stds: vec![0.5; layers], version: ContextVersion(0), context };
    session.start(&start).unwrap();
    let update =
        ContextUpdate { run: RUN, version: ContextVersion(1), layer: Layer(0), z: vec![0.3, -0.2, 0.1] };
    session.set_context(&update).unwrap();
    let candidates = vec![vec![0.1, 0.2, 0.3], vec![-0.5, 0.4, 0.0], vec![1.0, 0.0, -1.0]];
    let score = |prompt, examples| Work::Score { prompt, examples };
    let works = [
        Work::Evaluate { layer: Layer(1), candidates, examples: 0..4, canary: None },
        score(Prompted::Context, ExampleSet::Dev(1..4)),
        score(Prompted::Manual, ExampleSet::Inline(examples())),
    ];
    let lease = |work| Lease { id: LeaseId(1), run: RUN, version: ContextVersion(1), work, trace: None };
    let outcomes = works.into_iter().flat_map(|work| session.work(&lease(work)).unwrap().outcomes);
    (ready.layer_stds, outcomes.collect())
}

#[test]
fn a_session_on_a_device_finds_what_one_on_the_processor_finds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models/bert-tiny");
    let load = || Model::load(folder.to_str().unwrap(), Path::new(""), None, Dtype::F32).unwrap();
    let ours = Arc::new(load());
    let weights = DeviceBackbone::of(&ours.backbone, &Device::Cpu, DType::F32).unwrap();
    let on_device = Arc::new(Model { on_device: Some(Arc::new(weights)), ..load() });
    for injection in [Injection::Add, Injection::Prefix] {
        let (stds, there) = outcomes(&on_device, injection);
        let (our_stds, here) = outcomes(&ours, injection);
        assert_eq!(there.len(), 5);
        let near = |(a, b): (&f32, &f32)| assert!((a - b).abs() <= 2e-5 * b.abs().max(1.0), "{a}, not {b}");
        stds.iter().zip(&our_stds).for_each(near);
        for (there, here) in there.iter().zip(&here) {
            assert_eq!(there.predicted, here.predicted);
            assert_eq!(there.losses.len(), here.losses.len());
            there.losses.iter().zip(&here.losses).for_each(near);
        }
        let bits = |outcomes: &[Outcome]| {
            outcomes.iter().flat_map(|o| o.losses.iter().map(|x| x.to_bits())).collect::<Vec<_>>()
        };
        assert_ne!(bits(&there), bits(&here), "the device has not been asked");
    }
}
