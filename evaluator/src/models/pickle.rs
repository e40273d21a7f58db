//! Weights by name from a file that PyTorch saved: the list of them is read at once, a tensor when it is asked for.

use std::fs::File;
use std::io::{self, BufReader};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use candle_core::pickle::{PthTensors, TensorInfo};
use zip::ZipArchive;

use super::weight_error::WeightError;

/// One `pytorch_model.bin`, or one of its shards.
pub struct Pickle {
    path: PathBuf,
    /// Bytes of the file.
    length: u64,
    tensors: PthTensors,
}

impl Pickle {
    /// Reads the list of tensors.
    ///
    /// # Errors
    /// [`WeightError::Pickle`].
    pub fn open(path: &Path) -> Result<Self, WeightError> {
        let length = std::fs::metadata(path).map_err(|error| damaged(path, error))?.len();
        check(path).map_err(|error| damaged(path, error))?;
        let tensors = guarded(path, || PthTensors::new(path, None))?;
        if tensors.tensor_infos().is_empty() {
            return Err(damaged(path, "there is no tensor in it"));
        }
        Ok(Self { path: path.to_owned(), length, tensors })
    }

    /// Names, types and shapes, in no order.
    pub fn infos(&self) -> impl Iterator<Item = &TensorInfo> {
        self.tensors.tensor_infos().values()
    }

    /// Whether there is a tensor of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.tensor_infos().contains_key(name)
    }

    /// A tensor, where there is one of that name.
    ///
    /// # Errors
    /// [`WeightError::Pickle`].
    pub fn get(&self, name: &str) -> Result<Option<Tensor>, WeightError> {
        let Some(info) = self.tensors.tensor_infos().get(name) else { return Ok(None) };
        // PyTorch stores tensors as they are: one that would be longer than the file is not to be allocated for
        let numbers =
            info.layout.dims().iter().try_fold(1u64, |product, &dim| product.checked_mul(dim as u64));
        let bytes = numbers.and_then(|numbers| numbers.checked_mul(info.dtype.size_in_bytes() as u64));
        if bytes.is_none_or(|bytes| bytes > self.length) {
            return Err(damaged(&self.path, format!("tensor `{name}` is larger than the file")));
        }
        guarded(&self.path, || self.tensors.get(name))
    }
}

/// Compares each pickle in the archive with its checksum. At one that was damaged the reader may panic, or say on
/// standard error what it passes over.
fn check(path: &Path) -> io::Result<()> {
    let mut archive = ZipArchive::new(BufReader::new(File::open(path)?))?;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index)?;
        // PyTorch leaves 0 there when it is told to compute none
        if entry.name()?.ends_with(".pkl") && entry.crc32() != 0 {
            io::copy(&mut entry, &mut io::sink())?;
        }
    }
    Ok(())
}

/// What the reader makes of a file. It takes for granted that a pickle is made as PyTorch makes them, and panics at
/// some that are not.
fn guarded<T>(path: &Path, read: impl FnOnce() -> candle_core::Result<T>) -> Result<T, WeightError> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(read) => read.map_err(|error| damaged(path, error)),
        Err(_) => Err(damaged(path, "its pickle is not one of PyTorch's")),
    }
}

fn damaged(path: &Path, reason: impl std::fmt::Display) -> WeightError {
    let reason = reason.to_string().lines().next().unwrap_or_default().to_owned();
    WeightError::Pickle { path: path.to_owned(), reason }
}
