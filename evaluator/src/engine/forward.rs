//! The forward pass of one task: a few examples from some layer to the top, under one deep prompt.

use std::ops::Range;
use std::sync::Mutex;

use super::pack::Batch;
use super::read_out::{Head, Reads};
use crate::backbone::{Backbone, Encoded, Hidden, Input, Known, Place, PromptRows, Rows, Scratch, Wanted};

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
    /// What is known of the rows' projections at that layer.
    pub(super) known: Option<Known<'a>>,
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
        for layer in from.layer..self.backbone.layers() {
            let first = layer == from.layer;
            let own = own.filter(|_| first);
            self.layer(layer, from, deep, own, self.wanted(layer, from.picks), buffers);
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

    /// The rows of a layer's output that somebody reads.
    pub(super) fn wanted<'p>(&self, layer: usize, picks: &'p [usize]) -> Wanted<'p> {
        let last = layer + 1 == self.backbone.layers();
        match self.head.reads() {
            Reads::Text if last => Wanted::Text,
            Reads::One if last => Wanted::One(picks),
            _ => Wanted::All,
        }
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
