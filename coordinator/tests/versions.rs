//! Two programs of different versions: each says why it cannot go on, once, and does not come back for more. And health,
//! which says when nobody should begin anything.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test's helpers, too, end by panicking

use std::net::SocketAddr;
use std::time::Duration;

use coordinator::fleet::{Fleet, Settings};
use coordinator::progress::Progress;
use coordinator::serve::clients::Clients;
use coordinator::serve::{ServeError, ServeOptions, serve};
use evaluator::dial::{self, DialError, DialOptions};
use evaluator::observe::Observer;
use proto::client::Security;
use proto::v1::evaluators_client::EvaluatorsClient;
use proto::v1::evaluators_server::{Evaluators, EvaluatorsServer};
use proto::v1::{self, order, refusal, report};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

#[path = "../src/fleet/fixtures.rs"]
#[allow(dead_code, reason = "not every test that includes it prepares a run")]
mod fixtures;

use fixtures::hello;

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), future).await.expect("it hangs")
}

/// A coordinator of this version, without a run.
struct House {
    address: SocketAddr,
    server: JoinHandle<Result<(), ServeError>>,
    stopping: watch::Sender<bool>,
    close: oneshot::Sender<()>,
}

impl House {
    async fn open() -> Self {
        let (fleet, _owner) = Fleet::spawn(Settings::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (close, closing) = oneshot::channel::<()>();
        let (stopping, stops) = watch::channel(false);
        let clients = Clients {
            progress: watch::channel(Progress::default()).1,
            fleet: fleet.status(),
            cancel: watch::channel(false).0,
            artefact: "none".into(),
        };
        let options = ServeOptions::default().with_stopping(stops);
        let server = tokio::spawn(serve(listener, fleet, clients, options, async move {
            let _ = closing.await;
        }));
        Self { address, server, stopping, close }
    }

    async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap()
    }

    async fn close(self) {
        self.close.send(()).unwrap();
        within(self.server).await.unwrap().unwrap();
    }
}

fn report(kind: report::Kind) -> v1::Report {
    v1::Report { kind: Some(kind) }
}

/// The kind of a newer version, as a reader that does not know it sees it: none.
fn newer_report() -> v1::Report {
    v1::Report { kind: None }
}

async fn dialled(house: &House, reports: Vec<v1::Report>) -> Vec<order::Kind> {
    let (out, stream) = mpsc::channel(8);
    for report in reports {
        out.send(report).await.unwrap();
    }
    let mut client = EvaluatorsClient::new(house.channel().await);
    let mut orders = within(client.work(ReceiverStream::new(stream))).await.unwrap().into_inner();
    let mut told = Vec::new();
    while let Some(order) = within(orders.message()).await.unwrap() {
        told.extend(order.kind.filter(|kind| !matches!(kind, order::Kind::Heartbeat(_))));
    }
    told
}

fn refusal_of(kind: &order::Kind) -> (refusal::Kind, &str) {
    match kind {
        order::Kind::Refused(refusal) => (refusal.kind(), &refusal.message),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_that_came_into_being_later_ends_the_stream_for_good() {
    let house = House::open().await;
    let told = dialled(&house, vec![report(report::Kind::Hello(hello("m").into())), newer_report()]).await;
    assert!(matches!(told[0], order::Kind::Welcome(_)), "{told:?}");
    let (kind, text) = refusal_of(&told[1]);
    assert_eq!((told.len(), kind), (2, refusal::Kind::Protocol));
    assert!(
        text.contains("cannot read a report of a kind") && text.ends_with("update the older one"),
        "{text}"
    );
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_protocol_is_refused_naming_both_versions() {
    let house = House::open().await;
    for protocol in [0, proto::PROTOCOL_VERSION + 1] {
        let newer = v1::Hello { protocol, version: "9.9".to_owned(), ..hello("m").into() };
        let told = dialled(&house, vec![report(report::Kind::Hello(newer))]).await;
        let (kind, text) = refusal_of(&told[0]);
        assert_eq!((told.len(), kind), (1, refusal::Kind::Protocol));
        let wanted = format!("(9.9) speaks protocol {protocol}, this coordinator");
        assert!(text.contains(&wanted) && text.ends_with("update the older one"), "{text}");
    }
    house.close().await;
}

/// A coordinator of a newer version: what it sends once, and what it hears then.
struct Newer {
    order: v1::Order,
    heard: mpsc::Sender<v1::Report>,
}

#[tonic::async_trait]
impl Evaluators for Newer {
    type WorkStream = ReceiverStream<Result<v1::Order, Status>>;

    async fn work(
        &self,
        request: Request<Streaming<v1::Report>>,
    ) -> Result<Response<Self::WorkStream>, Status> {
        let mut reports = request.into_inner();
        let (out, orders) = mpsc::channel(8);
        let welcome = v1::Order { kind: Some(order::Kind::Welcome(v1::Welcome::default())) };
        out.send(Ok(welcome)).await.unwrap();
        out.send(Ok(self.order.clone())).await.unwrap();
        let heard = self.heard.clone();
        tokio::spawn(async move {
            while let Ok(Some(report)) = reports.message().await {
                let _ = heard.send(report).await;
            }
            drop(out);
        });
        Ok(Response::new(ReceiverStream::new(orders)))
    }
}

/// How an evaluator ends that is sent `order`, and what it has reported.
async fn evaluator_told(order: v1::Order) -> (DialError, Vec<v1::Report>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (heard, mut reports) = mpsc::channel(64);
    let newer = EvaluatorsServer::new(Newer { order, heard });
    let incoming = TcpListenerStream::new(listener);
    let server = tokio::spawn(Server::builder().add_service(newer).serve_with_incoming(incoming));
    let options = DialOptions {
        url,
        security: Security::default(),
        hello: hello("m"),
        give_up_after: None,
        silence: Duration::from_secs(20),
        longest_pause: Duration::from_secs(10),
        observer: Observer::default(),
    };
    let worker = |mut orders: mpsc::Receiver<_>, reports: mpsc::Sender<_>| {
        tokio::spawn(async move {
            while orders.recv().await.is_some() {}
            drop(reports);
            Ok(())
        })
    };
    let ended = within(dial::run(options, worker, std::future::pending())).await.unwrap_err();
    server.abort();
    let mut all = Vec::new();
    while let Ok(report) = reports.try_recv() {
        all.push(report);
    }
    (ended, all)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_came_into_being_later_ends_the_evaluator_which_says_why() {
    let lease = v1::Lease { work: None, ..v1::Lease::default() };
    let prepare = v1::Prepare { read_out: "telepathy".to_owned(), ..v1::Prepare::default() };
    let cases = [
        (None, "an order of a kind that this program does not know"),
        (Some(order::Kind::Lease(lease)), "a lease of a kind that this program does not know"),
        (Some(order::Kind::Prepare(prepare)), "\"telepathy\" is none of: masked-lm"),
    ];
    for (kind, why) in cases {
        let (ended, reports) = evaluator_told(v1::Order { kind }).await;
        assert!(matches!(&ended, DialError::Unreadable { .. }), "{ended}");
        let text = ended.to_string();
        assert!(text.starts_with("coordinator http://127.0.0.1:") && text.contains(why), "{text}");
        let [_hello, v1::Report { kind: Some(report::Kind::Refused(refused)) }] = &reports[..] else {
            panic!("{reports:?}")
        };
        let refusal = refused.refusal.as_ref().unwrap();
        assert_eq!(refusal.kind(), refusal::Kind::Protocol);
        assert!(refusal.message.contains(why), "{refusal:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_says_when_nothing_should_begin_here() {
    let house = House::open().await;
    let mut health = HealthClient::new(house.channel().await);
    let ask = |service: &str| HealthCheckRequest { service: service.to_owned() };
    for service in ["", "zeroth.v1.Runs", "zeroth.v1.Evaluators"] {
        let answer = within(health.check(ask(service))).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
    assert_eq!(within(health.check(ask("other"))).await.unwrap_err().code(), tonic::Code::NotFound);
    let mut watched = within(health.watch(ask("zeroth.v1.Runs"))).await.unwrap().into_inner();
    assert_eq!(within(watched.message()).await.unwrap().unwrap().status(), ServingStatus::Serving);

    house.stopping.send_replace(true);
    assert_eq!(within(watched.message()).await.unwrap().unwrap().status(), ServingStatus::NotServing);
    let answer = within(health.check(ask(""))).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::NotServing, "it serves on, and says so");
    house.close().await; // whoever still watches does not keep it from ending
    let last = within(watched.message()).await;
    assert!(matches!(last, Ok(None)), "{last:?}");
}
