//! The pump between a stream and a worker's link, until one of them has ended, and what is waited for then.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use proto::v1::{self, order};
use shared::ids::RunId;
use shared::messages::{Order, Refusal, Refused, Report};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::Streaming;

use super::{Ended, Work, refused};

/// How long the last words may take.
const PARTING: Duration = Duration::from_secs(3);

/// How long a worker may take to finish what it is at, before the next one starts beside it.
const WORKER_END: Duration = Duration::from_secs(60);

/// Carries orders and reports until one side has ended or `shutdown` is ready.
pub(super) async fn pump(
    mut orders: Streaming<v1::Order>,
    to_worker: mpsc::Sender<Order>,
    mut from_worker: mpsc::Receiver<Report>,
    out: mpsc::Sender<v1::Report>,
    silence: Duration,
    shutdown: Pin<&mut impl Future<Output = ()>>,
) -> Ended {
    let ended = tokio::select! {
        ended = receive(&mut orders, to_worker, silence) => match ended {
            Ended::Unreadable(problem) => {
                let refusal = Refusal::Protocol(problem.to_string());
                let told = Report::Refused(Refused { run: RunId::default(), lease: None, refusal });
                let _ = timeout(PARTING, out.send(told.into())).await; // for its log; we go either way
                part(out, orders).await;
                return Ended::Unreadable(problem);
            }
            ended => return ended,
        },
        left = send(&mut from_worker, &out) => left,
        () = shutdown => {
            let leaving = v1::Report::from(Report::Leaving);
            let _ = timeout(PARTING, out.send(leaving)).await; // leases are given to others either way
            true
        }
    };
    part(out, orders).await;
    match ended {
        true => Ended::Left,
        false => Ended::Worker(io::Error::other("it ended without a word")),
    }
}

/// Ends our half of the stream; the coordinator closes the other.
async fn part(out: mpsc::Sender<v1::Report>, mut orders: Streaming<v1::Order>) {
    drop(out);
    let closed = async { while let Ok(Some(_)) = orders.message().await {} };
    let _ = timeout(PARTING, closed).await; // then we go without its goodbye
}

/// Orders from the stream to the worker; says why they have ended.
async fn receive(
    stream: &mut Streaming<v1::Order>,
    to_worker: mpsc::Sender<Order>,
    silence: Duration,
) -> Ended {
    let mut drained = false;
    loop {
        let broken = match timeout(silence, stream.message()).await {
            Ok(Ok(Some(order))) => match order.kind {
                Some(order::Kind::Heartbeat(_)) => continue,
                Some(order::Kind::Refused(refusal)) => return refused(refusal, true),
                kind => match Order::try_from(v1::Order { kind }) {
                    Ok(order) => {
                        drained |= order == Order::Drain;
                        if to_worker.send(order).await.is_err() {
                            std::future::pending::<()>().await; // the other direction tells how
                        }
                        continue;
                    }
                    Err(error) if error.of_versions() => return Ended::Unreadable(error),
                    Err(error) => format!("unreadable order: {error}"),
                },
            },
            Ok(Ok(None)) => "it closed the stream".to_owned(),
            Ok(Err(status)) => format!("stream broken: {}", status.message()),
            Err(_) => format!("silent for {} s", silence.as_secs()),
        };
        return if drained { Ended::Left } else { Ended::Broken(broken, true) };
    }
}

/// Reports from the worker to the stream; whether the last one was its farewell.
async fn send(from_worker: &mut mpsc::Receiver<Report>, out: &mpsc::Sender<v1::Report>) -> bool {
    while let Some(report) = from_worker.recv().await {
        let leaving = report == Report::Leaving;
        if out.send(report.into()).await.is_err() {
            std::future::pending::<()>().await; // the stream has ended: the other direction tells why
        }
        if leaving {
            return true;
        }
    }
    false
}

/// Waits for a worker whose link has been cut, where another may follow.
pub(super) async fn end_worker(mut worker: Work, ended: Ended) -> Ended {
    match ended {
        Ended::Broken(..) => {
            let Ok(joined) = timeout(WORKER_END, &mut worker).await else {
                worker.abort();
                return ended;
            };
            match joined {
                Ok(Err(error)) => Ended::Worker(error),
                _ => ended,
            }
        }
        Ended::Worker(unexplained) => match worker.await {
            Ok(Err(error)) => Ended::Worker(error),
            Ok(Ok(())) => Ended::Worker(unexplained),
            Err(error) => Ended::Worker(io::Error::other(error)),
        },
        Ended::Left | Ended::Refused(_) | Ended::Quarantined(_) | Ended::Unreadable(_) => {
            worker.abort();
            ended
        }
    }
}
