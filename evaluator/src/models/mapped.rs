//! Weights by name from a safetensors file: the list of them is read at once, the rest is mapped.

use std::path::Path;
use std::sync::Arc;

use candle_core::quantized::GgmlDType;
use safetensors::tensor::{Dtype, Metadata, SafeTensors};

use super::map::Map;
use super::stored::{Place, Stored};
use super::weight_error::WeightError;

/// Bytes before the list of tensors: its length.
const PREFIX: usize = 8;

/// One `model.safetensors`, or one of its shards.
pub(super) struct Mapped {
    map: Arc<Map>,
    list: Metadata,
    /// Where the first tensor begins.
    start: usize,
}

impl Mapped {
    /// Reads the list of tensors, which says where each of them lies: one after the other without a gap to the file's
    /// end, each as long as its shape and type ask for.
    ///
    /// # Errors
    /// [`WeightError::Damaged`].
    pub(super) fn open(path: &Path) -> Result<Self, WeightError> {
        let damaged = |reason: String| WeightError::Damaged {
            path: path.to_owned(),
            reason: reason.lines().next().unwrap_or_default().to_owned(),
        };
        let map = Map::open(path).map_err(|error| damaged(error.to_string()))?;
        let (length, list) =
            SafeTensors::read_metadata(map.bytes()).map_err(|error| damaged(error.to_string()))?;
        Ok(Self { map: Arc::new(map), list, start: PREFIX + length })
    }

    /// A tensor's shape, where there is one of that name.
    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.list.info(name).map(|info| info.shape.as_slice())
    }

    /// A tensor as rows of its last dimension.
    ///
    /// # Errors
    /// In words, where there is none, or its type has no `f32` values.
    pub(super) fn stored(&self, name: &str) -> Result<Stored, String> {
        let info = self.list.info(name).ok_or("is missing")?;
        let kind = match info.dtype {
            Dtype::F32 => GgmlDType::F32,
            Dtype::F16 => GgmlDType::F16,
            Dtype::BF16 => GgmlDType::BF16,
            other => return Err(format!("is of type {other}; supported are: F32, F16, BF16")),
        };
        let width = info.shape.last().copied().unwrap_or(1);
        let rows = info.shape.iter().rev().skip(1).product();
        let start = self.start + info.data_offsets.0;
        let place = Place { start, kind, rows, width, interleaved: None };
        Ok(Stored::new(Arc::clone(&self.map), vec![place]))
    }
}
