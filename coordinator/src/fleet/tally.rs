//! What the fleet has counted since it began, and what it has before it: for whoever watches. Pure.

use std::collections::BTreeMap;

use shared::ids::LeaseId;

use super::job::Job;
use super::table::{Held, JobId};

/// What has happened, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Evaluators that were let in.
    pub joins: u64,
    /// Evaluators that were lost, or dropped for what they did.
    pub losses: u64,
    /// Evaluators that were refused or sent away for what they are.
    pub refusals: u64,
    /// Evaluators that were not believed.
    pub quarantines: u64,
    /// Leases handed out.
    pub sent: u64,
    /// Of them, those that repeat another.
    pub repeated: u64,
    /// Leases answered.
    pub answered: u64,
    /// Leases that an evaluator could not do, or not rightly.
    pub failed: u64,
    /// Leases whose evaluator has gone.
    pub lost: u64,
}

/// What is still to be done, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Candidates on offer that are not answered completely; a run that nobody has prepared counts one.
    pub candidates: usize,
    /// Candidate-examples in no lease.
    pub examples: usize,
    /// Leases at work.
    pub working: usize,
    /// Leases that wait for their context.
    pub ahead: usize,
    /// Leases at work for so long that others were asked too.
    pub late: usize,
}

impl Load {
    /// Of these jobs and leases; so many runs are not prepared.
    pub(super) fn of(
        jobs: &BTreeMap<JobId, Job>,
        leases: &BTreeMap<LeaseId, Held>,
        unprepared: usize,
    ) -> Self {
        let count = |of: fn(&Held) -> bool| leases.values().filter(|held| of(held)).count();
        Self {
            candidates: unprepared + jobs.values().map(Job::open_candidates).sum::<usize>(),
            examples: jobs.values().map(Job::waiting_cells).sum(),
            working: count(|held| !held.ahead && !held.timed_out),
            ahead: count(|held| held.ahead),
            late: count(|held| held.timed_out),
        }
    }
}
