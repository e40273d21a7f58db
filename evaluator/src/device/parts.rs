//! What the operations of a device are given: weights as a block holds them, and the rows they work on.

use candle_core::{DType, Result, Tensor};
use candle_nn::ops::{layer_norm, rms_norm};

use super::look::{Look, Relative};
use crate::backbone::Heads;

/// `y = x W^T + b`.
pub(super) struct Linear {
    /// `[outputs, depth]`
    pub(super) weight: Tensor,
    pub(super) bias: Option<Tensor>,
}

/// A norm over rows.
pub(super) struct Norm {
    pub(super) weight: Tensor,
    /// What makes it a layer norm, zeros where the model has none; without, it is an RMS norm.
    pub(super) bias: Option<Tensor>,
    pub(super) eps: f32,
}

impl Norm {
    /// Each run of `weight.len()` numbers normed, as `f32`, in the shape it has.
    pub(super) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let rows = x.to_dtype(DType::F32)?.contiguous()?.reshape(((), self.weight.elem_count()))?;
        let normed = match &self.bias {
            Some(bias) => layer_norm(&rows, &self.weight, bias, self.eps)?,
            None => rms_norm(&rows, &self.weight, self.eps)?,
        };
        normed.reshape(x.shape())
    }
}

/// The norms of one branch, see [`crate::backbone::Norms`].
pub(super) struct Norms {
    pub(super) input: Option<Norm>,
    pub(super) branch: Option<Norm>,
    pub(super) sum: Option<Norm>,
}

/// Rows between two branches, `[rows, hidden]` each.
pub(super) struct Rows {
    /// The residual stream, `f32`.
    pub(super) stream: Tensor,
    /// What the next branch reads: the stream after that branch's norm, in the weights' type.
    pub(super) entering: Tensor,
}

/// A layer's prompt, `[n, hidden]`, added to the stream's rows from `first` on, over and over.
#[derive(Clone, Copy)]
pub(super) struct Added<'a> {
    pub(super) prompt: &'a Tensor,
    pub(super) first: usize,
}

/// A branch's output on its way into the residual stream.
pub(super) struct Joining<'a> {
    pub(super) norms: &'a Norms,
    /// `[rows, hidden]`
    pub(super) out: &'a Tensor,
    /// The stream before, `[rows, hidden]`, `f32`.
    pub(super) residual: &'a Tensor,
    /// The prompt of the layer that follows.
    pub(super) prompt: Option<Added<'a>>,
    /// The norm at the entrance of the branch that follows.
    pub(super) next: Option<&'a Norm>,
}

/// A prompt's rows where the candidates begin.
#[derive(Clone, Copy)]
pub(super) struct Entering<'a> {
    /// Those of one candidate before its prompt is added, `[each, hidden]`.
    pub(super) rows: &'a Tensor,
    /// The candidates' prompts, `[candidates * n, hidden]`; `each` is a multiple of `n`.
    pub(super) prompts: &'a Tensor,
    pub(super) n: usize,
    /// The norm at the entrance of the attention.
    pub(super) next: Option<&'a Norm>,
}

/// One attention: packed rows, and which of them meet.
#[derive(Clone, Copy)]
pub(super) struct Attention<'a> {
    pub(super) heads: &'a Heads,
    /// `[rows, queries * width]`
    pub(super) query: &'a Tensor,
    /// `[rows, 2 * keys * width]`
    pub(super) key_value: &'a Tensor,
    /// T5's positions.
    pub(super) relative: Option<&'a Relative>,
    pub(super) look: &'a Look,
}
