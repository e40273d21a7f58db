//! What can be wrong between a coordinator and its evaluators, and how each of them says so.

use std::net::TcpListener;

use tests::{
    Case, Coordinator, Family, Process, artefact, evaluator, evaluator_on, generations, generations_done,
    run, until,
};

fn bert() -> Case {
    Case::masked(Family::Bert, "add")
}

/// The case's run in one process: what every fleet must arrive at.
fn whole(case: Case) -> Case {
    run(&mut case.tune("whole", &[])).expect(0);
    case
}

#[track_caller]
fn assert_as_whole(case: &Case, folder: &str) {
    assert_eq!(generations(&case.path("whole")), generations(&case.path(folder)));
    assert!(artefact(&case.path("whole")) == artefact(&case.path(folder)));
}

#[test]
fn port_in_use() {
    let case = bert();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    run(&mut case.tune("run", &["--listen", &address])).expect_refusal(&["--listen", &address, "port 0"]);
    drop(taken);
    run(&mut case.tune("run", &[])).expect(0); // the refused command left nothing in the way
}

#[test]
fn an_evaluator_with_another_model_is_refused_and_the_run_goes_on() {
    let case = whole(bert().long(60));
    case.put_model(Family::Roberta, "other");
    let coordinator = Coordinator::start(&case, "run", &[]);
    let right = Process::start(&mut evaluator(&case, &coordinator.url(), "right"));
    until("the run to begin", || (generations_done(&case.path("run")) >= 1).then_some(()));
    let wrong = run(&mut evaluator_on(&case, "other", &coordinator.url(), "wrong")).expect(2);
    let last = wrong.err.lines().last().unwrap_or_default();
    assert!(last.starts_with("error: ") && last.contains("model"), "{}", wrong.report());
    assert!(last.contains("other"), "both models are named\n{}", wrong.report());
    coordinator.process.wait().expect(0);
    right.wait().expect(0);
    assert_as_whole(&case, "run");
}

/// Losses depend on what they are computed in, so the trace would depend on who answers.
#[test]
fn an_evaluator_that_computes_in_another_type_is_refused_and_the_run_goes_on() {
    let case = whole(bert());
    let coordinator = Coordinator::start(&case, "run", &[]);
    let narrow = run(evaluator(&case, &coordinator.url(), "narrow").args(["--dtype", "int8"])).expect(2);
    let last = narrow.err.lines().last().unwrap_or_default();
    let cannot = last.ends_with("which this one has not; use model.dtype = \"f32\"");
    let refused =
        last.contains("in f32 (model.dtype)") && last.ends_with("in int8: start it with --dtype f32");
    assert!(last.starts_with("error: ") && (cannot || refused), "{}", narrow.report());
    let right = Process::start(&mut evaluator(&case, &coordinator.url(), "right"));
    coordinator.process.wait().expect(0);
    right.wait().expect(0);
    assert_as_whole(&case, "run");
}

/// The run file's model counts from the first hello on, not the model of whoever dials first.
#[test]
fn an_evaluator_with_another_model_comes_first_to_a_fresh_run() {
    let case = whole(bert());
    case.put_model(Family::Roberta, "other");
    let coordinator = Coordinator::start(&case, "run", &[]);
    let wrong = run(&mut evaluator_on(&case, "other", &coordinator.url(), "wrong")).expect(2);
    let last = wrong.err.lines().last().unwrap_or_default();
    assert!(last.contains("works with model (weights") && last.contains("holds other (weights"), "{last}");
    let right = Process::start(&mut evaluator(&case, &coordinator.url(), "right"));
    let ended = coordinator.process.wait().expect(0);
    assert!(!ended.err.contains("first evaluator"), "{}", ended.report());
    right.wait().expect(0);
    assert_as_whole(&case, "run");
}

/// A coordinator needs no weights: it says that it goes by the first evaluator's, which holds for a resume too.
#[test]
fn a_coordinator_without_the_model_takes_the_first_evaluators() {
    let case = whole(bert().long(60));
    std::fs::rename(case.path("model"), case.path("elsewhere")).unwrap();
    let coordinator = Coordinator::start(&case, "run", &[]);
    let first = Process::start(&mut evaluator_on(&case, "elsewhere", &coordinator.url(), "first"));
    until("the run to begin", || (generations_done(&case.path("run")) >= 2).then_some(()));
    let killed = coordinator.process.kill();
    drop(first);
    let said = killed.err.lines().filter(|line| line.contains("the first evaluator has")).count();
    assert!(said == 1 && killed.err.contains("no folder"), "{}", killed.report());
    case.put_model(Family::Roberta, "model");
    let refused = run(&mut case.tune("run", &["--resume", "--listen", "127.0.0.1:0"]));
    refused.expect_refusal(&["model.path is model (weights", "begun with elsewhere (weights"]);
    case.put_model(Family::Bert, "model");
    let coordinator = Coordinator::start(&case, "run", &["--resume"]);
    let right = Process::start(&mut evaluator(&case, &coordinator.url(), "right"));
    coordinator.process.wait().expect(0);
    right.wait().expect(0);
    assert_eq!(generations(&case.path("whole")), generations(&case.path("run")));
}

/// A resumed run knows its model before anybody dials: the wrong one is refused though it comes first.
#[test]
fn an_evaluator_with_another_model_comes_first_to_a_resumed_run() {
    let case = whole(bert());
    case.put_model(Family::Roberta, "other");
    let mut begun = Process::start(&mut case.tune("run", &[]));
    until("a generation", || {
        assert!(begun.is_running(), "over too soon\n{}", begun.report());
        (generations_done(&case.path("run")) >= 2).then_some(())
    });
    begun.kill();
    let coordinator = Coordinator::start(&case, "run", &["--resume"]);
    run(&mut evaluator_on(&case, "other", &coordinator.url(), "wrong")).expect(2);
    let right = Process::start(&mut evaluator(&case, &coordinator.url(), "right"));
    coordinator.process.wait().expect(0);
    right.wait().expect(0);
    assert_as_whole(&case, "run");
}

/// What no evaluator could do ends the run, on the coordinator's side, in the same words as embedded.
#[test]
fn wrong_input_found_by_a_remote_evaluator() {
    let case = bert().set("task.words", r#"["bad", "greatest movie"]"#);
    let coordinator = Coordinator::start(&case, "run", &[]);
    let _evaluator = Process::start(&mut evaluator(&case, &coordinator.url(), "only"));
    let ended = coordinator.process.wait().expect(2);
    let errors: Vec<&str> = ended.err.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{}", ended.report());
    assert!(errors[0].contains("greatest movie") && errors[0].contains("one token"), "{}", ended.report());
}

#[test]
fn an_evaluator_waits_for_its_coordinator() {
    let case = whole(bert());
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free); // nobody listens there now
    let mut waiting = Process::start(&mut evaluator(&case, &format!("http://{address}"), "early"));
    waiting.nth_err_line(&address, 1); // it has tried more than once, and says whom it cannot reach
    assert!(waiting.is_running());
    let coordinator = Coordinator::start_at(&case, "run", &address, &[]);
    coordinator.process.wait().expect(0);
    waiting.wait().expect(0);
    assert_as_whole(&case, "run");
}

#[test]
fn an_evaluator_says_what_is_wrong_with_its_own_input() {
    let case = bert();
    let url = "http://127.0.0.1:9";
    run(&mut evaluator_on(&case, "./absent", url, "a")).expect_refusal(&["absent", "no folder"]);
    case.write("model/config.json", "{");
    run(&mut evaluator(&case, url, "b")).expect_refusal(&["config.json"]);
    case.put_model(Family::Bert, "model");
    run(&mut evaluator(&case, "not a url", "c")).expect_refusal(&["not a url"]);
}
