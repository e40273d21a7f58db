//! The forward pass of one chunk on a device: some candidates with some examples, from some layer to the top.

use candle_core::{Result, Tensor};

use super::backbone::{DeviceBackbone, Stack};
use super::block::{Input, Known, Next, Shift};
use super::look::index;
use super::mean::mean;
use super::parts::{Added, Entering, Norm};
use super::plan::{Layout, Own, Plan};
use super::plans::{Plans, Stage};
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
    /// Projections there that are known.
    pub(super) known: Option<Known>,
}

/// What candidates bring to the first layer.
pub(super) struct Brought {
    /// Their prompts in the form that the layer takes, `[candidates * n, ..]`.
    pub(super) prompts: Tensor,
    /// What these add to their rows' projections, where those are linear.
    pub(super) shift: Option<Shift>,
}

impl Brought {
    /// That of some of them, by the prompts' rows.
    pub(super) fn part(&self, first: usize, count: usize) -> Result<Self> {
        let of = |tensor: &Tensor| tensor.narrow(0, first, count);
        let shift = |shift: &Shift| {
            let query = shift.query.as_ref().map(of).transpose()?;
            Ok::<_, candle_core::Error>(Shift { query, key_value: of(&shift.key_value)? })
        };
        Ok(Self { prompts: of(&self.prompts)?, shift: self.shift.as_ref().map(shift).transpose()? })
    }
}

/// The prompts that a chunk runs under.
#[derive(Clone, Copy)]
pub(super) struct Prompts<'a> {
    /// Each layer's, `[n, hidden]`, or keys and values, `[n, 2 * keys * width]`.
    pub(super) deep: &'a [Tensor],
    /// The candidates' at the first layer.
    pub(super) candidates: Option<&'a Brought>,
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
        (layout, plans): (Layout<'_>, &mut Plans),
        start: Start,
        prompts: Prompts<'_>,
        reading: Reading<'_>,
    ) -> Result<Tensor> {
        let top = match reading.reads {
            Reads::One => Wanted::One(reading.picks),
            Reads::Text => Wanted::Text,
            Reads::All => Wanted::All,
        };
        let rows = self.stack((layout, &mut *plans), start, prompts, top)?;
        let rows = finish(self.final_norm.as_ref(), rows)?;
        let rows = match (&self.decoder, reading.given, reading.reads) {
            (Some(decoder), Some(given), _) => self.decode(decoder, plans, (&rows, layout), given)?,
            (_, _, Reads::Text) => mean(&rows, layout, &mut plans.shares)?,
            _ => rows,
        };
        match &self.transform {
            Some(transform) if reading.transformed => {
                let dense = self.ops.linear(&transform.dense, &rows)?;
                transform.norm.apply(&self.ops.activate(transform.activation, false, &dense)?)
            }
            _ => Ok(rows),
        }
    }

    /// All layers from the start on.
    fn stack(
        &self,
        (layout, plans): (Layout<'_>, &mut Plans),
        start: Start,
        prompts: Prompts<'_>,
        top: Wanted<'_>,
    ) -> Result<Tensor> {
        let last = self.blocks.len() - 1;
        let Start { layer: first, text, prompt, known } = start;
        let (count, own) = (layout.candidates * layout.text(), layout.candidates * layout.prompt());
        let brought = prompts.candidates.map(|brought| &brought.prompts);
        let added = brought.or(prompts.deep.get(first));
        let (mut rows, own_entering) =
            self.entering(first, layout.place.rows, (&text, prompt.as_ref()), added)?;
        let mut entering = own_entering.filter(|_| known.is_some());
        for layer in first..=last {
            let (entering_here, at_top) = (layer == first, layer == last);
            let prefix_each = entering_here && brought.is_some();
            let here = Layout { text_shared: entering_here, prefix_each, ..layout };
            let known = known.as_ref().filter(|_| entering_here);
            let stage = Stage::Layer { first: entering_here, last: at_top };
            let wanted = if at_top { top } else { Wanted::All };
            let plan = plans.of(stage, || here.plan(wanted, known.is_some()))?;
            let added = brought.filter(|_| entering_here).or(prompts.deep.get(layer));
            let prefix = added.filter(|_| here.own == Own::Prefix);
            let shift = prompts.candidates.and_then(|brought| brought.shift.as_ref());
            let input = Input { entering: entering.as_ref(), prefix, known, shift, ..Input::of(&rows) };
            let next = match self.blocks.get(layer + 1) {
                Some(block) => Next {
                    prompt: prompts
                        .deep
                        .get(layer + 1)
                        .filter(|_| own > 0)
                        .map(|prompt| Added { prompt, first: count }),
                    norm: block.attention_norms.input.as_ref(),
                },
                None => Next::default(),
            };
            let left = self.blocks[layer].forward(input, plan, next)?;
            (rows, entering) = (left.stream, Some(left.entering));
        }
        Ok(rows)
    }

    /// The decoder's rows that are read, over an encoder's output.
    fn decode(
        &self,
        decoder: &Stack,
        plans: &mut Plans,
        (encoded, encoder): (&Tensor, Layout<'_>),
        given: Rows<'_>,
    ) -> Result<Tensor> {
        let encoder = Layout { text_shared: false, ..encoder };
        let (place, own) = (Place::default(), Own::Rows);
        let (mut rows, mut entering) = (self.rows(given.text)?, None);
        let last = decoder.blocks.len() - 1;
        for (layer, block) in decoder.blocks.iter().enumerate() {
            let here = Layout { spans: given.spans, place, own, text_shared: layer == 0, ..encoder };
            let wanted = if layer == last { Wanted::One(given.picks) } else { Wanted::Text };
            let plan = plans.of(Stage::Decoder { first: layer == 0, last: layer == last }, || {
                let across = Some(here.across(&encoder, wanted)?);
                Ok(Plan { across, ..here.plan(wanted, false)? })
            })?;
            let input = Input { entering: entering.as_ref(), encoded: Some(encoded), ..Input::of(&rows) };
            let norm = decoder.blocks.get(layer + 1).and_then(|next| next.attention_norms.input.as_ref());
            let left = block.forward(input, plan, Next { norm, prompt: None })?;
            (rows, entering) = (left.stream, Some(left.entering));
        }
        finish(decoder.final_norm.as_ref(), rows)
    }

    /// The rows that enter a layer: the text's, and in `add` the prompt's with the layer's prompt added to each
    /// example's; and those of the prompt as the layer reads them.
    pub(super) fn entering(
        &self,
        layer: usize,
        n: usize,
        (text, prompt): (&Tensor, Option<&Tensor>),
        added: Option<&Tensor>,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let (Some(rows), Some(prompts)) = (prompt, added) else { return Ok((text.clone(), None)) };
        let next = self.blocks[layer].attention_norms.input.as_ref();
        let entered = self.ops.enter(&Entering { rows, prompts, n, next })?;
        Ok((Tensor::cat(&[text, &entered.stream], 0)?, Some(entered.entering)))
    }

    /// Prompts `[count * n, hidden]` as the blocks of `layer` take them.
    pub(super) fn form(&self, layer: usize, own: Own, place: Place, prompts: &Tensor) -> Result<Tensor> {
        if own != Own::Prefix {
            return Ok(prompts.clone());
        }
        let positions = (0..prompts.dim(0)?).map(|row| place.prompt(row % place.rows));
        self.blocks[layer].prefix(prompts, &index(&self.device, positions)?)
    }
}

fn finish(norm: Option<&Norm>, rows: Tensor) -> Result<Tensor> {
    norm.map_or_else(|| Ok(rows.clone()), |norm| norm.apply(&rows))
}
