//! A standing coordinator: clients hand in run files; so many runs are at work at once over one fleet, the others wait
//! for their turn. What it knows of them is on disk before a client is told, so that it goes on where it was after any
//! end.
//!
//! The shelf is looked at under a lock that is never held across an await, and records are written under it, so that they
//! are in the order of what happened. A run is on it from its submission on, is
//! queued, is at work in a task of its own, and has ended; [`Standing::close`] waits for every task.

mod record;
mod work;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error as ThisError;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{Instrument, error_span, warn};

use crate::error::Error;
use crate::fleet::Handle;
use crate::folder::RunFolder;
use crate::inputs::Inputs;
use crate::observe::Observer;
use crate::progress::{Progress, State};
pub use record::Submission;
use record::{Home, Record};

/// How much is taken at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Runs at work.
    pub at_work: usize,
    /// Runs that wait for their turn.
    pub queued: usize,
}

/// Why a client does not get what it asks for.
#[derive(Debug, ThisError)]
pub enum Denied {
    /// The run file, or what it names, is wrong.
    #[error("{0}")]
    Input(Error),
    /// Enough runs are waiting.
    #[error(
        "{0} runs are waiting already; try again when one has ended, or start the coordinator with a larger --max-queued"
    )]
    Full(usize),
    /// The coordinator is going.
    #[error("the coordinator is shutting down; its runs go on when it is started again")]
    Closing,
    /// There is no such run.
    #[error("there is no run {0} here")]
    Unknown(u64),
    /// It has ended.
    #[error("run {0} has ended already")]
    Over(u64),
    /// The coordinator's own trouble: a full disk, say.
    #[error("{0}")]
    Failed(Error),
}

/// One run, as clients see it.
#[derive(Clone, Debug)]
pub struct View {
    /// Its id.
    pub id: u64,
    /// Its progress.
    pub progress: watch::Receiver<Progress>,
    /// Its run folder.
    pub folder: PathBuf,
}

/// A standing coordinator's runs; clones are the same.
#[derive(Clone, Debug)]
pub struct Standing(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    home: Home,
    fleet: Handle,
    observer: Observer,
    limits: Limits,
    /// Held while a run file is read: one at a time, in the order they came.
    reading: tokio::sync::Mutex<()>,
    closing: watch::Sender<bool>,
    shelf: Mutex<Shelf>,
}

#[derive(Debug, Default)]
struct Shelf {
    runs: BTreeMap<u64, Entry>,
    queue: VecDeque<u64>,
    at_work: BTreeSet<u64>,
    tasks: JoinSet<()>,
}

/// A run on the shelf.
#[derive(Debug)]
struct Entry {
    task: String,
    folder: PathBuf,
    /// What it was begun with.
    submission: Submission,
    progress: watch::Sender<Progress>,
    /// Turns true when it has to stop: a client has cancelled it, or the coordinator is going.
    stop: watch::Sender<bool>,
    cancelled: bool,
}

impl Entry {
    fn new(record: Record) -> Self {
        let Record { submission, task, folder, cancelled, last } = record;
        let state = if cancelled { State::Cancelled } else { State::Queued };
        let begun = || Progress { task: task.clone(), state, ..Progress::default() };
        let progress = watch::Sender::new(last.unwrap_or_else(begun));
        Self { task, folder, submission, progress, stop: watch::Sender::new(false), cancelled }
    }

    fn record(&self, last: Option<Progress>) -> Record {
        Record {
            submission: self.submission.clone(),
            task: self.task.clone(),
            folder: self.folder.clone(),
            cancelled: self.cancelled,
            last,
        }
    }

    fn over(&self) -> bool {
        self.progress.borrow().state.over()
    }
}

impl Standing {
    /// Opens the coordinator's folder; the runs there that have not ended are queued, in the order of their ids, until
    /// [`Standing::go_on`]. All of them are seen through `observer`.
    ///
    /// # Errors
    /// [`Error::Input`] when the folder is in use or damaged.
    pub fn open(folder: &Path, fleet: Handle, limits: Limits, observer: Observer) -> Result<Self, Error> {
        let (home, records) = Home::open(folder)?;
        let runs: BTreeMap<u64, Entry> =
            records.into_iter().map(|(id, record)| (id, Entry::new(record))).collect();
        let queue = runs.iter().filter(|(_, entry)| !entry.over()).map(|(id, _)| *id).collect();
        let shelf = Mutex::new(Shelf { runs, queue, ..Shelf::default() });
        let (reading, closing) = (tokio::sync::Mutex::default(), watch::Sender::new(false));
        Ok(Self(Arc::new(Inner { home, fleet, observer, limits, reading, closing, shelf })))
    }

    /// Begins with what is queued.
    pub fn go_on(&self) {
        self.start_next();
    }

    /// Where it keeps everything.
    pub fn folder(&self) -> &Path {
        self.0.home.path()
    }

    /// Takes a run in; its id. All that can be known to be wrong with it is known before it is taken.
    ///
    /// # Errors
    /// See [`Denied`].
    pub async fn submit(&self, submission: Submission) -> Result<u64, Denied> {
        let _turn = self.0.reading.lock().await; // nobody else adds a run until this one is on the shelf
        if *self.0.closing.borrow() {
            return Err(Denied::Closing);
        }
        let id = {
            let shelf = self.0.shelf();
            let (room, last) =
                (self.0.limits.at_work.saturating_sub(shelf.at_work.len()), shelf.runs.last_key_value());
            if shelf.queue.len() >= self.0.limits.queued + room {
                return Err(Denied::Full(shelf.queue.len()));
            }
            last.map_or(1, |(id, _)| id + 1)
        };
        let record = tokio::task::block_in_place(|| self.read(submission, id))?;
        self.0.shelf().runs.insert(id, Entry::new(record));
        self.0.shelf().queue.push_back(id);
        self.start_next();
        Ok(id)
    }

    /// Checks a submission as `tune` would, and writes it down.
    fn read(&self, submission: Submission, id: u64) -> Result<Record, Denied> {
        let wrong = |error: Error| match error {
            error @ (Error::Input(_) | Error::Example { .. }) => Denied::Input(error),
            other => Denied::Failed(other),
        };
        let inputs = submission.spec(self.folder(), id).and_then(Inputs::load).map_err(wrong)?;
        let folder = inputs.spec.run.folder.clone();
        let taken = |(id, entry): (&u64, &Entry)| (!entry.over() && entry.folder == folder).then_some(*id);
        if let Some(other) = self.0.shelf().runs.iter().find_map(taken) {
            let folder = folder.display();
            let problem = format!("run {other} has the run folder {folder}; choose another run.folder");
            return Err(Denied::Input(Error::Input(problem)));
        }
        RunFolder::open(&inputs.spec, &inputs.hash, submission.resume).map_err(wrong)?;
        let record = Record { submission, task: inputs.spec.task.name, folder, cancelled: false, last: None };
        self.0.home.write(id, &record).map_err(Denied::Failed)?;
        Ok(record)
    }

    /// All runs, by id.
    pub fn list(&self) -> Vec<View> {
        self.0.shelf().runs.iter().map(|(id, entry)| view(*id, entry)).collect()
    }

    /// One run.
    ///
    /// # Errors
    /// [`Denied::Unknown`].
    pub fn find(&self, id: u64) -> Result<View, Denied> {
        self.0.shelf().runs.get(&id).map(|entry| view(id, entry)).ok_or(Denied::Unknown(id))
    }

    /// Ends a run; one at work leaves a checkpoint that `tune --resume`, or another submission, goes on from.
    ///
    /// # Errors
    /// [`Denied::Unknown`], [`Denied::Over`], or [`Denied::Failed`] when it cannot be written down.
    pub fn cancel(&self, id: u64) -> Result<(), Denied> {
        let mut shelf = self.0.shelf();
        let Shelf { runs, queue, .. } = &mut *shelf;
        let entry = runs.get_mut(&id).ok_or(Denied::Unknown(id))?;
        if entry.over() {
            return Err(Denied::Over(id));
        }
        let record = Record { cancelled: true, ..entry.record(None) };
        self.0.home.write(id, &record).map_err(Denied::Failed)?;
        entry.cancelled = true;
        entry.stop.send_replace(true);
        if let Some(place) = queue.iter().position(|queued| *queued == id) {
            queue.remove(place);
            entry.progress.send_modify(|progress| progress.state = State::Cancelled);
        }
        Ok(())
    }

    /// Turns true when the coordinator is going.
    pub fn closing(&self) -> watch::Receiver<bool> {
        self.0.closing.subscribe()
    }

    /// Stops every run after its checkpoint, to go on when the coordinator is started again; takes no more.
    pub async fn close(&self) {
        self.0.closing.send_replace(true);
        let _turn = self.0.reading.lock().await; // a run that is being read is on the shelf now
        let mut tasks = {
            let mut shelf = self.0.shelf();
            for id in &shelf.at_work {
                shelf.runs.get(id).map(|entry| entry.stop.send_replace(true));
            }
            std::mem::take(&mut shelf.tasks)
        };
        while tasks.join_next().await.is_some() {}
    }

    /// Begins the runs whose turn it is.
    fn start_next(&self) {
        let mut shelf = self.0.shelf();
        let Shelf { queue, at_work, tasks, .. } = &mut *shelf;
        while tasks.try_join_next().is_some() {} // those that have ended
        while !*self.0.closing.borrow() && at_work.len() < self.0.limits.at_work {
            let Some(id) = queue.pop_front() else { return };
            at_work.insert(id);
            tasks.spawn(self.clone().see_through(id));
        }
    }

    /// A run's whole time at work.
    async fn see_through(self, id: u64) {
        let task = self.0.shelf().runs.get(&id).map(|entry| {
            let (stop, progress) = (entry.stop.subscribe(), entry.progress.clone());
            work::Task { id, submission: entry.submission.clone(), stop, progress }
        });
        let Some(task) = task else { return }; // runs do not leave the shelf
        let (home, fleet, observer) =
            (self.folder().to_owned(), self.0.fleet.clone(), self.0.observer.clone());
        let span = error_span!("run", run = id); // at this level it is there whatever is logged
        // in a task of its own: what panics there ends this run and no other
        let ended = tokio::spawn(work::run(task, home, fleet, observer).instrument(span)).await;
        self.end(
            id,
            ended.unwrap_or_else(|panic| Err(Error::failed(format!("the run broke down: {panic}")))),
        );
        self.start_next();
    }

    /// A run has ended, or has been stopped to go on another time.
    fn end(&self, id: u64, ended: Result<(), Error>) {
        let mut shelf = self.0.shelf();
        shelf.at_work.remove(&id);
        let Some(entry) = shelf.runs.get(&id) else { return };
        let (state, message) = match ended {
            Ok(()) => (State::Done, String::new()),
            Err(Error::Interrupted(_)) if entry.cancelled => (State::Cancelled, String::new()),
            Err(Error::Interrupted(_)) => return,
            Err(error) => (State::Failed, error.to_string()),
        };
        let last = Progress { state, message, ..entry.progress.borrow().clone() };
        if let Err(error) = self.0.home.write(id, &entry.record(Some(last.clone()))) {
            warn!("run {id}: {error}; when this coordinator is started again, it will look at the run anew");
        }
        entry.progress.send_replace(last); // on disk first: who is told can rely on it
    }
}

impl Inner {
    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn view(id: u64, entry: &Entry) -> View {
    View { id, progress: entry.progress.subscribe(), folder: entry.folder.clone() }
}
