//! The forward pass of one task: a few examples from some layer to the top, under one deep prompt.

use std::ops::Range;
use std::sync::Mutex;

use super::Injection;
use super::pack::Batch;
use super::read_out::{Head, Reads};
use crate::backbone::{
    Backbone, Encoded, Hidden, Input, Linear, Place, Projected, PromptRows, Rows, Scratch, Wanted,
};

/// Buffers of one task.
#[derive(Default)]
pub(super) struct Buffers {
    scratch: Scratch,
    now: Hidden,
    next: Hidden,
    decoded: Hidden,
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
    /// `add` in a causal model: the prompt's rows never see the text, one example's serve all.
    AddShared(&'a [Vec<f32>]),
    /// `prefix`: each layer's keys and values, `[L][n * 2 * keys * width]`.
    Prefix(&'a [Vec<f32>]),
}

impl Deep<'_> {
    /// The embedded prompt rows that `add` starts from: one example's, where they are shared.
    pub(super) fn rows(&self, batch: &Batch) -> Vec<f32> {
        match self {
            Self::Absent | Self::Prefix(_) => Vec::new(),
            Self::Add(_) => batch.prompt.repeat(batch.spans.len()),
            Self::AddShared(_) => batch.prompt.clone(),
        }
    }
}

/// Where a task starts.
#[derive(Clone, Copy)]
pub(super) struct From<'a> {
    /// First layer to run.
    pub(super) layer: usize,
    /// Hidden states of the task's text rows at that layer's input.
    pub(super) text: &'a [f32],
    /// In `add`, those of its prompt rows before the layer's prompt is added: `[examples * n, hidden]`, or
    /// `[n, hidden]` where they are shared.
    pub(super) prompt: &'a [f32],
    /// The text rows' projections at that layer, when known.
    pub(super) known: Option<Projected<'a>>,
    /// Each example's rows.
    pub(super) spans: &'a [Range<usize>],
    pub(super) place: Place,
    /// Each example's read-out row.
    pub(super) picks: &'a [usize],
    /// What a decoder is given for them.
    pub(super) given: Option<Rows<'a>>,
}

impl<'a> From<'a> {
    /// At the bottom, with all examples of a batch.
    pub(super) fn bottom(batch: &'a Batch, prompt: &'a [f32]) -> Self {
        Self {
            layer: 0,
            text: &batch.text,
            prompt,
            known: None,
            spans: &batch.spans,
            place: batch.place,
            picks: &batch.picks,
            given: batch.all_given(),
        }
    }
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
            let wanted = match self.head.reads() {
                Reads::Text if layer == last => Wanted::Text,
                Reads::One if layer == last => Wanted::One(from.picks),
                _ => Wanted::All,
            };
            self.layer(layer, from, deep, own, wanted, buffers);
        }
        self.backbone.finish(&mut buffers.now.text);
        if let (Some((decoder, _)), Some(given)) = (self.head.decoder(self.backbone), from.given) {
            let Buffers { scratch, now, next, decoded } = buffers;
            self.backbone.finish(&mut now.prompt);
            let encoded = Encoded { text: &now.text, spans: from.spans, prompt: &now.prompt };
            decoder.run(given, encoded, scratch, (next, decoded));
            return self.head.logits(self.backbone, &decoded.text, from.spans);
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
        let Buffers { scratch, now, next, .. } = buffers;
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
            Deep::AddShared(prompts) => {
                add_each(&mut now.prompt, own.unwrap_or(&prompts[layer]));
                PromptRows::Shared(&now.prompt)
            }
            Deep::Prefix(keys) => PromptRows::Prefix(own.unwrap_or(&keys[layer])),
        };
        let text = if first { from.text } else { &now.text };
        let known = from.known.filter(|_| first);
        let input = Input { text, spans: from.spans, place: from.place, prompt, known, encoded: None };
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
pub(super) fn flops(pass: Pass<'_>, batch: &Batch, injection: Injection, layer: usize) -> f64 {
    let n = batch.place.rows as f64;
    let own = match injection {
        Injection::Prefix => 0.0,
        Injection::Add if pass.backbone.is_causal() => n / batch.spans.len().max(1) as f64, // shared by all
        Injection::Add => n,
    };
    let of_example = |layer: usize, span: &Range<usize>| {
        let block = &pass.backbone.blocks[layer];
        let text = span.len() as f64;
        let last = layer + 1 == pass.backbone.layers();
        let (rows, keys) = (text + own, text + n);
        let wanted = match pass.head.reads() {
            Reads::One if last => 1.0,
            Reads::Text if last => text,
            _ => rows,
        };
        let of = |linear: &Linear| 2.0 * (linear.weight.outputs() * linear.weight.depth()) as f64;
        let feed_forward = of(&block.feed_forward.up) + of(&block.feed_forward.down);
        let products =
            wanted * (of(&block.query) + of(&block.output) + feed_forward) + rows * of(&block.key_value);
        products + 4.0 * wanted * keys * block.heads.query_width() as f64
    };
    let layers = layer..pass.backbone.layers();
    layers.flat_map(|layer| batch.spans.iter().map(move |span| of_example(layer, span))).sum()
}
