//! Plans that are kept: chunks of a population have the same layout again and again, and an index tensor that is not
//! made anew is not waited for.

use std::ops::Range;

use candle_core::Result;

use super::mean::Shares;
use super::plan::Plan;

/// Numbers that an engine keeps at most, 128 MiB, before the chunk that it works on.
const ROOM: usize = 32 << 20;

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
pub(super) struct Plans {
    stages: Vec<(Stage, Plan)>,
    /// What each row counts in its example's mean: see `mean.rs`.
    pub(super) shares: Option<Shares>,
}

impl Plans {
    pub(super) fn of(&mut self, stage: Stage, make: impl FnOnce() -> Result<Plan>) -> Result<&Plan> {
        let place = match self.stages.iter().position(|(known, _)| *known == stage) {
            Some(place) => place,
            None => {
                self.stages.push((stage, make()?));
                self.stages.len() - 1
            }
        };
        Ok(&self.stages[place].1)
    }

    /// Numbers that these hold on the device by now.
    fn numbers(&self) -> usize {
        let plans: usize = self.stages.iter().map(|(_, plan)| plan.numbers()).sum();
        plans + self.shares.as_ref().map_or(0, Shares::numbers)
    }
}

/// What decides on a chunk's plans: its examples and its number of candidates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) examples: Range<usize>,
    pub(super) candidates: usize,
}

/// The plans of an engine's chunks.
pub(super) struct Kept {
    /// Numbers that are kept at most, before the chunk that is asked for.
    room: usize,
    /// The least recently used first.
    chunks: Vec<(Chunk, Plans)>,
}

impl Default for Kept {
    fn default() -> Self {
        Self { room: ROOM, chunks: Vec::new() }
    }
}

impl Kept {
    /// Those of one chunk. Where others leave no room for it, those go that were not used for longest: as a race or a
    /// fleet changes, chunks are cut that never come again.
    pub(super) fn of(&mut self, chunk: Chunk) -> &mut Plans {
        let place = self.chunks.iter().position(|(known, _)| *known == chunk);
        let asked = place.map_or_else(|| (chunk, Plans::default()), |place| self.chunks.remove(place));
        let mut numbers = self.numbers();
        while numbers > self.room && !self.chunks.is_empty() {
            numbers -= self.chunks.remove(0).1.numbers();
        }
        self.chunks.push(asked);
        let last = self.chunks.len() - 1;
        &mut self.chunks[last].1
    }

    fn numbers(&self) -> usize {
        self.chunks.iter().map(|(_, plans)| plans.numbers()).sum()
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use super::*;
    use crate::backbone::{Place, Wanted};
    use crate::device::mean::mean;
    use crate::device::plan::{Layout, Own};

    const SPANS: [Range<usize>; 3] = [0..20, 20..40, 40..60];
    const STAGE: Stage = Stage::Layer { first: false, last: false };

    fn layout(candidates: usize) -> Layout<'static> {
        Layout {
            device: &Device::Cpu,
            candidates,
            spans: &SPANS,
            place: Place::default(),
            own: Own::Rows,
            text_shared: false,
            prefix_each: false,
        }
    }

    /// Whether a chunk's plan had to be made.
    fn made(kept: &mut Kept, candidates: usize) -> bool {
        let mut made = false;
        let plan = || {
            made = true;
            layout(candidates).plan(Wanted::All, false)
        };
        kept.of(Chunk { examples: 0..3, candidates }).of(STAGE, plan).unwrap();
        made
    }

    #[test]
    fn the_least_recently_used_go_where_there_is_no_more_room() {
        let mut kept = Kept { room: 30_000, ..Kept::default() };
        assert!(made(&mut kept, 1) && !made(&mut kept, 1), "once");
        for candidates in 2..40 {
            assert!(made(&mut kept, candidates) && !made(&mut kept, candidates), "whatever came before");
            assert!(!made(&mut kept, 1), "what is used again stays");
            let last = layout(candidates).plan(Wanted::All, false).unwrap().numbers();
            assert!(kept.numbers() <= kept.room + last, "{candidates}: {}", kept.numbers());
        }
        assert!(kept.chunks.len() > 1 && !made(&mut kept, 39), "the last but one is still there");
        assert!(made(&mut kept, 2), "one that was not used for long has gone");
    }

    #[test]
    fn all_that_lies_on_the_device_counts() {
        let (layout, mut plans) = (layout(2), Plans::default());
        let plan = plans.of(STAGE, || layout.plan(Wanted::All, false)).unwrap();
        let indices = plan.numbers();
        // queries, keys, what is wanted, and two times positions
        assert_eq!(indices, 5 * 2 * 60);
        plan.look.mask(crate::backbone::Sight::Back).unwrap();
        assert_eq!(plans.numbers(), indices + 3 * 20 * 20, "a mask");
        let rows = Tensor::zeros((2 * 60, 8), DType::F32, &Device::Cpu).unwrap();
        mean(&rows, layout, &mut plans.shares).unwrap();
        assert_eq!(plans.numbers(), indices + 3 * 20 * 20 + 2 * 60, "rows and weights of a mean");
    }
}
