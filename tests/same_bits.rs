//! The same run embedded, with one remote evaluator, with three, and with one of the three killed: the same bits.

use tests::{
    Case, Coordinator, Family, Process, artefact, evaluator, generations, generations_done, run, until,
};

/// Losses and artefact of the case's run in one process.
fn embedded(case: &Case, folder: &str, more: &[&str]) {
    run(&mut case.tune(folder, more)).expect(0);
    assert_eq!(generations(&case.path(folder)).len(), case.generations());
}

#[track_caller]
fn assert_same(case: &Case, folder: &str) {
    let (one, other) = (case.path("embedded"), case.path(folder));
    for (a, b) in generations(&one).iter().zip(&generations(&other)) {
        assert_eq!(a, b, "embedded and {folder} part here");
    }
    assert_eq!(generations(&one).len(), generations(&other).len(), "{folder}");
    assert!(artefact(&one) == artefact(&other), "the artefacts of embedded and {folder} differ");
}

/// Evaluators that answered in each generation so far; the run may be in progress.
fn shared_by(case: &Case, folder: &str) -> Vec<u64> {
    let text = std::fs::read_to_string(case.path(folder).join("events.jsonl")).unwrap_or_default();
    let events = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    events.filter_map(|event| event["evaluators"].as_u64()).collect()
}

fn one_remote(case: &Case) {
    let coordinator = Coordinator::start(case, "one", &[]);
    let evaluator = Process::start(&mut evaluator(case, &coordinator.url(), "only"));
    coordinator.process.wait().expect(0);
    evaluator.wait().expect(0); // drained by the coordinator at the run's end
    assert_same(case, "one");
}

fn three_remotes(case: &Case) {
    let coordinator = Coordinator::start(case, "three", &[]);
    let start = |name: &&str| Process::start(&mut evaluator(case, &coordinator.url(), name));
    let evaluators: Vec<Process> = ["a", "b", "c"].iter().map(start).collect();
    coordinator.process.wait().expect(0);
    for evaluator in evaluators {
        evaluator.wait().expect(0);
    }
    assert_same(case, "three");
    let shared = shared_by(case, "three");
    assert!(shared.contains(&3), "no generation was shared by all three: {shared:?}");
}

/// What the coordinator says of one evaluator.
struct Seen {
    leases: u64,
    idle_seconds: f64,
}

fn look_at(coordinator: &Coordinator, case: &Case, name: &str) -> Option<Seen> {
    let status = coordinator.status(case);
    let all = status["evaluators"].as_array()?;
    let one = all.iter().find(|evaluator| evaluator["name"] == name)?;
    let leases = one["leases"].as_u64().unwrap_or_else(|| panic!("no leases in {one}"));
    let idle_seconds = one["idle_seconds"].as_f64().unwrap_or_else(|| panic!("no idle_seconds in {one}"));
    Some(Seen { leases, idle_seconds })
}

/// The victim is frozen until it holds a lease it can never answer, and then killed: that work must be done again.
fn one_of_three_killed(case: &Case) {
    let coordinator = Coordinator::start(case, "killed", &[]);
    let start = |name: &&str| Process::start(&mut evaluator(case, &coordinator.url(), name));
    let mut evaluators: Vec<Process> = ["victim", "b", "c"].iter().map(start).collect();
    let victim = evaluators.remove(0);
    let look = || look_at(&coordinator, case, "victim");
    until("generations shared by all three", || {
        (shared_by(case, "killed").iter().filter(|&&all| all == 3).count() >= 3).then_some(())
    });
    victim.signal("STOP");
    // Silent for half a second in the midst of a run, and holding work that it will never answer.
    until("a lease in dead hands", || look().filter(|seen| seen.leases > 0 && seen.idle_seconds > 0.5));
    victim.kill();
    let done = generations_done(&case.path("killed"));
    assert!(done < case.generations(), "the run was over before the kill");
    coordinator.process.wait().expect(0);
    for evaluator in evaluators {
        evaluator.wait().expect(0);
    }
    assert_same(case, "killed");
    let shared = shared_by(case, "killed");
    assert!(shared.last().is_some_and(|&last| last <= 2), "the dead still answer: {shared:?}");
}

fn all_ways(case: &Case) {
    embedded(case, "embedded", &[]);
    one_remote(case);
    three_remotes(case);
    one_of_three_killed(case);
}

#[test]
fn bert_add_masked_lm() {
    all_ways(&Case::masked(Family::Bert, "add").long(90));
}

#[test]
fn roberta_prefix_masked_lm() {
    all_ways(&Case::masked(Family::Roberta, "prefix").long(90));
}

#[test]
fn bert_prefix_similarity() {
    all_ways(&Case::similarity(Family::Bert, "prefix").long(90));
}

#[test]
fn roberta_add_similarity() {
    all_ways(&Case::similarity(Family::Roberta, "add").long(90));
}

#[test]
fn gpt2_add_next_token() {
    let case = Case::next_token(Family::Gpt2, "add");
    embedded(&case, "embedded", &[]);
    one_remote(&case);
}

#[test]
fn t5_prefix_seq2seq() {
    let case = Case::seq2seq(Family::T5, "prefix");
    embedded(&case, "embedded", &[]);
    one_remote(&case);
}

/// BBT is the one-layer case: its next population must wait for its own losses.
#[test]
fn bbt_with_one_remote() {
    let case = Case::masked(Family::Bert, "add").set("search.method", r#""bbt""#);
    embedded(&case, "embedded", &[]);
    one_remote(&case);
    assert!(generations(&case.path("one")).iter().all(|generation| generation["layer"] == 0));
}

/// In a race who is evaluated on what follows from losses; who answers, and when, must not show.
#[test]
fn racing() {
    let case = Case::masked(Family::Bert, "add").long(60).set("search.racing", "true");
    let ended = run(&mut case.tune("embedded", &[])).expect(0);
    let folder = case.path("embedded");
    let seen = |generation: &serde_json::Value| {
        let seen = generation["seen"].as_array().expect("a race says what was seen").iter();
        seen.map(|seen| seen.as_u64().unwrap()).sum::<u64>()
    };
    let generations = generations(&folder);
    let (spent, all) = (generations.iter().map(seen).sum::<u64>(), generations.len() as u64 * 6 * 96);
    let saved = (all - spent) as f64 / 96.0;
    assert_eq!(ended.json()["saved_calls"], saved);
    assert_eq!(ended.json()["calls"], generations.len() as u64 * 6 - saved as u64);
    one_remote(&case);
    three_remotes(&case);
    one_of_three_killed(&case);
}

/// Neither threads nor what is kept in memory nor the run folder's name may show in the result.
#[test]
fn threads_and_memory() {
    let case = Case::masked(Family::Bert, "add");
    embedded(&case, "embedded", &[]);
    for (folder, setting) in [
        ("threads", "run.threads=2"),
        ("budget", "run.max_batch_tokens=40"),
        ("auto", "run.max_batch_tokens=auto"),
        ("anew", "run.projections=regenerate"),
        ("kept", "run.projections=memory"),
    ] {
        embedded(&case, folder, &["--set", setting]);
        assert_same(&case, folder);
    }
}

/// Another seed is another run: without this the comparisons above could not fail.
#[test]
fn another_seed_differs() {
    let case = Case::masked(Family::Bert, "add");
    embedded(&case, "embedded", &[]);
    embedded(&case, "other", &["--set", "search.seed=8"]);
    assert_ne!(generations(&case.path("embedded")), generations(&case.path("other")));
    assert!(artefact(&case.path("embedded")) != artefact(&case.path("other")));
}

/// An evaluator asked to leave finishes what it holds and goes; the run goes on with the others.
#[test]
fn an_evaluator_leaves_on_sigterm() {
    let case = Case::masked(Family::Bert, "add").long(90);
    embedded(&case, "embedded", &[]);
    let coordinator = Coordinator::start(&case, "left", &[]);
    let start = |name: &str| Process::start(&mut evaluator(&case, &coordinator.url(), name));
    let (leaver, stayer) = (start("leaver"), start("stayer"));
    until("both at work", || shared_by(&case, "left").contains(&2).then_some(()));
    leaver.signal("TERM");
    let left = leaver.wait().expect(0);
    assert!(generations_done(&case.path("left")) < case.generations(), "it left too late\n{}", left.report());
    coordinator.process.wait().expect(0);
    stayer.wait().expect(0);
    assert_same(&case, "left");
}

/// In a narrower type too, where the processor has the instructions: rows are rounded one by one. A finished run's
/// prompt is scored in the run's type.
#[test]
fn a_narrow_run_has_the_same_bits_embedded_and_remote_and_is_scored_as_it_was_tuned() {
    for dtype in ["bf16", "int8"] {
        let case = Case::masked(Family::Bert, "add").set("model.dtype", &format!("{dtype:?}"));
        let embedded = run(&mut case.tune("embedded", &[]));
        if embedded.err.contains("needs a processor with") {
            embedded.expect_refusal(&["use model.dtype = \"f32\""]);
            continue;
        }
        let tuned = embedded.expect(0).json();
        let coordinator = Coordinator::start(&case, "remote", &[]);
        let url = coordinator.url();
        let remote = Process::start(evaluator(&case, &url, "narrow").args(["--dtype", dtype]));
        coordinator.process.wait().expect(0);
        remote.wait().expect(0);
        assert_same(&case, "remote");
        let scored = run(&mut case.zeroth(&["score", "embedded", "--data", "test.jsonl", "--json"]));
        assert_eq!(scored.expect(0).json()["metric"], tuned["test_after"]);
        run(&mut case.tune("exact", &["--set", "model.dtype=f32"])).expect(0);
        assert_ne!(generations(&case.path("exact")), generations(&case.path("remote")), "{dtype} rounds");
    }
}
