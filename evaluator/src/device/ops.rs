//! What a block does between its products, and the products: by candle's operations on any device, and on CUDA in half
//! the bits by kernels of our own (`cuda`).

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::ops::{layer_norm, rms_norm};

#[cfg(feature = "cuda")]
use super::cuda::Cuda;
use super::look::Look;
use crate::backbone::{Activation, Heads, NormKind};

/// `y = x W^T + b`.
pub(super) struct Linear {
    /// `[outputs, depth]`
    pub(super) weight: Tensor,
    pub(super) bias: Option<Tensor>,
}

/// A norm over rows.
pub(super) struct Norm {
    pub(super) kind: NormKind,
    pub(super) weight: Tensor,
    /// Of a layer norm, zeros where the model has none; an RMS norm has none.
    pub(super) bias: Option<Tensor>,
    pub(super) eps: f32,
}

impl Norm {
    /// Each run of `weight.len()` numbers normed, as `f32`, in the shape it has.
    pub(super) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let rows = x.to_dtype(DType::F32)?.contiguous()?.reshape(((), self.weight.elem_count()))?;
        let normed = match (self.kind, &self.bias) {
            (NormKind::Layer { .. }, Some(bias)) => layer_norm(&rows, &self.weight, bias, self.eps)?,
            _ => rms_norm(&rows, &self.weight, self.eps)?,
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

/// T5's positions: `[2 * reach + 1, heads]`.
pub(super) struct Relative {
    pub(super) reach: usize,
    pub(super) table: Tensor,
}

/// The operations of one device and one type of weights.
pub(super) struct Ops {
    dtype: DType,
    #[cfg(feature = "cuda")]
    cuda: Option<Cuda>,
}

impl Ops {
    pub(super) fn new(device: &Device, dtype: DType) -> Result<Self> {
        #[cfg(not(feature = "cuda"))]
        let _ = device;
        Ok(Self {
            dtype,
            #[cfg(feature = "cuda")]
            cuda: Cuda::new(device, dtype)?,
        })
    }

    /// `[rows, depth]` of any type to `[rows, outputs]` of the weights' type.
    #[cfg_attr(not(feature = "cuda"), allow(clippy::unused_self))] // candle's product needs no more
    pub(super) fn linear(&self, linear: &Linear, x: &Tensor) -> Result<Tensor> {
        let x = x.to_dtype(linear.weight.dtype())?;
        #[cfg(feature = "cuda")]
        if let Some(cuda) = self.cuda.as_ref().filter(|_| x.elem_count() > 0) {
            return cuda.linear(&x.contiguous()?, linear);
        }
        let y = x.matmul(&linear.weight.t()?)?;
        match &linear.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }

    /// Each candidate's rows with its prompt added, over and over: `[candidates * each, hidden]`.
    pub(super) fn enter(&self, entering: &Entering<'_>) -> Result<Rows> {
        #[cfg(feature = "cuda")]
        if let Some(cuda) = &self.cuda
            && let Some((stream, entering)) = cuda.enter(self.dtype, entering)?
        {
            return Ok(Rows { stream, entering });
        }
        let Entering { rows, prompts, n, next } = *entering;
        let hidden = rows.dim(1)?;
        let each = rows.reshape((1, (), n, hidden))?;
        let stream = each.broadcast_add(&prompts.reshape(((), 1, n, hidden))?)?.reshape(((), hidden))?;
        let entering = next.map_or_else(|| Ok(stream.clone()), |norm| norm.apply(&stream))?;
        Ok(Rows { entering: entering.to_dtype(self.dtype)?, stream })
    }

    /// `sum(branch(out) + residual)`, then the prompt added; and what the branch that follows reads of it.
    pub(super) fn join(&self, joining: &Joining<'_>) -> Result<Rows> {
        #[cfg(feature = "cuda")]
        if let Some(cuda) = &self.cuda
            && let Some((stream, entering)) = cuda.join(joining)?
        {
            return Ok(Rows { stream, entering });
        }
        let out = match &joining.norms.branch {
            Some(norm) => norm.apply(joining.out)?,
            None => joining.out.to_dtype(DType::F32)?,
        };
        let mut stream = (out + joining.residual)?;
        if let Some(norm) = &joining.norms.sum {
            stream = norm.apply(&stream)?;
        }
        if let Some(Added { prompt, first }) = joining.prompt {
            let (n, hidden) = prompt.dims2()?;
            let rows = stream.narrow(0, first, stream.dim(0)? - first)?.reshape(((), n, hidden))?;
            let rows = rows.broadcast_add(&prompt.unsqueeze(0)?)?.reshape(((), hidden))?;
            stream = Tensor::cat(&[&stream.narrow(0, 0, first)?, &rows], 0)?;
        }
        let entering = joining.next.map_or_else(|| Ok(stream.clone()), |norm| norm.apply(&stream))?;
        Ok(Rows { entering: entering.to_dtype(self.dtype)?, stream })
    }

    /// `act(x)`; gated, where a row of `x` is a gate and as many numbers again, `act(gate) * up`.
    pub(super) fn activate(&self, activation: Activation, gated: bool, x: &Tensor) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if let Some(cuda) = self.cuda.as_ref().filter(|_| x.dtype() == self.dtype)
            && let Some(activated) = cuda.activate(activation, gated, x)?
        {
            return Ok(activated);
        }
        if !gated {
            return activated(activation, x);
        }
        let width = x.dim(1)? / 2;
        let gate = x.narrow(1, 0, width)?.contiguous()?;
        activated(activation, &gate)? * x.narrow(1, width, width)?
    }

    /// `softmax(cap(scale Q K^T + relative)) V` of the wanted rows, `[wanted, queries * width]`, where there is a kernel
    /// for it.
    #[cfg_attr(not(feature = "cuda"), allow(clippy::unused_self))] // no other device has one
    pub(super) fn attend(&self, attention: &Attention<'_>) -> Result<Option<Tensor>> {
        #[cfg(feature = "cuda")]
        if let Some(cuda) = &self.cuda {
            return cuda.attend(attention);
        }
        #[cfg(not(feature = "cuda"))]
        let _ = attention;
        Ok(None)
    }
}

fn activated(activation: Activation, x: &Tensor) -> Result<Tensor> {
    match activation {
        Activation::GeluErf => x.gelu_erf(),
        Activation::GeluTanh => x.gelu(),
        Activation::Relu => x.relu(),
        Activation::Silu => x.silu(),
    }
}
