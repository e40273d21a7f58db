//! The worker: orders in, reports out, over the two ends of a link; the same in one process and over the wire.
//!
//! One thread of its own does the arithmetic (the engine spreads it over the compute pool), so that the async side
//! stays free to say that it is alive.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use shared::ids::RunId;
use shared::messages::{Lease, Order, Refusal, Refused, Report};
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::sync::oneshot;

use crate::model::Model;
use crate::resources::Resources;
use crate::session::Session;

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
        let compute = Compute { worker: self, sessions: BTreeMap::new(), progress: Arc::clone(&progress) };
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
    progress: Arc<AtomicU64>,
}

impl Compute {
    fn run(mut self, mut orders: Receiver<Order>, reports: &Sender<Report>) {
        while let Some(order) = orders.blocking_recv() {
            let leaving = order == Order::Drain;
            let report = self.obey(order);
            let gone = report.is_some_and(|report| reports.blocking_send(report).is_err());
            if gone || leaving {
                return;
            }
        }
    }

    fn obey(&mut self, order: Order) -> Option<Report> {
        match order {
            Order::Prepare(prepare) => {
                let run = prepare.run;
                let worker = &self.worker;
                let prepared = guarded(|| Session::prepare(&worker.model, &worker.resources, *prepare));
                match prepared {
                    Ok((session, ready)) => {
                        self.sessions.insert(run, session);
                        Some(Report::Ready(Box::new(ready)))
                    }
                    Err(refusal) => refused(run, None, refusal),
                }
            }
            Order::Start(start) => self.change(start.run, |session| session.start(&start)),
            Order::SetContext(update) => self.change(update.run, |session| session.set_context(&update)),
            Order::Lease(lease) => Some(self.work(&lease)),
            Order::Forget(run) => {
                self.sessions.remove(&run);
                None
            }
            Order::Drain => Some(Report::Leaving),
        }
    }

    fn change(&mut self, run: RunId, f: impl FnOnce(&mut Session) -> Result<(), Refusal>) -> Option<Report> {
        let changed = match self.sessions.get_mut(&run) {
            Some(session) => guarded(|| f(session)),
            None => Err(unknown(run)),
        };
        changed.err().and_then(|refusal| refused(run, None, refusal))
    }

    fn work(&mut self, lease: &Lease) -> Report {
        let answer = match self.sessions.get_mut(&lease.run) {
            Some(session) => guarded(|| session.work(lease)),
            None => Err(unknown(lease.run)),
        };
        match answer {
            Ok(answer) => {
                let scored: usize = answer.outcomes.iter().map(|outcome| outcome.losses.len()).sum();
                self.progress.fetch_add(scored as u64, Ordering::Relaxed);
                Report::Answer(answer)
            }
            Err(refusal) => Report::Refused(Refused { run: lease.run, lease: Some(lease.id), refusal }),
        }
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

fn refused(run: RunId, lease: Option<shared::ids::LeaseId>, refusal: Refusal) -> Option<Report> {
    Some(Report::Refused(Refused { run, lease, refusal }))
}

fn unknown(run: RunId) -> Refusal {
    Refusal::Failed(format!("{run} was not prepared here"))
}
