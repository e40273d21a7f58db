//! A population at the tuned layer: what each candidate brings there once, and a task for it with each group of
//! examples.

use std::ops::Range;

use rayon::prelude::*;

use super::Engine;
use super::forward::From;
use crate::backbone::{Known, Parts, Projected};

/// What a candidate brings to the tuned layer, once for all examples.
struct Own {
    /// Its prompt as the block takes it.
    prompt: Vec<f32>,
    /// What it adds to the prompt rows' queries, keys and values, where they are linear.
    added: Option<(Vec<f32>, Vec<f32>)>,
}

impl Own {
    /// With the cached part of the rows' projections.
    fn parts<'a>(&'a self, rows: Option<Projected<'a>>) -> Option<Parts<'a>> {
        let (query, key_value) = self.added.as_ref()?;
        Some(Parts { rows: rows?, added: Projected { query, key_value } })
    }
}

impl Engine {
    /// Logits of each candidate of `layer`, where the cached context is.
    pub(super) fn population(
        &self,
        layer: usize,
        prompts: &[Vec<f32>],
        examples: Range<usize>,
    ) -> Vec<Vec<f32>> {
        let own: Vec<Own> = prompts.par_iter().map(|prompt| self.own(layer, prompt)).collect();
        let groups = self.batch.cut(examples, self.extra_rows(), self.task_rows());
        let tasks = prompts.len() * groups.len();
        let logits: Vec<Vec<f32>> = (0..tasks)
            .into_par_iter()
            .with_max_len(1)
            .map(|task| {
                let (candidate, group) = (task / groups.len(), &groups[task % groups.len()]);
                let (own, slice) =
                    (&own[candidate], self.cache.slice(self.pass(), &self.batch, &group.examples));
                let from = From {
                    layer,
                    text: slice.text,
                    prompt: slice.prompt,
                    known: Some(Known { text: slice.of_text, prompt: own.parts(slice.of_prompt) }),
                    spans: &group.spans,
                    place: self.batch.place,
                    picks: &self.batch.picks[group.examples.clone()],
                    given: self.batch.group_given(group, self.backbone.hidden()),
                };
                self.buffers.with(|buffers| self.pass().run(from, self.deep(), Some(&own.prompt), buffers))
            })
            .collect();
        logits.chunks(groups.len().max(1)).map(|parts| parts.concat()).collect()
    }

    /// What a candidate brings to the tuned layer.
    fn own(&self, layer: usize, prompt: &[f32]) -> Own {
        let block = &self.backbone.blocks[layer];
        let linear = self.extra_rows() > 0 && block.is_linear();
        let wanted = self.pass().wanted(layer, &[]);
        Own { prompt: self.form(layer, prompt), added: linear.then(|| block.added(prompt, wanted)) }
    }
}
