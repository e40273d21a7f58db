//! One generation or score on its way: what waits, who holds what, what has come back. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::{Duration, Instant};

use shared::ids::{ContextVersion, EvaluatorId, Layer, LeaseId, RunId};
use shared::messages::{Canary, ExampleSet, Outcome, Prepare, Prompted, Ready, Refusal, Work};
use shared::task::{Example, Loss};

use super::canary::Canaries;
use super::cut::{Blame, CRUMB, Limits, Piece, Waiting, rectangles};
use super::gather::Assembly;
use super::run::Run;

/// What a job asks for.
#[derive(Clone, Debug)]
pub(super) enum Task {
    /// Losses of candidates of one layer on these training examples, or what of them there is by the deadline.
    Evaluate { layer: Layer, candidates: Vec<Vec<f32>>, examples: Range<u32>, deadline: Option<Duration> },
    /// Losses, predictions and logits of one deep prompt.
    Score { prompt: Prompted, examples: ExampleSet },
}

impl Task {
    /// Operations of one candidate on one example, as far as they are known; only proportions matter.
    fn cell_cost(&self, prepare: &Prepare, ready: Option<&Ready>) -> f64 {
        let layer = match self {
            Self::Evaluate { layer, .. } => layer.index(),
            Self::Score { .. } => 0, // nothing of it is cached
        };
        let flops = ready.and_then(|ready| ready.flops.get(layer));
        let cost = flops.map(|flops| flops / prepare.train.len().max(1) as f64);
        cost.filter(|cost| cost.is_finite() && *cost > 0.0).unwrap_or(1.0) // an evaluator says what it likes
    }
}

/// A job.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) run: RunId,
    pub(super) version: ContextVersion,
    /// Operations of one cell.
    pub(super) cost: f64,
    /// What waits for an evaluator.
    pub(super) waiting: Vec<Waiting>,
    /// Cells that each may still take of it, until it is divided again.
    pub(super) shares: BTreeMap<EvaluatorId, f64>,
    /// When they were last made.
    pub(super) divided: Option<Instant>,
    /// Leases out on it, given by or given up in vain.
    pub(super) out: BTreeSet<LeaseId>,
    /// The longest that an answered lease took.
    pub(super) slowest: Option<Duration>,
    /// When somebody could begin with it.
    pub(super) begun: Option<Instant>,
    pub(super) canaries: Canaries,
    task: Task,
    limits: Limits,
    assembly: Assembly,
}

impl Job {
    /// # Errors
    /// [`Refusal::Failed`] when the task does not fit what the run was prepared with.
    pub(super) fn new(run: &Run, version: ContextVersion, task: Task) -> Result<Self, Refusal> {
        let (prepare, ready, narrow) = (&run.prepare, run.ready.as_ref(), run.narrow());
        fits(prepare, &task)?;
        let classes = prepare.words.len();
        let (limits, assembly) = match &task {
            Task::Evaluate { candidates, examples, .. } => (
                Limits::kept(examples.len(), prepare.dim as usize),
                Assembly::new(candidates.len(), examples.len(), classes, false),
            ),
            Task::Score { examples, .. } => {
                let limits = match examples {
                    ExampleSet::Inline(examples) => Limits::inline(examples.iter().map(sent_bytes).collect()),
                    kept => Limits::kept(kept.len(), 0),
                };
                (limits, Assembly::new(1, examples.len(), classes, true))
            }
        };
        let everything = Waiting { piece: assembly.whole(), blame: Blame::default() };
        Ok(Self {
            run: prepare.run,
            version,
            cost: task.cell_cost(prepare, ready),
            waiting: Some(everything).filter(|all| all.piece.cells() > 0).into_iter().collect(),
            shares: BTreeMap::new(),
            divided: None,
            out: BTreeSet::new(),
            slowest: None,
            begun: None,
            canaries: Canaries::new(prepare.loss == Loss::Metric, narrow),
            task,
            limits,
            assembly,
        })
    }

    /// Whether it evaluates candidates.
    pub(super) fn evaluates(&self) -> bool {
        matches!(self.task, Task::Evaluate { .. })
    }

    /// Examples of the job.
    pub(super) fn width(&self) -> usize {
        self.limits.width()
    }

    /// The least part of a candidate that is worth a lease behind another one, in cells.
    pub(super) fn crumb(&self) -> f64 {
        self.width() as f64 * CRUMB
    }

    /// Cells that wait.
    pub(super) fn waiting_cells(&self) -> usize {
        self.waiting.iter().map(|waiting| waiting.piece.cells()).sum()
    }

    /// Candidates that are not answered completely.
    pub(super) fn open_candidates(&self) -> usize {
        self.assembly.incomplete().count()
    }

    /// The largest piece that waits and `fits`: what is left of candidates that were cut goes last.
    pub(super) fn largest(&self, fits: impl Fn(&Waiting) -> bool) -> Option<usize> {
        let fitting = self.waiting.iter().enumerate().filter(|(_, waiting)| fits(waiting));
        let key = |(index, waiting): &(usize, &Waiting)| (waiting.piece.cells(), std::cmp::Reverse(*index));
        fitting.max_by_key(key).map(|(index, _)| index)
    }

    /// Cuts about `cells` off a piece that waits.
    pub(super) fn cut(&mut self, index: usize, cells: f64) -> Waiting {
        let Waiting { piece, blame } = self.waiting.swap_remove(index);
        let (piece, rest) = self.limits.cut(piece, cells);
        let left = |piece| Waiting { piece, blame: blame.clone() };
        self.waiting.extend(rest.into_iter().map(left));
        Waiting { piece, blame }
    }

    /// Cuts about `cells` off pieces that somebody has, the largest first.
    pub(super) fn cut_copy(&self, pieces: &mut Vec<Piece>, cells: f64) -> Option<Piece> {
        let largest = (0..pieces.len()).max_by_key(|&index| pieces[index].cells())?;
        let (piece, rest) = self.limits.cut(pieces.swap_remove(largest), cells);
        pieces.extend(rest);
        Some(piece)
    }

    /// What is still open of a piece waits again, but for what is `covered`.
    pub(super) fn reopen(&mut self, piece: &Piece, blame: &Blame, covered: impl Fn(usize, u32) -> bool) {
        let open = |candidate, example| {
            let waits = || self.waiting.iter().any(|waiting| waiting.piece.has(candidate, example));
            self.assembly.open(candidate, example) && !covered(candidate, example) && !waits()
        };
        let again = rectangles(piece, open);
        self.waiting.extend(again.into_iter().map(|piece| Waiting { piece, blame: blame.clone() }));
    }

    /// The work of a piece, as a lease carries it; with the job's canary, where it is asked for.
    pub(super) fn work(&self, piece: &Piece, canary: bool) -> Work {
        let (rows, columns) = (piece.candidates.clone(), piece.examples.clone());
        let within = |start: u32| start + columns.start..start + columns.end;
        match &self.task {
            Task::Evaluate { layer, candidates, examples, .. } => {
                let first = candidates.first().filter(|_| canary);
                let canary = first.map(|z| Canary { z: z.clone(), example: examples.start });
                let candidates = candidates.iter().skip(rows.start).take(rows.len()).cloned().collect();
                Work::Evaluate { layer: *layer, candidates, examples: within(examples.start), canary }
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

    /// Takes an answer for the cells that have none.
    ///
    /// # Errors
    /// What is wrong with its shape.
    pub(super) fn take(
        &mut self,
        piece: &Piece,
        by: EvaluatorId,
        took: Duration,
        outcomes: &[Outcome],
    ) -> Result<(), String> {
        self.assembly.check(piece, outcomes)?;
        if self.assembly.wants(piece) {
            self.assembly.place(piece, by, outcomes);
            self.slowest = self.slowest.max(Some(took));
        }
        Ok(())
    }

    /// What waits and has been answered meanwhile, by one who was thought to be late, waits no longer.
    pub(super) fn forget_answered(&mut self) {
        let assembly = &self.assembly;
        let open = |Waiting { piece, blame }: Waiting| {
            let open = rectangles(&piece, |candidate, example| assembly.open(candidate, example));
            open.into_iter().map(move |piece| Waiting { piece, blame: blame.clone() })
        };
        self.waiting = std::mem::take(&mut self.waiting).into_iter().flat_map(open).collect();
    }

    /// Whether any cell of a piece has no answer.
    pub(super) fn wants(&self, piece: &Piece) -> bool {
        self.assembly.wants(piece)
    }

    /// Whether its deadline has passed and at least half of its candidates have come in: a search bears a few that have
    /// not, and learns nothing from fewer.
    pub(super) fn expired(&self, now: Instant) -> bool {
        let Task::Evaluate { deadline: Some(deadline), candidates, .. } = &self.task else { return false };
        let late = self.begun.is_some_and(|begun| now.saturating_duration_since(begun) >= *deadline);
        late && 2 * self.assembly.incomplete().count() <= candidates.len()
    }

    /// Gives the candidates that have not come in the worst loss there is; says how many they are.
    pub(super) fn give_up(&mut self) -> usize {
        self.assembly.give_up()
    }

    /// Whether every cell has been answered.
    pub(super) fn complete(&self) -> bool {
        self.assembly.missing() == 0
    }

    /// Whose answers count.
    pub(super) fn evaluators(&self) -> Vec<EvaluatorId> {
        self.assembly.evaluators().collect()
    }

    /// Takes out what one evaluator has answered; says whether that was anything.
    pub(super) fn unfill(&mut self, by: EvaluatorId) -> bool {
        self.assembly.unfill(by)
    }

    /// All of it.
    pub(super) fn whole(&self) -> Piece {
        self.assembly.whole()
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
