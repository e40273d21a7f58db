//! What a collector gets: one connected trace a generation, from the population's being drawn to its being learnt from,
//! through both processes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use tests::{Case, Coordinator, Family, Process, evaluator, generations, run};
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// A span as it came, with the service that sent it.
#[derive(Clone, Debug)]
struct Span {
    service: String,
    name: String,
    trace: Vec<u8>,
    id: Vec<u8>,
    parent: Vec<u8>,
    numbers: BTreeMap<String, i64>,
}

/// A collector, which keeps all that it gets.
struct Collector {
    url: String,
    spans: Spans,
    _runtime: Runtime,
}

#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<Span>>>);

impl Collector {
    fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let spans = Spans::default();
        let server = Server::builder().add_service(TraceServiceServer::new(spans.clone()));
        runtime.spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Self { url, spans, _runtime: runtime }
    }
}

#[tonic::async_trait]
impl TraceService for Spans {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for of_one in request.into_inner().resource_spans {
            let attributes = of_one.resource.map(|resource| resource.attributes).unwrap_or_default();
            let text = |value| if let Some(Value::StringValue(text)) = value { text } else { String::new() };
            let service = attributes.into_iter().find(|pair| pair.key == "service.name");
            let service = text(service.and_then(|pair| pair.value?.value));
            for span in of_one.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                let numbers = span.attributes.into_iter().filter_map(|pair| match pair.value?.value? {
                    Value::IntValue(number) => Some((pair.key, number)),
                    _ => None,
                });
                let (trace, id, parent) = (span.trace_id, span.span_id, span.parent_span_id);
                let (service, numbers) = (service.clone(), numbers.collect());
                self.0.lock().unwrap().push(Span { service, name: span.name, trace, id, parent, numbers });
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[test]
fn every_generation_is_one_connected_trace_through_both_processes() {
    let case = Case::masked(Family::Bert, "add");
    run(&mut case.tune("whole", &[])).expect(0);
    let collector = Collector::start();
    let otlp = ["--otlp", &collector.url];
    let coordinator = Coordinator::start(&case, "run", &otlp);
    // One alone: a second that came when the run is over would dial for ever.
    let worker = Process::start(evaluator(&case, &coordinator.url(), "a").args(otlp));
    coordinator.process.wait().expect(0);
    worker.wait().expect(0);
    assert_eq!(generations(&case.path("whole")), generations(&case.path("run")), "traces change no bit");

    let spans = collector.spans.0.lock().unwrap().clone();
    let mut traces: BTreeMap<Vec<u8>, Vec<Span>> = BTreeMap::new();
    spans.into_iter().for_each(|span| traces.entry(span.trace.clone()).or_default().push(span));
    let mut told = Vec::new();
    for spans in traces.values() {
        let roots: Vec<&Span> = spans.iter().filter(|span| span.parent.is_empty()).collect();
        let [root] = roots[..] else { panic!("one root was expected: {spans:?}") };
        assert_eq!((root.name.as_str(), root.service.as_str()), ("generation", "zeroth"));
        told.push((
            root.numbers["zeroth.generation"],
            root.numbers["zeroth.layer"],
            root.numbers["zeroth.run"],
        ));
        let of_parent =
            |span: &Span| spans.iter().find(|other| other.id == span.parent).map(|other| other.name.as_str());
        for span in spans.iter().filter(|span| !span.parent.is_empty()) {
            let wanted = match span.name.as_str() {
                "ask" | "lease" | "tell" | "dev" => ("zeroth", "generation"),
                "evaluate" => ("zeroth-evaluator", "lease"),
                other => panic!("an unknown span {other}"),
            };
            assert_eq!((span.service.as_str(), of_parent(span)), (wanted.0, Some(wanted.1)), "{span:?}");
        }
        let names: BTreeSet<&str> = spans.iter().map(|span| span.name.as_str()).collect();
        for part in ["ask", "lease", "evaluate", "tell"] {
            assert!(names.contains(part), "no {part} in {names:?}");
        }
        let evaluated: i64 = spans
            .iter()
            .filter(|span| span.name == "evaluate")
            .map(|span| span.numbers["zeroth.examples"])
            .sum();
        assert!(evaluated >= 6 * 8, "all candidates on all examples");
    }
    told.sort_unstable();
    let wanted: Vec<_> = (0..24).map(|index| (index + 1, index % 3, 1)).collect();
    assert_eq!(told, wanted);
}

/// The embedded evaluator's spans go the same way.
#[test]
fn one_process_sends_whole_traces_too() {
    let case = Case::masked(Family::Bert, "add").set("search.budget", "18");
    let collector = Collector::start();
    run(&mut case.tune("run", &["--otlp", &collector.url])).expect(0);
    let spans = collector.spans.0.lock().unwrap().clone();
    let count = |name: &str| spans.iter().filter(|span| span.name == name).count();
    assert_eq!([count("generation"), count("ask"), count("tell")], [3, 3, 3]);
    assert!(count("evaluate") >= 3 && count("evaluate") == count("lease"), "{spans:?}");
}

/// A collector that takes connections and says nothing, and one that is not there: the run ends as it would.
#[test]
fn a_collector_that_does_not_answer_stops_no_run() {
    let case = Case::masked(Family::Bert, "add").set("search.budget", "24");
    run(&mut case.tune("whole", &[])).expect(0);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (folder, address) in [("silent", silent.local_addr().unwrap()), ("gone", gone)] {
        run(&mut case.tune(folder, &["--otlp", &format!("http://{address}")])).expect(0);
        assert_eq!(generations(&case.path("whole")), generations(&case.path(folder)));
    }
}
