//! The decoder of an encoder-decoder model: what it is given, and its blocks over the encoder's output.

use super::block::{Block, Hidden, Input, PromptRows, Scratch, Wanted};
use super::choices::{Norm, Place};
use super::cross::Encoded;
use super::{Embeddings, Rows};

/// What a decoder is given, and which of its rows is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Given {
    /// This token and the mask, whatever the example; read after the mask (T5: start, `<extra_id_0>`).
    Mask(u32),
    /// The encoder's own tokens behind this one, the last left out; read at the mask's row (BART: `</s>`).
    Shifted(u32),
}

/// Weights of a decoder.
#[derive(Debug)]
pub(crate) struct Decoder {
    pub(crate) given: Given,
    pub(crate) embeddings: Embeddings,
    pub(crate) blocks: Vec<Block>,
    pub(crate) final_norm: Option<Norm>,
}

impl Decoder {
    /// Runs embedded rows through all blocks; `out.text` holds one row an example afterwards, after the final norm.
    pub(crate) fn run(
        &self,
        given: Rows<'_>,
        encoded: Encoded<'_>,
        scratch: &mut Scratch,
        (now, out): (&mut Hidden, &mut Hidden),
    ) {
        out.text.clear();
        out.text.extend_from_slice(given.text);
        for (layer, block) in self.blocks.iter().enumerate() {
            std::mem::swap(now, out);
            let last = layer + 1 == self.blocks.len();
            let wanted = if last { Wanted::One(given.picks) } else { Wanted::Text };
            let input = Input {
                text: &now.text,
                spans: given.spans,
                place: Place::default(),
                prompt: PromptRows::None,
                known: None,
                encoded: Some(encoded),
            };
            block.forward(input, wanted, scratch, out);
        }
        if let Some(norm) = &self.final_norm {
            norm.apply(&mut out.text);
        }
    }
}
