//! One run, from its data to its artefact: drives the search over the fleet and keeps the run folder.

use std::path::Path;
use std::time::{Duration, Instant};

use shared::ids::RunId;
use shared::messages::{ExampleSet, ModelIdentity, Outcome, Prompted, Ready, Start};
use shared::projection;
use shared::spec::{Method, ProjectionKind};
use shared::task::Example;
use shared::task::loss::mean;
use tokio::sync::watch;
use tracing::warn;

use crate::checkpoint::{Before, Checkpoint, Finished};
use crate::error::Error;
use crate::events::{Event, Trace};
use crate::fleet::{Expected, FleetError, Gathered, Handle};
use crate::folder::RunFolder;
use crate::inputs::{Inputs, labels};
use crate::progress::{Progress, Reporter, State};
use crate::racing;
use crate::search::{DevScore, Plan, Proposal, Search};

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
}

/// A run in progress.
pub struct Run<'a> {
    inputs: &'a Inputs,
    folder: &'a RunFolder,
    fleet: &'a Handle,
    reporter: &'a Reporter,
    id: RunId,
    plan: Plan,
    ready: Ready,
    trace: Trace,
    state: Checkpoint,
    began: Instant,
    seconds_before: f64,
    calls_before: u64,
}

/// Runs to the end, or until `stop` turns true; every generation leaves a checkpoint.
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
    let work = async {
        let mut reordered = None;
        if inputs.spec.search.racing {
            let hard_first = racing::hard_first(&origin, inputs, fleet).await?;
            reordered = Some(hard_first);
        }
        let inputs = reordered.as_ref().unwrap_or(inputs);
        let mut run = Run::begin(origin, inputs, folder, fleet, reporter).await?;
        run.search().await?;
        run.finish().await
    };
    let ended = tokio::select! {
        ended = work => ended,
        _ = stop.wait_for(|&stop| stop) => Err(Error::Interrupted(format!(
            "`zeroth tune --resume` goes on from the checkpoint in {}", folder.path().display()
        ))),
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

/// The search's settings, for a backbone of `layers`.
pub fn plan(inputs: &Inputs, layers: usize) -> Plan {
    let spec = &inputs.spec;
    Plan {
        layers,
        tuned: if spec.search.method == Method::Bbt { 1 } else { layers },
        dim: spec.search.dim,
        population: spec.search.population,
        sigma: spec.search.sigma,
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

impl<'a> Run<'a> {
    async fn begin(
        origin: Origin,
        inputs: &'a Inputs,
        folder: &'a RunFolder,
        fleet: &'a Handle,
        reporter: &'a Reporter,
    ) -> Result<Self, Error> {
        let Origin { id, checkpoint, expected } = origin;
        let begun = inputs.begin(fleet, id, expected).await?;
        let plan = plan(inputs, begun.model.layers as usize);
        let fresh = checkpoint.is_none();
        let state = match checkpoint {
            Some(checkpoint) => checkpoint,
            None => new_state(inputs, &plan, &begun.ready, begun.model)?,
        };
        let events = folder.events();
        let trace = Trace::open(&events, state.events_bytes).map_err(Error::file(&events))?;
        let mut run = Self {
            inputs,
            folder,
            fleet,
            reporter,
            id,
            plan,
            ready: begun.ready,
            trace,
            began: Instant::now(),
            seconds_before: state.seconds,
            calls_before: state.search.calls(),
            state,
        };
        run.start().await?;
        run.event(Event::Begin {
            task: inputs.spec.task.name.clone(),
            spec: inputs.hash.clone(),
            model: run.state.model.to_string(),
            calls: run.calls_before,
        })?;
        if fresh {
            run.score_before().await?;
        } else if run.state.before.test_sha256 != inputs.test_sha256 {
            run.test_again().await?;
        }
        Ok(run)
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
        self.save()
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
        self.save()
    }

    /// Generation after generation until the budget is spent.
    async fn search(&mut self) -> Result<(), Error> {
        let labels = self.inputs.train_labels();
        self.report(State::Searching);
        while let Some(proposal) = self.state.search.propose(&self.plan)? {
            let began = Instant::now();
            let (gathered, seen) = self.evaluate(&proposal).await?;
            let search = &mut self.state.search;
            search.spare(&self.plan, seen.as_deref().unwrap_or_default());
            let generation = search.accept(&self.plan, self.id, &proposal, &gathered, &labels)?;
            self.fleet.set_context(generation.update).await?;
            let dev = self.dev_score().await?;
            let selected = dev.is_some_and(|score| self.state.search.select(&self.plan, score));
            self.event(Event::Generation {
                generation: generation.number,
                sweep: generation.sweep,
                layer: generation.layer.0,
                version: proposal.version.0,
                calls: self.state.search.calls(),
                saved_calls: self.saved_calls(),
                losses: generation.losses,
                seen,
                best: generation.best,
                sigma: generation.sigma,
                dev,
                selected,
                seconds: began.elapsed().as_secs_f64(),
                evaluators: gathered.evaluators,
                missing: (gathered.missing > 0).then_some(gathered.missing),
            })?;
            self.save()?;
            self.report(State::Searching);
        }
        Ok(())
    }

    /// A generation's losses and, in a race, how many examples each candidate has seen.
    async fn evaluate(&self, proposal: &Proposal) -> Result<(Gathered, Option<Vec<u32>>), FleetError> {
        let deadline = self.inputs.spec.search.deadline;
        let deadline = deadline.map(|s| Duration::try_from_secs_f64(s).unwrap_or(Duration::MAX));
        if self.plan.racing {
            let race = self.state.search.race(&self.plan, proposal);
            let (gathered, seen) = racing::evaluate(self.fleet, self.id, proposal, race, deadline).await?;
            return Ok((gathered, Some(seen)));
        }
        let (candidates, all) = (proposal.candidates(), 0..self.plan.examples as u32);
        let (version, layer) = (proposal.version, proposal.layer);
        let ticket = self.fleet.offer_within(self.id, version, layer, candidates, all, deadline).await?;
        Ok((ticket.gathered().await?, None))
    }

    fn saved_calls(&self) -> Option<f64> {
        self.plan.racing.then(|| self.state.search.saved_calls())
    }

    /// Scores the selected deep prompt and writes the artefact.
    async fn finish(&mut self) -> Result<Summary, Error> {
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
        let artefact = crate::artefact::build(self.inputs, &self.state, &self.ready)?;
        artefact.write(&self.folder.artefact()).map_err(Error::failed)?;
        self.event(Event::End {
            calls: summary.calls,
            saved_calls: summary.saved_calls,
            dev: summary.dev,
            test_before: summary.test_before,
            test_after: summary.test_after,
            seconds: summary.seconds,
        })?;
        self.state.events_bytes = self.trace.bytes();
        self.folder.save(&self.state)?;
        Ok(summary)
    }

    async fn score(
        &self,
        prompted: Prompted,
        set: ExampleSet,
        examples: &[Example],
    ) -> Result<DevScore, Error> {
        let version = self.state.search.context().version();
        let outcome = self.fleet.score(self.id, version, prompted, set).await?;
        Ok(self.rate(&outcome, examples))
    }

    /// The context's score on dev, where this generation wants one.
    async fn dev_score(&self) -> Result<Option<DevScore>, Error> {
        if !self.state.search.wants_dev(&self.plan) {
            return Ok(None);
        }
        self.score(Prompted::Context, self.dev_set(), &self.inputs.dev).await.map(Some)
    }

    async fn score_test(&self, prompted: Prompted) -> Result<Option<f64>, Error> {
        let Some(test) = &self.inputs.test else { return Ok(None) };
        let score = self.score(prompted, ExampleSet::Inline(test.clone()), test).await;
        let file = self.inputs.spec.task.test.as_deref().unwrap_or(Path::new("task.test"));
        Ok(Some(score.map_err(|error| error.in_file(file))?.metric))
    }

    fn rate(&self, outcome: &Outcome, examples: &[Example]) -> DevScore {
        let metric = self.plan.metric.of(&outcome.predicted, &labels(examples));
        DevScore { metric, loss: mean(&outcome.losses) }
    }

    fn dev_set(&self) -> ExampleSet {
        ExampleSet::Dev(0..self.inputs.dev.len() as u32)
    }

    fn seconds(&self) -> f64 {
        self.seconds_before + self.began.elapsed().as_secs_f64()
    }

    fn event(&mut self, event: Event) -> Result<(), Error> {
        self.trace.append(&event).map_err(Error::file(self.folder.events()))
    }

    fn save(&mut self) -> Result<(), Error> {
        self.state.events_bytes = self.trace.bytes();
        self.state.seconds = self.seconds();
        self.folder.save(&self.state)
    }

    fn report(&self, state: State) {
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

fn new_state(inputs: &Inputs, plan: &Plan, ready: &Ready, model: ModelIdentity) -> Result<Checkpoint, Error> {
    Ok(Checkpoint {
        spec_hash: inputs.hash.clone(),
        model,
        projection_stds: projection_stds(inputs, ready),
        train_rows: inputs.train_rows.clone(),
        search: Search::new(plan)?,
        events_bytes: 0,
        seconds: 0.0,
        before: Before { dev: DevScore { metric: 0.0, loss: f64::INFINITY }, test: None, test_sha256: None },
        finished: None,
    })
}
