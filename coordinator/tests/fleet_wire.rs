//! Fleet, server and dialler over a real socket, with a fake worker: the wire changes nothing, and what breaks
//! on it is told or mended.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test's helpers, too, end by panicking

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use coordinator::fleet::{Expected, Fleet, Gathered, Handle, Settings};
use coordinator::progress::Progress;
use coordinator::serve::cli::connect;
use coordinator::serve::clients::Clients;
use coordinator::serve::{ServeError, ServeOptions, serve};
use evaluator::dial::{self, DialError, DialOptions};
use proto::client::{Files, Security};
use proto::v1::ListRequest;
use proto::v1::runs_client::RunsClient;
use shared::ids::{ContextVersion, Layer};
use shared::messages::{
    Answer, CanaryOutcome, ContextUpdate, ExampleSet, Hello, Lease, Order, Outcome, Prepare, Prompted,
    Report, Start, Work,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

#[path = "../src/fleet/fixtures.rs"]
mod fixtures;

use fixtures::{RUN, examples, hello, ready};

const DIM: usize = 50;

fn prepare() -> Prepare {
    Prepare { dim: DIM as u32, ..fixtures::prepare() }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), future).await.expect("it hangs")
}

/// Losses that depend on every bit of the candidate and of the context.
fn outcomes(work: &Work, context: &[Vec<f32>]) -> Vec<Outcome> {
    let base: f32 = context.iter().flatten().sum();
    match work {
        Work::Evaluate { candidates, examples, .. } => candidates
            .iter()
            .map(|z| Outcome {
                losses: examples.clone().map(|e| z.iter().sum::<f32>().sin() + base + e as f32).collect(),
                predicted: examples.clone().map(|e| e % 2).collect(),
                logits: Vec::new(),
            })
            .collect(),
        Work::Score { examples, .. } => {
            let n = examples.len();
            vec![Outcome { losses: vec![base; n], predicted: vec![1; n], logits: vec![base; 2 * n] }]
        }
    }
}

/// What it finds of a canary.
fn canary(work: &Work, context: &[Vec<f32>]) -> Option<CanaryOutcome> {
    let Work::Evaluate { layer, canary: Some(canary), .. } = work else { return None };
    let examples = canary.example..canary.example + 1;
    let alone = Work::Evaluate { layer: *layer, candidates: vec![canary.z.clone()], examples, canary: None };
    let outcome = &outcomes(&alone, context)[0];
    Some(CanaryOutcome { loss: outcome.losses[0], predicted: outcome.predicted[0] })
}

/// A worker without a model.
async fn fake(
    mut orders: mpsc::Receiver<Order>,
    reports: mpsc::Sender<Report>,
    pause: Duration,
    lie: f32,
) -> std::io::Result<()> {
    let mut context = Vec::new();
    while let Some(order) = orders.recv().await {
        let report = match order {
            Order::Prepare(prepare) => Report::Ready(Box::new(ready(prepare.run))),
            Order::Start(start) => {
                context = start.context;
                continue;
            }
            Order::SetContext(update) => {
                context[update.layer.index()] = update.z;
                continue;
            }
            Order::Lease(Lease { id, work, .. }) => {
                sleep(pause).await;
                let (mut outcomes, mut canary) = (outcomes(&work, &context), canary(&work, &context));
                outcomes.iter_mut().flat_map(|outcome| &mut outcome.losses).for_each(|loss| *loss += lie);
                canary.iter_mut().for_each(|canary| canary.loss += lie);
                Report::Answer(Answer { lease: id, outcomes, canary })
            }
            Order::Forget(_) => continue,
            Order::Drain => Report::Leaving,
        };
        let leaving = report == Report::Leaving;
        if reports.send(report).await.is_err() || leaving {
            break;
        }
    }
    Ok(())
}

/// A fleet and its server.
struct House {
    fleet: Handle,
    address: SocketAddr,
    server: JoinHandle<Result<(), ServeError>>,
    close: oneshot::Sender<()>,
}

impl House {
    async fn open(options: ServeOptions) -> Self {
        let (fleet, _owner) = Fleet::spawn(Settings::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (close, closing) = oneshot::channel::<()>();
        let clients = Clients {
            progress: watch::channel(Progress::default()).1,
            fleet: fleet.status(),
            cancel: watch::channel(false).0,
            artefact: "none".into(),
        };
        let server = tokio::spawn(serve(listener, fleet.clone(), clients, options, async move {
            let _ = closing.await;
        }));
        Self { fleet, address, server, close }
    }

    async fn close(self) {
        self.close.send(()).unwrap();
        within(self.server).await.unwrap().unwrap();
    }
}

fn options(address: SocketAddr, weights: &str) -> DialOptions {
    DialOptions {
        url: format!("http://{address}"),
        security: Security::default(),
        hello: hello(weights),
        give_up_after: Some(Duration::from_secs(15)),
    }
}

type Dialled = JoinHandle<Result<(), DialError>>;

/// Dials with fake workers, counting how many were started.
fn dial(options: DialOptions, pause: Duration) -> (Dialled, Arc<AtomicUsize>) {
    dial_as(options, pause, 0.0)
}

/// As `dial`, with workers that add `lie` to every loss.
fn dial_as(options: DialOptions, pause: Duration, lie: f32) -> (Dialled, Arc<AtomicUsize>) {
    let started = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&started);
    let start = move |orders, reports| {
        count.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(fake(orders, reports, pause, lie))
    };
    (tokio::spawn(dial::run(options, start, std::future::pending())), started)
}

fn candidates(seed: u64) -> Vec<Vec<f32>> {
    (0..12)
        .map(|c| (0..DIM).map(|i| ((seed * 7919 + c * 104_729 + i as u64) % 997) as f32 / 31.0).collect())
        .collect()
}

/// A short run: what an evaluator gets to see of a real one.
async fn short_run(fleet: &Handle) -> (Vec<Gathered>, Outcome) {
    let begun = within(fleet.begin(prepare(), Expected::default())).await.unwrap();
    assert_eq!(begun.ready, ready(RUN));
    let context = vec![vec![0.25; DIM]; 2];
    let version = ContextVersion(0);
    fleet.start(Start { run: RUN, projection_stds: vec![1.0; 2], version, context }).await.unwrap();
    let mut all = Vec::new();
    for version in 0..6 {
        let layer = Layer(version as u32 % 2);
        let offered = fleet.offer(RUN, ContextVersion(version), layer, candidates(version), 0..4);
        let gathered = within(offered.await.unwrap().gathered()).await.unwrap();
        all.push(Gathered { evaluators: 0, ..gathered }); // who answered is no result
        let z = candidates(version)[3].clone();
        let layer = Layer(version as u32 % 2);
        let version = ContextVersion(version + 1);
        fleet.set_context(ContextUpdate { run: RUN, version, layer, z }).await.unwrap();
    }
    let inline = ExampleSet::Inline(examples(150));
    let scored = within(fleet.score(RUN, ContextVersion(6), Prompted::Context, inline)).await.unwrap();
    (all, scored)
}

/// The same run on a link without a wire.
async fn in_process() -> (Vec<Gathered>, Outcome) {
    let (fleet, _owner) = Fleet::spawn(Settings::default());
    let link = fleet.attach(hello("m")).await.unwrap();
    tokio::spawn(fake(link.orders, link.reports, Duration::ZERO, 0.0));
    short_run(&fleet).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wire_changes_no_bit_and_drained_evaluators_end_well() {
    let house = House::open(ServeOptions::default()).await;
    let (one, _) = dial(options(house.address, "m"), Duration::ZERO);
    let (two, _) = dial(options(house.address, "m"), Duration::from_millis(3));
    let over_the_wire = short_run(&house.fleet).await;
    assert_eq!(over_the_wire, in_process().await);
    within(house.fleet.drain()).await;
    within(one).await.unwrap().unwrap();
    within(two).await.unwrap().unwrap();
    house.close().await;
}

/// Passes bytes on between a dialler and `target`, each connection until it is cut.
async fn proxy(target: SocketAddr) -> (SocketAddr, mpsc::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (cut, mut cuts) = mpsc::channel::<()>(1);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut far = TcpStream::connect(target).await.unwrap();
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                _ = cuts.recv() => {}
            }
        }
    });
    (address, cut)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_cut_in_the_middle_is_dialled_again_and_the_run_goes_on() {
    let house = House::open(ServeOptions::default()).await;
    let (address, cut) = proxy(house.address).await;
    let (dialled, started) = dial(options(address, "m"), Duration::from_millis(30));
    let cutting = tokio::spawn(async move {
        for _ in 0..2 {
            sleep(Duration::from_millis(150)).await;
            cut.send(()).await.unwrap();
        }
        cut // dropped now, it would cut for ever
    });
    let through_cuts = short_run(&house.fleet).await;
    let _cut = within(cutting).await.unwrap();
    assert_eq!(through_cuts, in_process().await);
    assert!(started.load(Ordering::SeqCst) >= 2, "the stream was not cut");
    within(house.fleet.drain()).await;
    within(dialled).await.unwrap().unwrap();
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_model_is_refused() {
    let house = House::open(ServeOptions::default()).await;
    let (_right, _) = dial(options(house.address, "m"), Duration::ZERO);
    within(house.fleet.begin(prepare(), Expected::default())).await.unwrap();
    let (wrong, started) = dial(options(house.address, "other"), Duration::ZERO);
    let error = within(wrong).await.unwrap().unwrap_err();
    assert!(matches!(&error, DialError::Refused { reason, .. } if reason.contains("other")), "{error}");
    assert_eq!(started.load(Ordering::SeqCst), 0);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_evaluator_dropped_later_is_told_why() {
    let house = House::open(ServeOptions::default()).await;
    let (early, _) = dial(options(house.address, "other"), Duration::ZERO);
    let mut status = house.fleet.status();
    within(status.wait_for(|status| !status.evaluators.is_empty())).await.unwrap();
    let fleet = house.fleet.clone();
    let begin = tokio::spawn(async move {
        fleet.begin(prepare(), Expected { model: Some(hello("m").model), ..Expected::default() }).await
    });
    let error = within(early).await.unwrap().unwrap_err();
    assert!(matches!(error, DialError::Refused { .. }), "{error}");
    begin.abort();
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_evaluator_that_lies_is_sent_away_and_changes_no_bit() {
    let house = House::open(ServeOptions::default()).await;
    let named = |name: &str| {
        let options = options(house.address, "m");
        DialOptions { hello: Hello { name: name.to_owned(), ..options.hello }, ..options }
    };
    let pause = Duration::from_millis(20); // long enough for all to have a part
    let honest = ["one", "two"].map(|name| dial(named(name), pause).0);
    let (liar, _) = dial_as(named("liar"), pause, 0.25);
    let mut status = house.fleet.status();
    within(status.wait_for(|status| status.evaluators.len() == 3)).await.unwrap();
    let with_a_liar = short_run(&house.fleet).await;
    assert_eq!(with_a_liar, in_process().await);
    let again = dial(named("liar"), pause).0;
    for dialled in [liar, again] {
        let error = within(dialled).await.unwrap().unwrap_err();
        let told = "evaluator liar is quarantined";
        assert!(matches!(&error, DialError::Refused { reason, .. } if reason.starts_with(told)), "{error}");
    }
    within(status.wait_for(|status| status.quarantined.len() == 1)).await.unwrap();
    within(house.fleet.drain()).await;
    for dialled in honest {
        within(dialled).await.unwrap().unwrap();
    }
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_token_is_asked_for() {
    let house = House::open(ServeOptions::default().with_token("open sesame?no:one-word")).await;
    let try_with = async |token: Option<&str>| {
        let mut options = options(house.address, "m");
        if let Some(token) = token {
            options.security = Security::default().with_token(token).unwrap();
        }
        let (dialled, _) = dial(options, Duration::ZERO);
        within(dialled).await.unwrap()
    };
    for wrong in [None, Some("guess")] {
        let error = try_with(wrong).await.unwrap_err();
        assert!(
            matches!(&error, DialError::Refused { reason, .. } if reason.contains("--token-file")),
            "{error}"
        );
    }
    let mut right = options(house.address, "m");
    right.security = Security::default().with_token("open sesame?no:one-word").unwrap();
    let (dialled, _) = dial(right, Duration::ZERO);
    within(house.fleet.begin(prepare(), Expected::default())).await.unwrap();
    within(house.fleet.drain()).await;
    within(dialled).await.unwrap().unwrap();
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaving_on_ones_own_wish_gives_the_leases_back() {
    let house = House::open(ServeOptions::default()).await;
    let (leave, left) = oneshot::channel::<()>();
    let start = |orders, reports| tokio::spawn(fake(orders, reports, Duration::from_secs(60), 0.0));
    let slow = tokio::spawn(dial::run(options(house.address, "m"), start, async move {
        let _ = left.await;
    }));
    let fleet = house.fleet.clone();
    let run = tokio::spawn(async move { short_run(&fleet).await });
    let mut status = house.fleet.status();
    within(status.wait_for(|status| status.evaluators.iter().any(|e| e.leases > 0))).await.unwrap();
    leave.send(()).unwrap();
    within(slow).await.unwrap().unwrap();
    let (_quick, _) = dial(options(house.address, "m"), Duration::ZERO);
    assert_eq!(within(run).await.unwrap(), in_process().await);
    house.close().await;
}

#[tokio::test]
async fn nobody_there_is_given_up() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let options = DialOptions { give_up_after: Some(Duration::from_millis(500)), ..options(free, "m") };
    let error = within(dial(options, Duration::ZERO).0).await.unwrap().unwrap_err();
    assert!(matches!(error, DialError::GaveUp { .. }), "{error}");
    let nonsense = DialOptions { url: "ftp://x".to_owned(), ..self::options(free, "m") };
    let error = within(dial(nonsense, Duration::ZERO).0).await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "coordinator address ftp://x: must begin with http:// or https://");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_see_who_takes_part() {
    let house = House::open(ServeOptions::default()).await;
    let (_worker, _) = dial(options(house.address, "m"), Duration::ZERO);
    short_run(&house.fleet).await;
    let url = format!("http://{}", house.address);
    let (channel, token) = connect(&Files::default(), &url).await.unwrap();
    let mut client = RunsClient::with_interceptor(channel, token);
    let list = async { client.list(ListRequest {}).await.unwrap().into_inner() };
    let list = within(list).await;
    assert_eq!((list.runs.len(), list.evaluators.len()), (1, 1));
    assert_eq!(list.evaluators[0].name, "fake");
    house.close().await;
}
