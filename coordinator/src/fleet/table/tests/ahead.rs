//! Work that is sent before its context.

use super::super::runs::CROWD;
use super::*;

/// The kinds of an evaluator's orders since they were last looked at.
fn news(world: &mut World, id: EvaluatorId) -> String {
    let kinds = world.kinds(id);
    world.orders.retain(|(to, _)| *to != id);
    kinds
}

#[test]
fn the_next_generation_is_sent_early_and_its_context_follows_at_once() {
    let (mut world, ids) = World::with(2);
    world.offer(0, generation(4));
    let next = world.offer(1, generation(4));
    assert_eq!(world.leases.len(), 4, "one of each for each");
    let current: Vec<_> = world.leases.extract_if(.., |(_, lease)| lease.version.0 == 0).collect();
    current.iter().for_each(|(id, lease)| world.answer(*id, lease));
    assert_eq!(world.ended.remove(0).1.unwrap().outcomes, expected(4, 0));
    ids.iter().for_each(|id| drop(news(&mut world, *id)));
    world.table.set_context(world.now, update(1)).unwrap();
    world.settle();
    assert_eq!(ids.iter().map(|id| news(&mut world, *id)).collect::<Vec<_>>(), ["c", "c"]);
    world.answer_all();
    assert_eq!(world.ended, [(next, Ok(Collected { outcomes: expected(4, 1), evaluators: 2, missing: 0 }))]);
}

#[test]
fn what_is_ahead_takes_no_place_from_what_can_be_done() {
    let (mut world, ids) = World::with(2);
    world.offer(1, generation(4));
    assert_eq!(world.leases.len(), 2, "one ahead for each, not two");
    world.offer(0, generation(4));
    let now = |world: &World| world.leases.iter().filter(|(_, lease)| lease.version.0 == 0).count();
    assert_eq!(now(&world), 2);
    world.table.lost(world.now, ids[0]);
    world.settle();
    world.leases.retain(|(id, _)| *id == ids[1]);
    let lease = world.leases.remove(1).1;
    assert_eq!(lease.version.0, 0);
    world.answer(ids[1], &lease);
    assert_eq!(now(&world), 1, "the lost one's work goes before the next generation's");
}

#[test]
fn a_place_is_kept_for_what_can_be_done() {
    let (mut world, _) = World::with(2);
    world.table.settings.credit = 1;
    world.offer(1, generation(4));
    assert!(world.leases.is_empty());
}

#[test]
fn two_versions_ahead_is_too_far() {
    let (mut world, _) = World::with(1);
    world.offer(2, generation(1));
    assert!(world.leases.is_empty());
    world.table.set_context(world.now, update(1)).unwrap();
    world.settle();
    assert_eq!(world.leases.len(), 1);
}

#[test]
fn what_can_wait_is_not_in_the_way_of_a_context_for_many() {
    let (mut world, ids) = World::with(CROWD);
    world.table.set_context(world.now, update(1)).unwrap();
    world.offer(2, generation(CROWD));
    assert!(world.leases.is_empty(), "everybody is being told of the context");
    world.offer(1, generation(CROWD));
    assert_eq!(world.leases.len(), CROWD, "what is due does not wait");
    world.now = world.table.wakes_at().unwrap();
    world.table.wake(world.now);
    world.settle();
    assert_eq!(world.leases.len(), 2 * CROWD);
    assert_eq!(world.table.wakes_at(), None);
    assert!(ids.iter().all(|id| world.leases.iter().filter(|(to, _)| to == id).count() == 2));
}

#[test]
fn waiting_for_a_context_is_no_delay() {
    let (mut world, ids) = World::with(1);
    world.offer(1, generation(1));
    world.pass(seconds(200), &ids);
    assert_eq!(world.leases.len(), 1);
    world.table.set_context(world.now, update(1)).unwrap();
    world.pass(seconds(59), &ids);
    assert_eq!(world.leases.len(), 1);
    world.answer_all();
    assert_eq!(world.ended[0].1.as_ref().unwrap().outcomes, expected(1, 1));
}

#[test]
fn an_evaluator_that_vanishes_waiting_is_not_mourned() {
    let (mut world, _) = World::with(0);
    for _ in 0..6 {
        let id = world.join("m").unwrap();
        if world.ended.is_empty() && world.table.jobs.is_empty() {
            world.table.start(world.now, first_start()).unwrap();
            world.offer(1, generation(1));
        }
        world.table.lost(world.now, id);
        world.settle();
        world.pass(seconds(2), &[]);
    }
    assert!(world.ended.is_empty(), "{:?}", world.ended);
}

#[test]
fn a_start_beyond_what_was_sent_ahead_ends_the_job_and_frees_the_evaluator() {
    let (mut world, ids) = World::with(1);
    world.offer(1, generation(1));
    let ahead = world.lease_of(ids[0]).unwrap();
    world.table.start(world.now, Start { version: ContextVersion(5), ..first_start() }).unwrap();
    world.settle();
    assert!(world.ended.remove(0).1.is_err());
    world.refuse(ids[0], Some(ahead.id), failed("the context went on")); // as a worker does with what it kept
    assert!(world.closed.is_empty());
    world.offer(5, generation(40));
    assert_eq!(world.leases.len(), 2, "all its credit is there");
}

/// The next generation is always on its way while this one is evaluated, and evaluators come, go and fail.
#[test]
fn generations_that_overlap_give_the_same_results_whatever_happens() {
    for seed in 0..100 {
        let mut dice = Dice(500 + seed);
        let (mut world, _) = World::with(1 + dice.roll(4));
        world.table.settings.max_failures = u32::MAX;
        let sizes: Vec<usize> = (0..9).map(|_| 1 + dice.roll(40)).collect();
        world.offer(0, generation(sizes[0]));
        for version in 0..8 {
            world.offer(version + 1, generation(sizes[version as usize + 1]));
            let mut steps = 0;
            while world.ended.is_empty() {
                steps += 1;
                assert!(steps < 5_000, "seed {seed}: generation {version} hangs");
                let now = |lease: &Lease| lease.version.0 == version;
                let can: Vec<usize> = (0..world.leases.len()).filter(|&i| now(&world.leases[i].1)).collect();
                let alive: Vec<EvaluatorId> = world.table.links.keys().copied().collect();
                match dice.roll(12) {
                    0 if alive.len() < 6 => drop(world.join("m").unwrap()),
                    1 if alive.len() > 1 => {
                        world.table.lost(world.now, alive[dice.roll(alive.len())]);
                        world.settle();
                    }
                    2 if !can.is_empty() => {
                        let (id, lease) = world.leases.remove(can[dice.roll(can.len())]);
                        world.refuse(id, Some(lease.id), failed("engine"));
                    }
                    3 => world.pass(seconds(dice.roll(70) as u64), &alive),
                    _ if !can.is_empty() => {
                        let (id, lease) = world.leases.remove(can[dice.roll(can.len())]);
                        world.answer(id, &lease);
                    }
                    _ => world.pass(seconds(1), &alive),
                }
                let alive: Vec<EvaluatorId> = world.table.links.keys().copied().collect();
                world.leases.retain(|(id, _)| alive.contains(id));
            }
            let outcomes = world.ended.remove(0).1.unwrap().outcomes;
            assert_eq!(outcomes, expected(sizes[version as usize], version), "seed {seed}");
            // What is left of this generation is answered in vain, before or after the next one begins.
            world.table.set_context(world.now, update(version + 1)).unwrap();
            world.settle();
            while let Some(old) = world.leases.iter().position(|(_, lease)| lease.version.0 <= version) {
                let (id, lease) = world.leases.remove(old);
                world.answer(id, &lease);
            }
        }
        let ahead: usize = world.table.links.values().map(|link| link.ahead).sum();
        assert_eq!(ahead, world.table.leases.values().filter(|held| held.ahead).count(), "seed {seed}");
    }
}
