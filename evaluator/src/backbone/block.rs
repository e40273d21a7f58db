//! One post-norm transformer block on packed rows: rows in, rows out.
//!
//! A task's rows are its examples' text rows, one example after the other, and its prompt's rows apart from them: in
//! `add` they are rows like any others, in `prefix` they are keys and values only.

use std::ops::Range;

use super::attention::{AttentionScratch, Keys, Queries, attend};
use super::{Activation, Linear, Norm};

/// Weights of one block.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) heads: usize,
    pub(crate) activation: Activation,
    pub(crate) query: Linear,
    /// Keys, then values: `[2 * hidden, hidden]`.
    pub(crate) key_value: Linear,
    pub(crate) output: Linear,
    pub(crate) attention_norm: Norm,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
    pub(crate) output_norm: Norm,
}

/// The prompt's part of a block's input.
#[derive(Clone, Copy)]
pub(crate) enum PromptRows<'a> {
    /// No prompt.
    None,
    /// `add`: each example's prompt rows, `[examples * n, hidden]`.
    Rows(&'a [f32]),
    /// `prefix`: keys and values that all examples share, `[n, 2 * hidden]`.
    Prefix(&'a [f32]),
}

/// Queries, keys and values of the text rows, when they are known already.
#[derive(Clone, Copy)]
pub(crate) struct Projected<'a> {
    /// `[rows, hidden]`
    pub(crate) query: &'a [f32],
    /// `[rows, 2 * hidden]`
    pub(crate) key_value: &'a [f32],
}

/// A block's input.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a> {
    /// `[rows, hidden]`
    pub(crate) text: &'a [f32],
    /// Each example's rows in `text`.
    pub(crate) spans: &'a [Range<usize>],
    pub(crate) prompt: PromptRows<'a>,
    pub(crate) known: Option<Projected<'a>>,
}

/// Which rows of the output somebody reads.
#[derive(Clone, Copy)]
pub(crate) enum Wanted<'a> {
    /// All.
    All,
    /// The text rows.
    Text,
    /// One text row an example, counted from its span's start.
    One(&'a [usize]),
}

/// Hidden states of a task.
#[derive(Default)]
pub(crate) struct Hidden {
    /// `[rows, hidden]`
    pub(crate) text: Vec<f32>,
    /// `[examples * n, hidden]` in `add`, else empty.
    pub(crate) prompt: Vec<f32>,
}

/// Buffers of one task; they grow to the largest task and stay.
#[derive(Default)]
pub(crate) struct Scratch {
    query: Vec<f32>,
    key_value: Vec<f32>,
    prompt_query: Vec<f32>,
    prompt_key_value: Vec<f32>,
    context: Vec<f32>,
    prompt_context: Vec<f32>,
    picked: Vec<f32>,
    attended: Vec<f32>,
    wide: Vec<f32>,
    attention: AttentionScratch,
}

impl Block {
    /// Width of a hidden state.
    pub(crate) fn hidden(&self) -> usize {
        self.query.weight.outputs()
    }

    /// Runs the block; `out` holds the wanted rows alone afterwards.
    pub(crate) fn forward(
        &self,
        input: Input<'_>,
        wanted: Wanted<'_>,
        scratch: &mut Scratch,
        out: &mut Hidden,
    ) {
        let hidden = self.hidden();
        let rows = input.text.len() / hidden;
        if input.known.is_none() {
            self.key_value.forward(input.text, rows, &mut scratch.key_value);
        }
        let prompt_rows = match input.prompt {
            PromptRows::Rows(prompt) => prompt,
            _ => &[],
        };
        let count = prompt_rows.len() / hidden;
        self.key_value.forward(prompt_rows, count, &mut scratch.prompt_key_value);
        let all = matches!(wanted, Wanted::All);
        if all {
            self.query.forward(prompt_rows, count, &mut scratch.prompt_query);
        }
        self.text_queries(input, wanted, scratch);
        self.attention(input, wanted, scratch);

        let residual: &[f32] = if matches!(wanted, Wanted::One(_)) { &scratch.picked } else { input.text };
        let buffers = (&mut scratch.attended, &mut scratch.wide);
        self.finish(&scratch.context, residual, buffers, &mut out.text);
        out.prompt.clear();
        if all {
            let buffers = (&mut scratch.attended, &mut scratch.wide);
            self.finish(&scratch.prompt_context, prompt_rows, buffers, &mut out.prompt);
        }
    }

    /// Keys and values of a prompt's rows, `[n, hidden]` to `[n, 2 * hidden]`.
    pub(crate) fn prefix(&self, prompt: &[f32]) -> Vec<f32> {
        let mut key_value = Vec::new();
        self.key_value.forward(prompt, prompt.len() / self.hidden(), &mut key_value);
        key_value
    }

    /// Queries, keys and values of text rows, for [`Input::known`].
    pub(crate) fn project(&self, text: &[f32], query: &mut Vec<f32>, key_value: &mut Vec<f32>) {
        let rows = text.len() / self.hidden();
        self.query.forward(text, rows, query);
        self.key_value.forward(text, rows, key_value);
    }

    /// The wanted text rows' queries; with [`Wanted::One`] their hidden states go to `picked` too.
    fn text_queries(&self, input: Input<'_>, wanted: Wanted<'_>, scratch: &mut Scratch) {
        let hidden = self.hidden();
        let row = |rows: &'_ [f32], index: usize| rows[index * hidden..(index + 1) * hidden].to_vec();
        match wanted {
            Wanted::One(picks) => {
                scratch.picked.clear();
                scratch.query.clear();
                for (span, pick) in input.spans.iter().zip(picks) {
                    scratch.picked.extend(row(input.text, span.start + pick));
                    if let Some(known) = input.known {
                        scratch.query.extend(row(known.query, span.start + pick));
                    }
                }
                if input.known.is_none() {
                    self.query.forward(&scratch.picked, picks.len(), &mut scratch.query);
                }
            }
            Wanted::All | Wanted::Text if input.known.is_none() => {
                self.query.forward(input.text, input.text.len() / hidden, &mut scratch.query);
            }
            Wanted::All | Wanted::Text => {}
        }
    }

    /// Attention of every example's wanted rows over its text and its prompt.
    fn attention(&self, input: Input<'_>, wanted: Wanted<'_>, scratch: &mut Scratch) {
        let hidden = self.hidden();
        let one = matches!(wanted, Wanted::One(_));
        let (query, key_value): (&[f32], &[f32]) = match input.known {
            Some(known) if one => (&scratch.query, known.key_value),
            Some(known) => (known.query, known.key_value),
            None => (&scratch.query, &scratch.key_value),
        };
        scratch.context.resize(query.len(), 0.0);
        scratch.prompt_context.resize(scratch_len(&scratch.prompt_query, wanted), 0.0);
        let each = scratch.prompt_key_value.len() / input.spans.len().max(1); // one example's prompt, keys and values
        for (example, span) in input.spans.iter().enumerate() {
            let prompt = match input.prompt {
                PromptRows::None => &[][..],
                PromptRows::Rows(_) => &scratch.prompt_key_value[example * each..(example + 1) * each],
                PromptRows::Prefix(shared) => shared,
            };
            let text = &key_value[span.start * 2 * hidden..span.end * 2 * hidden];
            let rows = if one { example..example + 1 } else { span.clone() };
            let rows = rows.start * hidden..rows.end * hidden;
            let own = if matches!(wanted, Wanted::All) { each / 2 } else { 0 };
            let own = example * own..(example + 1) * own;
            let mut sets = [
                Queries { rows: &query[rows.clone()], out: &mut scratch.context[rows] },
                Queries {
                    rows: scratch.prompt_query.get(own.clone()).unwrap_or_default(),
                    out: scratch.prompt_context.get_mut(own).unwrap_or_default(),
                },
            ];
            attend(self.heads, Keys { text, prompt, hidden }, &mut sets, &mut scratch.attention);
        }
    }

    /// Output projection, residual, norm, feed-forward, residual, norm.
    fn finish(
        &self,
        context: &[f32],
        residual: &[f32],
        (attended, wide): (&mut Vec<f32>, &mut Vec<f32>),
        out: &mut Vec<f32>,
    ) {
        let rows = residual.len() / self.hidden();
        self.output.forward(context, rows, attended);
        self.attention_norm.add(attended, residual);
        self.up.forward(attended, rows, wide);
        self.activation.apply(wide);
        self.down.forward(wide, rows, out);
        self.output_norm.add(out, attended);
    }
}

/// Length of the prompt rows' results: none unless all rows are wanted.
fn scratch_len(prompt_query: &[f32], wanted: Wanted<'_>) -> usize {
    if matches!(wanted, Wanted::All) { prompt_query.len() } else { 0 }
}
