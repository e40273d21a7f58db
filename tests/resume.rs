//! A run stopped in any way and resumed ends with the same losses and the same artefact, bit for bit.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use tests::{
    Case, Coordinator, Dice, Ended, Family, Process, artefact, evaluator, generations, generations_done, run,
    until,
};

/// A case, its run undisturbed in the folder `whole`, and what that printed.
fn whole(case: Case) -> (Case, Ended) {
    let ended = run(&mut case.tune("whole", &[])).expect(0);
    (case, ended)
}

fn bert() -> (Case, Ended) {
    whole(Case::masked(Family::Bert, "add"))
}

#[track_caller]
fn assert_as_whole(case: &Case, folder: &str) {
    let (one, other) = (case.path("whole"), case.path(folder));
    assert_eq!(generations(&one), generations(&other), "losses of {folder}");
    assert!(artefact(&one) == artefact(&other), "the artefact of {folder} differs");
}

/// Starts (or resumes) a run, and kills it as soon as it has finished so many generations.
fn kill_after(case: &Case, folder: &str, done: usize, more: &[&str]) -> Ended {
    let mut process = Process::start(&mut case.tune(folder, more));
    let path = case.path(folder);
    until("a generation to kill in", || {
        assert!(process.is_running(), "over too soon\n{}", process.report());
        (generations_done(&path) >= done).then_some(())
    });
    let ended = process.kill();
    let done = generations_done(&path);
    assert!(done < case.generations(), "all {done} generations were done before the kill");
    ended
}

fn resume(case: &Case, folder: &str) -> Ended {
    run(&mut case.tune(folder, &["--resume"]))
}

fn killed_at_random(case: Case) -> Case {
    let (case, _) = whole(case.long(60));
    for seed in 1..=4 {
        let folder = format!("killed-{seed}");
        let mut dice = Dice(seed);
        let first = dice.roll(1, case.generations() - 30);
        let second = dice.roll(first + 1, case.generations() - 20);
        kill_after(&case, &folder, first, &[]);
        kill_after(&case, &folder, second, &["--resume"]);
        resume(&case, &folder).expect(0);
        assert_as_whole(&case, &folder);
    }
    case
}

/// Another optimiser than the default: its trace says so.
#[test]
fn killed_with_a_separable_optimiser() {
    let case = Case::masked(Family::Bert, "add").set("search.covariance", r#""separable""#);
    let case = killed_at_random(case.set("search.reevaluate", "true"));
    let trace = fs::read_to_string(case.path("whole").join("events.jsonl")).unwrap();
    let begin = trace.lines().next().unwrap();
    assert!(begin.contains(r#""covariance":"separable: it was named"#), "{begin}");
}

#[test]
fn killed_at_random_generations_add() {
    killed_at_random(Case::masked(Family::Bert, "add"));
}

#[test]
fn killed_at_random_generations_prefix() {
    killed_at_random(Case::similarity(Family::Roberta, "prefix"));
}

#[test]
fn killed_at_random_generations_racing() {
    killed_at_random(Case::masked(Family::Bert, "prefix").set("search.racing", "true"));
}

/// At any instruction, not only between two generations: while it prepares, writes, resumes or finishes.
#[test]
fn killed_at_random_moments_many_times() {
    let (case, first) = whole(Case::masked(Family::Bert, "add").long(60));
    let took = (first.json()["seconds"].as_f64().unwrap() * 1000.0) as usize;
    for seed in 1..=2 {
        let (folder, mut dice, mut kills) = (format!("moments-{seed}"), Dice(seed), 0);
        loop {
            let mut process = Process::start(&mut case.tune(&folder, &["--resume"]));
            // moments are what this is about; later ones each time, so that it ends on any machine
            let moment = dice.roll(0, took / 4 + 40 * kills + 40);
            std::thread::sleep(Duration::from_millis(moment as u64));
            if !process.is_running() {
                process.wait().expect(0);
                break;
            }
            process.kill_or_ended();
            kills += 1;
        }
        assert!(kills >= 5, "{kills} kills struck");
        assert_as_whole(&case, &folder);
    }
}

/// With its files gone a run is as good as never begun; with the newest gone, one generation older.
#[test]
fn removed_checkpoints() {
    let (case, _) = whole(Case::masked(Family::Bert, "add").long(60));
    interrupted(&case, "newest");
    fs::remove_file(case.path("newest").join("checkpoint.bin")).unwrap();
    resume(&case, "newest").expect(0);
    assert_as_whole(&case, "newest");
    for file in interrupted(&case, "both") {
        fs::remove_file(file).unwrap();
    }
    resume(&case, "both").expect(0);
    assert_as_whole(&case, "both");
}

#[test]
fn killed_before_the_first_generation() {
    let (case, _) = bert();
    let mut process = Process::start(&mut case.tune("early", &[]));
    let events = case.path("early").join("events.jsonl");
    until("the trace's beginning", || {
        assert!(process.is_running(), "over too soon\n{}", process.report());
        events.exists().then_some(())
    });
    process.kill();
    resume(&case, "early").expect(0);
    assert_as_whole(&case, "early");
}

/// A large test set makes the scoring after the search long enough to be struck.
#[test]
fn killed_while_finishing() {
    let case = Case::masked(Family::Bert, "add");
    case.test_rows(6_000);
    let (case, _) = whole(case);
    let mut process = Process::start(&mut case.tune("finishing", &[]));
    process.err_line("scoring the tuned prompt");
    let folder = case.path("finishing");
    until("the whole trace", || (generations_done(&folder) == case.generations()).then_some(()));
    process.kill();
    assert!(!folder.join("prompt.safetensors").exists(), "it had finished before the kill");
    resume(&case, "finishing").expect(0);
    assert_as_whole(&case, "finishing");
}

#[test]
fn a_finished_run_prints_the_same_summary() {
    let (case, first) = bert();
    let before = artefact(&case.path("whole"));
    let again = resume(&case, "whole").expect(0);
    // but for what this process took itself
    let summary = |ended: &Ended| {
        let mut summary = ended.json();
        summary.as_object_mut().unwrap().remove("peak_memory_bytes").expect("the process's peak");
        summary
    };
    assert_eq!(summary(&first), summary(&again));
    assert!(again.err.contains("nothing to do"), "{}", again.report());
    assert!(before == artefact(&case.path("whole")));
}

/// The checkpoint says finished, but somebody took the artefact away: it is made again, the same.
#[test]
fn a_finished_run_makes_its_lost_artefact_again() {
    let (case, first) = bert();
    let before = artefact(&case.path("whole"));
    fs::remove_file(case.path("whole").join("prompt.safetensors")).unwrap();
    let again = resume(&case, "whole").expect(0);
    assert!(before == artefact(&case.path("whole")), "{}", again.report());
    for key in ["calls", "dev", "test_before", "test_after"] {
        assert_eq!(first.json()[key], again.json()[key], "{key}");
    }
}

/// The test set is no part of what a run is, but the scores shown must be of the one that the run file names.
#[test]
fn a_changed_test_set_is_scored_before_and_after() {
    let (case, first) = bert(); // its run is finished
    kill_after(&case, "halfway", 3, &[]);
    case.test_rows(50);
    let fresh = run(&mut case.tune("fresh", &[])).expect(0);
    assert_ne!(first.json()["test_before"], fresh.json()["test_before"], "the two sets must differ");
    for folder in ["whole", "halfway"] {
        let ended = resume(&case, folder).expect(0);
        assert!(ended.err.contains("the test set is not the one scored before"), "{}", ended.report());
        for key in ["calls", "dev", "test_before", "test_after"] {
            assert_eq!(fresh.json()[key], ended.json()[key], "{folder}: {key}");
        }
        assert!(artefact(&case.path("fresh")) == artefact(&case.path(folder)), "{folder}");
        let again = resume(&case, folder).expect(0);
        assert!(again.err.contains("nothing to do"), "{}", again.report());
    }
    fs::rename(case.path("test.jsonl"), case.path("moved.jsonl")).unwrap();
    let moved = run(&mut case.tune("whole", &["--resume", "--set", "task.test=moved.jsonl"])).expect(0);
    assert!(moved.err.contains("nothing to do"), "the same data elsewhere\n{}", moved.report());
}

#[test]
fn interrupted_with_130_and_resumed() {
    let (case, _) = whole(Case::masked(Family::Bert, "add"));
    for signal in ["INT", "TERM"] {
        let mut process = Process::start(&mut case.tune(signal, &[]));
        let folder = case.path(signal);
        until("a generation to interrupt in", || {
            assert!(process.is_running(), "over too soon\n{}", process.report());
            (generations_done(&folder) >= 3).then_some(())
        });
        process.signal(signal);
        let ended = process.wait().expect(130);
        assert!(ended.err.contains("--resume"), "{}", ended.report());
        resume(&case, signal).expect(0);
        assert_as_whole(&case, signal);
    }
}

/// Interrupts a run after a few generations, so that both of its checkpoint's files are there; gives them, newest first.
fn interrupted(case: &Case, folder: &str) -> [PathBuf; 2] {
    let mut process = Process::start(&mut case.tune(folder, &[]));
    let path = case.path(folder);
    let files = ["checkpoint.bin", "checkpoint.bin.previous"].map(|name| path.join(name));
    until("a generation to interrupt in", || {
        assert!(process.is_running(), "over too soon\n{}", process.report());
        (generations_done(&path) >= 5 && files[1].exists()).then_some(())
    });
    process.signal("INT");
    process.wait().expect(130);
    files
}

fn flip_a_byte(path: &PathBuf, dice: &mut Dice) {
    let mut bytes = fs::read(path).unwrap();
    let at = dice.roll(0, bytes.len());
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

fn cut(path: &PathBuf, dice: &mut Dice) {
    let mut bytes = fs::read(path).unwrap();
    bytes.truncate(dice.roll(0, bytes.len()));
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_corrupt_checkpoint_falls_back_to_the_one_before() {
    let (case, _) = whole(Case::masked(Family::Bert, "add").long(60));
    let mut dice = Dice(5);
    for (round, damage) in [flip_a_byte, cut, flip_a_byte, cut].into_iter().enumerate() {
        let folder = format!("damaged-{round}");
        let [newest, _] = interrupted(&case, &folder);
        damage(&newest, &mut dice);
        let resumed = resume(&case, &folder).expect(0);
        let said =
            resumed.err.lines().any(|line| line.contains("checkpoint.bin") && line.contains("before it"));
        assert!(said, "it did not say so\n{}", resumed.report());
        assert_as_whole(&case, &folder);
    }
}

#[test]
fn with_both_checkpoints_corrupt_one_clear_line() {
    let (case, _) = whole(Case::masked(Family::Bert, "add").long(60));
    let files = interrupted(&case, "damaged");
    let mut dice = Dice(6);
    for file in &files {
        flip_a_byte(file, &mut dice);
    }
    let damaged: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    let trace = fs::read(case.path("damaged").join("events.jsonl")).unwrap();
    resume(&case, "damaged").expect_refusal(&["checkpoint.bin", "begin anew"]);
    let after: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    assert!(damaged == after && trace == fs::read(case.path("damaged").join("events.jsonl")).unwrap());
}

#[test]
fn resume_without_a_run_begins_one() {
    let (case, _) = bert();
    resume(&case, "fresh").expect(0);
    assert_as_whole(&case, "fresh");
}

/// The evaluators wait for their coordinator to come back, and go on with it.
#[test]
fn a_killed_coordinator_comes_back_to_its_evaluators() {
    let (case, _) = whole(Case::masked(Family::Bert, "prefix").long(200));
    let coordinator = Coordinator::start(&case, "back", &[]);
    let start = |name: &&str| Process::start(&mut evaluator(&case, &coordinator.url(), name));
    let mut evaluators: Vec<Process> = ["a", "b"].iter().map(start).collect();
    let folder = case.path("back");
    until("a generation to kill in", || (generations_done(&folder) >= 5).then_some(()));
    let address = coordinator.address.clone();
    coordinator.process.kill();
    assert!(generations_done(&folder) < case.generations(), "all was done before the kill");
    for evaluator in &mut evaluators {
        evaluator.err_line(&address); // it says whom it has lost
        assert!(evaluator.is_running());
    }
    let coordinator = Coordinator::start_at(&case, "back", &address, &["--resume"]);
    coordinator.process.wait().expect(0);
    for evaluator in evaluators {
        evaluator.wait().expect(0);
    }
    assert_as_whole(&case, "back");
}
