//! One transformer block on packed rows, made of choices: rows in, rows out.
//!
//! A task's rows are its examples' text rows, one example after the other, and its prompt's rows apart from them: in
//! `add` they are rows like any others, in `prefix` they are keys and values only. In a causal model the prompt's rows
//! never see the text, so one example's serve all.

use std::ops::Range;

use super::attention::{Attention, AttentionScratch, Queries, Stand};
use super::choices::{FeedForward, Heads, Linear, Norm, Norms, Place, Relative};
use super::cross::{Cross, CrossScratch, Encoded};
use super::disentangled::Disentangled;
use super::known::Known;
use super::rotary::Rotary;

/// Weights of one block.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) heads: Heads,
    /// `[queries * width, hidden]`
    pub(crate) query: Linear,
    /// Keys, then values: `[2 * keys * width, hidden]`.
    pub(crate) key_value: Linear,
    /// Norms of each head's query and key, before they are turned.
    pub(crate) query_norm: Option<Norm>,
    pub(crate) key_norm: Option<Norm>,
    pub(crate) rotary: Option<Rotary>,
    /// What distances add to scores.
    pub(crate) relative: Option<Relative>,
    pub(crate) disentangled: Option<Disentangled>,
    pub(crate) output: Linear,
    pub(crate) attention_norms: Norms,
    /// Attention over an encoder's output, in a decoder's block.
    pub(crate) cross: Option<Cross>,
    pub(crate) feed_forward: FeedForward,
    pub(crate) feed_forward_norms: Norms,
}

/// The prompt's part of a block's input.
#[derive(Clone, Copy)]
pub(crate) enum PromptRows<'a> {
    /// No prompt.
    None,
    /// `add`: each example's prompt rows, `[examples * n, hidden]`.
    Rows(&'a [f32]),
    /// `add` in a causal model, where the examples begin alike: the rows of all, `[n, hidden]`.
    Shared(&'a [f32]),
    /// `prefix`: keys and values that all examples share, `[n, 2 * keys * width]`.
    Prefix(&'a [f32]),
}

/// A block's input.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a> {
    /// `[rows, hidden]`
    pub(crate) text: &'a [f32],
    /// Each example's rows in `text`, one after the other.
    pub(crate) spans: &'a [Range<usize>],
    pub(crate) place: Place,
    pub(crate) prompt: PromptRows<'a>,
    pub(crate) known: Option<Known<'a>>,
    /// What a decoder's block sees of the encoder.
    pub(crate) encoded: Option<Encoded<'a>>,
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
    /// In `add` `[examples * n, hidden]`, or `[n, hidden]` where they are shared; else empty.
    pub(crate) prompt: Vec<f32>,
}

/// Buffers of one task; they grow to the largest task and stay.
#[derive(Default)]
pub(crate) struct Scratch {
    normed: Vec<f32>,
    query: Vec<f32>,
    key_value: Vec<f32>,
    prompt_query: Vec<f32>,
    prompt_key_value: Vec<f32>,
    context: Vec<f32>,
    prompt_context: Vec<f32>,
    picked: Vec<f32>,
    attention: AttentionScratch,
    rest: Rest,
}

/// Buffers of what follows the attention.
#[derive(Default)]
struct Rest {
    attended: Vec<f32>,
    normed: Vec<f32>,
    wide: Vec<f32>,
    cross: CrossScratch,
}

impl Block {
    /// Width of a hidden state.
    pub(crate) fn hidden(&self) -> usize {
        self.query.weight.depth()
    }

    /// Runs the block; `out` holds the wanted rows alone afterwards.
    pub(crate) fn forward(
        &self,
        input: Input<'_>,
        wanted: Wanted<'_>,
        scratch: &mut Scratch,
        out: &mut Hidden,
    ) {
        self.text_projections(input, wanted, scratch);
        let prompt_rows = match input.prompt {
            PromptRows::Rows(prompt) | PromptRows::Shared(prompt) => prompt,
            PromptRows::None | PromptRows::Prefix(_) => &[],
        };
        let all = matches!(wanted, Wanted::All);
        match input.known.and_then(|known| known.prompt) {
            Some(parts) => parts.join(all, &mut scratch.prompt_query, &mut scratch.prompt_key_value),
            None => self.prompt_projections(prompt_rows, input.place, all, scratch),
        }
        self.attend(input, wanted, scratch);

        let one = matches!(wanted, Wanted::One(_));
        let residual: &[f32] = if one { &scratch.picked } else { input.text };
        let across = input.encoded.map(|encoded| (encoded, input.spans, one));
        self.finish(&scratch.context, residual, across, &mut scratch.rest, &mut out.text);
        out.prompt.clear();
        if all {
            self.finish(&scratch.prompt_context, prompt_rows, None, &mut scratch.rest, &mut out.prompt);
        }
    }

    /// Keys and values of a prompt's rows, `[n, hidden]` to `[n, 2 * keys * width]`.
    pub(crate) fn prefix(&self, prompt: &[f32], place: Place) -> Vec<f32> {
        let (mut normed, mut key_value) = (Vec::new(), Vec::new());
        let rows = self.attention_norms.input(prompt, &mut normed);
        self.keys(rows, (0..).map(|row| place.prompt(row)), &mut key_value);
        key_value
    }

    /// Whether queries, keys and values are linear in the rows: no norm comes before them, and nothing turns them.
    pub(crate) fn is_linear(&self) -> bool {
        let norms = [&self.attention_norms.input, &self.query_norm, &self.key_norm];
        norms.iter().all(|norm| norm.is_none()) && self.rotary.is_none()
    }

    /// What a prompt, `[n, hidden]`, adds to the keys and values of its rows, and to their queries where they are wanted,
    /// for [`Parts::added`](super::Parts).
    pub(crate) fn added(&self, prompt: &[f32], wanted: Wanted<'_>) -> (Vec<f32>, Vec<f32>) {
        let rows = prompt.len() / self.hidden();
        let project = |linear: &Linear| {
            let mut out = vec![0.0; rows * linear.weight.outputs()];
            linear.weight.multiply(prompt, self.hidden(), rows, None, &mut out);
            out
        };
        let query = if matches!(wanted, Wanted::All) { project(&self.query) } else { Vec::new() };
        (query, project(&self.key_value))
    }

    /// Queries, keys and values of text rows, for [`Known::text`]; of any rows where they are linear.
    pub(crate) fn project(
        &self,
        text: &[f32],
        spans: &[Range<usize>],
        place: Place,
        query: &mut Vec<f32>,
        key_value: &mut Vec<f32>,
    ) {
        let mut normed = Vec::new();
        let rows = self.attention_norms.input(text, &mut normed);
        self.queries(rows, text_positions(spans, place), query);
        self.keys(rows, text_positions(spans, place), key_value);
    }

    /// The text rows' keys and values and the wanted ones' queries, unless they are known; with [`Wanted::One`] the
    /// wanted rows' hidden states go to `picked` too.
    fn text_projections(&self, input: Input<'_>, wanted: Wanted<'_>, scratch: &mut Scratch) {
        let positions = || text_positions(input.spans, input.place);
        if input.known.is_none() {
            let rows = self.attention_norms.input(input.text, &mut scratch.normed);
            self.keys(rows, positions(), &mut scratch.key_value);
            if !matches!(wanted, Wanted::One(_)) {
                self.queries(rows, positions(), &mut scratch.query);
            }
        }
        let Wanted::One(picks) = wanted else { return };
        let row =
            |rows: &'_ [f32], width: usize, index: usize| rows[index * width..(index + 1) * width].to_vec();
        scratch.picked.clear();
        scratch.query.clear();
        for (span, pick) in input.spans.iter().zip(picks) {
            scratch.picked.extend(row(input.text, self.hidden(), span.start + pick));
            if let Some(known) = input.known {
                scratch.query.extend(row(known.text.query, self.heads.query_width(), span.start + pick));
            }
        }
        if input.known.is_none() {
            let rows = self.attention_norms.input(&scratch.picked, &mut scratch.normed);
            self.queries(rows, picks.iter().map(|&pick| input.place.text(pick)), &mut scratch.query);
        }
    }

    /// The prompt rows' keys and values, and their queries if `all` rows are wanted.
    fn prompt_projections(&self, prompt: &[f32], place: Place, all: bool, scratch: &mut Scratch) {
        let positions = || (0..place.rows).cycle().map(|row| place.prompt(row));
        let rows = self.attention_norms.input(prompt, &mut scratch.normed);
        self.keys(rows, positions(), &mut scratch.prompt_key_value);
        scratch.prompt_query.clear();
        if all {
            self.queries(rows, positions(), &mut scratch.prompt_query);
        }
    }

    /// Queries of normed rows, each head normed and turned.
    fn queries(&self, rows: &[f32], positions: impl Iterator<Item = usize>, out: &mut Vec<f32>) {
        self.query.forward(rows, rows.len() / self.hidden(), out);
        if let Some(norm) = &self.query_norm {
            norm.apply(out);
        }
        if let Some(rotary) = &self.rotary {
            let each = out.chunks_exact_mut(self.heads.query_width()).zip(positions);
            each.for_each(|(row, position)| rotary.turn(row, self.heads.width, position));
        }
    }

    /// Keys and values of normed rows, each key head normed and turned.
    fn keys(&self, rows: &[f32], positions: impl Iterator<Item = usize>, out: &mut Vec<f32>) {
        self.key_value.forward(rows, rows.len() / self.hidden(), out);
        if self.key_norm.is_none() && self.rotary.is_none() {
            return;
        }
        let width = self.heads.key_width();
        for (row, position) in out.chunks_exact_mut(2 * width).zip(positions) {
            let keys = &mut row[..width];
            if let Some(norm) = &self.key_norm {
                norm.apply(keys);
            }
            if let Some(rotary) = &self.rotary {
                rotary.turn(keys, self.heads.width, position);
            }
        }
    }

    fn attending(&self, place: Place) -> Attention<'_> {
        Attention {
            heads: &self.heads,
            place,
            relative: self.relative.as_ref(),
            disentangled: self.disentangled.as_ref(),
        }
    }

    /// Attention of every example's wanted rows over its text and its prompt.
    fn attend(&self, input: Input<'_>, wanted: Wanted<'_>, scratch: &mut Scratch) {
        let attention = self.attending(input.place);
        let (wide, double) = (self.heads.query_width(), 2 * self.heads.key_width());
        let one = matches!(wanted, Wanted::One(_));
        let (query, key_value): (&[f32], &[f32]) = match input.known {
            Some(known) if one => (&scratch.query, known.text.key_value),
            Some(known) => (known.text.query, known.text.key_value),
            None => (&scratch.query, &scratch.key_value),
        };
        scratch.context.resize(query.len(), 0.0);
        scratch.prompt_context.resize(scratch.prompt_query.len(), 0.0);
        let examples = input.spans.len().max(1);
        let (each, own) = (scratch.prompt_key_value.len() / examples, scratch.prompt_query.len() / examples);
        for (example, span) in input.spans.iter().enumerate() {
            let (prompt, own) = match input.prompt {
                PromptRows::None => (&[][..], 0..0),
                PromptRows::Rows(_) => {
                    let prompt = &scratch.prompt_key_value[example * each..(example + 1) * each];
                    (prompt, example * own..(example + 1) * own)
                }
                PromptRows::Shared(_) => (&scratch.prompt_key_value[..], 0..0),
                PromptRows::Prefix(shared) => (shared, 0..0),
            };
            let keys = attention.keys(&key_value[span.start * double..span.end * double], prompt);
            let (rows, first) = match wanted {
                Wanted::One(picks) => (example..example + 1, picks[example]),
                Wanted::All | Wanted::Text => (span.clone(), 0),
            };
            let rows = rows.start * wide..rows.end * wide;
            let mut sets = [
                Queries {
                    rows: &query[rows.clone()],
                    stand: Stand::Text(first),
                    out: &mut scratch.context[rows],
                },
                Queries {
                    rows: &scratch.prompt_query[own.clone()],
                    stand: Stand::Prompt(0),
                    out: &mut scratch.prompt_context[own],
                },
            ];
            attention.attend(keys, &mut sets, &mut scratch.attention);
        }
        if matches!(input.prompt, PromptRows::Shared(_)) && !input.spans.is_empty() {
            // every example begins with the same rows: the first one's are as good as any
            let keys = attention.keys(&key_value[..input.place.lead * double], &scratch.prompt_key_value);
            let (rows, out) = (&scratch.prompt_query, &mut scratch.prompt_context);
            let mut sets = [Queries { rows, stand: Stand::Prompt(0), out }];
            attention.attend(keys, &mut sets, &mut scratch.attention);
        }
    }

    /// Output projection, attention over an encoder (`across`: its rows, the queries' spans, and whether one row of
    /// each is there), feed-forward, and their joints with the residual stream.
    fn finish(
        &self,
        context: &[f32],
        residual: &[f32],
        across: Option<(Encoded<'_>, &[Range<usize>], bool)>,
        rest: &mut Rest,
        out: &mut Vec<f32>,
    ) {
        let rows = residual.len() / self.hidden();
        self.output.forward(context, rows, &mut rest.attended);
        self.attention_norms.join(&mut rest.attended, residual);
        if let (Some(cross), Some((encoded, spans, one))) = (&self.cross, across) {
            let each = |example: usize| if one { example..example + 1 } else { spans[example].clone() };
            cross.forward(&mut rest.attended, each, encoded, &mut rest.cross);
        }
        let entering = self.feed_forward_norms.input(&rest.attended, &mut rest.normed);
        self.feed_forward.forward(entering, rows, &mut rest.wide, out);
        self.feed_forward_norms.join(out, &rest.attended);
    }
}

/// The positions of all text rows, example after example.
fn text_positions(spans: &[Range<usize>], place: Place) -> impl Iterator<Item = usize> {
    spans.iter().flat_map(move |span| (0..span.len()).map(move |row| place.text(row)))
}
