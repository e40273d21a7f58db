//! What runs beside an evaluation, with an evaluator that answers one thing only when it has seen the other.

use std::collections::BTreeSet;
use std::time::Duration;

use shared::ids::{ContextVersion, RunId};
use shared::messages::{Answer, Hello, Lease, ModelIdentity, Order, Outcome, Prompted, Ready, Report, Work};
use shared::spec::RunFile;
use tokio::sync::watch;

use super::*;
use crate::events::Event;
use crate::fleet::{Fleet, LinkEnds, Settings};
use crate::progress::Progress;

const LAYERS: u32 = 3;
const GENERATIONS: u64 = 9;
const POPULATION: u64 = 4;

const RUN_FILE: &str = r#"
[model]
path = "model"
read_out = "masked-lm"
[task]
train = "pool.jsonl"
shots = 2
template = "{text} {mask}"
words = ["bad", "good"]
[prompt]
tokens = 1
init = "none"
[search]
dim = 2
population = 4
budget = 36
[run]
folder = "run"
"#;

fn inputs(folder: &std::path::Path) -> Inputs {
    let row = |i: usize| format!("{{\"text\": \"text {i}\", \"label\": {}}}\n", i % 2);
    std::fs::write(folder.join("pool.jsonl"), (0..10).map(row).collect::<String>()).unwrap();
    let file = RunFile::parse(RUN_FILE, &folder.join("run.toml")).unwrap();
    Inputs::load(file.resolve().unwrap()).unwrap()
}

fn hello() -> Hello {
    Hello {
        protocol: proto::PROTOCOL_VERSION,
        name: "fake".to_owned(),
        version: "1".to_owned(),
        model: ModelIdentity { layers: LAYERS, hidden: 3, ..ModelIdentity::default() },
        device: "cpu".to_owned(),
        dtype: "f32".to_owned(),
        max_batch_tokens: 1,
    }
}

fn ready(run: RunId) -> Ready {
    Ready {
        run,
        layer_stds: vec![1.0; LAYERS as usize],
        initial: Vec::new(),
        initial_ids: Vec::new(),
        label_ids: vec![1, 2],
        train_tokens: 1,
        flops: vec![1.0; LAYERS as usize],
        memory_bytes: 1,
    }
}

fn outcome(loss: f32, examples: usize) -> Outcome {
    Outcome { losses: vec![loss; examples], predicted: vec![0; examples], logits: Vec::new() }
}

fn answer(lease: &Lease) -> Report {
    let outcomes = match &lease.work {
        Work::Evaluate { candidates, examples, .. } => {
            candidates.iter().map(|z| outcome(z.iter().map(|x| x * x).sum(), examples.len())).collect()
        }
        Work::Score { examples, .. } => {
            vec![Outcome { logits: vec![0.0; 2 * examples.len()], ..outcome(1.0, examples.len()) }]
        }
    };
    Report::Answer(Answer { lease: lease.id, outcomes, canary: None })
}

/// Whether a lease may be answered, given the versions that candidates have been seen of: neither a generation's losses
/// nor the score of the context before it are given away before the next generation's candidates are here.
fn released(lease: &Lease, seen: &BTreeSet<ContextVersion>) -> bool {
    let ContextVersion(version) = lease.version;
    let beside = match lease.work {
        Work::Evaluate { .. } => true,
        Work::Score { prompt, .. } => prompt == Prompted::Context && version > 0,
    };
    !beside || version + 1 >= GENERATIONS || seen.contains(&ContextVersion(version + 1))
}

/// An evaluator that gives nothing away before it has seen what should have come beside.
async fn reluctant(mut link: LinkEnds) {
    let (mut seen, mut held) = (BTreeSet::new(), Vec::<Lease>::new());
    while let Some(order) = link.orders.recv().await {
        match order {
            Order::Prepare(prepare) => {
                link.reports.send(Report::Ready(Box::new(ready(prepare.run)))).await.unwrap();
            }
            Order::Lease(lease) => {
                if matches!(lease.work, Work::Evaluate { .. }) {
                    seen.insert(lease.version);
                }
                held.push(lease);
            }
            _ => {}
        }
        for lease in held.extract_if(.., |lease| released(lease, &seen)) {
            link.reports.send(answer(&lease)).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_candidates_and_the_dev_score_of_the_last_context_are_out_while_one_generation_is_evaluated()
{
    let place = tempfile::tempdir().unwrap();
    let inputs = inputs(place.path());
    let (folder, checkpoint) = RunFolder::open(&inputs.spec, &inputs.hash, false).unwrap();
    let (fleet, _owner) = Fleet::spawn(Settings { credit: 3, ..Settings::default() });
    tokio::spawn(reluctant(fleet.attach(hello()).await.unwrap()));
    let origin =
        Origin { id: RunId(1), checkpoint, expected: inputs.expected(None), observer: Observer::default() };
    let (reporter, _progress) = watch::channel(Progress::default());
    let (_stop, stopped) = watch::channel(false);
    let tuned = tune(origin, &inputs, &folder, &fleet, &reporter, stopped);
    let summary = tokio::time::timeout(Duration::from_secs(30), tuned).await.expect("nothing waits in vain");
    assert_eq!(summary.unwrap().calls, GENERATIONS * POPULATION);
    let text = std::fs::read_to_string(folder.events()).unwrap();
    let events = text.lines().map(|line| serde_json::from_str::<Event>(line).unwrap());
    let numbers: Vec<u64> = events
        .filter_map(|event| match event {
            Event::Generation { generation, dev, .. } => dev.map(|_| generation),
            _ => None,
        })
        .collect();
    assert_eq!(numbers, (1..=GENERATIONS).collect::<Vec<_>>());
}
