//! Rings at the very time, for all simulated devices: the runtime's own timers are a millisecond coarse, and the last of
//! many evaluators to be woken would put a generation's end off by that.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Instant;

use tokio::sync::oneshot;

/// The alarm; its thread ends with the last clone.
#[derive(Clone, Debug)]
pub(super) struct Alarm {
    asked: SyncSender<Ring>,
}

/// Who is to be woken, and when.
#[derive(Debug)]
struct Ring {
    at: Instant,
    bell: oneshot::Sender<()>,
}

impl Alarm {
    /// An alarm that has room for so many who have asked at once.
    ///
    /// # Errors
    /// When no thread can be had.
    pub(super) fn new(room: usize) -> io::Result<Self> {
        let (asked, ask) = sync_channel(room);
        thread::Builder::new().name("alarm".to_owned()).spawn(move || ring(&ask))?;
        Ok(Self { asked })
    }

    /// What rings at that time.
    pub(super) fn at(&self, at: Instant) -> oneshot::Receiver<()> {
        let (bell, rung) = oneshot::channel();
        let _ = self.asked.send(Ring { at, bell }); // the thread is there as long as we are
        rung
    }
}

/// Rings until nobody can ask any more.
fn ring(ask: &Receiver<Ring>) {
    let mut waiting: BinaryHeap<Reverse<Ring>> = BinaryHeap::new();
    loop {
        let now = Instant::now();
        while let Some(due) = waiting.peek_mut().filter(|next| next.0.at <= now) {
            let Reverse(Ring { bell, .. }) = std::collections::binary_heap::PeekMut::pop(due);
            let _ = bell.send(()); // whoever asked may have gone
        }
        let asked = match waiting.peek() {
            Some(next) => ask.recv_timeout(next.0.at.saturating_duration_since(Instant::now())),
            None => ask.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match asked {
            Ok(asked) => waiting.push(Reverse(asked)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

impl PartialEq for Ring {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Ring {}

impl PartialOrd for Ring {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ring {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}
