//! The fleet with fake workers on real links.

use shared::ids::ContextVersion;
use shared::messages::{Answer, CanaryOutcome, Lease, Outcome, Refused, Work};
use tokio::time::timeout;

use super::fixtures::{RUN, examples, hello, prepare, ready};
use super::*;

fn start() -> Start {
    Start {
        run: RUN,
        projection_stds: vec![1.0; 2],
        version: ContextVersion(0),
        context: vec![vec![0.0; 2]; 2],
    }
}

fn answer(lease: &Lease) -> Answer {
    let outcomes = match &lease.work {
        Work::Evaluate { candidates, examples, .. } => candidates
            .iter()
            .map(|z| Outcome {
                losses: examples.clone().map(|e| z[0] + e as f32).collect(),
                predicted: examples.clone().map(|_| 1).collect(),
                logits: Vec::new(),
            })
            .collect(),
        Work::Score { examples, .. } => {
            let n = examples.len();
            vec![Outcome { losses: vec![0.5; n], predicted: vec![0; n], logits: vec![1.0; 2 * n] }]
        }
    };
    Answer { lease: lease.id, outcomes, canary: canary(&lease.work) }
}

fn canary(work: &Work) -> Option<CanaryOutcome> {
    let Work::Evaluate { canary: Some(canary), .. } = work else { return None };
    Some(CanaryOutcome { loss: canary.z[0] + canary.example as f32, predicted: 1 })
}

/// Works honestly; after `leases` leases it vanishes.
async fn work(mut link: LinkEnds, mut leases: usize) {
    while let Some(order) = link.orders.recv().await {
        let report = match order {
            Order::Prepare(prepare) if prepare.template == "bad" => {
                let refusal = Refusal::Input("bad template".to_owned());
                Report::Refused(Refused { run: prepare.run, lease: None, refusal })
            }
            Order::Prepare(prepare) => Report::Ready(Box::new(ready(prepare.run))),
            Order::Lease(_) if leases == 0 => return,
            Order::Lease(lease) => {
                leases -= 1;
                Report::Answer(answer(&lease))
            }
            Order::Drain => Report::Leaving,
            Order::Start(_) | Order::SetContext(_) | Order::Forget(_) => continue,
        };
        if link.reports.send(report).await.is_err() {
            return;
        }
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(10), future).await.expect("the fleet hangs")
}

fn candidates(n: usize) -> Vec<Vec<f32>> {
    (0..n).map(|i| vec![10.0 * i as f32; 2]).collect()
}

#[tokio::test]
async fn workers_that_vanish_leave_no_trace_in_the_results() {
    let (fleet, owner) = Fleet::spawn(Settings::default());
    for leases in [0, 1, 2, usize::MAX] {
        tokio::spawn(work(fleet.attach(hello("m")).await.unwrap(), leases));
    }
    within(fleet.begin(prepare(), Expected::default())).await.unwrap();
    within(fleet.start(start())).await.unwrap();
    for version in 0..5 {
        let offered = fleet.offer(RUN, ContextVersion(version), Layer(0), candidates(6), 0..4);
        let gathered = within(within(offered).await.unwrap().gathered()).await.unwrap();
        let expected: Vec<Vec<f32>> =
            (0..6).map(|i| (0..4).map(|e| 10.0 * i as f32 + e as f32).collect()).collect();
        assert_eq!(gathered.losses, expected);
        let version = ContextVersion(version + 1);
        let update = ContextUpdate { run: RUN, version, layer: Layer(1), z: vec![0.0; 2] };
        fleet.set_context(update).await.unwrap();
    }
    within(fleet.drain()).await;
    drop(fleet);
    within(owner).await.unwrap();
}

#[tokio::test]
async fn a_run_waits_for_its_first_evaluator() {
    let (fleet, _owner) = Fleet::spawn(Settings::default());
    let beginning = tokio::spawn({
        let fleet = fleet.clone();
        async move { fleet.begin(prepare(), Expected::default()).await }
    });
    let link = fleet.attach(hello("m")).await.unwrap();
    tokio::spawn(work(link, usize::MAX));
    let begun = within(beginning).await.unwrap().unwrap();
    assert_eq!(begun.model, hello("m").model);
    let set = ExampleSet::Inline(examples(130));
    let scored = within(fleet.score(RUN, ContextVersion(0), Prompted::Manual, set)).await.unwrap();
    assert_eq!((scored.losses.len(), scored.logits.len()), (130, 260));
    let unstarted = fleet.score(RUN, ContextVersion(0), Prompted::Context, ExampleSet::Dev(0..1)).await;
    assert!(matches!(unstarted, Err(FleetError::Refused(Refusal::Failed(_)))));
}

#[tokio::test]
async fn wrong_input_reaches_who_began() {
    let (fleet, _owner) = Fleet::spawn(Settings::default());
    tokio::spawn(work(fleet.attach_sole(hello("m")).await.unwrap(), usize::MAX));
    let bad = Prepare { template: "bad".to_owned(), ..prepare() };
    let error = within(fleet.begin(bad, Expected::default())).await.unwrap_err();
    assert_eq!(error, FleetError::Refused(Refusal::Input("bad template".to_owned())));
}

#[tokio::test]
async fn a_dropped_ticket_is_taken_back() {
    let (fleet, _owner) = Fleet::spawn(Settings { tick: Duration::from_millis(5), ..Settings::default() });
    let mut link = fleet.attach(hello("m")).await.unwrap();
    let reports = link.reports.clone();
    let prepared = tokio::spawn({
        let fleet = fleet.clone();
        async move { fleet.begin(prepare(), Expected::default()).await }
    });
    let Some(Order::Prepare(_)) = link.orders.recv().await else { panic!("no prepare") };
    reports.send(Report::Ready(Box::new(ready(RUN)))).await.unwrap();
    within(prepared).await.unwrap().unwrap();
    fleet.start(start()).await.unwrap();
    let ahead = fleet.offer(RUN, ContextVersion(2), Layer(0), candidates(2), 0..4).await.unwrap();
    drop(ahead);
    tokio::time::sleep(Duration::from_millis(50)).await;
    for version in 1..=2 {
        let (version, z) = (ContextVersion(version), vec![1.0; 2]);
        fleet.set_context(ContextUpdate { run: RUN, version, layer: Layer(0), z }).await.unwrap();
    }
    fleet.end(RUN).await;
    let orders: Vec<Order> = std::iter::from_fn(|| link.orders.try_recv().ok()).collect();
    assert!(!orders.iter().any(|order| matches!(order, Order::Lease(_))), "{orders:?}");
    assert!(orders.ends_with(&[Order::Forget(RUN)]));
}

#[tokio::test]
async fn an_evaluator_that_does_not_read_is_dropped() {
    let (fleet, _owner) = Fleet::spawn(Settings::default());
    let link = fleet.attach(hello("m")).await.unwrap();
    for run in 0..(ORDERS as u64 + 1) {
        let waiting = fleet.begin(Prepare { run: RunId(run), ..prepare() }, Expected::default());
        let _ = timeout(Duration::from_millis(20), waiting).await;
    }
    assert!(matches!(within(link.dropped).await, Ok(Refusal::Failed(_))));
}
