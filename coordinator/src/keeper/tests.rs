//! The writer against a folder that does not take what it is given.

use std::fs;
use std::path::Path;

use shared::messages::ModelIdentity;
use shared::spec::{Incumbent, Select};
use shared::task::loss::{Loss, Metric};

use super::*;
use crate::checkpoint::Before;
use crate::search::{DevScore, Plan, Search};

const NOW: Duration = Duration::ZERO;
const SOON: Duration = Duration::from_secs(30);

fn plan() -> Plan {
    Plan {
        layers: 2,
        tuned: 2,
        dim: 3,
        population: 4,
        sigma: 1.0,
        covariance: crate::cma::Variant::Full,
        learning: crate::cma::LearningRates::Fixed,
        bounds: None,
        reevaluate: false,
        budget: 8,
        examples: 1,
        seed: 1,
        incumbent: Incumbent::Best,
        select: Select::Metric,
        dev_every: 1,
        loss: Loss::Ce,
        metric: Metric::Accuracy,
        racing: false,
    }
}

fn checkpoint(seconds: f64) -> Checkpoint {
    Checkpoint {
        spec_hash: "hash".to_owned(),
        model: ModelIdentity::default(),
        projection_stds: vec![1.0; 2],
        train_rows: vec![0],
        search: Search::new(&plan()).unwrap(),
        events_bytes: 0,
        seconds,
        before: Before { dev: DevScore { metric: 0.0, loss: 1.0 }, test: None, test_sha256: None },
        finished: None,
    }
}

fn event(calls: u64) -> Event {
    let [task, spec, model] = ["task", "spec", "model"].map(str::to_owned);
    Event::Begin { task, spec, model, covariance: None, calls }
}

fn calls(folder: &RunFolder) -> Vec<u64> {
    let text = fs::read_to_string(folder.events()).unwrap();
    let of = |line: &str| match serde_json::from_str(line).unwrap() {
        Event::Begin { calls, .. } => calls,
        other => panic!("{other:?}"),
    };
    text.lines().map(of).collect()
}

/// Nobody can write a file whose name a folder has, whoever they are.
fn obstruct(path: &Path) {
    fs::create_dir(path.join("checkpoint.bin.new")).unwrap();
}

fn clear(path: &Path) {
    fs::remove_dir(path.join("checkpoint.bin.new")).unwrap();
}

#[tokio::test]
async fn what_the_disk_refuses_is_kept_and_written_with_the_next_generation() {
    let place = tempfile::tempdir().unwrap();
    let folder = RunFolder::hold(place.path().to_owned()).unwrap();
    let mut keeper = Keeper::open(&folder, 0).unwrap();
    keeper.append(&event(1)).await.unwrap();
    keeper.save(checkpoint(1.0));
    keeper.flush(SOON).await.unwrap();
    let first = keeper.bytes;

    obstruct(place.path());
    for round in 2..5 {
        keeper.append(&event(round)).await.unwrap();
        keeper.save(checkpoint(round as f64));
    }
    let error = keeper.flush(Duration::from_millis(100)).await.unwrap_err().to_string();
    assert!(error.contains("checkpoint.bin"), "{error}");
    let kept = folder.checkpoint().unwrap().unwrap();
    assert_eq!((kept.seconds, kept.events_bytes), (1.0, first), "what was there stays");

    clear(place.path());
    keeper.append(&event(5)).await.unwrap();
    keeper.save(checkpoint(5.0));
    keeper.flush(SOON).await.unwrap();
    let kept = folder.checkpoint().unwrap().unwrap();
    assert_eq!((kept.seconds, kept.events_bytes), (5.0, keeper.bytes));
    assert_eq!(calls(&folder), [1, 2, 3, 4, 5]);
    assert_eq!(fs::metadata(folder.events()).unwrap().len(), keeper.bytes);
    keeper.close().await.unwrap();
}

/// Nothing new comes, but whoever flushes has it tried again.
#[tokio::test]
async fn a_flush_tries_again_by_itself() {
    let place = tempfile::tempdir().unwrap();
    let folder = RunFolder::hold(place.path().to_owned()).unwrap();
    let keeper = Keeper::open(&folder, 0).unwrap();
    obstruct(place.path());
    keeper.save(checkpoint(1.0));
    keeper.flush(NOW).await.unwrap_err();
    clear(place.path());
    keeper.flush(SOON).await.unwrap();
    assert_eq!(folder.checkpoint().unwrap().unwrap().seconds, 1.0);
}

#[tokio::test]
async fn closing_writes_what_waits_or_says_why_not() {
    let place = tempfile::tempdir().unwrap();
    let folder = RunFolder::hold(place.path().to_owned()).unwrap();
    let mut keeper = Keeper::open(&folder, 0).unwrap();
    keeper.append(&event(1)).await.unwrap();
    keeper.save(checkpoint(1.0));
    keeper.close().await.unwrap();
    assert_eq!(folder.checkpoint().unwrap().unwrap().seconds, 1.0);

    let bytes = fs::metadata(folder.events()).unwrap().len();
    let mut keeper = Keeper::open(&folder, bytes).unwrap();
    obstruct(place.path());
    keeper.append(&event(2)).await.unwrap();
    keeper.save(checkpoint(2.0));
    assert!(keeper.close().await.unwrap_err().to_string().contains("checkpoint.bin"));
    assert_eq!(folder.checkpoint().unwrap().unwrap().seconds, 1.0);
    assert_eq!(calls(&folder), [1, 2], "the trace could be written");
}

/// The folder stays locked until its writer has ended.
#[tokio::test]
async fn the_lock_goes_with_the_writer() {
    let place = tempfile::tempdir().unwrap();
    let folder = RunFolder::hold(place.path().to_owned()).unwrap();
    let keeper = Keeper::open(&folder, 0).unwrap();
    drop(folder);
    let refused = RunFolder::hold(place.path().to_owned()).unwrap_err();
    assert!(refused.to_string().contains("another coordinator"), "{refused}");
    keeper.close().await.unwrap();
    RunFolder::hold(place.path().to_owned()).unwrap();
}

/// What a generation costs the coordinator at a large model's size; what is said to be beside holds nobody up.
#[test]
#[ignore = "a measurement: prints milliseconds"]
fn what_a_checkpoint_costs() {
    let plan = Plan { layers: 24, tuned: 24, dim: 500, population: 20, budget: 20 * 24, ..plan() };
    let mut state = Checkpoint { search: Search::new(&plan).unwrap(), ..checkpoint(0.0) };
    let time = |what: &str, began: std::time::Instant| {
        println!("{what}: {:.3} ms", began.elapsed().as_secs_f64() * 1e3);
    };
    let asking = state.search.asking(&plan, 0).unwrap();
    let began = std::time::Instant::now();
    let proposal = state.search.asked(asking.ask().unwrap());
    time("drawing a population (beside)", began);
    let gathered = crate::fleet::Gathered {
        losses: (0..20).map(|loss| vec![loss as f32; 32]).collect(),
        predicted: vec![vec![0; 32]; 20],
        evaluators: 1,
        missing: 0,
    };
    let began = std::time::Instant::now();
    let accepted = state.search.accept(&plan, shared::ids::RunId(1), proposal, &gathered, &[0; 32]).unwrap();
    time("accepting 20 candidates' losses on 32 examples", began);
    let began = std::time::Instant::now();
    state.search.told(accepted.telling.tell().unwrap());
    time("learning (beside)", began);
    let began = std::time::Instant::now();
    let snapshot = state.clone();
    time("snapshot of 24 layers, d = 500", began);
    let mut frame = Vec::new();
    for round in ["first", "later"] {
        let began = std::time::Instant::now();
        shared::frame::encode(&snapshot, &mut frame).unwrap();
        time(&format!("encoding {} bytes (beside), {round}", frame.len()), began);
    }
    let place = tempfile::tempdir().unwrap();
    let folder = RunFolder::hold(place.path().to_owned()).unwrap();
    for round in ["first", "later"] {
        let began = std::time::Instant::now();
        folder.save(&frame).unwrap();
        time(&format!("writing it (beside), {round}"), began);
    }
}
