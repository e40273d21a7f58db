//! Spans: one tree a generation, from its population's being drawn to its being written down, through both processes.
//!
//! The run begins the root and says so under (run, context version); the fleet's owner finds it there when it hands out a
//! lease of that generation, and sends the lease's own context to the evaluator.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::observe::{Span, Traces};
use shared::ids::{EvaluatorId, LeaseId, RunId};
use shared::messages::{Order, Report, Work};

/// What tells generations apart: their run, and the context that they are evaluated under.
type Key = (RunId, u64);

/// Generations on their way, with their roots' trace contexts; empty while no traces are sent.
#[derive(Clone, Debug, Default)]
pub(super) struct Generations(Arc<Mutex<BTreeMap<Key, String>>>);

impl Generations {
    fn known(&self) -> MutexGuard<'_, BTreeMap<Key, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner) // nothing panics while it holds it
    }
}

/// A generation's root, until it is dropped.
#[derive(Debug)]
pub struct GenerationSpan {
    root: Span,
    context: Option<String>,
    key: Key,
    traces: Traces,
    generations: Generations,
}

impl GenerationSpan {
    pub(super) fn new(root: Span, key: Key, traces: &Traces, generations: &Generations) -> Self {
        let context = root.traceparent();
        if let Some(context) = &context {
            generations.known().insert(key, context.clone());
        }
        Self { root, context, key, traces: traces.clone(), generations: generations.clone() }
    }

    /// A part of it.
    pub fn part(&self, name: &'static str) -> Span {
        self.traces.child(name, self.context.as_deref())
    }

    /// It is done: its layer's best loss so far, and who answered.
    pub fn done(&mut self, best: f64, evaluators: usize) {
        self.root.set("zeroth.best_loss", best);
        self.root.set("zeroth.evaluators", evaluators as i64);
    }
}

impl Drop for GenerationSpan {
    fn drop(&mut self) {
        if self.context.is_some() {
            self.generations.known().remove(&self.key);
        }
    }
}

/// The fleet's leases of generations, a span each from the order to the answer.
#[derive(Debug)]
pub struct LeaseSpans {
    traces: Traces,
    generations: Generations,
    out: BTreeMap<(EvaluatorId, LeaseId), Span>,
}

impl LeaseSpans {
    pub(super) fn new(traces: Traces, generations: Generations) -> Self {
        Self { traces, generations, out: BTreeMap::new() }
    }

    /// An order goes out; a lease of a generation gets the context of its span.
    pub fn sent(&mut self, to: EvaluatorId, name: &str, order: &mut Order) {
        let Order::Lease(lease) = order else { return };
        if !self.traces.on() {
            return;
        }
        let Work::Evaluate { layer, candidates, examples, .. } = &lease.work else { return };
        let Some(root) = self.generations.known().get(&(lease.run, lease.version.0)).cloned() else { return };
        let span = self.traces.child("lease", Some(&root));
        let span = span.with("zeroth.lease", lease.id.0 as i64).with("zeroth.evaluator", name.to_owned());
        let span = span.with("zeroth.run", lease.run.0 as i64).with("zeroth.layer", i64::from(layer.0));
        let span = span.with("zeroth.candidates", candidates.len() as i64);
        let span = span.with("zeroth.examples", examples.len() as i64);
        lease.trace = span.traceparent();
        self.out.insert((to, lease.id), span);
    }

    /// A report comes in.
    pub fn reported(&mut self, from: EvaluatorId, report: &Report) {
        match report {
            Report::Answer(answer) => drop(self.out.remove(&(from, answer.lease))),
            Report::Refused(refused) => {
                let span = refused.lease.and_then(|lease| self.out.remove(&(from, lease)));
                span.into_iter().for_each(|mut span| span.fail(refused.refusal.to_string()));
            }
            _ => {}
        }
    }

    /// An evaluator has gone, with its leases.
    pub fn gone(&mut self, id: EvaluatorId) {
        let theirs = (id, LeaseId(0))..=(id, LeaseId(u64::MAX));
        let lost: Vec<_> = self.out.range(theirs).map(|(key, _)| *key).collect();
        for key in lost {
            self.out.remove(&key).into_iter().for_each(|mut span| span.fail("the evaluator has gone"));
        }
    }
}
