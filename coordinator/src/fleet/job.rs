//! One generation or score on its way: its pieces, who holds them, what has come back. Pure.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::{Duration, Instant};

use shared::ids::{ContextVersion, EvaluatorId, Layer, LeaseId, RunId};
use shared::messages::{ExampleSet, Outcome, Prepare, Prompted, Refusal, Work};
use shared::task::Example;

use super::cut::{self, Piece};
use super::gather::Assembly;

/// What a job asks for.
#[derive(Clone, Debug)]
pub(super) enum Task {
    /// Losses of candidates of one layer on these training examples.
    Evaluate { layer: Layer, candidates: Vec<Vec<f32>>, examples: Range<u32> },
    /// Losses, predictions and logits of one deep prompt.
    Score { prompt: Prompted, examples: ExampleSet },
}

/// One piece and its fate.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) piece: Piece,
    pub(super) done: bool,
    /// How often evaluators have failed at it.
    pub(super) failures: u32,
    /// How many evaluators in a row have vanished while they were at it.
    pub(super) losses: u32,
    /// When that was last counted.
    pub(super) last_loss: Option<Instant>,
    /// Leases out on it, given by or given up in vain.
    pub(super) holders: BTreeSet<LeaseId>,
    /// Who failed it last: others are asked first.
    pub(super) failed_by: Option<EvaluatorId>,
}

/// A job.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) run: RunId,
    pub(super) version: ContextVersion,
    pub(super) parts: Vec<Part>,
    /// Parts that wait for an evaluator.
    pub(super) queue: BTreeSet<usize>,
    /// Whose answers counted.
    pub(super) evaluators: BTreeSet<EvaluatorId>,
    /// The longest that an answered lease took.
    pub(super) slowest: Option<Duration>,
    task: Task,
    assembly: Assembly,
    missing: usize,
}

impl Job {
    /// Cuts `task` for `evaluators`.
    ///
    /// # Errors
    /// [`Refusal::Failed`] when the task does not fit what the run was prepared with.
    pub(super) fn new(
        prepare: &Prepare,
        version: ContextVersion,
        task: Task,
        evaluators: usize,
    ) -> Result<Self, Refusal> {
        fits(prepare, &task)?;
        let classes = prepare.words.len();
        let (pieces, assembly) = match &task {
            Task::Evaluate { candidates, examples, .. } => {
                let (dim, examples) = (prepare.dim as usize, examples.len());
                let pieces = cut::generation(candidates.len(), dim, examples as u32, evaluators);
                (pieces, Assembly::new(candidates.len(), examples, classes, false))
            }
            Task::Score { examples, .. } => {
                let pieces = match examples {
                    ExampleSet::Inline(examples) => {
                        cut::inline(&examples.iter().map(sent_bytes).collect::<Vec<_>>(), evaluators)
                    }
                    kept => cut::score(kept.len(), evaluators),
                };
                (pieces, Assembly::new(1, examples.len(), classes, true))
            }
        };
        let part = |piece| Part {
            piece,
            done: false,
            failures: 0,
            losses: 0,
            last_loss: None,
            holders: BTreeSet::new(),
            failed_by: None,
        };
        Ok(Self {
            run: prepare.run,
            version,
            queue: (0..pieces.len()).collect(),
            missing: pieces.len(),
            parts: pieces.into_iter().map(part).collect(),
            evaluators: BTreeSet::new(),
            slowest: None,
            task,
            assembly,
        })
    }

    /// The work of one part, as a lease carries it.
    pub(super) fn work(&self, part: &Part) -> Work {
        let (rows, columns) = (part.piece.candidates.clone(), part.piece.examples.clone());
        let within = |start: u32| start + columns.start..start + columns.end;
        match &self.task {
            Task::Evaluate { layer, candidates, examples } => {
                let candidates = candidates.iter().skip(rows.start).take(rows.len()).cloned().collect();
                Work::Evaluate { layer: *layer, candidates, examples: within(examples.start) }
            }
            Task::Score { prompt, examples } => {
                let examples = match examples {
                    ExampleSet::Train(range) => ExampleSet::Train(within(range.start)),
                    ExampleSet::Dev(range) => ExampleSet::Dev(within(range.start)),
                    ExampleSet::Inline(examples) => {
                        let chosen = examples.iter().skip(columns.start as usize).take(columns.len());
                        ExampleSet::Inline(chosen.cloned().collect())
                    }
                };
                Work::Score { prompt: *prompt, examples }
            }
        }
    }

    /// Takes the first answer to a part; a later one changes nothing.
    ///
    /// # Errors
    /// What is wrong with its shape.
    pub(super) fn take(
        &mut self,
        index: usize,
        by: EvaluatorId,
        took: Duration,
        outcomes: Vec<Outcome>,
    ) -> Result<(), String> {
        let Some(part) = self.parts.get_mut(index) else {
            return Ok(());
        };
        self.assembly.check(&part.piece, &outcomes)?;
        if !part.done {
            self.assembly.place(&part.piece, outcomes);
            part.done = true;
            self.missing -= 1;
            self.queue.remove(&index);
            self.evaluators.insert(by);
            self.slowest = self.slowest.max(Some(took));
        }
        Ok(())
    }

    /// Whether every part has been answered.
    pub(super) fn complete(&self) -> bool {
        self.missing == 0
    }

    /// One outcome a candidate.
    pub(super) fn outcomes(self) -> Vec<Outcome> {
        self.assembly.outcomes()
    }
}

/// Bytes of an example on the wire: its texts, and no more than 32 for what is around them.
fn sent_bytes(example: &Example) -> usize {
    example.text.len() + example.text_pair.as_ref().map_or(0, String::len) + 32
}

/// Whether the task makes sense for the run: a defect of the caller would otherwise cost evaluators.
fn fits(prepare: &Prepare, task: &Task) -> Result<(), Refusal> {
    let within = |end: u32, examples: usize, what: &str| {
        if end as usize <= examples {
            Ok(())
        } else {
            Err(Refusal::Failed(format!("work on {what} example {end} of {examples}")))
        }
    };
    match task {
        Task::Evaluate { candidates, examples, .. } => {
            within(examples.end, prepare.train.len(), "training")?;
            let wrong = candidates.iter().find(|z| z.len() != prepare.dim as usize);
            wrong.map_or(Ok(()), |z| {
                Err(Refusal::Failed(format!("a candidate of {} numbers, {} expected", z.len(), prepare.dim)))
            })
        }
        Task::Score { examples: ExampleSet::Train(range), .. } => {
            within(range.end, prepare.train.len(), "training")
        }
        Task::Score { examples: ExampleSet::Dev(range), .. } => within(range.end, prepare.dev.len(), "dev"),
        Task::Score { examples: ExampleSet::Inline(_), .. } => Ok(()),
    }
}
