//! Chaos: a run whose evaluators, lines, coordinator and disk fail all the time ends with the same bits as one that
//! nothing happened to.
//!
//! Faults are drawn from a seed, which is printed; `ZEROTH_CHAOS_SEED` sets another. They strike evenly over a run's
//! generations, so that as many strike on a fast machine as on a slow one. `docs/reproducibility.md` has the command for
//! a longer soak.

mod cluster;
mod faults;
mod hosts;

use std::env;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cluster::{Cluster, Held};
use faults::{Aim, Fault};
use tests::{Case, Family, SmallDisk, artefact, generations, run, until};

/// Generations of a run where nothing else is said; the last ones come after the last fault.
const GENERATIONS: usize = 600;
const LAST: usize = 120;

/// What a coordinator says of a full disk, and of one that is no more.
const GOES_ON: &str = "the run goes on, and tries again with each generation";
const AGAIN: &str = "can be written again; nothing was lost";

/// One cluster at a time: they would only wait for each other's processors.
fn alone() -> MutexGuard<'static, ()> {
    static CLUSTER: Mutex<()> = Mutex::new(());
    CLUSTER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The seed of this run of the tests.
fn seed(default: u64) -> u64 {
    let seed = env::var("ZEROTH_CHAOS_SEED").map_or(default, |seed| seed.parse().expect("a number"));
    println!("ZEROTH_CHAOS_SEED={seed}");
    seed
}

/// The case's run, undisturbed, in the folder `whole`.
fn whole(case: Case, generations: usize) -> Case {
    let case = case.set("search.budget", &(6 * generations).to_string());
    run(&mut case.tune("whole", &[])).expect(0);
    case
}

/// The disturbed run has the undisturbed one's trace and artefact, and has spent what it was allowed, once.
fn assert_as_whole(case: &Case, folder: &str, printed: &serde_json::Value, budget: usize) {
    let (one, other) = (case.path("whole"), case.path(folder));
    let (expected, found) = (generations(&one), generations(&other));
    for (expected, found) in expected.iter().zip(&found) {
        assert_eq!(expected, found);
    }
    assert_eq!(found.len(), expected.len());
    assert!(artefact(&one) == artefact(&other), "the artefact differs");
    if printed["saved_calls"].is_null() {
        assert_eq!(printed["calls"], 6 * budget, "every call counts once");
    }
}

/// So many faults, evenly over the generations; then the end.
fn chaos(case: &Case, folder: &str, seed: u64, evaluators: usize, faults: usize, aim: Aim) {
    let began = Instant::now();
    let mut cluster = Cluster::start(case, folder, seed);
    let held = Held::by(&cluster.coordinator().process);
    (0..evaluators).for_each(|_| cluster.join());
    let generations = generations(&case.path("whole")).len();
    for fault in 0..faults {
        cluster.run_to(1 + (generations - LAST) * fault / faults);
        cluster.strike(aim);
    }
    if aim == Aim::Evaluators {
        cluster.expect_nothing_held(held);
    }
    let printed = cluster.finish();
    assert_as_whole(case, folder, &printed, GENERATIONS);
    println!("{folder}: {generations} generations in {:.1} s", began.elapsed().as_secs_f64());
}

#[test]
fn evaluators_and_lines_fail() {
    let _alone = alone();
    let seed = seed(1);
    let case = whole(Case::masked(Family::Bert, "add"), GENERATIONS);
    chaos(&case, "evaluators", seed, 4, 90, Aim::Evaluators);
}

#[test]
fn the_coordinator_fails_too() {
    let _alone = alone();
    let seed = seed(2);
    let case = whole(Case::similarity(Family::Roberta, "prefix"), GENERATIONS);
    chaos(&case, "all", seed, 3, 70, Aim::All);
}

#[test]
fn everything_fails_in_a_race() {
    let _alone = alone();
    let seed = seed(3);
    let case = whole(Case::masked(Family::Bert, "prefix").set("search.racing", "true"), GENERATIONS);
    chaos(&case, "race", seed, 3, 50, Aim::All);
}

/// The disk is full again and again, while evaluators fail, and the coordinator while it cannot write.
#[test]
fn the_disk_is_full() {
    let _alone = alone();
    let seed = seed(4);
    let case = whole(Case::masked(Family::Bert, "add"), GENERATIONS);
    let Some(disk) = SmallDisk::mount(&case.path("disk"), 512) else { return };
    let mut cluster = Cluster::start(&case, "disk", seed);
    (0..3).for_each(|_| cluster.join());
    for episode in 0..6 {
        cluster.run_to(1 + 90 * episode);
        let coordinator = cluster.coordinator();
        let before = [GOES_ON, AGAIN].map(|what| coordinator.process.err_lines(what));
        disk.fill();
        coordinator.process.nth_err_line(GOES_ON, before[0]);
        let calls = |status: serde_json::Value| status["runs"][0]["calls"].as_u64().unwrap();
        let spent = calls(coordinator.status(&case));
        (0..2).for_each(|_| cluster.strike(Aim::Evaluators));
        let coordinator = cluster.coordinator();
        until("the run to go on", || (calls(coordinator.status(&case)) >= spent + 30).then_some(()));
        if episode % 3 == 2 {
            cluster.end_coordinator(Fault::KillCoordinator); // what could not be written is lost, and made again
            disk.free();
            cluster.resume();
        } else {
            assert_eq!(coordinator.process.err_lines(GOES_ON), before[0] + 1, "once an episode");
            disk.free();
            coordinator.process.nth_err_line(AGAIN, before[1]);
            if episode % 3 == 1 {
                cluster.end_coordinator(Fault::KillCoordinator);
                cluster.resume();
            }
        }
    }
    let printed = cluster.finish();
    assert_as_whole(&case, "disk", &printed, GENERATIONS);
}

/// Runs of chaos with ever new seeds for `ZEROTH_CHAOS_SECONDS` (600).
#[test]
#[ignore = "a soak, for as long as one likes"]
fn soak() {
    let _alone = alone();
    let seconds = env::var("ZEROTH_CHAOS_SECONDS").map_or(600, |seconds| seconds.parse().expect("seconds"));
    let ends = Instant::now() + Duration::from_secs(seconds);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let first = seed(now);
    let cases = [
        whole(Case::masked(Family::Bert, "add"), GENERATIONS),
        whole(Case::similarity(Family::Roberta, "prefix"), GENERATIONS),
        whole(Case::masked(Family::Bert, "prefix").set("search.racing", "true"), GENERATIONS),
        whole(Case::masked(Family::Bert, "add").set("search.method", r#""bbt""#), GENERATIONS),
        whole(Case::masked(Family::Bert, "add").set("search.incumbent", r#""mean""#), GENERATIONS),
    ];
    for (round, case) in (0..).zip(cases.iter().cycle()) {
        if Instant::now() >= ends {
            break;
        }
        println!("round {round}: ZEROTH_CHAOS_SEED={}", first + round);
        chaos(case, &format!("soak-{round}"), first + round, 4, 100, Aim::All);
    }
}

/// Whoever is asked to leave while it evaluates: nothing is lost, and the exit code is 0. And nobody is left: the run waits,
/// says so once, and goes on.
#[test]
fn the_last_evaluator_leaves_and_another_comes() {
    let _alone = alone();
    let case = whole(Case::masked(Family::Bert, "add"), GENERATIONS);
    let mut cluster = Cluster::start(&case, "alone", 5);
    cluster.coordinator().process.err_line("waiting for an evaluator");
    cluster.join();
    cluster.run_to(30);
    cluster.leave_alone(Duration::from_secs(2));
    let said = cluster.coordinator().process.err_lines("waiting for an evaluator");
    assert_eq!(said, 2, "once at the beginning and once now");
    cluster.run_to(60);
    let printed = cluster.finish();
    assert_as_whole(&case, "alone", &printed, GENERATIONS);
}

/// A second coordinator has no business in a run folder that is at work, resumed or not; the first does not notice.
#[test]
fn a_second_coordinator_is_refused() {
    let _alone = alone();
    let case = whole(Case::masked(Family::Bert, "add"), GENERATIONS);
    let mut cluster = Cluster::start(&case, "first", 6);
    cluster.join();
    cluster.run_to(10);
    for more in [&["--listen", "127.0.0.1:0"][..], &["--listen", "127.0.0.1:0", "--resume"], &["--resume"]] {
        run(&mut case.tune("first", more)).expect_refusal(&["another coordinator is at work", "run.folder"]);
    }
    let printed = cluster.finish();
    assert_as_whole(&case, "first", &printed, GENERATIONS);
}
