//! The artefact: a tuned prompt in one safetensors file, with all that is needed to use it, rebuild it and check it.
//!
//! Tensors: `prompts` `[L, n, H]` (what enters each layer, `A_l z + p0`), `z` `[L, d]`, and `initial` `[L, n, H]`
//! (`p0`) where it is not zero. Metadata: one JSON document under the key `zeroth`. The same run writes the same bytes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::{self, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::frame::{self, FrameError};
use crate::messages::ModelIdentity;
use crate::projection::{Kind, Projection, apply};
use crate::spec::{Dtype, Init, Injection, Method, ProjectionKind, ReadOut};
use crate::task::{Loss, Metric};

/// Version of the metadata; a reader refuses newer ones.
pub const SCHEMA: u32 = 1;

/// Key of the JSON document in the file's metadata.
const KEY: &str = "zeroth";

/// Why an artefact cannot be written or read; each names the file.
#[derive(Debug, Error)]
pub enum ArtefactError {
    /// The file system refuses.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// No artefact of ours, or a damaged one.
    #[error("{}: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// A tuned prompt and what it was tuned on.
#[derive(Clone, Debug, PartialEq)]
pub struct Artefact {
    /// Everything but the numbers.
    pub metadata: Metadata,
    /// What enters each layer, `[L][n * H]`.
    pub prompts: Vec<Vec<f32>>,
    /// Points of the search spaces, `[L][d]`.
    pub z: Vec<Vec<f32>>,
    /// `p0` of each layer, `[L][n * H]`; empty when it is zero.
    pub initial: Vec<Vec<f32>>,
}

/// Everything but the numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metadata {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version of the program that wrote it.
    pub zeroth: String,
    /// Hash of what defines the run.
    pub run: String,
    /// The model and how it is read.
    pub model: Model,
    /// The task.
    pub task: Task,
    /// The prompt's shape and place.
    pub prompt: Prompt,
    /// How it was found.
    pub search: Search,
    /// How good it is.
    pub scores: Scores,
}

/// The model and how it is read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// Hub id, or the name of the folder it was in (not where that was).
    pub path: String,
    /// Which model, exactly.
    pub identity: ModelIdentity,
    /// What its blocks' linear layers were computed in.
    #[serde(default)]
    pub dtype: Dtype,
    /// Read-out.
    pub read_out: ReadOut,
    /// Divisor of the cosines.
    pub temperature: f32,
}

/// The task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// Its name.
    pub name: String,
    /// Template source.
    pub template: String,
    /// Label words, in label order.
    pub words: Vec<String>,
    /// Their token ids; empty for the similarity read-out.
    pub label_ids: Vec<u32>,
    /// Loss.
    pub loss: Loss,
    /// Metric.
    pub metric: Metric,
    /// SHA-256 of the pool's file.
    pub train_sha256: String,
    /// Rows of the pool that were trained on, from 0.
    pub train_rows: Vec<usize>,
    /// Rows of the pool that selected, from 0.
    pub dev_rows: Vec<usize>,
    /// SHA-256 of the test set's file, when there is one: what [`Scores::test_before`] and `test_after` are of.
    #[serde(default)]
    pub test_sha256: Option<String>,
}

/// The prompt's shape and place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prompt {
    /// How it enters.
    pub injection: Injection,
    /// Tokens a layer.
    pub tokens: usize,
    /// First of its positions in the sequence: after the first special token.
    pub first_position: usize,
    /// What its positions hold before.
    pub init: Init,
    /// Token ids at its positions; empty with `init = "none"`.
    pub initial_ids: Vec<u32>,
}

/// How it was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Search {
    /// Which layers were tuned.
    pub method: Method,
    /// Seed of split, projections and candidates.
    pub seed: u64,
    /// Scheme of the random numbers.
    pub random: String,
    /// Distribution of the projections.
    pub projection: ProjectionKind,
    /// Standard deviation of their entries, `[L]`.
    pub projection_stds: Vec<f32>,
    /// Candidates a generation.
    pub population: usize,
    /// Initial step size.
    pub sigma: f64,
    /// Prompt's standard deviation in its host's.
    pub alpha: f64,
    /// Calls spent in all.
    pub calls: u64,
    /// Calls spent when this prompt was found.
    pub found_after: u64,
}

/// How good it is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Mean loss on the training examples.
    pub train_loss: f64,
    /// Mean loss on the dev examples.
    pub dev_loss: f64,
    /// Metric on the dev examples.
    pub dev: f64,
    /// Metric on the test set with the manual prompt.
    pub test_before: Option<f64>,
    /// Metric on the test set.
    pub test_after: Option<f64>,
}

impl Artefact {
    /// Writes to `path`, at once or not at all.
    ///
    /// # Errors
    /// When the file system refuses, or the shapes contradict each other.
    pub fn write(&self, path: &Path) -> Result<(), ArtefactError> {
        let damaged = |reason: String| ArtefactError::Damaged { path: path.to_owned(), reason };
        self.check().map_err(damaged)?;
        let json = serde_json::to_string(&self.metadata).map_err(|e| damaged(e.to_string()))?;
        let (layers, tokens, hidden, dim) = self.shape();
        let mut tensors = vec![
            ("prompts", vec![layers, tokens, hidden], bytes(&self.prompts)),
            ("z", vec![layers, dim], bytes(&self.z)),
        ];
        if !self.initial.is_empty() {
            tensors.push(("initial", vec![layers, tokens, hidden], bytes(&self.initial)));
        }
        let views = tensors.iter().map(|(name, shape, data)| {
            Ok((*name, TensorView::new(tensor::Dtype::F32, shape.clone(), data)?))
        });
        let views = views.collect::<Result<BTreeMap<_, _>, safetensors::SafeTensorError>>();
        let views = views.map_err(|e| damaged(e.to_string()))?;
        let metadata = Some([(KEY.to_owned(), json)].into_iter().collect());
        let file = safetensors::serialize(views, metadata).map_err(|e| damaged(e.to_string()))?;
        Ok(frame::write_bytes_atomic(path, &file)?)
    }

    /// Reads and checks `path`.
    ///
    /// # Errors
    /// See [`ArtefactError`].
    pub fn read(path: &Path) -> Result<Self, ArtefactError> {
        let damaged = |reason: String| ArtefactError::Damaged { path: path.to_owned(), reason };
        let file = std::fs::read(path)
            .map_err(|e| damaged(format!("{e}; an artefact or a run folder is expected")))?;
        let (_, header) =
            SafeTensors::read_metadata(&file).map_err(|e| damaged(format!("no safetensors file: {e}")))?;
        let json = header.metadata().as_ref().and_then(|metadata| metadata.get(KEY));
        let json = json.ok_or_else(|| damaged("a safetensors file, but no artefact of zeroth".to_owned()))?;
        let schema: Schema = serde_json::from_str(json).map_err(|e| damaged(format!("metadata: {e}")))?;
        if schema.schema != SCHEMA {
            return Err(damaged(format!("schema {}; this program reads schema {SCHEMA}", schema.schema)));
        }
        let metadata: Metadata = serde_json::from_str(json).map_err(|e| damaged(format!("metadata: {e}")))?;
        let tensors = SafeTensors::deserialize(&file).map_err(|e| damaged(e.to_string()))?;
        let deep = [metadata.layers(), metadata.prompt.tokens, metadata.hidden()];
        let rows = |name: &str, shape: &[usize]| rows(&tensors, name, shape).map_err(damaged);
        let dim = tensors.tensor("z").map_or(0, |z| z.shape().last().copied().unwrap_or(0));
        let z = rows("z", &[metadata.layers(), dim])?;
        let initial = if tensors.names().contains(&"initial") { rows("initial", &deep)? } else { Vec::new() };
        let artefact = Self { prompts: rows("prompts", &deep)?, z, initial, metadata };
        artefact.check().map_err(damaged)?;
        Ok(artefact)
    }

    /// Whether `prompts` is what the seed, the scheme and `z` give.
    pub fn rebuilds(&self) -> bool {
        self.z.iter().enumerate().all(|(layer, z)| {
            let p0 = self.initial.get(layer).map(Vec::as_slice);
            Some(&prompt(&self.metadata, layer, z, p0)) == self.prompts.get(layer)
        })
    }

    /// Layers, tokens, hidden, dim.
    fn shape(&self) -> (usize, usize, usize, usize) {
        let metadata = &self.metadata;
        let dim = self.z.first().map_or(0, Vec::len);
        (metadata.layers(), metadata.prompt.tokens, metadata.hidden(), dim)
    }

    fn check(&self) -> Result<(), String> {
        let (layers, tokens, hidden, dim) = self.shape();
        let fits =
            |rows: &[Vec<f32>], width: usize| rows.len() == layers && rows.iter().all(|r| r.len() == width);
        if !fits(&self.prompts, tokens * hidden) {
            return Err(format!("prompts are not [{layers}, {tokens}, {hidden}], as the metadata says"));
        }
        if !fits(&self.z, dim) || self.metadata.search.projection_stds.len() != layers {
            return Err(format!("z and the projections do not have {layers} layers, as the metadata says"));
        }
        if !self.initial.is_empty() && !fits(&self.initial, tokens * hidden) {
            return Err(format!("initial is not [{layers}, {tokens}, {hidden}], as the metadata says"));
        }
        let finite = |rows: &[Vec<f32>]| rows.iter().flatten().all(|x| x.is_finite());
        if !finite(&self.prompts) || !finite(&self.z) || !finite(&self.initial) {
            return Err("holds numbers that are not finite".to_owned());
        }
        self.metadata.check()
    }
}

impl Metadata {
    fn layers(&self) -> usize {
        self.model.identity.layers as usize
    }

    fn hidden(&self) -> usize {
        self.model.identity.hidden as usize
    }

    /// JSON has no word for what is not finite: such a number would be written and never read again.
    fn check(&self) -> Result<(), String> {
        let (search, scores) = (&self.search, &self.scores);
        let numbers = [
            ("model.temperature", Some(f64::from(self.model.temperature))),
            ("search.sigma", Some(search.sigma)),
            ("search.alpha", Some(search.alpha)),
            ("scores.train_loss", Some(scores.train_loss)),
            ("scores.dev_loss", Some(scores.dev_loss)),
            ("scores.dev", Some(scores.dev)),
            ("scores.test_before", scores.test_before),
            ("scores.test_after", scores.test_after),
        ];
        let stds = search.projection_stds.iter().map(|&std| ("search.projection_stds", Some(f64::from(std))));
        match numbers.into_iter().chain(stds).find(|(_, number)| number.is_some_and(|x| !x.is_finite())) {
            Some((name, number)) => {
                Err(format!("metadata: {name} is {}, not a finite number", number.unwrap_or_default()))
            }
            None => Ok(()),
        }
    }
}

/// `A_l z + p0`, `[n * H]`, as evaluators make it.
pub fn prompt(metadata: &Metadata, layer: usize, z: &[f32], p0: Option<&[f32]>) -> Vec<f32> {
    let std = metadata.search.projection_stds.get(layer).copied().unwrap_or_default();
    let projection = Projection {
        seed: metadata.search.seed,
        layer: layer as u32,
        rows: metadata.prompt.tokens * metadata.model.identity.hidden as usize,
        dim: z.len(),
        kind: match metadata.search.projection {
            ProjectionKind::Normal => Kind::Normal { std },
            ProjectionKind::Uniform => Kind::Uniform,
        },
    };
    let mut prompt = apply(&projection.matrix(), z);
    if let Some(p0) = p0 {
        prompt.iter_mut().zip(p0).for_each(|(p, p0)| *p += p0);
    }
    prompt
}

#[derive(Deserialize)]
struct Schema {
    schema: u32,
}

fn bytes(rows: &[Vec<f32>]) -> Vec<u8> {
    rows.iter().flatten().flat_map(|x| x.to_le_bytes()).collect()
}

/// A tensor of `shape` as rows along its first axis.
fn rows(tensors: &SafeTensors<'_>, name: &str, shape: &[usize]) -> Result<Vec<Vec<f32>>, String> {
    let tensor = tensors.tensor(name).map_err(|_| format!("tensor `{name}` is missing"))?;
    if tensor.dtype() != tensor::Dtype::F32 {
        return Err(format!("tensor `{name}` is {:?}, not F32", tensor.dtype()));
    }
    if tensor.shape() != shape {
        return Err(format!("tensor `{name}` is {:?}; the metadata says {shape:?}", tensor.shape()));
    }
    let width = shape.iter().skip(1).product::<usize>().max(1);
    let values: Vec<f32> =
        tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    Ok(values.chunks(width).map(<[f32]>::to_vec).collect())
}

#[cfg(test)]
mod tests;
