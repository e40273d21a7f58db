//! Jobs and their leases: what is offered, handed out, answered, refused.

use std::time::Instant;

use shared::ids::{ContextVersion, EvaluatorId, LeaseId, RunId};
use shared::messages::{Answer, Lease, Order, Prompted, Refusal, Refused};

use super::super::cut::Waiting;
use super::super::job::{Job, Task};
use super::{Action, Held, JobId, Table};

impl Table {
    /// New work of a run, under a context version that is here or announced.
    pub(in crate::fleet) fn offer(
        &mut self,
        now: Instant,
        id: RunId,
        version: ContextVersion,
        task: Task,
    ) -> Result<JobId, Refusal> {
        let level = self.level;
        let run = self.run(id)?;
        let bare = matches!(task, Task::Score { prompt: Prompted::Manual, .. });
        if !bare && run.context().is_none() {
            return Err(Refusal::Failed(format!("{id} has no context yet")));
        }
        if version < run.version() {
            let text = format!("work under context {version}, but {id} is at {}", run.version());
            return Err(Refusal::Failed(text));
        }
        let job = Job::new(run, version, task)?;
        if run.served == 0.0 {
            run.served = level; // it begins
        }
        let job_id = JobId(self.next_id());
        self.jobs.insert(job_id, job);
        self.stirred.insert(id);
        self.dispatch(now);
        Ok(job_id)
    }

    /// Nobody waits for a job any more.
    pub(in crate::fleet) fn cancel(&mut self, job: JobId) {
        self.jobs.remove(&job);
    }

    pub(super) fn answer(&mut self, now: Instant, id: EvaluatorId, answer: Answer) {
        let Some(held) = self.give_back(id, answer.lease) else {
            return self.drop_failed(id, &format!("it answered {}, which it does not hold", answer.lease));
        };
        let took = now.saturating_duration_since(held.since);
        let opinion = self.opinion(id, answer.canary);
        if let Some(job) = self.jobs.get_mut(&held.job) {
            let taken = match (&opinion, held.canary) {
                (None, true) => Err("an answer without the canary's loss".to_owned()),
                _ => job.take(&held.piece, id, took, &answer.outcomes),
            };
            if let Err(problem) = taken {
                self.tally.failed += 1;
                self.failed(held, id, &problem);
                return self.drop_failed(id, &problem);
            }
            if let Some(opinion) = opinion.filter(|_| held.canary) {
                job.canaries.take(id, opinion);
            }
            if held.timed_out {
                job.forget_answered(); // it had gone back to what waits
            }
        }
        self.tally.answered += 1;
        if let Some(link) = self.links.get_mut(&id) {
            link.answered += 1;
            link.pace.answered(now, held.since, held.measured.then_some(held.cost));
        }
    }

    pub(super) fn refused(&mut self, id: EvaluatorId, refused: Refused) {
        let held = refused.lease.and_then(|lease| self.give_back(id, lease));
        if refused.lease.is_some() && held.is_none() {
            return self.drop_failed(id, "it refused a lease that it does not hold");
        }
        self.tally.failed += u64::from(held.is_some());
        match (refused.refusal, held) {
            (refusal @ (Refusal::Input(_) | Refusal::Example { .. }), _) => {
                self.fail_run(refused.run, &refusal)
            }
            (Refusal::Failed(why), Some(held)) if held.piece.cells() == 0 => self.drop_failed(id, &why),
            (Refusal::Failed(why), Some(held)) => self.failed(held, id, &why),
            (Refusal::Failed(why), None) => self.cannot_serve(refused.run, id, why),
            (refusal @ (Refusal::Model(_) | Refusal::Quarantined(_) | Refusal::Protocol(_)), held) => {
                held.into_iter().for_each(|held| self.reopen(held.job, &held.piece, &held.blame));
                self.remove(id, Some(refusal));
            }
        }
    }

    /// Takes a lease back from the evaluator that holds it; what becomes of its piece is the caller's business.
    fn give_back(&mut self, id: EvaluatorId, lease: LeaseId) -> Option<Held> {
        if self.leases.get(&lease)?.evaluator != id {
            return None;
        }
        self.unlist(id);
        let held = self.leases.remove(&lease)?;
        if let Some(job) = self.jobs.get_mut(&held.job) {
            job.out.remove(&lease);
            job.canaries.over(id, lease);
        }
        let link = self.links.get_mut(&id)?;
        link.in_flight.remove(&lease);
        link.ahead -= usize::from(held.ahead);
        self.list(id);
        Some(held)
    }

    /// Gives a piece to an evaluator.
    pub(super) fn lease(
        &mut self,
        now: Instant,
        evaluator: EvaluatorId,
        job_id: JobId,
        Waiting { piece, blame }: Waiting,
        copy: bool,
    ) {
        let id = LeaseId(self.next_id());
        self.unlist(evaluator);
        let Some(job) = self.jobs.get_mut(&job_id) else { return };
        let (Some(run), Some(link)) = (self.runs.get_mut(&job.run), self.links.get_mut(&evaluator)) else {
            return;
        };
        // Only evaluators that are compared need a canary; one without candidates is for that alone.
        let canary =
            job.evaluates() && (run.serving > 1 || piece.cells() == 0) && job.canaries.wanted_of(evaluator);
        if canary {
            job.canaries.ask(evaluator, id);
        }
        let cost = (piece.cells() + usize::from(canary)) as f64 * job.cost;
        self.level = run.served;
        run.served += cost;
        let ahead = job.version != run.version();
        if !ahead {
            job.begun.get_or_insert(now);
        }
        job.out.insert(id);
        link.in_flight.insert(id);
        link.ahead += usize::from(ahead);
        let work = job.work(&piece, canary);
        let order = Lease { id, run: job.run, version: job.version, work, trace: None };
        let held = Held {
            evaluator,
            run: job.run,
            version: job.version,
            job: job_id,
            cost,
            measured: job.evaluates() && (link.pace.is_known() || piece.cells() as f64 >= job.crumb()),
            canary,
            uncopied: if copy { Vec::new() } else { vec![piece.clone()] },
            piece,
            blame,
            ahead,
            since: now,
            timed_out: false,
        };
        self.tally.sent += 1;
        self.tally.repeated += u64::from(copy && held.measured);
        self.leases.insert(id, held);
        self.bring_up_to_date(order.run, evaluator);
        self.actions.push(Action::Send(evaluator, Order::Lease(order)));
        self.list(evaluator);
    }

    /// The context has come to where some leases were sent ahead to: whoever holds one begins.
    pub(super) fn catch_up(&mut self, now: Instant, id: RunId) {
        let Some(version) = self.runs.get(&id).map(super::Run::version) else { return };
        let mut holders = Vec::new();
        for held in self.leases.values_mut().filter(|held| held.run == id && held.ahead) {
            if held.version <= version {
                (held.ahead, held.since) = (false, now);
                if let Some(job) = self.jobs.get_mut(&held.job) {
                    job.begun.get_or_insert(now);
                }
                holders.push(held.evaluator);
            }
        }
        for holder in holders {
            self.unlist(holder);
            if let Some(link) = self.links.get_mut(&holder) {
                link.ahead -= 1;
            }
            self.list(holder);
            self.bring_up_to_date(id, holder);
        }
        self.stirred.insert(id);
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
