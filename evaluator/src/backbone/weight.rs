//! Matrices of a model: packed, as `f32` or rounded, or as a GGUF file stores them, made `f32` where they are used.

use std::ops::Range;
use std::sync::Arc;

use super::Dtype;
use crate::kernel::{Made, Packed, PackedBf16, PackedInt8, gemm, gemm_made, made_bytes};
use crate::models::stored::Stored;

/// Weight of a linear layer. The two kinds of `f32` give the same bits for the same numbers.
#[derive(Clone, Debug)]
pub(crate) enum Weight {
    /// In memory, ready for the product.
    Packed(Packed),
    /// The same, rounded.
    Bf16(PackedBf16),
    Int8(PackedInt8),
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
        match dtype {
            // f16 comes to no processor
            Dtype::F32 | Dtype::F16 => Self::Packed(Packed::from_rows(rows, outputs, inputs)),
            Dtype::Bf16 => Self::Bf16(PackedBf16::from_rows(rows, outputs, inputs)),
            Dtype::Int8 => Self::Int8(PackedInt8::from_rows(rows, outputs, inputs)),
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
            Self::Bf16(packed) => packed.outputs(),
            Self::Int8(packed) => packed.outputs(),
            Self::Stored(stored) => stored.rows(),
        }
    }

    /// Number of inputs.
    pub(crate) fn depth(&self) -> usize {
        match self {
            Self::Packed(packed) => packed.depth(),
            Self::Bf16(packed) => packed.depth(),
            Self::Int8(packed) => packed.depth(),
            Self::Stored(stored) => stored.width(),
        }
    }

    /// All values, row-major `[outputs, depth]`; `None` of what was rounded.
    pub(crate) fn rows(&self) -> Option<Vec<f32>> {
        match self {
            Self::Packed(packed) => Some(packed.rows()),
            Self::Bf16(_) | Self::Int8(_) => None,
            Self::Stored(stored) => {
                let mut rows = Vec::with_capacity(stored.rows() * stored.width());
                stored.read(0..stored.rows(), &mut rows);
                Some(rows)
            }
        }
    }

    /// Bytes that a product holds beside its rows.
    pub(crate) fn product_bytes(&self) -> usize {
        match self {
            Self::Packed(_) => 0,
            Self::Bf16(packed) => packed.product_bytes(),
            Self::Int8(packed) => packed.product_bytes(),
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
            Self::Bf16(packed) => packed.multiply(x, stride, rows, bias, out, outputs),
            Self::Int8(packed) => packed.multiply(x, stride, rows, bias, out, outputs),
            Self::Stored(stored) => {
                let rows_of = |range: Range<usize>, out: &mut Vec<f32>| stored.read(range, out);
                let made = Made { outputs, k: stored.width(), rows: rows_of };
                gemm_made(x, stride, rows, &made, bias, out, outputs);
            }
        }
    }
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

    /// Lets go of the memory that the file's pages take, where the table is in one: few of its rows are looked up
    /// again.
    pub(crate) fn forget(&self) {
        if let Self::Stored(stored) = self {
            stored.forget();
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
                    stored.forget();
                }
            }
        }
    }
}
