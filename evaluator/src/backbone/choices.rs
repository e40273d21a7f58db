//! What one transformer block can be: the closed set of choices a family's page picks from.

use std::ops::Range;
use std::sync::Arc;

use serde::Deserialize;

use super::weight::Weight;
use crate::kernel::{add, add_layer_norm, gelu_erf, gelu_tanh, layer_norm, multiply, relu, rms_norm, silu};

/// A linear layer: `y = x W^T + b`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Linear {
    pub(crate) weight: Weight,
    pub(crate) bias: Option<Vec<f32>>,
}

impl Linear {
    /// `rows` rows from `x` (`[rows, depth]`) to `out` (`[rows, outputs]`).
    pub(crate) fn forward(&self, x: &[f32], rows: usize, out: &mut Vec<f32>) {
        self.forward_strided(x, self.weight.depth(), rows, out);
    }

    /// As [`Self::forward`], with rows of `x` that stand `stride` apart.
    pub(crate) fn forward_strided(&self, x: &[f32], stride: usize, rows: usize, out: &mut Vec<f32>) {
        let outputs = self.weight.outputs();
        out.resize(rows * outputs, 0.0);
        self.weight.multiply(x, stride, rows, self.bias.as_deref(), out);
    }
}

/// How a norm centres and scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NormKind {
    /// By mean and standard deviation.
    Layer {
        /// Whether there is a bias.
        bias: bool,
    },
    /// By the root of the mean square; no bias. A weight stored as its distance from one is read so by the loader.
    Rms,
}

/// A norm over rows of `weight.len()` numbers.
#[derive(Clone, Debug)]
pub(crate) struct Norm {
    pub(crate) kind: NormKind,
    pub(crate) weight: Vec<f32>,
    /// Zeros where the checkpoint has none; RMS norm does not look at it.
    pub(crate) bias: Vec<f32>,
    pub(crate) eps: f32,
}

impl Norm {
    /// `rows = Norm(rows)`, row by row.
    pub(crate) fn apply(&self, rows: &mut [f32]) {
        match self.kind {
            NormKind::Layer { .. } => layer_norm(rows, &self.weight, &self.bias, self.eps),
            NormKind::Rms => rms_norm(rows, &self.weight, self.eps),
        }
    }

    /// `out = Norm(out + residual)`, row by row.
    pub(crate) fn apply_sum(&self, out: &mut [f32], residual: &[f32]) {
        match self.kind {
            NormKind::Layer { .. } => add_layer_norm(out, residual, &self.weight, &self.bias, self.eps),
            NormKind::Rms => {
                add(out, residual);
                rms_norm(out, &self.weight, self.eps);
            }
        }
    }
}

/// The norms of one branch (attention or feed-forward) `f`: `sum(x + branch(f(input(x))))`. Post-norm models have `sum`
/// alone, pre-norm models `input` alone, sandwiches `input` and `branch`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Norms {
    pub(crate) input: Option<Norm>,
    pub(crate) branch: Option<Norm>,
    pub(crate) sum: Option<Norm>,
}

impl Norms {
    /// What the branch reads: `x`, or `x` normed in `buffer`.
    pub(super) fn input<'a>(&self, x: &'a [f32], buffer: &'a mut Vec<f32>) -> &'a [f32] {
        let Some(norm) = &self.input else { return x };
        buffer.clear();
        buffer.extend_from_slice(x);
        norm.apply(buffer);
        buffer
    }

    /// Joins the branch's output `out` with the residual stream, in place.
    pub(super) fn join(&self, out: &mut [f32], residual: &[f32]) {
        if let Some(norm) = &self.branch {
            norm.apply(out);
        }
        match &self.sum {
            Some(norm) => norm.apply_sum(out, residual),
            None => add(out, residual),
        }
    }
}

/// The feed-forward's activation, by the names configurations use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum Activation {
    #[serde(rename = "gelu", alias = "gelu_python")]
    GeluErf,
    #[serde(rename = "gelu_new", alias = "gelu_pytorch_tanh", alias = "gelu_fast")]
    GeluTanh,
    #[serde(rename = "relu")]
    Relu,
    #[serde(rename = "silu", alias = "swish")]
    Silu,
}

impl Activation {
    /// Element by element, in place.
    pub(crate) fn apply(self, values: &mut [f32]) {
        match self {
            Self::GeluErf => gelu_erf(values),
            Self::GeluTanh => gelu_tanh(values),
            Self::Relu => relu(values),
            Self::Silu => silu(values),
        }
    }
}

/// The feed-forward: `down(act(up(x)))`, or gated `down(act(gate(x)) * up(x))`.
#[derive(Clone, Debug)]
pub(crate) struct FeedForward {
    /// `[wide, hidden]`; gated: gate, then up, `[2 * wide, hidden]`.
    pub(crate) up: Linear,
    pub(crate) gated: bool,
    pub(crate) activation: Activation,
    /// `[hidden, wide]`
    pub(crate) down: Linear,
}

impl FeedForward {
    /// `rows` rows of `x` to `out`; `wide` is a buffer.
    pub(super) fn forward(&self, x: &[f32], rows: usize, wide: &mut Vec<f32>, out: &mut Vec<f32>) {
        self.up.forward(x, rows, wide);
        if self.gated {
            let (width, stride) = (self.down.weight.depth(), self.up.weight.outputs());
            for row in wide.chunks_exact_mut(stride) {
                let (gate, up) = row.split_at_mut(width);
                self.activation.apply(gate);
                multiply(gate, up);
            }
        } else {
            self.activation.apply(wide);
        }
        self.down.forward_strided(wide, self.up.weight.outputs(), rows, out);
    }
}

/// Which keys a query sees. Positions count a sequence's rows, prompt included, from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sight {
    /// All.
    All,
    /// Those at most so many positions away, on either side.
    Around(usize),
    /// Those not after it: causal.
    Back,
    /// The last so many, itself included: causal with a sliding window.
    Last(usize),
}

impl Sight {
    /// Whether no query sees what comes after it.
    pub(crate) fn is_causal(self) -> bool {
        matches!(self, Self::Back | Self::Last(_))
    }

    /// The keys, of `count` in the order of their positions, that a query at `position` sees.
    pub(crate) fn range(self, position: usize, count: usize) -> Range<usize> {
        let end = (position + 1).min(count);
        match self {
            Self::All => 0..count,
            Self::Around(reach) => position.saturating_sub(reach)..(position + reach + 1).min(count),
            Self::Back => 0..end,
            Self::Last(window) => (position + 1).saturating_sub(window)..end,
        }
    }
}

/// Heads of an attention and what it does to scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Heads {
    /// Query heads.
    pub(crate) queries: usize,
    /// Key and value heads; each serves `queries / keys` query heads.
    pub(crate) keys: usize,
    /// Numbers of one head.
    pub(crate) width: usize,
    /// Factor of the scores.
    pub(crate) scale: f32,
    /// Soft-capping of the scores.
    pub(crate) cap: Option<f32>,
    pub(crate) sight: Sight,
}

impl Heads {
    /// Width of all query heads.
    pub(crate) fn query_width(&self) -> usize {
        self.queries * self.width
    }

    /// Width of all key heads; the values are as wide.
    pub(crate) fn key_width(&self) -> usize {
        self.keys * self.width
    }
}

/// What the distance between a query and a key adds to their score: T5's positions.
#[derive(Clone, Debug)]
pub(crate) struct Relative {
    /// Distances beyond it count as it.
    reach: usize,
    /// For each query head the bias of key minus query from `-reach` to `reach`: `[heads, 2 * reach + 1]`.
    table: Arc<Vec<f32>>,
}

impl Relative {
    /// From the bias of each head at each distance up to `reach`.
    pub(crate) fn new(heads: usize, reach: usize, bias: impl Fn(usize, isize) -> f32) -> Self {
        let ends = reach as isize;
        let bias = &bias;
        let table = (0..heads).flat_map(|head| (-ends..=ends).map(move |distance| bias(head, distance)));
        Self { reach, table: Arc::new(table.collect()) }
    }

    /// The table, which layers share.
    pub(super) fn table(&self) -> &Arc<Vec<f32>> {
        &self.table
    }

    /// The bias of each head at each distance: the reach, and `[heads, 2 * reach + 1]`.
    pub(crate) fn biases(&self) -> (usize, &[f32]) {
        (self.reach, &self.table)
    }

    /// `scores = scores * scale + bias` for the keys from position `first` on.
    pub(super) fn add(&self, head: usize, position: usize, first: usize, scores: &mut [f32], scale: f32) {
        let of_head = &self.table[head * (2 * self.reach + 1)..];
        for (key, score) in (first..).zip(scores) {
            let at = (key + self.reach).saturating_sub(position).min(2 * self.reach);
            *score = score.mul_add(scale, of_head[at]);
        }
    }
}

/// Where a prompt stands in every example: `rows` rows after the first `lead` rows of the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// 1 where the tokenizer puts a special token first, else 0.
    pub(crate) lead: usize,
    pub(crate) rows: usize,
}

impl Place {
    /// Position of a text row.
    pub(crate) fn text(self, row: usize) -> usize {
        if row < self.lead { row } else { row + self.rows }
    }

    /// Position of a prompt row.
    pub(crate) fn prompt(self, row: usize) -> usize {
        self.lead + row
    }
}
