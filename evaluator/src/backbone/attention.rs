//! Attention of one example's query rows over its own keys, without padding and without a mask.
//!
//! An example's keys are two runs of rows: its text and its prompt. Their order is fixed, text first, so that an
//! example's result does not depend on its neighbours.

use crate::kernel::{Packed, gemm, softmax};

/// One example's keys and values: rows of `[keys | values]`, `2 * hidden` wide.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    pub(super) text: &'a [f32],
    pub(super) prompt: &'a [f32],
    pub(super) hidden: usize,
}

impl<'a> Keys<'a> {
    fn len(&self) -> usize {
        (self.text.len() + self.prompt.len()) / (2 * self.hidden)
    }

    /// `width` numbers of row `t` from column `column`.
    #[inline]
    fn slice(&self, t: usize, column: usize, width: usize) -> &'a [f32] {
        let wide = 2 * self.hidden;
        let in_text = self.text.len() / wide;
        let row = if t < in_text { &self.text[t * wide..] } else { &self.prompt[(t - in_text) * wide..] };
        &row[column..column + width]
    }
}

/// Buffers of one task.
#[derive(Default)]
pub(super) struct AttentionScratch {
    keys: Packed,
    values: Packed,
    scores: Vec<f32>,
}

/// Query rows and the place their results go, both `hidden` wide.
pub(super) struct Queries<'a> {
    pub(super) rows: &'a [f32],
    pub(super) out: &'a mut [f32],
}

/// `softmax(Q K^T / sqrt(width)) V` for each head and each set of query rows.
pub(super) fn attend(heads: usize, keys: Keys<'_>, sets: &mut [Queries<'_>], scratch: &mut AttentionScratch) {
    let hidden = keys.hidden;
    let width = hidden / heads;
    let (len, scale) = (keys.len(), 1.0 / (width as f32).sqrt());
    for head in 0..heads {
        let column = head * width;
        scratch.keys.fill(len, width, |t, depth| keys.slice(t, column + depth, 1)[0]);
        scratch.values.fill_rows(width, len, |t| keys.slice(t, hidden + column, width));
        for set in sets.iter_mut() {
            let rows = set.rows.len() / hidden;
            if rows == 0 {
                continue;
            }
            scratch.scores.resize(rows * len, 0.0);
            let scores = &mut scratch.scores[..rows * len];
            gemm(&set.rows[column..], hidden, rows, &scratch.keys, None, scores, len);
            scores.chunks_exact_mut(len).for_each(|row| softmax(row, scale));
            gemm(scores, len, rows, &scratch.values, None, &mut set.out[column..], hidden);
        }
    }
}
