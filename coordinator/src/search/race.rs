//! Racing: a generation in stages, after which candidates that cannot enter the better half are spared the rest.
//!
//! The bound: every example that a candidate has not seen counts as the least loss there can be. That is what the
//! candidate would at least have scored, to the bit: floating-point sums in one order are monotone in each term. Who
//! lies strictly above the last of the better half among the *complete* losses is out; a tie is not. No loss has an
//! upper bound (any can be NaN, which ranks last), so there is no threshold before half of the candidates are complete.
//! Pure: what comes next follows from the losses alone.

use std::ops::Range;

use shared::task::loss::{Loss, mean};

use crate::fleet::Gathered;

/// Candidates to be evaluated on examples that none of them has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Rows of the population, ascending.
    pub candidates: Vec<usize>,
    /// Training examples.
    pub examples: Range<u32>,
}

/// One generation's race.
#[derive(Clone, Debug)]
pub struct Race {
    loss: Loss,
    examples: usize,
    /// Candidates in the better half.
    mu: usize,
    /// What each candidate has scored so far.
    losses: Vec<Vec<f32>>,
    predicted: Vec<Vec<u32>>,
    /// Evaluators that took part in the largest stage.
    evaluators: usize,
    /// Candidates that have not come in by a stage's deadline.
    missing: usize,
}

impl Race {
    /// `population` candidates, of which the best `mu` must be found, on so many examples.
    pub fn new(loss: Loss, population: usize, mu: usize, examples: usize) -> Self {
        let losses = vec![Vec::new(); population];
        Self {
            loss,
            examples,
            mu,
            predicted: vec![Vec::new(); population],
            losses,
            evaluators: 0,
            missing: 0,
        }
    }

    /// What must be evaluated next; `None` when the better half is known.
    ///
    /// First all candidates on the first half; then the most promising ones to the end; then the others that may still
    /// enter, a stage at a time.
    pub fn next(&self) -> Option<Stage> {
        let least = self.losses.iter().map(Vec::len).min().unwrap_or(self.examples);
        let cuts = self.cuts();
        if least < cuts[0] {
            return Some(self.stage((0..self.losses.len()).collect(), 0, cuts[0]));
        }
        let complete = self.complete();
        if complete.len() < self.mu {
            return Some(self.stage(self.promising(), cuts[0], self.examples));
        }
        let open = self.open(self.threshold(&complete));
        let seen = open.first().map(|&candidate| self.losses[candidate].len())?;
        let next = cuts.into_iter().find(|&cut| cut > seen)?;
        Some(self.stage(open, seen, next))
    }

    /// Takes what a stage has brought.
    pub fn take(&mut self, stage: &Stage, gathered: Gathered) {
        let rows = gathered.losses.into_iter().zip(gathered.predicted);
        for (&candidate, (losses, predicted)) in stage.candidates.iter().zip(rows) {
            self.losses[candidate].extend(losses);
            self.predicted[candidate].extend(predicted);
        }
        self.evaluators = self.evaluators.max(gathered.evaluators);
        self.missing += gathered.missing;
    }

    /// How many examples each candidate has seen.
    pub fn seen(&self) -> Vec<u32> {
        self.losses.iter().map(|losses| losses.len() as u32).collect()
    }

    /// The population's losses. Where a candidate was spared an example stands what the complete ones lost there on
    /// average: an estimate, never below the bound.
    pub fn gathered(mut self) -> Gathered {
        let usual = self.usual();
        for (losses, predicted) in self.losses.iter_mut().zip(&mut self.predicted) {
            losses.extend(&usual[losses.len()..]);
            predicted.resize(self.examples, 0);
        }
        let Self { losses, predicted, evaluators, missing, .. } = self;
        Gathered { losses, predicted, evaluators, missing }
    }

    /// Ends of the stages: half, three quarters, seven eighths, all.
    fn cuts(&self) -> [usize; 4] {
        [(1, 2), (3, 4), (7, 8), (1, 1)].map(|(part, of)| (self.examples * part).div_ceil(of))
    }

    fn stage(&self, candidates: Vec<usize>, start: usize, end: usize) -> Stage {
        Stage { candidates, examples: start as u32..end as u32 }
    }

    fn complete(&self) -> Vec<usize> {
        (0..self.losses.len()).filter(|&candidate| self.losses[candidate].len() == self.examples).collect()
    }

    /// The `mu` candidates with the smallest losses so far.
    fn promising(&self) -> Vec<usize> {
        let mut ranked: Vec<usize> = (0..self.losses.len()).collect();
        ranked.sort_by(|&a, &b| self.least(a).total_cmp(&self.least(b)));
        ranked.truncate(self.mu);
        ranked.sort_unstable();
        ranked
    }

    /// The loss of the last of the better half among the complete candidates.
    fn threshold(&self, complete: &[usize]) -> f64 {
        let mut losses: Vec<f64> = complete.iter().map(|&candidate| self.least(candidate)).collect();
        losses.sort_by(f64::total_cmp);
        losses.get(self.mu - 1).copied().unwrap_or(f64::INFINITY)
    }

    /// Incomplete candidates that may still enter the better half; all have seen as much.
    fn open(&self, threshold: f64) -> Vec<usize> {
        let incomplete = (0..self.losses.len()).filter(|&c| self.losses[c].len() < self.examples);
        incomplete.filter(|&c| self.least(c) <= threshold).collect()
    }

    /// The least that a candidate can score; infinite, as it ranks, once a loss of it is not finite.
    fn least(&self, candidate: usize) -> f64 {
        let mut losses = self.losses[candidate].clone();
        losses.resize(self.examples, self.loss.least());
        let least = mean(&losses);
        if least.is_finite() { least } else { f64::INFINITY }
    }

    /// The mean loss of the complete candidates, those that are finite, on each example.
    fn usual(&self) -> Vec<f32> {
        let mut finite = self.complete();
        finite.retain(|&candidate| self.least(candidate).is_finite());
        let of = |example: usize| {
            let losses: Vec<f32> = finite.iter().map(|&candidate| self.losses[candidate][example]).collect();
            if losses.is_empty() { self.loss.least() } else { mean(&losses) as f32 }
        };
        (0..self.examples).map(of).collect()
    }
}

#[cfg(test)]
mod tests;
