//! Runs and their contexts: begun, prepared, started, told of each new incumbent, ended.

use std::time::{Duration, Instant};

use shared::ids::{EvaluatorId, RunId};
use shared::messages::{ContextUpdate, Order, Prepare, Ready, Refusal, Start};

use super::super::Expected;
use super::super::run::Run;
use super::{Action, JobId, Prepared, Table};

/// So many evaluators are told of a context one after the other for so long that work ahead would be in its way.
pub(super) const CROWD: usize = 16;

/// What telling them takes at most, about; far less than the work that they have then.
const QUIET: Duration = Duration::from_millis(2);

impl Table {
    /// A run begins.
    pub(in crate::fleet) fn begin(&mut self, now: Instant, prepare: Prepare, expected: Expected) {
        let id = prepare.run;
        let problem = match (&self.forsaken, self.runs.contains_key(&id)) {
            (Some(reason), _) => Some(reason.clone()),
            (None, true) => Some(Refusal::Failed(format!("{id} has begun already"))),
            (None, false) => None,
        };
        if let Some(refusal) = problem {
            self.actions.push(Action::Begun(id, Err(refusal)));
            return;
        }
        self.runs.insert(id, Run::new(prepare, expected));
        let links: Vec<EvaluatorId> = self.links.keys().copied().collect();
        links.into_iter().for_each(|link| self.prepare_on(id, link));
        self.dispatch(now);
    }

    /// Asks an evaluator to prepare a run; the first one asked fixes the model.
    pub(super) fn prepare_on(&mut self, id: RunId, evaluator: EvaluatorId) {
        let (Some(run), Some(link)) = (self.runs.get_mut(&id), self.links.get_mut(&evaluator)) else {
            return;
        };
        if run.failed.is_some() {
            return;
        }
        if let Err(refusal) = run.accepts(&link.hello) {
            if !self.settings.mixed {
                self.remove(evaluator, Some(refusal));
            }
            return;
        }
        run.adopt(&link.hello.model);
        link.runs.insert(id, Prepared::default());
        self.actions.push(Action::Send(evaluator, Order::Prepare(Box::new(run.prepare.clone()))));
    }

    pub(super) fn ready(&mut self, id: EvaluatorId, ready: Ready) {
        let run_id = ready.run;
        let (Some(run), Some(link)) = (self.runs.get_mut(&run_id), self.links.get_mut(&id)) else {
            return;
        };
        let Some(prepared) = link.runs.get_mut(&run_id) else {
            return;
        };
        let first = run.ready.is_none();
        match run.prepared(&link.hello, ready) {
            Ok(()) => {}
            Err(Refusal::Failed(why)) => return self.cannot_serve(run_id, id, why),
            Err(refusal) => return self.remove(id, Some(refusal)),
        }
        run.serving += usize::from(!std::mem::replace(&mut prepared.ready, true));
        if let (true, Some(begun)) = (first, run.begun()) {
            self.actions.push(Action::Begun(run_id, Ok(begun)));
        }
        self.list(id);
        self.bring_up_to_date(run_id, id);
    }

    /// The whole context of a run, at its start or after the search has set it anew.
    pub(in crate::fleet) fn start(&mut self, now: Instant, start: Start) -> Result<(), Refusal> {
        let id = start.run;
        self.run(id)?.start(start)?;
        self.outdate(id);
        let links: Vec<EvaluatorId> = self.links.keys().copied().collect();
        links.into_iter().for_each(|link| self.bring_up_to_date(id, link));
        self.catch_up(now, id);
        self.dispatch(now);
        Ok(())
    }

    /// One layer's new incumbent; evaluators learn of it before their next lease, or now where they hold work that
    /// waits for it.
    pub(in crate::fleet) fn set_context(
        &mut self,
        now: Instant,
        update: ContextUpdate,
    ) -> Result<(), Refusal> {
        let id = update.run;
        self.run(id)?.update(update)?;
        self.outdate(id);
        self.catch_up(now, id);
        if self.links.len() >= CROWD {
            self.quiet_until = Some(now + QUIET);
        }
        self.dispatch(now);
        Ok(())
    }

    /// When [`Table::wake`] is due.
    pub(in crate::fleet) fn wakes_at(&self) -> Option<Instant> {
        self.quiet_until
    }

    /// Those whom a context was sent have begun: what can wait for its context goes out too.
    pub(in crate::fleet) fn wake(&mut self, now: Instant) {
        if self.quiet_until.take_if(|until| now >= *until).is_some() {
            self.stir_all();
            self.dispatch(now);
        }
    }

    /// Jobs under an older context can never be finished.
    pub(super) fn outdate(&mut self, id: RunId) {
        let Some(version) = self.runs.get(&id).map(Run::version) else {
            return;
        };
        let old = self.jobs.iter().filter(|(_, job)| job.run == id && job.version < version);
        let old: Vec<JobId> = old.map(|(id, _)| *id).collect();
        for job in old {
            self.jobs.remove(&job);
            let text = format!("the context went on to {version} before the answers had come");
            self.actions.push(Action::Ended(job, Err(Refusal::Failed(text))));
        }
    }

    /// A run is over.
    pub(in crate::fleet) fn end(&mut self, id: RunId) {
        self.fail_run(id, &Refusal::Failed(format!("{id} has ended")));
        self.runs.remove(&id);
        self.room.remove(&id);
        for (evaluator, link) in &mut self.links {
            if link.runs.remove(&id).is_some() {
                self.actions.push(Action::Send(*evaluator, Order::Forget(id)));
            }
        }
    }

    /// No more work will come.
    pub(in crate::fleet) fn drain(&mut self) {
        self.draining = true;
        let runs: Vec<RunId> = self.runs.keys().copied().collect();
        runs.into_iter()
            .for_each(|run| self.fail_run(run, &Refusal::Failed("the fleet is drained".to_owned())));
        self.actions.extend(self.links.keys().map(|id| Action::Send(*id, Order::Drain)));
    }

    pub(super) fn fail_run(&mut self, id: RunId, refusal: &Refusal) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        if run.ready.is_none() && run.failed.is_none() {
            self.actions.push(Action::Begun(id, Err(refusal.clone())));
        }
        run.failed.get_or_insert_with(|| refusal.clone());
        let jobs = self.jobs.iter().filter(|(_, job)| job.run == id).map(|(job, _)| *job);
        for job in jobs.collect::<Vec<_>>() {
            self.jobs.remove(&job);
            self.actions.push(Action::Ended(job, Err(refusal.clone())));
        }
    }

    pub(super) fn run(&mut self, id: RunId) -> Result<&mut Run, Refusal> {
        let run = self.runs.get_mut(&id).ok_or_else(|| Refusal::Failed(format!("{id} has not begun")))?;
        run.failed.clone().map_or(Ok(run), Err)
    }
}
