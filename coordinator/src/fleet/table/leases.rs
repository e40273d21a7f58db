//! Jobs and their leases: what is offered, handed out, answered, refused.

use std::collections::BTreeSet;
use std::time::Instant;

use shared::ids::{ContextVersion, EvaluatorId, LeaseId, RunId};
use shared::messages::{Answer, Lease, Order, Prompted, Refusal, Refused};

use super::super::job::{Job, Part, Task};
use super::{Action, Collected, Held, JobId, Table};

impl Table {
    /// New work of a run, under a context version that is here or announced.
    pub(in crate::fleet) fn offer(
        &mut self,
        now: Instant,
        id: RunId,
        version: ContextVersion,
        task: Task,
    ) -> Result<JobId, Refusal> {
        let evaluators = self.links.values().filter(|link| link.serves(id)).count();
        let run = self.run(id)?;
        let bare = matches!(task, Task::Score { prompt: Prompted::Manual, .. });
        if !bare && run.context().is_none() {
            return Err(Refusal::Failed(format!("{id} has no context yet")));
        }
        if version < run.version() {
            let text = format!("work under context {version}, but {id} is at {}", run.version());
            return Err(Refusal::Failed(text));
        }
        let job = Job::new(&run.prepare, version, task, evaluators)?;
        let id = JobId(self.next_id());
        self.jobs.insert(id, job);
        self.finish_if_complete(id); // nothing was asked
        self.dispatch(now);
        Ok(id)
    }

    /// Nobody waits for a job any more.
    pub(in crate::fleet) fn cancel(&mut self, job: JobId) {
        self.jobs.remove(&job);
    }

    pub(super) fn answer(&mut self, now: Instant, id: EvaluatorId, answer: Answer) {
        let Some(held) = self.leases.get(&answer.lease).filter(|held| held.evaluator == id) else {
            return self.drop_failed(id, &format!("it answered {}, which it does not hold", answer.lease));
        };
        let took = now.saturating_duration_since(held.since);
        let (job, part) = (held.job, held.part);
        let taken = self.jobs.get_mut(&job).map_or(Ok(()), |job| job.take(part, id, took, answer.outcomes));
        if let Err(problem) = taken {
            self.give_back(id, answer.lease);
            self.failed(job, part, id, &problem);
            return self.drop_failed(id, &problem);
        }
        self.give_back(id, answer.lease);
        if let Some(link) = self.links.get_mut(&id) {
            link.answered += 1;
        }
        self.finish_if_complete(job);
    }

    pub(super) fn refused(&mut self, id: EvaluatorId, refused: Refused) {
        let held = refused.lease.and_then(|lease| self.give_back(id, lease));
        if refused.lease.is_some() && held.is_none() {
            return self.drop_failed(id, "it refused a lease that it does not hold");
        }
        match (refused.refusal, held) {
            (refusal @ (Refusal::Input(_) | Refusal::Example { .. }), _) => {
                self.fail_run(refused.run, &refusal)
            }
            (Refusal::Failed(why), Some(held)) => self.failed(held.job, held.part, id, &why),
            (Refusal::Failed(why), None) => self.cannot_serve(refused.run, id, why),
            (refusal @ (Refusal::Model(_) | Refusal::Protocol(_)), _) => self.remove(id, Some(refusal)),
        }
    }

    /// Takes a lease back from the evaluator that holds it.
    pub(super) fn give_back(&mut self, id: EvaluatorId, lease: LeaseId) -> Option<Held> {
        if self.leases.get(&lease)?.evaluator != id {
            return None;
        }
        let held = self.leases.remove(&lease)?;
        self.release(lease, &held);
        self.links.get_mut(&id)?.in_flight.remove(&lease);
        Some(held)
    }

    fn finish_if_complete(&mut self, id: JobId) {
        if self.jobs.get(&id).is_some_and(Job::complete)
            && let Some(job) = self.jobs.remove(&id)
        {
            let evaluators = job.evaluators.len();
            let collected = Collected { outcomes: job.outcomes(), evaluators };
            self.actions.push(Action::Ended(id, Ok(collected)));
        }
    }

    /// Hands out what waits: to the idle first, then one lease ahead; who is idle still repeats the slowest.
    pub(super) fn dispatch(&mut self, now: Instant) {
        if self.draining {
            return;
        }
        for depth in 0..self.settings.credit {
            let links = self.links.iter().filter(|(_, link)| link.in_flight.len() == depth);
            for id in links.map(|(id, _)| *id).collect::<Vec<_>>() {
                if let Some((job, part)) = self.waiting_for(id) {
                    self.lease(now, id, job, part);
                }
            }
        }
        let idle = self.links.iter().filter(|(_, link)| link.in_flight.is_empty());
        for id in idle.map(|(id, _)| *id).collect::<Vec<_>>() {
            if let Some((job, part)) = self.slow_for(now, id) {
                self.lease(now, id, job, part);
            }
        }
    }

    /// Jobs that an evaluator may work on now, oldest first.
    fn jobs_for(&self, id: EvaluatorId) -> impl Iterator<Item = (JobId, &Job)> {
        let link = self.links.get(&id);
        let may = move |job: &Job| {
            let ready = link.is_some_and(|link| link.serves(job.run));
            ready && self.runs.get(&job.run).is_some_and(|run| run.version() == job.version)
        };
        self.jobs.iter().filter(move |(_, job)| may(job)).map(|(id, job)| (*id, job))
    }

    /// The first part in the queue that this evaluator does not hold already.
    fn waiting_for(&self, id: EvaluatorId) -> Option<(JobId, usize)> {
        self.jobs_for(id).find_map(|(job_id, job)| {
            let fits = |index: &&usize| {
                let Some(part) = job.parts.get(**index) else {
                    return false;
                };
                let failed_here = part.failed_by == Some(id) && self.another_can(id, job.run, &part.holders);
                !failed_here && !self.holds(id, &part.holders)
            };
            job.queue.iter().find(fits).map(|index| (job_id, *index))
        })
    }

    /// The oldest lease of another evaluator that has taken twice as long as any that was answered.
    fn slow_for(&self, now: Instant, id: EvaluatorId) -> Option<(JobId, usize)> {
        self.jobs_for(id).filter(|(_, job)| job.queue.is_empty()).find_map(|(job_id, job)| {
            let patience = job.slowest? * 2 + self.settings.patience;
            let since = |part: &Part| {
                let [lease] = part.holders.iter().collect::<Vec<_>>()[..] else {
                    return None;
                };
                let held = self.leases.get(lease)?;
                (held.evaluator != id && now.saturating_duration_since(held.since) >= patience)
                    .then_some(held.since)
            };
            let open = job.parts.iter().enumerate().filter(|(_, part)| !part.done);
            let slow = open.filter_map(|(index, part)| since(part).map(|since| (since, index)));
            slow.min().map(|(_, index)| (job_id, index))
        })
    }

    /// Whether an evaluator other than `id` and the `holders` can be expected to take work of `run`. One whose
    /// credit has gone to leases that timed out cannot: it may be stuck for good.
    fn another_can(&self, id: EvaluatorId, run: RunId, holders: &BTreeSet<LeaseId>) -> bool {
        let late = |lease: &LeaseId| self.leases.get(lease).is_some_and(|held| held.timed_out);
        self.links.iter().any(|(other, link)| {
            let stuck = link.in_flight.len() >= self.settings.credit && link.in_flight.iter().all(late);
            *other != id && link.serves(run) && !stuck && !self.holds(*other, holders)
        })
    }

    fn holds(&self, id: EvaluatorId, holders: &BTreeSet<LeaseId>) -> bool {
        holders.iter().filter_map(|lease| self.leases.get(lease)).any(|held| held.evaluator == id)
    }

    fn lease(&mut self, now: Instant, evaluator: EvaluatorId, job_id: JobId, index: usize) {
        let lease = LeaseId(self.next_id());
        let Some(job) = self.jobs.get_mut(&job_id) else {
            return;
        };
        let run = job.run;
        job.queue.remove(&index);
        let Some(part) = job.parts.get_mut(index) else {
            return;
        };
        part.holders.insert(lease);
        let Some(part) = job.parts.get(index) else { return };
        let order = Lease { id: lease, run, version: job.version, work: job.work(part) };
        self.bring_up_to_date(run, evaluator);
        let held = Held { evaluator, job: job_id, part: index, since: now, timed_out: false };
        self.leases.insert(lease, held);
        if let Some(link) = self.links.get_mut(&evaluator) {
            link.in_flight.insert(lease);
        }
        self.actions.push(Action::Send(evaluator, Order::Lease(order)));
    }

    /// Sends what an evaluator's context lacks: the last update alone where that is enough, else all of it.
    pub(super) fn bring_up_to_date(&mut self, id: RunId, evaluator: EvaluatorId) {
        let (Some(run), Some(link)) = (self.runs.get(&id), self.links.get_mut(&evaluator)) else {
            return;
        };
        let Some(prepared) = link.runs.get_mut(&id).filter(|prepared| prepared.ready) else {
            return;
        };
        if let Some(order) = run.lacking(prepared.context) {
            prepared.context = run.context();
            self.actions.push(Action::Send(evaluator, order));
        }
    }
}
