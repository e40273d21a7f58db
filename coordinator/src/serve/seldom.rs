//! A line of the log that a hostile caller cannot repeat at will: once, then once a minute with how often it would have
//! been said.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_secs(60);

/// When the line was said last, and how often it would have been said since.
#[derive(Debug, Default)]
pub(super) struct Seldom(Mutex<(Option<Instant>, u64)>);

impl Seldom {
    /// Counts one more; how many there were since the last line, where it is time for the next.
    pub(super) fn due(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, unsaid) = &mut *state;
        *unsaid += 1;
        if last.is_some_and(|last| now.saturating_duration_since(last) < PAUSE) {
            return None;
        }
        *last = Some(now);
        Some(std::mem::take(unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_one_line_a_minute() {
        let (seldom, start) = (Seldom::default(), Instant::now());
        let said: Vec<u64> =
            (0..180_000).filter_map(|ms| seldom.due(start + Duration::from_millis(ms))).collect();
        assert_eq!(said, [1, 60_000, 60_000]);
    }
}
