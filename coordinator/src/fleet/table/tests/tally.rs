//! What is counted, for whoever watches; that no lease is lost sight of is looked at in every test of the table.

use super::super::super::Load;
use super::*;

#[test]
fn what_happens_is_counted_once() {
    let (mut world, ids) = World::with(3);
    world.join("other").unwrap_err();
    assert_eq!(world.table.status().load, Load::default());
    world.offer(0, generation(30));
    let load = world.table.status().load;
    assert_eq!((load.candidates, load.working), (30, world.leases.len()), "{load:?}");

    let refused = world.lease_of(ids[0]).unwrap();
    world.refuse(ids[0], Some(refused.id), Refusal::Failed("out of memory".to_owned()));
    let held = world.leases.iter().filter(|(id, _)| *id == ids[1]).count() as u64;
    world.table.lost(world.now, ids[1]);
    world.leases.retain(|(id, _)| *id != ids[1]);
    world.settle();
    world.report(ids[2], Report::Heartbeat { progress: 0 });
    world.answer_all();

    let tally = world.table.status().tally;
    assert_eq!((tally.joins, tally.refusals, tally.losses, tally.quarantines), (3, 1, 1, 0));
    assert_eq!((tally.failed, tally.lost), (1, held));
    assert_eq!(tally.sent, tally.answered + tally.failed + tally.lost);
    assert_eq!(world.table.status().load, Load::default(), "nothing is left");
}

/// With nobody there, a run is a reason to start an evaluator.
#[test]
fn a_run_that_nobody_has_prepared_waits_as_one_candidate() {
    let (mut world, _) = World::with(0);
    assert_eq!(world.table.status().load.candidates, 1);
    world.join("m").unwrap();
    assert_eq!(world.table.status().load.candidates, 0);
}

#[test]
fn work_that_waits_for_its_context_and_work_that_is_late_are_told_apart() {
    let (mut world, ids) = World::with(1);
    world.offer(0, generation(1));
    world.offer(1, generation(1));
    let load = world.table.status().load;
    assert_eq!((load.working, load.ahead, load.late, load.candidates), (1, 1, 0, 2));
    world.pass(seconds(61), &ids);
    let load = world.table.status().load;
    assert_eq!((load.working, load.ahead, load.late), (0, 1, 1), "{load:?}");
}
