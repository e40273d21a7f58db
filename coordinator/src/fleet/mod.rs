//! The fleet: whoever evaluates, behind one handle.
//!
//! To the fleet an evaluator is a link: two bounded channels, orders out and reports in. One task owns the
//! `table` and everything reaches it through one inbox: requests of handles, reports, ends of links, and
//! its own clock. It never waits for a send: a link holds few leases, and one whose channel is full is dropped.

mod canary;
mod cut;
mod gather;
mod job;
mod owner;
mod plan;
mod run;
mod table;
mod tally;

use std::ops::Range;
use std::time::{Duration, Instant};

use shared::ids::{ContextVersion, EvaluatorId, Layer, RunId};
use shared::messages::{
    ContextUpdate, ExampleSet, Hello, ModelIdentity, Order, Outcome, Prepare, Prompted, Ready, Refusal,
    Report, Start,
};
use shared::spec::Dtype;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::observe::Observer;
use job::Task;
use owner::{Message, Owner};
use table::Collected;
pub use tally::{Load, Tally};

/// Orders that a link has room for.
const ORDERS: usize = 64;

/// Reports that a link has room for.
const REPORTS: usize = 64;

/// Messages that the inbox has room for.
const INBOX: usize = 256;

/// How the fleet judges its evaluators.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// A lease unanswered for so long is given to another evaluator too.
    pub lease_timeout: Duration,
    /// An evaluator that reports nothing for so long is lost.
    pub silence: Duration,
    /// Leases in flight on one link at most.
    pub credit: usize,
    /// The same work may fail so often, or so many evaluators in a row may vanish at it, before its run fails.
    pub max_failures: u32,
    /// An idle evaluator repeats a lease where it would end sooner by more than this.
    pub patience: Duration,
    /// How often the clock is looked at.
    pub tick: Duration,
    /// How long [`Handle::drain`] waits for evaluators to leave.
    pub drain_timeout: Duration,
    /// Whether evaluators of several models may be here: each serves the runs whose model and type it has, instead
    /// of being refused for those it cannot serve.
    pub mixed: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lease_timeout: Duration::from_secs(300),
            silence: Duration::from_secs(15),
            credit: 2,
            max_failures: 5,
            patience: Duration::from_millis(200),
            tick: Duration::from_millis(200),
            drain_timeout: Duration::from_secs(5),
            mixed: false,
        }
    }
}

/// Why the fleet did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FleetError {
    /// It cannot be done, and why.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The fleet has ended.
    #[error("the fleet has ended")]
    Closed,
}

/// A run that its first evaluator has prepared.
#[derive(Clone, Debug, PartialEq)]
pub struct Begun {
    /// What preparing it has shown.
    pub ready: Ready,
    /// The model that every evaluator of the run must hold.
    pub model: ModelIdentity,
}

/// What the evaluators of a run must be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expected {
    /// The model they must hold, where it is known: that of a resumed run, or of a folder on the coordinator's machine.
    pub model: Option<ModelIdentity>,
    /// What their model must be called, as long as it is not known.
    pub named: Option<String>,
    /// What they must compute the blocks' linear layers in: another type gives other losses.
    pub dtype: Dtype,
}

/// The results of a generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Gathered {
    /// Loss of each candidate on each example asked for, `[candidates][examples]`.
    pub losses: Vec<Vec<f32>>,
    /// Predicted class of each candidate on each of them, `[candidates][examples]`.
    pub predicted: Vec<Vec<u32>>,
    /// Evaluators whose answers counted.
    pub evaluators: usize,
    /// Candidates that had not come in by the deadline: their losses are infinite.
    pub missing: usize,
}

/// Who takes part.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FleetStatus {
    /// In the order they came.
    pub evaluators: Vec<EvaluatorStatus>,
    /// Who has been sent away for good, and why.
    pub quarantined: Vec<Quarantined>,
    /// What has happened since it began.
    pub tally: Tally,
    /// What is still to be done.
    pub load: Load,
}

/// An evaluator whose canary did not agree with the others'.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// Its name; no other under it is let in.
    pub name: String,
    /// What it found, and what the others.
    pub reason: String,
}

/// One evaluator.
#[derive(Clone, Debug, PartialEq)]
pub struct EvaluatorStatus {
    /// Its stay.
    pub id: EvaluatorId,
    /// Its name, for people.
    pub name: String,
    /// Device.
    pub device: String,
    /// Model, for people.
    pub model: String,
    /// Leases in flight.
    pub leases: usize,
    /// Leases answered.
    pub answered: u64,
    /// Calls a second of a run that it serves, once measured.
    pub calls_per_second: Option<f64>,
    /// When it was last heard of.
    pub last_report: Instant,
    /// Whether it is still making a run ready.
    pub preparing: bool,
    /// Whether a lease of its own has taken so long that others were asked too.
    pub late: bool,
}

/// The evaluator's ends of a link.
#[derive(Debug)]
pub struct LinkEnds {
    /// This stay.
    pub id: EvaluatorId,
    /// What to do; ends when the fleet drops the evaluator.
    pub orders: mpsc::Receiver<Order>,
    /// What has been done; when the last sender is dropped the evaluator is lost.
    pub reports: mpsc::Sender<Report>,
    /// Why the fleet drops the evaluator, where it has a reason.
    pub dropped: oneshot::Receiver<Refusal>,
}

/// Makes fleets.
#[derive(Debug)]
pub struct Fleet;

impl Fleet {
    /// A fleet without evaluators, and the task that owns it; it ends when the last handle is dropped.
    pub fn spawn(settings: Settings) -> (Handle, JoinHandle<()>) {
        Self::spawn_observed(settings, &Observer::default())
    }

    /// As [`Fleet::spawn`], seen from outside.
    pub fn spawn_observed(settings: Settings, observer: &Observer) -> (Handle, JoinHandle<()>) {
        let (inbox, messages) = mpsc::channel(INBOX);
        let (publish, status) = watch::channel(FleetStatus::default());
        let owner = Owner::new(settings.clone(), inbox.downgrade(), publish, observer);
        let task = tokio::spawn(owner.run(messages));
        (Handle { inbox, status, drain_timeout: settings.drain_timeout }, task)
    }
}

/// A handle to a fleet; clones are handles to the same fleet.
#[derive(Clone, Debug)]
pub struct Handle {
    inbox: mpsc::Sender<Message>,
    status: watch::Receiver<FleetStatus>,
    drain_timeout: Duration,
}

impl Handle {
    /// Lets an evaluator take part.
    ///
    /// # Errors
    /// Another protocol version, another model than a run's, or a fleet that has ended.
    pub async fn attach(&self, hello: Hello) -> Result<LinkEnds, Refusal> {
        self.join(hello, false).await
    }

    /// As [`Handle::attach`], for the only evaluator that will ever come (the embedded one): when it is
    /// refused, fails or ends, runs fail with its reason instead of waiting for another.
    ///
    /// # Errors
    /// As [`Handle::attach`].
    pub async fn attach_sole(&self, hello: Hello) -> Result<LinkEnds, Refusal> {
        self.join(hello, true).await
    }

    async fn join(&self, hello: Hello, sole: bool) -> Result<LinkEnds, Refusal> {
        let joined = self.ask(|reply| Message::Attach { hello, sole, reply }).await;
        joined.unwrap_or_else(|_| Err(Refusal::Failed("the coordinator has ended".to_owned())))
    }

    /// Has a run prepared, as soon as there is an evaluator that is as expected.
    ///
    /// # Errors
    /// [`FleetError::Refused`] when the run's input is wrong, or [`FleetError::Closed`].
    pub async fn begin(&self, prepare: Prepare, expected: Expected) -> Result<Begun, FleetError> {
        Ok(self.ask(|reply| Message::Begin { prepare, expected, reply }).await??)
    }

    /// Gives the projections' scale and the whole context; may be called again with another context.
    ///
    /// # Errors
    /// When the run has not begun or has failed, or the shape is not the model's.
    pub async fn start(&self, start: Start) -> Result<(), FleetError> {
        Ok(self.ask(|reply| Message::Start { start, reply }).await??)
    }

    /// Gives one layer's new incumbent.
    ///
    /// # Errors
    /// When its version does not follow the context's, or the run has failed.
    pub async fn set_context(&self, update: ContextUpdate) -> Result<(), FleetError> {
        Ok(self.ask(|reply| Message::SetContext { update, reply }).await??)
    }

    /// Offers candidates for evaluation on these training examples, under context `version` (which may be one
    /// that [`Handle::set_context`] has yet to bring).
    ///
    /// # Errors
    /// When the run has no context or has failed, a candidate has the wrong length, or there is no such example.
    pub async fn offer(
        &self,
        run: RunId,
        version: ContextVersion,
        layer: Layer,
        candidates: Vec<Vec<f32>>,
        examples: Range<u32>,
    ) -> Result<Ticket, FleetError> {
        self.put(run, version, Task::Evaluate { layer, candidates, examples, deadline: None }).await
    }

    /// As [`Handle::offer`]; with a `deadline` it ends so long after it was begun, as soon as half of the candidates
    /// have come in: the losses of the others are infinite.
    ///
    /// # Errors
    /// As [`Handle::offer`].
    pub async fn offer_within(
        &self,
        run: RunId,
        version: ContextVersion,
        layer: Layer,
        candidates: Vec<Vec<f32>>,
        examples: Range<u32>,
        deadline: Option<Duration>,
    ) -> Result<Ticket, FleetError> {
        self.put(run, version, Task::Evaluate { layer, candidates, examples, deadline }).await
    }

    /// Losses, predictions and logits of one deep prompt, in example order.
    ///
    /// # Errors
    /// As [`Handle::offer`]; without a context only [`Prompted::Manual`] can be scored, at version 0.
    pub async fn score(
        &self,
        run: RunId,
        version: ContextVersion,
        prompt: Prompted,
        examples: ExampleSet,
    ) -> Result<Outcome, FleetError> {
        let ticket = self.put(run, version, Task::Score { prompt, examples }).await?;
        let collected = ticket.collected().await?;
        collected.outcomes.into_iter().next().ok_or(FleetError::Closed)
    }

    async fn put(&self, run: RunId, version: ContextVersion, task: Task) -> Result<Ticket, FleetError> {
        let (done, ended) = oneshot::channel();
        self.ask(|reply| Message::Offer { run, version, task, done, reply }).await??;
        Ok(Ticket { ended })
    }

    /// Ends a run: evaluators free what they hold for it.
    pub async fn end(&self, run: RunId) {
        let _ = self.ask(|reply| Message::End { run, reply }).await; // an ended fleet holds nothing
    }

    /// Sends every evaluator away and waits until they have left, for a limited time.
    pub async fn drain(&self) {
        let drained = self.ask(|reply| Message::Drain { reply });
        // Who hangs is cut off by the end of the fleet.
        let _ = tokio::time::timeout(self.drain_timeout, drained).await;
    }

    /// Who takes part, as it changes.
    pub fn status(&self) -> watch::Receiver<FleetStatus> {
        self.status.clone()
    }

    async fn ask<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> Message) -> Result<T, FleetError> {
        let (reply, answer) = oneshot::channel();
        self.inbox.send(message(reply)).await.map_err(|_| FleetError::Closed)?;
        answer.await.map_err(|_| FleetError::Closed)
    }
}

/// A generation on its way; dropping it takes back what nobody has begun.
#[derive(Debug)]
pub struct Ticket {
    ended: oneshot::Receiver<Result<Collected, Refusal>>,
}

impl Ticket {
    /// Waits for all results.
    ///
    /// # Errors
    /// Why the run failed, or [`FleetError::Closed`].
    pub async fn gathered(self) -> Result<Gathered, FleetError> {
        let Collected { outcomes, evaluators, missing } = self.collected().await?;
        let (losses, predicted) = outcomes.into_iter().map(|o| (o.losses, o.predicted)).unzip();
        Ok(Gathered { losses, predicted, evaluators, missing })
    }

    async fn collected(self) -> Result<Collected, FleetError> {
        Ok(self.ended.await.map_err(|_| FleetError::Closed)??)
    }
}

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod tests;
