//! One bad evaluator must neither stop the others' work nor end their run.

use super::*;

fn one_piece() -> Task {
    Task::Score { prompt: Prompted::Manual, examples: ExampleSet::Dev(0..1) }
}

#[test]
fn work_that_failed_once_comes_back_when_its_other_holder_is_frozen() {
    let (mut world, ids) = World::with(2);
    world.offer(0, one_piece());
    world.lease_of(ids[0]).unwrap(); // frozen: it says that it lives, and never answers
    world.pass(seconds(61), &ids);
    let lease = world.lease_of(ids[1]).unwrap();
    world.refuse(ids[1], Some(lease.id), failed("once"));
    let again = world.lease_of(ids[1]).expect("nobody else can take it");
    world.answer(ids[1], &again);
    assert!(world.ended[0].1.is_ok());
}

#[test]
fn work_that_failed_once_does_not_wait_for_who_is_stuck_in_other_work() {
    let (mut world, ids) = World::with(2);
    world.table.settings.credit = 1;
    world.offer(0, one_piece());
    world.lease_of(ids[0]).unwrap(); // frozen
    world.pass(seconds(61), &ids);
    let first = world.lease_of(ids[1]).unwrap();
    world.answer(ids[1], &first);
    world.offer(0, one_piece());
    let second = world.lease_of(ids[1]).unwrap();
    world.refuse(ids[1], Some(second.id), failed("once"));
    let again = world.lease_of(ids[1]).expect("the other's credit is used up for good");
    world.answer(ids[1], &again);
    assert!(world.ended.len() == 2 && world.ended.iter().all(|(_, ended)| ended.is_ok()));
}

#[test]
fn work_that_failed_once_waits_for_another_who_is_merely_busy() {
    let (mut world, ids) = World::with(2);
    world.table.settings.credit = 1;
    world.offer(0, one_piece());
    world.offer(0, one_piece());
    let (busy, lease) = (world.lease_of(ids[0]).unwrap(), world.lease_of(ids[1]).unwrap());
    world.refuse(ids[1], Some(lease.id), failed("once"));
    assert_eq!(world.lease_of(ids[1]), None);
    world.answer(ids[0], &busy);
    assert_eq!(world.lease_of(ids[0]).map(|lease| lease.work), Some(lease.work));
}

#[test]
fn a_late_lease_on_finished_work_is_not_given_again() {
    let (mut world, ids) = World::with(3);
    world.offer(0, generation(6));
    world.pass(seconds(1), &ids);
    let quick = world.lease_of(ids[0]).unwrap();
    world.answer(ids[0], &quick);
    world.pass(seconds(3), &ids);
    let duplicate = world.lease_of(ids[0]).unwrap();
    world.answer(ids[0], &duplicate); // its first holder still computes
    world.pass(seconds(60), &ids);
    let out = world.leases.iter().filter(|(_, lease)| bare(lease) == bare(&duplicate)).count();
    assert_eq!(out, 1, "only the first holder's");
}

#[test]
fn who_cannot_prepare_does_not_end_a_run_that_others_work_on() {
    let (mut world, _) = World::with(1);
    let job = world.offer(0, generation(2));
    for _ in 0..10 {
        let poor = world.table.join(world.now, hello("m"), false).unwrap();
        world.refuse(poor, None, failed("out of memory"));
        assert_eq!(world.closed.pop(), Some((poor, Some(failed("out of memory")))));
    }
    world.answer_all();
    assert!(matches!(&world.ended[..], [(ended, Ok(_))] if *ended == job), "{:?}", world.ended);
}

#[test]
fn a_run_that_nobody_can_prepare_ends_with_the_reason() {
    let (mut world, _) = World::with(0);
    for _ in 0..5 {
        let poor = world.table.join(world.now, hello("m"), false).unwrap();
        world.refuse(poor, None, failed("out of memory"));
    }
    assert_eq!(world.begun, [Err(failed("out of memory"))]);
}

#[test]
fn statistics_of_the_wrong_shape_are_not_asked_for_for_ever() {
    let (mut world, _) = World::with(0);
    for _ in 0..5 {
        let odd = world.table.join(world.now, hello("m"), false).unwrap();
        let ready = Ready { flops: vec![1.0], ..ready(RUN) };
        world.report(odd, Report::Ready(Box::new(ready)));
    }
    assert_eq!(world.begun, [Err(failed("ready with 1 flops, 2 expected"))]);
    assert!(world.table.links.is_empty());
}

/// An evaluator of its own takes the piece and is killed while it is at it.
fn lose_one_at_the_piece(world: &mut World) {
    let id = world.join("m").unwrap();
    world.lease_of(id).expect("it waits for somebody");
    world.table.lost(world.now, id);
    world.settle();
    world.pass(seconds(2), &[]);
}

/// Over a long run with many kills some piece is unlucky more than once: that must not end the run.
#[test]
fn losses_of_evaluators_and_failures_of_the_work_are_not_added_up() {
    let (mut world, _) = World::with(0);
    let first = world.join("m").unwrap();
    world.offer(0, one_piece());
    world.lease_of(first).unwrap();
    world.table.lost(world.now, first);
    world.settle();
    for round in 0..4 {
        (0..3).for_each(|_| lose_one_at_the_piece(&mut world));
        let survivor = world.join("m").unwrap();
        let lease = world.lease_of(survivor).unwrap();
        if round < 3 {
            world.refuse(survivor, Some(lease.id), failed("out of memory"));
            world.lease_of(survivor).expect("nobody else is there");
        } else {
            world.answer(survivor, &lease);
        }
        world.report(survivor, Report::Leaving);
    }
    assert!(matches!(&world.ended[..], [(_, Ok(_))]), "{:?}", world.ended);
}

#[test]
fn work_that_is_the_end_of_five_evaluators_in_a_row_ends_the_run() {
    let (mut world, _) = World::with(0);
    let idle = world.join("m").unwrap();
    world.offer(0, one_piece());
    world.report(idle, Report::Leaving); // on its own wish: counts nowhere
    for _ in 0..4 {
        lose_one_at_the_piece(&mut world);
        assert!(world.ended.is_empty());
    }
    lose_one_at_the_piece(&mut world);
    let [(_, Err(Refusal::Failed(text)))] = &world.ended[..] else { panic!("{:?}", world.ended) };
    assert!(text.starts_with("5 evaluators in a row were lost at the same work"), "{text}");
}

/// A switch fails: one link after the other ends, and a piece is handed on down the row.
#[test]
fn many_losses_at_once_are_one_event() {
    let (mut world, ids) = World::with(8);
    world.offer(0, one_piece());
    for id in ids {
        world.table.lost(world.now, id);
        world.settle();
    }
    assert_eq!(world.leases.len(), 8, "it was in everybody's hands");
    world.leases.clear();
    let late = world.join("m").unwrap();
    let lease = world.lease_of(late).unwrap();
    world.answer(late, &lease);
    assert!(matches!(&world.ended[..], [(_, Ok(_))]), "{:?}", world.ended);
}
