//! One run, from its data to its artefact: drives the search over the fleet and keeps the run folder.

mod arithmetic;
mod pipeline;
mod session;

use std::time::{Duration, Instant};

use shared::ids::RunId;
use shared::messages::Ready;
use shared::projection;
use shared::spec::{self, Method, ProjectionKind};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::checkpoint::Checkpoint;
use crate::cma;
use crate::error::Error;
use crate::fleet::{Expected, Handle};
use crate::folder::RunFolder;
use crate::inputs::Inputs;
use crate::observe::Observer;
use crate::progress::{Reporter, State};
use crate::racing;
use crate::search::{DevScore, Plan};
use session::Session;

/// A fleet must have been deserted for so long before a run says that it waits.
const DESERTED: Duration = Duration::from_secs(1);

/// What a finished run has to show.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Calls spent, rounded up.
    pub calls: u64,
    /// Calls that racing has saved, where it is on.
    pub saved_calls: Option<f64>,
    /// Wall-clock seconds spent searching.
    pub seconds: f64,
    /// The selected deep prompt on dev.
    pub dev: DevScore,
    /// The manual prompt on dev.
    pub dev_before: DevScore,
    /// The manual prompt on test.
    pub test_before: Option<f64>,
    /// The selected deep prompt on test.
    pub test_after: Option<f64>,
}

/// What a run goes by, and goes on from.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Its id within the fleet.
    pub id: RunId,
    /// Where it goes on, when it has been at work before.
    pub checkpoint: Option<Checkpoint>,
    /// What evaluators must be.
    pub expected: Expected,
    /// What it is seen through.
    pub observer: Observer,
}

/// Runs to the end, or until `stop` turns true; every generation leaves a checkpoint. Whatever the end, what was to be
/// written has been tried once more.
///
/// # Errors
/// [`Error::Interrupted`] when stopped; otherwise what went wrong.
pub async fn tune(
    origin: Origin,
    inputs: &Inputs,
    folder: &RunFolder,
    fleet: &Handle,
    reporter: &Reporter,
    mut stop: watch::Receiver<bool>,
) -> Result<Summary, Error> {
    let id = origin.id;
    let beat = origin.observer.begin_loop(Instant::now());
    reporter.send_if_modified(|progress| {
        progress.task.clone_from(&inputs.spec.task.name);
        progress.calls = origin.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.search.calls());
        progress.budget = inputs.spec.search.budget;
        false // no news yet
    });
    let mut keeper = None;
    let ended = {
        let work = async {
            let mut reordered = None;
            if inputs.spec.search.racing {
                let hard_first = racing::hard_first(&origin, inputs, fleet).await?;
                reordered = Some(hard_first);
            }
            let inputs = reordered.as_ref().unwrap_or(inputs);
            let place = (folder, &mut keeper);
            let mut session = Session::begin(origin, inputs, place, fleet, reporter).await?;
            session.search().await?;
            session.finish().await
        };
        tokio::select! {
            ended = work => ended,
            _ = stop.wait_for(|&stop| stop) => Err(Error::Interrupted(format!(
                "`zeroth tune --resume` goes on from the checkpoint in {}", folder.path().display()
            ))),
            () = watch_over(fleet, reporter) => Err(Error::failed("the fleet has ended")),
            never = beat.keep() => match never {},
        }
    };
    drop(beat); // what follows is bounded in time, or the disk's
    let kept = match keeper {
        Some(keeper) => keeper.close().await,
        None => Ok(()),
    };
    let ended = match (ended, kept) {
        (Err(Error::Interrupted(text)), Err(problem)) => Err(Error::Interrupted(format!(
            "{text}, but its last generations could not be written: {problem}"
        ))),
        (ended, _) => ended,
    };
    for run in [id, racing::sounding(id)] {
        fleet.end(run).await; // however it ended: others go on with the same evaluators
    }
    reporter.send_modify(|progress| match &ended {
        Ok(_) => progress.state = State::Done,
        Err(Error::Interrupted(_)) => progress.state = State::Cancelled,
        Err(error) => {
            progress.state = State::Failed;
            progress.message = error.to_string();
        }
    });
    ended
}

/// Says when a run has nobody to evaluate it, once each time; ends with the fleet.
async fn watch_over(fleet: &Handle, reporter: &Reporter) {
    let mut status = fleet.status();
    loop {
        if status.wait_for(|fleet| fleet.evaluators.is_empty()).await.is_err() {
            return;
        }
        let back = timeout(DESERTED, status.wait_for(|fleet| !fleet.evaluators.is_empty())).await;
        match back.map(|back| back.is_ok()) {
            Ok(true) => continue,
            Ok(false) => return,
            Err(_) => {}
        }
        let was = reporter.borrow().state;
        reporter.send_modify(|progress| progress.state = State::Waiting);
        if status.wait_for(|fleet| !fleet.evaluators.is_empty()).await.is_err() {
            return;
        }
        reporter.send_if_modified(|progress| {
            let waits = progress.state == State::Waiting;
            progress.state = if waits { was } else { progress.state };
            waits
        });
    }
}

/// The summary of a run whose checkpoint says that all is done, with the test set that `inputs` name.
pub fn done_before(checkpoint: &Checkpoint, inputs: &Inputs) -> Option<Summary> {
    finished(checkpoint, inputs).filter(|_| checkpoint.before.test_sha256 == inputs.test_sha256)
}

fn finished(checkpoint: &Checkpoint, inputs: &Inputs) -> Option<Summary> {
    let finished = checkpoint.finished?;
    Some(Summary {
        calls: checkpoint.search.calls(),
        saved_calls: inputs.spec.search.racing.then(|| checkpoint.search.saved_calls()),
        seconds: checkpoint.seconds,
        dev: checkpoint.search.selected()?.score,
        dev_before: checkpoint.before.dev,
        test_before: checkpoint.before.test,
        test_after: finished.test,
    })
}

/// Standard deviation of the projections' entries, `[L]` (spec 3.1); zero where the statistics are not wanted.
pub fn projection_stds(inputs: &Inputs, ready: &Ready) -> Vec<f32> {
    let search = &inputs.spec.search;
    let designed = |&host: &f32| match search.projection {
        ProjectionKind::Normal => {
            projection::designed_std(search.alpha, f64::from(host), search.dim, search.sigma)
        }
        ProjectionKind::Uniform => 0.0,
    };
    ready.layer_stds.iter().map(designed).collect()
}

/// What the optimiser calls it.
pub fn variant(covariance: spec::Covariance) -> cma::Variant {
    match covariance {
        spec::Covariance::Full => cma::Variant::Full,
        spec::Covariance::Separable => cma::Variant::Separable,
        spec::Covariance::DiagonalStart => cma::Variant::DiagonalStart { generations: None },
        spec::Covariance::LimitedMemory => cma::Variant::LimitedMemory,
        spec::Covariance::Auto => cma::Variant::Auto,
    }
}

/// The search's settings, for a backbone of `layers`.
pub fn plan(inputs: &Inputs, layers: usize) -> Plan {
    let spec = &inputs.spec;
    Plan {
        layers,
        tuned: if spec.search.method == Method::Bbt { 1 } else { layers },
        dim: spec.search.dim,
        population: spec.search.population,
        sigma: spec.search.sigma,
        covariance: variant(spec.search.covariance),
        learning: match spec.search.learning_rates {
            spec::LearningRates::Fixed => cma::LearningRates::Fixed,
            spec::LearningRates::Adapted => cma::LearningRates::Adapted,
        },
        bounds: spec.search.bounds,
        reevaluate: spec.search.reevaluate,
        budget: spec.search.budget,
        examples: inputs.train.len() as u64,
        seed: spec.search.seed,
        incumbent: spec.search.incumbent,
        select: spec.search.select,
        dev_every: spec.search.dev_every,
        loss: spec.task.loss,
        metric: spec.task.metric,
        racing: spec.search.racing,
    }
}

#[cfg(test)]
mod tests;
