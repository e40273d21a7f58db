//! Parts of a block from tensors by name.

use std::ops::Range;

use super::Dtype;
use super::choices::{Linear, Norm, NormKind, Norms};
use super::weight::{Table, Weight};
use crate::models::weights::{WeightError, Weights};

/// A checkpoint, what its linear layers are computed in, the beginning that all names of its backbone share, and how
/// its norms are.
#[derive(Clone, Copy)]
pub(super) struct Loader<'a> {
    pub(super) weights: &'a Weights,
    pub(super) dtype: Dtype,
    pub(super) prefix: &'static str,
    pub(super) norm: NormForm,
}

/// How a family's norms are stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct NormForm {
    pub(super) kind: NormKind,
    pub(super) eps: f32,
    /// Added to the weights: one where they are stored as their distance from it.
    pub(super) offset: f32,
}

/// Whether a layer has a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bias {
    Yes,
    No,
}

impl From<bool> for Bias {
    fn from(has: bool) -> Self {
        if has { Self::Yes } else { Self::No }
    }
}

impl<'a> Loader<'a> {
    /// The first of `prefixes` under which there is `probe`; the last where there is none.
    pub(super) fn new(
        weights: &'a Weights,
        dtype: Dtype,
        prefixes: &[&'static str],
        probe: &str,
        norm: NormForm,
    ) -> Self {
        let found = prefixes.iter().copied().find(|prefix| weights.contains(&format!("{prefix}{probe}")));
        Self { weights, dtype, prefix: found.or(prefixes.last().copied()).unwrap_or(""), norm }
    }

    /// The same in `f32`, whatever the blocks are computed in.
    pub(super) fn exact(self) -> Self {
        Self { dtype: Dtype::F32, ..self }
    }

    /// For a head: in `f32`, and by full names.
    pub(super) fn of_head(self) -> Self {
        Self { prefix: "", ..self.exact() }
    }

    /// A tensor of the backbone.
    pub(super) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightError> {
        self.weights.get(&format!("{}{name}", self.prefix), shape)
    }

    /// A linear layer of the backbone, `[outputs, inputs]`.
    pub(super) fn linear(
        &self,
        name: &str,
        (outputs, inputs): (usize, usize),
        bias: Bias,
    ) -> Result<Linear, WeightError> {
        self.stacked(&[name], (outputs, inputs), bias)
    }

    /// Several linear layers of the same shape as one, their outputs one after the other.
    pub(super) fn stacked(
        &self,
        names: &[&str],
        (outputs, inputs): (usize, usize),
        bias: Bias,
    ) -> Result<Linear, WeightError> {
        let weight = |name: &&str| self.tensor(&format!("{name}.weight"), &[outputs, inputs]);
        let full = |name: &&str| format!("{}{name}.weight", self.prefix);
        let stored = self.weights.stored(&names.iter().map(full).collect::<Vec<_>>(), [outputs, inputs])?;
        let weight = match stored {
            Some(stored) => Weight::of_stored(stored, self.dtype),
            None => {
                let rows = names.iter().map(weight).collect::<Result<Vec<_>, _>>()?.concat();
                Weight::pack(&rows, names.len() * outputs, inputs, self.dtype)
            }
        };
        let biases = match bias {
            Bias::Yes => {
                let bias = |name: &&str| self.tensor(&format!("{name}.bias"), &[outputs]);
                Some(names.iter().map(bias).collect::<Result<Vec<_>, _>>()?.concat())
            }
            Bias::No => None,
        };
        Ok(Linear { weight, bias: biases })
    }

    /// A norm of the backbone over `width` numbers.
    pub(super) fn norm(&self, name: &str, width: usize) -> Result<Norm, WeightError> {
        let has = |end: &str| self.weights.contains(&format!("{}{name}.{end}", self.prefix));
        // checkpoints of the first years call them gamma and beta
        let (weight, bias) = if has("gamma") { ("gamma", "beta") } else { ("weight", "bias") };
        let form = self.norm;
        let mut scale = self.tensor(&format!("{name}.{weight}"), &[width])?;
        scale.iter_mut().for_each(|x| *x += form.offset);
        let bias = match form.kind {
            NormKind::Layer { bias: true } => self.tensor(&format!("{name}.{bias}"), &[width])?,
            NormKind::Layer { bias: false } => vec![0.0; width],
            NormKind::Rms => Vec::new(),
        };
        Ok(Norm { kind: form.kind, weight: scale, bias, eps: form.eps })
    }

    /// A language model's own decoder, by its full name; `None` where it is tied to the word embeddings, which is what
    /// the configuration says, or the want of a tensor.
    pub(super) fn decoder(
        &self,
        name: &str,
        shape: &[usize; 2],
        tied: Option<bool>,
    ) -> Result<Option<Table>, WeightError> {
        let own = tied == Some(false) || (tied.is_none() && self.weights.contains(name));
        own.then(|| self.whole_table(name, shape)).transpose()
    }

    /// A table of the backbone of which rows are looked up.
    pub(super) fn table(&self, name: &str, shape: &[usize; 2]) -> Result<Table, WeightError> {
        self.whole_table(&format!("{}{name}", self.prefix), shape)
    }

    /// As [`Self::table`], by its full name.
    fn whole_table(&self, name: &str, shape: &[usize; 2]) -> Result<Table, WeightError> {
        Ok(match self.weights.stored(&[name.to_owned()], *shape)? {
            Some(stored) => Table::Stored(stored),
            None => self.weights.get(name, shape)?.into(),
        })
    }

    /// The norm after the sum of a branch alone.
    pub(super) fn post_norm(&self, name: &str, width: usize) -> Result<Norms, WeightError> {
        Ok(Norms { sum: Some(self.norm(name, width)?), ..Norms::default() })
    }

    /// The norm before a branch alone.
    pub(super) fn pre_norm(&self, name: &str, width: usize) -> Result<Norms, WeightError> {
        Ok(Norms { input: Some(self.norm(name, width)?), ..Norms::default() })
    }

    /// Rows `range` of a linear layer as checkpoints store it, `[outputs, inputs]`.
    pub(super) fn part(
        &self,
        (weight, bias): (&[f32], Option<&[f32]>),
        range: Range<usize>,
        inputs: usize,
    ) -> Linear {
        let rows = &weight[range.start * inputs..range.end * inputs];
        Linear {
            weight: Weight::pack(rows, range.len(), inputs, self.dtype),
            bias: bias.map(|bias| bias[range].to_vec()),
        }
    }
}

/// A matrix stored `[inputs, outputs]` as `[outputs, inputs]`.
pub(super) fn transposed(stored: &[f32], inputs: usize, outputs: usize) -> Vec<f32> {
    (0..outputs).flat_map(|o| (0..inputs).map(move |i| stored[i * outputs + o])).collect()
}
