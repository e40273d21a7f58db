//! What one evaluator was asked for and has not answered: what its next report may hold, and how long leases take it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shared::ids::{LeaseId, RunId};
use shared::messages::{Hello, Lease, Order, Prepare, Report, Work};

use super::LeaseTimes;
use super::allowance::Allowance;

/// Bytes of a number of variable length at most, as predictions and ids travel.
const VARINT: usize = 5;

/// Bytes around an outcome's vectors.
const OUTCOME: usize = 32;

/// Heartbeats are passed on no more often than this.
const BEAT: Duration = Duration::from_millis(500);

/// What was asked for.
#[derive(Debug)]
pub(super) struct Asked {
    allowance: Allowance,
    times: LeaseTimes,
    layers: usize,
    hidden: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Classes of each run that the evaluator knows, and whether it is still to be ready for it.
    runs: BTreeMap<RunId, (usize, bool)>,
    leases: BTreeMap<LeaseId, Instant>,
    last_beat: Option<Instant>,
}

impl Asked {
    /// Nothing, of an evaluator that has said `hello`.
    pub(super) fn new(hello: &Hello, allowance: Allowance, times: LeaseTimes) -> Self {
        let (layers, hidden) = (hello.model.layers as usize, hello.model.hidden as usize);
        Self { allowance, times, layers, hidden, state: Mutex::default() }
    }

    /// An order goes out.
    pub(super) fn order(&self, now: Instant, order: &Order) {
        match order {
            Order::Prepare(prepare) => {
                self.allowance.raise(self.ready_bytes(prepare));
                self.state().runs.insert(prepare.run, (prepare.words.len(), true));
            }
            Order::Lease(lease) => {
                let mut state = self.state();
                let classes = state.runs.get(&lease.run).map_or(0, |(classes, _)| *classes);
                self.allowance.raise(answer_bytes(lease, classes));
                state.leases.insert(lease.id, now);
            }
            Order::Forget(run) => drop(self.state().runs.remove(run)),
            Order::Start(_) | Order::SetContext(_) | Order::Drain => {}
        }
    }

    /// A report has come; whether it is passed on.
    ///
    /// # Errors
    /// When it answers what was not asked: it would only wait in the fleet's queue to be refused there.
    pub(super) fn report(&self, now: Instant, report: &Report) -> Result<bool, String> {
        let mut state = self.state();
        match report {
            Report::Answer(answer) => match state.leases.remove(&answer.lease) {
                Some(since) => self.times.add(now.saturating_duration_since(since)),
                None => return Err(format!("it answered {}, which it does not hold", answer.lease)),
            },
            Report::Refused(refused) => {
                if let Some(lease) = refused.lease
                    && state.leases.remove(&lease).is_none()
                {
                    return Err(format!("it refused {lease}, which it does not hold"));
                }
            }
            Report::Ready(ready) => match state.runs.get_mut(&ready.run) {
                Some((_, awaited)) if *awaited => *awaited = false,
                Some(_) => return Err(format!("it is ready for {} twice", ready.run)),
                None => return Ok(false), // a run that has ended meanwhile
            },
            Report::Heartbeat { .. } => {
                if state.last_beat.is_some_and(|last| now.saturating_duration_since(last) < BEAT) {
                    return Ok(false);
                }
                state.last_beat = Some(now);
            }
            Report::Leaving => {}
        }
        Ok(true)
    }

    /// Bytes of the answer to `prepare`.
    fn ready_bytes(&self, prepare: &Prepare) -> usize {
        let tokens = prepare.tokens as usize;
        let initial = self.layers.saturating_mul(self.hidden).saturating_mul(4 * tokens);
        let ids = VARINT * (tokens + prepare.words.len());
        initial.saturating_add(self.layers.saturating_mul(12)).saturating_add(ids)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes of a lease's answer.
fn answer_bytes(lease: &Lease, classes: usize) -> usize {
    match &lease.work {
        Work::Evaluate { candidates, examples, .. } => {
            candidates.len() * (OUTCOME + examples.len() * (4 + VARINT))
        }
        Work::Score { examples, .. } => OUTCOME + examples.len() * (4 + VARINT + 4 * classes),
    }
}
