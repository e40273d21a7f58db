//! Artefacts written, read, damaged.

use super::*;

fn artefact() -> Artefact {
    let metadata = Metadata {
        schema: SCHEMA,
        zeroth: "0.1.0".to_owned(),
        run: "abc".to_owned(),
        model: Model {
            path: "tiny".to_owned(),
            identity: ModelIdentity { layers: 2, hidden: 3, ..ModelIdentity::default() },
            dtype: Dtype::Bf16,
            read_out: ReadOut::Similarity,
            temperature: 0.05,
        },
        task: Task {
            name: "t".to_owned(),
            template: "{text}".to_owned(),
            words: vec!["a".to_owned(), "b".to_owned()],
            label_ids: vec![],
            loss: Loss::Ce,
            metric: Metric::Accuracy,
            train_sha256: "00".to_owned(),
            train_rows: vec![3, 1],
            dev_rows: vec![0, 2],
            test_sha256: Some("11".to_owned()),
        },
        prompt: Prompt {
            injection: Injection::Add,
            tokens: 2,
            first_position: 1,
            init: Init::None,
            initial_ids: vec![],
        },
        search: Search {
            method: Method::Bbtv2,
            seed: 7,
            random: crate::random::SCHEME.to_owned(),
            projection: ProjectionKind::Normal,
            projection_stds: vec![0.5, 0.25],
            population: 4,
            sigma: 0.2,
            alpha: 1.0,
            calls: 8,
            found_after: 4,
        },
        scores: Scores {
            train_loss: 0.1,
            dev_loss: 0.2,
            dev: 1.0 / 3.0,
            test_before: None,
            test_after: Some(0.5),
        },
    };
    let z = vec![vec![0.1, -0.2, 0.3, 1.0], vec![0.0, 0.5, -1.5, 2.0]];
    let initial = vec![vec![1.0; 6], vec![-1.0; 6]];
    let prompts = (0..2).map(|l| prompt(&metadata, l, &z[l], Some(&initial[l]))).collect();
    Artefact { metadata, prompts, z, initial }
}

#[test]
fn reads_back_the_same_and_writes_the_same_bytes_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prompt.safetensors");
    artefact().write(&path).unwrap();
    let first = std::fs::read(&path).unwrap();
    let read = Artefact::read(&path).unwrap();
    assert_eq!(read, artefact());
    assert!(read.rebuilds());
    read.write(&path).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), first);
}

#[test]
fn a_changed_number_no_longer_rebuilds() {
    let mut changed = artefact();
    changed.prompts[1][0] += 1e-3;
    assert!(!changed.rebuilds());
}

#[test]
fn damage_is_named_with_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prompt.safetensors");
    let message = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        Artefact::read(&path).unwrap_err().to_string()
    };
    assert!(message(b"nonsense").contains("prompt.safetensors: no safetensors file"));
    artefact().write(&path).unwrap();
    let whole = std::fs::read(&path).unwrap();
    assert!(message(&whole[..whole.len() - 4]).contains("prompt.safetensors"));
    let newer = String::from_utf8_lossy(&whole[8..400]).find("\\\"schema\\\":1").unwrap()
        + 8
        + "\\\"schema\\\":".len();
    let mut bytes = whole.clone();
    bytes[newer] = b'9';
    assert!(message(&bytes).contains("schema 9; this program reads schema 1"));

    let wrong = Artefact { z: vec![vec![0.0; 4]], ..artefact() };
    assert!(wrong.write(&path).unwrap_err().to_string().contains("2 layers"));
    let mut infinite = artefact();
    infinite.prompts[0][0] = f32::INFINITY;
    assert!(infinite.write(&path).unwrap_err().to_string().contains("not finite"));
}

#[test]
fn a_tensor_of_another_shape_is_refused_though_it_holds_as_many_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prompt.safetensors");
    artefact().write(&path).unwrap();
    let whole = std::fs::read(&path).unwrap();
    let mut refused = 0;
    for (from, to) in [("[2,2,3]", "[2,3,2]"), ("[2,2,3]", "[1,4,3]"), ("[2,4]", "[4,2]"), ("[2,4]", "[1,8]")]
    {
        for at in 0..whole.len() - from.len() {
            if &whole[at..at + from.len()] == from.as_bytes() {
                let mut bytes = whole.clone();
                bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
                std::fs::write(&path, &bytes).unwrap();
                let message = Artefact::read(&path).unwrap_err().to_string();
                assert!(message.contains("; the metadata says [2, "), "{message}");
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 6, "prompts and initial twice each, z twice");
}

#[test]
fn metadata_that_json_cannot_hold_is_refused_when_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prompt.safetensors");
    let message = |change: fn(&mut Metadata)| {
        let mut wrong = artefact();
        change(&mut wrong.metadata);
        let message = wrong.write(&path).unwrap_err().to_string();
        assert!(!path.exists());
        message
    };
    assert!(message(|m| m.scores.train_loss = f64::NAN).contains("scores.train_loss is NaN"));
    assert!(message(|m| m.scores.test_after = Some(f64::INFINITY)).contains("scores.test_after is inf"));
    assert!(message(|m| m.search.projection_stds[1] = f32::NAN).contains("search.projection_stds is NaN"));
}
