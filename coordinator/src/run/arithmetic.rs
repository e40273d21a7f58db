//! The thread of a run's optimiser: one job after the other, so that the async side only moves messages.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use tokio::sync::oneshot;

use crate::error::Error;

/// Jobs that may wait; a run has one of each kind at most.
const WAITING: usize = 4;

type Job = Box<dyn FnOnce() + Send>;

/// A thread's jobs; the thread ends when this is dropped, after the job it is at.
#[derive(Debug)]
pub(super) struct Arithmetic {
    jobs: SyncSender<Job>,
}

/// What a job has brought, once it is done.
#[derive(Debug)]
pub(super) struct Outcome<T>(oneshot::Receiver<T>);

impl Arithmetic {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the operating system gives none.
    pub(super) fn start() -> Result<Self, Error> {
        let (jobs, waiting): (_, Receiver<Job>) = sync_channel(WAITING);
        let work = move || waiting.into_iter().for_each(|job| job());
        thread::Builder::new().name("zeroth-search".to_owned()).spawn(work).map_err(Error::failed)?;
        Ok(Self { jobs })
    }

    /// Hands a job over.
    pub(super) fn begin<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Outcome<T> {
        let (done, outcome) = oneshot::channel();
        // A job that could not be handed over is dropped, and its outcome says so.
        let _ = self.jobs.try_send(Box::new(move || drop(done.send(job()))));
        Outcome(outcome)
    }
}

impl<T> Outcome<T> {
    /// Waits for the job's end.
    ///
    /// # Errors
    /// When the job has panicked.
    pub(super) async fn get(&mut self) -> Result<T, Error> {
        (&mut self.0).await.map_err(|_| Error::failed("the optimiser's thread has ended"))
    }
}
