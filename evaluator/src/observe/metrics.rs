//! The evaluator's metrics (docs/observability.md), counted a lease or a stay at a time.

use std::time::Duration;

use prometheus::{
    Counter, Error, Gauge, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Registry, exponential_buckets, histogram_opts, register_counter_with_registry,
    register_gauge_with_registry, register_histogram_vec_with_registry, register_histogram_with_registry,
    register_int_counter_vec_with_registry, register_int_counter_with_registry,
    register_int_gauge_vec_with_registry, register_int_gauge_with_registry,
};
use proto::observe::{Common, Page, Program, Pulses};
use shared::messages::Hello;

use super::Asked;

/// All of them; clones are the same.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    info: IntGaugeVec,
    load_seconds: Gauge,
    ready: IntGauge,
    dials: IntCounter,
    welcomes: IntCounter,
    runs: IntGauge,
    leases: IntCounterVec,
    lease_seconds: HistogramVec,
    busy: Counter,
    examples: IntCounterVec,
    batch_tokens: Histogram,
    max_batch_tokens: IntGauge,
    flop: Counter,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// When two have one name.
    pub(super) fn new() -> Result<Self, Error> {
        let registry = Registry::new();
        let gauge = |name, help| register_int_gauge_with_registry!(name, help, registry);
        let counter = |name, help| register_int_counter_with_registry!(name, help, registry);
        let counters = |name, help, labels: &[&str]| {
            register_int_counter_vec_with_registry!(name, help, labels, registry)
        };
        let total = |name, help| register_counter_with_registry!(name, help, registry);
        let help = "Always 1, once the model is loaded.";
        let labels = &["model", "device", "dtype"];
        let info = register_int_gauge_vec_with_registry!("zeroth_evaluator_info", help, labels, registry)?;
        let help = "What loading the model took.";
        let load_seconds =
            register_gauge_with_registry!("zeroth_evaluator_model_load_seconds", help, registry)?;
        let help = "Seconds of arithmetic a lease.";
        let buckets = exponential_buckets(0.001, 2.0, 20)?; // 1 ms to 9 min
        let options = histogram_opts!("zeroth_evaluator_lease_seconds", help, buckets);
        let lease_seconds = register_histogram_vec_with_registry!(options, &["work"], registry)?;
        let help = "Rows (real tokens) of a lease's candidates on their examples.";
        let options =
            histogram_opts!("zeroth_evaluator_batch_tokens", help, exponential_buckets(16.0, 4.0, 10)?);
        let batch_tokens = register_histogram_with_registry!(options, registry)?;
        Ok(Self {
            info,
            load_seconds,
            ready: gauge("zeroth_evaluator_ready", "1 while a coordinator has welcomed it.")?,
            dials: counter("zeroth_evaluator_dials_total", "Attempts to reach the coordinator.")?,
            welcomes: counter("zeroth_evaluator_welcomes_total", "Attempts that were welcomed.")?,
            runs: gauge("zeroth_evaluator_runs", "Runs prepared and not forgotten.")?,
            leases: counters("zeroth_evaluator_leases_total", "Leases done.", &["work", "outcome"])?,
            lease_seconds,
            busy: total("zeroth_evaluator_busy_seconds_total", "Seconds of obeying orders.")?,
            examples: counters(
                "zeroth_evaluator_examples_total",
                "Candidate-examples evaluated.",
                &["work"],
            )?,
            batch_tokens,
            max_batch_tokens: gauge("zeroth_evaluator_max_batch_tokens", "Rows in flight at most.")?,
            flop: total(
                "zeroth_evaluator_flop_total",
                "Floating-point operations of candidates' matrix products.",
            )?,
            registry,
        })
    }

    /// All of them on a page.
    pub(super) fn page(&self, program: Program, pulses: Pulses) -> Result<Page, Error> {
        let common = Common::new(&self.registry, program, pulses)?;
        Ok(Page::new(self.registry.clone(), move |now| common.refresh(now)))
    }

    pub(super) fn loaded(&self, hello: &Hello, took: Duration) {
        self.info.with_label_values(&[&hello.model.name, &hello.device, &hello.dtype]).set(1);
        self.load_seconds.set(took.as_secs_f64());
        self.max_batch_tokens.set(i64::from(hello.max_batch_tokens));
    }

    pub(super) fn dials(&self) {
        self.dials.inc();
    }

    pub(super) fn welcomed(&self) {
        self.welcomes.inc();
        self.ready.set(1);
    }

    pub(super) fn parted(&self) {
        self.ready.set(0);
        self.runs.set(0); // the next stay begins with none
    }

    pub(super) fn prepared(&self, max_batch_tokens: u32) {
        self.max_batch_tokens.set(i64::from(max_batch_tokens));
    }

    pub(super) fn obeyed(&self, took: Duration, runs: usize) {
        self.busy.inc_by(took.as_secs_f64());
        self.runs.set(runs as i64);
    }

    pub(super) fn worked(&self, work: &str, answered: bool, asked: Asked, took: Duration) {
        let outcome = if answered { "answered" } else { "refused" };
        self.leases.with_label_values(&[work, outcome]).inc();
        self.lease_seconds.with_label_values(&[work]).observe(took.as_secs_f64());
        if answered {
            self.examples.with_label_values(&[work]).inc_by(asked.examples);
            self.flop.inc_by(asked.flop);
            if asked.tokens > 0 {
                self.batch_tokens.observe(asked.tokens as f64);
            }
        }
    }
}
