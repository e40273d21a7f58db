//! The mean of each example's rows, for a read-out that reads all of them.

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::look::index;
use super::plan::Layout;

/// What each row counts in its example's mean.
pub(super) struct Shares {
    /// A candidate's text rows, example by example, each padded to the longest by its last: `[examples * longest]`.
    rows: Tensor,
    /// One by the example's rows, 0 where it is padded: `[examples, 1, longest]`.
    weights: Tensor,
}

impl Shares {
    /// Numbers that this holds on the device.
    pub(super) fn numbers(&self) -> usize {
        self.rows.elem_count() + self.weights.elem_count()
    }

    fn new(layout: Layout<'_>) -> Result<Self> {
        let longest = layout.spans.iter().map(Range::len).max().unwrap_or(0);
        let row = |span: &Range<usize>| {
            let last = span.end.saturating_sub(1);
            span.clone().chain(std::iter::repeat(last)).take(longest).collect::<Vec<usize>>()
        };
        let weight = |span: &Range<usize>| {
            let share = 1.0 / span.len() as f32;
            let there = span.len();
            (0..longest).map(move |row| if row < there { share } else { 0.0 })
        };
        let weights: Vec<f32> = layout.spans.iter().flat_map(weight).collect();
        Ok(Self {
            rows: index(layout.device, layout.spans.iter().flat_map(row))?,
            weights: Tensor::from_vec(weights, (layout.spans.len(), 1, longest), layout.device)?,
        })
    }
}

/// The mean of each example's rows, `[candidates * examples, hidden]`.
pub(super) fn mean(rows: &Tensor, layout: Layout<'_>, kept: &mut Option<Shares>) -> Result<Tensor> {
    let shares = match kept.take() {
        Some(shares) => shares,
        None => Shares::new(layout)?,
    };
    let (examples, hidden) = (layout.spans.len(), rows.dim(1)?);
    let rows = rows.reshape((layout.candidates, layout.text(), hidden))?.index_select(&shares.rows, 1)?;
    let rows = rows.reshape((layout.candidates * examples, (), hidden))?;
    let means = shares.weights.repeat((layout.candidates, 1, 1))?.matmul(&rows)?.squeeze(1);
    *kept = Some(shares);
    means
}
