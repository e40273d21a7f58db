//! What of a job waits to be handed out, and how a share is cut off it. Pure.
//!
//! A job is a rectangle, candidates times examples, of *cells*. Nothing is cut before somebody takes it: how much that
//! one takes is its share (`plan`), cut along candidates, and along the examples of one candidate where the share is
//! smaller than that.

use std::ops::Range;
use std::time::Instant;

use shared::ids::EvaluatorId;

/// Bytes of `z`, or of texts, in one lease at most: far below what a message may have (`proto::client::MESSAGE`), and
/// soon sent.
const LEASE_BYTES: usize = 1 << 20;

/// Examples at most in a lease that carries their texts.
const INLINE_EXAMPLES: usize = 64;

/// So much of a candidate a share is rounded up by: a second lease for the rest would cost more than it brings.
const SLACK: f64 = 0.15;

/// The least part of a candidate that is worth a lease behind another one.
pub(super) const CRUMB: f64 = 0.125;

/// A rectangle of a job: these candidates on these examples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Rows of the generation.
    pub(super) candidates: Range<usize>,
    /// Columns, in example order, from 0.
    pub(super) examples: Range<u32>,
}

impl Piece {
    /// Number of cells.
    pub(super) fn cells(&self) -> usize {
        self.candidates.len() * self.examples.len()
    }

    /// Whether both have a cell in common.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let (rows, columns) = (&self.candidates, &self.examples);
        rows.start.max(other.candidates.start) < rows.end.min(other.candidates.end)
            && columns.start.max(other.examples.start) < columns.end.min(other.examples.end)
    }

    /// Whether a cell is one of its own.
    pub(super) fn has(&self, candidate: usize, example: u32) -> bool {
        self.candidates.contains(&candidate) && self.examples.contains(&example)
    }
}

/// What has gone wrong with a piece so far; whatever is cut off it inherits that.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Blame {
    /// How often evaluators have failed at it.
    pub(super) failures: u32,
    /// How many evaluators in a row have vanished while they were at it.
    pub(super) losses: u32,
    /// When that was last counted.
    pub(super) last_loss: Option<Instant>,
    /// Who failed it last: others are asked first.
    pub(super) failed_by: Option<EvaluatorId>,
}

impl Blame {
    /// Takes over what is worse of another one.
    pub(super) fn merge(&mut self, other: &Self) {
        if other.failures > self.failures {
            self.failed_by = other.failed_by;
        }
        self.failures = self.failures.max(other.failures);
        self.losses = self.losses.max(other.losses);
        self.last_loss = self.last_loss.max(other.last_loss);
    }
}

/// A piece that waits for an evaluator.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Waiting {
    pub(super) piece: Piece,
    pub(super) blame: Blame,
}

/// What one lease may carry.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    /// Examples of the whole job.
    width: usize,
    /// Candidates.
    rows: usize,
    /// Bytes of each example that is sent along; empty where evaluators have them.
    texts: Vec<usize>,
}

impl Limits {
    /// Candidates of `dim` numbers on `width` examples that evaluators have.
    pub(super) fn kept(width: usize, dim: usize) -> Self {
        Self { width, rows: (LEASE_BYTES / (4 * dim.max(1))).max(1), texts: Vec::new() }
    }

    /// One deep prompt on examples of so many bytes, which are sent along.
    pub(super) fn inline(texts: Vec<usize>) -> Self {
        Self { width: texts.len(), rows: 1, texts }
    }

    /// Examples of the whole job.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// How many of the examples from `start` a lease has room for: at least one.
    fn columns(&self, start: u32) -> usize {
        if self.texts.is_empty() {
            return usize::MAX;
        }
        let sizes = self.texts.iter().skip(start as usize).take(INLINE_EXAMPLES);
        let fits = sizes.scan(0, |held, size| {
            *held += size;
            Some(*held)
        });
        fits.take_while(|&held| held <= LEASE_BYTES).count().max(1)
    }

    /// Cuts a share of about `cells` off a piece: what is cut off, and what is left.
    pub(super) fn cut(&self, piece: Piece, cells: f64) -> (Piece, Vec<Piece>) {
        let width = piece.examples.len();
        let rows = (cells / width.max(1) as f64 + SLACK) as usize;
        let columns = self.columns(piece.examples.start);
        let Range { start, end } = piece.candidates;
        let Range { start: left, end: right } = piece.examples;
        let rectangle = |candidates, examples| Piece { candidates, examples };
        if rows > 0 && columns >= width {
            let split = start + rows.min(self.rows).min(end - start);
            let rest = (split < end).then(|| rectangle(split..end, left..right));
            return (rectangle(start..split, left..right), rest.into_iter().collect());
        }
        let taken = (cells.ceil().max(1.0) as usize).min(columns).min(width);
        let split = left + taken as u32;
        let beside = (split < right).then(|| rectangle(start..start + 1, split..right));
        let below = (start + 1 < end).then(|| rectangle(start + 1..end, left..right));
        (rectangle(start..start + 1, left..split), below.into_iter().chain(beside).collect())
    }
}

/// The rectangles that the open cells of a piece make up.
pub(super) fn rectangles(piece: &Piece, open: impl Fn(usize, u32) -> bool) -> Vec<Piece> {
    let (mut done, mut growing): (Vec<Piece>, Vec<Piece>) = (Vec::new(), Vec::new());
    for candidate in piece.candidates.clone() {
        let mut runs: Vec<Range<u32>> = Vec::new();
        for example in piece.examples.clone().filter(|&example| open(candidate, example)) {
            match runs.last_mut() {
                Some(run) if run.end == example => run.end += 1,
                _ => runs.push(example..example + 1),
            }
        }
        if growing.iter().map(|piece| &piece.examples).eq(&runs) {
            growing.iter_mut().for_each(|piece| piece.candidates.end += 1);
        } else {
            let row = |examples| Piece { candidates: candidate..candidate + 1, examples };
            done.extend(std::mem::replace(&mut growing, runs.into_iter().map(row).collect()));
        }
    }
    done.extend(growing);
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(candidates: usize, examples: u32) -> Piece {
        Piece { candidates: 0..candidates, examples: 0..examples }
    }

    /// Cuts everything in shares of `cells`, the largest piece first.
    fn all(limits: &Limits, piece: Piece, cells: f64) -> Vec<Piece> {
        let (mut waiting, mut cut) = (vec![piece], Vec::new());
        while let Some(largest) = (0..waiting.len()).max_by_key(|&i| waiting[i].cells()) {
            let (piece, rest) = limits.cut(waiting.remove(largest), cells);
            waiting.extend(rest);
            cut.push(piece);
        }
        cut
    }

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
        for candidates in [1, 2, 7, 20] {
            for examples in [1, 5, 32] {
                for cells in [0.1, 1.0, 3.4, 31.0, 100.0, 1e9] {
                    let limits = Limits::kept(examples as usize, 500);
                    covers(&all(&limits, whole(candidates, examples), cells), candidates, examples);
                }
            }
        }
    }

    #[test]
    fn shares_are_whole_candidates_where_that_is_near() {
        let limits = Limits::kept(32, 500);
        let cut = |cells| limits.cut(whole(64, 32), cells).0;
        assert_eq!(cut(32.0), whole(1, 32));
        assert_eq!(cut(28.0), whole(1, 32));
        assert_eq!(cut(7.03 * 32.0), whole(7, 32));
        assert_eq!(cut(22.4), Piece { candidates: 0..1, examples: 0..23 });
        assert_eq!(cut(0.0), Piece { candidates: 0..1, examples: 0..1 });
        let (_, rest) = limits.cut(whole(3, 32), 8.0);
        let beside = Piece { candidates: 0..1, examples: 8..32 };
        assert_eq!(rest, [Piece { candidates: 1..3, examples: 0..32 }, beside]);
    }

    #[test]
    fn no_piece_carries_more_than_a_mebibyte() {
        let dim = 10_000;
        for piece in all(&Limits::kept(8, dim), whole(1000, 8), 1e9) {
            assert!(piece.candidates.len() * dim * 4 <= LEASE_BYTES);
        }
    }

    #[test]
    fn texts_go_in_portions_of_few_examples_and_few_bytes() {
        let pieces = all(&Limits::inline(vec![100; 1000]), whole(1, 1000), 1e9);
        assert!(pieces.iter().all(|piece| piece.examples.len() <= INLINE_EXAMPLES));
        assert_eq!(pieces.len(), 16);
        // Short ones, long ones, and one that is larger than a lease alone.
        let bytes: Vec<usize> =
            (0..200).map(|i| if i == 130 { 2 * LEASE_BYTES } else { i * i * 20 }).collect();
        let pieces = all(&Limits::inline(bytes.clone()), whole(1, 200), 100.0);
        covers(&pieces, 1, 200);
        for piece in &pieces {
            let held: usize = piece.examples.clone().map(|example| bytes[example as usize]).sum();
            assert!(held <= LEASE_BYTES || piece.examples == (130..131), "{held} bytes in {piece:?}");
        }
    }

    #[test]
    fn open_cells_are_put_together_to_few_rectangles() {
        let open = |candidate: usize, example: u32| candidate != 2 && !(candidate > 2 && example == 1);
        let found = rectangles(&whole(5, 4), open);
        let piece = |candidates, examples| Piece { candidates, examples };
        assert_eq!(found, [piece(0..2, 0..4), piece(3..5, 0..1), piece(3..5, 2..4)]);
        assert!(rectangles(&whole(2, 2), |_, _| false).is_empty());
    }
}
