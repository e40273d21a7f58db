//! The checkpoint under wrong bytes, as `shared/tests/bytes.rs` has it for everything else that is read.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test's helpers, too, end by panicking

use std::fs;

use coordinator::checkpoint::{Before, Checkpoint, Finished};
use coordinator::search::{DevScore, Plan, Search};
use shared::frame;
use shared::messages::ModelIdentity;
use shared::spec::{Incumbent, Select};
use shared::task::{Loss, Metric};

#[path = "../../shared/tests/abuse/mod.rs"]
mod abuse;

use abuse::{Bound, abuse};

fn checkpoint() -> Checkpoint {
    let plan = Plan {
        layers: 2,
        tuned: 2,
        dim: 5,
        population: 6,
        sigma: 0.5,
        covariance: coordinator::cma::Variant::Full,
        learning: coordinator::cma::LearningRates::Fixed,
        bounds: None,
        reevaluate: false,
        budget: 120,
        examples: 1,
        seed: 7,
        incumbent: Incumbent::Best,
        select: Select::Metric,
        dev_every: 1,
        loss: Loss::Ce,
        metric: Metric::Accuracy,
        racing: false,
    };
    let score = DevScore { metric: 0.5, loss: 0.7 };
    Checkpoint {
        spec_hash: "abc".to_owned(),
        model: ModelIdentity {
            layers: 2,
            hidden: 3,
            revision: Some("main".to_owned()),
            ..Default::default()
        },
        projection_stds: vec![0.5, 0.25],
        train_rows: vec![3, 1],
        search: Search::new(&plan).unwrap(),
        events_bytes: 100,
        seconds: 1.5,
        before: Before { dev: score, test: Some(0.5), test_sha256: Some("00".to_owned()) },
        finished: Some(Finished { train_loss: 0.1, test: None }),
    }
}

#[test]
fn checkpoints() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint.bin");
    let mut encoded = Vec::new();
    frame::encode(&checkpoint(), &mut encoded).unwrap();
    frame::write_frame(&path, &encoded).unwrap();
    assert_eq!(frame::read::<Checkpoint>(&path).unwrap(), checkpoint());
    let whole = fs::read(&path).unwrap();
    let bound = Bound { base: 4 << 20, each: 400 };
    abuse(std::slice::from_ref(&whole), bound, |bytes| {
        fs::write(&path, bytes).unwrap();
        let _ = frame::read::<Checkpoint>(&path);
    });
    // The same where somebody has taken the trouble to make length and checksum right again.
    abuse(&[whole[frame::HEADER..].to_vec()], bound, |payload| {
        let length = (payload.len() as u64).to_le_bytes();
        let checksum = crc32fast::hash(payload).to_le_bytes();
        fs::write(&path, [&whole[..12], &length, &checksum, payload].concat()).unwrap();
        let _ = frame::read::<Checkpoint>(&path);
    });
}
