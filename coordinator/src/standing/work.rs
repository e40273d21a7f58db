//! One run of a standing coordinator, from what was submitted to its artefact: what `tune --listen` does for its one.

use std::path::PathBuf;
use std::pin::pin;

use shared::ids::RunId;
use tokio::sync::watch;
use tracing::warn;

use super::Submission;
use crate::checkpoint::Checkpoint;
use crate::error::Error;
use crate::fleet::{Expected, Handle};
use crate::folder::RunFolder;
use crate::inputs::Inputs;
use crate::model;
use crate::observe::Observer;
use crate::progress::{Progress, Reporter, State};
use crate::run::{self, Origin, Summary};

/// What is to be done, and how it is followed and stopped.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) id: u64,
    pub(super) submission: Submission,
    pub(super) stop: watch::Receiver<bool>,
    pub(super) progress: Reporter,
}

/// What is known before evaluators are asked.
struct Opened {
    inputs: Inputs,
    folder: RunFolder,
    checkpoint: Option<Checkpoint>,
    expected: Expected,
}

/// Runs to the end, or goes on from the run folder's checkpoint.
///
/// # Errors
/// As [`run::tune`]. How it ended is for the caller to report.
pub(super) async fn run(task: Task, home: PathBuf, fleet: Handle, observer: Observer) -> Result<(), Error> {
    let Task { id, submission, stop, progress } = task;
    progress.send_modify(|progress| progress.state = State::Waiting);
    let Opened { inputs, folder, checkpoint, expected } =
        tokio::task::block_in_place(|| open(&submission, &home, id))?;
    let done = checkpoint.as_ref().and_then(|checkpoint| run::done_before(checkpoint, &inputs));
    if let Some(summary) = done.filter(|_| folder.artefact().exists()) {
        progress.send_modify(|progress| as_done(progress, &summary));
        return Ok(());
    }
    let name = inputs.spec.task.name.clone();
    let (reporter, reported) = watch::channel(Progress { task: name, ..Progress::default() });
    let origin = Origin { id: RunId(id), checkpoint, expected, observer };
    let tuning = run::tune(origin, &inputs, &folder, &fleet, &reporter, stop);
    followed(tuning, reported, &progress).await.map(drop)
}

fn open(submission: &Submission, home: &std::path::Path, id: u64) -> Result<Opened, Error> {
    let inputs = submission.spec(home, id).and_then(Inputs::load)?;
    let (folder, checkpoint) = RunFolder::open(&inputs.spec, &inputs.hash, true)?;
    let here = model::here(&inputs.spec.model);
    let begun_with = checkpoint.as_ref().map(|checkpoint| &checkpoint.model);
    let mut expected = inputs.expected(model::expected(begun_with, here.as_ref().ok())?);
    if let (None, Err(reason)) = (&expected.model, here) {
        let called = model::called(&inputs.spec.model.path);
        warn!(
            "run {id}: {reason}; the first evaluator's model that is called {called} is taken for the run's"
        );
        expected.named = Some(called);
    }
    Ok(Opened { inputs, folder, checkpoint, expected })
}

/// Passes on what a run reports until it ends; its end itself is told when it is on disk.
async fn followed(
    tuning: impl Future<Output = Result<Summary, Error>>,
    mut reported: watch::Receiver<Progress>,
    progress: &Reporter,
) -> Result<Summary, Error> {
    let mut tuning = pin!(tuning);
    loop {
        let ended = tokio::select! {
            ended = &mut tuning => Some(ended),
            Ok(()) = reported.changed() => None,
        };
        let now = reported.borrow_and_update().clone();
        let state = if now.state.over() { progress.borrow().state } else { now.state };
        progress.send_replace(Progress { state, ..now });
        if let Some(ended) = ended {
            return ended;
        }
    }
}

fn as_done(progress: &mut Progress, summary: &Summary) {
    (progress.calls, progress.budget) = (summary.calls, summary.calls);
    progress.best_dev = Some(summary.dev.metric);
    progress.test_before = summary.test_before;
}
