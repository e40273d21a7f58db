//! Bad days: many faults at random, and the results that must come nevertheless.

use super::*;

/// One step of a bad day.
fn mishap(world: &mut World, dice: &mut Dice) {
    let ids: Vec<EvaluatorId> = world.table.links.keys().copied().collect();
    match dice.roll(12) {
        0 if ids.len() < 6 => drop(world.join("m").unwrap()),
        1 if ids.len() > 1 => {
            let id = ids[dice.roll(ids.len())];
            world.table.lost(world.now, id);
            world.settle();
        }
        2 if ids.len() > 1 => world.report(ids[dice.roll(ids.len())], Report::Leaving),
        3 if !world.leases.is_empty() => {
            let (id, lease) = world.leases.remove(dice.roll(world.leases.len()));
            world.refuse(id, Some(lease.id), failed("engine"));
        }
        4 => world.pass(seconds(dice.roll(70) as u64), &ids),
        _ if !world.leases.is_empty() => {
            let (id, lease) = world.leases.remove(dice.roll(world.leases.len()));
            world.answer(id, &lease);
        }
        _ => world.pass(seconds(1), &ids),
    }
    let alive: Vec<EvaluatorId> = world.table.links.keys().copied().collect();
    world.leases.retain(|(id, _)| alive.contains(id));
}

#[test]
fn every_generation_completes_with_the_same_results_whatever_happens() {
    for seed in 0..200 {
        let mut dice = Dice(seed);
        let (mut world, _) = World::with(1 + dice.roll(3));
        world.table.settings.max_failures = u32::MAX; // this day is worse than any that a run should survive
        for version in 0..8 {
            let candidates = 1 + dice.roll(20);
            let job = world.offer(version, generation(candidates));
            let mut steps = 0;
            while world.ended.is_empty() {
                mishap(&mut world, &mut dice);
                steps += 1;
                assert!(steps < 10_000, "seed {seed}: generation {version} hangs");
            }
            let (ended, collected) = world.ended.remove(0);
            assert_eq!(ended, job);
            assert_eq!(collected.unwrap().outcomes, expected(candidates, version), "seed {seed}");
            assert!(world.ended.is_empty());
            world.table.set_context(world.now, update(version + 1)).unwrap();
            world.settle();
        }
        let held: usize = world.table.links.values().map(|link| link.in_flight.len()).sum();
        assert_eq!(held, world.table.leases.len(), "seed {seed}: leases and links disagree");
    }
}
