//! Spans for a collector, OTLP over gRPC.
//!
//! Off, all of it costs a look at an option. On, spans wait in a bounded queue for a thread of their own; when the collector
//! does not keep up or is not there, they are dropped, and nobody waits.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{Span as _, SpanContext, Status, TraceContextExt, Tracer, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

/// The header that W3C's recommendation on trace contexts names.
const TRACEPARENT: &str = "traceparent";

/// A way to a collector, or none; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Traces(Option<Arc<Sender>>);

#[derive(Debug)]
struct Sender {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl Traces {
    /// To the collector at `url`, by tasks of the runtime that this is called in.
    ///
    /// # Errors
    /// When that is no address.
    pub(super) fn to(url: &str, service: &'static str) -> Result<Self, String> {
        if !url.starts_with("http://") {
            return Err(
                "an address begins with http:// (for TLS, put a collector beside this program)".to_owned()
            );
        }
        let exporter = SpanExporter::builder().with_tonic().with_endpoint(url).build();
        let exporter = exporter.map_err(|error| error.to_string())?;
        let named = std::env::var_os("OTEL_SERVICE_NAME").is_some_and(|name| !name.is_empty());
        let resource = Resource::builder();
        let resource = if named { resource } else { resource.with_service_name(service) };
        let provider = SdkTracerProvider::builder()
            .with_resource(resource.build())
            .with_batch_exporter(exporter)
            .build();
        let tracer = provider.tracer("zeroth");
        Ok(Self(Some(Arc::new(Sender { provider, tracer }))))
    }

    /// Whether spans go anywhere.
    pub fn on(&self) -> bool {
        self.0.is_some()
    }

    /// A span that no other has called for.
    pub fn root(&self, name: &'static str) -> Span {
        self.start(name, &Context::new())
    }

    /// A span that the one behind `traceparent` has called for; one that is none, or is missing, gives a span that goes
    /// nowhere.
    pub fn child(&self, name: &'static str, traceparent: Option<&str>) -> Span {
        let Some(parent) = traceparent.filter(|_| self.on()).and_then(context_of) else { return Span(None) };
        self.start(name, &parent)
    }

    fn start(&self, name: &'static str, parent: &Context) -> Span {
        let sender = self.0.as_ref();
        Span(sender.map(|sender| Box::new(sender.tracer.start_with_context(name, parent))))
    }

    /// Sends what is left, for at most `patience`. Blocks.
    pub(super) fn close(&self, patience: Duration) {
        if let Some(sender) = &self.0 {
            let _ = sender.provider.shutdown_with_timeout(patience); // a collector that is not there loses them
        }
    }
}

/// A span, until it is dropped; it may go nowhere.
#[derive(Debug, Default)]
pub struct Span(Option<Box<opentelemetry_sdk::trace::Span>>);

impl Span {
    /// What calls for other spans, in W3C's form; nothing of one that goes nowhere.
    pub fn traceparent(&self) -> Option<String> {
        let context: SpanContext = self.0.as_ref()?.span_context().clone();
        let mut carrier = HashMap::new();
        TraceContextPropagator::new()
            .inject_context(&Context::new().with_remote_span_context(context), &mut carrier);
        carrier.remove(TRACEPARENT)
    }

    /// Says something of it.
    pub fn set(&mut self, key: &'static str, value: impl Into<opentelemetry::Value>) {
        if let Some(span) = &mut self.0 {
            span.set_attribute(KeyValue::new(key, value));
        }
    }

    /// As [`Span::set`], of a new one.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<opentelemetry::Value>) -> Self {
        self.set(key, value);
        self
    }

    /// It came to nothing, and why.
    pub fn fail(&mut self, why: impl Into<String>) {
        if let Some(span) = &mut self.0 {
            span.set_status(Status::error(why.into()));
        }
    }
}

/// The context that a traceparent stands for.
fn context_of(traceparent: &str) -> Option<Context> {
    let carrier = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &carrier);
    context.span().span_context().is_valid().then_some(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_collector_there_is_nothing() {
        let traces = Traces::default();
        let root = traces.root("generation").with("run", 1);
        assert!(!traces.on() && root.traceparent().is_none());
        assert!(
            traces
                .child("lease", Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"))
                .0
                .is_none()
        );
    }

    #[test]
    fn what_a_peer_sends_is_a_traceparent_or_nothing() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert!(context_of(good).is_some());
        for bad in
            ["", "00", "00-0-0-01", &good[3..], "00-00000000000000000000000000000000-b7ad6b7169203331-01"]
        {
            assert!(context_of(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn an_address_that_is_none_is_told() {
        for url in ["collector:4317", "https://collector:4317", "http://"] {
            assert!(Traces::to(url, "zeroth").is_err(), "{url}");
        }
    }

    /// Nobody listens there: spans are begun and dropped at once, and the end comes within its time.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_collector_that_is_not_there_holds_nobody_up() {
        let traces = Traces::to("http://127.0.0.1:9", "zeroth").unwrap();
        let root = traces.root("generation");
        let parent = root.traceparent();
        for _ in 0..10_000 {
            drop(traces.child("lease", parent.as_deref()));
        }
        drop(root);
        let closing = traces.clone();
        tokio::task::spawn_blocking(move || closing.close(Duration::from_millis(10))).await.unwrap();
    }
}
