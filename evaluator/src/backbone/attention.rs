//! Attention of one example's query rows over its own keys, without padding.

use super::choices::{Heads, Place, Relative, Sight};
use super::disentangled::{Disentangled, PositionScratch};
use super::keys::Keys;
use crate::kernel::{Packed, gemm, soft_cap, softmax};

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
    /// The prompt's rows.
    Prompt,
}

impl Stand {
    /// Position of the set's row.
    fn position(self, place: Place, row: usize) -> usize {
        match self {
            Self::Text(first) => place.text(first + row),
            Self::Prompt => place.prompt(row),
        }
    }
}

/// Query rows and the place their results go, both of the query heads' width.
pub(super) struct Queries<'a> {
    pub(super) rows: &'a [f32],
    pub(super) stand: Stand,
    pub(super) out: &'a mut [f32],
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
        let shared = heads.queries / heads.keys;
        for head in 0..heads.keys {
            let column = head * width;
            scratch.keys.fill_columns(len, width, |t| keys.slice(t, column, width));
            scratch.values.fill_rows(width, len, |t| keys.slice(t, keys.width + column, width));
            if let Some(positions) = self.disentangled {
                positions.ready(heads, column, keys, &mut scratch.positions);
            }
            for set in sets.iter_mut() {
                let rows = set.rows.len() / stride;
                if rows == 0 {
                    continue;
                }
                let (stand, place) = (set.stand, self.place);
                let position = |row: usize| stand.position(place, row);
                scratch.scores.resize(rows * len, 0.0);
                let scores = &mut scratch.scores[..rows * len];
                for query in head * shared..(head + 1) * shared {
                    let column = query * width;
                    gemm(&set.rows[column..], stride, rows, &scratch.keys, None, scores, len);
                    if let Some(positions) = self.disentangled {
                        positions.add((heads, column), set.rows, position, scores, &mut scratch.positions);
                    }
                    for (r, row) in scores.chunks_exact_mut(len).enumerate() {
                        self.weigh(query, row, position(r));
                    }
                    gemm(scores, len, rows, &scratch.values, None, &mut set.out[column..], stride);
                }
            }
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
