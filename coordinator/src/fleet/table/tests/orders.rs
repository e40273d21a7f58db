//! What an evaluator is told, from its joining to its leaving, and in which order.

use super::*;

#[test]
fn a_late_joiner_gets_the_run_the_context_and_then_leases() {
    let (mut world, ids) = World::with(1);
    world.table.set_context(world.now, update(1)).unwrap();
    let late = world.join("m").unwrap();
    world.offer(1, generation(4));
    assert_eq!(world.kinds(late), "PSL");
    assert_eq!(world.kinds(ids[0]), "PScL");
    let start = world.orders.iter().find_map(|(id, order)| match order {
        Order::Start(start) if *id == late => Some(start),
        _ => None,
    });
    let start = start.unwrap();
    assert_eq!((start.version, &start.context[0]), (ContextVersion(1), &vec![1.0; DIM]));
}

#[test]
fn who_missed_updates_gets_the_whole_context() {
    let (mut world, ids) = World::with(1);
    (1..=3).for_each(|version| world.table.set_context(world.now, update(version)).unwrap());
    world.offer(3, generation(1));
    assert_eq!(world.kinds(ids[0]), "PSSL");
}

#[test]
fn drained_evaluators_leave_and_nobody_joins() {
    let (mut world, ids) = World::with(2);
    world.table.drain();
    world.settle();
    assert!(world.join("m").is_err());
    for id in &ids {
        assert!(world.kinds(*id).ends_with('D'));
        world.report(*id, Report::Leaving);
    }
    assert!(world.table.deserted());
    assert_eq!(world.closed, [(ids[0], None), (ids[1], None)]);
}

#[test]
fn an_ended_run_is_forgotten() {
    let (mut world, ids) = World::with(1);
    world.table.end(RUN);
    world.settle();
    assert_eq!(world.kinds(ids[0]), "PSF");
    assert!(world.table.offer(world.now, RUN, ContextVersion(0), generation(1)).is_err());
    assert!(world.join("other").is_ok());
}
