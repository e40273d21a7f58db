//! The evaluators' service: a pump between a stream and the far ends of a link.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::v1::evaluators_server::Evaluators as Service;
use proto::v1::{self, order, report};
use shared::messages::{Hello, Order, Refusal, Report};
use shared::wire::WireError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::warn;

use super::LeaseTimes;
use super::allowance::Allowance;
use super::asked::Asked;
use super::connection::Connection;
use crate::fleet::{Handle, LinkEnds};

/// How long an evaluator may take to say hello.
const HELLO: Duration = Duration::from_secs(10);

/// An evaluator that does not take an order for so long is given up.
const STUCK: Duration = Duration::from_secs(20);

/// Orders between the pump and the socket.
const BUFFERED: usize = 16;

type Orders = mpsc::Sender<Result<v1::Order, Status>>;

/// The service.
#[derive(Clone, Debug)]
pub(super) struct Evaluators {
    fleet: Handle,
    heartbeat: Duration,
    closing: watch::Receiver<bool>,
    times: LeaseTimes,
}

impl Evaluators {
    /// An evaluator hears something each `heartbeat` at least; `closing` turns true when streams have to end; what leases
    /// take is counted in `times`.
    pub(super) fn new(
        fleet: Handle,
        heartbeat: Duration,
        closing: watch::Receiver<bool>,
        times: LeaseTimes,
    ) -> Self {
        Self { fleet, heartbeat, closing, times }
    }

    /// Lets an evaluator take part, and its connection stay.
    async fn attach(&self, hello: Hello, connection: Option<Arc<Connection>>) -> Result<LinkEnds, Refusal> {
        let link = self.fleet.attach(hello).await?;
        match connection.map_or(Ok(()), |connection| connection.let_in()) {
            Ok(()) => Ok(link),
            Err(full) => Err(Refusal::Failed(full.to_string())), // the link's end tells the fleet
        }
    }
}

#[tonic::async_trait]
impl Service for Evaluators {
    type WorkStream = ReceiverStream<Result<v1::Order, Status>>;

    async fn work(
        &self,
        request: Request<Streaming<v1::Report>>,
    ) -> Result<Response<Self::WorkStream>, Status> {
        let connection = super::calls::connection(request.extensions()).cloned();
        let allowance = request.extensions().get::<Allowance>().cloned().unwrap_or_default();
        let mut reports = request.into_inner();
        let hello = timeout(HELLO, reports.message());
        let hello = hello.await.map_err(|_| Status::deadline_exceeded("no hello within 10 s"))??;
        let hello = hello_of(hello)?;
        let (out, orders) = mpsc::channel(BUFFERED);
        let asked = Asked::new(&hello, allowance, self.times.clone());
        match self.attach(hello, connection).await {
            Ok(link) => {
                let first = order::Kind::Welcome(v1::Welcome {
                    protocol: proto::PROTOCOL_VERSION,
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    evaluator: link.id.0,
                });
                let _ = put(&out, first).await; // a stream that has ended already ends the pump too
                tokio::spawn(pump(link, asked, reports, out, self.heartbeat, self.closing.clone()));
            }
            Err(refusal) => {
                let _ = put(&out, order::Kind::Refused(refusal.into())).await; // the only message
            }
        }
        Ok(Response::new(ReceiverStream::new(orders)))
    }
}

fn hello_of(first: Option<v1::Report>) -> Result<Hello, Status> {
    match first.and_then(|report| report.kind) {
        Some(report::Kind::Hello(hello)) => {
            Hello::try_from(hello).map_err(|error| Status::invalid_argument(error.to_string()))
        }
        _ => Err(Status::invalid_argument("the first report must be hello")),
    }
}

/// Carries both ways until either end has gone; what it holds of the link goes with it.
async fn pump(
    link: LinkEnds,
    asked: Asked,
    reports: Streaming<v1::Report>,
    out: Orders,
    heartbeat: Duration,
    mut closing: watch::Receiver<bool>,
) {
    let id = link.id;
    let problem = tokio::select! {
        received = receive(reports, &asked, link.reports) => received.err(),
        () = send(link.orders, &asked, link.dropped, &out, heartbeat) => None,
        _ = closing.wait_for(|&closing| closing) => None,
    };
    if let Some(problem) = problem {
        warn!("{id}: {problem}");
        let _ = put(&out, order::Kind::Refused(problem.into())).await; // it may have gone
    }
}

/// Reports from the stream to the fleet, until the stream ends.
async fn receive(
    mut stream: Streaming<v1::Report>,
    asked: &Asked,
    reports: mpsc::Sender<Report>,
) -> Result<(), Refusal> {
    loop {
        match stream.message().await {
            Ok(Some(report)) => {
                let report = Report::try_from(report).map_err(unreadable)?;
                let wanted = asked.report(Instant::now(), &report).map_err(Refusal::Failed)?;
                if wanted && reports.send(report).await.is_err() {
                    return Ok(()); // the fleet has ended
                }
            }
            Ok(None) => return Ok(()),
            Err(status) => return Err(Refusal::Failed(format!("stream broken: {}", status.message()))),
        }
    }
}

/// A report that cannot be read: what a newer evaluator sends it will send again.
fn unreadable(error: WireError) -> Refusal {
    if error.of_versions() {
        let version = env!("CARGO_PKG_VERSION");
        Refusal::Protocol(format!("this coordinator ({version}) cannot read {error}"))
    } else {
        Refusal::Failed(error.to_string())
    }
}

/// Orders and heartbeats from the fleet to the stream, until the fleet drops the evaluator.
async fn send(
    mut orders: mpsc::Receiver<Order>,
    asked: &Asked,
    dropped: oneshot::Receiver<Refusal>,
    out: &Orders,
    heartbeat: Duration,
) {
    let mut beat = interval(heartbeat);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let sent = tokio::select! {
            order = orders.recv() => match order {
                Some(order) => {
                    asked.order(Instant::now(), &order);
                    put_order(out, order.into()).await
                }
                None => break,
            },
            _ = beat.tick() => put(out, order::Kind::Heartbeat(v1::Heartbeat { progress: 0 })).await,
        };
        if !sent {
            return;
        }
    }
    if let Ok(refusal) = dropped.await {
        put(out, order::Kind::Refused(refusal.into())).await;
    }
}

async fn put(out: &Orders, kind: order::Kind) -> bool {
    put_order(out, v1::Order { kind: Some(kind) }).await
}

/// Whether the stream took it in time.
async fn put_order(out: &Orders, order: v1::Order) -> bool {
    matches!(timeout(STUCK, out.send(Ok(order))).await, Ok(Ok(())))
}
