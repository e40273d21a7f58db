//! Weights by name, as `f32`: from safetensors files, from files that PyTorch saved, or from a GGUF file.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, safetensors};
use thiserror::Error;

use super::gguf::{Gguf, GgufError, Stored};
use super::pickle::Pickle;
use super::random::Random;

/// Why a weight cannot be had; all of these are about the model's files.
#[derive(Debug, Error)]
pub enum WeightError {
    /// The file is damaged or no safetensors file.
    #[error("{}: not a usable safetensors file: {reason}; is it complete?", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What the reader says.
        reason: String,
    },
    /// The file is damaged, or none that PyTorch saved.
    #[error(
        "{}: not a usable PyTorch file: {reason}; is it complete? (what PyTorch saved before 1.6 must be saved anew)",
        path.display()
    )]
    Pickle {
        /// Which.
        path: PathBuf,
        /// What the reader says.
        reason: String,
    },
    /// No such tensor.
    #[error("{}: tensor `{name}` is missing; is this a checkpoint of the architecture in config.json?", folder.display())]
    Missing {
        /// The model's folder.
        folder: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A tensor whose shape contradicts the configuration.
    #[error("{}: tensor `{name}` has shape {found:?}, config.json asks for {expected:?}", folder.display())]
    Shape {
        /// The model's folder.
        folder: PathBuf,
        /// The tensor.
        name: String,
        /// In the file.
        found: Vec<usize>,
        /// By the configuration.
        expected: Vec<usize>,
    },
    /// A GGUF file's tensor.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A tensor of a type that has no `f32` values.
    #[error("{}: tensor `{name}`: {reason}", folder.display())]
    Type {
        /// The model's folder.
        folder: PathBuf,
        /// The tensor.
        name: String,
        /// Why not.
        reason: String,
    },
}

/// All tensors of a checkpoint.
pub struct Weights {
    folder: PathBuf,
    source: Source,
}

enum Source {
    Tensors(HashMap<String, Tensor>), // looked up by name, never iterated
    Gguf(Arc<Gguf>),
    Pickles(Vec<Pickle>),
    Random(Random),
}

impl Weights {
    /// Reads `files`, which lie in `folder`.
    ///
    /// # Errors
    /// [`WeightError::Damaged`] or [`WeightError::Pickle`].
    pub fn open(folder: &Path, files: &[PathBuf]) -> Result<Self, WeightError> {
        if files.iter().any(|path| is_pickle(path)) {
            let pickles = files.iter().map(|path| Pickle::open(path)).collect::<Result<_, _>>()?;
            return Ok(Self { folder: folder.to_owned(), source: Source::Pickles(pickles) });
        }
        let mut tensors = HashMap::new();
        for path in files {
            let damaged = |e: candle_core::Error| WeightError::Damaged {
                path: path.clone(),
                reason: e.to_string().lines().next().unwrap_or_default().to_owned(),
            };
            tensors.extend(safetensors::load(path, &Device::Cpu).map_err(damaged)?);
        }
        Ok(Self { folder: folder.to_owned(), source: Source::Tensors(tensors) })
    }

    /// The tensors of a GGUF file, by the names that Hugging Face's checkpoints have for them.
    pub fn of_gguf(gguf: Arc<Gguf>) -> Self {
        Self { folder: gguf.path().to_owned(), source: Source::Gguf(gguf) }
    }

    /// Any tensor that is asked for, of random numbers; of those that a model may lack, `optional` alone.
    pub fn random(optional: &'static [&'static str]) -> Self {
        Self { folder: PathBuf::new(), source: Source::Random(Random { optional }) }
    }

    /// Whether there is a tensor of that name.
    pub fn contains(&self, name: &str) -> bool {
        match &self.source {
            Source::Tensors(tensors) => tensors.contains_key(name),
            Source::Gguf(gguf) => gguf.contains(name),
            Source::Pickles(pickles) => pickles.iter().any(|pickle| pickle.contains(name)),
            Source::Random(random) => random.optional.contains(&name),
        }
    }

    /// A tensor's values, row-major; f16 and bf16 are widened.
    ///
    /// # Errors
    /// When it is missing, or has another shape.
    pub fn get(&self, name: &str, expected: &[usize]) -> Result<Vec<f32>, WeightError> {
        match &self.source {
            Source::Gguf(gguf) => return Ok(gguf.values(name, expected)?),
            Source::Random(random) => return Ok(random.values(name, expected)),
            Source::Tensors(_) | Source::Pickles(_) => {}
        }
        let found = self.find(name)?;
        let (folder, name) = (|| self.folder.clone(), || name.to_owned());
        let missing = || WeightError::Missing { folder: folder(), name: name() };
        let tensor = found.ok_or_else(missing)?;
        if tensor.dims() != expected {
            let (found, expected) = (tensor.dims().to_vec(), expected.to_vec());
            return Err(WeightError::Shape { folder: folder(), name: name(), found, expected });
        }
        let values = tensor.to_dtype(DType::F32).and_then(|t| t.flatten_all()).and_then(|t| t.to_vec1());
        values.map_err(|e| WeightError::Type { folder: folder(), name: name(), reason: e.to_string() })
    }

    /// Matrices of one shape, one below the other, left as the file has them where it is a GGUF file; `None` where it is
    /// not.
    ///
    /// # Errors
    /// When one is missing, or has another shape.
    pub fn stored(&self, names: &[String], shape: [usize; 2]) -> Result<Option<Stored>, WeightError> {
        match &self.source {
            Source::Tensors(_) | Source::Pickles(_) | Source::Random(_) => Ok(None),
            Source::Gguf(gguf) => Ok(Some(gguf.stored(names, shape)?)),
        }
    }

    /// A tensor of a checkpoint's files, where they are no GGUF file.
    fn find(&self, name: &str) -> Result<Option<Tensor>, WeightError> {
        match &self.source {
            Source::Tensors(tensors) => Ok(tensors.get(name).cloned()),
            Source::Pickles(pickles) => match pickles.iter().find(|pickle| pickle.contains(name)) {
                Some(pickle) => pickle.get(name),
                None => Ok(None),
            },
            Source::Gguf(_) | Source::Random(_) => Ok(None),
        }
    }
}

/// Whether PyTorch saved the file, going by its name.
pub(super) fn is_pickle(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "bin")
}
