//! The task that owns the table: turns messages into events, and actions into sends and replies.

use std::collections::BTreeMap;
use std::time::Instant;

use shared::ids::{ContextVersion, EvaluatorId, RunId};
use shared::messages::{ContextUpdate, Hello, Order, Prepare, Refusal, Report, Start};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep_until};
use tracing::{error, info, warn};

use super::job::Task;
use super::table::{Action, Collected, JobId, Table};
use super::{Begun, Expected, FleetStatus, LinkEnds, ORDERS, REPORTS, Settings};
use crate::observe::{Beat, LeaseSpans, Observer};

type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// Everything that reaches the owner.
#[derive(Debug)]
pub(super) enum Message {
    Attach { hello: Hello, sole: bool, reply: Reply<LinkEnds> },
    Report(EvaluatorId, Report),
    Lost(EvaluatorId),
    Begin { prepare: Prepare, expected: Expected, reply: Reply<Begun> },
    Start { start: Start, reply: Reply<()> },
    SetContext { update: ContextUpdate, reply: Reply<()> },
    Offer { run: RunId, version: ContextVersion, task: Task, done: Reply<Collected>, reply: Reply<()> },
    End { run: RunId, reply: oneshot::Sender<()> },
    Drain { reply: oneshot::Sender<()> },
}

/// The fleet's ends of a link.
#[derive(Debug)]
struct Line {
    name: String,
    /// In this process: its reason is the command's own error, said once.
    sole: bool,
    orders: mpsc::Sender<Order>,
    dropped: oneshot::Sender<Refusal>,
}

/// The owner.
#[derive(Debug)]
pub(super) struct Owner {
    settings: Settings,
    table: Table,
    lines: BTreeMap<EvaluatorId, Line>,
    begins: BTreeMap<RunId, Reply<Begun>>,
    jobs: BTreeMap<JobId, Reply<Collected>>,
    drains: Vec<oneshot::Sender<()>>,
    /// One a link: carries its reports here, and tells of its end.
    forwarders: JoinSet<()>,
    /// Weak, so that the fleet ends with its handles.
    inbox: mpsc::WeakSender<Message>,
    publish: watch::Sender<FleetStatus>,
    spans: LeaseSpans,
    beat: Beat,
}

impl Owner {
    pub(super) fn new(
        settings: Settings,
        inbox: mpsc::WeakSender<Message>,
        publish: watch::Sender<FleetStatus>,
        observer: &Observer,
    ) -> Self {
        Self {
            spans: observer.lease_spans(),
            beat: observer.begin_loop(Instant::now()),
            table: Table::new(settings.clone()),
            settings,
            lines: BTreeMap::new(),
            begins: BTreeMap::new(),
            jobs: BTreeMap::new(),
            drains: Vec::new(),
            forwarders: JoinSet::new(),
            inbox,
            publish,
        }
    }

    /// Runs until the last handle is dropped; the forwarders end with it.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Message>) {
        let mut clock = interval(self.settings.tick);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let wakes_at = self.table.wakes_at();
            tokio::select! {
                message = inbox.recv() => match message {
                    Some(message) => self.handle(Instant::now(), message),
                    None => return,
                },
                _ = clock.tick() => self.tick(Instant::now()),
                Some(()) = at(wakes_at) => self.table.wake(Instant::now()),
            }
            self.act();
        }
    }

    fn tick(&mut self, now: Instant) {
        while self.forwarders.try_join_next().is_some() {}
        let abandoned = self.jobs.iter().filter(|(_, done)| done.is_closed()).map(|(job, _)| *job);
        for job in abandoned.collect::<Vec<_>>() {
            self.jobs.remove(&job);
            self.table.cancel(job);
        }
        self.table.tick(now);
        self.publish.send_replace(self.table.status());
        self.beat.beat(now);
    }

    fn handle(&mut self, now: Instant, message: Message) {
        match message {
            Message::Attach { hello, sole, reply } => self.attach(now, hello, sole, reply),
            Message::Report(id, report) => {
                self.spans.reported(id, &report);
                self.table.report(now, id, report);
            }
            Message::Lost(id) => self.table.lost(now, id),
            Message::Begin { prepare, expected, reply } => {
                // A second begin of the same run is answered by the table; the first keeps its reply.
                let id = prepare.run;
                if self.begins.contains_key(&id) {
                    return answer(reply, Err(Refusal::Failed(format!("{id} has begun already"))));
                }
                self.begins.insert(id, reply);
                self.table.begin(now, prepare, expected);
            }
            Message::Start { start, reply } => answer(reply, self.table.start(now, start)),
            Message::SetContext { update, reply } => answer(reply, self.table.set_context(now, update)),
            Message::Offer { run, version, task, done, reply } => {
                let offered = self.table.offer(now, run, version, task);
                answer(reply, offered.map(|job| drop(self.jobs.insert(job, done))));
            }
            Message::End { run, reply } => {
                self.table.end(run);
                let _ = reply.send(()); // whoever asked may have gone
            }
            Message::Drain { reply } => {
                self.drains.push(reply);
                self.table.drain();
            }
        }
    }

    fn attach(&mut self, now: Instant, hello: Hello, sole: bool, reply: Reply<LinkEnds>) {
        let name = hello.name.clone();
        let id = match self.table.join(now, hello, sole) {
            Ok(id) => id,
            Err(refusal) => {
                warn!("evaluator {name} refused: {refusal}");
                return answer(reply, Err(refusal));
            }
        };
        info!("evaluator {name} joins as {id}");
        let (orders, far_orders) = mpsc::channel(ORDERS);
        let (far_reports, reports) = mpsc::channel(REPORTS);
        let (dropped, far_dropped) = oneshot::channel();
        self.lines.insert(id, Line { name, sole, orders, dropped });
        self.forwarders.spawn(forward(id, reports, self.inbox.clone()));
        let ends = LinkEnds { id, orders: far_orders, reports: far_reports, dropped: far_dropped };
        answer(reply, Ok(ends)); // if nobody takes the ends they are dropped, and the forwarder tells so
        self.publish.send_replace(self.table.status());
    }

    /// Does what the table asks for, which may make it ask for more.
    fn act(&mut self) {
        loop {
            let actions = self.table.take_actions();
            if actions.is_empty() {
                break;
            }
            for action in actions {
                self.perform(action);
            }
        }
        if self.table.deserted() {
            for drained in self.drains.drain(..) {
                let _ = drained.send(()); // whoever asked may have gone
            }
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Send(id, mut order) => {
                let Some(line) = self.lines.get(&id) else { return };
                self.spans.sent(id, &line.name, &mut order);
                match line.orders.try_send(order) {
                    Ok(()) => {}
                    // The link has ended; its forwarder will say so.
                    Err(mpsc::error::TrySendError::Closed(_)) => {}
                    Err(mpsc::error::TrySendError::Full(_)) => {
                        self.table.expel(Instant::now(), id, "it does not read its orders");
                    }
                }
            }
            Action::Close(id, reason) => {
                let Some(line) = self.lines.remove(&id) else {
                    return;
                };
                self.spans.gone(id);
                match reason {
                    Some(reason) => {
                        if !line.sole {
                            warn!("evaluator {} ({id}) dropped: {reason}", line.name);
                        }
                        let _ = line.dropped.send(reason); // it may have gone
                    }
                    None => info!("evaluator {} ({id}) has left", line.name),
                }
                self.publish.send_replace(self.table.status());
            }
            Action::Quarantined(reason) => error!("{reason}"),
            Action::Begun(run, begun) => {
                if let Some(reply) = self.begins.remove(&run) {
                    answer(reply, begun);
                }
            }
            Action::Ended(job, ended) => {
                if let Some(done) = self.jobs.remove(&job) {
                    answer(done, ended);
                }
            }
        }
    }
}

/// Waits for a time, if there is one.
async fn at(time: Option<Instant>) -> Option<()> {
    sleep_until(time?.into()).await;
    Some(())
}

/// Carries the reports of one link; its end is the end of the evaluator.
async fn forward(id: EvaluatorId, mut reports: mpsc::Receiver<Report>, inbox: mpsc::WeakSender<Message>) {
    while let Some(report) = reports.recv().await {
        let Some(inbox) = inbox.upgrade() else { return };
        if inbox.send(Message::Report(id, report)).await.is_err() {
            return;
        }
    }
    if let Some(inbox) = inbox.upgrade() {
        let _ = inbox.send(Message::Lost(id)).await; // an ended fleet has lost everybody
    }
}

fn answer<T>(reply: Reply<T>, answer: Result<T, Refusal>) {
    let _ = reply.send(answer); // whoever asked may have gone
}
