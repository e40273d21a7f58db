//! A worker on a link: leases that come before their context.
#![allow(clippy::unwrap_used, clippy::panic)] // a helper's failure is the test's

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use evaluator::backbone::Dtype;
use evaluator::limits::{Allowed, Limits};
use evaluator::model::Model;
use evaluator::observe::Observer;
use evaluator::resources::Resources;
use evaluator::worker::{HEARTBEAT, Worker};
use shared::ids::{ContextVersion, Layer, LeaseId, RunId};
use shared::messages::{
    Answer, ContextUpdate, Lease, Order, Prepare, Ready, Refusal, Refused, Report, Start, Work,
};
use shared::spec::{Bytes, Init, Injection, ProjectionKind, ReadOut};
use shared::task::{Example, Loss};
use tokio::sync::mpsc;
use tokio::time::timeout;

const RUN: RunId = RunId(7);
const DIM: usize = 3;

fn prepare() -> Prepare {
    let example =
        |(line, text): (u32, &str)| Example { text: text.to_owned(), text_pair: None, label: line % 2, line };
    Prepare {
        run: RUN,
        read_out: ReadOut::MaskedLm,
        temperature: 1.0,
        template: "{text} {mask}".to_owned(),
        words: vec!["a".to_owned(), "b".to_owned()],
        injection: Injection::Add,
        tokens: 2,
        init: Init::Vocabulary,
        loss: Loss::Ce,
        projection: ProjectionKind::Normal,
        dim: DIM as u32,
        seed: 1,
        train: [(1, "a b c"), (2, "no")].map(example).to_vec(),
        dev: Vec::new(),
    }
}

fn model() -> Model {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models/bert-tiny");
    Model::load(folder.to_str().unwrap(), Path::new(""), None, Dtype::F32).unwrap()
}

/// The coordinator's side of a worker's link.
struct Link {
    orders: mpsc::Sender<Order>,
    reports: mpsc::Receiver<Report>,
    layers: usize,
}

impl Link {
    async fn open() -> Self {
        let mut link = Self::with(Limits::default());
        link.prepare(RUN).await.unwrap();
        link.start(0).await;
        link
    }

    /// A worker with nothing to do yet.
    fn with(limits: Limits) -> Self {
        let model = model();
        let layers = model.backbone.layers();
        let resources = Resources::new(1, limits).unwrap();
        let (orders, far_orders) = mpsc::channel(16);
        let (far_reports, reports) = mpsc::channel(16);
        tokio::spawn(
            Worker { model: Arc::new(model), resources, heartbeat: HEARTBEAT, observer: Observer::default() }
                .run(far_orders, far_reports),
        );
        Self { orders, reports, layers }
    }

    /// What becomes of a run that is prepared.
    async fn prepare(&mut self, run: RunId) -> Result<Box<Ready>, Refusal> {
        self.send(Order::Prepare(Box::new(Prepare { run, ..prepare() }))).await;
        match self.report().await {
            Report::Ready(ready) => Ok(ready),
            Report::Refused(Refused { refusal, .. }) => Err(refusal),
            other => panic!("{other:?}"),
        }
    }

    async fn send(&self, order: Order) {
        self.orders.send(order).await.unwrap();
    }

    async fn start(&self, version: u64) {
        let (version, context) = (ContextVersion(version), vec![vec![0.0; DIM]; self.layers]);
        let projection_stds = vec![0.5; self.layers];
        self.send(Order::Start(Start { run: RUN, projection_stds, version, context })).await;
    }

    async fn update(&self, version: u64) {
        let (version, z) = (ContextVersion(version), vec![0.3, -0.2, 0.1]);
        self.send(Order::SetContext(ContextUpdate { run: RUN, version, layer: Layer(0), z })).await;
    }

    async fn lease(&self, id: u64, version: u64) {
        let candidates = vec![vec![0.1, 0.2, 0.3], vec![1.0, 0.0, -1.0]];
        let work = Work::Evaluate { layer: Layer(1), candidates, examples: 0..2, canary: None };
        self.send(Order::Lease(Lease {
            id: LeaseId(id),
            run: RUN,
            version: ContextVersion(version),
            work,
            trace: None,
        }))
        .await;
    }

    /// The next report that is no heartbeat.
    async fn report(&mut self) -> Report {
        loop {
            match timeout(Duration::from_secs(30), self.reports.recv()).await.unwrap().unwrap() {
                Report::Heartbeat { .. } => {}
                report => return report,
            }
        }
    }

    async fn answer(&mut self) -> Answer {
        match self.report().await {
            Report::Answer(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    async fn refused(&mut self) -> Option<LeaseId> {
        match self.report().await {
            Report::Refused(Refused { lease, .. }) => lease,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn what_came_before_its_context_is_done_under_it() {
    let mut link = Link::open().await;
    link.update(1).await;
    link.lease(1, 1).await;
    let in_order = link.answer().await;

    let mut link = Link::open().await;
    link.lease(2, 1).await;
    link.lease(3, 0).await;
    let before = link.answer().await;
    assert_eq!(before.lease, LeaseId(3), "what can be done is not held up");
    link.update(1).await;
    let ahead = link.answer().await;
    assert_eq!((ahead.lease, &ahead.outcomes), (LeaseId(2), &in_order.outcomes));
    assert_ne!(ahead.outcomes, before.outcomes);
}

#[tokio::test]
async fn what_can_never_be_done_is_given_back() {
    let mut link = Link::open().await;
    link.lease(1, 1).await;
    link.start(5).await;
    assert_eq!(link.refused().await, Some(LeaseId(1)));
    for id in 2..=10 {
        link.lease(id, 6).await;
    }
    assert_eq!(link.refused().await, Some(LeaseId(10)), "the ninth is too many");
    link.send(Order::Forget(RUN)).await;
    for id in 2..=9 {
        assert_eq!(link.refused().await, Some(LeaseId(id)));
    }
    link.send(Order::Drain).await;
    assert_eq!(link.report().await, Report::Leaving);
}

#[tokio::test]
async fn a_memory_limit_holds_for_all_runs_together() {
    let alone = Link::with(Limits::default()).prepare(RUN).await.unwrap().memory_bytes;
    let room = model().backbone.weight_bytes() as u64 + alone + 1000;
    let mut link = Link::with(Limits { memory: Allowed::Here(Bytes(room)), ..Limits::default() });
    link.prepare(RUN).await.unwrap();
    link.prepare(RUN).await.expect("anew in its own place");
    let refusal = link.prepare(RunId(8)).await.unwrap_err();
    let Refusal::Failed(problem) = refusal else { panic!("{refusal:?}") };
    assert!(problem.contains("--memory allows") && problem.contains("of them other runs'"), "{problem}");
    link.send(Order::Forget(RUN)).await;
    link.prepare(RunId(8)).await.expect("there is room again");
}
