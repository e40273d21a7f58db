//! `deploy/` without a cluster: what `scripts/check-deploy` says of it (where its Python packages are not to be had, the
//! test says so and is skipped), and what the manifests rely on: exit codes, and a model that another pod brings.

use std::process::Command;

use tests::{Case, Coordinator, Family, Process, binary, evaluator, evaluator_on, root, run};

/// The exit code of a check that could not be made.
const UNAVAILABLE: i32 = 77;

#[test]
fn manifests_rules_and_dashboard_are_valid() {
    let mut check = Command::new("python3");
    let ended = match check.arg(root().join("scripts/check-deploy")).output() {
        Ok(ended) => ended,
        Err(why) => return eprintln!("skipped: python3: {why}"),
    };
    let said =
        format!("{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    if ended.status.code() == Some(UNAVAILABLE) {
        return eprintln!("skipped: {said}");
    }
    assert!(ended.status.success(), "{}\n{said}", ended.status);
    assert!(said.contains("check-deploy: all is well"), "{said}");
}

/// Kubernetes starts no more pods of a work queue once one has exited with 0, so 0 must mean that the run is done.
#[test]
fn an_evaluator_that_is_told_to_stop_is_told_from_one_whose_run_is_done() {
    let case = Case::masked(Family::Bert, "add");
    let coordinator = Coordinator::start(&case, "run", &[]);
    let start = |name: &str| {
        let mut command = evaluator_on(&case, "late", &coordinator.url(), name);
        Process::start(command.args(["--stopped-code", "143", "--wait-for-model"]))
    };
    let mut stopped = start("stopped");
    stopped.err_line("waiting for the model");
    stopped.signal("TERM");
    stopped.wait().expect(143);

    let mut dialling = evaluator(&case, "http://127.0.0.1:1", "dialling"); // nobody is there
    let mut dialling = Process::start(dialling.args(["--stopped-code", "143"]));
    dialling.err_line("not reachable");
    dialling.signal("TERM");
    dialling.wait().expect(143);

    let mut served = start("served");
    served.err_line("waiting for the model");
    case.put_model(Family::Bert, "coming");
    std::fs::rename(case.path("coming"), case.path("late")).unwrap();
    served.wait().expect(0);
    coordinator.process.wait().expect(0);
}

#[test]
fn an_evaluator_that_only_fetches_needs_no_coordinator() {
    let case = Case::masked(Family::Bert, "add");
    let fetch = |model: &str| {
        let mut command = Command::new(binary("zeroth-evaluator"));
        run(command.current_dir(case.path("")).args(["--fetch-only", "--model", model]))
    };
    fetch("model").expect(0);
    fetch("absent").expect_refusal(&["absent", "no folder"]);
}
