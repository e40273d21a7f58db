//! Attention of a decoder's rows over an encoder's output.

use std::ops::Range;

use super::attention::{Attention, AttentionScratch, Queries, Stand};
use super::choices::{Heads, Linear, Norms, Place};

/// Weights of one cross-attention.
#[derive(Clone, Debug)]
pub(crate) struct Cross {
    pub(crate) heads: Heads,
    /// `[queries * width, hidden]`
    pub(crate) query: Linear,
    /// Keys, then values, of the encoder's rows: `[2 * keys * width, hidden]`.
    pub(crate) key_value: Linear,
    pub(crate) output: Linear,
    pub(crate) norms: Norms,
}

/// An encoder's output, after its final norm.
#[derive(Clone, Copy)]
pub(crate) struct Encoded<'a> {
    /// `[rows, hidden]`
    pub(crate) text: &'a [f32],
    /// Each example's rows in `text`.
    pub(crate) spans: &'a [Range<usize>],
    /// The prompt rows' outputs, in `add`: `[examples * n, hidden]`.
    pub(crate) prompt: &'a [f32],
}

/// Buffers of one task.
#[derive(Default)]
pub(super) struct CrossScratch {
    normed: Vec<f32>,
    query: Vec<f32>,
    key_value: Vec<f32>,
    prompt_key_value: Vec<f32>,
    context: Vec<f32>,
    out: Vec<f32>,
    attention: AttentionScratch,
}

impl Cross {
    /// Runs on `rows` in place; `each` says which of them are an example's.
    pub(super) fn forward(
        &self,
        rows: &mut Vec<f32>,
        each: impl Fn(usize) -> Range<usize>,
        encoded: Encoded<'_>,
        scratch: &mut CrossScratch,
    ) {
        let hidden = self.query.weight.depth();
        let (wide, double) = (self.heads.query_width(), 2 * self.heads.key_width());
        let count = rows.len() / hidden;
        let entering = self.norms.input(rows, &mut scratch.normed);
        self.query.forward(entering, count, &mut scratch.query);
        self.key_value.forward(encoded.text, encoded.text.len() / hidden, &mut scratch.key_value);
        let prompt_rows = encoded.prompt.len() / hidden;
        self.key_value.forward(encoded.prompt, prompt_rows, &mut scratch.prompt_key_value);
        let own = prompt_rows / encoded.spans.len().max(1) * double;
        scratch.context.resize(count * wide, 0.0);
        let attention =
            Attention { heads: &self.heads, place: Place::default(), relative: None, disentangled: None };
        for (example, span) in encoded.spans.iter().enumerate() {
            let text = &scratch.key_value[span.start * double..span.end * double];
            let keys = attention.keys(text, &scratch.prompt_key_value[example * own..(example + 1) * own]);
            let at = each(example);
            let at = at.start * wide..at.end * wide;
            let (rows, out) = (&scratch.query[at.clone()], &mut scratch.context[at]);
            let mut sets = [Queries { rows, stand: Stand::Text(0), out }];
            attention.attend(keys, &mut sets, &mut scratch.attention);
        }
        self.output.forward(&scratch.context, count, &mut scratch.out);
        self.norms.join(&mut scratch.out, rows);
        std::mem::swap(rows, &mut scratch.out);
    }
}
