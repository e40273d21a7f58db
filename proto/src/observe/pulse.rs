//! Whether loops are alive: each says so again and again, and one that has not for too long is stuck.
//!
//! A pulse is felt by whoever asks, so that nobody needs to be alive to find out who is not.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often a loop says that it lives, where nothing else is asked for.
const EVERY: Duration = Duration::from_millis(250);

/// The pulses of a program's loops; clones are the same.
#[derive(Clone, Debug)]
pub struct Pulses {
    stuck_after: Duration,
    loops: Arc<Mutex<Loops>>,
}

#[derive(Debug, Default)]
struct Loops {
    last_id: u64,
    /// When each last said something.
    heard: BTreeMap<u64, Instant>,
}

impl Default for Pulses {
    fn default() -> Self {
        Self::new(Duration::from_secs(60))
    }
}

impl Pulses {
    /// Of loops of which one that says nothing for `stuck_after` is stuck.
    pub fn new(stuck_after: Duration) -> Self {
        Self { stuck_after, loops: Arc::default() }
    }

    fn loops(&self) -> MutexGuard<'_, Loops> {
        self.loops.lock().unwrap_or_else(PoisonError::into_inner) // nothing panics while it holds it
    }

    /// A loop begins; it has ended when what is returned is dropped.
    pub fn begin(&self, now: Instant) -> Beat {
        let mut loops = self.loops();
        loops.last_id += 1;
        let id = loops.last_id;
        loops.heard.insert(id, now);
        Beat { id, pulses: self.clone() }
    }

    /// How long the most silent loop has said nothing; nothing without loops.
    pub fn silence(&self, now: Instant) -> Duration {
        let silences = self.loops().heard.values().map(|heard| now.saturating_duration_since(*heard)).max();
        silences.unwrap_or_default()
    }

    /// Whether every loop has said something lately.
    pub fn live(&self, now: Instant) -> bool {
        self.silence(now) < self.stuck_after
    }
}

/// One loop's pulse.
#[derive(Debug)]
pub struct Beat {
    id: u64,
    pulses: Pulses,
}

impl Beat {
    /// The loop lives.
    pub fn beat(&self, now: Instant) {
        if let Some(heard) = self.pulses.loops().heard.get_mut(&self.id) {
            *heard = now;
        }
    }

    /// Beats for ever, as long as the task that it is part of is polled: a task that is stuck in the middle of something
    /// polls nothing.
    pub async fn keep(&self) -> Infallible {
        loop {
            self.beat(Instant::now());
            tokio::time::sleep(EVERY).await;
        }
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        self.pulses.loops().heard.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_silent_loop_decides() {
        let (pulses, start) = (Pulses::new(Duration::from_secs(60)), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(pulses.live(at(1000)), "without a loop nothing is stuck");
        let (fleet, run) = (pulses.begin(at(0)), pulses.begin(at(0)));
        fleet.beat(at(50));
        assert_eq!(pulses.silence(at(59)), Duration::from_secs(59));
        assert!(pulses.live(at(59)) && !pulses.live(at(60)), "the run is stuck");
        run.beat(at(61));
        assert!(pulses.live(at(61)), "it goes on");
        fleet.beat(at(61));
        assert!(!pulses.live(at(121)));
        drop(run);
        fleet.beat(at(122));
        assert!(pulses.live(at(181)), "a run that has ended need not beat");
    }

    /// Whoever waits in a task that is polled lives.
    #[tokio::test]
    async fn a_task_beats_while_it_is_polled() {
        let pulses = Pulses::default();
        let long_ago = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
        let beat = pulses.begin(long_ago);
        assert!(!pulses.live(Instant::now()));
        tokio::select! {
            biased;
            never = beat.keep() => match never {},
            () = std::future::ready(()) => {}
        }
        assert!(pulses.live(Instant::now()));
    }
}
