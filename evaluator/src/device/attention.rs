//! Attention on a padded view: rows are packed outside, `[sequences, heads, queries, keys]` inside.

use candle_core::{DType, Result, Tensor};
use candle_nn::ops::softmax_last_dim;

use super::block::{Block, Cross, Positions};
use super::plan::{Look, Plan};
use crate::backbone::{Heads, Sight};

impl Block {
    /// `softmax(cap(scale Q K^T + relative)) V` of the rows that `plan` wants, `[wanted, queries * width]`.
    pub(super) fn attend(&self, query: &Tensor, key_value: &Tensor, plan: &Plan) -> Result<Tensor> {
        let look = &plan.look;
        let padded = Padded::new(&self.heads, query, key_value, look)?;
        let mut scores = padded.scores()?;
        if let Some(positions) = &self.disentangled {
            scores = (scores + positions.scores(&padded, look)?)?;
        }
        let mut scores = (scores * f64::from(self.heads.scale))?;
        if let Some(relative) = &self.relative {
            scores = look.over_candidates(&scores)?.broadcast_add(&look.biases(relative)?)?;
        }
        if let Some(cap) = self.heads.cap {
            let cap = f64::from(cap);
            scores = ((scores / cap)?.tanh()? * cap)?;
        }
        padded.weigh(&scores, self.heads.sight, look)
    }
}

impl Cross {
    /// Runs on `rows`, over the encoder's rows `encoded`.
    pub(super) fn forward(&self, rows: &Tensor, encoded: &Tensor, look: &Look) -> Result<Tensor> {
        let query = self.query.forward(&self.norms.input(rows)?)?;
        let key_value = self.key_value.forward(encoded)?;
        let padded = Padded::new(&self.heads, &query, &key_value, look)?;
        let scores = (padded.scores()? * f64::from(self.heads.scale))?;
        let context = padded.weigh(&scores, self.heads.sight, look)?;
        self.norms.join(&self.output.forward(&context)?, rows)
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
    fn new(heads: &Heads, query: &Tensor, key_value: &Tensor, look: &Look) -> Result<Self> {
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
    fn weigh(&self, scores: &Tensor, sight: Sight, look: &Look) -> Result<Tensor> {
        let scores = match look.mask(sight)? {
            Some(mask) => look.over_candidates(scores)?.broadcast_add(&mask)?,
            None => scores.clone(),
        };
        let weights = softmax_last_dim(&scores.contiguous()?)?.to_dtype(self.value.dtype())?;
        let (sequences, groups, len, width) = self.value.dims4()?;
        let context = weights.reshape((sequences, groups, (), len))?.matmul(&self.value)?;
        let context = context.reshape((sequences, self.heads.queries, look.asking, width))?;
        let rows = context.transpose(1, 2)?.contiguous()?;
        rows.reshape((sequences * look.asking, self.heads.query_width()))?.index_select(&look.context, 0)
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
