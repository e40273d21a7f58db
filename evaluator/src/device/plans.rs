//! Plans that are kept: chunks of a population have the same layout again and again, and an index tensor that is not
//! made anew is not waited for.

use std::ops::Range;

use candle_core::Result;

use super::mean::Shares;
use super::plan::Plan;

/// Numbers that are kept at most, 128 MiB, before the last chunk's.
const KEPT: usize = 32 << 20;

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

    fn numbers(&self) -> usize {
        self.stages.iter().map(|(_, plan)| plan.numbers()).sum()
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
pub(super) struct Kept {
    chunks: Vec<(Chunk, Plans)>,
    /// Those of a chunk that there was no room for.
    spare: Plans,
}

impl Kept {
    /// Those of one chunk. Where there is no room the first ones stay: populations come in the same order again.
    pub(super) fn of(&mut self, chunk: Chunk) -> &mut Plans {
        let place = self.chunks.iter().position(|(known, _)| *known == chunk);
        let full = || self.chunks.iter().map(|(_, plans)| plans.numbers()).sum::<usize>() >= KEPT;
        let place = match place {
            Some(place) => place,
            None if full() => {
                self.spare = Plans::default();
                return &mut self.spare;
            }
            None => {
                self.chunks.push((chunk, Plans::default()));
                self.chunks.len() - 1
            }
        };
        &mut self.chunks[place].1
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::backbone::{Place, Wanted};
    use crate::device::plan::{Layout, Own};

    #[test]
    fn what_was_made_first_is_kept_and_no_more_than_there_is_room_for() {
        let (stage, device) = (Stage::Layer { first: false, last: false }, Device::Cpu);
        let spans = [0..2000, 2000..4000, 4000..6000];
        let mut made = 0;
        let mut ask = |kept: &mut Kept, candidates: usize| {
            let before = made;
            let place = Place::default();
            let layout = Layout {
                device: &device,
                candidates,
                spans: &spans,
                place,
                own: Own::Rows,
                text_shared: false,
                prefix_each: false,
            };
            let plans = kept.of(Chunk { examples: 0..3, candidates });
            let plan = || {
                made += 1;
                layout.plan(Wanted::All, false)
            };
            plans.of(stage, plan).unwrap();
            made > before
        };
        let mut kept = Kept::default();
        assert!(ask(&mut kept, 1) && !ask(&mut kept, 1), "once");
        let room =
            (2..).take(20).filter(|&candidates| ask(&mut kept, candidates) && !ask(&mut kept, candidates));
        assert!((1..19).contains(&room.count()), "some, not all");
        assert!(!ask(&mut kept, 1), "the first ones stay");
    }
}
