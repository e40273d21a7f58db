//! Opens what `score` and `predict` work with: a tuned prompt or a run file's manual prompt, on an embedded evaluator.

use std::path::{Path, PathBuf};

use shared::artefact::Artefact;
use shared::ids::{ContextVersion, RunId};
use shared::messages::{ExampleSet, ModelIdentity, Outcome, Prepare, Prompted, Start};
use shared::spec::{BatchTokens, Bytes, Device, Dtype, RunFile};
use shared::task::{Example, Metric};

use super::{ModelArgs, SourceArgs};
use crate::error::Error;
use crate::fleet::{Expected, Fleet, Handle, Settings};

/// A classifier that is ready.
pub(super) struct Opened {
    fleet: Handle,
    prompted: Prompted,
    /// One word or phrase a class.
    pub(super) words: Vec<String>,
    /// What the task is rated by.
    pub(super) metric: Metric,
    /// The run file's test set, where there is a run file that names one.
    pub(super) test: Option<PathBuf>,
}

/// What has to be known before an evaluator can be asked.
#[cfg_attr(
    not(feature = "embedded"),
    expect(dead_code, reason = "only an embedded evaluator asks for a model")
)]
struct Plan {
    prepare: Prepare,
    start: Option<Start>,
    expected: Option<ModelIdentity>,
    dtype: Dtype,
    device: Device,
    model: String,
    revision: Option<String>,
    max_batch_tokens: BatchTokens,
    memory: Option<Bytes>,
    metric: Metric,
    test: Option<PathBuf>,
}

/// Loads the model and makes the prompt ready.
pub(super) async fn open(source: &SourceArgs, model: &ModelArgs) -> Result<Opened, Error> {
    let mut plan = if source.source.extension().is_some_and(|extension| extension == "toml") {
        manual(source)?
    } else {
        tuned(&source.source)?
    };
    plan.device = model.device.unwrap_or(plan.device);
    if (plan.device, plan.dtype) == (Device::Cpu, Dtype::F16) {
        plan.dtype = Dtype::F32; // a prompt tuned on a GPU serves where there is none
    }
    let (fleet, _owner) = Fleet::spawn(Settings::default());
    let words = plan.prepare.words.clone();
    attach(&fleet, &plan, model).await?;
    fleet.begin(plan.prepare, Expected { model: plan.expected, named: None, dtype: plan.dtype }).await?;
    let prompted = if plan.start.is_some() { Prompted::Context } else { Prompted::Manual };
    if let Some(start) = plan.start {
        fleet.start(start).await?;
    }
    Ok(Opened { fleet, prompted, words, metric: plan.metric, test: plan.test })
}

impl Opened {
    /// Losses, predictions and logits of `examples`.
    pub(super) async fn score(&self, examples: Vec<Example>) -> Result<Outcome, Error> {
        let set = ExampleSet::Inline(examples);
        Ok(self.fleet.score(RunId(1), ContextVersion(0), self.prompted, set).await?)
    }
}

fn manual(source: &SourceArgs) -> Result<Plan, Error> {
    let mut file = RunFile::read(&source.source).map_err(Error::input)?;
    file.apply_overrides(&source.set).map_err(Error::input)?;
    let spec = file.resolve().map_err(Error::input)?;
    let inputs = crate::inputs::Inputs::without_data(spec);
    Ok(Plan {
        prepare: inputs.prepare(RunId(1)),
        start: None,
        expected: None,
        dtype: inputs.spec.model.dtype,
        device: inputs.spec.model.device,
        model: inputs.spec.model.path.clone(),
        revision: inputs.spec.model.revision.clone(),
        max_batch_tokens: inputs.spec.run.max_batch_tokens,
        memory: inputs.spec.run.memory,
        metric: inputs.spec.task.metric,
        test: inputs.spec.task.test.clone(),
    })
}

fn tuned(path: &Path) -> Result<Plan, Error> {
    let file = if path.is_dir() { path.join("prompt.safetensors") } else { path.to_owned() };
    let artefact = Artefact::read(&file).map_err(Error::input)?;
    let (prepare, start) =
        crate::artefact::reopen(&artefact, RunId(1)).map_err(|error| error.about(file.display()))?;
    let metadata = &artefact.metadata;
    Ok(Plan {
        prepare,
        start: Some(start),
        expected: Some(metadata.model.identity.clone()),
        dtype: metadata.model.dtype,
        device: Device::Cpu,
        model: metadata.model.path.clone(),
        revision: metadata.model.identity.revision.clone(),
        max_batch_tokens: BatchTokens::default(),
        memory: None,
        metric: metadata.task.metric,
        test: None,
    })
}

#[cfg(feature = "embedded")]
async fn attach(fleet: &Handle, plan: &Plan, args: &ModelArgs) -> Result<(), Error> {
    let settings = crate::embedded::Settings {
        model: args.model.as_deref().unwrap_or(&plan.model),
        base: Path::new(""),
        revision: plan.revision.as_deref(),
        dtype: plan.dtype,
        device: plan.device,
        threads: args.threads,
        max_batch_tokens: plan.max_batch_tokens,
        memory: plan.memory,
        projections: shared::spec::KeepProjections::Regenerate, // each is used once
        search: None,
        traces: &Default::default(),
    };
    crate::embedded::attach(fleet, settings).await.map(drop)
}

#[cfg(not(feature = "embedded"))]
async fn attach(_: &Handle, _: &Plan, _: &ModelArgs) -> Result<(), Error> {
    Err(Error::Input("this zeroth was built without an evaluator, which score and predict need".to_owned()))
}
