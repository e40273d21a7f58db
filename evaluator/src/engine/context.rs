//! The cached context: hidden states below the tuned layer, run once for all candidates.

use std::ops::Range;

use rayon::prelude::*;

use super::bytes::PROJECTED_ROWS;
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

    /// One layer up, in parallel over groups of examples, each in its place.
    fn advance(&mut self, pass: Pass<'_>, batch: &Batch, deep: Deep<'_>, pool: &Pool, limit: usize) {
        let own = if self.prompt.is_empty() || self.shared { 0 } else { batch.place.rows };
        let groups = batch.groups(0..batch.spans.len(), own, limit);
        let (layer, place, hidden) = (self.layer, batch.place, pass.backbone.hidden());
        let text = parts(&mut self.text, groups.iter().map(|group| batch.group_rows(group).len() * hidden));
        // where the prompt's rows are shared, all groups read them and the first one's are kept
        let shared = self.shared.then(|| self.prompt.clone());
        let rows = |(index, group): (usize, &Range<usize>)| match &shared {
            Some(shared) if index == 0 => shared.len(),
            Some(_) => 0,
            None => group.len() * own * hidden,
        };
        let prompt = parts(&mut self.prompt, groups.iter().enumerate().map(rows));
        groups.par_iter().zip(text).zip(prompt).for_each(|((group, text), prompt)| {
            let spans = batch.group_spans(group);
            pool.with(|buffers| {
                let from = From {
                    layer,
                    text,
                    prompt: shared.as_deref().unwrap_or(prompt),
                    known: None,
                    spans: &spans,
                    place,
                    picks: &[],
                    given: None,
                };
                pass.layer(layer, from, deep, None, Wanted::All, buffers);
                text.copy_from_slice(&buffers.hidden().text);
                prompt.copy_from_slice(&buffers.hidden().prompt[..prompt.len()]);
            });
        });
        self.layer += 1;
        self.projected = false;
    }

    /// Queries, keys and values of the text rows at the cached layer: no candidate changes them.
    fn project(&mut self, pass: Pass<'_>, batch: &Batch) {
        let block = &pass.backbone.blocks[self.layer];
        let (wide, double) = (block.heads.query_width(), 2 * block.heads.key_width());
        let groups = batch.groups(0..batch.spans.len(), 0, PROJECTED_ROWS);
        let rows = || groups.iter().map(|group| batch.group_rows(group).len());
        let (mut query, mut key_value) =
            (std::mem::take(&mut self.query), std::mem::take(&mut self.key_value));
        query.resize(batch.rows() * wide, 0.0);
        key_value.resize(batch.rows() * double, 0.0);
        let queries = parts(&mut query, rows().map(|rows| rows * wide));
        let keys = parts(&mut key_value, rows().map(|rows| rows * double));
        groups.par_iter().zip(queries).zip(keys).for_each(|((group, queries), keys)| {
            let (text, _) = self.rows(pass, batch, group);
            let (mut query, mut key_value) = (Vec::new(), Vec::new());
            block.project(text, &batch.group_spans(group), batch.place, &mut query, &mut key_value);
            queries.copy_from_slice(&query);
            keys.copy_from_slice(&key_value);
        });
        (self.query, self.key_value, self.projected) = (query, key_value, true);
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

/// Consecutive parts of `values`, so long each.
fn parts(mut values: &mut [f32], lengths: impl Iterator<Item = usize>) -> Vec<&mut [f32]> {
    let cut = |length: usize| {
        let (part, rest) = std::mem::take(&mut values).split_at_mut(length);
        values = rest;
        part
    };
    lengths.map(cut).collect()
}
