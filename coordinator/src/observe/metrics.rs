//! The coordinator's metrics (docs/observability.md). Two are counted as things happen, a generation or a lease at a time;
//! all others are what the fleet and the runs publish anyway, read when somebody asks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use prometheus::{
    Error, GaugeVec, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
    exponential_buckets, histogram_opts, register_gauge_vec_with_registry, register_histogram_with_registry,
    register_int_counter_vec_with_registry, register_int_counter_with_registry,
    register_int_gauge_vec_with_registry, register_int_gauge_with_registry,
};
use proto::observe::{Common, Page, Program, Pulses};
use shared::ids::RunId;

use crate::fleet::FleetStatus;
use crate::keeper::Saved;
use crate::progress::{Progress, State};
use crate::serve::clients::Service;
use crate::serve::evaluator_state_name;

/// Metrics that are counted; clones are the same.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    generation_seconds: Histogram,
    lease_seconds: Histogram,
    best_loss: GaugeVec,
    runs: Arc<Mutex<BTreeMap<RunId, Begun>>>,
}

/// A run that has begun and has not ended.
#[derive(Debug)]
struct Begun {
    saved: Saved,
    /// Layers that have a best loss.
    layers: u32,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// When two have one name.
    pub(super) fn new() -> Result<Self, Error> {
        let registry = Registry::new();
        let buckets = || exponential_buckets(0.01, 2.0, 18); // 10 ms to 22 min
        let options =
            histogram_opts!("zeroth_generation_seconds", "What generations took, of all runs.", buckets()?);
        let generation_seconds = register_histogram_with_registry!(options, registry)?;
        let help = "From an order into its stream to the answer out of it.";
        let options = histogram_opts!("zeroth_lease_seconds", help, buckets()?);
        let lease_seconds = register_histogram_with_registry!(options, registry)?;
        let help = "The smallest loss so far at a layer.";
        let labels = &["run", "layer"];
        let best_loss = register_gauge_vec_with_registry!("zeroth_run_best_loss", help, labels, registry)?;
        Ok(Self { registry, generation_seconds, lease_seconds, best_loss, runs: Arc::default() })
    }

    /// For what leases take.
    pub(super) fn lease_seconds(&self) -> Histogram {
        self.lease_seconds.clone()
    }

    fn runs(&self) -> MutexGuard<'_, BTreeMap<RunId, Begun>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner) // nothing panics while it holds it
    }

    pub(super) fn run_begins(&self, id: RunId, saved: Saved) {
        self.runs().insert(id, Begun { saved, layers: 0 });
    }

    pub(super) fn run_ends(&self, id: RunId) {
        let layers = self.runs().remove(&id).map_or(0, |begun| begun.layers);
        for layer in 0..layers {
            // a layer without a loss has no series
            let _ = self.best_loss.remove_label_values(&[&id.0.to_string(), &layer.to_string()]);
        }
    }

    pub(super) fn generation(&self, id: RunId, layer: u32, best: f64, seconds: f64) {
        self.generation_seconds.observe(seconds);
        if let Some(begun) = self.runs().get_mut(&id) {
            begun.layers = begun.layers.max(layer + 1);
            self.best_loss.with_label_values(&[id.0.to_string(), layer.to_string()]).set(best);
        }
    }

    /// All of them on a page, with what `service` tells of its runs and its fleet.
    pub(super) fn page(&self, program: Program, pulses: Pulses, service: Service) -> Result<Page, Error> {
        let common = Common::new(&self.registry, program, pulses)?;
        let (runs, fleet) = (Runs::new(&self.registry)?, FleetMetrics::new(&self.registry)?);
        let metrics = self.clone();
        Ok(Page::new(self.registry.clone(), move |now| {
            common.refresh(now);
            runs.refresh(now, &service, &metrics.runs());
            fleet.refresh(now, &service.fleet().borrow());
        }))
    }
}

/// What the runs' progress tells.
struct Runs {
    states: IntGaugeVec,
    calls: IntCounterVec,
    budget: IntGaugeVec,
    generations: IntCounterVec,
    seconds_left: GaugeVec,
    dev: GaugeVec,
    checkpoint: GaugeVec,
}

/// Every state, as it is shown.
const STATES: [&str; 6] = ["queued", "waiting", "running", "done", "failed", "cancelled"];

fn state_name(state: State) -> &'static str {
    match state {
        State::Queued => "queued",
        State::Waiting => "waiting",
        State::Before | State::Searching | State::After => "running",
        State::Done => "done",
        State::Failed => "failed",
        State::Cancelled => "cancelled",
    }
}

impl Runs {
    fn new(registry: &Registry) -> Result<Self, Error> {
        let run = &["run"];
        let gauge = |name, help| register_gauge_vec_with_registry!(name, help, run, registry);
        let counter = |name, help| register_int_counter_vec_with_registry!(name, help, run, registry);
        let int_gauge =
            |name, help, labels: &[&str]| register_int_gauge_vec_with_registry!(name, help, labels, registry);
        Ok(Self {
            states: int_gauge("zeroth_runs", "Runs by state.", &["state"])?,
            calls: counter("zeroth_run_calls_total", "Calls spent, those before a resume included.")?,
            budget: int_gauge("zeroth_run_budget_calls", "Calls that will be spent.", run)?,
            generations: counter("zeroth_run_generations_total", "Generations done.")?,
            seconds_left: gauge(
                "zeroth_run_seconds_left",
                "What the calls to come take at the pace so far.",
            )?,
            dev: gauge("zeroth_run_dev_metric", "Dev metric of the deep prompt kept so far.")?,
            checkpoint: gauge("zeroth_run_checkpoint_age_seconds", "Since a checkpoint was last on disk.")?,
        })
    }

    fn refresh(&self, now: Instant, service: &Service, begun: &BTreeMap<RunId, Begun>) {
        STATES.iter().for_each(|state| self.states.with_label_values(&[state]).set(0));
        for per_run in [&self.calls, &self.generations] {
            per_run.reset(); // counted anew from what the runs say: those that have ended are shown no longer
        }
        self.budget.reset();
        [&self.seconds_left, &self.dev, &self.checkpoint].into_iter().for_each(GaugeVec::reset);
        for view in service.views() {
            let progress = view.progress.borrow();
            self.states.with_label_values(&[state_name(progress.state)]).inc();
            if let Some(begun) = begun.get(&RunId(view.id)) {
                self.run(&view.id.to_string(), &progress, begun.saved.age(now).as_secs_f64());
            }
        }
    }

    fn run(&self, id: &str, progress: &Progress, age: f64) {
        let id = &[id];
        self.calls.with_label_values(id).inc_by(progress.calls);
        self.generations.with_label_values(id).inc_by(progress.generation);
        self.budget.with_label_values(id).set(progress.budget as i64);
        self.checkpoint.with_label_values(id).set(age);
        if let Some(left) = progress.seconds_left() {
            self.seconds_left.with_label_values(id).set(left);
        }
        if let Some(dev) = progress.best_dev {
            self.dev.with_label_values(id).set(dev);
        }
    }
}

/// What the fleet tells.
struct FleetMetrics {
    evaluators: IntGaugeVec,
    leases: IntGaugeVec,
    queue_candidates: IntGauge,
    queue_examples: IntGauge,
    joins: IntCounter,
    losses: IntCounter,
    refusals: IntCounter,
    quarantines: IntCounter,
    sent: IntCounter,
    repeated: IntCounter,
    ended: IntCounterVec,
}

impl FleetMetrics {
    fn new(registry: &Registry) -> Result<Self, Error> {
        let by_state = |name, help| register_int_gauge_vec_with_registry!(name, help, &["state"], registry);
        let gauge = |name, help| register_int_gauge_with_registry!(name, help, registry);
        let counter = |name, help| register_int_counter_with_registry!(name, help, registry);
        let help = "Leases that came back, by how.";
        let ended = register_int_counter_vec_with_registry!(
            "zeroth_leases_ended_total",
            help,
            &["outcome"],
            registry
        )?;
        Ok(Self {
            evaluators: by_state("zeroth_fleet_evaluators", "Evaluators that take part.")?,
            leases: by_state("zeroth_leases", "Leases that are out.")?,
            queue_candidates: gauge(
                "zeroth_queue_candidates",
                "Candidates on offer, not answered completely.",
            )?,
            queue_examples: gauge("zeroth_queue_examples", "Candidate-examples that wait for an evaluator.")?,
            joins: counter("zeroth_fleet_joins_total", "Evaluators let in.")?,
            losses: counter("zeroth_fleet_losses_total", "Evaluators lost, or dropped for what they did.")?,
            refusals: counter("zeroth_fleet_refusals_total", "Evaluators refused for what they are.")?,
            quarantines: counter("zeroth_fleet_quarantines_total", "Evaluators that are not believed.")?,
            sent: counter("zeroth_leases_sent_total", "Leases handed out.")?,
            repeated: counter("zeroth_leases_repeated_total", "Leases that repeat another.")?,
            ended,
        })
    }

    fn refresh(&self, now: Instant, fleet: &FleetStatus) {
        for state in ["preparing", "working", "idle", "late"] {
            let here = fleet.evaluators.iter().filter(|one| evaluator_state_name(one, now) == state).count();
            self.evaluators.with_label_values(&[state]).set(here as i64);
        }
        let load = &fleet.load;
        for (state, count) in [("working", load.working), ("ahead", load.ahead), ("late", load.late)] {
            self.leases.with_label_values(&[state]).set(count as i64);
        }
        self.queue_candidates.set(load.candidates as i64);
        self.queue_examples.set(load.examples as i64);
        let tally = &fleet.tally;
        for (counter, count) in [
            (&self.joins, tally.joins),
            (&self.losses, tally.losses),
            (&self.refusals, tally.refusals),
            (&self.quarantines, tally.quarantines),
            (&self.sent, tally.sent),
            (&self.repeated, tally.repeated),
            (&self.ended.with_label_values(&["answered"]), tally.answered),
            (&self.ended.with_label_values(&["failed"]), tally.failed),
            (&self.ended.with_label_values(&["lost"]), tally.lost),
        ] {
            counter.inc_by(count.saturating_sub(counter.get()));
        }
    }
}
