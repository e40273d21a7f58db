//! DeBERTa's attention by content and position: `Q_i K_j + Q_i PK_d + PQ_d K_j`, where `d` is the bucket of `i - j` and
//! `PK`, `PQ` are the projections of a table of relative positions, the same for every input.

use std::sync::Arc;

use super::choices::Heads;
use super::keys::Keys;
use crate::kernel::{Packed, gemm};

/// The positions' side of one layer's attention.
#[derive(Clone, Debug)]
pub(crate) struct Disentangled {
    /// Row of the tables for query minus key, from `-reach` to `reach`.
    rows: Arc<Vec<usize>>,
    reach: usize,
    /// `[positions, heads * width]`
    keys: Vec<f32>,
    queries: Vec<f32>,
}

/// Buffers of one task: what one head of one example's keys is worth.
#[derive(Default)]
pub(super) struct PositionScratch {
    /// The table's first row that is needed, and how many are.
    first: usize,
    columns: usize,
    keys: Packed,
    queries: Packed,
    /// `[queries, columns]` and `[keys, columns]`
    by_position: Vec<f32>,
    of_keys: Vec<f32>,
}

impl Disentangled {
    /// From the projected tables and the row of each distance up to `reach`.
    pub(crate) fn new(keys: Vec<f32>, queries: Vec<f32>, rows: Arc<Vec<usize>>) -> Self {
        Self { reach: rows.len() / 2, rows, keys, queries }
    }

    /// The rows of distances, which layers share, and the projected tables.
    pub(crate) fn tables(&self) -> (&Arc<Vec<usize>>, &[f32], &[f32]) {
        (&self.rows, &self.keys, &self.queries)
    }

    /// The tables' first row that an example of `len` keys needs, and how many: the rows of all distances there are.
    pub(crate) fn columns(&self, len: usize) -> (usize, usize) {
        // rows never fall as distances rise
        let (least, most) = (self.row(0, len - 1), self.row(len - 1, 0));
        (least, most + 1 - least)
    }

    /// Readies one head (`column` is its first) for an example's keys.
    pub(super) fn ready(&self, heads: &Heads, column: usize, keys: Keys<'_>, scratch: &mut PositionScratch) {
        let (wide, width, len) = (heads.query_width(), heads.width, keys.len());
        let (least, columns) = self.columns(len);
        (scratch.first, scratch.columns) = (least, columns);
        let from = |table: &[f32], c: usize, depth: usize| table[(least + c) * wide + column + depth];
        scratch.keys.fill(scratch.columns, width, |c, depth| from(&self.keys, c, depth));
        scratch.queries.fill(scratch.columns, width, |c, depth| from(&self.queries, c, depth));
        scratch.of_keys.resize(len * scratch.columns, 0.0);
        let mut done = 0;
        for rows in keys.runs() {
            let count = rows.len() / keys.stride();
            if count > 0 {
                let out = &mut scratch.of_keys[done * scratch.columns..];
                let columns = scratch.columns;
                gemm(&rows[column..], keys.stride(), count, &scratch.queries, None, out, columns);
            }
            done += count;
        }
    }

    /// Adds both sides to the scores `[rows, len]` of query rows whose positions are `position(row)`.
    pub(super) fn add(
        &self,
        (heads, column): (&Heads, usize),
        queries: &[f32],
        position: impl Fn(usize) -> usize,
        scores: &mut [f32],
        scratch: &mut PositionScratch,
    ) {
        let (stride, columns) = (heads.query_width(), scratch.columns);
        let rows = queries.len() / stride;
        scratch.by_position.resize(rows * columns, 0.0);
        gemm(&queries[column..], stride, rows, &scratch.keys, None, &mut scratch.by_position, columns);
        let len = scores.len() / rows;
        for (r, scores) in scores.chunks_exact_mut(len).enumerate() {
            let by_position = &scratch.by_position[r * columns..(r + 1) * columns];
            let query = position(r);
            for (key, score) in scores.iter_mut().enumerate() {
                let at = self.row(query, key) - scratch.first;
                *score += by_position[at] + scratch.of_keys[key * columns + at];
            }
        }
    }

    fn row(&self, query: usize, key: usize) -> usize {
        self.rows[query + self.reach - key]
    }
}
