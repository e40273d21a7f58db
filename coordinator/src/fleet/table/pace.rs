//! How fast evaluators are, by what they have answered, and when they will have done what they hold.

use std::time::{Duration, Instant};

use shared::ids::{EvaluatorId, LeaseId, RunId};

use super::super::plan::{self, Hand};
use super::{Held, Link, Table};

/// What a lease weighs against the one after it.
const MEMORY: f64 = 0.75;

/// So many times what it should take, and a lease is taken for a sign that its evaluator has become slow.
const OVERDUE: f64 = 1.5;

/// Leases must differ so much in size, as the variance by the squared mean, to tell overhead from work.
const SPREAD: f64 = 0.06;

/// Work is never taken for less than this of what leases take.
const LEAST_WORK: f64 = 0.05;

/// What the leases of one evaluator take: sums over them, weighted exponentially.
#[derive(Debug, Default)]
pub(super) struct Pace {
    leases: f64,
    work: f64,
    seconds: f64,
    /// Of work times work, and of work times seconds.
    squares: f64,
    products: f64,
    /// Seconds of a lease beside its work, as found when leases last differed enough.
    overhead: f64,
    /// When it has answered last.
    last_answer: Option<Instant>,
}

/// What a lease takes, as a line: who is bound by latency is not taken for the faster the larger its leases were.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Line {
    /// Seconds beside its operations.
    pub(super) overhead: f64,
    /// Operations a second.
    pub(super) speed: f64,
}

impl Line {
    pub(super) fn seconds(&self, cost: f64) -> f64 {
        self.overhead + cost / self.speed
    }
}

impl Pace {
    /// When a lease sent at `sent` could have been begun, were it the only one.
    pub(super) fn could_begin(&self, sent: Instant) -> Instant {
        self.last_answer.map_or(sent, |last| last.max(sent))
    }

    /// A lease has been answered; `work` is what is measured of it, if anything.
    pub(super) fn answered(&mut self, now: Instant, sent: Instant, work: Option<f64>) {
        let seconds = now.saturating_duration_since(self.could_begin(sent)).as_secs_f64();
        self.last_answer = Some(now);
        if let Some(work) = work.filter(|_| seconds > 0.0) {
            let add = |sum: &mut f64, value: f64| *sum = MEMORY * *sum + value;
            add(&mut self.leases, 1.0);
            add(&mut self.work, work);
            add(&mut self.seconds, seconds);
            add(&mut self.squares, work * work);
            add(&mut self.products, work * seconds);
            self.overhead = self.intercept().unwrap_or(self.overhead);
        }
    }

    /// Whether anything has been measured.
    pub(super) fn is_known(&self) -> bool {
        self.leases > 0.0
    }

    /// Operations a second with all that leases take, once measured.
    pub(super) fn speed(&self) -> Option<f64> {
        (self.seconds > 0.0).then(|| self.work / self.seconds)
    }

    /// Where the line that fits best begins; none where leases were too much alike to tell.
    fn intercept(&self) -> Option<f64> {
        let spread = self.leases * self.squares - self.work * self.work;
        if spread < SPREAD * self.work * self.work {
            return None;
        }
        let slope = (self.leases * self.products - self.work * self.seconds) / spread;
        Some(((self.seconds - slope * self.work) / self.leases).max(0.0))
    }

    /// The line that fits best, once anything has been measured.
    pub(super) fn line(&self) -> Option<Line> {
        let (whole, each) = (self.speed()?, self.seconds / self.leases);
        let overhead = self.overhead.min((1.0 - LEAST_WORK) * each);
        Some(Line { overhead, speed: whole * each / (each - overhead) })
    }
}

impl Table {
    /// The mean of a run's evaluators that have been measured: what the others count as.
    pub(super) fn usual(&self, run: RunId) -> Option<Line> {
        let lines = self.links.values().filter(|link| link.serves(run)).filter_map(|link| link.pace.line());
        let (overhead, speed, count) = lines.fold((0.0, 0.0, 0.0), |(overhead, speed, count), line| {
            (overhead + line.overhead, speed + line.speed, count + 1.0)
        });
        (count > 0.0).then(|| Line { overhead: overhead / count, speed: speed / count })
    }

    /// Everybody who can be expected to take work of a run; where nobody can, everybody who has prepared it.
    pub(super) fn hands(&self, now: Instant, run: RunId) -> Vec<Hand> {
        let usual = self.usual(run);
        let hand = |(id, link): (&EvaluatorId, &Link)| {
            let late = link.in_flight.iter().any(|lease| self.leases.get(lease).is_some_and(|l| l.timed_out));
            let hand = match link.pace.line().or(usual) {
                Some(line) => self.outlook(now, *id, link, line),
                None => Hand { id: *id, speed: 1.0, busy: 0.0, overhead: 0.0 }, // nobody has been measured
            };
            (hand, !late)
        };
        let all: Vec<(Hand, bool)> =
            self.links.iter().filter(|(_, link)| link.serves(run)).map(hand).collect();
        let none = all.iter().all(|(_, able)| !able);
        let mut hands: Vec<Hand> =
            all.into_iter().filter(|(_, able)| *able || none).map(|(hand, _)| hand).collect();
        plan::liken(&mut hands);
        hands
    }

    /// What can be counted on: the link's speed, and when it will have done what it can work on now. Who has been at a
    /// lease for far longer than its line says is as slow as that, and will be at it for as long again.
    fn outlook(&self, now: Instant, id: EvaluatorId, link: &Link, line: Line) -> Hand {
        let hand = |line: Line, busy| Hand { id, speed: line.speed, busy, overhead: line.overhead };
        let held = || link.in_flight.iter().filter_map(|id| self.leases.get(id)).filter(|held| !held.ahead);
        let Some(first) = held().find(|held| held.cost > 0.0) else { return hand(line, 0.0) };
        let elapsed = now.saturating_duration_since(link.pace.could_begin(first.since)).as_secs_f64();
        let late = elapsed > OVERDUE * line.seconds(first.cost);
        let line = if late { Line { overhead: 0.0, speed: first.cost / (2.0 * elapsed) } } else { line };
        let whole: f64 = held().map(|held| line.seconds(held.cost)).sum();
        hand(line, (whole - elapsed).max(0.0))
    }

    /// Seconds until a lease is expected to be answered; `None` where that cannot be said, or where it is due.
    pub(super) fn remaining(&self, now: Instant, id: LeaseId, held: &Held) -> Option<f64> {
        let link = self.links.get(&held.evaluator)?;
        let job = self.jobs.get(&held.job)?;
        let seconds = |d: Duration| d.as_secs_f64();
        let line = link.pace.line().or_else(|| self.usual(job.run)).filter(|_| job.evaluates());
        let before = link.in_flight.range(..id).filter_map(|lease| self.leases.get(lease));
        let queued = |line: Line| -> f64 {
            before.filter(|held| !held.ahead).map(|held| line.seconds(held.cost)).sum()
        };
        let elapsed = seconds(now.saturating_duration_since(link.pace.could_begin(held.since)));
        let Some(line) = line else {
            let slowest = seconds(job.slowest?);
            return (elapsed >= 2.0 * slowest + seconds(self.settings.patience)).then_some(elapsed);
        };
        let whole = queued(line) + line.seconds(held.cost);
        if elapsed < whole {
            return Some(whole - elapsed);
        }
        // It is late: that it takes as long again is the best guess.
        (elapsed >= 2.0 * whole + seconds(self.settings.patience)).then_some(elapsed)
    }
}
