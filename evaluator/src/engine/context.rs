//! The cached context: hidden states below the tuned layer, run once for all candidates.

use std::ops::Range;

use rayon::prelude::*;

use super::bytes::PROJECTED_ROWS;
use super::forward::{Deep, From, Pass, Pool};
use super::pack::Batch;
use crate::backbone::{Block, Place, Projected, Wanted};

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
    /// Room for consecutive parts of so many rows each, of a block with heads as wide as that.
    fn parts(
        &mut self,
        rows: impl Iterator<Item = usize> + Clone,
        (wide, double): (usize, usize),
    ) -> Vec<Room<'_>> {
        let all: usize = rows.clone().sum();
        self.query.resize(all * wide, 0.0);
        self.key_value.resize(all * double, 0.0);
        let queries = parts(&mut self.query, rows.clone().map(|rows| rows * wide));
        let keys = parts(&mut self.key_value, rows.map(|rows| rows * double));
        queries.into_iter().zip(keys).map(|(query, key_value)| Room { query, key_value }).collect()
    }

    /// Some rows, of a block with heads as wide as that.
    fn rows(&self, rows: Range<usize>, (wide, double): (usize, usize)) -> Projected<'_> {
        Projected {
            query: &self.query[rows.start * wide..rows.end * wide],
            key_value: &self.key_value[rows.start * double..rows.end * double],
        }
    }
}

/// Where some rows' projections go.
struct Room<'a> {
    query: &'a mut [f32],
    key_value: &'a mut [f32],
}

impl Room<'_> {
    fn fill(self, block: &Block, rows: &[f32], spans: &[Range<usize>], place: Place) {
        let (mut query, mut key_value) = (Vec::new(), Vec::new());
        block.project(rows, spans, place, &mut query, &mut key_value);
        self.query.copy_from_slice(&query);
        self.key_value.copy_from_slice(&key_value);
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

    /// Queries, keys and values of the rows at the cached layer that no candidate changes.
    fn project(&mut self, pass: Pass<'_>, batch: &Batch) {
        let block = &pass.backbone.blocks[self.layer];
        let widths = (block.heads.query_width(), 2 * block.heads.key_width());
        let own =
            if block.is_linear() && !self.shared && !self.prompt.is_empty() { batch.place.rows } else { 0 };
        let groups = batch.groups(0..batch.spans.len(), 0, PROJECTED_ROWS);
        let (mut of_text, mut of_prompt) =
            (std::mem::take(&mut self.of_text), std::mem::take(&mut self.of_prompt));
        let texts = of_text.parts(groups.iter().map(|group| batch.group_rows(group).len()), widths);
        let prompts = of_prompt.parts(groups.iter().map(|group| group.len() * own), widths);
        groups.par_iter().zip(texts).zip(prompts).for_each(|((group, of_text), of_prompt)| {
            let (text, prompt) = self.rows(pass, batch, group);
            of_text.fill(block, text, &batch.group_spans(group), batch.place);
            if own > 0 {
                // without spans: nothing turns these rows, so they need no positions
                of_prompt.fill(block, prompt, &[], batch.place);
            }
        });
        (self.of_text, self.of_prompt, self.projected) = (of_text, of_prompt, true);
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

/// Consecutive parts of `values`, so long each.
fn parts(mut values: &mut [f32], lengths: impl Iterator<Item = usize>) -> Vec<&mut [f32]> {
    let cut = |length: usize| {
        let (part, rest) = std::mem::take(&mut values).split_at_mut(length);
        values = rest;
        part
    };
    lengths.map(cut).collect()
}
