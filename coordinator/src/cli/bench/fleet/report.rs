//! What was measured, for people and as one JSON object.

use std::time::Duration;

use clap::ValueEnum;
use serde_json::{Value, json};

use super::drive::Measured;
use super::plan::Plan;

fn calls_per_second(plan: &Plan, measured: &Measured) -> f64 {
    (measured.generations * plan.population as u64) as f64 / measured.seconds
}

fn efficiency(plan: &Plan, measured: &Measured) -> f64 {
    plan.ideal_seconds() * measured.generations as f64 / measured.seconds
}

fn milliseconds(time: Option<Duration>) -> Option<f64> {
    time.map(|time| time.as_secs_f64() * 1e3)
}

fn name(value: &impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// One object.
pub(super) fn json(plan: &Plan, measured: &Measured) -> Value {
    let [p50, p99] = measured.lease.map(milliseconds);
    json!({
        "evaluators": plan.evaluators,
        "latency_ms": plan.latency.as_secs_f64() * 1e3,
        "cost": name(&plan.cost),
        "profile": name(&plan.profile),
        "slow": plan.slow,
        "slow_factor": plan.slow_factor,
        "population": plan.population,
        "dim": plan.dim,
        "examples": plan.examples,
        "layers": plan.layers,
        "seed": plan.seed,
        "generations": measured.generations,
        "seconds": measured.seconds,
        "leases": measured.leases,
        "calls_per_second": calls_per_second(plan, measured),
        "efficiency": efficiency(plan, measured),
        "lease_ms_p50": p50,
        "lease_ms_p99": p99,
        "coordinator_rss_mb": measured.rss_bytes.map(|bytes| bytes as f64 / 1e6),
        "coordinator_cpu_seconds": measured.cpu_seconds,
    })
}

/// A few lines.
pub(super) fn table(plan: &Plan, measured: &Measured) -> String {
    let shown = |value: Option<f64>, unit: &str| {
        value.map_or_else(|| "unknown here".to_owned(), |value| format!("{value:.1} {unit}"))
    };
    let [p50, p99] = measured.lease.map(|time| shown(milliseconds(time), "ms"));
    let cores = measured.cpu_seconds.map(|used| used / measured.seconds);
    format!(
        "evaluators   {} of {} ms a {}, {}\n\
         generations  {} of {} candidates in {:.2} s\n\
         calls        {:.0} a second, {:.1} % of the ideal\n\
         leases       {:.1} a generation, {p50} the middle one, {p99} the slowest of a hundred\n\
         coordinator  {}, {} in use",
        plan.evaluators,
        plan.latency.as_secs_f64() * 1e3,
        name(&plan.cost),
        name(&plan.profile),
        measured.generations,
        plan.population,
        measured.seconds,
        calls_per_second(plan, measured),
        100.0 * efficiency(plan, measured),
        measured.leases as f64 / measured.generations as f64,
        shown(measured.rss_bytes.map(|bytes| bytes as f64 / 1e6), "MB"),
        shown(cores, "cores"),
    )
}
