//! Who gets what next.
//!
//! An event touches few evaluators, so only those are looked at: who has come to have room, or, where work has come
//! to wait, who has room for that run. A job is divided when somebody asks for a part of it, by everybody's speed and by
//! how long they are busy ([`plan`](super::super::plan)); it is divided again when someone has nothing left to do. Of a large one only
//! half is divided at first, so that the rest can go by what has been seen since.
//!
//! Runs share the fleet by what they have been served, in operations; one that begins late begins where the one served
//! last stood.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use shared::ids::{EvaluatorId, LeaseId, RunId};

use super::super::cut::{Piece, Waiting};
use super::super::job::Job;
use super::super::plan::{self, Hand};
use super::{JobId, Table};

/// Candidates waiting for each evaluator from which on only half of them is divided.
const PLENTY: f64 = 16.0;

/// Candidates for each evaluator up to which they are given evenly where that is nearly just.
const FEW: f64 = 4.0;

/// So many evaluators get whole candidates alone, where there are enough: a lease more for each would be the larger cost.
const MANY: usize = 256;

/// A pause between two divisions of a job, for each evaluator: some ten times what looking at it costs.
const DIVISION: Duration = Duration::from_micros(20);

/// So many may be looked at as often as one likes.
const SMALL: usize = 64;

impl Table {
    /// Lets an evaluator stand where it belongs among those that have room.
    pub(super) fn list(&mut self, id: EvaluatorId) {
        self.unlist(id);
        let Some(link) = self.links.get_mut(&id).filter(|l| l.in_flight.len() < self.settings.credit) else {
            return;
        };
        let depth = link.current();
        link.listed = Some(depth);
        for (run, _) in link.runs.iter().filter(|(_, prepared)| prepared.ready) {
            self.room.entry(*run).or_default().insert((depth, id));
        }
        self.hungry.insert(id);
    }

    /// Takes it out there, before anything changes.
    pub(super) fn unlist(&mut self, id: EvaluatorId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let Some(depth) = link.listed.take() else { return };
        for run in link.runs.keys() {
            if let Some(room) = self.room.get_mut(run) {
                room.remove(&(depth, id));
            }
        }
    }

    /// Lets everything that waits be looked at: what hinders an evaluator may end with time alone.
    pub(super) fn stir_all(&mut self) {
        self.stirred.extend(self.jobs.values().filter(|job| !job.waiting.is_empty()).map(|job| job.run));
    }

    /// Ends what has come to its end, and hands out what waits: to the idle first, then one lease ahead.
    pub(super) fn dispatch(&mut self, now: Instant) {
        self.conclude(now);
        let (stirred, hungry) = (std::mem::take(&mut self.stirred), std::mem::take(&mut self.hungry));
        if self.draining {
            return;
        }
        for depth in 0..self.settings.credit {
            if self.jobs.values().all(|job| job.waiting.is_empty()) {
                return;
            }
            let here = |id: &&EvaluatorId| self.links.get(id).is_some_and(|link| link.listed == Some(depth));
            let mut takers: BTreeSet<EvaluatorId> = hungry.iter().filter(here).copied().collect();
            for room in stirred.iter().filter_map(|run| self.room.get(run)) {
                let range = (depth, EvaluatorId(0))..(depth + 1, EvaluatorId(0));
                takers.extend(room.range(range).map(|(_, id)| *id));
            }
            for id in takers {
                if let Some((job, waiting)) = self.next_for(now, id) {
                    self.lease(now, id, job, waiting, false);
                }
            }
        }
        self.hungry.clear(); // they have been asked
    }

    /// What an evaluator takes next: of the context that is, else, one lease, of the one to come.
    fn next_for(&mut self, now: Instant, id: EvaluatorId) -> Option<(JobId, Waiting)> {
        let link = self.links.get(&id)?;
        let idle = link.current() == 0;
        let quiet = self.quiet_until.is_some_and(|until| now < until);
        // there must be room for what can be done
        let may_wait = link.ahead == 0 && self.settings.credit > 1 && !quiet;
        for ahead in [0, 1].into_iter().take(1 + usize::from(may_wait)) {
            for job in self.jobs_for(id, ahead) {
                if let Some(waiting) = self.cut_for(now, job, id, idle) {
                    return Some((job, waiting));
                }
            }
        }
        None
    }

    /// Jobs with work waiting that an evaluator may take, `ahead` versions before their context: of the run that has
    /// had the least first, and of one run the oldest.
    fn jobs_for(&self, id: EvaluatorId, ahead: u64) -> Vec<JobId> {
        let Some(link) = self.links.get(&id) else { return Vec::new() };
        let waiting = self.jobs.iter().filter(|(_, job)| !job.waiting.is_empty() && link.serves(job.run));
        let due = waiting.filter_map(|(id, job)| {
            let run = self.runs.get(&job.run)?;
            let due = run.version().0 + ahead == job.version.0 && (ahead == 0 || run.context().is_some());
            due.then_some((run.served, job.run, *id))
        });
        let mut due: Vec<(f64, RunId, JobId)> = due.collect();
        due.sort_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        due.into_iter().map(|(.., id)| id).collect()
    }

    /// Cuts an evaluator's share off a job, where there is something for it.
    fn cut_for(&mut self, now: Instant, id: JobId, by: EvaluatorId, idle: bool) -> Option<Waiting> {
        let job = self.jobs.get(&id)?;
        let index = job.largest(|waiting| self.fits(by, id, waiting))?;
        if !job.shares.contains_key(&by) {
            if !idle && !job.shares.is_empty() {
                return None; // it has had its share, and others are still to take theirs
            }
            if self.may_divide_again(now, job) {
                self.divide(now, id);
            } else {
                self.give_equally(id, by);
            }
        }
        let job = self.jobs.get_mut(&id)?;
        let crumb = job.crumb();
        let share = job.shares.get(&by).copied().filter(|&share| share > 0.0 || idle);
        let share = share.or(idle.then_some(crumb))?;
        let waiting = job.cut(index, share);
        let left = share - waiting.piece.cells() as f64;
        if left < crumb {
            job.shares.remove(&by);
        } else {
            job.shares.insert(by, left);
        }
        Some(waiting)
    }

    /// Gives one evaluator an equal share of what waits, without a look at the others.
    fn give_equally(&mut self, id: JobId, by: EvaluatorId) {
        let count = self.links.len().max(1) as f64;
        if let Some(job) = self.jobs.get_mut(&id) {
            let share = job.waiting_cells() as f64 / count;
            job.shares.insert(by, share.max(job.crumb()));
        }
    }

    /// Whether so much time has passed that another look at everybody costs little of it.
    fn may_divide_again(&self, now: Instant, job: &Job) -> bool {
        let pause = DIVISION * self.links.len().saturating_sub(SMALL) as u32;
        job.divided.is_none_or(|then| now.saturating_duration_since(then) >= pause)
    }

    /// Divides what waits of a job.
    fn divide(&mut self, now: Instant, id: JobId) {
        let Some(job) = self.jobs.get(&id) else { return };
        let run = job.run;
        let mut hands = self.hands(now, run);
        if self.runs.get(&run).is_some_and(|run| run.version() != job.version) {
            // All of them begin together, when the last has ended what is before it.
            hands.iter_mut().for_each(|hand| hand.busy = 0.0);
        }
        let (cells, cost) = (job.waiting_cells() as f64, job.cost);
        let plenty = cells >= PLENTY * (job.width() * hands.len()) as f64;
        let cells = if plenty { cells / 2.0 } else { cells };
        let crumb = job.crumb();
        let idle: BTreeSet<EvaluatorId> =
            hands.iter().filter(|hand| hand.busy == 0.0).map(|hand| hand.id).collect();
        let candidates = cells / (job.width() * hands.len()) as f64;
        let shares =
            if candidates.fract() == 0.0 && candidates <= FEW && plan::may_be_even(&hands, cells * cost) {
                hands.iter().map(|hand| (hand.id, candidates * job.width() as f64)).collect()
            } else {
                // Whether a second lease pays is not known before anything has been measured.
                let unknown = self.usual(run).is_none();
                let many = (hands.len() >= MANY || unknown) && candidates >= 1.0;
                let mut shares = plan::shares(hands, cells * cost);
                shares.values_mut().for_each(|share| *share /= cost);
                if many {
                    plan::whole(&mut shares, job.width() as f64);
                } else {
                    plan::without_crumbs(&mut shares, crumb, &idle);
                }
                shares
            };
        if let Some(job) = self.jobs.get_mut(&id) {
            job.shares = shares;
            job.divided = Some(now);
        }
    }

    /// Whether an evaluator may take a piece: it does not hold it already, and where it has failed at it nobody else can.
    fn fits(&self, by: EvaluatorId, id: JobId, waiting: &Waiting) -> bool {
        let failed_here = || waiting.blame.failed_by == Some(by) && self.another_can(by, id, &waiting.piece);
        !self.holds(by, id, &waiting.piece) && !failed_here()
    }

    fn holds(&self, by: EvaluatorId, id: JobId, piece: &Piece) -> bool {
        let held = self.links.get(&by).into_iter().flat_map(|link| &link.in_flight);
        let mut held = held.filter_map(|lease| self.leases.get(lease));
        held.any(|held| held.job == id && held.piece.overlaps(piece))
    }

    /// Whether an evaluator other than `by` and those who hold it can be expected to take a piece. One whose credit has
    /// gone to leases that timed out cannot: it may be stuck for good.
    fn another_can(&self, by: EvaluatorId, id: JobId, piece: &Piece) -> bool {
        let Some(job) = self.jobs.get(&id) else { return false };
        let late = |lease: &LeaseId| self.leases.get(lease).is_some_and(|held| held.timed_out);
        self.links.iter().any(|(other, link)| {
            let stuck = link.in_flight.len() >= self.settings.credit && link.in_flight.iter().all(late);
            *other != by && link.serves(job.run) && !stuck && !self.holds(*other, id, piece)
        })
    }

    /// Who is idle repeats what is expected to end last, where it can do so sooner.
    pub(super) fn copy_slowest(&mut self, now: Instant) {
        let current = |job: &Job| self.runs.get(&job.run).is_some_and(|run| run.version() == job.version);
        let jobs = self.jobs.iter().filter(|(_, job)| job.waiting.is_empty() && !job.out.is_empty());
        let jobs: Vec<JobId> = jobs.filter(|(_, job)| current(job)).map(|(id, _)| *id).collect();
        for id in jobs {
            let slow = self.slow_leases(now, id);
            let Some(job) = self.jobs.get(&id).filter(|_| !slow.is_empty()) else { continue };
            let mut idle = self.hands(now, job.run);
            idle.retain(|hand| {
                let link = self.links.get(&hand.id);
                link.is_some_and(|link| link.current() == 0 && link.listed.is_some())
            });
            let each = idle.len().div_ceil(slow.len()).max(1);
            for (hands, (remaining, lease)) in idle.chunks(each).zip(slow) {
                self.copy(now, lease, remaining, hands);
            }
        }
    }

    /// Leases that a copy could overtake, with the seconds they are expected to take; the last to end first.
    fn slow_leases(&self, now: Instant, id: JobId) -> Vec<(f64, LeaseId)> {
        let out = self.jobs.get(&id).into_iter().flat_map(|job| &job.out);
        let out = out.filter_map(|lease| Some((*lease, self.leases.get(lease)?)));
        let open = out.filter(|(_, held)| !held.timed_out && !held.uncopied.is_empty());
        let slow = open.filter_map(|(lease, held)| Some((self.remaining(now, lease, held)?, lease)));
        let mut slow: Vec<(f64, LeaseId)> = slow.collect();
        slow.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        slow
    }

    /// Has `hands` repeat a lease together, if they would end well before it.
    fn copy(&mut self, now: Instant, lease: LeaseId, remaining: f64, hands: &[Hand]) {
        let Some(held) = self.leases.get(&lease) else { return };
        let (id, blame) = (held.job, held.blame.clone());
        let Some(job) = self.jobs.get(&id) else { return };
        let cells = held.uncopied.iter().map(Piece::cells).sum::<usize>() as f64;
        let speed: f64 = hands.iter().map(|hand| hand.speed).sum();
        let overhead = hands.iter().map(|hand| hand.overhead).fold(0.0, f64::max);
        let whole = overhead + cells * job.cost / speed;
        let sooner = whole + self.settings.patience.as_secs_f64() < remaining;
        if job.evaluates() && !sooner {
            return;
        }
        for hand in hands {
            let (Some(job), Some(held)) = (self.jobs.get(&id), self.leases.get_mut(&lease)) else { return };
            let Some(piece) = job.cut_copy(&mut held.uncopied, cells * hand.speed / speed) else { return };
            self.lease(now, hand.id, id, Waiting { piece, blame: blame.clone() }, true);
        }
    }
}
