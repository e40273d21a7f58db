//! Hostile callers, one kind a test, beside honest evaluators: each is refused and told why, the log says so once, and
//! the run ends with the result it has without them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test's helpers, too, end by panicking

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use coordinator::serve::cli::{Args, connect};
use coordinator::serve::{Limits, ServeOptions};
use evaluator::dial::DialError;
use proto::client::{Files, Security};
use proto::v1::runs_client::RunsClient;
use proto::v1::{self, ListRequest, order, report};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tonic::Code;

mod frames;
mod house;
mod log;
mod unchecked;

use frames::{Connection, call};
use house::{House, dial, hello, in_process, options, short_run, within};
use unchecked::Evaluator;

/// The evaluators' call.
const WORK: &str = "/zeroth.v1.Evaluators/Work";

/// What an evaluator got to see of a run.
type Seen = (Vec<coordinator::fleet::Gathered>, shared::messages::Outcome);

/// A house with two honest evaluators and a run on its way.
struct Home {
    house: House,
    run: JoinHandle<Seen>,
}

impl Home {
    async fn open(options: ServeOptions) -> Self {
        log::begin();
        let house = House::open(options).await;
        let pause = Duration::from_millis(15); // long enough that attacks fall into the run
        let (_one, _) = dial(self::options(house.address, "m"), pause);
        let (_two, _) = dial(self::options(house.address, "m"), pause);
        let fleet = house.fleet.clone();
        let run = tokio::spawn(async move { short_run(&fleet).await });
        Self { house, run }
    }

    fn address(&self) -> SocketAddr {
        self.house.address
    }

    /// The run's end, unharmed.
    async fn unharmed(self) {
        assert_eq!(within(self.run).await.unwrap(), in_process().await);
        self.house.close().await;
    }
}

/// An answer that has the lease's shape and no sense.
fn nonsense(lease: &v1::Lease) -> v1::Answer {
    let Some(v1::lease::Work::Evaluate(work)) = &lease.work else {
        return v1::Answer { lease: lease.id, outcomes: Vec::new(), canary: None };
    };
    let examples = work.examples.unwrap();
    let n = (examples.end - examples.start) as usize;
    let outcome = v1::Outcome { losses: vec![0; 4 * n], predicted: vec![0; n], logits: Vec::new() };
    v1::Answer { lease: lease.id, outcomes: vec![outcome; work.candidates.len()], canary: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_to_leases_of_others_are_refused() {
    let home = Home::open(ServeOptions::default()).await;
    for lease in 1..40 {
        let mut thief = Evaluator::join(home.address()).await;
        let answer = v1::Answer { lease, outcomes: vec![v1::Outcome::default(); 12], canary: None };
        thief.say(report::Kind::Answer(answer)).await;
        assert_eq!(thief.reason().await, format!("it answered lease-{lease}, which it does not hold"));
    }
    home.unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replayed_answer_is_refused() {
    let house = House::open(ServeOptions::default()).await;
    let fleet = house.fleet.clone();
    let run = tokio::spawn(async move { short_run(&fleet).await });
    let mut evaluator = Evaluator::join(house.address).await;
    let lease = evaluator.lease().await;
    // The first answer is refused with its reason, and the lease is no longer held; the second is a replay.
    let refusal = v1::Refusal { kind: 4, message: "not now".to_owned(), ..v1::Refusal::default() };
    let refused = v1::Refused { run: lease.run, lease: Some(lease.id), refusal: Some(refusal) };
    evaluator.say(report::Kind::Refused(refused.clone())).await;
    evaluator.say(report::Kind::Answer(nonsense(&lease))).await;
    let reason = evaluator.reason().await;
    assert_eq!(reason, format!("it answered lease-{}, which it does not hold", lease.id));
    let (_honest, _) = dial(options(house.address, "m"), Duration::ZERO);
    // A lease of a stay that has ended, answered in the next one.
    let mut again = Evaluator::join(house.address).await;
    again.say(report::Kind::Answer(nonsense(&lease))).await;
    assert_eq!(again.reason().await, reason);
    assert_eq!(within(run).await.unwrap(), in_process().await);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_in_the_wrong_order_is_refused() {
    let home = Home::open(ServeOptions::default()).await;
    let heartbeat = report::Kind::Heartbeat(v1::Heartbeat { progress: 1 });
    let status = Evaluator::call(home.address(), heartbeat).await.map(drop).unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "the first report must be hello"));
    let empty = v1::Hello { model: None, ..hello("m").into() };
    let status = Evaluator::call(home.address(), report::Kind::Hello(empty)).await.map(drop).unwrap_err();
    assert_eq!(status.message(), "hello.model is missing");

    let mut twice = Evaluator::join(home.address()).await;
    twice.say(report::Kind::Hello(hello("m").into())).await;
    assert_eq!(twice.reason().await, "unexpected hello");

    let mut torn = Evaluator::join(home.address()).await;
    let lease = torn.lease().await;
    let three = v1::Outcome { losses: vec![0; 3], ..v1::Outcome::default() };
    let answer = v1::Answer { outcomes: vec![three], ..nonsense(&lease) };
    torn.say(report::Kind::Answer(answer)).await;
    assert!(torn.reason().await.ends_with("which is no whole number of f32"));

    let mut ready = Evaluator::join(home.address()).await;
    ready.lease().await;
    ready.say(report::Kind::Ready(house::ready_for(1).into())).await;
    assert_eq!(ready.reason().await, "it is ready for run-1 twice");
    home.unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_report_may_be_larger_than_what_was_asked_for() {
    let home = Home::open(ServeOptions::default()).await;
    // Announced alone, without the bytes: nothing is waited for and nothing is kept.
    for length in [u32::MAX, 64 << 20, (64 << 10) + 1] {
        let bytes = [&[0][..], &length.to_be_bytes(), b"zeroth"].concat();
        let status = call(home.address(), WORK, None, bytes).await;
        assert_eq!(status.message(), format!("a report of {length} bytes, where none has more than 65536"));
    }
    // A name of a megabyte in an otherwise good hello.
    let long = v1::Hello { name: "x".repeat(1 << 20), ..hello("m").into() };
    let status = Evaluator::call(home.address(), report::Kind::Hello(long)).await.map(drop).unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    // An answer that is larger than its lease can need.
    let mut evaluator = Evaluator::join(home.address()).await;
    let lease = evaluator.lease().await;
    let outcomes = vec![v1::Outcome { losses: vec![0; 400], ..v1::Outcome::default() }; 1000];
    evaluator.say(report::Kind::Answer(v1::Answer { lease: lease.id, outcomes, canary: None })).await;
    assert!(evaluator.reason().await.contains("a report of 4"));
    home.unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_is_cut_off() {
    let home = Home::open(ServeOptions::default()).await;
    let mut state = 1u64;
    for length in [1, 9, 24, 100, 5000, 100_000] {
        let mut garbage = vec![0; length];
        garbage.iter_mut().for_each(|byte| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (state >> 56) as u8;
        });
        let mut plain = TcpStream::connect(home.address()).await.unwrap();
        let _ = plain.write_all(&garbage).await; // it may be cut before all of it is gone
        plain.shutdown().await.ok();
        let _ = within(plain.read_to_end(&mut Vec::new())).await; // closed or reset, but at once
        // The same behind a preface, and behind a good call.
        for begin in [Vec::new(), frames::headers(WORK)] {
            let mut connection = Connection::open(home.address()).await;
            connection.send(&begin).await;
            connection.send(&garbage).await;
            connection.finish().await;
            connection.end().await;
        }
    }
    let mut http1 = TcpStream::connect(home.address()).await.unwrap();
    http1.write_all(b"GET /metrics HTTP/1.1\r\nhost: here\r\n\r\n").await.unwrap();
    let _ = within(http1.read_to_end(&mut Vec::new())).await;
    home.unharmed().await;
    let lines = log::count("sent nothing that is a call");
    assert!((1..=10).contains(&lines), "{lines} lines; one a house, and each test has one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_idle_connections_and_slow_ones_keep_nobody_out() {
    let limits = Limits { strangers: 600, first_call: Duration::from_millis(1500), ..Limits::default() };
    let house = House::open(ServeOptions::default().with_limits(limits)).await;
    // Both ends are files of this process.
    let many = (shared::system::open_files_limit().unwrap_or(256) / 3).min(1000) as usize;
    let mut idle = Vec::new();
    for index in 0..many {
        let mut connection = TcpStream::connect(house.address).await.unwrap();
        if index % 3 == 0 {
            connection.write_all(&frames::PREFACE[..index % 24]).await.unwrap();
        }
        idle.push(connection);
    }
    // One byte now and then, for ever.
    let mut slow = TcpStream::connect(house.address).await.unwrap();
    let slow = tokio::spawn(async move {
        for byte in frames::PREFACE.iter().chain(&[0; 1000]) {
            if slow.write_all(&[*byte]).await.is_err() {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
        panic!("it was borne to the end");
    });
    let (_honest, _) = dial(options(house.address, "m"), Duration::ZERO);
    assert_eq!(short_run(&house.fleet).await, in_process().await);
    // In the end all are cut, without a word of theirs.
    for mut connection in idle {
        let _ = within(connection.read_to_end(&mut Vec::new())).await; // closed or reset
    }
    within(slow).await.unwrap();
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_without_calls_is_closed_and_one_with_a_call_is_not() {
    let short = Duration::from_millis(300);
    let limits = Limits { first_call: short, idle: short, ..Limits::default() };
    let house = House::open(ServeOptions::default().with_limits(limits)).await;
    let (_honest, started) = dial(options(house.address, "m"), Duration::from_millis(200));
    let mut silent = Connection::open(house.address).await;
    let mut done = Connection::open(house.address).await;
    done.send(&frames::headers("/no.such.Service/Call")).await;
    within(silent.end()).await;
    within(done.end()).await;
    // Longer than the limit, with pauses in which nothing is asked of the evaluator.
    assert_eq!(short_run(&house.fleet).await, in_process().await);
    sleep(4 * short).await;
    assert_eq!(house.fleet.status().borrow().evaluators.len(), 1);
    assert_eq!(started.load(std::sync::atomic::Ordering::SeqCst), 1);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_callers_than_there_is_room_for() {
    let limits = Limits { guests: 2, ..Limits::default() };
    let house = House::open(ServeOptions::default().with_limits(limits)).await;
    let _one = Evaluator::join(house.address).await;
    let mut two = Evaluator::join(house.address).await;
    assert!(matches!(two.next().await, Some(order::Kind::Welcome(_))));
    let mut three = Evaluator::join(house.address).await;
    assert!(three.reason().await.contains("as many callers as it has room for"));
    drop(two);
    let freed = async {
        loop {
            let mut next = Evaluator::join(house.address).await;
            if matches!(next.next().await, Some(order::Kind::Welcome(_))) {
                return;
            }
        }
    };
    within(freed).await; // its place, once the coordinator has seen it go
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_without_the_token_are_refused_and_the_log_is_not_theirs() {
    log::begin();
    let token = "a long and secret word".replace(' ', "-");
    let house = House::open(ServeOptions::default().with_token(&token)).await;
    let honest = || {
        let mut options = options(house.address, "m");
        options.security = Security::default().with_token(&token).unwrap();
        dial(options, Duration::from_millis(15))
    };
    let (_honest, _) = honest();
    let fleet = house.fleet.clone();
    let run = tokio::spawn(async move { short_run(&fleet).await });
    for attempt in 0..60 {
        let guess = match attempt % 3 {
            0 => None,
            1 => Some("Bearer guess".to_owned()),
            _ => Some(format!("Bearer {}x", &token[..token.len() - 1])),
        };
        for path in [WORK, "/zeroth.v1.Runs/List", "/zeroth.v1.Runs/Cancel"] {
            let status = call(house.address, path, guess.as_deref(), Vec::new()).await;
            assert_eq!(status.code(), Code::Unauthenticated, "{status}");
            assert!(status.message().contains("--token-file"), "{status}");
        }
    }
    assert_eq!(within(run).await.unwrap(), in_process().await);
    house.close().await;
    assert!(log::count("without the right token") <= 2, "one line a service");
    assert_eq!(log::count(&token) + log::count("guess"), 0);
}

fn tls(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(file)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_certificate_nobody_gets_in() {
    let args = Args {
        tls_cert: Some(tls("server.pem")),
        tls_key: Some(tls("server.key")),
        tls_client_ca: Some(tls("ca.pem")),
        ..Args::default()
    };
    let house = House::open(ServeOptions::try_from(&args).unwrap()).await;
    let url = format!("https://{}", house.address);
    let files = |cert: Option<&str>| Files {
        ca: Some(tls("ca.pem")),
        cert: cert.map(|name| tls(&format!("{name}.pem"))),
        key: cert.map(|name| tls(&format!("{name}.key"))),
        ..Files::default()
    };
    let dial_with = |files: &Files| {
        let mut options = options(house.address, "m");
        options.url.clone_from(&url);
        options.security = Security::read(files).unwrap();
        options.give_up_after = Some(Duration::from_secs(1));
        dial(options, Duration::from_millis(15)).0
    };
    let list = async |files: &Files| {
        let (channel, token) = connect(files, &url).await.map_err(|error| error.to_string())?;
        let mut client = RunsClient::with_interceptor(channel, token);
        let listed = within(client.list(ListRequest {})).await;
        listed.map(drop).map_err(|status| status.to_string())
    };
    let _honest = dial_with(&files(Some("client")));
    let fleet = house.fleet.clone();
    let run = tokio::spawn(async move { short_run(&fleet).await });
    // None; one that is for servers; and none of TLS at all.
    for cert in [None, Some("server")] {
        assert!(list(&files(cert)).await.is_err(), "{cert:?}");
        let error = within(dial_with(&files(cert))).await.unwrap().unwrap_err();
        assert!(matches!(error, DialError::GaveUp { .. }), "{cert:?}: {error}");
    }
    let mut plain = Connection::open(house.address).await;
    plain.send(&frames::headers("/zeroth.v1.Runs/List")).await;
    within(plain.end()).await;
    list(&files(Some("client"))).await.unwrap();
    assert_eq!(within(run).await.unwrap(), in_process().await);
    house.close().await;
}
