//! Several runs on one fleet.

use super::*;

const OTHER: RunId = RunId(2);

/// Two evaluators, and two runs begun and started.
fn two_runs() -> (World, Vec<EvaluatorId>) {
    let (mut world, ids) = World::with(2);
    world.table.begin(world.now, Prepare { run: OTHER, ..prepare() }, Expected::default());
    for id in &ids {
        world.report(*id, Report::Ready(Box::new(ready(OTHER))));
    }
    world.table.start(world.now, Start { run: OTHER, ..first_start() }).unwrap();
    world.settle();
    (world, ids)
}

fn offer(world: &mut World, run: RunId, candidates: usize) -> JobId {
    let job = world.table.offer(world.now, run, ContextVersion(0), generation(candidates)).unwrap();
    world.settle();
    job
}

/// Candidates of a lease.
fn size(lease: &Lease) -> usize {
    match &lease.work {
        Work::Evaluate { candidates, .. } => candidates.len(),
        Work::Score { .. } => 0,
    }
}

/// Answers the oldest lease, `times` over, offering as much again to each run that has ended a job; what each got.
fn work(world: &mut World, times: usize, sizes: &[(RunId, usize)]) -> Vec<usize> {
    let mut had = vec![0; sizes.len()];
    for _ in 0..times {
        let (id, lease) = world.leases.remove(0);
        let slot = sizes.iter().position(|(run, _)| *run == lease.run).unwrap();
        had[slot] += size(&lease);
        world.answer(id, &lease);
        if !world.ended.is_empty() {
            world.ended.clear();
            offer(world, sizes[slot].0, sizes[slot].1);
        }
    }
    had
}

#[test]
fn runs_get_equal_shares_whatever_they_ask_for_at_once() {
    let (mut world, _) = two_runs();
    let sizes = [(RUN, 400), (OTHER, 60)];
    offer(&mut world, RUN, 400);
    for _ in 0..4 {
        offer(&mut world, OTHER, 60); // so that something of it always waits
    }
    let had = work(&mut world, 400, &sizes);
    let (one, other) = (had[0] as f64, had[1] as f64);
    assert!((one / other - 1.0).abs() < 0.25, "{had:?}");
}

#[test]
fn who_begins_late_owes_nothing_and_is_owed_nothing() {
    let (mut world, _) = two_runs();
    let sizes = [(RUN, 60), (OTHER, 60)];
    offer(&mut world, RUN, 60);
    work(&mut world, 300, &sizes);
    offer(&mut world, OTHER, 60);
    let had = work(&mut world, 60, &sizes);
    let (one, other) = (had[0] as f64, had[1] as f64);
    assert!((one / other - 1.0).abs() < 0.35, "{had:?}");
}

#[test]
fn a_run_without_work_leaves_its_share_to_the_others() {
    let (mut world, ids) = two_runs();
    offer(&mut world, OTHER, 4);
    world.answer_all();
    world.ended.clear();
    offer(&mut world, RUN, 400);
    assert_eq!(world.leases.len(), 2 * ids.len());
    assert!(world.leases.iter().all(|(_, lease)| lease.run == RUN));
}

#[test]
fn a_gap_in_one_run_is_filled_by_the_other() {
    let (mut world, _) = two_runs();
    offer(&mut world, RUN, 4); // one lease for each evaluator; nothing of this run waits behind them
    offer(&mut world, OTHER, 4);
    let runs: Vec<RunId> = world.leases.iter().map(|(_, lease)| lease.run).collect();
    assert_eq!(runs, [RUN, RUN, OTHER, OTHER]);
}
