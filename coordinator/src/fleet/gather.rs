//! Puts the answers of a job together, in the order of candidates and examples, whoever answered. Pure.

use shared::messages::Outcome;

use super::cut::Piece;

/// The results of a job, as far as they have come.
#[derive(Clone, Debug)]
pub(super) struct Assembly {
    examples: usize,
    classes: usize,
    with_logits: bool,
    outcomes: Vec<Outcome>,
}

impl Assembly {
    /// Room for `candidates` on `examples`; a score brings `classes` logits an example, a generation none.
    pub(super) fn new(candidates: usize, examples: usize, classes: usize, with_logits: bool) -> Self {
        let logits = if with_logits { examples * classes } else { 0 };
        let empty =
            Outcome { losses: vec![0.0; examples], predicted: vec![0; examples], logits: vec![0.0; logits] };
        Self { examples, classes, with_logits, outcomes: vec![empty; candidates] }
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

    /// Takes a checked answer.
    pub(super) fn place(&mut self, piece: &Piece, outcomes: Vec<Outcome>) {
        let (start, end) = (piece.examples.start as usize, piece.examples.end as usize);
        debug_assert!(end <= self.examples);
        let rows = self.outcomes.iter_mut().skip(piece.candidates.start);
        for (row, outcome) in rows.zip(outcomes) {
            row.losses[start..end].copy_from_slice(&outcome.losses);
            row.predicted[start..end].copy_from_slice(&outcome.predicted);
            if self.with_logits {
                row.logits[start * self.classes..end * self.classes].copy_from_slice(&outcome.logits);
            }
        }
    }

    /// One outcome a candidate, in order.
    pub(super) fn outcomes(self) -> Vec<Outcome> {
        self.outcomes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(losses: &[f32], classes: usize) -> Outcome {
        let logits = losses.iter().flat_map(|&loss| vec![loss; classes]).collect();
        Outcome { losses: losses.to_vec(), predicted: vec![0; losses.len()], logits }
    }

    #[test]
    fn pieces_in_any_order_give_the_same_whole() {
        let pieces = super::super::cut::generation(3, 5, 4, 12);
        let answer = |piece: &Piece| -> Vec<Outcome> {
            let row =
                |c: usize| piece.examples.clone().map(|e| (10 * c) as f32 + e as f32).collect::<Vec<_>>();
            piece.candidates.clone().map(|c| outcome(&row(c), 0)).collect()
        };
        let whole = |order: Vec<&Piece>| {
            let mut assembly = Assembly::new(3, 4, 2, false);
            for piece in order {
                assembly.check(piece, &answer(piece)).unwrap();
                assembly.place(piece, answer(piece));
            }
            assembly.outcomes()
        };
        let forwards = whole(pieces.iter().collect());
        assert_eq!(forwards, whole(pieces.iter().rev().collect()));
        assert_eq!(forwards[2].losses, [20.0, 21.0, 22.0, 23.0]);
    }

    #[test]
    fn logits_land_at_their_examples() {
        let mut assembly = Assembly::new(1, 3, 2, true);
        let piece = Piece { candidates: 0..1, examples: 1..3 };
        assembly.place(&piece, vec![outcome(&[5.0, 6.0], 2)]);
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
