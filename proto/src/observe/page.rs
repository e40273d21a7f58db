//! `/metrics`: a registry, brought up to date and written down when somebody asks.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{
    Gauge, Registry, TEXT_FORMAT, TextEncoder, register_gauge_with_registry,
    register_int_gauge_vec_with_registry,
};
use tonic::service::Routes;

use super::Pulses;

/// What a program says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Its name.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// The most memory that the process has held, in bytes.
    pub peak_memory: fn() -> Option<u64>,
}

/// What both programs show.
#[derive(Debug)]
pub struct Common {
    program: Program,
    pulses: Pulses,
    peak: Gauge,
    silence: Gauge,
}

impl Common {
    /// Registers it.
    ///
    /// # Errors
    /// When `registry` has a metric of such a name.
    pub fn new(registry: &Registry, program: Program, pulses: Pulses) -> Result<Self, prometheus::Error> {
        let labels = &["program", "version"];
        let build =
            register_int_gauge_vec_with_registry!("zeroth_build_info", "Always 1.", labels, registry)?;
        build.with_label_values(&[program.name, program.version]).set(1);
        let help = "When the process began, seconds since 1970.";
        let start = register_gauge_with_registry!("process_start_time_seconds", help, registry)?;
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        start.set(since.as_secs_f64());
        let help = "The most memory that the process has held.";
        let peak = register_gauge_with_registry!("zeroth_memory_peak_bytes", help, registry)?;
        let help = "How long the most silent of the program's loops has said nothing.";
        let silence = register_gauge_with_registry!("zeroth_loop_silence_seconds", help, registry)?;
        Ok(Self { program, pulses, peak, silence })
    }

    /// Brings it up to date.
    pub fn refresh(&self, now: Instant) {
        self.peak.set((self.program.peak_memory)().unwrap_or_default() as f64);
        self.silence.set(self.pulses.silence(now).as_secs_f64());
    }
}

/// What is done before a page is written.
type Refresh = Box<dyn FnMut(Instant) + Send>;

/// All metrics of a program.
pub struct Page {
    registry: Registry,
    refresh: Mutex<Refresh>,
}

impl Page {
    /// Of `registry`; `refresh` brings up to date what is not counted as it happens.
    pub fn new(registry: Registry, refresh: impl FnMut(Instant) + Send + 'static) -> Self {
        Self { registry, refresh: Mutex::new(Box::new(refresh)) }
    }

    /// The page, in Prometheus's text format.
    ///
    /// # Errors
    /// A metric that cannot be written.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        let mut refresh = self.refresh.lock().unwrap_or_else(PoisonError::into_inner); // one page at a time
        refresh(Instant::now());
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// It at its path.
    pub(super) fn routes(self) -> Routes {
        let page = Arc::new(self);
        let answer = move || {
            let page = Arc::clone(&page);
            async move { answer(page.text()) }
        };
        Router::new().route("/metrics", get(answer)).into()
    }
}

fn answer(text: Result<String, prometheus::Error>) -> Response {
    match text {
        Ok(text) => ([(CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
