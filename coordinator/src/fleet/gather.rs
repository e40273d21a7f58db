//! Puts the answers of a job together, in the order of candidates and examples, whoever answered. Pure.

use std::collections::BTreeMap;

use shared::ids::EvaluatorId;
use shared::messages::Outcome;

use super::cut::Piece;

/// Stands for nobody: evaluators are counted from 1.
const NOBODY: EvaluatorId = EvaluatorId(0);

/// The results of a job, as far as they have come.
#[derive(Clone, Debug)]
pub(super) struct Assembly {
    examples: usize,
    classes: usize,
    with_logits: bool,
    outcomes: Vec<Outcome>,
    /// Whose answer each cell holds, `[candidates * examples]`.
    by: Vec<EvaluatorId>,
    /// Cells of each evaluator that has filled any.
    filled: BTreeMap<EvaluatorId, usize>,
    missing: usize,
}

impl Assembly {
    /// Room for `candidates` on `examples`; a score brings `classes` logits an example, a generation none.
    pub(super) fn new(candidates: usize, examples: usize, classes: usize, with_logits: bool) -> Self {
        let logits = if with_logits { examples * classes } else { 0 };
        let empty =
            Outcome { losses: vec![0.0; examples], predicted: vec![0; examples], logits: vec![0.0; logits] };
        Self {
            examples,
            classes,
            with_logits,
            outcomes: vec![empty; candidates],
            by: vec![NOBODY; candidates * examples],
            filled: BTreeMap::new(),
            missing: candidates * examples,
        }
    }

    /// Whether an answer has the shape that `piece` asks for.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(super) fn check(&self, piece: &Piece, outcomes: &[Outcome]) -> Result<(), String> {
        let examples = piece.examples.len();
        let logits = if self.with_logits { examples * self.classes } else { 0 };
        let expect = |what: &str, got: usize, wanted: usize| {
            if got == wanted {
                Ok(())
            } else {
                Err(format!("an answer with {got} {what}, {wanted} expected"))
            }
        };
        expect("outcomes", outcomes.len(), piece.candidates.len())?;
        for outcome in outcomes {
            expect("losses", outcome.losses.len(), examples)?;
            expect("predictions", outcome.predicted.len(), examples)?;
            expect("logits", outcome.logits.len(), logits)?;
            if let Some(class) = outcome.predicted.iter().find(|&&class| class as usize >= self.classes) {
                return Err(format!("an answer that predicts class {class} of {}", self.classes));
            }
        }
        Ok(())
    }

    /// Takes a checked answer, for the cells that nobody has answered.
    pub(super) fn place(&mut self, piece: &Piece, by: EvaluatorId, outcomes: &[Outcome]) {
        let classes = if self.with_logits { self.classes } else { 0 };
        let start = piece.examples.start as usize;
        let mut placed = 0;
        for (candidate, outcome) in piece.candidates.clone().zip(outcomes) {
            let row = &mut self.outcomes[candidate];
            for (from, to) in (start..piece.examples.end as usize).enumerate() {
                let owner = &mut self.by[candidate * self.examples + to];
                if *owner != NOBODY {
                    continue;
                }
                *owner = by;
                placed += 1;
                row.losses[to] = outcome.losses[from];
                row.predicted[to] = outcome.predicted[from];
                let logits = &outcome.logits[from * classes..(from + 1) * classes];
                row.logits[to * classes..(to + 1) * classes].copy_from_slice(logits);
            }
        }
        self.missing -= placed;
        if placed > 0 {
            *self.filled.entry(by).or_default() += placed;
        }
    }

    /// Whether nobody has answered a cell.
    pub(super) fn open(&self, candidate: usize, example: u32) -> bool {
        self.by[candidate * self.examples + example as usize] == NOBODY
    }

    /// Whether any cell of a piece has no answer.
    pub(super) fn wants(&self, piece: &Piece) -> bool {
        self.missing > 0
            && piece.candidates.clone().any(|c| piece.examples.clone().any(|example| self.open(c, example)))
    }

    /// Takes out what one evaluator has answered; says whether that was anything.
    pub(super) fn unfill(&mut self, by: EvaluatorId) -> bool {
        let Some(cells) = self.filled.remove(&by) else { return false };
        self.by.iter_mut().filter(|owner| **owner == by).for_each(|owner| *owner = NOBODY);
        self.missing += cells;
        true
    }

    /// Candidates with cells that have no answer.
    pub(super) fn incomplete(&self) -> impl Iterator<Item = usize> {
        let rows = self.by.chunks_exact(self.examples.max(1)).enumerate();
        rows.filter(|(_, row)| row.contains(&NOBODY)).map(|(candidate, _)| candidate)
    }

    /// Makes the losses of incomplete candidates infinite; says how many they are.
    pub(super) fn give_up(&mut self) -> usize {
        let incomplete: Vec<usize> = self.incomplete().collect();
        for &candidate in &incomplete {
            self.outcomes[candidate].losses.fill(f32::INFINITY);
            self.outcomes[candidate].predicted.fill(0);
        }
        incomplete.len()
    }

    /// Cells without an answer.
    pub(super) fn missing(&self) -> usize {
        self.missing
    }

    /// Everything there is to fill.
    pub(super) fn whole(&self) -> Piece {
        Piece { candidates: 0..self.outcomes.len(), examples: 0..self.examples as u32 }
    }

    /// Whose answers it holds.
    pub(super) fn evaluators(&self) -> impl Iterator<Item = EvaluatorId> {
        self.filled.keys().copied()
    }

    /// One outcome a candidate, in order.
    pub(super) fn outcomes(self) -> Vec<Outcome> {
        self.outcomes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BY: EvaluatorId = EvaluatorId(1);

    fn outcome(losses: &[f32], classes: usize) -> Outcome {
        let logits = losses.iter().flat_map(|&loss| vec![loss; classes]).collect();
        Outcome { losses: losses.to_vec(), predicted: vec![0; losses.len()], logits }
    }

    /// What an honest evaluator answers.
    fn answer(piece: &Piece) -> Vec<Outcome> {
        let row = |c: usize| piece.examples.clone().map(|e| (10 * c) as f32 + e as f32).collect::<Vec<_>>();
        piece.candidates.clone().map(|c| outcome(&row(c), 0)).collect()
    }

    #[test]
    fn pieces_in_any_order_and_overlapping_give_the_same_whole() {
        let piece = |candidates, examples| Piece { candidates, examples };
        let pieces = [piece(0..2, 0..4), piece(2..3, 1..4), piece(1..3, 0..2)];
        let whole = |order: Vec<&Piece>| {
            let mut assembly = Assembly::new(3, 4, 2, false);
            for piece in order {
                assembly.check(piece, &answer(piece)).unwrap();
                assembly.place(piece, BY, &answer(piece));
            }
            assert_eq!((assembly.missing(), assembly.wants(&assembly.whole())), (0, false));
            assembly.outcomes()
        };
        let forwards = whole(pieces.iter().collect());
        assert_eq!(forwards, whole(pieces.iter().rev().collect()));
        assert_eq!(forwards[2].losses, [20.0, 21.0, 22.0, 23.0]);
    }

    #[test]
    fn only_the_first_answer_to_a_cell_counts() {
        let mut assembly = Assembly::new(1, 2, 2, false);
        let (first, both) = (Piece { candidates: 0..1, examples: 0..1 }, assembly.whole());
        assembly.place(&first, EvaluatorId(4), &[outcome(&[1.0], 0)]);
        assert!(!assembly.wants(&first) && assembly.wants(&both));
        assembly.place(&both, EvaluatorId(3), &[outcome(&[5.0, 6.0], 0)]);
        assembly.place(&both, EvaluatorId(9), &[outcome(&[7.0, 7.0], 0)]);
        assert_eq!(assembly.evaluators().collect::<Vec<_>>(), [EvaluatorId(3), EvaluatorId(4)]);
        assert_eq!(assembly.outcomes()[0].losses, [1.0, 6.0]);
    }

    #[test]
    fn what_one_has_answered_can_be_taken_out() {
        let mut assembly = Assembly::new(1, 3, 2, false);
        let (first, whole) = (Piece { candidates: 0..1, examples: 0..1 }, assembly.whole());
        assembly.place(&first, EvaluatorId(4), &[outcome(&[1.0], 0)]);
        assembly.place(&whole, EvaluatorId(3), &[outcome(&[5.0, 6.0, 7.0], 0)]);
        assert!(assembly.unfill(EvaluatorId(3)) && !assembly.unfill(EvaluatorId(3)));
        assert_eq!((assembly.missing(), assembly.open(0, 0), assembly.open(0, 1)), (2, false, true));
        assembly.place(&whole, EvaluatorId(4), &[outcome(&[8.0, 8.0, 8.0], 0)]);
        assert_eq!(assembly.outcomes()[0].losses, [1.0, 8.0, 8.0]);
    }

    #[test]
    fn candidates_that_have_not_come_in_are_the_worst() {
        let mut assembly = Assembly::new(2, 2, 2, false);
        let piece = Piece { candidates: 0..1, examples: 0..2 };
        assembly.place(&piece, BY, &[outcome(&[1.0, 2.0], 0)]);
        let piece = Piece { candidates: 1..2, examples: 0..1 };
        assembly.place(&piece, BY, &[outcome(&[0.5], 0)]);
        assert_eq!(assembly.give_up(), 1);
        let outcomes = assembly.outcomes();
        assert_eq!(outcomes[0].losses, [1.0, 2.0]);
        assert_eq!(outcomes[1].losses, [f32::INFINITY; 2]);
    }

    #[test]
    fn logits_land_at_their_examples() {
        let mut assembly = Assembly::new(1, 3, 2, true);
        let piece = Piece { candidates: 0..1, examples: 1..3 };
        assembly.place(&piece, BY, &[outcome(&[5.0, 6.0], 2)]);
        assert_eq!(assembly.outcomes()[0].logits, [0.0, 0.0, 5.0, 5.0, 6.0, 6.0]);
    }

    #[test]
    fn wrong_shapes_are_told() {
        let assembly = Assembly::new(2, 3, 2, false);
        let piece = Piece { candidates: 0..2, examples: 0..3 };
        let says = |outcomes: &[Outcome]| assembly.check(&piece, outcomes).unwrap_err();
        assert_eq!(says(&[]), "an answer with 0 outcomes, 2 expected");
        let short = [outcome(&[1.0, 2.0], 0), outcome(&[1.0, 2.0], 0)];
        assert_eq!(says(&short), "an answer with 2 losses, 3 expected");
        let logits = [outcome(&[1.0; 3], 2), outcome(&[1.0; 3], 2)];
        assert_eq!(says(&logits), "an answer with 6 logits, 0 expected");
        let mut class = [outcome(&[1.0; 3], 0), outcome(&[1.0; 3], 0)];
        class[1].predicted[2] = 2;
        assert_eq!(says(&class), "an answer that predicts class 2 of 2");
    }
}
