//! Keeps a run's folder while the run goes on: appends to the trace and writes checkpoints, beside the search.
//!
//! One task does the writing, on a thread for what blocks. What waits for it is bounded: lines of the trace, none of which
//! may be lost, and one checkpoint, the newest. A disk that is full or read-only stops no run: it is told once, each
//! generation tries again, and what waits is kept; only [`Keeper::flush`] gives up, after the time it was given.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{self, Duration};

use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, timeout_at};
use tracing::{Instrument, warn};

use crate::checkpoint::Checkpoint;
use crate::error::Error;
use crate::events::{Event, Trace};
use crate::folder::RunFolder;

/// Bytes of the trace that may wait for the disk; the run waits when there are more.
const WAITING: usize = 16 << 20;

/// How long [`Keeper::flush`] waits before it tries again.
const PAUSE: Duration = Duration::from_secs(1);

/// What waits to be written.
#[derive(Debug, Default)]
struct Batch {
    lines: Vec<u8>,
    checkpoint: Option<Box<Checkpoint>>,
    /// Counts what was put here, from 1.
    revision: u64,
    closing: bool,
}

/// Where the run and the writer meet.
#[derive(Debug, Default)]
struct Desk {
    batch: Mutex<Batch>,
    wake: Notify,
}

impl Desk {
    fn batch(&self) -> MutexGuard<'_, Batch> {
        self.batch.lock().unwrap_or_else(PoisonError::into_inner) // nothing panics while it holds it
    }

    fn take(&self) -> Batch {
        let mut batch = self.batch();
        let (revision, closing) = (batch.revision, batch.closing);
        std::mem::replace(&mut *batch, Batch { revision, closing, ..Batch::default() })
    }
}

/// When a checkpoint was last on disk, or the keeper began; clones tell the same.
#[derive(Clone, Debug)]
pub struct Saved(Arc<Mutex<time::Instant>>);

impl Saved {
    fn now() -> Self {
        Self(Arc::new(Mutex::new(time::Instant::now())))
    }

    fn again(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = time::Instant::now();
    }

    /// How long ago that was.
    pub fn age(&self, now: time::Instant) -> Duration {
        now.saturating_duration_since(*self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// How far the writer is.
#[derive(Clone, Debug, Default)]
struct Written {
    /// All up to this is on disk.
    revision: u64,
    /// Bytes of the trace that could not be written yet.
    behind: usize,
    /// Why the last attempt failed, if it did.
    trouble: Option<String>,
}

/// A run folder's writer; when it is dropped, the writer tries once more and ends.
#[derive(Debug)]
pub struct Keeper {
    desk: Arc<Desk>,
    written: watch::Receiver<Written>,
    writer: Option<JoinHandle<()>>,
    /// Length of the trace with all that waits.
    bytes: u64,
    saved: Saved,
}

impl Keeper {
    /// Opens the trace, cut to `events_bytes`, and starts the writer.
    ///
    /// # Errors
    /// What the file system says of the trace.
    pub fn open(folder: &RunFolder, events_bytes: u64) -> Result<Self, Error> {
        let path = folder.events();
        let trace = Trace::open(&path, events_bytes).map_err(Error::file(&path))?;
        let bytes = trace.bytes();
        let files = Files {
            folder: folder.clone(),
            trace,
            lines: Vec::new(),
            checkpoint: Vec::new(),
            unwritten: false,
            saved: Saved::now(),
        };
        let saved = files.saved.clone();
        let desk = Arc::new(Desk::default());
        let (publish, written) = watch::channel(Written::default());
        let writer = tokio::spawn(keep(Arc::clone(&desk), files, publish).in_current_span());
        Ok(Self { desk, written, writer: Some(writer), bytes, saved })
    }

    /// When a checkpoint was last on disk.
    pub fn saved(&self) -> Saved {
        self.saved.clone()
    }

    /// Appends to the trace; waits only where the disk has taken nothing for very long.
    ///
    /// # Errors
    /// When the writer has ended.
    pub async fn append(&mut self, event: &Event) -> Result<(), Error> {
        let line = event.line().map_err(Error::failed)?;
        self.bytes += line.len() as u64;
        self.put(|batch| batch.lines.extend(line));
        if self.behind() > WAITING {
            warn!("{} MiB of the trace wait for the disk: the run waits too", WAITING >> 20);
        }
        while self.behind() > WAITING {
            self.flush(PAUSE).await.or_else(|_| self.alive())?;
        }
        Ok(())
    }

    /// Bytes of the trace that wait.
    fn behind(&self) -> usize {
        self.desk.batch().lines.len() + self.written.borrow().behind
    }

    /// Has a checkpoint written, of a run whose trace is what was appended so far; it takes the place of one that waits.
    pub fn save(&self, checkpoint: Checkpoint) {
        let checkpoint = Box::new(Checkpoint { events_bytes: self.bytes, ..checkpoint });
        self.put(|batch| batch.checkpoint = Some(checkpoint));
    }

    fn put(&self, change: impl FnOnce(&mut Batch)) {
        let mut batch = self.desk.batch();
        change(&mut batch);
        batch.revision += 1;
        drop(batch);
        self.desk.wake.notify_one();
    }

    fn alive(&self) -> Result<(), Error> {
        match &self.writer {
            Some(writer) if !writer.is_finished() => Ok(()),
            _ => Err(Error::failed("the run folder's writer has ended")),
        }
    }

    /// Waits until all is on disk, trying again for as long as `patience` lasts.
    ///
    /// # Errors
    /// Why it is not.
    pub async fn flush(&self, patience: Duration) -> Result<(), Error> {
        let wanted = self.desk.batch().revision;
        let deadline = Instant::now() + patience;
        let mut written = self.written.clone();
        loop {
            self.desk.wake.notify_one();
            let soon = deadline.min(Instant::now() + PAUSE);
            match timeout_at(soon, written.wait_for(|written| written.revision >= wanted)).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(_)) => return Err(Error::failed("the run folder's writer has ended")),
                Err(_) if soon < deadline => {}
                Err(_) => {
                    let trouble = self.written.borrow().trouble.clone();
                    return Err(Error::Failed(
                        trouble.unwrap_or_else(|| "the disk takes too long".to_owned()),
                    ));
                }
            }
        }
    }

    /// Ends the writer after one more attempt at what waits.
    ///
    /// # Errors
    /// Why something is not on disk.
    pub async fn close(mut self) -> Result<(), Error> {
        self.end();
        if let Some(writer) = self.writer.take() {
            writer.await.map_err(Error::failed)?;
        }
        let trouble = self.written.borrow().trouble.clone();
        trouble.map_or(Ok(()), |trouble| Err(Error::Failed(trouble)))
    }

    fn end(&self) {
        self.desk.batch().closing = true;
        self.desk.wake.notify_one();
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.end();
    }
}

/// The writer's files, and what a failed attempt has left to be written.
#[derive(Debug)]
struct Files {
    folder: RunFolder,
    trace: Trace,
    lines: Vec<u8>,
    /// The newest checkpoint as a frame; its memory serves all of them.
    checkpoint: Vec<u8>,
    unwritten: bool,
    saved: Saved,
}

impl Files {
    /// Writes what is there. The trace goes first: no checkpoint may know more than it.
    fn write(&mut self, batch: Batch) -> Result<(), Error> {
        self.lines.extend(batch.lines);
        if let Some(checkpoint) = batch.checkpoint {
            self.unwritten = false; // an older one that was refused
            shared::frame::encode(&*checkpoint, &mut self.checkpoint).map_err(Error::Failed)?;
            self.unwritten = true;
        } // the states that it shares with the search are let go of here, before the disk takes its time
        if !self.lines.is_empty() {
            self.trace.append(&self.lines).map_err(Error::file(self.folder.events()))?;
            self.lines.clear();
        }
        if self.unwritten {
            self.folder.save(&self.checkpoint)?;
            self.unwritten = false;
            self.saved.again();
        }
        Ok(())
    }
}

/// Writes whatever is put on the desk, until that is closed.
async fn keep(desk: Arc<Desk>, mut files: Files, publish: watch::Sender<Written>) {
    let mut trouble = None;
    loop {
        desk.wake.notified().await;
        let batch = desk.take();
        let (revision, closing) = (batch.revision, batch.closing);
        let job = spawn_blocking(move || {
            let outcome = files.write(batch);
            (files, outcome)
        });
        let outcome;
        (files, outcome) = match job.await {
            Ok(done) => done,
            Err(error) => {
                let text = format!("the run folder's writer: {error}");
                return publish.send_modify(|written| written.trouble = Some(text));
            }
        };
        match outcome {
            Ok(()) => {
                if trouble.take().is_some() {
                    warn!("{}: can be written again; nothing was lost", files.folder.path().display());
                }
                publish.send_replace(Written { revision, behind: 0, trouble: None });
            }
            Err(error) => {
                let text = error.to_string();
                if trouble.is_none() {
                    warn!("{text}; the run goes on, and tries again with each generation");
                }
                trouble = Some(text.clone());
                publish.send_modify(|written| {
                    written.behind = files.lines.len();
                    written.trouble = Some(text);
                });
            }
        }
        if closing {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
