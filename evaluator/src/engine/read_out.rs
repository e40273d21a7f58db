//! Read-outs: from the last hidden states to one logit a class.

use std::ops::Range;

use super::{EngineError, Tokens};
use crate::backbone::{Backbone, Decoder, Linear, LmHead, Pooling};
use crate::kernel::{Packed, gemm, soft_cap};

/// How the last hidden states are read.
#[derive(Clone, Debug, PartialEq)]
pub enum ReadOut {
    /// The label words' logits at the mask.
    MaskedLm {
        /// Token id of each label word, in label order.
        label_ids: Vec<u32>,
    },
    /// The label words' logits after the text's last row.
    NextToken {
        /// Token id of each label word, in label order.
        label_ids: Vec<u32>,
    },
    /// The label words' logits where the decoder reads the mask.
    Seq2Seq {
        /// Token id of each label word, in label order.
        label_ids: Vec<u32>,
        /// The mask token's id, for decoders that are given it.
        mask: u32,
    },
    /// Cosine of an example's pooled text rows with each class's embedding, divided by `temperature`.
    Similarity {
        /// Divisor.
        temperature: f32,
        /// Pooled embedding of each class's phrase, `[classes][hidden]`.
        class_embeddings: Vec<Vec<f32>>,
    },
}

impl ReadOut {
    /// The name a run file uses.
    fn name(&self) -> &'static str {
        match self {
            Self::MaskedLm { .. } => "masked-lm",
            Self::NextToken { .. } => "next-token",
            Self::Seq2Seq { .. } => "seq2seq",
            Self::Similarity { .. } => "similarity",
        }
    }
}

/// Which of the last layer's rows a read-out reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reads {
    /// One text row an example.
    One,
    /// The text rows.
    Text,
    /// All: a decoder sees them.
    All,
}

/// A read-out with its weights ready.
pub(crate) enum Head {
    /// Logits of label words at one row; a decoder's, where there is a mask to give it.
    Words { head: Box<LmHead>, labels: Linear, mask: Option<u32> },
    /// Cosines with the classes' embeddings.
    Similarity { temperature: f32, classes: Packed, pooling: Pooling },
}

impl Head {
    pub(super) fn new(backbone: &Backbone, read_out: &ReadOut) -> Result<Self, EngineError> {
        let (asked, supported) = (read_out.name(), backbone.read_outs());
        let unsupported = || EngineError::ReadOut { asked, supported: supported.join("\" or \"") };
        if !supported.contains(&asked) {
            return Err(unsupported());
        }
        match read_out {
            ReadOut::MaskedLm { label_ids } | ReadOut::NextToken { label_ids } => {
                let head = backbone.head.as_ref().ok_or_else(unsupported)?;
                words(backbone, head, label_ids, None)
            }
            ReadOut::Seq2Seq { label_ids, mask } => {
                let head = backbone.head.as_ref().ok_or_else(unsupported)?;
                words(backbone, head, label_ids, Some(*mask))
            }
            ReadOut::Similarity { temperature, class_embeddings } => {
                let units: Vec<f32> = class_embeddings.iter().flat_map(|class| unit(class)).collect();
                let classes = Packed::from_rows(&units, class_embeddings.len(), backbone.hidden());
                Ok(Self::Similarity { temperature: *temperature, classes, pooling: backbone.pooling })
            }
        }
    }

    /// Number of classes.
    pub(super) fn classes(&self) -> usize {
        match self {
            Self::Words { labels, .. } => labels.weight.outputs(),
            Self::Similarity { classes, .. } => classes.outputs(),
        }
    }

    /// Which of the last layer's rows are read.
    pub(crate) fn reads(&self) -> Reads {
        match self {
            Self::Words { mask: Some(_), .. } => Reads::All,
            Self::Similarity { pooling: Pooling::Mean, .. } => Reads::Text,
            Self::Words { .. } | Self::Similarity { .. } => Reads::One,
        }
    }

    /// The decoder this read-out runs, and the mask it may be given.
    pub(super) fn decoder<'a>(&self, backbone: &'a Backbone) -> Option<(&'a Decoder, u32)> {
        match self {
            Self::Words { mask: Some(mask), .. } => Some((backbone.decoder.as_ref()?, *mask)),
            Self::Words { .. } | Self::Similarity { .. } => None,
        }
    }

    /// The row of an example that is read, where one is enough.
    pub(super) fn row(&self, tokens: &Tokens) -> usize {
        match self {
            Self::Words { .. } => tokens.read_out,
            Self::Similarity { pooling, .. } => pooling.row(tokens.ids.len()),
        }
    }

    /// Logits `[examples, classes]` from the last hidden states, final norm included: one row an example, or all text
    /// rows with their `spans`.
    pub(super) fn logits(&self, backbone: &Backbone, last: &[f32], spans: &[Range<usize>]) -> Vec<f32> {
        let hidden = backbone.hidden();
        match self {
            Self::Words { head, .. } => match &head.transform {
                Some(transform) => {
                    let mut transformed = Vec::new();
                    transform.dense.forward(last, spans.len(), &mut transformed);
                    transform.activation.apply(&mut transformed);
                    transform.norm.apply(&mut transformed);
                    self.classify(&transformed, hidden)
                }
                None => self.classify(last, hidden),
            },
            Self::Similarity { .. } if self.reads() == Reads::One => self.classify(last, hidden),
            Self::Similarity { .. } => {
                let mean =
                    |span: &Range<usize>| mean_row(&last[span.start * hidden..span.end * hidden], hidden);
                self.classify(&spans.iter().flat_map(mean).collect::<Vec<f32>>(), hidden)
            }
        }
    }

    /// Whether rows are transformed before [`Self::classify`].
    pub(crate) fn transforms(&self) -> bool {
        matches!(self, Self::Words { head, .. } if head.transform.is_some())
    }

    /// Logits `[examples, classes]` from one row an example, `[examples, hidden]`, transformed where the head does so.
    pub(crate) fn classify(&self, rows: &[f32], hidden: usize) -> Vec<f32> {
        let (examples, mut logits) = (rows.len() / hidden, Vec::new());
        match self {
            Self::Words { head, labels, .. } => {
                labels.forward(rows, examples, &mut logits);
                if let Some(cap) = head.cap {
                    soft_cap(&mut logits, 1.0, cap);
                }
            }
            Self::Similarity { temperature, classes, .. } => {
                let pooled: Vec<f32> = rows.chunks_exact(hidden).flat_map(unit).collect();
                logits.resize(examples * classes.outputs(), 0.0);
                gemm(&pooled, hidden, examples, classes, None, &mut logits, classes.outputs());
                logits.iter_mut().for_each(|cosine| *cosine /= temperature);
            }
        }
        logits
    }
}

/// A head with the label words' rows alone.
fn words(
    backbone: &Backbone,
    head: &LmHead,
    label_ids: &[u32],
    mask: Option<u32>,
) -> Result<Head, EngineError> {
    let hidden = backbone.hidden();
    let outside = || EngineError::Label { vocab: backbone.vocab() };
    let table = head.decoder.as_ref().unwrap_or(&backbone.embeddings.word);
    let row = |&id: &u32| table.row(id as usize, hidden, <[f32]>::to_vec);
    let rows: Option<Vec<Vec<f32>>> = label_ids.iter().map(row).collect();
    let of = |bias: &Vec<f32>| label_ids.iter().map(|&id| bias.get(id as usize).copied()).collect();
    let bias: Option<Option<Vec<f32>>> = head.bias.as_ref().map(of);
    let mut weights = rows.ok_or_else(outside)?.concat();
    weights.iter_mut().for_each(|weight| *weight *= head.scale);
    let labels = Linear {
        weight: Packed::from_rows(&weights, label_ids.len(), hidden).into(),
        bias: bias.map(|bias| bias.ok_or_else(outside)).transpose()?,
    };
    let rest = LmHead {
        predicts: head.predicts,
        transform: head.transform.clone(),
        decoder: None,
        bias: None,
        scale: 1.0,
        cap: head.cap,
    };
    Ok(Head::Words { head: Box::new(rest), labels, mask })
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
