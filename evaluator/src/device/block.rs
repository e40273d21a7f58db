//! One transformer block on tensors, made of the choices of `backbone/choices.rs`: packed rows in, packed rows out.
//!
//! Linear layers compute in the weights' type; the residual stream, norms, rotations and softmax are `f32`.

use std::sync::Arc;

use candle_core::{D, DType, Result, Tensor};

use super::look::Relative;
use super::ops::Ops;
use super::parts::{Added, Joining, Linear, Norm, Norms, Rows};
use super::plan::Plan;
use crate::backbone::{Activation, Heads};

/// See [`crate::backbone::FeedForward`].
pub(super) struct FeedForward {
    pub(super) up: Linear,
    pub(super) gated: bool,
    pub(super) activation: Activation,
    pub(super) down: Linear,
}

impl FeedForward {
    fn forward(&self, ops: &Ops, x: &Tensor) -> Result<Tensor> {
        let wide = ops.linear(&self.up, x)?;
        ops.linear(&self.down, &ops.activate(self.activation, self.gated, &wide)?)
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
    pub(super) ops: Arc<Ops>,
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

impl Projected {
    /// Those of some rows.
    pub(super) fn part(&self, first: usize, count: usize) -> Result<Self> {
        let of = |tensor: &Tensor| tensor.narrow(0, first, count);
        Ok(Self { query: of(&self.query)?, key_value: of(&self.key_value)? })
    }
}

/// Projections that are there before a chunk begins.
#[derive(Clone)]
pub(super) struct Known {
    /// Of the text rows.
    pub(super) text: Projected,
    /// Of each example's prompt rows before a prompt is added, `[examples * n, ..]`, where they are linear.
    pub(super) prompt: Option<Projected>,
}

/// What candidates' prompts add to their rows' projections where these are linear, `W (h + p) + b = (W h + b) + W p`:
/// `[candidates * n, ..]` each.
pub(super) struct Shift {
    /// Where the prompt's rows ask.
    pub(super) query: Option<Tensor>,
    pub(super) key_value: Tensor,
}

/// A block's input.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    /// The residual stream of the text rows, then of the prompt rows: `[rows, hidden]`.
    pub(super) rows: &'a Tensor,
    /// The same rows as the attention reads them, where they are made already; of the prompt's rows alone where the
    /// text's projections are known.
    pub(super) entering: Option<&'a Tensor>,
    /// In `prefix`, the prompts' keys and values: `[n, 2 * keys * width]`, or as many for each candidate.
    pub(super) prefix: Option<&'a Tensor>,
    /// Projections that are known.
    pub(super) known: Option<&'a Known>,
    /// What the prompts add to those of their rows.
    pub(super) shift: Option<&'a Shift>,
    /// What a decoder's block sees of the encoder, `[rows, hidden]`.
    pub(super) encoded: Option<&'a Tensor>,
}

impl<'a> Input<'a> {
    /// Rows and nothing else.
    pub(super) fn of(rows: &'a Tensor) -> Self {
        Self { rows, entering: None, prefix: None, known: None, shift: None, encoded: None }
    }
}

/// What follows a block.
#[derive(Clone, Copy, Default)]
pub(super) struct Next<'a> {
    /// The next layer's prompt.
    pub(super) prompt: Option<Added<'a>>,
    /// The norm that the next block's attention reads through.
    pub(super) norm: Option<&'a Norm>,
}

impl Shift {
    /// Added to each example's rows: queries, keys and values, candidate by candidate.
    fn onto(&self, rows: &Projected, candidates: usize) -> Result<(Option<Tensor>, Tensor)> {
        let add = |rows: &Tensor, by: &Tensor| {
            let (n, width) = (by.dim(0)? / candidates, by.dim(1)?);
            let (rows, by) = (rows.reshape((1, (), n, width))?, by.reshape((candidates, 1, n, width))?);
            rows.broadcast_add(&by)?.reshape(((), width))
        };
        let query = self.query.as_ref().map(|by| add(&rows.query, by)).transpose()?;
        Ok((query, add(&rows.key_value, &self.key_value)?))
    }
}

impl Block {
    /// The rows of the output that `plan` wants, `[wanted, hidden]`, ready for what follows.
    pub(super) fn forward(&self, input: Input<'_>, plan: &Plan, next: Next<'_>) -> Result<Rows> {
        let residual = plan.wanted(input.rows)?;
        let Projected { query, key_value } = self.projections(&input, plan)?;
        let key_value = match input.prefix {
            Some(prefix) => Tensor::cat(&[&key_value, prefix], 0)?,
            None => key_value,
        };
        let out = self.ops.linear(&self.output, &self.attend(&query, &key_value, plan)?)?;
        let feed_forward = Next { norm: self.feed_forward_norms.input.as_ref(), prompt: None };
        let attended = match (&self.cross, input.encoded) {
            (Some(cross), Some(encoded)) => {
                let crossing = Next { norm: cross.norms.input.as_ref(), prompt: None };
                let rows = self.join(&self.attention_norms, (&out, &residual), crossing)?;
                let out = cross.forward(&self.ops, &rows.entering, encoded, plan)?;
                self.join(&cross.norms, (&out, &rows.stream), feed_forward)?
            }
            _ => self.join(&self.attention_norms, (&out, &residual), feed_forward)?,
        };
        let out = self.feed_forward.forward(&self.ops, &attended.entering)?;
        self.join(&self.feed_forward_norms, (&out, &attended.stream), next)
    }

    fn join(&self, norms: &Norms, (out, residual): (&Tensor, &Tensor), next: Next<'_>) -> Result<Rows> {
        self.ops.join(&Joining { norms, out, residual, prompt: next.prompt, next: next.norm })
    }

    /// Rows of the stream as the attention reads them.
    fn entering(&self, rows: &Tensor) -> Result<Tensor> {
        self.attention_norms.input.as_ref().map_or_else(|| Ok(rows.clone()), |norm| norm.apply(rows))
    }

    /// Queries of the rows that ask, keys and values of all.
    fn projections(&self, input: &Input<'_>, plan: &Plan) -> Result<Projected> {
        if let Some(known) = input.known {
            return self.completed(known, input, plan);
        }
        let entering = input.entering.map_or_else(|| self.entering(input.rows), |rows| Ok(rows.clone()))?;
        let key_value = self.keys(&entering, &plan.positions)?;
        let query = if plan.wanted_ask {
            self.queries(&plan.wanted(&entering)?, &plan.wanted_positions)?
        } else {
            self.queries(&entering, &plan.positions)?
        };
        Ok(Projected { query, key_value })
    }

    /// The known projections of text rows, and behind them those of the prompt's rows.
    fn completed(&self, known: &Known, input: &Input<'_>, plan: &Plan) -> Result<Projected> {
        let text = known.text.key_value.dim(0)?;
        let count = input.rows.dim(0)? - text;
        if count == 0 {
            return Ok(known.text.clone());
        }
        let (query, key_value) = match (&known.prompt, input.shift) {
            (Some(rows), Some(shift)) => shift.onto(rows, plan.look.candidates)?,
            _ => self.own(input, (text, count), plan)?,
        };
        let query = match query {
            Some(query) => Tensor::cat(&[&known.text.query, &query], 0)?,
            None => known.text.query.clone(),
        };
        Ok(Projected { query, key_value: Tensor::cat(&[&known.text.key_value, &key_value], 0)? })
    }

    /// Queries, where they ask, and keys and values of the prompt's rows: so many from the first on.
    fn own(
        &self,
        input: &Input<'_>,
        (first, count): (usize, usize),
        plan: &Plan,
    ) -> Result<(Option<Tensor>, Tensor)> {
        let entering = match input.entering {
            Some(rows) => rows.clone(),
            None => self.entering(&input.rows.narrow(0, first, count)?)?,
        };
        let positions = plan.positions.narrow(0, first, count)?;
        let query = plan.prompt_asks.then(|| self.queries(&entering, &positions)).transpose()?;
        Ok((query, self.keys(&entering, &positions)?))
    }

    /// Whether queries, keys and values are linear in the rows: no norm comes before them, and nothing turns them.
    pub(super) fn is_linear(&self) -> bool {
        let norms = [&self.attention_norms.input, &self.query_norm, &self.key_norm];
        norms.iter().all(|norm| norm.is_none()) && self.rotary.is_none()
    }

    /// What prompts, `[candidates * n, hidden]`, add to the projections of their rows, queries where those ask.
    pub(super) fn shift(&self, prompts: &Tensor, asking: bool) -> Result<Shift> {
        let of = |linear: &Linear| {
            let unbiased = Linear { weight: linear.weight.clone(), bias: None };
            self.ops.linear(&unbiased, prompts)
        };
        Ok(Shift { query: asking.then(|| of(&self.query)).transpose()?, key_value: of(&self.key_value)? })
    }

    /// Queries, keys and values of rows at `positions`.
    pub(super) fn project(&self, rows: &Tensor, positions: &Tensor) -> Result<Projected> {
        let entering = self.entering(rows)?;
        Ok(Projected {
            query: self.queries(&entering, positions)?,
            key_value: self.keys(&entering, positions)?,
        })
    }

    /// Keys and values of prompts' rows, `[rows, hidden]` to `[rows, 2 * keys * width]`.
    pub(super) fn prefix(&self, prompts: &Tensor, positions: &Tensor) -> Result<Tensor> {
        self.keys(&self.entering(prompts)?, positions)
    }

    /// Queries of normed rows, each head normed and turned.
    fn queries(&self, rows: &Tensor, positions: &Tensor) -> Result<Tensor> {
        self.heads_of(self.ops.linear(&self.query, rows)?, self.query_norm.as_ref(), positions)
    }

    /// Keys and values of normed rows, each key head normed and turned.
    fn keys(&self, rows: &Tensor, positions: &Tensor) -> Result<Tensor> {
        let both = self.ops.linear(&self.key_value, rows)?;
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
