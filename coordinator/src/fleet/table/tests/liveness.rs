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
    let out = world.leases.iter().filter(|(_, lease)| lease.work == duplicate.work).count();
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
        let ready = Ready { flops: vec![1.0], ..found() };
        world.report(odd, Report::Ready(Box::new(ready)));
    }
    assert_eq!(world.begun, [Err(failed("ready with 1 flops, 2 expected"))]);
    assert!(world.table.links.is_empty());
}
