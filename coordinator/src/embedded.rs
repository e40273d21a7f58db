//! Embedded mode: a worker in this process, on the two ends of a link like any other evaluator; and what only an
//! evaluator can say about a model.

use std::path::Path;
use std::sync::Arc;

use evaluator::backbone::Backbone;
use evaluator::bench;
pub use evaluator::bench::{Plan, Row, Subject};
pub use evaluator::engine::Injection;
use evaluator::facts::{self, Facts};
use evaluator::limits::{Allowed, Limits};
use evaluator::memory::Sizes;
use evaluator::model::Model;
use evaluator::models::locate;
use evaluator::observe::Observer;
use evaluator::resources::Resources;
use evaluator::worker::{HEARTBEAT, Worker};
use proto::observe::Traces;
use shared::messages::Hello;
use shared::model::Located;
use shared::spec::{BatchTokens, Bytes, Device, Dtype, KeepProjections, Method, ModelSpec, SearchSpec};
use tokio::task::JoinHandle;

use crate::error::Error;
use crate::fleet::Handle;
use crate::{cma, run, search};

/// What an embedded evaluator needs.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// Folder, GGUF file or hub id.
    pub model: &'a str,
    /// What a relative folder is relative to.
    pub base: &'a Path,
    /// Hub revision.
    pub revision: Option<&'a str>,
    /// What the blocks' linear layers are computed in.
    pub dtype: Dtype,
    /// Where it computes.
    pub device: Device,
    /// Threads; 0 means all cores.
    pub threads: usize,
    /// Rows in flight at most.
    pub max_batch_tokens: BatchTokens,
    /// Memory that this process may take, where the run file says so.
    pub memory: Option<Bytes>,
    /// Whether projections are kept.
    pub projections: KeepProjections,
    /// The search that runs in this process too.
    pub search: Option<&'a SearchSpec>,
    /// The way for its spans.
    pub traces: &'a Traces,
}

/// The model's files, where they are on this machine; nothing is fetched.
///
/// # Errors
/// In words, where they are not.
pub fn files_here(model: &ModelSpec) -> Result<Located, String> {
    let located = locate::locate_here(&model.path, Path::new(""), model.revision.as_deref());
    located.map_err(|error| error.to_string())
}

/// The run that a model's memory is worked out for: tuning in one process, at every layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assumed {
    /// Training examples.
    pub examples: usize,
    /// Their rows, prompt rows included.
    pub train_tokens: usize,
    /// Prompt tokens a layer.
    pub prompt_tokens: usize,
    /// Dimension of a layer's search space.
    pub dim: usize,
    /// Threads; 0 means all cores.
    pub threads: usize,
    /// Rows in flight at most.
    pub max_batch_tokens: BatchTokens,
    /// Memory that the process may take.
    pub memory: Option<Bytes>,
    /// Whether projections are kept.
    pub projections: KeepProjections,
}

/// What a model is and what it takes; the second value is the search's memory.
///
/// # Errors
/// [`Error::Input`] when the model is not usable.
pub fn inspect(model: &str, dtype: Dtype, run: Assumed) -> Result<(Facts, u64), Error> {
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let sizes = Sizes {
        examples: run.examples,
        train_rows: run.train_tokens,
        longest: 0,
        prompt_tokens: run.prompt_tokens,
        dim: run.dim,
        threads: if run.threads == 0 { cores() } else { run.threads },
    };
    let searched = |layers| search::memory_bytes(layers, run.dim, cma::Variant::Full);
    let limits = |backbone: &Backbone| Limits {
        max_batch_tokens: run.max_batch_tokens,
        projections: run.projections,
        memory: run.memory.map_or(Allowed::Machine, Allowed::RunFile),
        beside: searched(backbone.layers()),
    };
    let facts = facts::inspect(model, Path::new(""), None, dtype, sizes, limits).map_err(Error::input)?;
    let searched = searched(facts.layers);
    Ok((facts, searched))
}

/// The shapes that a bench knows.
pub fn shapes() -> Vec<&'static str> {
    bench::shapes()
}

/// Times the engine; `found` is told of each row.
///
/// # Errors
/// [`Error::Input`] when the plan cannot be carried out.
pub fn bench(plan: &Plan, found: impl FnMut(Row)) -> Result<(), Error> {
    bench::run(plan, found).map_err(|error| match error {
        bench::BenchError::Threads(error) => Error::failed(error),
        error => Error::input(error),
    })
}

/// A model of the hub, fetched where the hub's cache does not hold it yet.
///
/// # Errors
/// [`Error::Input`] when `id` is no hub id, or the model does not come.
pub fn pull(id: &str, revision: Option<&str>) -> Result<Located, Error> {
    if Path::new(id).exists() {
        let problem =
            format!("{id} lies on this machine already; model pull takes a hub id, ORGANISATION/NAME");
        return Err(Error::Input(problem));
    }
    locate::locate(id, Path::new(""), revision).map_err(Error::input)
}

/// Loads the model and attaches a worker to the fleet; it ends when the fleet drops it.
///
/// # Errors
/// [`Error::Input`] when the model is not usable.
pub async fn attach(
    fleet: &Handle,
    settings: Settings<'_>,
) -> Result<JoinHandle<std::io::Result<()>>, Error> {
    let model =
        Model::load_on(settings.device, settings.model, settings.base, settings.revision, settings.dtype)
            .map_err(Error::input)?;
    let searched = settings.search.map(|spec| {
        let tuned = if spec.method == Method::Bbt { 1 } else { model.backbone.layers() };
        search::memory_bytes(tuned, spec.dim, run::variant(spec.covariance))
    });
    let limits = Limits {
        max_batch_tokens: settings.max_batch_tokens,
        projections: settings.projections,
        memory: settings.memory.map_or(Allowed::Machine, Allowed::RunFile),
        beside: searched.unwrap_or(0),
    };
    let resources = Resources::new(settings.threads, limits).map_err(Error::failed)?;
    let hello = Hello {
        protocol: proto::PROTOCOL_VERSION,
        name: "embedded".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        model: model.identity.clone(),
        device: settings.device.to_string(),
        dtype: model.dtype.to_string(),
        max_batch_tokens: resources.max_batch_tokens(),
    };
    let link = fleet.attach_sole(hello).await.map_err(Error::input)?;
    let worker = Worker {
        model: Arc::new(model),
        resources,
        heartbeat: HEARTBEAT,
        observer: Observer::traced(settings.traces),
    };
    Ok(tokio::spawn(worker.run(link.orders, link.reports)))
}
