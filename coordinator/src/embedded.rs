//! Embedded mode: a worker in this process, on the two ends of a link like any other evaluator; and what only an
//! evaluator can say about a model.

use std::path::Path;
use std::sync::Arc;

use evaluator::facts::{self, Budget, Facts};
use evaluator::model::Model;
use evaluator::models::locate;
use evaluator::session::Resources;
use evaluator::worker::Worker;
use shared::messages::Hello;
use shared::model::Located;
use shared::spec::{Device, Dtype, ModelSpec};
use tokio::task::JoinHandle;

use crate::error::Error;
use crate::fleet::Handle;

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
    pub max_batch_tokens: usize,
}

/// The model's files, where they are on this machine; nothing is fetched.
///
/// # Errors
/// In words, where they are not.
pub fn files_here(model: &ModelSpec) -> Result<Located, String> {
    let located = locate::locate_here(&model.path, Path::new(""), model.revision.as_deref());
    located.map_err(|error| error.to_string())
}

/// What a model is and what it takes.
///
/// # Errors
/// [`Error::Input`] when the model is not usable.
pub fn inspect(
    model: &str,
    dtype: Dtype,
    max_batch_tokens: u32,
    prompt_tokens: u32,
    dim: u32,
) -> Result<Facts, Error> {
    let resources = Resources::new(0, max_batch_tokens as usize).map_err(Error::failed)?;
    let budget = Budget {
        dtype,
        max_batch_tokens: max_batch_tokens as usize,
        prompt_tokens: prompt_tokens as usize,
        dim: dim as usize,
        threads: resources.pool.current_num_threads(),
    };
    facts::inspect(model, Path::new(""), None, budget).map_err(Error::input)
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
    let resources = Resources::new(settings.threads, settings.max_batch_tokens).map_err(Error::failed)?;
    let model =
        Model::load_on(settings.device, settings.model, settings.base, settings.revision, settings.dtype)
            .map_err(Error::input)?;
    let hello = Hello {
        protocol: proto::PROTOCOL_VERSION,
        name: "embedded".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        model: model.identity.clone(),
        device: settings.device.to_string(),
        dtype: model.dtype.to_string(),
        max_batch_tokens: settings.max_batch_tokens as u32,
    };
    let link = fleet.attach_sole(hello).await.map_err(Error::input)?;
    let worker = Worker { model: Arc::new(model), resources };
    Ok(tokio::spawn(worker.run(link.orders, link.reports)))
}
