//! Evaluators of known speeds in virtual time: how work is divided, and that it pays.

use super::*;

const EXAMPLES: u32 = 32;

/// A world whose evaluators work at given speeds, one lease after the other.
struct Sim {
    world: World,
    /// Seconds for a candidate.
    pace: BTreeMap<EvaluatorId, f64>,
    /// One way, in seconds.
    latency: f64,
    free: BTreeMap<EvaluatorId, Instant>,
    /// Answers on their way.
    due: BTreeMap<(Instant, LeaseId), (EvaluatorId, Lease)>,
    next_tick: Instant,
    version: u64,
    /// Leases of the last generation, by evaluator.
    given: BTreeMap<EvaluatorId, Vec<Work>>,
}

impl Sim {
    fn new(paces: &[f64]) -> Self {
        let prepare = Prepare { train: examples(EXAMPLES), ..prepare() };
        let (mut world, ids) = World::begun(prepare, paces.len());
        world.table.settings.patience = Duration::from_millis(20);
        let pace = ids.into_iter().zip(paces.iter().copied()).collect();
        let next_tick = world.now;
        Self {
            world,
            pace,
            latency: 0.0005,
            free: BTreeMap::new(),
            due: BTreeMap::new(),
            next_tick,
            version: 0,
            given: BTreeMap::new(),
        }
    }

    fn join(&mut self, pace: f64) {
        let id = self.world.join("m").unwrap();
        self.pace.insert(id, pace);
        self.begin();
    }

    /// Begins what has been handed out.
    fn begin(&mut self) {
        for (id, lease) in std::mem::take(&mut self.world.leases) {
            let Work::Evaluate { candidates, examples, .. } = &lease.work else { panic!("{lease:?}") };
            let cells = (candidates.len() * examples.len()) as f64;
            let arrives = self.world.now + Duration::from_secs_f64(self.latency);
            let begins = self.free.get(&id).map_or(arrives, |free| arrives.max(*free));
            let done = begins + Duration::from_secs_f64(self.pace[&id] * cells / f64::from(EXAMPLES));
            self.free.insert(id, done);
            self.given.entry(id).or_default().push(lease.work.clone());
            self.due.insert((done + Duration::from_secs_f64(self.latency), lease.id), (id, lease));
        }
    }

    /// The next answer or tick.
    fn step(&mut self) {
        match self.due.first_key_value().map(|(key, _)| *key) {
            Some(key) if key.0 <= self.next_tick => {
                let (id, lease) = self.due.remove(&key).unwrap();
                self.world.now = key.0;
                self.world.answer(id, &lease);
            }
            _ => {
                self.world.now = self.next_tick;
                self.next_tick += Duration::from_millis(10);
                for id in self.pace.keys() {
                    self.world.table.report(self.world.now, *id, Report::Heartbeat { progress: 0 });
                }
                self.world.table.tick(self.world.now);
                self.world.settle();
            }
        }
        self.begin();
    }

    fn offer(&mut self, candidates: usize) {
        self.given.clear();
        self.world.offer(self.version, generation_on(candidates, EXAMPLES));
        self.begin();
    }

    /// Seconds until the generation has ended, whose results must be what they always are.
    fn finish(&mut self, candidates: usize) -> f64 {
        let began = self.world.now;
        while self.world.ended.is_empty() {
            self.step();
        }
        let collected = self.world.ended.remove(0).1.unwrap();
        assert_eq!(collected.outcomes, expected_of(generation_on(candidates, EXAMPLES), self.version));
        self.version += 1;
        self.world.table.set_context(self.world.now, update(self.version)).unwrap();
        self.world.settle();
        (self.world.now - began).as_secs_f64()
    }

    fn generation(&mut self, candidates: usize) -> f64 {
        self.offer(candidates);
        self.finish(candidates)
    }

    /// Mean seconds of a generation, once speeds are known.
    fn usual(&mut self, candidates: usize) -> f64 {
        for _ in 0..5 {
            self.generation(candidates);
        }
        (0..20).map(|_| self.generation(candidates)).sum::<f64>() / 20.0
    }
}

#[test]
fn one_evaluator_ten_times_slower_than_nine_others_costs_less_than_a_tenth() {
    for candidates in [20, 64, 200] {
        let nine = Sim::new(&[0.1; 9]).usual(candidates);
        let mut paces = [0.1; 10];
        paces[4] = 1.0;
        let ten = Sim::new(&paces).usual(candidates);
        let told = format!("{candidates} candidates: nine take {nine:.3} s, with a slow one {ten:.3} s");
        println!("{told}");
        assert!(ten < 1.1 * nine, "{told}");
    }
}

#[test]
fn a_mixed_fleet_ends_together() {
    let paces = [0.01, 0.05, 0.05, 0.1, 0.1, 0.1, 0.4];
    let together: f64 = paces.iter().map(|pace| 1.0 / pace).sum();
    for candidates in [20, 64, 500] {
        let took = Sim::new(&paces).usual(candidates);
        let ideal = candidates as f64 / together;
        println!("{candidates} candidates: {took:.3} s, ideal {ideal:.3} s");
        assert!(took < 1.1 * ideal + 0.01, "{candidates} candidates: {took:.3} s, ideal {ideal:.3} s");
    }
}

#[test]
fn equal_evaluators_get_a_candidate_each_though_they_are_never_quite_equal() {
    let mut dice = Dice(7);
    let paces: Vec<f64> = (0..64).map(|_| 0.05 * (1.0 + 0.001 * dice.roll(100) as f64)).collect();
    let mut sim = Sim::new(&paces);
    for _ in 0..10 {
        let took = sim.generation(64);
        assert!(took < 0.057, "{took}");
        for given in sim.given.values() {
            let [Work::Evaluate { candidates, examples, .. }] = &given[..] else { panic!("{given:?}") };
            assert_eq!((candidates.len(), examples), (1, &(0..EXAMPLES)));
        }
        assert_eq!(sim.given.len(), 64);
    }
}

#[test]
fn what_equal_evaluators_cannot_share_evenly_is_shared_by_examples() {
    let took = Sim::new(&[0.1; 8]).usual(20);
    assert!(took < 0.27, "two and a half candidates each, not three: {took}");
}

#[test]
fn more_evaluators_than_candidates_still_help() {
    let took = Sim::new(&[0.1; 32]).usual(4);
    assert!(took < 0.1 / 8.0 * 1.3 + 0.002, "{took}");
    assert!(Sim::new(&[0.1; 300]).usual(2) < 0.1 / 16.0);
}

#[test]
fn who_joins_in_mid_generation_gets_work() {
    // Of a small generation all has been handed out: what the new ones take is what the others hold.
    for (candidates, most) in [(8, 0.8), (300, 0.65)] {
        let alone = Sim::new(&[0.1, 0.1]).usual(candidates);
        let mut sim = Sim::new(&[0.1, 0.1]);
        sim.usual(candidates);
        sim.offer(candidates);
        let before = sim.world.now;
        while (sim.world.now - before).as_secs_f64() < 0.25 * alone {
            sim.step();
        }
        (0..4).for_each(|_| sim.join(0.1));
        let took = 0.25 * alone + sim.finish(candidates);
        assert!(took < most * alone, "{candidates} candidates: {took:.3} s, {alone:.3} s without");
    }
}

/// Half of them come when the first generation is out already, and get the crumbs of it: that these took as long as whole
/// candidates do where a lease is all latency does not make them slow.
#[test]
fn who_came_late_is_not_taken_for_slow() {
    let mut sim = Sim::new(&[1e-4; 41]);
    sim.latency = 0.025;
    sim.offer(64);
    (41..64).for_each(|_| sim.join(1e-4));
    sim.finish(64);
    let took: Vec<f64> = (0..6).map(|_| sim.generation(64)).collect();
    assert!(took.iter().skip(2).all(|&took| took < 0.052), "{took:?}");
}

/// It does not answer, but lives: others repeat its work, together.
#[test]
fn one_that_freezes_costs_little() {
    let mut sim = Sim::new(&[0.1; 9]);
    let usual = sim.usual(64);
    let frozen = *sim.pace.keys().next().unwrap();
    sim.pace.insert(frozen, 1e6);
    let took = sim.generation(64);
    assert!(took < 2.5 * usual, "{took:.3} s, usually {usual:.3} s");
    let took = sim.usual(64);
    assert!(took < 1.2 * usual, "{took:.3} s without it, usually {usual:.3} s");
}

#[test]
fn one_that_becomes_slow_gets_less() {
    let mut sim = Sim::new(&[0.1; 4]);
    sim.usual(40);
    let slow = *sim.pace.keys().next().unwrap();
    sim.pace.insert(slow, 0.8);
    let ideal = 40.0 / (3.0 * 10.0 + 1.25);
    let took = sim.usual(40);
    assert!(took < 1.15 * ideal, "{took:.3} s, ideal {ideal:.3} s");
}

#[test]
fn thousand_evaluators_are_served_one_by_one() {
    let mut dice = Dice(3);
    let paces: Vec<f64> = (0..1000).map(|_| 0.05 * (1.0 + 0.002 * dice.roll(100) as f64)).collect();
    let mut sim = Sim::new(&paces);
    let took = sim.usual(2000);
    assert!(took < 0.122, "{took}");
    assert!(sim.given.values().all(|given| given.len() == 1));
}
