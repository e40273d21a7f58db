//! Who is here, who holds what, what happens next: the fleet's whole judgement, without a clock or a channel.
//!
//! Events come in with the time they happened at, actions go out. There is one way to lose an evaluator
//! ([`Table::remove`]) and one way to end a job, so whatever happens, in whatever order, ends in the same
//! place. Runs and their contexts are in [`runs`], jobs and leases in [`leases`]; who gets what next is in [`dispatch`] by what is known of speeds ([`pace`]),
//! what is counted against whom when things go wrong is in [`losses`], and who is not believed in [`quarantine`].

mod dispatch;
mod leases;
mod losses;
mod pace;
mod quarantine;
mod runs;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use shared::ids::{ContextVersion, EvaluatorId, LeaseId, RunId};
use shared::messages::{Hello, Order, Outcome, Refusal, Report};

use super::cut::{Blame, Piece};
use super::job::Job;
use super::run::Run;
use super::{Begun, EvaluatorStatus, FleetStatus, Load, Quarantined, Settings, Tally};
use pace::Pace;

/// Names a job within the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct JobId(u64);

/// What a finished job has brought.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Collected {
    pub(super) outcomes: Vec<Outcome>,
    /// How many evaluators' answers counted.
    pub(super) evaluators: usize,
    /// How many candidates had not come in by the deadline.
    pub(super) missing: usize,
}

/// What the owner has to do.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    /// Send an order over a link.
    Send(EvaluatorId, Order),
    /// Close a link; the evaluator is told why, where there is a reason.
    Close(EvaluatorId, Option<Refusal>),
    /// Somebody is not believed any more.
    Quarantined(String),
    /// A run has been prepared by its first evaluator, or cannot be.
    Begun(RunId, Result<Begun, Refusal>),
    /// A job has come to its end.
    Ended(JobId, Result<Collected, Refusal>),
}

/// One evaluator.
#[derive(Debug)]
struct Link {
    hello: Hello,
    /// No other will come; when this one has gone, runs fail instead of waiting.
    sole: bool,
    runs: BTreeMap<RunId, Prepared>,
    /// Oldest first, which is the order it works in; but for those ahead.
    in_flight: BTreeSet<LeaseId>,
    /// How many of them wait for their context.
    ahead: usize,
    pace: Pace,
    /// Where it stands in [`Table::room`].
    listed: Option<usize>,
    answered: u64,
    last_report: Instant,
}

impl Link {
    /// Whether it has prepared the run.
    fn serves(&self, run: RunId) -> bool {
        self.runs.get(&run).is_some_and(|prepared| prepared.ready)
    }

    /// Leases that it can work on now.
    fn current(&self) -> usize {
        self.in_flight.len() - self.ahead
    }
}

/// One run on one evaluator.
#[derive(Debug, Default)]
struct Prepared {
    ready: bool,
    /// The snapshot it has: which `Start`, and the version its context has come to since.
    context: Option<(u64, ContextVersion)>,
}

/// A lease that is out.
#[derive(Clone, Debug)]
pub(super) struct Held {
    evaluator: EvaluatorId,
    run: RunId,
    version: ContextVersion,
    job: JobId,
    piece: Piece,
    blame: Blame,
    /// What nobody has been given a copy of.
    uncopied: Vec<Piece>,
    /// Operations.
    cost: f64,
    /// Whether the job's canary came with it.
    canary: bool,
    /// Whether its time tells the evaluator's speed: a crumb's, all latency, tells nothing of one not yet known.
    measured: bool,
    /// Sent before its context, which it waits for.
    pub(super) ahead: bool,
    /// When it was sent, or when its context was.
    since: Instant,
    pub(super) timed_out: bool,
}

/// The table.
#[derive(Debug)]
pub(super) struct Table {
    settings: Settings,
    links: BTreeMap<EvaluatorId, Link>,
    runs: BTreeMap<RunId, Run>,
    jobs: BTreeMap<JobId, Job>,
    leases: BTreeMap<LeaseId, Held>,
    /// Of each run, the evaluators that can take another lease, by how many they work at.
    room: BTreeMap<RunId, BTreeSet<(usize, EvaluatorId)>>,
    /// Evaluators that have come to have room since the last dispatch.
    hungry: BTreeSet<EvaluatorId>,
    /// Runs that have come to have work since then.
    stirred: BTreeSet<RunId>,
    /// What the run served last had been served before that.
    level: f64,
    quarantined: Vec<Quarantined>,
    tally: Tally,
    last_id: u64,
    draining: bool,
    /// Until then nothing is sent ahead of its context: a context has just gone out, and everybody waits for that.
    quiet_until: Option<Instant>,
    /// Why the sole evaluator has gone.
    forsaken: Option<Refusal>,
    actions: Vec<Action>,
}

impl Table {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            links: BTreeMap::new(),
            runs: BTreeMap::new(),
            jobs: BTreeMap::new(),
            leases: BTreeMap::new(),
            room: BTreeMap::new(),
            hungry: BTreeSet::new(),
            stirred: BTreeSet::new(),
            level: 0.0,
            quarantined: Vec::new(),
            tally: Tally::default(),
            last_id: 0,
            draining: false,
            quiet_until: None,
            forsaken: None,
            actions: Vec::new(),
        }
    }

    /// What the events so far ask for, in order.
    pub(super) fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Whether nobody is left.
    pub(super) fn deserted(&self) -> bool {
        self.links.is_empty()
    }

    pub(super) fn status(&self) -> FleetStatus {
        let timed_out = |lease: &LeaseId| self.leases.get(lease).is_some_and(|held| held.timed_out);
        let evaluator = |(id, link): (&EvaluatorId, &Link)| EvaluatorStatus {
            id: *id,
            name: link.hello.name.clone(),
            device: link.hello.device.clone(),
            model: link.hello.model.to_string(),
            leases: link.in_flight.len(),
            answered: link.answered,
            calls_per_second: self.calls_per_second(link),
            last_report: link.last_report,
            preparing: link.runs.values().any(|prepared| !prepared.ready),
            late: link.in_flight.iter().any(timed_out),
        };
        let evaluators = self.links.iter().map(evaluator).collect();
        let unprepared = self.runs.values().filter(|run| run.ready.is_none() && run.failed.is_none()).count();
        let load = Load::of(&self.jobs, &self.leases, unprepared);
        FleetStatus { evaluators, quarantined: self.quarantined.clone(), tally: self.tally, load }
    }

    fn calls_per_second(&self, link: &Link) -> Option<f64> {
        let speed = link.pace.speed()?;
        let call = self.runs.iter().find_map(|(id, run)| link.serves(*id).then(|| run.operations())?)?;
        Some(speed / call)
    }

    // Evaluators come and go.

    /// Whether an evaluator may take part.
    fn admits(&self, hello: &Hello) -> Result<(), Refusal> {
        if hello.protocol != proto::PROTOCOL_VERSION {
            return Err(Refusal::Protocol(format!(
                "evaluator {} ({}) speaks protocol {}, this coordinator ({}) speaks {}; update the older one",
                hello.name,
                hello.version,
                hello.protocol,
                env!("CARGO_PKG_VERSION"),
                proto::PROTOCOL_VERSION
            )));
        }
        if self.draining {
            return Err(Refusal::Failed("the coordinator is ending and takes no more evaluators".to_owned()));
        }
        if let Some(known) = self.quarantined.iter().find(|known| known.name == hello.name) {
            return Err(Refusal::Quarantined(known.reason.clone()));
        }
        if !self.settings.mixed {
            for run in self.runs.values().filter(|run| run.failed.is_none()) {
                run.accepts(hello)?;
            }
        }
        Ok(())
    }

    /// An evaluator has said hello.
    pub(super) fn join(&mut self, now: Instant, hello: Hello, sole: bool) -> Result<EvaluatorId, Refusal> {
        if let Err(refusal) = self.admits(&hello) {
            self.tally.refusals += u64::from(!self.draining);
            return Err(refusal);
        }
        self.tally.joins += 1;
        let id = EvaluatorId(self.next_id());
        let link = Link {
            hello,
            sole,
            runs: BTreeMap::new(),
            in_flight: BTreeSet::new(),
            ahead: 0,
            pace: Pace::default(),
            listed: None,
            answered: 0,
            last_report: now,
        };
        self.links.insert(id, link);
        let runs: Vec<RunId> = self.runs.keys().copied().collect();
        runs.into_iter().for_each(|run| self.prepare_on(run, id));
        Ok(id)
    }

    /// An evaluator reports.
    pub(super) fn report(&mut self, now: Instant, id: EvaluatorId, report: Report) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        }; // dropped; these were on their way
        link.last_report = now;
        match report {
            Report::Ready(ready) => self.ready(id, *ready),
            Report::Answer(answer) => self.answer(now, id, answer),
            Report::Refused(refused) => self.refused(id, refused),
            Report::Heartbeat { .. } => {}
            Report::Leaving => self.remove(id, None),
        }
        self.dispatch(now);
    }

    /// An evaluator's link has ended.
    pub(super) fn lost(&mut self, now: Instant, id: EvaluatorId) {
        self.vanished(now, id, None);
        self.dispatch(now);
    }

    /// An evaluator is no longer wanted: it does not keep up.
    pub(super) fn expel(&mut self, now: Instant, id: EvaluatorId, why: &str) {
        self.vanished(now, id, Some(Refusal::Failed(why.to_owned())));
        self.dispatch(now);
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Instant) {
        let silence = self.settings.silence;
        let silent = |link: &Link| !link.sole && now.saturating_duration_since(link.last_report) >= silence;
        let lost: Vec<EvaluatorId> =
            self.links.iter().filter(|(_, l)| silent(l)).map(|(id, _)| *id).collect();
        for id in lost {
            let why = format!("no report for {:.0} s", silence.as_secs_f64());
            self.vanished(now, id, Some(Refusal::Failed(why)));
        }
        self.time_out(now);
        self.expire(now);
        self.stir_all();
        self.dispatch(now);
        self.copy_slowest(now);
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}

#[cfg(test)]
mod tests;
