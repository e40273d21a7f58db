//! What a checkpoint's files say they hold, without reading a number of it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::gguf::Gguf;
use super::locate::is_gguf;
use super::pickle::Pickle;
use super::weights::{WeightError, is_pickle};

/// Longest list of tensors that is read.
const MOST_BYTES: u64 = 100_000_000;

/// Numbers stored, and as what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// How many; integers (position ids, masks) are no parameters, and what two names share counts once.
    pub parameters: u64,
    /// `f32`, `bf16`, ...
    pub dtypes: BTreeSet<String>,
}

impl Census {
    /// Of a checkpoint's files.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn of(files: &[PathBuf]) -> Result<Self, WeightError> {
        let mut census = Self::default();
        for path in files {
            match path {
                path if is_pickle(path) => census.pickled(path)?,
                path if is_gguf(path) => census.quantised(path)?,
                path => census.listed(path)?,
            }
        }
        Ok(census)
    }

    fn add(&mut self, dtype: &str, parameters: u64) {
        if dtype.contains('f') {
            self.parameters = self.parameters.saturating_add(parameters);
            self.dtypes.insert(dtype.to_owned());
        }
    }

    /// A safetensors file: its list of tensors stands first, after its length.
    fn listed(&mut self, path: &Path) -> Result<(), WeightError> {
        #[derive(Deserialize)]
        struct Entry {
            dtype: String,
            shape: Vec<u64>,
        }
        let list = list(path).map_err(|error| damaged(path, error))?;
        for (_, entry) in list.into_iter().filter(|(name, _)| name != "__metadata__") {
            let entry: Entry = serde_json::from_value(entry).map_err(|error| damaged(path, error))?;
            self.add(&entry.dtype.to_lowercase(), entry.shape.iter().product());
        }
        Ok(())
    }

    fn quantised(&mut self, path: &Path) -> Result<(), WeightError> {
        for (kind, parameters) in Gguf::open(path)?.kinds() {
            self.parameters = self.parameters.saturating_add(parameters);
            self.dtypes.insert(kind);
        }
        Ok(())
    }

    fn pickled(&mut self, path: &Path) -> Result<(), WeightError> {
        let mut seen = BTreeSet::new();
        for info in Pickle::open(path)?.infos() {
            if seen.insert((info.path.clone(), info.layout.start_offset())) {
                self.add(info.dtype.as_str(), info.layout.shape().elem_count() as u64);
            }
        }
        Ok(())
    }
}

fn list(path: &Path) -> std::io::Result<Map<String, Value>> {
    let mut file = File::open(path)?;
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let mut text = Vec::new();
    file.take(u64::from_le_bytes(length).min(MOST_BYTES)).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

fn damaged(path: &Path, error: impl std::fmt::Display) -> WeightError {
    WeightError::Damaged { path: path.to_owned(), reason: error.to_string() }
}
