//! What both programs show of themselves: metrics for Prometheus, gRPC health on a plain port, traces over OTLP.
//!
//! All of it is on a thread of its own, with a runtime of its own: it answers truly when the program's own loops are
//! stuck, and a caller who is slow, or one of many, costs those nothing.

mod health;
mod page;
mod port;
mod pulse;
mod traces;

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use thiserror::Error;
use tokio::runtime::{Builder, Runtime};
use tonic::service::Routes;

pub use health::{Status, Statuses, follow, tell};
pub use page::{Common, Page, Program};
pub use pulse::{Beat, Pulses};
pub use traces::{Span, Traces};

/// How long the traces that are not sent yet may take at the end.
const PARTING: Duration = Duration::from_secs(3);

/// Options of the command line.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Args {
    /// Serve metrics for Prometheus here, /metrics over plain HTTP; port 0 takes a free one.
    #[arg(long, env = "ZEROTH_METRICS", value_name = "ADDRESS:PORT")]
    pub metrics: Option<SocketAddr>,
    /// Serve gRPC health here, without TLS and token, for probes; port 0 takes a free one.
    #[arg(long, env = "ZEROTH_HEALTH", value_name = "ADDRESS:PORT")]
    pub health: Option<SocketAddr>,
    /// A loop that says nothing for so many seconds is stuck, and health says so (docs/observability.md).
    #[arg(long, env = "ZEROTH_STUCK_AFTER", value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..))]
    pub stuck_after: Option<u64>,
    /// Send traces to this collector, OTLP over gRPC: http://HOST:PORT.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp: Option<String>,
}

impl Args {
    /// The longest silence of a loop, where `usual` is this program's own.
    pub fn stuck_after(&self, usual: Duration) -> Duration {
        self.stuck_after.map_or(usual, Duration::from_secs)
    }
}

/// An option is wrong.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct Unusable(String);

impl Unusable {
    /// From anything that explains itself.
    pub fn new(problem: impl std::fmt::Display) -> Self {
        Self(problem.to_string())
    }
}

/// Ports and a way to the collector, as far as they were asked for.
#[derive(Debug)]
pub struct Observatory {
    metrics: Option<TcpListener>,
    health: Option<TcpListener>,
    traces: Traces,
    /// `None` where nothing was asked for.
    runtime: Option<Runtime>,
}

impl Observatory {
    /// Opens them; `service` is what the traces' sender is called.
    ///
    /// # Errors
    /// An address that cannot be listened on, or that no trace can be sent to.
    pub fn open(args: &Args, service: &'static str) -> Result<Self, Unusable> {
        let metrics = args.metrics.map(|address| listen("--metrics", address)).transpose()?;
        let health = args.health.map(|address| listen("--health", address)).transpose()?;
        let url = args.otlp.as_deref().filter(|url| !url.is_empty());
        let wanted = metrics.is_some() || health.is_some() || url.is_some();
        let runtime = wanted.then(runtime).transpose().map_err(|error| Unusable(error.to_string()))?;
        let mut observatory = Self { metrics, health, traces: Traces::default(), runtime };
        if let (Some(url), Some(runtime)) = (url, &observatory.runtime) {
            let _inside = runtime.enter();
            let traces = Traces::to(url, service);
            observatory.traces = traces.map_err(|problem| Unusable(format!("--otlp {url}: {problem}")))?;
        }
        Ok(observatory)
    }

    /// The way for spans; off where no collector was named.
    pub fn traces(&self) -> &Traces {
        &self.traces
    }

    /// Where things are shown, a line each, for people.
    pub fn places(&self) -> Vec<String> {
        let bound = |listener: &Option<TcpListener>| listener.as_ref()?.local_addr().ok();
        let metrics = bound(&self.metrics).map(|address| format!("metrics on http://{address}/metrics"));
        let health = bound(&self.health).map(|address| format!("health on {address}"));
        metrics.into_iter().chain(health).collect()
    }

    /// Serves these from now on.
    pub fn show(&mut self, page: Page, statuses: Statuses) {
        let Some(runtime) = &self.runtime else { return };
        if let Some(listener) = self.metrics.take() {
            runtime.spawn(port::serve(listener, page.routes()));
        }
        if let Some(listener) = self.health.take() {
            runtime.spawn(async move {
                let (reporter, service) = tonic_health::server::health_reporter();
                let told = tell(&reporter, &statuses).await;
                tokio::select! {
                    () = port::serve(listener, Routes::new(service)) => {}
                    never = follow(&reporter, &statuses, told) => match never {},
                }
            });
        }
    }

    /// Sends what is left of the traces, for a limited time, and closes the ports.
    pub async fn close(mut self) {
        let traces = self.traces.clone();
        let _ = tokio::task::spawn_blocking(move || traces.close(PARTING)).await; // what is lost is lost
        self.end();
    }

    fn end(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Observatory {
    fn drop(&mut self) {
        self.end();
    }
}

fn runtime() -> std::io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(1).thread_name("zeroth-observe").enable_all().build()
}

fn listen(option: &str, address: SocketAddr) -> Result<TcpListener, Unusable> {
    let bound = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.map_err(|error| Unusable(format!("{option} {address}: {error}; choose a free address or port 0")))
}
