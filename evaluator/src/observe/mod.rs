//! The evaluator seen from outside: its metrics, whether it lives and is ready, the spans of its leases.
//!
//! An [`Observer`] is handed down to whatever is watched; one that nobody looks through costs a look at an option a lease.

mod metrics;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use proto::observe::{Args, Beat, Observatory, Program, Pulses, Span, Statuses, Traces, Unusable};
use shared::messages::{Hello, Lease, Work};
use shared::system::peak_memory;

pub use metrics::Metrics;

/// A lease, or a run to be prepared, that takes longer than this is stuck, unless the user says otherwise.
const STUCK_AFTER: Duration = Duration::from_secs(900);

/// What health calls the model's being loaded: a startup probe asks for it.
const STARTUP: &str = "startup";

/// What health calls being welcomed: the service that the coordinator serves (its generated name is for servers alone).
const SERVICE_NAME: &str = "zeroth.v1.Evaluators";

/// What is seen through; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Observer {
    metrics: Option<Metrics>,
    traces: Traces,
    pulses: Pulses,
    state: Arc<State>,
}

/// How far it is.
#[derive(Debug, Default)]
struct State {
    loaded: AtomicBool,
    welcomed: AtomicBool,
}

/// What a lease asks of the engine.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Asked {
    /// Candidates times examples; the examples of a score.
    pub examples: u64,
    /// Rows of the candidates on their examples; none of a score.
    pub tokens: u64,
    /// Operations of the candidates; none of a score.
    pub flop: f64,
}

impl Observer {
    /// For an evaluator inside of another program, which shows the metrics and the health of its own.
    pub fn traced(traces: &Traces) -> Self {
        Self { traces: traces.clone(), ..Self::default() }
    }

    /// Has a loop, or a piece of work, watched until what is returned is dropped.
    pub fn begin(&self) -> Beat {
        self.pulses.begin(Instant::now())
    }

    /// The model is loaded.
    pub fn loaded(&self, hello: &Hello, took: Duration) {
        self.state.loaded.store(true, Ordering::Relaxed);
        self.metrics.iter().for_each(|metrics| metrics.loaded(hello, took));
    }

    /// Another attempt to reach the coordinator begins.
    pub fn dials(&self) {
        self.metrics.iter().for_each(Metrics::dials);
    }

    /// The coordinator has welcomed us; it has until what is returned is dropped.
    pub fn welcomed(&self) -> Stay {
        self.state.welcomed.store(true, Ordering::Relaxed);
        self.metrics.iter().for_each(Metrics::welcomed);
        Stay(self.clone())
    }

    /// A run was prepared, with so many rows in flight at most.
    pub fn prepared(&self, max_batch_tokens: u32) {
        self.metrics.iter().for_each(|metrics| metrics.prepared(max_batch_tokens));
    }

    /// An order was obeyed, which took so long; so many runs are prepared now.
    pub fn obeyed(&self, took: Duration, runs: usize) {
        self.metrics.iter().for_each(|metrics| metrics.obeyed(took, runs));
    }

    /// A lease is being worked at.
    pub fn work(&self, lease: &Lease) -> Working {
        let span = self.traces.child("evaluate", lease.trace.as_deref());
        let span = span.with("zeroth.lease", lease.id.0 as i64).with("zeroth.run", lease.run.0 as i64);
        Working { observer: self.clone(), span, began: Instant::now(), work: work_name(&lease.work) }
    }
}

fn work_name(work: &Work) -> &'static str {
    match work {
        Work::Evaluate { .. } => "evaluate",
        Work::Score { .. } => "score",
    }
}

/// A stay with a coordinator.
#[derive(Debug)]
pub struct Stay(Observer);

impl Drop for Stay {
    fn drop(&mut self) {
        self.0.state.welcomed.store(false, Ordering::Relaxed);
        self.0.metrics.iter().for_each(Metrics::parted);
    }
}

/// A lease at work.
#[derive(Debug)]
pub struct Working {
    observer: Observer,
    span: Span,
    began: Instant,
    work: &'static str,
}

impl Working {
    /// It is done, or could not be.
    pub fn done(mut self, asked: Asked, ended: Result<(), String>) {
        let answered = ended.is_ok();
        if let Err(why) = ended {
            self.span.fail(why);
        }
        self.span.set("zeroth.examples", asked.examples as i64);
        self.span.set("zeroth.tokens", asked.tokens as i64);
        self.span.set("zeroth.flop", asked.flop);
        let took = self.began.elapsed();
        self.observer.metrics.iter().for_each(|metrics| metrics.worked(self.work, answered, asked, took));
    }
}

/// An observer, and what shows the world what it sees.
#[derive(Debug)]
pub struct Window {
    observatory: Observatory,
    observer: Observer,
}

impl Window {
    /// Opens what the command line asks for; from now on all of it is shown.
    ///
    /// # Errors
    /// An address that cannot be used.
    pub fn open(args: &Args) -> Result<Self, Unusable> {
        let mut observatory = Observatory::open(args, "zeroth-evaluator")?;
        let metrics = Metrics::new().map_err(Unusable::new)?;
        let observer = Observer {
            metrics: Some(metrics.clone()),
            traces: observatory.traces().clone(),
            pulses: Pulses::new(args.stuck_after(STUCK_AFTER)),
            state: Arc::default(),
        };
        let program = Program { name: "zeroth-evaluator", version: env!("CARGO_PKG_VERSION"), peak_memory };
        let page = metrics.page(program, observer.pulses.clone()).map_err(Unusable::new)?;
        let seen = observer.clone();
        let places = observatory.places();
        observatory.show(page, Statuses::new(move || seen.statuses()));
        Ok(Self { observatory, observer }.said(&places))
    }

    #[allow(clippy::print_stderr)] // a command line speaks
    fn said(self, places: &[String]) -> Self {
        places.iter().for_each(|place| eprintln!("{place}"));
        self
    }

    /// What is to be handed down.
    pub fn observer(&self) -> &Observer {
        &self.observer
    }

    /// Sends the last spans, for a limited time, and closes the ports.
    pub async fn close(self) {
        self.observatory.close().await;
    }
}

impl Observer {
    /// What health says of it.
    fn statuses(&self) -> Vec<proto::observe::Status> {
        let is = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        let live = self.pulses.live(Instant::now());
        let ready = live && is(&self.state.loaded) && is(&self.state.welcomed);
        vec![("", live), (STARTUP, is(&self.state.loaded)), (SERVICE_NAME, ready)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            protocol: 1,
            name: String::new(),
            version: String::new(),
            model: shared::messages::ModelIdentity::default(),
            device: "cpu".to_owned(),
            dtype: "f32".to_owned(),
            max_batch_tokens: 1,
        }
    }

    #[test]
    fn an_evaluator_is_ready_while_it_is_welcomed_and_alive() {
        let second = Duration::from_secs(1);
        let observer = Observer { pulses: Pulses::new(second), ..Observer::default() };
        let serves = || observer.statuses().into_iter().map(|(_, serves)| serves).collect::<Vec<_>>();
        assert_eq!(observer.statuses()[2].0, "zeroth.v1.Evaluators");
        assert_eq!(serves(), [true, false, false], "it loads its model");
        observer.loaded(&hello(), second);
        assert_eq!(serves(), [true, true, false], "it dials");
        let stay = observer.welcomed();
        assert_eq!(serves(), [true, true, true]);
        let work = observer.pulses.begin(Instant::now().checked_sub(second).unwrap());
        assert_eq!(serves(), [false, true, false], "a lease that never ends");
        drop(work);
        drop(stay);
        assert_eq!(serves(), [true, true, false], "its coordinator has gone");
    }
}
