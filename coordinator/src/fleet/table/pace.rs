//! How fast evaluators are, by what they have answered, and when they will have done what they hold.

use std::time::{Duration, Instant};

use shared::ids::{EvaluatorId, LeaseId, RunId};

use super::super::plan::Hand;
use super::{Held, Link, Table};

/// What a lease weighs against the one after it.
const MEMORY: f64 = 0.75;

/// So many times what it should take, and a lease is taken for a sign that its evaluator has become slow.
const OVERDUE: f64 = 1.5;

/// The speed of one evaluator: work and time, both weighted exponentially, so that a short lease weighs little.
#[derive(Debug, Default)]
pub(super) struct Pace {
    work: f64,
    seconds: f64,
    /// When it has answered last.
    last_answer: Option<Instant>,
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
            self.work = MEMORY * self.work + work;
            self.seconds = MEMORY * self.seconds + seconds;
        }
    }

    /// Operations a second, once measured.
    pub(super) fn speed(&self) -> Option<f64> {
        (self.seconds > 0.0).then(|| self.work / self.seconds)
    }
}

impl Table {
    /// The mean speed of a run's evaluators that have been measured: what the others count as.
    fn usual_speed(&self, run: RunId) -> Option<f64> {
        let serving = self.links.values().filter(|link| link.serves(run));
        let (sum, count) = serving
            .filter_map(|link| link.pace.speed())
            .fold((0.0, 0), |(sum, count), speed| (sum + speed, count + 1));
        (count > 0).then(|| sum / f64::from(count))
    }

    /// Everybody who can be expected to take work of a run; where nobody can, everybody who has prepared it.
    pub(super) fn hands(&self, now: Instant, run: RunId) -> Vec<Hand> {
        let usual = self.usual_speed(run);
        let hand = |(id, link): (&EvaluatorId, &Link)| {
            let late = link.in_flight.iter().any(|lease| self.leases.get(lease).is_some_and(|l| l.timed_out));
            let (speed, busy) = match link.pace.speed().or(usual) {
                Some(speed) => self.outlook(now, link, speed),
                None => (1.0, 0.0), // nobody has been measured
            };
            (Hand { id: *id, speed, busy }, !late)
        };
        let all: Vec<(Hand, bool)> =
            self.links.iter().filter(|(_, link)| link.serves(run)).map(hand).collect();
        let none = all.iter().all(|(_, able)| !able);
        all.into_iter().filter(|(_, able)| *able || none).map(|(hand, _)| hand).collect()
    }

    /// The speed that can be counted on, and seconds until a link has done what it can work on now. Who has been at a
    /// lease for far longer than its speed says is as slow as that, and will be at it for as long again.
    fn outlook(&self, now: Instant, link: &Link, speed: f64) -> (f64, f64) {
        let held = || link.in_flight.iter().filter_map(|id| self.leases.get(id)).filter(|held| !held.ahead);
        let Some(first) = held().find(|held| held.cost > 0.0) else { return (speed, 0.0) };
        let elapsed = now.saturating_duration_since(link.pace.could_begin(first.since)).as_secs_f64();
        let late = elapsed * speed > OVERDUE * first.cost;
        let speed = if late { first.cost / (2.0 * elapsed) } else { speed };
        let whole = held().map(|held| held.cost).sum::<f64>() / speed;
        (speed, (whole - elapsed).max(0.0))
    }

    /// Seconds until a lease is expected to be answered; `None` where that cannot be said, or where it is due.
    pub(super) fn remaining(&self, now: Instant, id: LeaseId, held: &Held) -> Option<f64> {
        let link = self.links.get(&held.evaluator)?;
        let job = self.jobs.get(&held.job)?;
        let seconds = |d: Duration| d.as_secs_f64();
        let speed = link.pace.speed().or_else(|| self.usual_speed(job.run)).filter(|_| job.evaluates());
        let before = link.in_flight.range(..id).filter_map(|lease| self.leases.get(lease));
        let queued: f64 = before.filter(|held| !held.ahead).map(|held| held.cost).sum();
        let elapsed = seconds(now.saturating_duration_since(link.pace.could_begin(held.since)));
        let Some(speed) = speed else {
            let slowest = seconds(job.slowest?);
            return (elapsed >= 2.0 * slowest + seconds(self.settings.patience)).then_some(elapsed);
        };
        let whole = (queued + held.cost) / speed;
        if elapsed < whole {
            return Some(whole - elapsed);
        }
        // It is late: that it takes as long again is the best guess.
        (elapsed >= 2.0 * whole + seconds(self.settings.patience)).then_some(elapsed)
    }
}
