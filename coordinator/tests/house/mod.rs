//! A fleet and its server, evaluators without a model, and a short run: what the tests over the wire begin with.
#![allow(dead_code)] // not every test needs all of it

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use coordinator::fleet::{Expected, Fleet, Gathered, Handle, Settings};
use coordinator::progress::Progress;
use coordinator::serve::clients::Clients;
use coordinator::serve::{ServeError, ServeOptions, serve};
use evaluator::dial::{self, DialError, DialOptions};
use evaluator::observe::Observer;
use proto::client::Security;
use shared::ids::{ContextVersion, Layer, RunId};
use shared::messages::{
    Answer, CanaryOutcome, ContextUpdate, ExampleSet, Hello, Lease, Order, Outcome, Prepare, Prompted, Ready,
    Report, Start, Work,
};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

#[path = "../../src/fleet/fixtures.rs"]
mod fixtures;

use fixtures::{RUN, examples, ready};

pub(crate) const DIM: usize = 50;

/// An evaluator with that model.
pub(crate) fn hello(weights: &str) -> Hello {
    fixtures::hello(weights)
}

/// What an honest evaluator finds.
pub(crate) fn ready_for(run: u64) -> Ready {
    ready(RunId(run))
}

pub(crate) fn prepare() -> Prepare {
    Prepare { dim: DIM as u32, ..fixtures::prepare() }
}

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), future).await.expect("it hangs")
}

/// Losses that depend on every bit of the candidate and of the context.
pub(crate) fn outcomes(work: &Work, context: &[Vec<f32>]) -> Vec<Outcome> {
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

/// A worker without a model, which adds `lie` to every loss.
pub(crate) async fn fake(
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
pub(crate) struct House {
    pub(crate) fleet: Handle,
    pub(crate) address: SocketAddr,
    pub(crate) server: JoinHandle<Result<(), ServeError>>,
    pub(crate) close: oneshot::Sender<()>,
}

impl House {
    pub(crate) async fn open(options: ServeOptions) -> Self {
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

    pub(crate) async fn close(self) {
        self.close.send(()).unwrap();
        within(self.server).await.unwrap().unwrap();
    }
}

pub(crate) fn options(address: SocketAddr, weights: &str) -> DialOptions {
    DialOptions {
        url: format!("http://{address}"),
        security: Security::default(),
        hello: hello(weights),
        give_up_after: Some(Duration::from_secs(15)),
        silence: Duration::from_secs(20),
        longest_pause: Duration::from_secs(10),
        observer: Observer::default(),
    }
}

pub(crate) type Dialled = JoinHandle<Result<(), DialError>>;

/// Dials with fake workers, counting how many were started.
pub(crate) fn dial(options: DialOptions, pause: Duration) -> (Dialled, Arc<AtomicUsize>) {
    dial_as(options, pause, 0.0)
}

/// As `dial`, with workers that add `lie` to every loss.
pub(crate) fn dial_as(options: DialOptions, pause: Duration, lie: f32) -> (Dialled, Arc<AtomicUsize>) {
    let started = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&started);
    let start = move |orders, reports| {
        count.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(fake(orders, reports, pause, lie))
    };
    (tokio::spawn(dial::run(options, start, std::future::pending())), started)
}

pub(crate) fn candidates(seed: u64) -> Vec<Vec<f32>> {
    (0..12)
        .map(|c| (0..DIM).map(|i| ((seed * 7919 + c * 104_729 + i as u64) % 997) as f32 / 31.0).collect())
        .collect()
}

/// A short run: what an evaluator gets to see of a real one.
pub(crate) async fn short_run(fleet: &Handle) -> (Vec<Gathered>, Outcome) {
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
pub(crate) async fn in_process() -> (Vec<Gathered>, Outcome) {
    let (fleet, _owner) = Fleet::spawn(Settings::default());
    let link = fleet.attach(hello("m")).await.unwrap();
    tokio::spawn(fake(link.orders, link.reports, Duration::ZERO, 0.0));
    short_run(&fleet).await
}
