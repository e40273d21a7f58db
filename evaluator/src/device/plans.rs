//! Plans that are kept: chunks of a population have the same layout again and again, and an index tensor that is not
//! made anew is not waited for.

use std::ops::Range;

use candle_core::Result;

use super::plan::Plan;

/// Chunks whose plans are kept; some megabytes each at tens of thousands of rows.
const KEPT: usize = 16;

/// Which of a chunk's passes a plan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The context's move by one layer.
    Context,
    /// A layer, from the population's to the top.
    Layer {
        /// Whether it is the population's, where the text is the same for all candidates.
        first: bool,
        /// Whether only what the head reads is wanted of it.
        last: bool,
    },
    /// A decoder's layer, likewise.
    Decoder {
        /// Whether the rows are the same for all candidates.
        first: bool,
        /// Whether only what the head reads is wanted.
        last: bool,
    },
}

/// The plans of one chunk, made when they are first needed.
#[derive(Default)]
pub(super) struct Plans(Vec<(Stage, Plan)>);

impl Plans {
    pub(super) fn of(&mut self, stage: Stage, make: impl FnOnce() -> Result<Plan>) -> Result<&Plan> {
        let place = match self.0.iter().position(|(known, _)| *known == stage) {
            Some(place) => place,
            None => {
                self.0.push((stage, make()?));
                self.0.len() - 1
            }
        };
        Ok(&self.0[place].1)
    }
}

/// What decides on a chunk's plans: its examples and its number of candidates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) examples: Range<usize>,
    pub(super) candidates: usize,
}

/// The plans of an engine's chunks.
#[derive(Default)]
pub(super) struct Kept(Vec<(Chunk, Plans)>);

impl Kept {
    /// Those of one chunk; where there are too many, those that were made first are forgotten.
    pub(super) fn of(&mut self, chunk: Chunk) -> &mut Plans {
        let place = match self.0.iter().position(|(known, _)| *known == chunk) {
            Some(place) => place,
            None => {
                if self.0.len() >= KEPT {
                    self.0.remove(0);
                }
                self.0.push((chunk, Plans::default()));
                self.0.len() - 1
            }
        };
        &mut self.0[place].1
    }
}
