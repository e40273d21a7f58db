//! The cached context: hidden states below the tuned layer, run once for all candidates.

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
    /// Projections of `text` at `layer`: `[rows, queries * width]` and `[rows, 2 * keys * width]`.
    query: Vec<f32>,
    key_value: Vec<f32>,
    projected: bool,
}

/// What a task reads of the cache: its own rows.
pub(super) struct Slice<'a> {
    pub(super) text: &'a [f32],
    pub(super) prompt: &'a [f32],
    pub(super) known: Projected<'a>,
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

    /// Queries, keys and values of the text rows at the cached layer: no candidate changes them.
    fn project(&mut self, pass: Pass<'_>, batch: &Batch) {
        let block = &pass.backbone.blocks[self.layer];
        let parts: Vec<(Vec<f32>, Vec<f32>)> = batch
            .groups(0..batch.spans.len(), 0, 256) // rows a task
            .par_iter()
            .map(|group| {
                let (text, _) = self.rows(pass, batch, group);
                let (mut query, mut key_value) = (Vec::new(), Vec::new());
                block.project(text, &batch.group_spans(group), batch.place, &mut query, &mut key_value);
                (query, key_value)
            })
            .collect();
        self.query.clear();
        self.key_value.clear();
        for (query, key_value) in parts {
            self.query.extend(query);
            self.key_value.extend(key_value);
        }
        self.projected = true;
    }

    fn rows(&self, pass: Pass<'_>, batch: &Batch, group: &std::ops::Range<usize>) -> (&[f32], &[f32]) {
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
    pub(super) fn slice(&self, pass: Pass<'_>, batch: &Batch, group: &std::ops::Range<usize>) -> Slice<'_> {
        let heads = &pass.backbone.blocks[self.layer].heads;
        let (wide, double) = (heads.query_width(), 2 * heads.key_width());
        let rows = batch.group_rows(group);
        let (text, prompt) = self.rows(pass, batch, group);
        let known = Projected {
            query: &self.query[rows.start * wide..rows.end * wide],
            key_value: &self.key_value[rows.start * double..rows.end * double],
        };
        Slice { text, prompt, known }
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
