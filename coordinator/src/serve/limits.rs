//! How much anybody who can reach the port may make the coordinator hold; docs/security.md adds these up.

use std::time::Duration;

/// What connections may be; the defaults suit fleets of some thousands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at most whose caller was not let in yet (an evaluator by its hello, a client by its token); one more,
    /// and the oldest of them has to go. Never more than a quarter of the files that this process may open.
    pub strangers: usize,
    /// Connections at most whose caller was let in; never more than five eighths of the files.
    pub guests: usize,
    /// A connection without a call is closed after so long: its TLS and HTTP/2 handshakes included.
    pub first_call: Duration,
    /// A connection whose calls have all ended is closed after so long.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            strangers: 1024,
            guests: 8192,
            first_call: Duration::from_secs(10),
            idle: Duration::from_secs(120),
        }
    }
}

impl Limits {
    /// These limits where this process may open `files`: a flood of connections must leave some for everything else.
    pub(super) fn within(self, files: Option<u64>) -> Self {
        let files = files.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX);
        let (strangers, guests) = (self.strangers.min(files / 4), self.guests.min(files / 8 * 5));
        Self { strangers: strangers.max(1), guests: guests.max(1), ..self }
    }
}

/// Connections taken from the listener at most in each [`PACE`]; more of them wait in the system's queue.
pub(super) const ARRIVALS: u32 = 200;

/// See [`ARRIVALS`].
pub(super) const PACE: Duration = Duration::from_millis(100);

/// Calls at once on one connection.
pub(super) const CALLS: u32 = 32;

/// Bytes of a call's headers.
pub(super) const HEADERS: u32 = 16 << 10;

/// Bytes that callers may send ahead of what is read, on one call and on one connection.
pub(super) const WINDOW: u32 = 256 << 10;

/// Bytes of any report that the evaluator was not asked for: hello, heartbeats, refusals.
pub(super) const REPORT: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_left_for_everything_else() {
        let room = |files| {
            let limits = Limits::default().within(files);
            (limits.strangers, limits.guests)
        };
        assert_eq!(room(None), (1024, 8192));
        assert_eq!(room(Some(20_000)), (1024, 8192));
        assert_eq!(room(Some(1024)), (256, 640));
        assert_eq!(room(Some(3)), (1, 1));
    }
}
