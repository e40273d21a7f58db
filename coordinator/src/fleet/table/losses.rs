//! What goes wrong, and what it counts against.
//!
//! Work that evaluators *fail* at (they report an error or a wrong answer, or give none in time) is tried
//! elsewhere, [`Settings::max_failures`] times in all. Evaluators that *vanish* (a stream cut, a silence, a kill) say
//! nothing of their work: it goes to others, as often as it takes. Only work that so many lose their lives at one
//! after the other, nobody having lived through it in between, is taken for the cause. Who leaves on its own wish
//! counts nowhere.
//!
//! [`Settings::max_failures`]: super::super::Settings::max_failures

use std::time::{Duration, Instant};

use shared::ids::{EvaluatorId, LeaseId, RunId};
use shared::messages::Refusal;

use super::super::run::Run;
use super::{Action, Held, JobId, Table};

/// Losses nearer to each other than this are one event, a switch or a rack that failed, and count once: work handed
/// on from one lost evaluator to the next would otherwise seem to have been the end of each.
const ONE_EVENT: Duration = Duration::from_secs(1);

impl Table {
    /// Leases that have taken too long are given to others too.
    pub(super) fn time_out(&mut self, now: Instant) {
        let limit = self.settings.lease_timeout;
        let mut late = Vec::new();
        for held in self.leases.values_mut() {
            if !held.timed_out && now.saturating_duration_since(held.since) >= limit {
                held.timed_out = true;
                late.push((held.job, held.part, held.evaluator));
            }
        }
        for (job, part, by) in late {
            if let Some(job) = self.jobs.get_mut(&job)
                && job.parts.get(part).is_some_and(|part| !part.done)
            {
                job.queue.insert(part); // whoever holds it may still be the first to answer
            }
            self.failed(job, part, by, &format!("no answer for {:.0} s", limit.as_secs_f64()));
        }
    }

    /// An evaluator breaks the protocol, or cannot do what it is here for.
    pub(super) fn drop_failed(&mut self, id: EvaluatorId, why: &str) {
        self.remove(id, Some(Refusal::Failed(why.to_owned())));
    }

    /// An evaluator is gone without a word. The oldest of its leases is the one it was at.
    pub(super) fn vanished(&mut self, now: Instant, id: EvaluatorId, told: Option<Refusal>) {
        let at = self.links.get(&id).and_then(|link| link.in_flight.first());
        let at = at.and_then(|lease| self.leases.get(lease)).filter(|held| !held.timed_out);
        let at = at.map(|held| (held.job, held.part)); // a late one has been counted as a failure
        self.remove(id, told);
        if let Some((job, part)) = at {
            self.mourned(now, job, part);
        }
    }

    /// Takes an evaluator out; what it held goes to others.
    pub(super) fn remove(&mut self, id: EvaluatorId, told: Option<Refusal>) {
        let Some(link) = self.links.remove(&id) else {
            return;
        };
        let reason =
            told.clone().unwrap_or_else(|| Refusal::Failed("the only evaluator has gone".to_owned()));
        self.actions.push(Action::Close(id, told));
        for lease in link.in_flight {
            if let Some(held) = self.leases.remove(&lease) {
                self.release(lease, &held);
            }
        }
        if self.links.is_empty() {
            self.runs.values_mut().for_each(Run::forget_unproven_model);
        }
        if link.sole {
            self.forsaken = Some(reason.clone());
            let runs: Vec<RunId> = self.runs.keys().copied().collect();
            runs.into_iter().for_each(|run| self.fail_run(run, &reason));
        }
    }

    /// A lease is over; its part waits again unless another holds it in good time or it is done.
    pub(super) fn release(&mut self, lease: LeaseId, held: &Held) {
        let Some(job) = self.jobs.get_mut(&held.job) else {
            return;
        };
        let Some(part) = job.parts.get_mut(held.part) else {
            return;
        };
        part.holders.remove(&lease);
        let late = |lease: &LeaseId| self.leases.get(lease).is_some_and(|held| held.timed_out);
        if !part.done && part.holders.iter().all(late) {
            job.queue.insert(held.part);
        }
    }

    /// A part has failed on someone, who has lived through it: others shall try, but not for ever.
    pub(super) fn failed(&mut self, job: JobId, index: usize, by: EvaluatorId, why: &str) {
        let limit = self.settings.max_failures;
        let Some(entry) = self.jobs.get_mut(&job) else {
            return;
        };
        let Some(part) = entry.parts.get_mut(index).filter(|part| !part.done) else {
            return;
        };
        part.failures += 1;
        part.failed_by = Some(by);
        part.losses = 0;
        if part.failures >= limit {
            let text = format!("the same work failed {} times, the last time: {why}", part.failures);
            let run = entry.run;
            self.fail_run(run, &Refusal::Failed(text));
        }
    }

    /// A part was in the hands of someone who has vanished.
    fn mourned(&mut self, now: Instant, job: JobId, index: usize) {
        let limit = self.settings.max_failures;
        let Some(entry) = self.jobs.get_mut(&job) else {
            return;
        };
        let Some(part) = entry.parts.get_mut(index).filter(|part| !part.done) else {
            return;
        };
        let apart = |last: Instant| now.saturating_duration_since(last) >= ONE_EVENT;
        if !part.last_loss.is_none_or(apart) {
            return;
        }
        part.losses += 1;
        part.last_loss = Some(now);
        if part.losses >= limit {
            let text = format!(
                "{} evaluators in a row were lost at the same work, which must be the cause; see their own output",
                part.losses
            );
            let run = entry.run;
            self.fail_run(run, &Refusal::Failed(text));
        }
    }

    /// An evaluator cannot prepare a run, or has lost it: it goes. Where nobody else can, the run must not wait
    /// for ever; where others work on it, one bad evaluator that keeps coming back must not end it.
    pub(super) fn cannot_serve(&mut self, id: RunId, evaluator: EvaluatorId, why: String) {
        if !self.runs.contains_key(&id) {
            return; // it has ended meanwhile
        }
        self.drop_failed(evaluator, &why);
        if self.links.values().any(|link| link.serves(id)) {
            return;
        }
        let limit = self.settings.max_failures;
        if self.runs.get_mut(&id).is_some_and(|run| run.failed_once_more() >= limit) {
            self.fail_run(id, &Refusal::Failed(why));
        }
    }
}
