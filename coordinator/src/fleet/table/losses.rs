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

use super::super::cut::{Blame, Piece};
use super::super::job::Job;
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
        for (id, held) in self.leases.iter_mut().filter(|(_, held)| !held.ahead) {
            if !held.timed_out && now.saturating_duration_since(held.since) >= limit {
                held.timed_out = true; // whoever holds it may still be the first to answer
                late.push((*id, held.clone()));
            }
        }
        for (id, held) in late {
            let by = held.evaluator;
            self.failed(held, by, &format!("no answer for {:.0} s", limit.as_secs_f64()));
            if let Some(held) = self.leases.get_mut(&id) {
                held.blame.failures += 1;
            }
        }
    }

    /// An evaluator breaks the protocol, or cannot do what it is here for.
    pub(super) fn drop_failed(&mut self, id: EvaluatorId, why: &str) {
        self.tally.losses += u64::from(self.links.contains_key(&id));
        self.remove(id, Some(Refusal::Failed(why.to_owned())));
    }

    /// An evaluator is gone without a word. The oldest of its leases is the one it was at.
    pub(super) fn vanished(&mut self, now: Instant, id: EvaluatorId, told: Option<Refusal>) {
        self.tally.losses += u64::from(self.links.contains_key(&id));
        let held = self.links.get(&id).into_iter().flat_map(|link| &link.in_flight);
        let workable = |lease: &&LeaseId| self.leases.get(lease).is_some_and(|held| !held.ahead);
        let at = held.copied().find(|lease| workable(&lease));
        // A late one has been counted as a failure.
        let fatal = at.and_then(|lease| self.leases.get_mut(&lease)).filter(|held| !held.timed_out);
        let fatal = fatal.and_then(|held| mourn(now, self.jobs.get(&held.job)?, held));
        self.remove(id, told);
        if let Some((run, losses)) = fatal.filter(|(_, losses)| *losses >= self.settings.max_failures) {
            let text = format!(
                "{losses} evaluators in a row were lost at the same work, which must be the cause; see their own output",
            );
            self.fail_run(run, &Refusal::Failed(text));
        }
    }

    /// Takes an evaluator out; what it held goes to others.
    pub(super) fn remove(&mut self, id: EvaluatorId, told: Option<Refusal>) {
        self.unlist(id);
        let Some(link) = self.links.remove(&id) else {
            return;
        };
        self.hungry.remove(&id);
        self.tally.lost += link.in_flight.len() as u64;
        self.tally.refusals += u64::from(matches!(told, Some(Refusal::Model(_) | Refusal::Protocol(_))));
        for job in self.jobs.values_mut() {
            job.shares.remove(&id);
        }
        let reason =
            told.clone().unwrap_or_else(|| Refusal::Failed("the only evaluator has gone".to_owned()));
        self.actions.push(Action::Close(id, told));
        let held = link.in_flight.into_iter().filter_map(|lease| Some((lease, self.leases.remove(&lease)?)));
        for (lease, held) in held.collect::<Vec<_>>() {
            if let Some(job) = self.jobs.get_mut(&held.job) {
                job.out.remove(&lease);
                job.canaries.over(id, lease);
            }
            self.reopen(held.job, &held.piece, &held.blame);
        }
        for (run, _) in link.runs.iter().filter(|(_, prepared)| prepared.ready) {
            if let Some(run) = self.runs.get_mut(run) {
                run.serving -= 1;
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

    /// A lease has come to nothing: what is open of its piece waits again, but for what others hold in good time.
    /// These inherit what is counted against it.
    pub(super) fn reopen(&mut self, id: JobId, gone: &Piece, blame: &Blame) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let mut covered = Vec::new();
        for lease in &job.out {
            let held = self.leases.get_mut(lease).filter(|held| !held.timed_out);
            if let Some(held) = held.filter(|held| held.piece.overlaps(gone)) {
                held.blame.merge(blame);
                covered.push(held.piece.clone());
            }
        }
        job.reopen(gone, blame, |candidate, example| {
            covered.iter().any(|piece| piece.has(candidate, example))
        });
        self.stirred.insert(job.run);
    }

    /// A piece has failed on someone, who has lived through it: others shall try, but not for ever.
    pub(super) fn failed(&mut self, mut held: Held, by: EvaluatorId, why: &str) {
        if self.jobs.get(&held.job).is_none_or(|job| !job.wants(&held.piece)) {
            return;
        }
        held.blame =
            Blame { failures: held.blame.failures + 1, losses: 0, failed_by: Some(by), ..held.blame };
        self.reopen(held.job, &held.piece, &held.blame);
        if held.blame.failures >= self.settings.max_failures {
            let text = format!("the same work failed {} times, the last time: {why}", held.blame.failures);
            self.fail_run(held.run, &Refusal::Failed(text));
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

/// A piece was in the hands of someone who has vanished; says whose run it is and how many that were.
fn mourn(now: Instant, job: &Job, held: &mut Held) -> Option<(RunId, u32)> {
    let apart = |last: Instant| now.saturating_duration_since(last) >= ONE_EVENT;
    if !job.wants(&held.piece) || !held.blame.last_loss.is_none_or(apart) {
        return None;
    }
    held.blame.losses += 1;
    held.blame.last_loss = Some(now);
    Some((held.run, held.blame.losses))
}
