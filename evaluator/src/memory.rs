//! What a run takes in memory, worked out from sizes alone, and what of it fits into a limit (docs/memory.md).

use shared::spec::{BatchTokens, KeepProjections};

use crate::engine;
use crate::limits::Limits;
use crate::model::Model;
use crate::projections::Keep;
use crate::session::HELD;

/// Rows of a task that `auto` chooses from: more than the first the engine does not take.
pub(crate) const TASK_CHOICES: [usize; 5] = [engine::TASK_ROWS, 256, 128, 64, 32];

/// Bytes of the process itself: its code and constants as far as they are read, its threads' stacks, the run's texts.
/// Measured: 15 MiB with the committed tiny models, of which 11 are code; a larger model's run reads 17 of it.
pub(crate) const PROGRAM_BYTES: u64 = 20 << 20;

/// Prompts that a candidate at work takes: as it is made, as it is given out, and what it adds to its rows' queries, keys
/// and values.
const CANDIDATE: u64 = 5;

/// A run's sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Training examples.
    pub examples: usize,
    /// Their rows, prompt rows included.
    pub train_rows: usize,
    /// Rows of the longest of them: a task has at least one example.
    pub longest: usize,
    /// Prompt tokens a layer.
    pub prompt_tokens: usize,
    /// Dimension of a layer's search space.
    pub dim: usize,
    /// Threads of the compute pool.
    pub threads: usize,
}

/// Bytes that a run takes in an evaluator's memory, part by part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// The weights that are held, or read from the file all the time.
    pub weights: u64,
    /// The tokenizer.
    pub tokenizer: u64,
    /// Hidden states of the training examples, which all candidates share.
    pub cached: u64,
    /// Every layer's prompts, the initial ones and the context's; those of the candidates that are worked on at once.
    pub prompts: u64,
    /// Every layer's projection, where they are kept.
    pub projections: u64,
    /// One row of a task in flight.
    pub row: u64,
    /// What each thread holds whatever its task.
    pub thread: u64,
    sizes: Sizes,
}

impl Footprint {
    /// Of a run with `model`.
    pub fn new(model: &Model, sizes: Sizes) -> Self {
        let backbone = &model.backbone;
        let prompt_rows = (sizes.examples * sizes.prompt_tokens).min(sizes.train_rows);
        let prompt = 4 * (sizes.prompt_tokens * backbone.hidden()) as u64;
        let layers = backbone.layers() as u64;
        Self {
            weights: backbone.weight_bytes() as u64,
            tokenizer: model.encoder.bytes() as u64,
            cached: engine::cached_bytes(backbone, sizes.train_rows - prompt_rows, prompt_rows),
            prompts: (4 * layers + CANDIDATE * HELD as u64) * prompt,
            projections: layers * prompt * sizes.dim as u64,
            row: engine::row_bytes(backbone),
            thread: engine::thread_bytes(backbone),
            sizes,
        }
    }

    /// Everything, with so many rows in flight.
    pub fn total(&self, max_batch_tokens: u32, keep: Keep) -> u64 {
        self.weights + self.beside_weights(max_batch_tokens, keep)
    }

    /// Everything but the weights.
    pub fn beside_weights(&self, max_batch_tokens: u32, keep: Keep) -> u64 {
        PROGRAM_BYTES + self.tokenizer + self.own(max_batch_tokens, keep)
    }

    /// What another run at the same evaluator does not share.
    pub(crate) fn own(&self, max_batch_tokens: u32, keep: Keep) -> u64 {
        let threads = self.sizes.threads.max(1);
        let rows = engine::task_rows(max_batch_tokens as usize, threads).max(self.sizes.longest);
        let in_flight = threads as u64 * (rows as u64 * self.row + self.thread);
        self.cached + self.prompts + self.kept(keep) + in_flight
    }

    /// Bytes of the projections that are kept.
    fn kept(&self, keep: Keep) -> u64 {
        match keep {
            Keep::InMemory => self.projections,
            Keep::Nothing => 0,
        }
    }

    /// What is kept, and how many rows may be in flight, for a process that may take `limit` bytes.
    ///
    /// Rows in flight come first: with too few of them every product is slower, while making projections anew costs a
    /// candidate a few per cent.
    pub fn within(&self, limits: &Limits, limit: u64) -> Kept {
        let room = limit.saturating_sub(limits.beside);
        let choices = match limits.max_batch_tokens {
            BatchTokens::Rows(rows) => vec![rows],
            BatchTokens::Auto => batch_choices(self.sizes.threads),
        };
        let most = choices.first().copied().unwrap_or(1);
        let keep = match limits.projections {
            KeepProjections::Memory => Keep::InMemory,
            KeepProjections::Regenerate => Keep::Nothing,
            KeepProjections::Auto => {
                let fits = self.total(most, Keep::InMemory) <= room && self.projections <= room / 2;
                if fits { Keep::InMemory } else { Keep::Nothing }
            }
        };
        let fitting = choices.iter().copied().find(|&rows| self.total(rows, keep) <= room);
        let max_batch_tokens = fitting.or(choices.last().copied()).unwrap_or(most);
        let bytes = self.total(max_batch_tokens, keep) + limits.beside;
        Kept { keep, projections: self.kept(keep), max_batch_tokens, bytes }
    }
}

/// What a run keeps under a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Whether the projections.
    pub keep: Keep,
    /// Bytes of those that are.
    pub projections: u64,
    /// Rows in flight at most.
    pub max_batch_tokens: u32,
    /// What it takes with these; more than the limit where even the least does not fit.
    pub bytes: u64,
}

/// Rows in flight that `auto` chooses from, the most first.
fn batch_choices(threads: usize) -> Vec<u32> {
    TASK_CHOICES.iter().map(|rows| (rows * threads.max(1)) as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: Sizes =
        Sizes { examples: 8, train_rows: 400, longest: 50, prompt_tokens: 5, dim: 10, threads: 2 };
    const MIB: u64 = 1 << 20;
    const BASE: u64 = PROGRAM_BYTES + 100 * MIB;

    fn footprint() -> Footprint {
        Footprint {
            weights: 60 * MIB,
            tokenizer: 10 * MIB,
            cached: 20 * MIB,
            prompts: 6 * MIB,
            projections: 200 * MIB,
            row: 100 * 1024,
            thread: 2 * MIB,
            sizes: SIZES,
        }
    }

    /// Rows in flight, whether projections are kept, and whether it fits.
    fn within(limits: Limits, limit: u64) -> (u32, Keep, bool) {
        let kept = footprint().within(&limits, limit);
        assert_eq!(kept.bytes, footprint().total(kept.max_batch_tokens, kept.keep) + limits.beside);
        assert_eq!(kept.projections, if kept.keep == Keep::InMemory { 200 * MIB } else { 0 });
        (kept.max_batch_tokens, kept.keep, kept.bytes <= limit)
    }

    #[test]
    fn rows_in_flight_come_before_projections_and_both_before_the_limit() {
        let auto = Limits { max_batch_tokens: BatchTokens::Auto, ..Limits::default() };
        // 100 MiB of rows in flight at 512 a task
        let all = BASE + 300 * MIB;
        assert_eq!(within(auto, u64::MAX), (1024, Keep::InMemory, true));
        assert_eq!(within(auto, all), within(auto, u64::MAX), "200 of them are half of it");
        assert_eq!(within(auto, all - 1), (1024, Keep::Nothing, true));
        assert_eq!(within(auto, BASE + 100 * MIB), (1024, Keep::Nothing, true));
        assert_eq!(within(auto, BASE + 100 * MIB - 1), (512, Keep::Nothing, true));
        assert_eq!(within(auto, BASE + 13 * MIB), (128, Keep::Nothing, true));
        // below the longest example's rows nothing is saved
        assert_eq!(within(auto, BASE + 8 * MIB), (64, Keep::Nothing, false));
    }

    #[test]
    fn what_is_stated_is_taken_and_what_is_anothers_is_left() {
        let stated = |projections| Limits { projections, ..Limits::default() };
        let rows = shared::spec::DEFAULT_MAX_BATCH_TOKENS as u32;
        assert_eq!(within(stated(KeepProjections::Memory), BASE), (rows, Keep::InMemory, false));
        assert_eq!(within(stated(KeepProjections::Regenerate), u64::MAX), (rows, Keep::Nothing, true));
        let beside = Limits { beside: MIB, ..Limits::default() };
        assert_eq!(within(beside, BASE + 301 * MIB), (rows, Keep::InMemory, true));
        assert_eq!(within(beside, BASE + 301 * MIB - 1), (rows, Keep::Nothing, true));
    }
}
