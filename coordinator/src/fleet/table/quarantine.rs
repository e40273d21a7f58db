//! Whom not to believe: a generation ends when all who have contributed to it agree about its canary
//! ([`canary`](super::super::canary)), and who does not agree is sent away for good.
//!
//! That is looked at when the last cell has been filled, so it costs no time before. Who has contributed without having
//! been asked (it was alone when it began) is asked then; what somebody has answered who can no longer be asked is
//! evaluated again.

use std::time::Instant;

use shared::ids::EvaluatorId;
use shared::messages::{CanaryOutcome, Refusal};

use super::super::Quarantined;
use super::super::canary::{Opinion, Verdict};
use super::super::cut::{Blame, Piece, Waiting};
use super::super::job::Job;
use super::super::run::device_kind;
use super::{Action, Collected, JobId, Table};

/// Names that are remembered at most.
const REMEMBERED: usize = 1024;

/// Whether an evaluator's opinion can be had.
enum Asked {
    /// It has been asked, or will be once it has room.
    Waiting,
    /// It has gone, or does not answer.
    InVain,
}

impl Table {
    /// What an evaluator's answer says of a canary.
    pub(super) fn opinion(&self, id: EvaluatorId, found: Option<CanaryOutcome>) -> Option<Opinion> {
        let hello = &self.links.get(&id)?.hello;
        Some(Opinion { name: hello.name.clone(), kind: device_kind(&hello.device).to_owned(), found: found? })
    }

    /// Ends jobs that have all their answers.
    pub(super) fn conclude(&mut self, now: Instant) {
        let complete = self.jobs.iter().filter(|(_, job)| job.complete()).map(|(id, _)| *id);
        for id in complete.collect::<Vec<_>>() {
            if self.agreed(now, id)
                && let Some(job) = self.jobs.remove(&id)
            {
                self.end_job(id, job, 0);
            }
        }
    }

    fn end_job(&mut self, id: JobId, job: Job, missing: usize) {
        let evaluators = job.evaluators().len();
        let collected = Collected { outcomes: job.outcomes(), evaluators, missing };
        self.actions.push(Action::Ended(id, Ok(collected)));
    }

    /// Ends jobs whose deadline has passed with what they have; there is no time to ask anybody any more.
    pub(super) fn expire(&mut self, now: Instant) {
        let expired = self.jobs.iter().filter(|(_, job)| job.expired(now)).map(|(id, _)| *id);
        for id in expired.collect::<Vec<_>>() {
            self.sift(id);
            let still = self.jobs.get(&id).is_some_and(|job| job.expired(now));
            if let Some(mut job) = still.then(|| self.jobs.remove(&id)).flatten() {
                let missing = job.give_up();
                self.end_job(id, job, missing);
            }
        }
    }

    /// Takes out of a job what cannot be believed as things stand.
    fn sift(&mut self, id: JobId) {
        let Some(job) = self.jobs.get(&id) else { return };
        let contributors = job.evaluators();
        if contributors.len().max(job.canaries.len()) < 2 {
            return;
        }
        let silent: Vec<EvaluatorId> = contributors.into_iter().filter(|by| !job.canaries.has(*by)).collect();
        if let Verdict::Outvoted(against, others) | Verdict::Undecided(against, others) =
            job.canaries.verdict()
        {
            against.into_iter().for_each(|by| self.quarantine(id, by, others));
        }
        silent.into_iter().for_each(|by| self.disregard(id, by));
    }

    /// Whether all who have answered cells of a complete job can be believed; sees to it that it comes to that.
    fn agreed(&mut self, now: Instant, id: JobId) -> bool {
        let Some(job) = self.jobs.get(&id).filter(|job| job.complete()) else { return false };
        let contributors = job.evaluators();
        if !job.evaluates() || contributors.len().max(job.canaries.len()) < 2 {
            return true;
        }
        let silent: Vec<EvaluatorId> = contributors.into_iter().filter(|by| !job.canaries.has(*by)).collect();
        if !silent.is_empty() {
            for by in silent {
                if matches!(self.ask(now, id, by), Asked::InVain) {
                    self.disregard(id, by);
                }
            }
            return false;
        }
        let (against, others) = match job.canaries.verdict() {
            Verdict::Agreed => return true,
            Verdict::Outvoted(against, others) => (against, others),
            Verdict::Undecided(_, _) if self.ask_another(now, id) => return false,
            Verdict::Undecided(later, others) => (later, others),
        };
        against.into_iter().for_each(|by| self.quarantine(id, by, others));
        self.agreed(now, id)
    }

    /// Asks an evaluator for its opinion, unless it has been asked.
    fn ask(&mut self, now: Instant, id: JobId, by: EvaluatorId) -> Asked {
        let (Some(job), Some(link)) = (self.jobs.get(&id), self.links.get(&by)) else { return Asked::InVain };
        let late = |lease| self.leases.get(lease).is_none_or(|held| held.timed_out);
        match job.canaries.asked_with(by) {
            Some(lease) if late(&lease) => Asked::InVain,
            Some(_) => Asked::Waiting,
            None if link.listed.is_none() && link.in_flight.iter().all(late) => Asked::InVain,
            None => {
                if link.listed.is_some() {
                    let nothing = Waiting {
                        piece: Piece { candidates: 0..0, examples: 0..0 },
                        blame: Blame::default(),
                    };
                    self.lease(now, by, id, nothing, true);
                }
                Asked::Waiting
            }
        }
    }

    /// Asks somebody who has not said anything; whether there is anybody.
    fn ask_another(&mut self, now: Instant, id: JobId) -> bool {
        let Some(job) = self.jobs.get(&id) else { return false };
        let serving = self.links.iter().filter(|(_, link)| link.serves(job.run)).map(|(by, _)| *by);
        let mut others: Vec<EvaluatorId> = serving.filter(|by| !job.canaries.has(*by)).collect();
        others.sort_by_key(|by| job.canaries.asked_with(*by).is_none()); // who has been asked will answer soonest
        others.into_iter().any(|by| matches!(self.ask(now, id, by), Asked::Waiting))
    }

    /// What an evaluator has answered is evaluated by others.
    fn disregard(&mut self, id: JobId, by: EvaluatorId) {
        if self.jobs.get_mut(&id).is_some_and(|job| job.unfill(by))
            && let Some(whole) = self.jobs.get(&id).map(Job::whole)
        {
            self.reopen(id, &whole, &Blame::default());
        }
    }

    /// An evaluator stands against the others: nothing of it counts, and it does not come back.
    fn quarantine(&mut self, id: JobId, by: EvaluatorId, others: f32) {
        let opinion = self.jobs.get_mut(&id).and_then(|job| job.canaries.dismiss(by));
        let Some(Opinion { name, found, .. }) = opinion else { return };
        let reason = format!(
            "evaluator {name} is quarantined: for the same candidate and example it finds loss {}, the others {others}; \
             its machine or its build is not sound (docs/fleet.md)",
            found.loss
        );
        for job in self.jobs.keys().copied().collect::<Vec<_>>() {
            self.disregard(job, by);
        }
        if self.quarantined.len() < REMEMBERED && self.quarantined.iter().all(|known| known.name != name) {
            self.quarantined.push(Quarantined { name, reason: reason.clone() });
        }
        self.actions.push(Action::Quarantined(reason.clone()));
        self.tally.quarantines += 1;
        self.remove(by, Some(Refusal::Quarantined(reason)));
    }
}
