//! How fast a block runs by the rows of its tasks: what a token budget of `auto` is chosen by.

use std::time::{Duration, Instant};

use super::Engine;
use super::forward::From;
use crate::backbone::Wanted;

/// More rows must make each faster by this share to be worth their memory.
pub(crate) const WORTH: f64 = 0.03;

/// Rounds at most, of which the fastest counts.
const ROUNDS: usize = 3;

/// No further round begins after so long.
const ENOUGH: Duration = Duration::from_secs(2);

/// The fewest of `choices` rows whose seconds a row are about as few as any's; `None` where nothing was measured.
pub(crate) fn fewest(choices: &[usize], seconds: &[f64]) -> Option<usize> {
    let fastest = seconds.iter().copied().fold(f64::INFINITY, f64::min);
    let good = |seconds: f64| seconds.is_finite() && seconds <= fastest * (1.0 + WORTH);
    choices.iter().zip(seconds).filter(|(_, seconds)| good(**seconds)).map(|(rows, _)| *rows).min()
}

impl Engine {
    /// The fewest of `choices` rows a task with which the first block is about as fast as with any of them, measured
    /// with every thread at work; `None` without examples. Nothing but time depends on it.
    pub fn fastest_rows(&self, choices: &[usize]) -> Option<usize> {
        if self.tokens.is_empty() {
            return None;
        }
        let (began, mut seconds) = (Instant::now(), vec![f64::INFINITY; choices.len()]);
        for round in 0..ROUNDS {
            if round > 0 && began.elapsed() > ENOUGH {
                break;
            }
            for (best, &rows) in seconds.iter_mut().zip(choices) {
                *best = best.min(self.seconds_a_row(rows));
            }
        }
        fewest(choices, &seconds)
    }

    /// Seconds that the first block takes a row, on all threads at once, with tasks of at most `limit` rows.
    fn seconds_a_row(&self, limit: usize) -> f64 {
        let groups = self.batch.cut(0..self.tokens.len(), self.extra_rows(), limit);
        let Some(group) = groups.first() else { return f64::INFINITY };
        let (hidden, place) = (self.backbone.hidden(), self.batch.place);
        let rows = self.batch.group_rows(&group.examples);
        let prompt = self.deep().rows(&self.batch);
        let own = self.extra_rows() * group.examples.len();
        let from = From {
            layer: 0,
            text: &self.batch.text[rows.start * hidden..rows.end * hidden],
            prompt: if own > 0 { &prompt[..own * hidden] } else { &prompt },
            known: None,
            spans: &group.spans,
            place,
            picks: &[],
            given: None,
        };
        let times = super::TASK_ROWS.div_ceil(rows.len() + own);
        let run = || {
            self.buffers.with(|buffers| {
                for _ in 0..times {
                    self.pass().layer(0, from, self.deep(), None, Wanted::All, buffers);
                }
            });
        };
        let began = Instant::now();
        self.settings.pool.broadcast(|_| run());
        began.elapsed().as_secs_f64() / (times * (rows.len() + own)) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_rows_are_taken_only_where_they_are_worth_it() {
        let rows = [512, 256, 128];
        assert_eq!(fewest(&rows, &[1.0, 1.02, 1.5]), Some(256), "two per cent are not worth twice the rows");
        assert_eq!(fewest(&rows, &[1.0, 1.04, 1.05]), Some(512), "four are");
        assert_eq!(fewest(&rows, &[1.2, 1.1, 1.0]), Some(128));
        assert_eq!(fewest(&rows, &[1.0, f64::INFINITY, f64::NAN]), Some(512));
        assert_eq!(fewest(&rows, &[f64::INFINITY; 3]), None);
        assert_eq!(fewest(&[], &[]), None);
    }
}
