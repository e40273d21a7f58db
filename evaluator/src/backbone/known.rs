//! Queries, keys and values that are known before a block runs: what no candidate changes is projected once a context.

use crate::kernel::add;

/// Queries, keys and values of some rows.
#[derive(Clone, Copy)]
pub(crate) struct Projected<'a> {
    /// `[rows, queries * width]`
    pub(crate) query: &'a [f32],
    /// `[rows, 2 * keys * width]`
    pub(crate) key_value: &'a [f32],
}

/// Projections that are known already.
#[derive(Clone, Copy)]
pub(crate) struct Known<'a> {
    /// Of the text rows.
    pub(crate) text: Projected<'a>,
    /// Of the prompt rows, where projections are linear ([`Block::is_linear`]).
    pub(crate) prompt: Option<Parts<'a>>,
}

/// The prompt rows' projections in two parts: `W (h + p) + b = (W h + b) + W p`.
#[derive(Clone, Copy)]
pub(crate) struct Parts<'a> {
    /// Of each example's rows before the prompt is added, `[examples * n, ...]`.
    pub(crate) rows: Projected<'a>,
    /// Of the prompt alone, without bias, `[n, ...]`.
    pub(crate) added: Projected<'a>,
}

impl Parts<'_> {
    /// Sums both parts; the queries' if `all` rows are wanted.
    pub(super) fn join(&self, all: bool, query: &mut Vec<f32>, key_value: &mut Vec<f32>) {
        sum_each(self.rows.key_value, self.added.key_value, key_value);
        query.clear();
        if all {
            sum_each(self.rows.query, self.added.query, query);
        }
    }
}

/// `out = rows + added`, `added` once for each example.
fn sum_each(rows: &[f32], added: &[f32], out: &mut Vec<f32>) {
    out.clear();
    out.extend_from_slice(rows);
    out.chunks_exact_mut(added.len().max(1)).for_each(|example| add(example, added));
}
