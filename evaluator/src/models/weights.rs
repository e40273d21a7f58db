//! Weights by name, as `f32`: from safetensors files, from files that PyTorch saved, or from a GGUF file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::DType;

use super::gguf::Gguf;
use super::mapped::Mapped;
use super::pickle::Pickle;
use super::random::Random;
use super::stored::Stored;
pub use super::weight_error::WeightError;

/// All tensors of a checkpoint; they stay in its files until they are asked for.
pub struct Weights {
    folder: PathBuf,
    source: Source,
}

enum Source {
    Mapped(Vec<Mapped>),
    Gguf(Arc<Gguf>),
    Pickles(Vec<Pickle>),
    Random(Random),
}

impl Weights {
    /// Opens `files`, which lie in `folder`.
    ///
    /// # Errors
    /// [`WeightError::Damaged`] or [`WeightError::Pickle`].
    pub fn open(folder: &Path, files: &[PathBuf]) -> Result<Self, WeightError> {
        if files.iter().any(|path| is_pickle(path)) {
            let pickles = files.iter().map(|path| Pickle::open(path)).collect::<Result<_, _>>()?;
            return Ok(Self { folder: folder.to_owned(), source: Source::Pickles(pickles) });
        }
        let mapped = files.iter().map(|path| Mapped::open(path)).collect::<Result<_, _>>()?;
        Ok(Self { folder: folder.to_owned(), source: Source::Mapped(mapped) })
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
            Source::Mapped(files) => files.iter().any(|file| file.shape(name).is_some()),
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
            Source::Mapped(files) => Ok(self.mapped(files, name, expected)?.values()),
            Source::Gguf(gguf) => Ok(gguf.values(name, expected)?),
            Source::Pickles(pickles) => self.unpickled(pickles, name, expected),
            Source::Random(random) => Ok(random.values(name, expected)),
        }
    }

    /// A matrix of which rows are looked up, left in the file; `None` where PyTorch saved it.
    ///
    /// # Errors
    /// When it is missing, or has another shape.
    pub fn table(&self, name: &str, shape: &[usize; 2]) -> Result<Option<Stored>, WeightError> {
        match &self.source {
            Source::Mapped(files) => self.mapped(files, name, shape).map(Some),
            Source::Gguf(_) | Source::Pickles(_) | Source::Random(_) => {
                self.stored(&[name.to_owned()], *shape)
            }
        }
    }

    /// Matrices of one shape, one below the other, left as the file has them where it is a GGUF file; `None` where it is
    /// not.
    ///
    /// # Errors
    /// When one is missing, or has another shape.
    pub fn stored(&self, names: &[String], shape: [usize; 2]) -> Result<Option<Stored>, WeightError> {
        match &self.source {
            Source::Mapped(_) | Source::Pickles(_) | Source::Random(_) => Ok(None),
            Source::Gguf(gguf) => Ok(Some(gguf.stored(names, shape)?)),
        }
    }

    fn mapped(&self, files: &[Mapped], name: &str, expected: &[usize]) -> Result<Stored, WeightError> {
        let file = files.iter().find_map(|file| Some((file, file.shape(name)?)));
        let (file, shape) = file.ok_or_else(|| self.missing(name))?;
        self.check_shape(name, shape, expected)?;
        file.stored(name).map_err(|reason| self.wrong_type(name, reason))
    }

    fn unpickled(&self, pickles: &[Pickle], name: &str, expected: &[usize]) -> Result<Vec<f32>, WeightError> {
        let pickle = pickles.iter().find(|pickle| pickle.contains(name));
        let tensor = pickle.map_or(Ok(None), |pickle| pickle.get(name))?;
        let tensor = tensor.ok_or_else(|| self.missing(name))?;
        self.check_shape(name, tensor.dims(), expected)?;
        let values = tensor.to_dtype(DType::F32).and_then(|t| t.flatten_all()).and_then(|t| t.to_vec1());
        values.map_err(|error| self.wrong_type(name, error.to_string()))
    }

    fn missing(&self, name: &str) -> WeightError {
        WeightError::Missing { folder: self.folder.clone(), name: name.to_owned() }
    }

    fn wrong_type(&self, name: &str, reason: String) -> WeightError {
        WeightError::Type { folder: self.folder.clone(), name: name.to_owned(), reason }
    }

    fn check_shape(&self, name: &str, found: &[usize], expected: &[usize]) -> Result<(), WeightError> {
        if found == expected {
            return Ok(());
        }
        let (found, expected) = (found.to_vec(), expected.to_vec());
        Err(WeightError::Shape { folder: self.folder.clone(), name: name.to_owned(), found, expected })
    }
}

/// Whether PyTorch saved the file, going by its name.
pub(super) fn is_pickle(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "bin")
}
