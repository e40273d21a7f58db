//! A standing coordinator, as its users have it: what they hand in comes out as if they had run it themselves.

use tests::{
    Case, Family, Process, Standing, artefact, evaluator, evaluator_on, generations, generations_done, run,
    until,
};

fn bert() -> Case {
    Case::masked(Family::Bert, "add")
}

/// The case's run in one process, with `more`, in the folder `whole`.
fn whole(case: &Case, folder: &str, more: &[&str]) {
    run(&mut case.tune(folder, more)).expect(0);
}

/// The run is to the bit what `whole` is: its trace, its artefact, and that as it was fetched.
#[track_caller]
fn assert_as(standing: &Standing, case: &Case, id: u64, whole: &str) {
    let folder = case.path(&format!("run-{id}"));
    assert_eq!(generations(&case.path(whole)), generations(&folder));
    assert!(artefact(&case.path(whole)) == artefact(&folder));
    let (id, file) = (id.to_string(), format!("fetched-{id}"));
    run(&mut standing.command(case, "fetch", &[&id, "--to", &file])).expect(0);
    assert!(std::fs::read(case.path(&file)).unwrap() == artefact(&case.path(whole)));
}

#[test]
fn runs_beside_each_other_are_each_as_alone() {
    let case = bert();
    let sets = ["search.seed=7", "search.racing=true", "search.seed=9"];
    for (index, set) in sets.iter().enumerate() {
        whole(&case, &format!("whole-{}", index + 1), &["--set", set]);
    }
    let standing = Standing::start(&case, &["--max-runs", "2"]);
    let ids: Vec<u64> = sets.iter().map(|set| standing.submit(&case, &["--set", set])).collect();
    assert_eq!(ids, [1, 2, 3]);
    let states = [1, 2, 3].map(|id| standing.status(&case, id)["state"].clone());
    assert_eq!(states, ["waiting for evaluators", "waiting for evaluators", "queued"]);
    let evaluators = ["a", "b"].map(|name| Process::start(&mut evaluator(&case, &standing.url(), name)));

    let ended = run(&mut standing.command(&case, "watch", &["--every", "1"])).expect(0);
    assert!(ended.out.lines().any(|line| line.contains("evaluator")), "{}", ended.report());
    for id in [1, 2, 3] {
        assert!(ended.out.contains(&format!("run {id}  run  done")), "{}", ended.report());
        assert_as(&standing, &case, id, &format!("whole-{id}"));
    }
    let status = standing.status(&case, 2);
    assert!(status["folder"].as_str().unwrap().ends_with("/run-2"), "{status}");
    assert!(status["calls"].as_u64().is_some_and(|calls| calls <= 144), "{status}");
    drop(evaluators);
    standing.process.signal("TERM");
    standing.process.wait().expect(0);
}

#[test]
fn what_is_wrong_with_a_run_is_said_as_tune_says_it() {
    let case = bert();
    let standing = Standing::start(&case, &[]);
    let said = |command: &mut std::process::Command| {
        let ended = run(command).expect(2);
        ended.err.lines().last().unwrap().to_owned()
    };
    case.write("data.jsonl", "{\"text\": \"a\", \"label\": 0}\n{\"text\": \"b\"}\n");
    for set in [
        "search.budgte=5",
        "search.budget=5",
        "task.words=[\"one\"]",
        "task.train=absent.jsonl",
        "task.train=data.jsonl",
        "task.shots=1000",
    ] {
        let own = said(&mut case.tune("own", &["--set", set]));
        let submitted = said(&mut standing.command(&case, "submit", &["run.toml", "--set", set]));
        assert_eq!(submitted, own, "{set}");
    }
    case.write("wrong.toml", "[model]\n\nlayers = 3\n");
    assert_eq!(
        said(&mut standing.command(&case, "submit", &["wrong.toml"])),
        said(&mut case.zeroth(&["tune", "wrong.toml"])),
    );
    let outside =
        said(&mut standing.command(&case, "submit", &["run.toml", "--set", "run.folder=/elsewhere"]));
    assert!(outside.contains("/elsewhere is not a place for a run"), "{outside}");
    let absent = run(&mut standing.command(&case, "fetch", &["7", "--to", "x"])).expect(2);
    assert!(absent.err.contains("there is no run 7 here"), "{}", absent.report());
    assert!(!case.path("runs/1.json").exists() && !case.path("x.part").exists());
}

#[test]
fn only_so_many_wait_and_a_cancelled_one_makes_room() {
    let case = bert();
    let standing = Standing::start(&case, &["--max-runs", "1", "--max-queued", "1"]);
    assert_eq!([standing.submit(&case, &[]), standing.submit(&case, &[])], [1, 2]);
    let full = run(&mut standing.command(&case, "submit", &["run.toml"])).expect(1);
    assert!(full.err.contains("1 runs are waiting already"), "{}", full.report());
    let same = ["run.toml", "--set", "run.folder=run-2"];
    run(&mut standing.command(&case, "cancel", &["2"])).expect(0);
    assert_eq!(standing.status(&case, 2)["state"], "cancelled");
    let over = run(&mut standing.command(&case, "cancel", &["2"])).expect(2);
    assert!(over.err.contains("run 2 has ended already"), "{}", over.report());
    run(&mut standing.command(&case, "submit", &same)).expect(0);
    run(&mut standing.command(&case, "cancel", &["1"])).expect(0);
    standing.until(&case, 1, "cancelled");
    standing.until(&case, 3, "waiting for evaluators");
    let taken = run(&mut standing.command(&case, "submit", &same)).expect(2);
    assert!(taken.err.contains("run 3 has the run folder"), "{}", taken.report());
    let watched = standing.watch(&case, 1).expect(1);
    assert!(watched.err.contains("run 1 was cancelled"), "{}", watched.report());
}

/// A signal, and then a kill: the runs go on under their own numbers, those that have ended are still there, and the
/// evaluators come back by themselves.
#[test]
fn a_coordinator_started_again_goes_on_with_its_runs() {
    let case = bert().long(300);
    whole(&case, "whole-1", &["--set", "search.budget=12"]);
    whole(&case, "whole-2", &[]);
    whole(&case, "whole-3", &["--set", "search.seed=8", "--set", "search.budget=60"]);
    let standing = Standing::start(&case, &["--max-runs", "1"]);
    let _evaluator = Process::start(&mut evaluator(&case, &standing.url(), "steady"));
    standing.submit(&case, &["--set", "search.budget=12", "--watch"]);
    standing.submit(&case, &[]);
    standing.submit(&case, &["--set", "search.seed=8", "--set", "search.budget=60"]);
    let go_on = |standing: &Standing| {
        let before = generations_done(&case.path("run-2"));
        until("two generations more", || {
            let runs = standing.status(&case, 2)["state"] == "running";
            (runs && generations_done(&case.path("run-2")) >= before + 2).then_some(())
        });
    };
    go_on(&standing);
    let second = run(&mut case.zeroth(&["serve", "--listen", "127.0.0.1:0", "--folder", "."]));
    second.expect_refusal(&["another coordinator is at work in this folder", "--folder"]);
    run(&mut case.tune("run-2", &["--resume"]))
        .expect_refusal(&["another coordinator is at work in this run"]);

    let mut watching = Process::start(&mut standing.command(&case, "watch", &["2"]));
    watching.out_line("run 2  run  running");
    let address = standing.address.clone();
    standing.process.signal("TERM");
    standing.process.wait().expect(0);
    let watched = watching.wait().expect(1);
    assert!(watched.err.contains("go on when it is started again"), "{}", watched.report());

    let standing = Standing::start_at(&case, &address, &["--max-runs", "1"]);
    assert_eq!([1, 3].map(|id| standing.status(&case, id)["state"].clone()), ["done", "queued"]);
    assert_as(&standing, &case, 1, "whole-1");
    go_on(&standing);
    standing.process.kill();
    let standing = Standing::start_at(&case, &address, &["--max-runs", "1"]);
    standing.watch(&case, 2).expect(0);
    standing.watch(&case, 3).expect(0);
    for id in [1, 2, 3] {
        assert_as(&standing, &case, id, &format!("whole-{id}"));
    }
    assert_eq!(standing.submit(&case, &[]), 4);
    run(&mut standing.command(&case, "cancel", &["4"])).expect(0);
    standing.process.kill();
    let standing = Standing::start_at(&case, &address, &[]);
    assert_eq!(standing.status(&case, 4)["state"], "cancelled");
}

#[test]
fn a_cancelled_run_goes_on_when_it_is_handed_in_again() {
    let case = bert().long(40);
    whole(&case, "whole-1", &[]);
    let standing = Standing::start(&case, &[]);
    let _evaluator = Process::start(&mut evaluator(&case, &standing.url(), "only"));
    standing.submit(&case, &[]);
    until("generations", || (generations_done(&case.path("run-1")) >= 2).then_some(()));
    run(&mut standing.command(&case, "cancel", &["1"])).expect(0);
    standing.until(&case, 1, "cancelled");
    let none = run(&mut standing.command(&case, "fetch", &["1", "--to", "early"])).expect(2);
    assert!(none.err.contains("run 1 has no artefact yet") && !case.path("early.part").exists());
    let again = ["run.toml", "--set", "run.folder=run-1"];
    let held = run(&mut standing.command(&case, "submit", &again)).expect(2);
    assert!(
        held.err.contains("holds this run already") && held.err.contains("--resume"),
        "{}",
        held.report()
    );
    let again = [&again[..], &["--resume", "--watch"]].concat();
    run(&mut standing.command(&case, "submit", &again)).expect(0);
    assert_as(&standing, &case, 1, "whole-1");
}

/// An evaluator serves the runs whose model and type it has, and is not sent away for the others. Where the coordinator
/// has no files of a model, its name decides.
#[test]
fn one_fleet_of_two_models() {
    let case = bert();
    case.put_model(Family::Roberta, "other");
    let other = ["--set", "model.path=./other"];
    whole(&case, "whole-1", &[]);
    whole(&case, "whole-2", &other);
    let standing = Standing::start(&case, &[]);
    let mut bert = Process::start(&mut evaluator(&case, &standing.url(), "bert"));
    standing.submit(&case, &[]);
    std::fs::rename(case.path("other"), case.path("away")).unwrap();
    std::fs::create_dir(case.path("there")).unwrap();
    std::fs::rename(case.path("away"), case.path("there/other")).unwrap();
    standing.submit(&case, &other);
    standing.watch(&case, 1).expect(0);
    standing.until(&case, 2, "waiting for evaluators");
    let mut roberta = Process::start(&mut evaluator_on(&case, "there/other", &standing.url(), "roberta"));
    standing.watch(&case, 2).expect(0);
    for id in [1, 2] {
        assert_as(&standing, &case, id, &format!("whole-{id}"));
    }
    assert!(bert.is_running() && roberta.is_running());
    until("both to be idle", || {
        let said = run(&mut standing.command(&case, "status", &[])).expect(0).out;
        (said.lines().filter(|line| line.contains("  idle  ")).count() == 2).then_some(())
    });
}

#[test]
fn a_coordinator_of_one_run_takes_no_other() {
    let case = bert();
    let coordinator = tests::Coordinator::start(&case, "run", &[]);
    let url = coordinator.url();
    let refused = run(&mut case.zeroth(&["submit", &url, "run.toml"])).expect(2);
    assert!(refused.err.contains("zeroth serve"), "{}", refused.report());
    let mut watching = Process::start(&mut case.zeroth(&["watch", &url, "1", "--json"]));
    watching.out_line("waiting for evaluators");
    let _evaluator = Process::start(&mut evaluator(&case, &url, "only"));
    coordinator.process.wait().expect(0);
    let watched = watching.wait();
    let states: Vec<serde_json::Value> =
        watched.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(
        states.windows(2).all(|pair| pair[0]["calls"].as_u64() <= pair[1]["calls"].as_u64()),
        "{states:?}"
    );
}
