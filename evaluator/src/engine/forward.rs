//! The forward pass of one task: a few examples from some layer to the top, under one deep prompt.

use std::ops::Range;
use std::sync::Mutex;

use super::read_out::Head;
use super::{Injection, Settings};
use crate::backbone::{Backbone, Hidden, Input, Projected, PromptRows, Scratch, Wanted};

/// Buffers of one task.
#[derive(Default)]
pub(super) struct Buffers {
    scratch: Scratch,
    now: Hidden,
    next: Hidden,
}

/// Buffers lent to tasks and given back: as many as there are threads, whatever the number of tasks.
#[derive(Default)]
pub(super) struct Pool(Mutex<Vec<Buffers>>);

impl Pool {
    /// Runs `f` with buffers of its own.
    pub(super) fn with<T>(&self, f: impl FnOnce(&mut Buffers) -> T) -> T {
        let lent = self.0.lock().ok().and_then(|mut free| free.pop());
        let mut buffers = lent.unwrap_or_default();
        let result = f(&mut buffers);
        if let Ok(mut free) = self.0.lock() {
            free.push(buffers);
        }
        result
    }
}

/// A deep prompt as the blocks take it.
#[derive(Clone, Copy)]
pub(super) enum Deep<'a> {
    /// No prompt rows at all.
    Absent,
    /// `add`: each layer's prompt, `[L][n * hidden]`.
    Add(&'a [Vec<f32>]),
    /// `prefix`: each layer's keys and values, `[L][n * 2 hidden]`.
    Prefix(&'a [Vec<f32>]),
}

/// Where a task starts.
#[derive(Clone, Copy)]
pub(super) struct From<'a> {
    /// First layer to run.
    pub(super) layer: usize,
    /// Hidden states of the task's text rows at that layer's input.
    pub(super) text: &'a [f32],
    /// In `add`, those of its prompt rows before the layer's prompt is added, `[examples * n, hidden]`.
    pub(super) prompt: &'a [f32],
    /// The text rows' projections at that layer, when known.
    pub(super) known: Option<Projected<'a>>,
    /// Each example's rows.
    pub(super) spans: &'a [Range<usize>],
    /// Each example's read-out row.
    pub(super) picks: &'a [usize],
}

/// What stays the same over all tasks.
#[derive(Clone, Copy)]
pub(super) struct Pass<'a> {
    pub(super) backbone: &'a Backbone,
    pub(super) head: &'a Head,
}

impl Pass<'_> {
    /// Logits `[examples, classes]`. `own` is the prompt of the first layer (in the form `deep` has), when it is not
    /// the context's.
    pub(super) fn run(
        &self,
        from: From<'_>,
        deep: Deep<'_>,
        own: Option<&[f32]>,
        buffers: &mut Buffers,
    ) -> Vec<f32> {
        let last = self.backbone.layers() - 1;
        for layer in from.layer..=last {
            let first = layer == from.layer;
            let own = own.filter(|_| first);
            let wanted = match (layer == last, self.head.reads_one_row()) {
                (false, _) => Wanted::All,
                (true, false) => Wanted::Text,
                (true, true) => Wanted::One(from.picks),
            };
            self.layer(layer, from, deep, own, wanted, buffers);
        }
        self.head.logits(self.backbone, &buffers.now.text, from.spans)
    }

    /// Runs one layer; its output is in `buffers.now`.
    pub(super) fn layer(
        &self,
        layer: usize,
        from: From<'_>,
        deep: Deep<'_>,
        own: Option<&[f32]>,
        wanted: Wanted<'_>,
        buffers: &mut Buffers,
    ) {
        let first = layer == from.layer;
        let Buffers { scratch, now, next } = buffers;
        if first {
            now.prompt.clear();
            now.prompt.extend_from_slice(from.prompt);
        }
        let prompt = match deep {
            Deep::Absent => PromptRows::None,
            Deep::Add(prompts) => {
                add_each(&mut now.prompt, own.unwrap_or(&prompts[layer]));
                PromptRows::Rows(&now.prompt)
            }
            Deep::Prefix(keys) => PromptRows::Prefix(own.unwrap_or(&keys[layer])),
        };
        let text = if first { from.text } else { &now.text };
        let known = from.known.filter(|_| first);
        let input = Input { text, spans: from.spans, prompt, known };
        self.backbone.blocks[layer].forward(input, wanted, scratch, next);
        std::mem::swap(now, next);
    }
}

impl Buffers {
    /// The hidden states that the last layer run has left.
    pub(super) fn hidden(&self) -> &Hidden {
        &self.now
    }
}

/// Adds `prompt` (`[n * hidden]`) to each example's prompt rows.
fn add_each(rows: &mut [f32], prompt: &[f32]) {
    for example in rows.chunks_exact_mut(prompt.len().max(1)) {
        example.iter_mut().zip(prompt).for_each(|(x, p)| *x += p);
    }
}

/// Floating-point operations of the matrix products of one candidate from `layer` to the top, attention included.
pub(super) fn flops(
    backbone: &Backbone,
    settings: &Settings,
    head: &Head,
    spans: &[Range<usize>],
    layer: usize,
) -> f64 {
    let (hidden, wide) = (backbone.hidden() as f64, backbone.config.intermediate_size as f64);
    let n = settings.prompt_tokens as f64;
    let add = settings.injection == Injection::Add;
    let layers = layer..backbone.layers();
    let of_example = |layer: usize, span: &Range<usize>| {
        let text = span.len() as f64;
        let last = layer + 1 == backbone.layers();
        let (rows, keys) = (if add { text + n } else { text }, text + n);
        let wanted = match (last, head.reads_one_row()) {
            (true, true) => 1.0,
            (true, false) => text,
            (false, _) => rows,
        };
        let products = wanted * (4.0 * hidden * hidden + 4.0 * hidden * wide) + rows * 4.0 * hidden * hidden;
        products + 4.0 * wanted * keys * hidden
    };
    layers.flat_map(|layer| spans.iter().map(move |span| of_example(layer, span))).sum()
}
