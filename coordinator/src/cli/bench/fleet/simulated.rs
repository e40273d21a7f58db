//! The evaluators' process: many simulated evaluators, each on a connection of its own, that speak the wire's own
//! messages; they stay until the coordinator sends them away.

use std::collections::{BTreeMap, VecDeque};
use std::io::Read;
use std::time::Duration;

use proto::client::{MESSAGE, Security, root_cause};
use proto::v1::evaluators_client::EvaluatorsClient;
use proto::v1::{self, lease, order, refusal, report};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint;
use tracing::debug;

use super::alarm::Alarm;
use super::device::{Device, Trouble};
use super::plan::Plan;
use super::work;
use crate::error::Error;

/// How often an evaluator says that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// Connections that may fail in a row before an evaluator gives up.
const ATTEMPTS: u32 = 20;

/// How long a stream that has fallen silent stays open.
const SILENT: Duration = Duration::from_secs(5);

/// How long a farewell may take.
const PARTING: Duration = Duration::from_secs(3);

/// Leases that an evaluator is at or has before it, at most.
const LEASES: usize = 4;

/// Reports between an evaluator and its stream.
const REPORTS: usize = 64;

/// Plays all evaluators of `plan`, until each was sent away or the process that began this one has gone.
pub(super) async fn run(plan: &Plan, url: &str) -> Result<(), Error> {
    let endpoint = Security::default().endpoint(url).map_err(Error::Input)?;
    let mut evaluators = JoinSet::new();
    let alarm = Alarm::new(plan.evaluators * LEASES).map_err(Error::failed)?;
    for index in 0..plan.evaluators {
        evaluators.spawn(evaluator(plan.clone(), index, endpoint.clone(), alarm.clone()));
    }
    drop(alarm);
    let all = async {
        while let Some(ended) = evaluators.join_next().await {
            ended.map_err(Error::failed)??;
        }
        Ok(())
    };
    tokio::select! {
        ended = all => ended,
        _ = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())) => Ok(()),
    }
}

/// How a stay has ended.
enum Ended {
    /// Sent away.
    Left,
    /// Cut; to be begun again.
    Cut,
}

async fn evaluator(plan: Plan, index: usize, endpoint: Endpoint, alarm: Alarm) -> Result<(), Error> {
    let mut device = Device::new(&plan, index);
    let mut failures = 0;
    loop {
        match stay(&plan, index, &endpoint, &mut device, &alarm).await {
            Ok(Ended::Left) => return Ok(()),
            Ok(Ended::Cut) => failures = 0,
            Err(problem) => {
                failures += 1;
                if failures > ATTEMPTS {
                    return Err(Error::failed(format!("simulated evaluator {index}: {problem}")));
                }
            }
        }
        sleep(device.away()).await;
    }
}

async fn stay(
    plan: &Plan,
    index: usize,
    endpoint: &Endpoint,
    device: &mut Device,
    alarm: &Alarm,
) -> Result<Ended, String> {
    let channel = endpoint.connect().await.map_err(|error| root_cause(&error))?;
    let client = EvaluatorsClient::new(channel);
    let mut client = client.max_decoding_message_size(MESSAGE).max_encoding_message_size(MESSAGE);
    let (out, reports) = mpsc::channel(REPORTS);
    let hello = work::hello(plan, index);
    let mut stay = Stay {
        plan,
        name: hello.name.clone(),
        device,
        alarm,
        out,
        context: BTreeMap::new(),
        early: Vec::new(),
        due: VecDeque::new(),
    };
    stay.say(report::Kind::Hello(hello.into())).await?;
    let answered = client.work(ReceiverStream::new(reports)).await;
    let mut orders = answered.map_err(|status| status.message().to_owned())?.into_inner();
    let mut beat = interval(HEARTBEAT);
    loop {
        tokio::select! {
            order = orders.message() => {
                let order = order.map_err(|status| status.message().to_owned())?;
                let Some(kind) = order.and_then(|order| order.kind) else { return Err("no order".to_owned()) };
                match stay.obey(kind).await? {
                    Some(Ended::Left) => return Ok(goodbye(stay.out, orders).await),
                    Some(ended) => return Ok(ended),
                    None => {}
                }
            }
            Some(report) = stay.done() => stay.say(report).await?,
            _ = beat.tick() => stay.say(report::Kind::Heartbeat(v1::Heartbeat { progress: 0 })).await?,
        }
    }
}

/// Ends the reports and waits, for a while, until the coordinator has ended the orders.
async fn goodbye(out: mpsc::Sender<v1::Report>, mut orders: Streaming<v1::Order>) -> Ended {
    drop(out);
    let _ = timeout(PARTING, async { while let Ok(Some(_)) = orders.message().await {} }).await;
    Ended::Left
}

/// One stay of one evaluator.
struct Stay<'a> {
    plan: &'a Plan,
    name: String,
    device: &'a mut Device,
    alarm: &'a Alarm,
    out: mpsc::Sender<v1::Report>,
    /// Each run's version of the context.
    context: BTreeMap<u64, u64>,
    /// Leases whose context has yet to come.
    early: Vec<v1::Lease>,
    /// Answers, and what rings when the device has them.
    due: VecDeque<(oneshot::Receiver<()>, report::Kind)>,
}

impl Stay<'_> {
    /// Waits for the next answer; none while nothing is at work.
    async fn done(&mut self) -> Option<report::Kind> {
        let (rung, _) = self.due.front_mut()?;
        rung.await.ok()?; // the alarm outlives whoever waits for it
        Some(self.due.pop_front()?.1)
    }

    async fn say(&mut self, kind: report::Kind) -> Result<(), String> {
        let sent = self.out.send(v1::Report { kind: Some(kind) }).await;
        sent.map_err(|_| "the stream has ended".to_owned())
    }

    /// Does as it is told; whether the stay is over.
    async fn obey(&mut self, order: order::Kind) -> Result<Option<Ended>, String> {
        match order {
            order::Kind::Prepare(prepare) => {
                self.say(report::Kind::Ready(work::ready(self.plan, prepare.run))).await?;
            }
            order::Kind::Start(start) => self.context_is(start.run, start.version),
            order::Kind::SetContext(update) => self.context_is(update.run, update.version),
            order::Kind::Lease(lease) => match self.device.trouble() {
                None => self.begin(lease),
                Some(Trouble::Cut) => return Ok(Some(Ended::Cut)),
                Some(Trouble::Silence) => {
                    sleep(SILENT).await;
                    return Ok(Some(Ended::Cut));
                }
                Some(Trouble::Refuse) => {
                    let kind = refusal::Kind::Failed.into();
                    let refusal =
                        v1::Refusal { kind, message: "as simulated".to_owned(), ..v1::Refusal::default() };
                    let (run, lease) = (lease.run, Some(lease.id));
                    self.say(report::Kind::Refused(v1::Refused { run, lease, refusal: Some(refusal) }))
                        .await?;
                }
            },
            order::Kind::ForgetRun(run) => {
                self.context.remove(&run);
            }
            order::Kind::Drain(_) => {
                self.say(report::Kind::Leaving(v1::Leaving {})).await?;
                return Ok(Some(Ended::Left));
            }
            order::Kind::Refused(refusal) => return Err(refusal.message),
            order::Kind::Welcome(_) | order::Kind::Heartbeat(_) => {}
        }
        Ok(None)
    }

    fn context_is(&mut self, run: u64, version: u64) {
        self.context.insert(run, version);
        for lease in std::mem::take(&mut self.early) {
            self.begin(lease);
        }
    }

    /// Computes a lease at once; the device has it when its time is over.
    fn begin(&mut self, lease: v1::Lease) {
        if self.context.get(&lease.run).is_none_or(|&version| version < lease.version) {
            return self.early.push(lease);
        }
        let Some(lease::Work::Evaluate(work)) = lease.work else { return }; // nothing else is offered
        let examples = work.examples.unwrap_or_default();
        let size = work.candidates.len() * (examples.end - examples.start) as usize;
        let now = Instant::now();
        let done = self.device.done_at(now, size);
        debug!(
            "{}: lease-{} of v{}: {} candidates on {}..{}, done in {:?}",
            self.name,
            lease.id,
            lease.version,
            work.candidates.len(),
            examples.start,
            examples.end,
            done - now
        );
        let outcomes = work.candidates.iter().map(|z| outcome(z, &examples)).collect();
        let canary = work.canary.map(|canary| {
            let (loss, predicted) = work::outcome(key(&canary.z), canary.example);
            v1::CanaryOutcome { loss, predicted }
        });
        self.due.push_back((
            self.alarm.at(done.into_std()),
            report::Kind::Answer(v1::Answer { lease: lease.id, outcomes, canary }),
        ));
    }
}

fn key(z: &[u8]) -> u32 {
    let (numbers, _) = z.as_chunks::<4>();
    work::key(numbers.iter().map(|&number| u32::from_le_bytes(number)))
}

fn outcome(z: &[u8], examples: &v1::Range) -> v1::Outcome {
    let key = key(z);
    let outcomes = (examples.start..examples.end).map(|example| work::outcome(key, example));
    let (losses, predicted): (Vec<f32>, Vec<u32>) = outcomes.unzip();
    let losses = losses.iter().flat_map(|loss| loss.to_le_bytes()).collect();
    v1::Outcome { losses, predicted, logits: Vec::new() }
}
