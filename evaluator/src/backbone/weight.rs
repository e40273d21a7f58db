//! Matrices of a model: as packed `f32`, or as a GGUF file stores them, made `f32` where they are used.

use std::ops::Range;
use std::sync::Arc;

use super::Dtype;
use crate::kernel::{Made, Packed, gemm, gemm_made, made_bytes};
use crate::models::gguf::Stored;

/// Weight of a linear layer. Both kinds give the same bits for the same numbers.
#[derive(Clone, Debug)]
pub(crate) enum Weight {
    /// In memory, ready for the product.
    Packed(Packed),
    /// In the file.
    Stored(Stored),
}

impl Default for Weight {
    fn default() -> Self {
        Self::Packed(Packed::default())
    }
}

impl From<Packed> for Weight {
    fn from(packed: Packed) -> Self {
        Self::Packed(packed)
    }
}

impl Weight {
    /// Packs the rows of a linear layer as checkpoints store it, `[outputs, inputs]`.
    pub(crate) fn pack(rows: &[f32], outputs: usize, inputs: usize, dtype: Dtype) -> Self {
        let packed = |rows: &[f32]| Packed::from_rows(rows, outputs, inputs).into();
        match dtype {
            Dtype::F32 | Dtype::F16 => packed(rows), // f16 comes to no processor
            Dtype::Bf16 => packed(&rows.iter().map(|x| rounded(*x)).collect::<Vec<_>>()),
            Dtype::Int8 => packed(&rows.chunks_exact(inputs.max(1)).flat_map(quantised).collect::<Vec<_>>()),
        }
    }

    /// What a GGUF file stores: left there, or packed where it is not computed in `f32`.
    pub(crate) fn of_stored(stored: Stored, dtype: Dtype) -> Self {
        if dtype == Dtype::F32 {
            return Self::Stored(stored);
        }
        let mut rows = Vec::with_capacity(stored.rows() * stored.width());
        stored.read(0..stored.rows(), &mut rows);
        Self::pack(&rows, stored.rows(), stored.width(), dtype)
    }

    /// Number of outputs.
    pub(crate) fn outputs(&self) -> usize {
        match self {
            Self::Packed(packed) => packed.outputs(),
            Self::Stored(stored) => stored.rows(),
        }
    }

    /// Number of inputs.
    pub(crate) fn depth(&self) -> usize {
        match self {
            Self::Packed(packed) => packed.depth(),
            Self::Stored(stored) => stored.width(),
        }
    }

    /// All values, row-major `[outputs, depth]`.
    pub(crate) fn rows(&self) -> Vec<f32> {
        match self {
            Self::Packed(packed) => packed.rows(),
            Self::Stored(stored) => {
                let mut rows = Vec::with_capacity(stored.rows() * stored.width());
                stored.read(0..stored.rows(), &mut rows);
                rows
            }
        }
    }

    /// Bytes that a product holds beside its rows.
    pub(crate) fn product_bytes(&self) -> usize {
        match self {
            Self::Packed(_) => 0,
            // a panel's blocks and their values, as the file's reader makes them, too
            Self::Stored(stored) => 2 * made_bytes(stored.width()),
        }
    }

    /// `out = x W^T + bias` for `rows` rows of `x` that stand `stride` apart; `out` has no gaps.
    pub(crate) fn multiply(
        &self,
        x: &[f32],
        stride: usize,
        rows: usize,
        bias: Option<&[f32]>,
        out: &mut [f32],
    ) {
        let outputs = self.outputs();
        match self {
            Self::Packed(packed) => gemm(x, stride, rows, packed, bias, out, outputs),
            Self::Stored(stored) => {
                let rows_of = |range: Range<usize>, out: &mut Vec<f32>| stored.read(range, out);
                let made = Made { outputs, k: stored.width(), rows: rows_of };
                gemm_made(x, stride, rows, &made, bias, out, outputs);
            }
        }
    }
}

fn rounded(x: f32) -> f32 {
    f32::from_bits((x.to_bits() + 0x7fff + (x.to_bits() >> 16 & 1)) & 0xffff_0000)
}

fn quantised(row: &[f32]) -> Vec<f32> {
    let scale = row.iter().fold(0.0_f32, |a, x| a.max(x.abs())) / 127.0;
    row.iter().map(|x| if scale > 0.0 { (x / scale).round_ties_even() * scale } else { 0.0 }).collect()
}

/// A table of which rows are looked up: `[vocab, hidden]`.
#[derive(Clone, Debug)]
pub(crate) enum Table {
    /// In memory; a decoder shares its encoder's.
    Dense(Arc<Vec<f32>>),
    /// In the file.
    Stored(Stored),
}

impl From<Vec<f32>> for Table {
    fn from(values: Vec<f32>) -> Self {
        Self::Dense(Arc::new(values))
    }
}

impl Table {
    /// What `work` makes of a row; `None` where there is none.
    pub(crate) fn row<T>(&self, row: usize, width: usize, work: impl FnOnce(&[f32]) -> T) -> Option<T> {
        match self {
            Self::Dense(values) => values.get(row * width..(row + 1) * width).map(work),
            Self::Stored(stored) if row < stored.rows() => {
                let mut values = Vec::with_capacity(width);
                stored.read(row..row + 1, &mut values);
                Some(work(&values))
            }
            Self::Stored(_) => None,
        }
    }

    /// Shows `see` all values in order, some at a time.
    pub(crate) fn all(&self, mut see: impl FnMut(&[f32])) {
        match self {
            Self::Dense(values) => see(values),
            Self::Stored(stored) => {
                let mut values = Vec::new();
                for first in (0..stored.rows()).step_by(64) {
                    values.clear();
                    stored.read(first..stored.rows().min(first + 64), &mut values);
                    see(&values);
                }
            }
        }
    }
}
