//! The table under virtual time, one fault at a time: leases, what is lost, what comes twice.

use std::time::Duration;

use shared::ids::Layer;
use shared::messages::{
    Answer, CanaryOutcome, ContextUpdate, ExampleSet, Lease, Prepare, Prompted, Ready, Refused, Start, Work,
};
use shared::spec::Dtype;

use super::super::Expected;
use super::super::fixtures::{RUN, examples, hello, model, prepare, ready};
use super::super::job::Task;
use super::*;

const DIM: usize = 2;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn settings() -> Settings {
    Settings { lease_timeout: seconds(60), ..Settings::default() }
}

fn first_start() -> Start {
    Start {
        run: RUN,
        projection_stds: vec![1.0; 2],
        version: ContextVersion(0),
        context: vec![vec![0.0; DIM]; 2],
    }
}

fn update(version: u64) -> ContextUpdate {
    ContextUpdate {
        run: RUN,
        version: ContextVersion(version),
        layer: Layer(0),
        z: vec![version as f32; DIM],
    }
}

fn generation(candidates: usize) -> Task {
    generation_on(candidates, prepare().train.len() as u32)
}

fn generation_on(candidates: usize, examples: u32) -> Task {
    let candidates = (0..candidates).map(|c| vec![c as f32; DIM]).collect();
    Task::Evaluate { layer: Layer(0), candidates, examples: 0..examples, deadline: None }
}

/// What an honest evaluator answers: a loss that tells candidate, example and context apart.
fn outcomes(lease: &Lease) -> Vec<Outcome> {
    let version = lease.version.0 as f32 / 8.0;
    match &lease.work {
        Work::Evaluate { candidates, examples, .. } => candidates
            .iter()
            .map(|z| Outcome {
                losses: examples.clone().map(|e| z[0] * 100.0 + e as f32 + version).collect(),
                predicted: examples.clone().map(|e| e % 2).collect(),
                logits: Vec::new(),
            })
            .collect(),
        Work::Score { examples, .. } => {
            let n = examples.len();
            vec![Outcome { losses: vec![version; n], predicted: vec![1; n], logits: vec![0.5; 2 * n] }]
        }
    }
}

/// What an honest evaluator finds of the lease's canary.
fn canary(lease: &Lease) -> Option<CanaryOutcome> {
    let Work::Evaluate { canary: Some(canary), .. } = &lease.work else { return None };
    let loss = canary.z[0] * 100.0 + canary.example as f32 + lease.version.0 as f32 / 8.0;
    Some(CanaryOutcome { loss, predicted: canary.example % 2 })
}

/// A lease without its canary.
fn bare(lease: &Lease) -> Work {
    match &lease.work {
        Work::Evaluate { layer, candidates, examples, .. } => Work::Evaluate {
            layer: *layer,
            candidates: candidates.clone(),
            examples: examples.clone(),
            canary: None,
        },
        score => score.clone(),
    }
}

/// A table, its clock, and what its evaluators have been told.
struct World {
    table: Table,
    now: Instant,
    leases: Vec<(EvaluatorId, Lease)>,
    orders: Vec<(EvaluatorId, Order)>,
    closed: Vec<(EvaluatorId, Option<Refusal>)>,
    quarantined: Vec<String>,
    begun: Vec<Result<Begun, Refusal>>,
    ended: Vec<(JobId, Result<Collected, Refusal>)>,
}

impl World {
    fn new(settings: Settings) -> Self {
        Self {
            table: Table::new(settings),
            now: Instant::now(),
            leases: Vec::new(),
            orders: Vec::new(),
            closed: Vec::new(),
            quarantined: Vec::new(),
            begun: Vec::new(),
            ended: Vec::new(),
        }
    }

    /// A run begun, with so many evaluators ready and the context at version 0.
    fn with(evaluators: usize) -> (Self, Vec<EvaluatorId>) {
        Self::begun(prepare(), evaluators)
    }

    fn begun(prepare: Prepare, evaluators: usize) -> (Self, Vec<EvaluatorId>) {
        let mut world = Self::new(settings());
        world.table.begin(world.now, prepare, Expected::default());
        let ids = (0..evaluators).map(|_| world.join("m").unwrap()).collect();
        if evaluators > 0 {
            world.table.start(world.now, first_start()).unwrap();
        }
        world.settle();
        (world, ids)
    }

    fn join(&mut self, weights: &str) -> Result<EvaluatorId, Refusal> {
        self.join_as(hello(weights))
    }

    fn join_as(&mut self, hello: Hello) -> Result<EvaluatorId, Refusal> {
        let id = self.table.join(self.now, hello, false)?;
        self.report(id, Report::Ready(Box::new(ready(RUN))));
        Ok(id)
    }

    fn report(&mut self, id: EvaluatorId, report: Report) {
        self.table.report(self.now, id, report);
        self.settle();
    }

    fn offer(&mut self, version: u64, task: Task) -> JobId {
        let job = self.table.offer(self.now, RUN, ContextVersion(version), task).unwrap();
        self.settle();
        job
    }

    /// Lets time pass; `alive` evaluators say so.
    fn pass(&mut self, time: Duration, alive: &[EvaluatorId]) {
        let end = self.now + time;
        while self.now < end {
            self.now += seconds(1).min(end - self.now);
            for id in alive {
                self.table.report(self.now, *id, Report::Heartbeat { progress: 0 });
            }
            self.table.tick(self.now);
            self.settle();
        }
    }

    fn settle(&mut self) {
        for action in self.table.take_actions() {
            match action {
                Action::Send(id, Order::Lease(lease)) => {
                    self.leases.push((id, lease.clone()));
                    self.orders.push((id, Order::Lease(lease)));
                }
                Action::Send(id, order) => self.orders.push((id, order)),
                Action::Close(id, reason) => self.closed.push((id, reason)),
                Action::Quarantined(reason) => self.quarantined.push(reason),
                Action::Begun(_, begun) => self.begun.push(begun),
                Action::Ended(job, ended) => self.ended.push((job, ended)),
            }
        }
        for link in self.table.links.values() {
            assert!(link.in_flight.len() <= self.table.settings.credit, "credit exceeded");
        }
        let tally = &self.table.tally;
        let back = tally.answered + tally.failed + tally.lost;
        assert_eq!(tally.sent, back + self.table.leases.len() as u64, "a lease has been lost sight of");
    }

    /// The oldest unanswered lease of an evaluator, taken off the list.
    fn lease_of(&mut self, id: EvaluatorId) -> Option<Lease> {
        let index = self.leases.iter().position(|(evaluator, _)| *evaluator == id)?;
        Some(self.leases.remove(index).1)
    }

    fn answer(&mut self, id: EvaluatorId, lease: &Lease) {
        let answer = Answer { lease: lease.id, outcomes: outcomes(lease), canary: canary(lease) };
        self.report(id, Report::Answer(answer));
    }

    fn refuse(&mut self, id: EvaluatorId, lease: Option<LeaseId>, refusal: Refusal) {
        self.report(id, Report::Refused(Refused { run: RUN, lease, refusal }));
    }

    /// Everybody who still holds a lease answers.
    fn answer_all(&mut self) {
        while !self.leases.is_empty() {
            let (id, lease) = self.leases.remove(0);
            self.answer(id, &lease);
        }
    }

    fn kinds(&self, id: EvaluatorId) -> String {
        let kind = |order: &Order| match order {
            Order::Prepare(_) => 'P',
            Order::Start(_) => 'S',
            Order::SetContext(_) => 'c',
            Order::Lease(_) => 'L',
            Order::Forget(_) => 'F',
            Order::Drain => 'D',
        };
        self.orders.iter().filter(|(to, _)| *to == id).map(|(_, order)| kind(order)).collect()
    }
}

/// What a generation of `candidates` under `version` must give, whoever works.
fn expected(candidates: usize, version: u64) -> Vec<Outcome> {
    expected_of(generation(candidates), version)
}

fn expected_of(task: Task, version: u64) -> Vec<Outcome> {
    let Task::Evaluate { layer, candidates, examples, .. } = task else { unreachable!() };
    outcomes(&Lease {
        id: LeaseId(0),
        run: RUN,
        version: ContextVersion(version),
        work: Work::Evaluate { layer, candidates, examples, canary: None },
        trace: None,
    })
}

fn failed(text: &str) -> Refusal {
    Refusal::Failed(text.to_owned())
}

/// A small generator: the schedule must be the same on every machine.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % sides as u64) as usize
    }
}

#[test]
fn a_generation_comes_back_whole_and_in_order() {
    let (mut world, ids) = World::with(3);
    assert_eq!(world.begun, [Ok(Begun { ready: ready(RUN), model: model("m") })]);
    let job = world.offer(0, generation(6));
    let held: Vec<EvaluatorId> = world.leases.iter().map(|(id, _)| *id).collect();
    assert_eq!(held, ids);
    world.leases.reverse();
    world.answer_all();
    assert_eq!(world.ended, [(job, Ok(Collected { outcomes: expected(6, 0), evaluators: 3, missing: 0 }))]);
}

#[test]
fn work_of_a_lost_evaluator_goes_to_another() {
    let (mut world, ids) = World::with(2);
    world.offer(0, generation(4));
    world.table.lost(world.now, ids[0]);
    world.settle();
    world.leases.retain(|(id, _)| *id != ids[0]);
    assert_eq!(world.leases.len(), 2);
    world.answer_all();
    assert_eq!(world.ended[0].1, Ok(Collected { outcomes: expected(4, 0), evaluators: 1, missing: 0 }));
}

#[test]
fn silence_is_loss() {
    let (mut world, ids) = World::with(2);
    world.pass(seconds(16), &ids[1..]);
    assert_eq!(world.closed, [(ids[0], Some(failed("no report for 15 s")))]);
}

#[test]
fn a_late_answer_counts_when_it_is_the_first() {
    let (mut world, ids) = World::with(2);
    world.offer(0, generation(4));
    let slow = world.lease_of(ids[0]).unwrap();
    world.pass(seconds(61), &ids); // both leases time out: each goes to the other evaluator
    assert_eq!(world.leases.iter().filter(|(id, _)| *id == ids[1]).count(), 2);
    world.answer(ids[0], &slow);
    assert!(world.ended.is_empty());
    world.answer_all();
    assert_eq!(world.ended.len(), 1);
    assert_eq!(world.ended[0].1.as_ref().unwrap().outcomes, expected(4, 0));
    assert!(world.closed.is_empty(), "answers that came second are no offence: {:?}", world.closed);
}

#[test]
fn the_idle_duplicate_the_slowest_lease() {
    let (mut world, ids) = World::with(2);
    world.offer(0, generation(4));
    world.pass(seconds(1), &ids);
    let quick = world.lease_of(ids[0]).unwrap();
    world.answer(ids[0], &quick);
    world.pass(seconds(1), &ids);
    assert_eq!(world.lease_of(ids[0]), None, "not before twice the slowest answer");
    world.pass(seconds(2), &ids);
    let duplicate = world.lease_of(ids[0]).unwrap();
    let original = world.lease_of(ids[1]).unwrap();
    assert_eq!(bare(&duplicate), bare(&original));
    world.answer(ids[0], &duplicate);
    assert_eq!(world.ended[0].1, Ok(Collected { outcomes: expected(4, 0), evaluators: 1, missing: 0 }));
    world.answer(ids[1], &original);
    assert!(world.closed.is_empty() && world.ended.len() == 1);
    assert!(world.table.leases.is_empty());
}

#[test]
fn credit_bounds_what_one_evaluator_holds() {
    let (mut world, ids) = World::with(1);
    for _ in 0..5 {
        world.offer(0, generation(20)); // two leases each
    }
    assert_eq!(world.leases.len(), 2);
    let lease = world.lease_of(ids[0]).unwrap();
    world.answer(ids[0], &lease);
    assert_eq!(world.leases.len(), 2);
    world.answer_all();
    assert_eq!(world.ended.len(), 5);
}

#[test]
fn a_sole_evaluator_that_dies_takes_the_job_with_it() {
    let mut world = World::new(settings());
    let id = world.table.join(world.now, hello("m"), true).unwrap();
    world.table.begin(world.now, prepare(), Expected::default());
    world.report(id, Report::Ready(Box::new(ready(RUN))));
    world.table.start(world.now, first_start()).unwrap();
    world.offer(0, generation(2));
    world.pass(seconds(30), &[]); // silence of a worker in this process says nothing
    assert!(world.closed.is_empty());
    world.table.lost(world.now, id);
    world.settle();
    assert_eq!(world.ended[0].1, Err(failed("the only evaluator has gone")));
}

#[test]
fn scores_are_cut_over_evaluators_and_put_together() {
    let (mut world, _) = World::with(2);
    let examples = ExampleSet::Inline(examples(200));
    world.offer(0, Task::Score { prompt: Prompted::Manual, examples });
    world.answer_all();
    let collected = world.ended[0].1.as_ref().unwrap();
    assert_eq!(collected.outcomes[0].losses.len(), 200);
    assert_eq!(collected.outcomes[0].logits.len(), 400);
    world.offer(0, Task::Score { prompt: Prompted::Context, examples: ExampleSet::Dev(1..3) });
    let ranges: Vec<&Work> = world.leases.iter().map(|(_, lease)| &lease.work).collect();
    let dev = |range| Work::Score { prompt: Prompted::Context, examples: ExampleSet::Dev(range) };
    assert_eq!(ranges, [&dev(1..2), &dev(2..3)]);
}

#[test]
fn nothing_asked_is_answered_at_once() {
    let (mut world, _) = World::with(0);
    world.join("m").unwrap();
    world.offer(0, Task::Score { prompt: Prompted::Manual, examples: ExampleSet::Inline(Vec::new()) });
    assert!(world.ended[0].1.is_ok());
    let beyond = Task::Score { prompt: Prompted::Manual, examples: ExampleSet::Dev(0..99) };
    assert!(world.table.offer(world.now, RUN, ContextVersion(0), beyond).is_err());
}

mod ahead;
mod canaries;
mod deadline;
mod fairness;
mod liveness;
mod mishaps;
mod mixed;
mod orders;
mod pace;
mod refusals;
mod speeds;
mod tally;
