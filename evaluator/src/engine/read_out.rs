//! Read-outs: from the last hidden states to one logit a class.

use super::EngineError;
use crate::backbone::{Backbone, Linear, MlmHead};
use crate::kernel::{Packed, gemm};

/// How the last hidden states are read.
#[derive(Clone, Debug, PartialEq)]
pub enum ReadOut {
    /// The label words' logits at the mask.
    MaskedLm {
        /// Token id of each label word, in label order.
        label_ids: Vec<u32>,
    },
    /// Cosine of the mean over an example's text rows with each class's embedding, divided by `temperature`.
    Similarity {
        /// Divisor.
        temperature: f32,
        /// Mean-pooled embedding of each class's phrase, `[classes][hidden]`.
        class_embeddings: Vec<Vec<f32>>,
    },
}

/// A read-out with its weights ready.
pub(super) enum Head {
    MaskedLm { head: Box<MlmHead>, labels: Linear },
    Similarity { temperature: f32, classes: Packed },
}

impl Head {
    pub(super) fn new(backbone: &Backbone, read_out: &ReadOut) -> Result<Self, EngineError> {
        let hidden = backbone.hidden();
        match read_out {
            ReadOut::MaskedLm { label_ids } => {
                let mut head = backbone.head.clone().ok_or(EngineError::NoHead)?;
                let decoder = head.decoder.take(); // only the label words' rows are kept
                let table = decoder.as_ref().unwrap_or(&backbone.embeddings.word);
                let row = |&id: &u32| table.get(id as usize * hidden..(id as usize + 1) * hidden);
                let rows: Option<Vec<&[f32]>> = label_ids.iter().map(row).collect();
                let rows = rows.ok_or(EngineError::Label { vocab: backbone.vocab() })?;
                let bias = label_ids.iter().map(|&id| head.bias[id as usize]).collect();
                let weight = Packed::from_rows(&rows.concat(), label_ids.len(), hidden);
                Ok(Self::MaskedLm { head: Box::new(head), labels: Linear { weight, bias } })
            }
            ReadOut::Similarity { temperature, class_embeddings } => {
                let units: Vec<f32> = class_embeddings.iter().flat_map(|class| unit(class)).collect();
                let classes = Packed::from_rows(&units, class_embeddings.len(), hidden);
                Ok(Self::Similarity { temperature: *temperature, classes })
            }
        }
    }

    /// Number of classes.
    pub(super) fn classes(&self) -> usize {
        match self {
            Self::MaskedLm { labels, .. } => labels.weight.outputs(),
            Self::Similarity { classes, .. } => classes.outputs(),
        }
    }

    /// Whether one row an example is enough.
    pub(super) fn reads_one_row(&self) -> bool {
        matches!(self, Self::MaskedLm { .. })
    }

    /// Logits `[examples, classes]` from the last hidden states: the mask rows, or all text rows with their `spans`.
    pub(super) fn logits(
        &self,
        backbone: &Backbone,
        last: &[f32],
        spans: &[std::ops::Range<usize>],
    ) -> Vec<f32> {
        let (hidden, examples) = (backbone.hidden(), spans.len());
        let mut logits = Vec::new();
        match self {
            Self::MaskedLm { head, labels } => {
                let mut transformed = Vec::new();
                head.dense.forward(last, examples, &mut transformed);
                backbone.activation.apply(&mut transformed);
                head.norm.add(&mut transformed, &vec![0.0; examples * hidden]);
                labels.forward(&transformed, examples, &mut logits);
            }
            Self::Similarity { temperature, classes } => {
                let pooled: Vec<f32> = spans
                    .iter()
                    .flat_map(|span| unit(&mean_row(&last[span.start * hidden..span.end * hidden], hidden)))
                    .collect();
                logits.resize(examples * classes.outputs(), 0.0);
                gemm(&pooled, hidden, examples, classes, None, &mut logits, classes.outputs());
                logits.iter_mut().for_each(|cosine| *cosine /= temperature);
            }
        }
        logits
    }
}

/// The mean of rows, `[rows, hidden]` to `[hidden]`, summed in row order.
pub(super) fn mean_row(rows: &[f32], hidden: usize) -> Vec<f32> {
    let mut mean = vec![0.0; hidden];
    for row in rows.chunks_exact(hidden) {
        mean.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
    }
    let count = (rows.len() / hidden).max(1) as f32;
    mean.iter_mut().for_each(|sum| *sum /= count);
    mean
}

/// The vector at length one; a zero vector stays.
fn unit(vector: &[f32]) -> Vec<f32> {
    let square: f64 = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    let length = (square.sqrt() as f32).max(1e-12);
    vector.iter().map(|x| x / length).collect()
}
