//! What a block does between its products, and the products: by candle's operations on any device, and on CUDA in half
//! the bits by kernels of our own (`cuda`).

use candle_core::{DType, Device, Result, Tensor};

#[cfg(feature = "cuda")]
use super::cuda::Cuda;
use super::parts::{Added, Attention, Entering, Joining, Linear, Rows};
use crate::backbone::Activation;

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
        #[cfg(test)]
        super::counted::add(2 * x.elem_count() * linear.weight.dim(0)?);
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
            && let Some((stream, entering)) = cuda.enter(entering)?
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
