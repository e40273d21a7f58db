//! What PyTorch saved gives the bits that safetensors give, and what it did not save whole is refused in one line.
#![allow(clippy::unwrap_used, clippy::panic)] // a helper's failure is the test's

use std::path::{Path, PathBuf};
use std::sync::Arc;

use evaluator::backbone::{Backbone, Dtype};
use evaluator::engine::{Around, Engine, Injection, ReadOut, Settings, Tokens};
use evaluator::models::census::Census;
use evaluator::models::locate;

const BIN: &str = "pytorch_model.bin";

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models").join(name)
}

/// bert-tiny with the weights of `scripts/golden/pytorch.py` instead of its own.
fn pickled() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "tokenizer.json"] {
        std::fs::write(folder.path().join(file), std::fs::read(golden("bert-tiny").join(file)).unwrap())
            .unwrap();
    }
    std::fs::write(folder.path().join(BIN), saved()).unwrap();
    folder
}

fn saved() -> Vec<u8> {
    std::fs::read(golden("bert-tiny-bin").join(BIN)).unwrap()
}

fn load(folder: &Path) -> Result<Backbone, String> {
    let located = locate::in_folder(folder).map_err(|error| error.to_string())?;
    Backbone::load(&located, Dtype::F32).map_err(|error| error.to_string())
}

#[track_caller]
fn refused(folder: &Path) -> String {
    let error = load(folder).err().unwrap();
    assert!(!error.contains('\n') && error.starts_with(folder.to_str().unwrap()), "{error}");
    error
}

/// Logits of a population at every layer.
fn logits(folder: &Path) -> Vec<Vec<Vec<f32>>> {
    let settings = Settings {
        injection: Injection::Add,
        prompt_tokens: 2,
        initial_ids: Some(vec![7, 8]),
        around: Around { before: Some(2), after: Some(3) },
        read_out: ReadOut::MaskedLm { label_ids: vec![10, 11, 12] },
        max_batch_tokens: 512,
        pool: Arc::new(rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap()),
    };
    let train = vec![Tokens { ids: vec![2, 30, 31, 4, 33, 3], read_out: 3 }];
    let backbone = Arc::new(load(folder).unwrap());
    let mut engine = Engine::new(backbone, settings, train).unwrap();
    (0..3).map(|layer| engine.evaluate(layer, &[vec![0.25; 80]], 0..1).unwrap()).collect()
}

#[test]
fn a_model_that_pytorch_saved_gives_the_same_bits() {
    let folder = pickled();
    assert_eq!(logits(folder.path()), logits(&golden("bert-tiny")));
    // one file holds all: a list of shards that names it alone is a list all the same
    let shards = r#"{"metadata": {}, "weight_map": {"a": "pytorch_model-00001-of-00001.bin"}}"#;
    std::fs::write(folder.path().join("pytorch_model.bin.index.json"), shards).unwrap();
    let shard = folder.path().join("pytorch_model-00001-of-00001.bin");
    std::fs::rename(folder.path().join(BIN), &shard).unwrap();
    assert_eq!(logits(folder.path()), logits(&golden("bert-tiny")));
    assert_eq!(locate::in_folder(folder.path()).unwrap().weights, [shard]);
}

#[test]
fn shared_numbers_count_once_and_integers_not_at_all() {
    let census = |folder: &Path| Census::of(&locate::in_folder(folder).unwrap().weights).unwrap();
    let (pickled, listed) = (census(pickled().path()), census(&golden("bert-tiny")));
    assert_eq!(pickled, listed);
    // three layers, two norms and the pair of biases each; embeddings and their norm; the head
    let (hidden, wide) = (40, 72);
    let layer = 4 * (hidden * hidden + hidden) + 2 * hidden * wide + wide + hidden + 4 * hidden;
    let words = vocabulary();
    let embeddings = (words + 64 + 2) * hidden + 2 * hidden;
    let head = hidden * hidden + hidden + 2 * hidden + words;
    assert_eq!(listed.parameters as usize, 3 * layer + embeddings + head);
    assert_eq!(listed.dtypes.into_iter().collect::<Vec<_>>(), ["f32"]);
}

fn vocabulary() -> usize {
    load(&golden("bert-tiny")).unwrap().vocab()
}

#[test]
fn a_cut_or_foreign_file_is_named() {
    let folder = pickled();
    let (path, whole) = (folder.path().join(BIN), saved());
    for length in [0, 5, 1_000, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        let error = refused(folder.path());
        assert!(error.contains(BIN) && error.contains("is it complete?"), "{error}");
    }
    std::fs::write(&path, b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.").unwrap(); // how files began before 1.6
    assert!(refused(folder.path()).contains("before 1.6"));
}

/// A bit that flipped anywhere in the lists that the file consists of besides numbers: read right or refused.
#[test]
fn flipped_bits_are_survived() {
    let folder = pickled();
    let (path, whole) = (folder.path().join(BIN), saved());
    let pickle = 64..7_200;
    let mut refused = 0;
    for at in pickle.step_by(9).chain((whole.len() - 2_000..whole.len()).step_by(41)) {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        std::fs::write(&path, &flipped).unwrap();
        if let Err(error) = load(folder.path()) {
            assert!(!error.contains('\n'), "{error}");
            refused += 1;
        }
    }
    assert!(refused > 0);
}
