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
    /// In `add`, before the layer's own prompt is added: `[examples * n, hidden]`.
    prompt: Vec<f32>,
    /// Projections of `text` at `layer`: `[rows, hidden]` and `[rows, 2 hidden]`.
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
            self.prompt = match deep {
                Deep::Add(_) => batch.prompt.repeat(batch.spans.len()),
                _ => Vec::new(),
            };
            (self.layer, self.filled, self.projected) = (0, true, false);
        }
        while self.layer < layer {
            self.advance(pass, batch, deep, pool, limit);
        }
        if !self.projected {
            self.project(pass);
        }
    }

    /// One layer up, in parallel over groups of examples.
    fn advance(&mut self, pass: Pass<'_>, batch: &Batch, deep: Deep<'_>, pool: &Pool, limit: usize) {
        let n = self.prompt.len() / batch.spans.len().max(1) / pass.backbone.hidden();
        let groups = batch.groups(0..batch.spans.len(), n, limit);
        let outputs: Vec<(Vec<f32>, Vec<f32>)> = groups
            .par_iter()
            .map(|group| {
                let (text, prompt) = self.rows(pass, batch, group);
                let spans = batch.group_spans(group);
                let from = From { layer: self.layer, text, prompt, known: None, spans: &spans, picks: &[] };
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
            self.prompt.extend(prompt);
        }
        self.layer += 1;
        self.projected = false;
    }

    /// Queries, keys and values of the text rows at the cached layer: no candidate changes them.
    fn project(&mut self, pass: Pass<'_>) {
        let hidden = pass.backbone.hidden();
        let block = &pass.backbone.blocks[self.layer];
        let chunk = 256 * hidden; // rows a task
        let parts: Vec<(Vec<f32>, Vec<f32>)> = self
            .text
            .par_chunks(chunk)
            .map(|rows| {
                let (mut query, mut key_value) = (Vec::new(), Vec::new());
                block.project(rows, &mut query, &mut key_value);
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
        let each = self.prompt.len() / batch.spans.len().max(1);
        (
            &self.text[rows.start * hidden..rows.end * hidden],
            &self.prompt[group.start * each..group.end * each],
        )
    }

    /// A group's part.
    pub(super) fn slice(&self, pass: Pass<'_>, batch: &Batch, group: &std::ops::Range<usize>) -> Slice<'_> {
        let hidden = pass.backbone.hidden();
        let rows = batch.group_rows(group);
        let (text, prompt) = self.rows(pass, batch, group);
        let known = Projected {
            query: &self.query[rows.start * hidden..rows.end * hidden],
            key_value: &self.key_value[rows.start * 2 * hidden..rows.end * 2 * hidden],
        };
        Slice { text, prompt, known }
    }

    /// The cached text rows: the statistics for the projections are taken from them.
    pub(super) fn text(&self) -> &[f32] {
        &self.text
    }

    /// The cached prompt rows.
    pub(super) fn prompt(&self) -> &[f32] {
        &self.prompt
    }
}
