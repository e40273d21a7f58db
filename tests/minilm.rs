//! The whole path on a real model, where there is one: all-MiniLM-L6-v2 in `ZEROTH_MINILM` or in `models/`.

use std::path::PathBuf;

use tests::{Case, Coordinator, Family, Process, artefact, evaluator, generations, root, run};

/// The model's folder; says so and gives nothing where it is absent.
fn minilm() -> Option<PathBuf> {
    let named = std::env::var_os("ZEROTH_MINILM").map(PathBuf::from);
    let folder = named.clone().unwrap_or_else(|| root().join("models/all-MiniLM-L6-v2"));
    let there = folder.join("model.safetensors").is_file();
    assert!(there || named.is_none(), "ZEROTH_MINILM={} holds no model.safetensors", folder.display());
    if !there {
        eprintln!("skipped: no all-MiniLM-L6-v2; set ZEROTH_MINILM=FOLDER or run scripts/fetch-minilm");
    }
    there.then_some(folder)
}

/// The tiny task on MiniLM, a few generations: embedded and with one remote evaluator, the same bits.
#[test]
fn embedded_and_remote_agree() {
    let Some(folder) = minilm() else { return };
    let case = Case::similarity(Family::Bert, "prefix").set("search.budget", "36");
    std::fs::remove_dir_all(case.path("model")).unwrap();
    std::os::unix::fs::symlink(folder.canonicalize().unwrap(), case.path("model")).unwrap();
    let before = run(&mut case.tune("embedded", &[])).expect(0).json();
    assert!(
        before["test_before"].as_f64().unwrap() > 0.8,
        "\"terrible\" from \"great\" needs no tuning: {before}"
    );
    let coordinator = Coordinator::start(&case, "remote", &[]);
    let helper = Process::start(&mut evaluator(&case, &coordinator.url(), "helper"));
    coordinator.process.wait().expect(0);
    helper.wait().expect(0);
    assert_eq!(generations(&case.path("embedded")), generations(&case.path("remote")));
    assert!(artefact(&case.path("embedded")) == artefact(&case.path("remote")));
}
