//! Cuts a population times the examples into pieces, one lease each. Pure.

use std::ops::Range;

/// Candidates that are worth a second, queued lease for every evaluator.
const WORTH_QUEUEING: usize = 8;

/// Bytes of `z` in one lease at most.
const LEASE_BYTES: usize = 1 << 20;

/// Examples at most in a lease that carries their texts.
pub(super) const INLINE_EXAMPLES: usize = 64;

/// A rectangle of a generation: these candidates on these examples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Rows of the generation.
    pub(super) candidates: Range<usize>,
    /// Columns, in example order.
    pub(super) examples: Range<u32>,
}

/// Cuts `candidates` of `dim` numbers, evaluated on `examples`, for `evaluators`.
///
/// An engine is fastest with much work at once, so each evaluator gets one piece, and a second to queue behind
/// it only when both are large. Candidates are parted first; examples only when there are fewer candidates than
/// evaluators. No piece is empty and none carries more than about 1 MiB of candidates.
pub(super) fn generation(candidates: usize, dim: usize, examples: u32, evaluators: usize) -> Vec<Piece> {
    if candidates == 0 || examples == 0 {
        return Vec::new();
    }
    let evaluators = evaluators.max(1);
    let each = if candidates / evaluators >= WORTH_QUEUEING { 2 } else { 1 };
    let largest = (LEASE_BYTES / (4 * dim.max(1))).max(1);
    let rows = (evaluators * each).max(candidates.div_ceil(largest)).min(candidates);
    let columns = evaluators.div_ceil(rows).min(examples as usize);
    let columns = even(examples as usize, columns);
    let piece = |rows: &Range<usize>, columns: &Range<usize>| Piece {
        candidates: rows.clone(),
        examples: columns.start as u32..columns.end as u32,
    };
    let rows = even(candidates, rows);
    rows.iter().flat_map(|rows| columns.iter().map(move |columns| piece(rows, columns))).collect()
}

/// Cuts a score of one deep prompt on `examples`; `inline` ones are sent in small portions.
pub(super) fn score(examples: usize, inline: bool, evaluators: usize) -> Vec<Piece> {
    let smallest = if inline { examples.div_ceil(INLINE_EXAMPLES) } else { 1 };
    let parts = evaluators.max(1).max(smallest).min(examples);
    let piece = |part: Range<usize>| Piece { candidates: 0..1, examples: part.start as u32..part.end as u32 };
    even(examples, parts).into_iter().map(piece).collect()
}

/// `parts` ranges that cover `0..total` in order, their lengths one apart at most.
fn even(total: usize, parts: usize) -> Vec<Range<usize>> {
    (0..parts).map(|part| part * total / parts..(part + 1) * total / parts).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(pieces: &[Piece], candidates: usize, examples: u32) {
        let mut seen = vec![0; candidates * examples as usize];
        for piece in pieces {
            assert!(!piece.candidates.is_empty() && !piece.examples.is_empty());
            for candidate in piece.candidates.clone() {
                for example in piece.examples.clone() {
                    seen[candidate * examples as usize + example as usize] += 1;
                }
            }
        }
        assert!(seen.iter().all(|&times| times == 1));
    }

    #[test]
    fn every_cut_covers_everything_once() {
        for candidates in [1, 2, 7, 20, 100] {
            for examples in [1, 5, 32] {
                for evaluators in [0, 1, 2, 3, 16, 200] {
                    covers(&generation(candidates, 500, examples, evaluators), candidates, examples);
                    covers(&score(examples as usize, true, evaluators), 1, examples);
                }
            }
        }
    }

    #[test]
    fn one_evaluator_gets_few_large_pieces() {
        assert_eq!(generation(20, 500, 32, 1).len(), 2);
        assert_eq!(generation(6, 500, 32, 1).len(), 1);
        assert_eq!(generation(20, 500, 32, 4).len(), 4);
    }

    #[test]
    fn examples_are_parted_when_candidates_are_few() {
        let pieces = generation(2, 500, 32, 4);
        assert_eq!(pieces.len(), 4);
        assert_eq!(pieces[1], Piece { candidates: 0..1, examples: 16..32 });
    }

    #[test]
    fn no_piece_carries_more_than_a_mebibyte() {
        let dim = 10_000;
        for piece in generation(1000, dim, 8, 1) {
            assert!(piece.candidates.len() * dim * 4 <= LEASE_BYTES);
        }
    }

    #[test]
    fn inline_examples_go_in_small_portions() {
        let pieces = score(1000, true, 1);
        assert!(pieces.iter().all(|piece| piece.examples.len() <= INLINE_EXAMPLES));
        assert_eq!(score(1000, false, 1).len(), 1);
        assert_eq!(score(1000, false, 3).len(), 3);
        assert!(score(0, true, 3).is_empty());
    }
}
