//! Cuts a population times the examples into pieces, one lease each. Pure.

use std::ops::Range;

/// Candidates that are worth a second, queued lease for every evaluator.
const WORTH_QUEUEING: usize = 8;

/// Bytes of `z`, or of texts, in one lease at most: far below what a message may have (`proto::client::MESSAGE`), and
/// soon sent.
const LEASE_BYTES: usize = 1 << 20;

/// Examples at most in a lease that carries their texts.
const INLINE_EXAMPLES: usize = 64;

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

/// Cuts a score of one deep prompt on `examples` that the evaluators have.
pub(super) fn score(examples: usize, evaluators: usize) -> Vec<Piece> {
    even(examples, evaluators.max(1).min(examples)).into_iter().map(scored).collect()
}

/// Cuts a score on examples whose texts are sent with it, of so many bytes each, into small portions.
///
/// None is larger than 64 examples, nor than 1 MiB unless a single example is.
pub(super) fn inline(bytes: &[usize], evaluators: usize) -> Vec<Piece> {
    let examples = bytes.len();
    let parts = evaluators.max(1).max(examples.div_ceil(INLINE_EXAMPLES)).min(examples);
    even(examples, parts).into_iter().flat_map(|part| light(bytes, part)).map(scored).collect()
}

fn scored(examples: Range<usize>) -> Piece {
    Piece { candidates: 0..1, examples: examples.start as u32..examples.end as u32 }
}

/// Cuts `part` again where its texts would grow beyond [`LEASE_BYTES`].
fn light(bytes: &[usize], part: Range<usize>) -> Vec<Range<usize>> {
    let (mut portions, mut start, mut held) = (Vec::new(), part.start, 0);
    for (at, &size) in bytes.iter().enumerate().take(part.end).skip(part.start) {
        if at > start && held + size > LEASE_BYTES {
            portions.push(start..at);
            (start, held) = (at, 0);
        }
        held += size;
    }
    portions.push(start..part.end);
    portions
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
                    covers(&score(examples as usize, evaluators), 1, examples);
                    covers(&inline(&vec![LEASE_BYTES / 3; examples as usize], evaluators), 1, examples);
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
    fn examples_that_evaluators_have_are_cut_for_them_alone() {
        assert_eq!(score(1000, 1).len(), 1);
        assert_eq!(score(1000, 3).len(), 3);
        assert!(score(0, 3).is_empty() && inline(&[], 3).is_empty());
    }

    #[test]
    fn texts_go_in_portions_of_few_examples_and_few_bytes() {
        let pieces = inline(&[100; 1000], 1);
        assert!(pieces.iter().all(|piece| piece.examples.len() <= INLINE_EXAMPLES));
        assert_eq!(pieces.len(), 16);
        // Short ones, long ones, and one that is larger than a lease alone.
        let bytes: Vec<usize> =
            (0..200).map(|i| if i == 130 { 2 * LEASE_BYTES } else { i * i * 20 }).collect();
        let pieces = inline(&bytes, 2);
        covers(&pieces, 1, 200);
        for piece in &pieces {
            let held: usize = piece.examples.clone().map(|example| bytes[example as usize]).sum();
            assert!(held <= LEASE_BYTES || piece.examples == (130..131), "{held} bytes in {piece:?}");
        }
    }
}
