//! The coordinator seen from outside: its metrics, the pulses of its loops, the spans of its generations and leases.
//!
//! An [`Observer`] is handed down to whatever is watched; one that nobody looks through costs a look at an option.

mod metrics;
mod spans;

use std::time::{Duration, Instant};

pub use metrics::Metrics;
use prometheus::Histogram;
use proto::observe::{Args, Observatory, Program, Pulses, Traces};
pub use proto::observe::{Beat, Span};
use shared::ids::RunId;
use shared::system::peak_memory;
use spans::Generations;
pub use spans::{GenerationSpan, LeaseSpans};
use tokio::sync::watch;

use crate::error::Error;
use crate::keeper::Saved;
use crate::serve::clients::Service;
use crate::serve::{self, LeaseTimes, ServeOptions};

/// A loop that says nothing for so long is stuck, unless the user says otherwise.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// What is seen through; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Observer {
    metrics: Option<Metrics>,
    traces: Traces,
    generations: Generations,
    pulses: Pulses,
}

impl Observer {
    /// Has a loop watched until what is returned is dropped.
    pub fn begin_loop(&self, now: Instant) -> Beat {
        self.pulses.begin(now)
    }

    /// For the fleet's owner.
    pub fn lease_spans(&self) -> LeaseSpans {
        LeaseSpans::new(self.traces.clone(), self.generations.clone())
    }

    /// The way for spans.
    pub fn traces(&self) -> &Traces {
        &self.traces
    }

    /// Has a run watched until what is returned is dropped; `saved` tells of its checkpoints.
    pub fn begin_run(&self, id: RunId, saved: Saved) -> RunWatch {
        if let Some(metrics) = &self.metrics {
            metrics.run_begins(id, saved);
        }
        RunWatch { id, observer: self.clone() }
    }
}

/// One run, watched.
#[derive(Debug)]
pub struct RunWatch {
    id: RunId,
    observer: Observer,
}

impl RunWatch {
    /// A generation is being asked for, to be evaluated under context `version`.
    pub fn ask(&self, version: u64, generation: u64, sweep: u64, layer: u32) -> GenerationSpan {
        let root = self.observer.traces.root("generation").with("zeroth.run", self.id.0 as i64);
        let root = root.with("zeroth.generation", generation as i64).with("zeroth.sweep", sweep as i64);
        let root = root.with("zeroth.layer", i64::from(layer));
        GenerationSpan::new(root, (self.id, version), &self.observer.traces, &self.observer.generations)
    }

    /// A generation is done.
    pub fn generation(&self, layer: u32, best: f64, seconds: f64) {
        if let Some(metrics) = &self.observer.metrics {
            metrics.generation(self.id, layer, best, seconds);
        }
    }
}

impl Drop for RunWatch {
    fn drop(&mut self) {
        if let Some(metrics) = &self.observer.metrics {
            metrics.run_ends(self.id);
        }
    }
}

/// An observer, and what shows the world what it sees.
#[derive(Debug)]
pub struct Window {
    observatory: Observatory,
    observer: Observer,
    lease_seconds: Option<Histogram>,
}

impl Window {
    /// Opens what the command line asks for, and says where.
    ///
    /// # Errors
    /// [`Error::Input`]: an address that cannot be used.
    #[allow(clippy::print_stderr)] // as `listening on` is said
    pub fn open(args: &Args) -> Result<Self, Error> {
        let observatory = Observatory::open(args, "zeroth").map_err(Error::input)?;
        observatory.places().iter().for_each(|place| eprintln!("{place}"));
        let observer = Observer {
            metrics: Some(Metrics::new().map_err(Error::failed)?),
            traces: observatory.traces().clone(),
            generations: Generations::default(),
            pulses: Pulses::new(args.stuck_after(STUCK_AFTER)),
        };
        let lease_seconds = observer.metrics.as_ref().map(Metrics::lease_seconds);
        Ok(Self { observatory, observer, lease_seconds })
    }

    /// What is to be handed down.
    pub fn observer(&self) -> &Observer {
        &self.observer
    }

    /// The server's options, with what is watched of it.
    pub fn watch(&self, options: ServeOptions) -> ServeOptions {
        let times = LeaseTimes::default().and_in(self.lease_seconds.clone());
        options.with_lease_times(times).with_pulses(self.observer.pulses.clone())
    }

    /// Shows `service`'s runs and fleet, and whether they are alive, until `stopping` turns true.
    ///
    /// # Errors
    /// Never, but for a metric named twice.
    pub fn show(&mut self, service: Service, stopping: watch::Receiver<bool>) -> Result<(), Error> {
        let Some(metrics) = &self.observer.metrics else { return Ok(()) };
        let program = Program { name: "zeroth", version: env!("CARGO_PKG_VERSION"), peak_memory };
        let pulses = &self.observer.pulses;
        let page = metrics.page(program, pulses.clone(), service).map_err(Error::failed)?;
        self.observatory.show(page, serve::statuses(pulses.clone(), Some(stopping)));
        Ok(())
    }

    /// Sends the last spans, for a limited time, and closes the ports.
    pub async fn close(self) {
        self.observatory.close().await;
    }
}
