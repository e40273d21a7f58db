//! Evaluators that find another loss than the others.

use super::*;

/// A world of evaluators with names of their own, some of which lie.
struct Court {
    world: World,
    ids: Vec<EvaluatorId>,
    /// What is added to each loss of theirs.
    lies: BTreeMap<EvaluatorId, f32>,
}

impl Court {
    fn new(evaluators: usize) -> Self {
        let mut world = World::new(settings());
        world.table.begin(world.now, prepare(), Expected::default());
        let mut court = Self { world, ids: Vec::new(), lies: BTreeMap::new() };
        (0..evaluators).for_each(|_| court.join());
        court.world.table.start(court.world.now, first_start()).unwrap();
        court.world.settle();
        court
    }

    fn join(&mut self) {
        let name = format!("e{}", self.ids.len());
        self.ids.push(self.world.join_as(Hello { name, ..hello("m") }).unwrap());
    }

    fn lying(mut self, who: usize, by: f32) -> Self {
        self.lies.insert(self.ids[who], by);
        self
    }

    fn answer(&mut self, id: EvaluatorId, lease: &Lease) {
        let lie = self.lies.get(&id).copied().unwrap_or(0.0);
        let mut outcomes = outcomes(lease);
        outcomes.iter_mut().flat_map(|outcome| &mut outcome.losses).for_each(|loss| *loss += lie);
        let canary = canary(lease).map(|found| CanaryOutcome { loss: found.loss + lie, ..found });
        self.world.report(id, Report::Answer(Answer { lease: lease.id, outcomes, canary }));
    }

    fn answer_all(&mut self) {
        while !self.world.leases.is_empty() {
            let (id, lease) = self.world.leases.remove(0);
            self.answer(id, &lease);
        }
    }

    /// Names in quarantine.
    fn sent_away(&self) -> Vec<String> {
        self.world.table.status().quarantined.into_iter().map(|known| known.name).collect()
    }

    fn honest(&self, candidates: usize) {
        let outcomes = &self.world.ended[0].1.as_ref().unwrap().outcomes;
        assert_eq!(outcomes, &expected(candidates, 0));
    }
}

fn has_canary(lease: &Lease) -> bool {
    matches!(&lease.work, Work::Evaluate { canary: Some(_), .. })
}

#[test]
fn the_same_canary_goes_to_each_once_a_generation() {
    let mut court = Court::new(2);
    court.world.offer(0, generation(100));
    let mut canaries = Vec::new();
    while let Some((id, lease)) = (!court.world.leases.is_empty()).then(|| court.world.leases.remove(0)) {
        if let Work::Evaluate { canary: Some(canary), .. } = &lease.work {
            canaries.push((id, canary.clone()));
        }
        court.answer(id, &lease);
    }
    let ids: Vec<EvaluatorId> = canaries.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, court.ids);
    assert_eq!(canaries[0].1, canaries[1].1);
    court.honest(100);
}

#[test]
fn one_evaluator_needs_no_canary() {
    let mut court = Court::new(1).lying(0, 5.0);
    court.world.offer(0, generation(40));
    assert!(!court.world.leases.iter().any(|(_, lease)| has_canary(lease)));
    court.answer_all();
    assert!(court.world.ended[0].1.is_ok());
}

#[test]
fn of_three_the_one_that_lies_is_sent_away_and_its_work_done_again() {
    for liar in 0..3 {
        let mut court = Court::new(3).lying(liar, 0.001);
        court.world.offer(0, generation(30));
        court.answer_all();
        court.honest(30);
        assert_eq!(court.sent_away(), [format!("e{liar}")]);
        let [(id, Some(Refusal::Quarantined(text)))] = &court.world.closed.clone()[..] else {
            panic!("{:?}", court.world.closed)
        };
        assert_eq!(*id, court.ids[liar]);
        assert!(text.starts_with(&format!("evaluator e{liar} is quarantined")), "{text}");
        assert!(text.contains("finds loss 0.001, the others 0;"), "{text}");
        assert_eq!(court.world.quarantined, std::slice::from_ref(text));
        let again = court.world.join_as(Hello { name: format!("e{liar}"), ..hello("m") });
        assert_eq!(again, Err(Refusal::Quarantined(text.clone())));
    }
}

#[test]
fn of_two_the_one_without_a_number_is_sent_away() {
    for liar in 0..2 {
        let mut court = Court::new(2).lying(liar, f32::NAN);
        court.world.offer(0, generation(8));
        court.answer_all();
        court.honest(8);
        assert_eq!(court.sent_away(), [format!("e{liar}")]);
    }
}

#[test]
fn between_two_a_third_is_asked_who_has_had_no_part() {
    for liar in 0..2 {
        let mut court = Court::new(2).lying(liar, 3.0);
        court.world.offer(0, generation(2));
        court.join();
        court.answer_all();
        court.honest(2);
        assert_eq!(court.sent_away(), [format!("e{liar}")]);
    }
}

#[test]
fn between_two_alone_the_one_that_came_later_goes() {
    let mut court = Court::new(2).lying(1, 3.0);
    court.world.offer(0, generation(8));
    court.answer_all();
    court.honest(8);
    assert_eq!(court.sent_away(), ["e1"]);
}

#[test]
fn who_began_alone_is_asked_at_the_end() {
    let mut court = Court::new(1).lying(0, 2.0);
    court.world.offer(0, generation(100));
    let first = court.world.lease_of(court.ids[0]).unwrap();
    court.answer(court.ids[0], &first);
    court.join();
    court.join();
    court.answer_all();
    court.honest(100);
    assert_eq!(court.sent_away(), ["e0"]);
}

#[test]
fn what_one_has_answered_who_left_before_it_could_be_asked_is_done_again() {
    let mut court = Court::new(1).lying(0, 2.0);
    court.world.offer(0, generation(100));
    let first = court.world.lease_of(court.ids[0]).unwrap();
    court.answer(court.ids[0], &first);
    court.join();
    court.join();
    court.world.report(court.ids[0], Report::Leaving);
    court.world.leases.retain(|(id, _)| *id != court.ids[0]);
    court.answer_all();
    court.honest(100);
    assert!(court.sent_away().is_empty());
}

#[test]
fn who_does_not_answer_its_canary_holds_nobody_up_for_ever() {
    let mut court = Court::new(1);
    court.world.offer(0, generation(40));
    for _ in 0..2 {
        let lease = court.world.lease_of(court.ids[0]).unwrap();
        court.answer(court.ids[0], &lease);
    }
    court.join();
    for _ in 0..3 {
        court.world.pass(seconds(61), &court.ids.clone()); // the first holds leases, and answers nothing
        while let Some(lease) = court.world.lease_of(court.ids[1]) {
            court.answer(court.ids[1], &lease);
        }
    }
    court.honest(40);
}

#[test]
fn an_answer_that_leaves_the_canary_out_costs_the_evaluator() {
    let mut court = Court::new(2);
    court.world.offer(0, generation(4));
    let lease = court.world.lease_of(court.ids[0]).unwrap();
    let answer = Answer { lease: lease.id, outcomes: outcomes(&lease), canary: None };
    court.world.report(court.ids[0], Report::Answer(answer));
    assert_eq!(court.world.closed, [(court.ids[0], Some(failed("an answer without the canary's loss")))]);
    court.answer_all();
    court.honest(4);
}

#[test]
fn liars_change_no_result_whatever_happens() {
    for seed in 0..100 {
        let mut dice = Dice(1000 + seed);
        let mut court = Court::new(3 + dice.roll(4));
        court.world.table.settings.max_failures = u32::MAX;
        let liar = dice.roll(court.ids.len());
        court = court.lying(liar, [0.001, 50.0, f32::NAN][dice.roll(3)]);
        let candidates = 1 + dice.roll(40);
        court.world.offer(0, generation(candidates));
        let mut steps = 0;
        while court.world.ended.is_empty() {
            steps += 1;
            assert!(steps < 2000, "seed {seed} hangs");
            let alive: Vec<EvaluatorId> = court.world.table.links.keys().copied().collect();
            court.world.leases.retain(|(id, _)| alive.contains(id));
            match dice.roll(10) {
                0 if court.ids.len() < 9 => court.join(),
                1 => court.world.pass(seconds(dice.roll(70) as u64), &alive),
                2 if court.world.leases.len() > 1 => {
                    let (id, lease) = court.world.leases.remove(dice.roll(court.world.leases.len()));
                    court.world.refuse(id, Some(lease.id), failed("engine"));
                }
                _ if !court.world.leases.is_empty() => {
                    let (id, lease) = court.world.leases.remove(dice.roll(court.world.leases.len()));
                    court.answer(id, &lease);
                }
                _ => court.world.pass(seconds(1), &alive),
            }
        }
        // Where the liar had no part, or was alone at the beginning with no other opinion, nothing needs to be said.
        court.honest(candidates);
        assert!(court.sent_away().iter().all(|name| *name == format!("e{liar}")), "seed {seed}");
    }
}
