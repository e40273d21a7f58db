//! Generations that end before all has come in.

use super::*;

fn within(candidates: usize, deadline: u64) -> Task {
    match generation(candidates) {
        Task::Evaluate { layer, candidates, examples, .. } => {
            Task::Evaluate { layer, candidates, examples, deadline: Some(seconds(deadline)) }
        }
        score => score,
    }
}

#[test]
fn what_has_not_come_in_by_the_deadline_is_the_worst() {
    let (mut world, ids) = World::with(2);
    world.table.settings.patience = seconds(1000);
    world.offer(0, within(8, 10));
    let quick = world.lease_of(ids[0]).unwrap();
    world.answer(ids[0], &quick);
    world.pass(seconds(9), &ids);
    assert!(world.ended.is_empty());
    world.pass(seconds(1), &ids);
    let collected = world.ended.remove(0).1.unwrap();
    assert_eq!((collected.missing, collected.evaluators), (4, 1));
    let honest = expected(8, 0);
    assert_eq!(collected.outcomes[..4], honest[..4]);
    assert!(collected.outcomes[4..].iter().all(|outcome| outcome.losses == [f32::INFINITY; 4]));
    let late = world.lease_of(ids[1]).unwrap();
    world.answer(ids[1], &late);
    assert!(world.closed.is_empty(), "coming late is no offence");
}

#[test]
fn half_of_the_candidates_are_waited_for() {
    let (mut world, ids) = World::with(3);
    world.table.settings.patience = seconds(1000);
    world.offer(0, within(9, 10));
    let quick = world.lease_of(ids[0]).unwrap();
    world.answer(ids[0], &quick);
    world.pass(seconds(30), &ids);
    assert!(world.ended.is_empty());
    let second = world.lease_of(ids[1]).unwrap();
    world.answer(ids[1], &second);
    world.pass(seconds(1), &ids);
    assert_eq!(world.ended[0].1.as_ref().unwrap().missing, 3);
}

#[test]
fn the_time_counts_from_when_it_can_be_begun() {
    let (mut world, ids) = World::with(1);
    world.offer(1, within(20, 10)); // sent ahead
    world.pass(seconds(30), &ids);
    world.table.set_context(world.now, update(1)).unwrap();
    world.settle();
    let first = world.lease_of(ids[0]).unwrap();
    world.answer(ids[0], &first);
    world.pass(seconds(9), &ids);
    assert!(world.ended.is_empty());
    world.pass(seconds(1), &ids);
    assert_eq!(world.ended[0].1.as_ref().unwrap().missing, 10);
}

#[test]
fn who_cannot_be_believed_counts_as_missing() {
    let (mut world, ids) = World::with(2);
    world.table.settings.patience = seconds(1000);
    world.offer(0, within(8, 10));
    let (one, other) = (world.lease_of(ids[0]).unwrap(), world.lease_of(ids[1]).unwrap());
    world.answer(ids[0], &one);
    let nan = |outcome: Outcome| Outcome { losses: vec![f32::NAN; outcome.losses.len()], ..outcome };
    let outcomes = outcomes(&other).into_iter().map(nan).collect();
    let canary = Some(CanaryOutcome { loss: f32::NAN, predicted: 0 });
    world.report(ids[1], Report::Answer(Answer { lease: other.id, outcomes, canary }));
    assert_eq!(world.quarantined.len(), 1);
    world.leases.clear();
    world.pass(seconds(10), &ids[..1]);
    let collected = world.ended.remove(0).1.unwrap();
    assert_eq!(collected.missing, 4);
    assert_eq!(collected.outcomes[..4], expected(8, 0)[..4]);
}
