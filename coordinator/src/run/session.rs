//! A run at work: what it begins with, what it scores, how it finishes.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::artefact::{Artefact, ArtefactError};
use shared::frame::FrameError;
use shared::ids::{ContextVersion, RunId};
use shared::messages::{ExampleSet, ModelIdentity, Outcome, Prompted, Ready, Start};
use shared::task::Example;
use shared::task::loss::{Metric, mean};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{info, warn};

use super::arithmetic::Arithmetic;
use super::{Origin, Summary, finished, plan, projection_stds};
use crate::artefact;
use crate::checkpoint::{Before, Checkpoint, Finished};
use crate::error::Error;
use crate::events::Event;
use crate::fleet::Handle;
use crate::folder::RunFolder;
use crate::inputs::{Inputs, labels};
use crate::keeper::Keeper;
use crate::observe::RunWatch;
use crate::progress::{Progress, Reporter, State};
use crate::search::{DevScore, Plan, Search};

/// How long a finished run waits before it tries again to write its artefact.
const PAUSE: Duration = Duration::from_secs(1);

/// Scores deep prompts of one run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scorer<'a> {
    fleet: &'a Handle,
    run: RunId,
    metric: Metric,
}

impl Scorer<'_> {
    /// A deep prompt's score on a set of examples.
    pub(super) async fn score(
        self,
        version: ContextVersion,
        prompted: Prompted,
        set: ExampleSet,
        examples: &[Example],
    ) -> Result<DevScore, Error> {
        let outcome = self.fleet.score(self.run, version, prompted, set).await?;
        Ok(self.rate(&outcome, examples))
    }

    fn rate(self, outcome: &Outcome, examples: &[Example]) -> DevScore {
        let metric = self.metric.of(&outcome.predicted, &labels(examples));
        DevScore { metric, loss: mean(&outcome.losses) }
    }
}

/// A run in progress.
#[derive(Debug)]
pub(super) struct Session<'a> {
    pub(super) inputs: &'a Inputs,
    folder: &'a RunFolder,
    pub(super) fleet: &'a Handle,
    pub(super) keeper: &'a mut Keeper,
    reporter: &'a Reporter,
    pub(super) arithmetic: Arithmetic,
    pub(super) id: RunId,
    pub(super) watch: RunWatch,
    pub(super) plan: Plan,
    ready: Ready,
    pub(super) state: Checkpoint,
    began: Instant,
    seconds_before: f64,
    calls_before: u64,
}

impl<'a> Session<'a> {
    /// Has the run prepared, and scores what stands before the search. The second of `place` takes the folder's keeper,
    /// which outlives the session.
    pub(super) async fn begin(
        origin: Origin,
        inputs: &'a Inputs,
        place: (&'a RunFolder, &'a mut Option<Keeper>),
        fleet: &'a Handle,
        reporter: &'a Reporter,
    ) -> Result<Self, Error> {
        let Origin { id, checkpoint, expected, observer } = origin;
        let begun = inputs.begin(fleet, id, expected).await?;
        let plan = plan(inputs, begun.model.layers as usize);
        let fresh = checkpoint.is_none();
        let state = match checkpoint {
            Some(checkpoint) => checkpoint,
            None => new_state(inputs, &plan, &begun.ready, begun.model)?,
        };
        let (folder, keeper) = place;
        let keeper = keeper.insert(Keeper::open(folder, state.events_bytes)?);
        let watch = observer.begin_run(id, keeper.saved());
        let mut session = Self {
            inputs,
            folder,
            fleet,
            keeper,
            reporter,
            arithmetic: Arithmetic::start()?,
            id,
            watch,
            plan,
            ready: begun.ready,
            began: Instant::now(),
            seconds_before: state.seconds,
            calls_before: state.search.calls(),
            state,
        };
        session.start().await?;
        let begin = Event::Begin {
            task: inputs.spec.task.name.clone(),
            spec: inputs.hash.clone(),
            model: session.state.model.to_string(),
            covariance: session.plan.said().inspect(|said| info!("covariance {said}")),
            calls: session.calls_before,
        };
        session.keeper.append(&begin).await?;
        if fresh {
            session.score_before().await?;
        } else if session.state.before.test_sha256 != inputs.test_sha256 {
            session.test_again().await?;
        }
        Ok(session)
    }

    /// Tells the fleet the projections' scale and the whole context.
    async fn start(&self) -> Result<(), Error> {
        let context = self.state.search.context();
        let start = Start {
            run: self.id,
            projection_stds: self.state.projection_stds.clone(),
            version: context.version(),
            context: context.zs().to_vec(),
        };
        Ok(self.fleet.start(start).await?)
    }

    /// Scores the manual prompt, and the zero prompt as the first one that may be kept.
    async fn score_before(&mut self) -> Result<(), Error> {
        self.report(State::Before);
        let dev = self.score(Prompted::Manual, self.dev_set(), &self.inputs.dev).await?;
        let test = self.score_test(Prompted::Manual).await?;
        self.state.before = Before { dev, test, test_sha256: self.inputs.test_sha256.clone() };
        let zero = self.score(Prompted::Context, self.dev_set(), &self.inputs.dev).await?;
        self.state.search.select(&self.plan, zero);
        self.began = Instant::now();
        self.save();
        Ok(())
    }

    /// The run file names other test data than before: what was scored on the old ones must not stand beside what
    /// will be scored on the new ones.
    async fn test_again(&mut self) -> Result<(), Error> {
        warn!("the test set is not the one scored before: all scores on it are taken anew");
        self.report(State::Before);
        self.state.before.test = self.score_test(Prompted::Manual).await?;
        self.state.before.test_sha256.clone_from(&self.inputs.test_sha256);
        self.state.finished = None;
        self.folder.describe(&self.inputs.spec)?;
        self.began = Instant::now();
        self.save();
        Ok(())
    }

    /// Scores the selected deep prompt and writes the artefact.
    pub(super) async fn finish(&mut self) -> Result<Summary, Error> {
        self.state.seconds = self.seconds();
        self.report(State::After);
        self.state.search.settle();
        self.start().await?;
        let train = ExampleSet::Train(0..self.inputs.train.len() as u32);
        let train = self.score(Prompted::Context, train, &self.inputs.train).await?;
        let test = self.score_test(Prompted::Context).await?;
        self.state.finished = Some(Finished { train_loss: train.loss, test });
        let summary = finished(&self.state, self.inputs).ok_or_else(|| {
            Error::failed("no deep prompt has a finite dev loss; lower search.alpha, or look at the data")
        })?;
        let end = Event::End {
            calls: summary.calls,
            saved_calls: summary.saved_calls,
            dev: summary.dev,
            test_before: summary.test_before,
            test_after: summary.test_after,
            seconds: summary.seconds,
        };
        self.write_all(artefact::build(self.inputs, &self.state, &self.ready)?, &end).await?;
        Ok(summary)
    }

    /// Writes the artefact, then that all is done; a disk that does not take it is given `run.write_timeout_s`.
    async fn write_all(&mut self, artefact: Artefact, end: &Event) -> Result<(), Error> {
        let seconds = self.inputs.spec.run.write_timeout_s;
        let deadline = Instant::now() + Duration::from_secs(seconds);
        let gave_up = |problem: String| {
            Error::Failed(format!(
                "the tuned prompt cannot be written: {problem} (tried for {seconds} s, run.write_timeout_s); make {} \
                 writable, then --resume",
                self.folder.path().display()
            ))
        };
        let artefact = Arc::new(artefact);
        let mut told = false;
        while let Err(error) = write_artefact(Arc::clone(&artefact), self.folder).await {
            let ArtefactError::Frame(FrameError::Io { .. }) = &error else {
                return Err(Error::failed(error));
            };
            if Instant::now() + PAUSE > deadline {
                return Err(gave_up(error.to_string()));
            }
            if !told {
                warn!("{error}; trying again for {seconds} s");
                told = true;
            }
            sleep(PAUSE).await;
        }
        self.keeper.append(end).await?;
        self.keeper.save(self.state.clone());
        let left = deadline.saturating_duration_since(Instant::now()).max(PAUSE);
        self.keeper.flush(left).await.map_err(|error| gave_up(error.to_string()))
    }

    pub(super) fn scorer(&self) -> Scorer<'a> {
        Scorer { fleet: self.fleet, run: self.id, metric: self.plan.metric }
    }

    async fn score(
        &self,
        prompted: Prompted,
        set: ExampleSet,
        examples: &[Example],
    ) -> Result<DevScore, Error> {
        self.scorer().score(self.state.search.context().version(), prompted, set, examples).await
    }

    async fn score_test(&self, prompted: Prompted) -> Result<Option<f64>, Error> {
        let Some(test) = &self.inputs.test else { return Ok(None) };
        let score = self.score(prompted, ExampleSet::Inline(test.clone()), test).await;
        let file = self.inputs.spec.task.test.as_deref().unwrap_or(Path::new("task.test"));
        Ok(Some(score.map_err(|error| error.in_file(file))?.metric))
    }

    pub(super) fn dev_set(&self) -> ExampleSet {
        ExampleSet::Dev(0..self.inputs.dev.len() as u32)
    }

    fn seconds(&self) -> f64 {
        self.seconds_before + self.began.elapsed().as_secs_f64()
    }

    /// Has the run written down as it is now.
    pub(super) fn save(&mut self) {
        self.state.seconds = self.seconds();
        self.keeper.save(self.state.clone());
    }

    pub(super) fn report(&self, state: State) {
        let search = &self.state.search;
        let (tuned, done) = (self.plan.tuned as u64, search.generation());
        let to_come = search.affordable(&self.plan);
        let since = self.began.elapsed().as_secs_f64();
        self.reporter.send_replace(Progress {
            task: self.inputs.spec.task.name.clone(),
            state,
            generation: done,
            sweep: done.div_ceil(tuned),
            sweeps: (done + to_come).div_ceil(tuned),
            layer: (done.saturating_sub(1) % tuned) as u32,
            layers: self.plan.tuned as u32,
            calls: search.calls(),
            budget: search.calls() + to_come * self.plan.population as u64,
            best_loss: search.best_loss(),
            best_dev: search.selected().map(|selected| selected.score.metric),
            test_before: self.state.before.test,
            calls_per_second: (search.calls() - self.calls_before) as f64 / since.max(1e-9),
            message: String::new(),
        });
    }
}

async fn write_artefact(artefact: Arc<Artefact>, folder: &RunFolder) -> Result<(), ArtefactError> {
    let path = folder.artefact();
    let written = spawn_blocking(move || artefact.write(&path)).await;
    written.unwrap_or_else(|error| {
        Err(ArtefactError::Damaged { path: folder.artefact(), reason: error.to_string() })
    })
}

fn new_state(inputs: &Inputs, plan: &Plan, ready: &Ready, model: ModelIdentity) -> Result<Checkpoint, Error> {
    Ok(Checkpoint {
        spec_hash: inputs.hash.clone(),
        model,
        projection_stds: projection_stds(inputs, ready),
        train_rows: inputs.train_rows.clone(),
        search: Search::new(plan).map_err(Error::input)?,
        events_bytes: 0,
        seconds: 0.0,
        before: Before { dev: DevScore { metric: 0.0, loss: f64::INFINITY }, test: None, test_sha256: None },
        finished: None,
    })
}
