//! Attention of one example's query rows over its own keys, without padding.

use super::choices::{Heads, Place, Relative, Sight};
use super::disentangled::{Disentangled, PositionScratch};
use super::keys::Keys;
use crate::kernel::{Packed, gemm, soft_cap, softmax};

/// Query rows whose scores are held at a time: a few tiles of the product, so that scores stay in the cache and take
/// memory that grows with an example's length, not with its square.
const BLOCK: usize = 96;

/// Buffers of one task.
#[derive(Default)]
pub(super) struct AttentionScratch {
    keys: Packed,
    values: Packed,
    scores: Vec<f32>,
    positions: PositionScratch,
}

/// Where a set of query rows stands.
#[derive(Clone, Copy)]
pub(super) enum Stand {
    /// Text rows from this one on.
    Text(usize),
    /// The prompt's rows from this one on.
    Prompt(usize),
}

impl Stand {
    /// Where its rows from `row` on stand.
    fn from(self, row: usize) -> Self {
        match self {
            Self::Text(first) => Self::Text(first + row),
            Self::Prompt(first) => Self::Prompt(first + row),
        }
    }

    /// Position of the set's row.
    fn position(self, place: Place, row: usize) -> usize {
        match self.from(row) {
            Self::Text(row) => place.text(row),
            Self::Prompt(row) => place.prompt(row),
        }
    }
}

/// Query rows and the place their results go, both of the query heads' width.
pub(super) struct Queries<'a> {
    pub(super) rows: &'a [f32],
    pub(super) stand: Stand,
    pub(super) out: &'a mut [f32],
}

impl Queries<'_> {
    /// The same rows, a few at a time: `limit` rows of `stride` numbers.
    fn blocks(&mut self, stride: usize, limit: usize) -> impl Iterator<Item = Queries<'_>> {
        let (stand, size) = (self.stand, stride * limit);
        let blocks = self.rows.chunks(size).zip(self.out.chunks_mut(size)).enumerate();
        blocks.map(move |(block, (rows, out))| Queries { rows, stand: stand.from(block * limit), out })
    }
}

/// An attention: its heads, where a prompt stands among its keys, and what distances add to its scores.
#[derive(Clone, Copy)]
pub(super) struct Attention<'a> {
    pub(super) heads: &'a Heads,
    pub(super) place: Place,
    pub(super) relative: Option<&'a Relative>,
    pub(super) disentangled: Option<&'a Disentangled>,
}

impl Attention<'_> {
    /// One example's keys and values, in the order this attention needs.
    pub(super) fn keys<'a>(&self, text: &'a [f32], prompt: &'a [f32]) -> Keys<'a> {
        let width = self.heads.key_width();
        let rows = text.len() / (2 * width);
        let any_order =
            self.heads.sight == Sight::All && self.relative.is_none() && self.disentangled.is_none();
        let before = if any_order { rows } else { self.place.lead.min(rows) };
        Keys { text, prompt, width, before }
    }

    /// `softmax(cap(scale Q K^T + relative)) V` for each head and each set of query rows, over the keys that each row
    /// sees.
    pub(super) fn attend(&self, keys: Keys<'_>, sets: &mut [Queries<'_>], scratch: &mut AttentionScratch) {
        let heads = self.heads;
        let (width, len, stride) = (heads.width, keys.len(), heads.query_width());
        for head in 0..heads.keys {
            let column = head * width;
            scratch.keys.fill_columns(len, width, |t| keys.slice(t, column, width));
            scratch.values.fill_rows(width, len, |t| keys.slice(t, keys.width + column, width));
            if let Some(positions) = self.disentangled {
                positions.ready(heads, column, keys, &mut scratch.positions);
            }
            for set in sets.iter_mut() {
                for block in set.blocks(stride, BLOCK) {
                    self.attend_block(head, len, block, scratch);
                }
            }
        }
    }

    /// A few query rows and the query heads of one key head, whose `len` keys and values are ready.
    fn attend_block(&self, head: usize, len: usize, block: Queries<'_>, scratch: &mut AttentionScratch) {
        let heads = self.heads;
        let (stride, shared) = (heads.query_width(), heads.queries / heads.keys);
        let rows = block.rows.len() / stride;
        let position = |row: usize| block.stand.position(self.place, row);
        scratch.scores.resize(rows * len, 0.0);
        let scores = &mut scratch.scores[..];
        for query in head * shared..(head + 1) * shared {
            let column = query * heads.width;
            gemm(&block.rows[column..], stride, rows, &scratch.keys, None, scores, len);
            if let Some(positions) = self.disentangled {
                positions.add((heads, column), block.rows, position, scores, &mut scratch.positions);
            }
            for (r, row) in scores.chunks_exact_mut(len).enumerate() {
                self.weigh(query, row, position(r));
            }
            gemm(scores, len, rows, &scratch.values, None, &mut block.out[column..], stride);
        }
    }

    /// Scores of one query to weights, in place. A key that is not seen weighs exactly nothing: adding its product
    /// changes no bit of the result.
    fn weigh(&self, query: usize, row: &mut [f32], position: usize) {
        let seen = self.heads.sight.range(position, row.len());
        row[..seen.start].fill(0.0);
        row[seen.end..].fill(0.0);
        let first = seen.start;
        let row = &mut row[seen];
        let mut scale = self.heads.scale;
        if let Some(relative) = self.relative {
            relative.add(query, position, first, row, scale);
            scale = 1.0;
        }
        if let Some(cap) = self.heads.cap {
            soft_cap(row, scale, cap);
            scale = 1.0;
        }
        softmax(row, scale);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDTH: usize = 8;

    fn numbers(count: usize, step: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * step + 13) % 1009) as f32 / 1009.0 - 0.5).collect()
    }

    /// Rows `range` of `query` over all keys.
    fn attend(heads: &Heads, query: &[f32], range: std::ops::Range<usize>, keys: &[f32]) -> Vec<f32> {
        let attention = Attention { heads, place: Place::default(), relative: None, disentangled: None };
        let wide = heads.query_width();
        let mut out = vec![f32::NAN; range.len() * wide];
        let rows = &query[range.start * wide..range.end * wide];
        let mut sets = [Queries { rows, stand: Stand::Text(range.start), out: &mut out }];
        attention.attend(attention.keys(keys, &[]), &mut sets, &mut AttentionScratch::default());
        out
    }

    #[test]
    fn more_rows_than_a_block_give_what_each_gives_alone() {
        for sight in [Sight::All, Sight::Back, Sight::Around(5)] {
            let heads = Heads { queries: 2, keys: 1, width: WIDTH, scale: 0.3, cap: None, sight };
            let rows = 2 * BLOCK + 7;
            let (query, keys) = (numbers(rows * 2 * WIDTH, 7919), numbers(rows * 2 * WIDTH, 104_729));
            let together = attend(&heads, &query, 0..rows, &keys);
            for row in [0, 1, BLOCK - 1, BLOCK, 2 * BLOCK, rows - 1] {
                let alone = attend(&heads, &query, row..row + 1, &keys);
                assert_eq!(together[row * 2 * WIDTH..(row + 1) * 2 * WIDTH], alone, "{sight:?} row {row}");
            }
        }
    }
}
