//! The bench of the engine: what a candidate costs, layer by layer, and how near that is to what the processor can do.
//!
//! The work is a sweep as a run makes it: at every layer, bottom to top, a population on all examples under the
//! context, the cached context's move from layer to layer included. Between layers the processor's peak is measured
//! by bursts of bare instructions, so that both see the same clock frequency.

mod agree;
mod measure;
mod model;
mod peaks;
mod shapes;
mod work;

use std::cell::OnceCell;
use std::path::PathBuf;
use std::sync::Arc;

use rayon::ThreadPoolBuildError;
use serde::Serialize;
use shared::spec::{Device, Dtype};
use thiserror::Error;

use crate::backbone::{Backbone, ModelError};
use crate::device::DeviceError;
use crate::engine::{EngineError, Injection};
use crate::model::LoadError;

pub use agree::Agreement;
pub use shapes::names as shapes;

/// What is timed.
#[derive(Clone, Debug)]
pub enum Subject {
    /// Random weights of a known shape.
    Shape(String),
    /// A real model: folder, GGUF file or hub id.
    Model(String),
    /// A folder that scripts/bench-peers has written: a model, examples and prompts.
    Work(PathBuf),
}

/// How it is timed.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What.
    pub subject: Subject,
    /// How the prompts enter.
    pub injections: Vec<Injection>,
    /// What the linear layers are computed in.
    pub dtypes: Vec<Dtype>,
    /// Where.
    pub device: Device,
    /// Training examples.
    pub examples: usize,
    /// Prompt tokens a layer.
    pub prompt_tokens: usize,
    /// Candidates at each layer.
    pub population: usize,
    /// Sweeps; medians are taken over them.
    pub repeats: usize,
    /// Threads; 0 means all cores.
    pub threads: usize,
    /// Rows in flight at most.
    pub max_batch_tokens: usize,
}

/// Why there is nothing to time.
#[derive(Debug, Error)]
pub enum BenchError {
    /// A shape that is not known.
    #[error("no shape \"{0}\"; shapes are: {names}", names = shapes().join(", "))]
    Shape(String),
    /// A real model that cannot be used.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Its weights.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The bench's texts do not fit the model.
    #[error("the bench's texts: {0}")]
    Text(String),
    /// The examples do not fit the model.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A device that cannot be used.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A work folder that is none.
    #[error("{}: {reason}", path.display())]
    Work {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// No threads.
    #[error(transparent)]
    Threads(#[from] ThreadPoolBuildError),
}

/// What was found for one way of injection and one type of number.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The shape, or the model's name.
    pub shape: String,
    /// `add` or `prefix`.
    pub injection: String,
    /// What the linear layers were computed in.
    pub dtype: String,
    /// Where: `cpu`, or a GPU as the run file names it.
    pub device: String,
    /// Training examples.
    pub examples: usize,
    /// Their rows, without the prompt's.
    pub text_rows: usize,
    /// Prompt tokens a layer.
    pub prompt_tokens: usize,
    /// Candidates at each layer.
    pub population: usize,
    /// Sweeps.
    pub repeats: usize,
    /// Threads.
    pub threads: usize,
    /// Rows in flight at most.
    pub max_batch_tokens: usize,
    /// Seconds a candidate: the mean over all layers, the median over the sweeps.
    pub seconds: f64,
    /// The same at each layer.
    pub layer_seconds: Vec<f64>,
    /// Floating-point operations a candidate needs: the mean over all layers, its share of the context's move included.
    pub flop_per_call: f64,
    /// Operations a second of the call.
    pub flops: f64,
    /// Operations a second of bare instructions on all threads at once; none where the processor has none such.
    pub instruction_peak: Option<f64>,
    /// Operations a second of our packed product alone on all threads at once; on a GPU, of a large product of its
    /// maker's library.
    pub gemm_peak: f64,
    /// `flops / instruction_peak`.
    pub share_of_instruction_peak: Option<f64>,
    /// `flops / gemm_peak`.
    pub share_of_gemm_peak: f64,
    /// Bytes that the process held at most while this was timed, where the system says.
    pub peak_memory_bytes: Option<u64>,
    /// How far the losses are from those in f32.
    #[serde(flatten)]
    pub agreement: Option<Agreement>,
    /// Of a work folder: the first candidate's logits at each layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logits: Option<Vec<Vec<f32>>>,
}

/// Candidates of each layer that are run in f32 for the comparison alone.
const COMPARED: usize = 20;

/// The weights in memory that are copied to a device, the same whatever type they have there.
type Host = OnceCell<Arc<Backbone>>;

/// Times what `plan` says; `found` is told of each row as soon as it is there.
///
/// # Errors
/// See [`BenchError`].
pub fn run(plan: &Plan, mut found: impl FnMut(Row)) -> Result<(), BenchError> {
    let (source, plan) = &model::Source::open(plan)?;
    let host = Host::default();
    let narrow = plan.dtypes.iter().any(|&dtype| dtype != Dtype::F32);
    for &injection in &plan.injections {
        let mut reference = None;
        if narrow && !plan.dtypes.contains(&Dtype::F32) {
            let once = Plan { repeats: 1, population: plan.population.min(COMPARED), ..plan.clone() };
            reference = Some(measure::of((source, &host), &once, injection, Dtype::F32)?.losses);
        }
        for &dtype in &in_order(&plan.dtypes) {
            let timed = measure::of((source, &host), plan, injection, dtype)?;
            let other = reference.as_ref().filter(|_| dtype != Dtype::F32);
            let agreement = other.map(|reference| Agreement::of(reference, &timed.losses));
            if dtype == Dtype::F32 {
                reference = Some(timed.losses);
            }
            found(Row { agreement, ..timed.row });
        }
    }
    Ok(())
}

/// f32 first: the others are compared with it.
fn in_order(dtypes: &[Dtype]) -> Vec<Dtype> {
    let (first, rest): (Vec<Dtype>, Vec<Dtype>) = dtypes.iter().partition(|&&dtype| dtype == Dtype::F32);
    [first, rest].concat()
}
