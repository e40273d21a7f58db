//! The worker: orders in, reports out, over the two ends of a link; the same in one process and over the wire.
//!
//! One thread of its own does the arithmetic (the engine spreads it over the compute pool), so that the async side
//! stays free to say that it is alive.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use shared::ids::{LeaseId, RunId};
use shared::messages::{Lease, Order, Refusal, Refused, Report, Work};
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::sync::oneshot;
use tracing::error_span;

use crate::model::Model;
use crate::observe::{Asked, Observer};
use crate::resources::Resources;
use crate::session::Session;

/// Leases kept at most that wait for their context; a coordinator sends one.
const AHEAD: usize = 8;

/// How often a worker says that it is alive, where nothing else is asked for.
pub const HEARTBEAT: Duration = Duration::from_secs(2);

/// What a worker works with.
#[derive(Clone)]
pub struct Worker {
    /// The model replica.
    pub model: Arc<Model>,
    /// Threads and memory.
    pub resources: Resources,
    /// How often it says that it is alive.
    pub heartbeat: Duration,
    /// What it is seen through.
    pub observer: Observer,
}

impl Worker {
    /// Answers orders until [`Order::Drain`], or until the other side has gone.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub async fn run(self, orders: Receiver<Order>, reports: Sender<Report>) -> std::io::Result<()> {
        let progress = Arc::new(AtomicU64::new(0));
        let (done, mut ended) = oneshot::channel();
        let mut beat = tokio::time::interval(self.heartbeat);
        let compute = Compute {
            worker: self,
            sessions: BTreeMap::new(),
            ahead: Vec::new(),
            progress: Arc::clone(&progress),
        };
        let answers = reports.clone();
        thread::Builder::new().name("zeroth-compute".to_owned()).spawn(move || {
            compute.run(orders, &answers);
            let _ = done.send(()); // nobody waits any more: fine
        })?;
        loop {
            tokio::select! {
                _ = &mut ended => return Ok(()),
                _ = beat.tick() => {
                    // A full queue means that reports are waiting to be read: they say the same.
                    let _ = reports.try_send(Report::Heartbeat { progress: progress.load(Ordering::Relaxed) });
                }
            }
        }
    }
}

/// The state of the compute thread.
struct Compute {
    worker: Worker,
    sessions: BTreeMap<RunId, Session>,
    /// Leases that came before their context, in order.
    ahead: Vec<Lease>,
    progress: Arc<AtomicU64>,
}

impl Compute {
    fn run(mut self, mut orders: Receiver<Order>, reports: &Sender<Report>) {
        while let Some(order) = orders.blocking_recv() {
            let leaving = order == Order::Drain;
            let (observer, began) = (self.worker.observer.clone(), Instant::now());
            let beat = observer.begin();
            let answers = span_of(&order).in_scope(|| self.obey(order));
            drop(beat);
            observer.obeyed(began.elapsed(), self.sessions.len());
            let gone = answers.into_iter().any(|report| reports.blocking_send(report).is_err());
            if gone || leaving {
                return;
            }
        }
    }

    fn obey(&mut self, order: Order) -> Vec<Report> {
        match order {
            Order::Prepare(prepare) => {
                let run = prepare.run;
                let worker = &self.worker;
                self.sessions.remove(&run); // what is prepared anew makes room for itself
                let prepared = guarded(|| Session::prepare(&worker.model, &worker.resources, *prepare));
                match prepared {
                    Ok((session, ready)) => {
                        self.worker.observer.prepared(session.max_batch_tokens());
                        self.sessions.insert(run, session);
                        vec![Report::Ready(Box::new(ready))]
                    }
                    Err(refusal) => vec![refused(run, None, refusal)],
                }
            }
            Order::Start(start) => self.change(start.run, |session| session.start(&start)),
            Order::SetContext(update) => self.change(update.run, |session| session.set_context(&update)),
            Order::Lease(lease) => self.take(lease),
            Order::Forget(run) => {
                self.sessions.remove(&run);
                let kept = self.ahead.extract_if(.., |lease| lease.run == run);
                kept.map(|lease| refused(run, Some(lease.id), unknown(run))).collect()
            }
            Order::Drain => vec![Report::Leaving], // what is kept is given back by that
        }
    }

    /// Changes a run's context, and does what has waited for that.
    fn change(&mut self, run: RunId, f: impl FnOnce(&mut Session) -> Result<(), Refusal>) -> Vec<Report> {
        let session = self.sessions.get_mut(&run).ok_or_else(|| unknown(run));
        let changed = session.and_then(|session| guarded(|| f(session).map(|()| session.version())));
        match changed {
            Ok(version) => {
                let due = self.ahead.extract_if(.., |lease| lease.run == run && lease.version <= version);
                due.collect::<Vec<_>>().iter().map(|lease| self.work(lease)).collect()
            }
            Err(refusal) => vec![refused(run, None, refusal)],
        }
    }

    /// Does a lease, or keeps it until its context is there.
    fn take(&mut self, lease: Lease) -> Vec<Report> {
        let early = self.sessions.get(&lease.run).is_some_and(|session| session.version() < lease.version);
        if !early {
            return vec![self.work(&lease)];
        }
        if self.ahead.len() >= AHEAD {
            let refusal = Refusal::Failed(format!("{AHEAD} leases wait for their context already"));
            return vec![refused(lease.run, Some(lease.id), refusal)];
        }
        self.ahead.push(lease);
        Vec::new()
    }

    fn work(&mut self, lease: &Lease) -> Report {
        let working = self.worker.observer.work(lease);
        let (asked, answer) = match self.sessions.get_mut(&lease.run) {
            Some(session) => (session.asked(&lease.work), guarded(|| session.work(lease))),
            None => (Asked::default(), Err(unknown(lease.run))),
        };
        working.done(asked, answer.as_ref().map(drop).map_err(Refusal::to_string));
        match answer {
            Ok(answer) => {
                let scored: usize = answer.outcomes.iter().map(|outcome| outcome.losses.len()).sum();
                self.progress.fetch_add(scored as u64, Ordering::Relaxed);
                Report::Answer(answer)
            }
            Err(refusal) => refused(lease.run, Some(lease.id), refusal),
        }
    }
}

/// What is logged of an order says of which run it is; at this level it does whatever is logged.
fn span_of(order: &Order) -> tracing::Span {
    match order {
        Order::Prepare(prepare) => error_span!("prepare", run = prepare.run.0),
        Order::Start(start) => error_span!("start", run = start.run.0),
        Order::SetContext(update) => error_span!("context", run = update.run.0, layer = update.layer.0),
        Order::Lease(lease) => span_of_lease(lease),
        Order::Forget(run) => error_span!("forget", run = run.0),
        Order::Drain => tracing::Span::none(),
    }
}

fn span_of_lease(lease: &Lease) -> tracing::Span {
    let (run, version) = (lease.run.0, lease.version.0);
    match lease.work {
        Work::Evaluate { layer, .. } => error_span!("evaluate", run, layer = layer.0, version),
        Work::Score { .. } => error_span!("score", run, version),
    }
}

/// A panic in the arithmetic is a defect of ours; it costs its lease, not the evaluator.
fn guarded<T>(f: impl FnOnce() -> Result<T, Refusal>) -> Result<T, Refusal> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Err(Refusal::Failed(format!("the engine panicked: {text}")))
    })
}

fn refused(run: RunId, lease: Option<LeaseId>, refusal: Refusal) -> Report {
    Report::Refused(Refused { run, lease, refusal })
}

fn unknown(run: RunId) -> Refusal {
    Refusal::Failed(format!("{run} was not prepared here"))
}
