//! The forward pass of one chunk on a device: some candidates with some examples, from some layer to the top.

use candle_core::{Result, Tensor};

use super::backbone::{DeviceBackbone, Stack};
use super::block::{Input, Norm, Projected, activate};
use super::plan::{Layout, Own, Plan};
use crate::backbone::{Place, Rows, Wanted};
use crate::engine::read_out::Reads;

/// Where a chunk starts.
pub(super) struct Start {
    /// First layer to run.
    pub(super) layer: usize,
    /// Hidden states of the text rows at its input, `[rows, hidden]`: the same for all candidates.
    pub(super) text: Tensor,
    /// In `add`, those of the prompt's rows before the layer's prompt is added, of one candidate.
    pub(super) prompt: Option<Tensor>,
    /// The text rows' projections there, where they are known.
    pub(super) known: Option<Projected>,
}

/// The prompts that a chunk runs under.
#[derive(Clone, Copy)]
pub(super) struct Prompts<'a> {
    /// Each layer's, `[n, hidden]`, or keys and values, `[n, 2 * keys * width]`.
    pub(super) deep: &'a [Tensor],
    /// The candidates' at the first layer, each in this form, `[candidates * n, ..]`.
    pub(super) candidates: Option<&'a Tensor>,
}

/// What is read of a chunk, and how.
#[derive(Clone, Copy)]
pub(super) struct Reading<'a> {
    pub(super) reads: Reads,
    /// Each example's read-out row.
    pub(super) picks: &'a [usize],
    /// What a decoder is given for the examples.
    pub(super) given: Option<Rows<'a>>,
    /// Whether the head transforms the rows it reads.
    pub(super) transformed: bool,
}

impl DeviceBackbone {
    /// What a head sees of each candidate's examples: `[candidates * examples, hidden]`, after the head's transform
    /// where it has one.
    pub(super) fn run(
        &self,
        layout: Layout<'_>,
        start: Start,
        prompts: Prompts<'_>,
        reading: Reading<'_>,
    ) -> Result<Tensor> {
        let top = match reading.reads {
            Reads::One => Wanted::One(reading.picks),
            Reads::Text => Wanted::Text,
            Reads::All => Wanted::All,
        };
        let rows = finish(self.final_norm.as_ref(), self.stack(layout, start, prompts, top)?)?;
        let rows = match (&self.decoder, reading.given, reading.reads) {
            (Some(decoder), Some(given), _) => self.decode(decoder, (&rows, layout), given)?,
            (_, _, Reads::Text) => mean(&rows, layout)?,
            _ => rows,
        };
        match &self.transform {
            Some(transform) if reading.transformed => {
                let dense = transform.dense.forward(&rows)?;
                transform.norm.apply(&activate(transform.activation, &dense)?)
            }
            _ => Ok(rows),
        }
    }

    /// All layers from the start on.
    fn stack(
        &self,
        layout: Layout<'_>,
        start: Start,
        prompts: Prompts<'_>,
        top: Wanted<'_>,
    ) -> Result<Tensor> {
        let last = self.blocks.len() - 1;
        let Start { layer: first, mut text, mut prompt, known } = start;
        let (count, own) = (layout.candidates * layout.text(), layout.candidates * layout.prompt());
        let mut between: Option<Plan> = None;
        for layer in first..=last {
            let entering = layer == first;
            let here = Layout {
                text_shared: entering,
                prefix_each: entering && prompts.candidates.is_some(),
                ..layout
            };
            let wanted = if layer == last { top } else { Wanted::All };
            let known = known.as_ref().filter(|_| entering);
            let plan = match between.take() {
                Some(plan) if layer < last => plan,
                _ => here.plan(wanted, known.is_some())?,
            };
            let added = prompts.candidates.filter(|_| entering).or(prompts.deep.get(layer));
            let entered = entering_rows(&text, prompt.as_ref(), added, here)?;
            let prefix = added.filter(|_| here.own == Own::Prefix);
            let input = Input { rows: &entered, prefix, known, encoded: None };
            let rows = self.blocks[layer].forward(input, &plan)?;
            if layer == last {
                return Ok(rows);
            }
            text = rows.narrow(0, 0, count)?;
            prompt = if own > 0 { Some(rows.narrow(0, count, own)?) } else { None };
            between = Some(plan).filter(|_| !entering);
        }
        Ok(text)
    }

    /// The decoder's rows that are read, over an encoder's output.
    fn decode(
        &self,
        decoder: &Stack,
        (encoded, encoder): (&Tensor, Layout<'_>),
        given: Rows<'_>,
    ) -> Result<Tensor> {
        let encoder = Layout { text_shared: false, ..encoder };
        let (place, own) = (Place::default(), Own::Rows);
        let mut rows = self.rows(given.text)?;
        let last = decoder.blocks.len() - 1;
        for (layer, block) in decoder.blocks.iter().enumerate() {
            let here = Layout { spans: given.spans, place, own, text_shared: layer == 0, ..encoder };
            let wanted = if layer == last { Wanted::One(given.picks) } else { Wanted::Text };
            let (plan, look) = (here.plan(wanted, false)?, here.across(&encoder, wanted)?);
            let encoded = Some((encoded, &look));
            rows = block.forward(Input { rows: &rows, prefix: None, known: None, encoded }, &plan)?;
        }
        finish(decoder.final_norm.as_ref(), rows)
    }

    /// Prompts `[count * n, hidden]` as the blocks of `layer` take them.
    pub(super) fn form(&self, layer: usize, own: Own, place: Place, prompts: &Tensor) -> Result<Tensor> {
        if own != Own::Prefix {
            return Ok(prompts.clone());
        }
        let positions = (0..prompts.dim(0)?).map(|row| place.prompt(row % place.rows));
        self.blocks[layer].prefix(prompts, &super::plan::index(&self.device, positions)?)
    }
}

/// The rows that enter a layer: the text's, and in `add` the prompt's with the layer's prompt added to each example's.
pub(super) fn entering_rows(
    text: &Tensor,
    prompt: Option<&Tensor>,
    added: Option<&Tensor>,
    layout: Layout<'_>,
) -> Result<Tensor> {
    let (Some(prompt), Some(added)) = (prompt, added) else { return Ok(text.clone()) };
    let (hidden, n) = (text.dim(1)?, layout.place.rows);
    let each = prompt.reshape(((), layout.prompt() / n, n, hidden))?;
    let sum = each.broadcast_add(&added.reshape(((), 1, n, hidden))?)?;
    Tensor::cat(&[text, &sum.reshape(((), hidden))?], 0)
}

fn finish(norm: Option<&Norm>, rows: Tensor) -> Result<Tensor> {
    norm.map_or_else(|| Ok(rows.clone()), |norm| norm.apply(&rows))
}

/// The mean of each example's rows, `[candidates * examples, hidden]`.
fn mean(rows: &Tensor, layout: Layout<'_>) -> Result<Tensor> {
    let (text, examples) = (layout.text(), layout.spans.len());
    let mut shares = vec![0.0_f32; examples * text];
    for (row, span) in shares.chunks_exact_mut(text).zip(layout.spans) {
        row[span.clone()].fill(1.0 / span.len() as f32);
    }
    let shares = Tensor::from_vec(shares, (1, examples, text), layout.device)?;
    let rows = rows.reshape((layout.candidates, text, ()))?;
    shares.broadcast_matmul(&rows)?.flatten(0, 1)
}
