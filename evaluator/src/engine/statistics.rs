//! Numbers taken from plain forwards: hidden states of a token sequence alone, and their standard deviations.

use std::ops::Range;

use super::read_out::mean_row;
use crate::backbone::{Backbone, Hidden, Input, Place, Pooling, PromptRows, Scratch, Table, Wanted};

/// Rounds of clipping (spec 3.2).
const ROUNDS: usize = 5;

/// Hidden states of `ids` alone at the input of every layer, of the rows `rows`: `[L][rows * hidden]`.
pub(super) fn rows_alone(backbone: &Backbone, ids: &[u32], rows: Range<usize>) -> Vec<Vec<f32>> {
    let hidden = backbone.hidden();
    let mut inputs = Vec::with_capacity(backbone.layers());
    alone(backbone, ids, |text| inputs.push(text[rows.start * hidden..rows.end * hidden].to_vec()));
    inputs
}

/// The pooled last hidden states of `ids` alone, `[hidden]`.
pub(super) fn pooled_alone(backbone: &Backbone, ids: &[u32]) -> Vec<f32> {
    let hidden = backbone.hidden();
    let mut last = alone(backbone, ids, |_| {});
    backbone.finish(&mut last);
    match backbone.pooling() {
        Pooling::Mean => mean_row(&last, hidden),
        one => last.chunks_exact(hidden).nth(one.row(ids.len())).unwrap_or_default().to_vec(),
    }
}

/// Runs `ids` alone through all layers; `seen` gets each layer's input.
fn alone(backbone: &Backbone, ids: &[u32], mut seen: impl FnMut(&[f32])) -> Vec<f32> {
    let mut text = Vec::new();
    backbone.embed(ids.iter().enumerate().map(|(row, &id)| (Some(id), row)), &mut text);
    let span = 0..ids.len();
    let (mut scratch, mut out) = (Scratch::default(), Hidden::default());
    for block in &backbone.blocks {
        seen(&text);
        let (spans, place) = (std::slice::from_ref(&span), Place::default());
        let input = Input { text: &text, spans, place, prompt: PromptRows::None, known: None, encoded: None };
        block.forward(input, Wanted::All, &mut scratch, &mut out);
        std::mem::swap(&mut text, &mut out.text);
    }
    text
}

/// Standard deviation of a table's values (of the population, not the sample) in f64, in order.
pub(crate) fn table_std(table: &Table) -> f32 {
    let (mut count, mut sum, mut square) = (0.0, 0.0, 0.0);
    table.all(|values| values.iter().for_each(|&x| (count, sum) = (count + 1.0, sum + f64::from(x))));
    let mean = sum / f64::max(count, 1.0);
    table.all(|values| values.iter().for_each(|&x| square += (f64::from(x) - mean) * (f64::from(x) - mean)));
    (square / f64::max(count, 1.0)).sqrt() as f32
}

/// Standard deviation after five rounds of clamping to the mean ± 3 standard deviations (spec 3.2).
pub(crate) fn clipped_std(text: &[f32], prompt: &[f32]) -> f32 {
    let values = || text.iter().chain(prompt).map(|&x| f64::from(x));
    let (mut mean, mut std) = moments(values());
    let (mut low, mut high) = (f64::NEG_INFINITY, f64::INFINITY);
    for _ in 0..ROUNDS {
        // clamping what was clamped before is clamping to the narrower bounds
        (low, high) = (low.max(mean - 3.0 * std), high.min(mean + 3.0 * std));
        (mean, std) = moments(values().map(|x| x.clamp(low, high)));
    }
    std as f32
}

fn moments(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let (count, sum) = values.clone().fold((0.0, 0.0), |(count, sum), x| (count + 1.0, sum + x));
    if count == 0.0 {
        return (0.0, 0.0);
    }
    let mean = sum / count;
    let square: f64 = values.map(|x| (x - mean) * (x - mean)).sum();
    (mean, (square / count).sqrt())
}
