//! The cached context: hidden states below the tuned layer, run once for all candidates.

use std::ops::Range;

use rayon::prelude::*;

use super::forward::{Deep, From, Pass, Pool};
use super::pack::Batch;
use crate::backbone::{Projected, Wanted};

/// Hidden states of the training examples at the input of one layer.
#[derive(Debug, Default)]
pub(super) struct Cache {
    /// The layer; nothing is cached before the first [`Cache::reach`].
    layer: usize,
    filled: bool,
    /// `[rows, hidden]`
    text: Vec<f32>,
    /// In `add`, before the layer's own prompt is added: `[examples * n, hidden]`, or `[n, hidden]` where it is shared.
    prompt: Vec<f32>,
    shared: bool,
    /// Projections of `text` at `layer`.
    of_text: Projections,
    /// And of `prompt`, where each example has its own and they are linear; else empty.
    of_prompt: Projections,
    projected: bool,
}

/// `[rows, queries * width]` and `[rows, 2 * keys * width]`.
#[derive(Debug, Default)]
struct Projections {
    query: Vec<f32>,
    key_value: Vec<f32>,
}

impl Projections {
    fn clear(&mut self) {
        self.query.clear();
        self.key_value.clear();
    }

    fn extend(&mut self, more: Self) {
        self.query.extend(more.query);
        self.key_value.extend(more.key_value);
    }

    /// Some rows, of a block with heads as wide as that.
    fn rows(&self, rows: Range<usize>, (wide, double): (usize, usize)) -> Projected<'_> {
        Projected {
            query: &self.query[rows.start * wide..rows.end * wide],
            key_value: &self.key_value[rows.start * double..rows.end * double],
        }
    }
}

/// What a task reads of the cache: its own rows.
pub(super) struct Slice<'a> {
    pub(super) text: &'a [f32],
    pub(super) prompt: &'a [f32],
    pub(super) of_text: Projected<'a>,
    /// Where prompt rows' projections are linear.
    pub(super) of_prompt: Option<Projected<'a>>,
}

impl Cache {
    /// Forgets what depends on `layer`'s prompt.
    pub(super) fn prompt_changed(&mut self, layer: usize) {
        if self.layer > layer {
            self.filled = false;
        }
    }

    /// Brings the cache to the input of `layer`, layer by layer under the context `deep`.
    pub(super) fn reach(
        &mut self,
        layer: usize,
        pass: Pass<'_>,
        batch: &Batch,
        deep: Deep<'_>,
        pool: &Pool,
        limit: usize,
    ) {
        if !self.filled || self.layer > layer {
            self.text.clone_from(&batch.text);
            self.prompt = deep.rows(batch);
            self.shared = matches!(deep, Deep::AddShared(_));
            (self.layer, self.filled, self.projected) = (0, true, false);
        }
        while self.layer < layer {
            self.advance(pass, batch, deep, pool, limit);
        }
        if !self.projected {
            self.project(pass, batch);
        }
    }

    /// One layer up, in parallel over groups of examples.
    fn advance(&mut self, pass: Pass<'_>, batch: &Batch, deep: Deep<'_>, pool: &Pool, limit: usize) {
        let own = if self.prompt.is_empty() || self.shared { 0 } else { batch.place.rows };
        let groups = batch.groups(0..batch.spans.len(), own, limit);
        let outputs: Vec<(Vec<f32>, Vec<f32>)> = groups
            .par_iter()
            .map(|group| {
                let (text, prompt) = self.rows(pass, batch, group);
                let spans = batch.group_spans(group);
                let (layer, place) = (self.layer, batch.place);
                let from =
                    From { layer, text, prompt, known: None, spans: &spans, place, picks: &[], given: None };
                pool.with(|buffers| {
                    pass.layer(self.layer, from, deep, None, Wanted::All, buffers);
                    (buffers.hidden().text.clone(), buffers.hidden().prompt.clone())
                })
            })
            .collect();
        self.text.clear();
        self.prompt.clear();
        for (text, prompt) in outputs {
            self.text.extend(text);
            if !self.shared || self.prompt.is_empty() {
                self.prompt.extend(prompt);
            }
        }
        self.layer += 1;
        self.projected = false;
    }

    /// Queries, keys and values of the rows at the cached layer that no candidate changes.
    fn project(&mut self, pass: Pass<'_>, batch: &Batch) {
        let block = &pass.backbone.blocks[self.layer];
        let linear = block.is_linear() && !self.shared;
        let parts: Vec<(Projections, Projections)> = batch
            .groups(0..batch.spans.len(), 0, 256) // rows a task
            .par_iter()
            .map(|group| {
                let (text, prompt) = self.rows(pass, batch, group);
                let (mut of_text, mut of_prompt) = (Projections::default(), Projections::default());
                let Projections { query, key_value } = &mut of_text;
                block.project(text, &batch.group_spans(group), batch.place, query, key_value);
                if linear {
                    // without spans: nothing turns these rows, so they need no positions
                    block.project(prompt, &[], batch.place, &mut of_prompt.query, &mut of_prompt.key_value);
                }
                (of_text, of_prompt)
            })
            .collect();
        self.of_text.clear();
        self.of_prompt.clear();
        for (of_text, of_prompt) in parts {
            self.of_text.extend(of_text);
            self.of_prompt.extend(of_prompt);
        }
        self.projected = true;
    }

    fn rows(&self, pass: Pass<'_>, batch: &Batch, group: &Range<usize>) -> (&[f32], &[f32]) {
        let hidden = pass.backbone.hidden();
        let rows = batch.group_rows(group);
        let text = &self.text[rows.start * hidden..rows.end * hidden];
        if self.shared {
            return (text, &self.prompt);
        }
        let each = self.prompt.len() / batch.spans.len().max(1);
        (text, &self.prompt[group.start * each..group.end * each])
    }

    /// A group's part.
    pub(super) fn slice(&self, pass: Pass<'_>, batch: &Batch, group: &Range<usize>) -> Slice<'_> {
        let heads = &pass.backbone.blocks[self.layer].heads;
        let widths = (heads.query_width(), 2 * heads.key_width());
        let (text, prompt) = self.rows(pass, batch, group);
        let each = batch.place.rows;
        let of_prompt = || self.of_prompt.rows(group.start * each..group.end * each, widths);
        Slice {
            text,
            prompt,
            of_text: self.of_text.rows(batch.group_rows(group), widths),
            of_prompt: (!self.of_prompt.query.is_empty()).then(of_prompt),
        }
    }

    /// The cached text rows: the statistics for the projections are taken from them.
    pub(super) fn text(&self) -> &[f32] {
        &self.text
    }

    /// The cached prompt rows, once for each of `examples` examples.
    pub(super) fn prompt(&self, examples: usize) -> Vec<f32> {
        self.prompt.repeat(if self.shared { examples } else { 1 })
    }
}
