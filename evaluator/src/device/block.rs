//! One transformer block on tensors, made of the choices of `backbone/choices.rs`: packed rows in, packed rows out.
//!
//! Linear layers compute in the weights' type; the residual stream, norms, rotations and softmax are `f32`.

use std::sync::Arc;

use candle_core::{D, DType, Result, Tensor};
use candle_nn::ops::{layer_norm, rms_norm};

use super::plan::{Look, Plan};
use crate::backbone::{Activation, Heads, NormKind};

/// `y = x W^T + b`.
pub(super) struct Linear {
    /// `[outputs, depth]`
    pub(super) weight: Tensor,
    pub(super) bias: Option<Tensor>,
}

impl Linear {
    /// `[rows, depth]` of any type to `[rows, outputs]` of the weights' type.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = x.to_dtype(self.weight.dtype())?.matmul(&self.weight.t()?)?;
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }
}

/// A norm over rows.
pub(super) struct Norm {
    pub(super) kind: NormKind,
    pub(super) weight: Tensor,
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

impl Norms {
    pub(super) fn input(&self, x: &Tensor) -> Result<Tensor> {
        self.input.as_ref().map_or_else(|| Ok(x.clone()), |norm| norm.apply(x))
    }

    /// The branch's output joined with the residual stream, as `f32`.
    pub(super) fn join(&self, out: &Tensor, residual: &Tensor) -> Result<Tensor> {
        let out = match &self.branch {
            Some(norm) => norm.apply(out)?,
            None => out.to_dtype(DType::F32)?,
        };
        let sum = (out + residual)?;
        self.sum.as_ref().map_or_else(|| Ok(sum.clone()), |norm| norm.apply(&sum))
    }
}

/// See [`crate::backbone::FeedForward`].
pub(super) struct FeedForward {
    pub(super) up: Linear,
    pub(super) gated: bool,
    pub(super) activation: Activation,
    pub(super) down: Linear,
}

impl FeedForward {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let wide = self.up.forward(x)?;
        if !self.gated {
            return self.down.forward(&activate(self.activation, &wide)?);
        }
        let width = wide.dim(1)? / 2;
        let gate = wide.narrow(1, 0, width)?.contiguous()?;
        let gated = (activate(self.activation, &gate)? * wide.narrow(1, width, width)?)?;
        self.down.forward(&gated)
    }
}

/// An activation, element by element.
pub(super) fn activate(activation: Activation, x: &Tensor) -> Result<Tensor> {
    match activation {
        Activation::GeluErf => x.gelu_erf(),
        Activation::GeluTanh => x.gelu(),
        Activation::Relu => x.relu(),
        Activation::Silu => x.silu(),
    }
}

/// Rotary positions: `[positions, pairs]` each.
pub(super) struct Turns {
    pub(super) cos: Tensor,
    pub(super) sin: Tensor,
    pub(super) pairs: usize,
}

impl Turns {
    /// Turns the heads (`width` numbers each) of rows that stand at `positions`.
    fn turn(&self, rows: &Tensor, width: usize, positions: &Tensor) -> Result<Tensor> {
        let pairs = self.pairs;
        let heads = rows.to_dtype(DType::F32)?.reshape((rows.dim(0)?, (), width))?;
        let cos = self.cos.index_select(positions, 0)?.unsqueeze(1)?;
        let sin = self.sin.index_select(positions, 0)?.unsqueeze(1)?;
        let (a, b) = (heads.narrow(2, 0, pairs)?, heads.narrow(2, pairs, pairs)?);
        let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
        let turned = match width - 2 * pairs {
            0 => Tensor::cat(&[first, second], 2)?,
            rest => Tensor::cat(&[first, second, heads.narrow(2, 2 * pairs, rest)?], 2)?,
        };
        turned.reshape(rows.shape())?.to_dtype(rows.dtype())
    }
}

/// T5's positions: `[2 * reach + 1, heads]`.
pub(super) struct Relative {
    pub(super) reach: usize,
    pub(super) table: Tensor,
}

/// DeBERTa's positions: `[heads, width, positions]` each.
pub(super) struct Positions {
    /// Row of the tables for query minus key, from the farthest before to the farthest after.
    pub(super) rows: Arc<Vec<usize>>,
    pub(super) keys: Tensor,
    pub(super) queries: Tensor,
}

/// Attention over an encoder's output.
pub(super) struct Cross {
    pub(super) heads: Heads,
    pub(super) query: Linear,
    pub(super) key_value: Linear,
    pub(super) output: Linear,
    pub(super) norms: Norms,
}

/// Weights of one block, see [`crate::backbone::Block`].
pub(super) struct Block {
    pub(super) heads: Heads,
    pub(super) query: Linear,
    pub(super) key_value: Linear,
    pub(super) query_norm: Option<Norm>,
    pub(super) key_norm: Option<Norm>,
    pub(super) rotary: Option<Arc<Turns>>,
    pub(super) relative: Option<Relative>,
    pub(super) disentangled: Option<Positions>,
    pub(super) output: Linear,
    pub(super) attention_norms: Norms,
    pub(super) cross: Option<Cross>,
    pub(super) feed_forward: FeedForward,
    pub(super) feed_forward_norms: Norms,
}

/// Queries, keys and values of rows.
#[derive(Clone)]
pub(super) struct Projected {
    /// `[rows, queries * width]`
    pub(super) query: Tensor,
    /// `[rows, 2 * keys * width]`
    pub(super) key_value: Tensor,
}

/// A block's input.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    /// Text rows, then prompt rows: `[rows, hidden]`.
    pub(super) rows: &'a Tensor,
    /// In `prefix`, the prompts' keys and values: `[n, 2 * keys * width]`, or as many for each candidate.
    pub(super) prefix: Option<&'a Tensor>,
    /// The text rows' projections, where they are known.
    pub(super) known: Option<&'a Projected>,
    /// What a decoder's block sees of the encoder.
    pub(super) encoded: Option<(&'a Tensor, &'a Look)>,
}

impl Block {
    /// The rows of the output that `plan` wants, `[wanted, hidden]`.
    pub(super) fn forward(&self, input: Input<'_>, plan: &Plan) -> Result<Tensor> {
        let residual = plan.wanted(input.rows)?;
        let Projected { query, key_value } = self.projections(&input, &residual, plan)?;
        let key_value = match input.prefix {
            Some(prefix) => Tensor::cat(&[&key_value, prefix], 0)?,
            None => key_value,
        };
        let context = self.attend(&query, &key_value, plan)?;
        let mut attended = self.attention_norms.join(&self.output.forward(&context)?, &residual)?;
        if let (Some(cross), Some((rows, look))) = (&self.cross, input.encoded) {
            attended = cross.forward(&attended, rows, look)?;
        }
        let entering = self.feed_forward_norms.input(&attended)?;
        self.feed_forward_norms.join(&self.feed_forward.forward(&entering)?, &attended)
    }

    /// Queries of the rows that ask, keys and values of all.
    fn projections(&self, input: &Input<'_>, residual: &Tensor, plan: &Plan) -> Result<Projected> {
        if let Some(known) = input.known {
            return self.completed(known, input.rows, plan);
        }
        let entering = self.attention_norms.input(input.rows)?;
        let key_value = self.keys(&entering, &plan.positions)?;
        let query = if plan.wanted_ask {
            self.queries(&self.attention_norms.input(residual)?, &plan.wanted_positions)?
        } else {
            self.queries(&entering, &plan.positions)?
        };
        Ok(Projected { query, key_value })
    }

    /// The known projections of text rows, and behind them those of the prompt's rows.
    fn completed(&self, known: &Projected, rows: &Tensor, plan: &Plan) -> Result<Projected> {
        let text = known.key_value.dim(0)?;
        let count = rows.dim(0)? - text;
        if count == 0 {
            return Ok(known.clone());
        }
        let entering = self.attention_norms.input(&rows.narrow(0, text, count)?)?;
        let positions = plan.positions.narrow(0, text, count)?;
        let key_value = self.keys(&entering, &positions)?;
        let query = if plan.prompt_asks {
            Tensor::cat(&[&known.query, &self.queries(&entering, &positions)?], 0)?
        } else {
            known.query.clone()
        };
        Ok(Projected { query, key_value: Tensor::cat(&[&known.key_value, &key_value], 0)? })
    }

    /// Queries, keys and values of rows at `positions`.
    pub(super) fn project(&self, rows: &Tensor, positions: &Tensor) -> Result<Projected> {
        let entering = self.attention_norms.input(rows)?;
        Ok(Projected {
            query: self.queries(&entering, positions)?,
            key_value: self.keys(&entering, positions)?,
        })
    }

    /// Keys and values of prompts' rows, `[rows, hidden]` to `[rows, 2 * keys * width]`.
    pub(super) fn prefix(&self, prompts: &Tensor, positions: &Tensor) -> Result<Tensor> {
        self.keys(&self.attention_norms.input(prompts)?, positions)
    }

    /// Queries of normed rows, each head normed and turned.
    fn queries(&self, rows: &Tensor, positions: &Tensor) -> Result<Tensor> {
        self.heads_of(self.query.forward(rows)?, self.query_norm.as_ref(), positions)
    }

    /// Keys and values of normed rows, each key head normed and turned.
    fn keys(&self, rows: &Tensor, positions: &Tensor) -> Result<Tensor> {
        let both = self.key_value.forward(rows)?;
        if self.key_norm.is_none() && self.rotary.is_none() {
            return Ok(both);
        }
        let width = self.heads.key_width();
        let keys = both.narrow(1, 0, width)?.contiguous()?;
        let keys = self.heads_of(keys, self.key_norm.as_ref(), positions)?;
        Tensor::cat(&[&keys, &both.narrow(1, width, width)?], D::Minus1)
    }

    fn heads_of(&self, rows: Tensor, norm: Option<&Norm>, positions: &Tensor) -> Result<Tensor> {
        let dtype = rows.dtype();
        let rows = match norm {
            Some(norm) => norm.apply(&rows)?,
            None => rows,
        };
        let rows = match &self.rotary {
            Some(turns) => turns.turn(&rows, self.heads.width, positions)?,
            None => rows,
        };
        rows.to_dtype(dtype)
    }
}
