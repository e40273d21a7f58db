//! Dials the coordinator, and pumps between its stream and the ends of a worker's link, again and again.

mod pump;

use std::error::Error as _;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::pin::{Pin, pin};
use std::time::{Duration, Instant};

use proto::client::{Bearer, Security, root_cause};
use proto::v1::evaluators_client::EvaluatorsClient;
use proto::v1::{self, order, report};
use shared::messages::{Hello, Order, Refusal, Report};
use shared::wire::WireError;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use tracing::{info, warn};

use crate::observe::Observer;
use pump::{end_worker, pump};

/// First pause between two attempts.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// Room of the channels to and from the worker.
const LINK: usize = 64;

/// Whom to dial, and how.
#[derive(Clone, Debug)]
pub struct DialOptions {
    /// `http://HOST:PORT` or `https://HOST:PORT`.
    pub url: String,
    /// Token and TLS.
    pub security: Security,
    /// What to say first.
    pub hello: Hello,
    /// How long to try in vain; `None` for ever.
    pub give_up_after: Option<Duration>,
    /// A coordinator that says nothing for so long is dead; it sends a heartbeat every 5 s, or oftener.
    pub silence: Duration,
    /// Longest pause between two attempts.
    pub longest_pause: Duration,
    /// What it is seen through.
    pub observer: Observer,
}

/// Why dialling has ended.
#[derive(Debug, Error)]
pub enum DialError {
    /// The address or the TLS files are wrong.
    #[error("{0}")]
    Address(String),
    /// The coordinator refuses this evaluator: its model, its protocol or its token.
    #[error("coordinator {url} refuses this evaluator: {reason}")]
    Refused {
        /// Which.
        url: String,
        /// Why.
        reason: String,
    },
    /// The coordinator does not believe what this evaluator finds: its machine or its build is not sound.
    #[error("coordinator {url} sends this evaluator away: {reason}")]
    Quarantined {
        /// Which.
        url: String,
        /// Why.
        reason: String,
    },
    /// The coordinator is of a version that this program does not understand.
    #[error("coordinator {url} sends what this evaluator ({}) cannot read: {problem}", env!("CARGO_PKG_VERSION"))]
    Unreadable {
        /// Which.
        url: String,
        /// What it sends.
        problem: WireError,
    },
    /// Nobody answered for too long.
    #[error("coordinator {url} not reachable for {seconds:.0} s ({reason}); giving up")]
    GaveUp {
        /// Which.
        url: String,
        /// For how long.
        seconds: f64,
        /// Why the last attempt failed.
        reason: String,
    },
    /// The worker could not work.
    #[error("worker: {0}")]
    Worker(#[from] io::Error),
}

impl DialError {
    /// Whether what was configured is wrong, here or at the coordinator: it will be wrong again, on every machine.
    pub fn of_configuration(&self) -> bool {
        match self {
            Self::Address(_) | Self::Refused { .. } | Self::Unreadable { .. } => true,
            Self::Quarantined { .. } | Self::GaveUp { .. } | Self::Worker(_) => false,
        }
    }
}

/// How one stay has ended.
enum Ended {
    /// Sent away, or left on its own wish.
    Left,
    /// Broken off; worth another attempt. The second value says whether the coordinator had welcomed us.
    Broken(String, bool),
    /// Not worth one.
    Refused(String),
    /// Nor is this: nobody believes us here.
    Quarantined(String),
    /// Nor is this: the coordinator is of another version.
    Unreadable(WireError),
    /// The worker's own failure.
    Worker(io::Error),
}

type Work = JoinHandle<io::Result<()>>;
type Client = EvaluatorsClient<InterceptedService<Channel, Bearer>>;

/// Takes part until the coordinator sends the evaluator away or `shutdown` is ready, both of which are `Ok`.
///
/// Each connection gets a fresh worker: the coordinator remembers nothing of a broken one.
///
/// # Errors
/// [`DialError`]: what another attempt would not mend.
pub async fn run(
    options: DialOptions,
    mut start_worker: impl FnMut(mpsc::Receiver<Order>, mpsc::Sender<Report>) -> Work,
    shutdown: impl Future<Output = ()>,
) -> Result<(), DialError> {
    let endpoint = options.security.endpoint(&options.url).map_err(DialError::Address)?;
    let mut shutdown = pin!(shutdown);
    let (mut failures, mut since) = (0, Instant::now());
    loop {
        let dialled = Instant::now();
        options.observer.dials();
        let (reason, welcomed) = match stay(&options, &endpoint, &mut start_worker, shutdown.as_mut()).await {
            Ended::Left => return Ok(()),
            Ended::Refused(reason) => {
                return Err(DialError::Refused { url: options.url, reason });
            }
            Ended::Quarantined(reason) => {
                return Err(DialError::Quarantined { url: options.url, reason });
            }
            Ended::Unreadable(problem) => {
                return Err(DialError::Unreadable { url: options.url, problem });
            }
            Ended::Worker(error) => return Err(DialError::Worker(error)),
            Ended::Broken(reason, welcomed) => {
                if welcomed {
                    since = Instant::now();
                }
                failures = in_vain(failures, welcomed.then(|| dialled.elapsed()), options.longest_pause);
                (reason, welcomed)
            }
        };
        let pause = back_off(failures, options.longest_pause, RandomState::new().build_hasher().finish());
        failures += 1;
        if options.give_up_after.is_some_and(|limit| since.elapsed() + pause > limit) {
            let seconds = since.elapsed().as_secs_f64();
            return Err(DialError::GaveUp { url: options.url, seconds, reason });
        }
        let what = if welcomed { "lost" } else { "not reachable" };
        warn!("coordinator {} {what} ({reason}); next try in {:.1} s", options.url, pause.as_secs_f64());
        tokio::select! {
            () = sleep(pause) => {}
            () = shutdown.as_mut() => return Ok(()),
        }
    }
}

/// The attempts in vain that count for the next pause. Only a stay longer than the longest pause wipes them out:
/// who is welcomed and sent away at once shall not come back ever so fast.
fn in_vain(failures: u32, stayed: Option<Duration>, longest: Duration) -> u32 {
    match stayed {
        Some(stayed) if stayed >= longest => 0,
        _ => failures,
    }
}

/// Doubles from the first pause to the longest; `random` takes up to half of it away, so that many evaluators
/// do not come back at once.
fn back_off(failures: u32, longest: Duration, random: u64) -> Duration {
    let whole = FIRST_PAUSE.saturating_mul(1 << failures.min(20)).min(longest);
    whole.mul_f64(1.0 - 0.5 * (random as f64 / u64::MAX as f64))
}

/// One connection, from the first word to the last.
async fn stay(
    options: &DialOptions,
    endpoint: &Endpoint,
    start_worker: &mut impl FnMut(mpsc::Receiver<Order>, mpsc::Sender<Report>) -> Work,
    mut shutdown: Pin<&mut impl Future<Output = ()>>,
) -> Ended {
    let (out, reports) = mpsc::channel(LINK);
    let welcomed = tokio::select! {
        welcomed = greet(options, endpoint, &out, reports) => welcomed,
        () = shutdown.as_mut() => return Ended::Left,
    };
    let orders = match welcomed {
        Ok(orders) => orders,
        Err(ended) => return ended,
    };
    let _welcome = options.observer.welcomed();
    let (to_worker, worker_orders) = mpsc::channel(LINK);
    let (worker_reports, from_worker) = mpsc::channel(LINK);
    let worker = start_worker(worker_orders, worker_reports);
    let ended = pump(orders, to_worker, from_worker, out, options.silence, shutdown.as_mut()).await;
    tokio::select! {
        biased; // when `shutdown` has ended the stay, it may not be asked again
        ended = end_worker(worker, ended) => ended,
        () = shutdown => Ended::Left,
    }
}

/// Connects, says hello and waits for the welcome.
async fn greet(
    options: &DialOptions,
    endpoint: &Endpoint,
    out: &mpsc::Sender<v1::Report>,
    reports: mpsc::Receiver<v1::Report>,
) -> Result<Streaming<v1::Order>, Ended> {
    let broken = |reason: String| Ended::Broken(reason, false);
    let channel = endpoint.connect().await.map_err(|error| broken(root_cause(&error)))?;
    let client: Client = EvaluatorsClient::with_interceptor(channel, options.security.bearer());
    let mut client = client
        .max_decoding_message_size(proto::client::MESSAGE)
        .max_encoding_message_size(proto::client::MESSAGE);
    let hello = v1::Report { kind: Some(report::Kind::Hello(options.hello.clone().into())) };
    out.send(hello).await.map_err(|_| broken("no stream".to_owned()))?;
    let called = timeout(options.silence, client.work(ReceiverStream::new(reports)));
    let answered = called.await.map_err(|_| broken("no answer to hello".to_owned()))?;
    let mut orders = answered.map_err(|status| failed_call(&status))?.into_inner();
    let first =
        timeout(options.silence, orders.message()).await.map_err(|_| broken("no welcome".to_owned()))?;
    let first = first.map_err(|status| failed_call(&status))?;
    match first.and_then(|order| order.kind) {
        Some(order::Kind::Welcome(welcome)) => {
            info!(
                "coordinator {} ({}) welcomes us as evaluator-{}",
                options.url, welcome.version, welcome.evaluator
            );
            Ok(orders)
        }
        Some(order::Kind::Refused(refusal)) => Err(refused(refusal, false)),
        _ => Err(broken("neither a welcome nor a refusal".to_owned())),
    }
}

/// What a call's failure means: a wrong token or a hello that cannot be read stays wrong, the rest may pass.
fn failed_call(status: &Status) -> Ended {
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument => {
            Ended::Refused(status.message().to_owned())
        }
        Code::Unimplemented => Ended::Broken("no Zeroth coordinator at this address".to_owned(), false),
        _ => Ended::Broken(status.source().map_or(status.message().to_owned(), root_cause), false),
    }
}

/// What a refusal means: a failure may pass, anything else stays.
fn refused(refusal: v1::Refusal, welcomed: bool) -> Ended {
    match Refusal::try_from(refusal) {
        Ok(Refusal::Failed(why)) => Ended::Broken(why, welcomed),
        Ok(Refusal::Quarantined(why)) => Ended::Quarantined(why),
        Ok(refusal) => Ended::Refused(refusal.to_string()),
        Err(error) => Ended::Unreadable(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_differ_by_half() {
        let seconds = |failures, random| back_off(failures, Duration::from_secs(10), random).as_secs_f64();
        assert_eq!([seconds(0, 0), seconds(1, 0), seconds(3, 0)], [0.2, 0.4, 1.6]);
        assert_eq!(seconds(40, 0), 10.0);
        assert_eq!(seconds(40, u64::MAX), 5.0);
    }

    #[test]
    fn only_a_stay_that_lasts_makes_the_pauses_short_again() {
        let in_vain = |failures, stayed| in_vain(failures, stayed, Duration::from_secs(10));
        assert_eq!(in_vain(3, None), 3);
        assert_eq!(in_vain(3, Some(Duration::from_secs(9))), 3);
        assert_eq!(in_vain(3, Some(Duration::from_secs(10))), 0);
    }
}
