//! Attention on a padded view: rows are packed outside, `[sequences, heads, queries, keys]` inside.

use candle_core::{DType, Result, Tensor, bail};
use candle_nn::ops::softmax_last_dim;

use super::block::{Block, Cross, Positions};
use super::look::Look;
use super::ops::Ops;
use super::parts::Attention;
use super::plan::Plan;
use crate::backbone::Heads;

impl Block {
    /// `softmax(cap(scale Q K^T + relative)) V` of the rows that `plan` wants, `[wanted, queries * width]`.
    pub(super) fn attend(&self, query: &Tensor, key_value: &Tensor, plan: &Plan) -> Result<Tensor> {
        let (relative, look) = (self.relative.as_ref(), &plan.look);
        #[cfg(test)]
        super::counted::attention(&self.heads, self.disentangled.as_ref(), look);
        let attention = Attention { heads: &self.heads, query, key_value, relative, look };
        match &self.disentangled {
            Some(positions) => {
                let padded = Padded::new(&attention)?;
                let scores = (padded.scores()? + positions.scores(&padded, look)?)?;
                padded.weigh(&scores, &attention)
            }
            None => attention.context(&self.ops),
        }
    }
}

impl Cross {
    /// The branch's output for `rows` as it reads them, over the encoder's rows `encoded`.
    pub(super) fn forward(&self, ops: &Ops, rows: &Tensor, encoded: &Tensor, plan: &Plan) -> Result<Tensor> {
        let Some(look) = &plan.across else {
            bail!("a decoder's plan says which of the encoder's rows it sees")
        };
        #[cfg(test)]
        super::counted::attention(&self.heads, None, look);
        let (query, key_value) = (&ops.linear(&self.query, rows)?, &ops.linear(&self.key_value, encoded)?);
        let attention = Attention { heads: &self.heads, query, key_value, relative: None, look };
        ops.linear(&self.output, &attention.context(ops)?)
    }
}

impl Attention<'_> {
    /// `softmax(cap(scale Q K^T + relative)) V` of the wanted rows, `[wanted, queries * width]`.
    pub(super) fn context(&self, ops: &Ops) -> Result<Tensor> {
        if let Some(context) = ops.attend(self)? {
            return Ok(context);
        }
        let padded = Padded::new(self)?;
        padded.weigh(&padded.scores()?, self)
    }
}

/// Queries, keys and values of all sequences, padded to the longest. Query heads that share a key head stand as rows
/// of one product.
struct Padded {
    heads: Heads,
    /// `[sequences, keys, shared * queries, width]`
    query: Tensor,
    /// `[sequences, keys, len, width]` each
    key: Tensor,
    value: Tensor,
}

impl Padded {
    fn new(attention: &Attention<'_>) -> Result<Self> {
        let Attention { heads, query, key_value, look, .. } = *attention;
        let (groups, width) = (heads.keys, heads.width);
        let (sequences, asking, len) = (look.sequences(), look.asking, look.len);
        let query = query.index_select(&look.queries, 0)?;
        let query = query.reshape((sequences, asking, groups, heads.queries / groups, width))?;
        let query = query.permute((0, 2, 3, 1, 4))?.contiguous()?.reshape((sequences, groups, (), width))?;
        let both = key_value.index_select(&look.keys, 0)?.reshape((sequences, len, 2, groups, width))?;
        let of = |which| both.narrow(2, which, 1)?.squeeze(2)?.transpose(1, 2)?.contiguous();
        Ok(Self { heads: *heads, query, key: of(0)?, value: of(1)? })
    }

    /// `Q K^T`, `[sequences, queries, asking, len]`.
    fn scores(&self) -> Result<Tensor> {
        let (sequences, _, len, _) = self.key.dims4()?;
        let scores = self.query.matmul(&self.key.t()?)?.to_dtype(DType::F32)?;
        scores.reshape((sequences, self.heads.queries, (), len))
    }

    /// Scores to weights to the wanted rows' context.
    fn weigh(&self, scores: &Tensor, attention: &Attention<'_>) -> Result<Tensor> {
        let (heads, look) = (&self.heads, attention.look);
        let mut scores = (scores * f64::from(heads.scale))?;
        if let Some(relative) = attention.relative {
            scores = look.over_candidates(&scores)?.broadcast_add(&look.biases(relative)?)?;
        }
        if let Some(cap) = heads.cap {
            let cap = f64::from(cap);
            scores = ((scores / cap)?.tanh()? * cap)?;
        }
        if let Some(mask) = look.mask(heads.sight)? {
            scores = look.over_candidates(&scores)?.broadcast_add(&mask)?;
        }
        let weights = softmax_last_dim(&scores.contiguous()?)?.to_dtype(self.value.dtype())?;
        let (sequences, groups, len, width) = self.value.dims4()?;
        let context = weights.reshape((sequences, groups, (), len))?.matmul(&self.value)?;
        let context = context.reshape((sequences, heads.queries, look.asking, width))?;
        let rows = context.transpose(1, 2)?.contiguous()?;
        rows.reshape((sequences * look.asking, heads.query_width()))?.index_select(&look.context, 0)
    }
}

impl Positions {
    /// `Q_i PK_d + PQ_d K_j`, `[sequences, heads, asking, len]`, where `d` is the row of `i - j`.
    fn scores(&self, padded: &Padded, look: &Look) -> Result<Tensor> {
        let reach = self.rows.len() / 2;
        let row = |query: usize, key: usize| self.rows[query + reach - key] as u32;
        let of_queries = look.distances(row)?;
        let by_position = side(&padded.query, &self.keys, &of_queries, look)?;
        let of_keys = side(&padded.key, &self.queries, &of_queries.transpose(1, 2)?, look)?;
        by_position + of_keys.transpose(2, 3)?
    }
}

/// Rows `[sequences, heads, rows, width]` by a table of positions, and of each row the positions that `distances`
/// (`[examples, rows, others]`) names: `[sequences, heads, rows, others]`.
fn side(rows: &Tensor, table: &Tensor, distances: &Tensor, look: &Look) -> Result<Tensor> {
    let (sequences, heads, count, width) = rows.dims4()?;
    let others = distances.dim(2)?;
    let flat = rows.transpose(0, 1)?.contiguous()?.reshape((heads, sequences * count, width))?;
    let all = flat.matmul(table)?.to_dtype(DType::F32)?;
    let (examples, candidates) = (look.examples, look.candidates);
    let index = distances.reshape((1, 1, examples, count, others))?;
    let index = index.broadcast_as((heads, candidates, examples, count, others))?.contiguous()?;
    let picked = all.gather(&index.reshape((heads, sequences * count, others))?, 2)?;
    picked.reshape((heads, sequences, count, others))?.transpose(0, 1)?.contiguous()
}
