//! Canaries: one candidate on one example, the same for all evaluators of a generation, and what to think of those who
//! find another loss than the others. Pure.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use shared::ids::{EvaluatorId, LeaseId};
use shared::messages::CanaryOutcome;

/// How far losses of different kinds of devices may lie apart, as a share of the larger one, or of 1 where that is more.
const TOLERANCE: f32 = 1e-2;

/// What one evaluator has found.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Opinion {
    /// Its name, for people.
    pub(super) name: String,
    /// `cpu` or `cuda`.
    pub(super) kind: String,
    pub(super) found: CanaryOutcome,
}

impl Opinion {
    /// Whether both may be right: on processors bits are the same, on other devices and between kinds they are near. A
    /// loss that jumps (`discrete`) says nothing between kinds unless it is not a number.
    fn agrees(&self, other: &Self, discrete: bool) -> bool {
        let (a, b) = (self.found.loss, other.found.loss);
        if a.is_nan() || b.is_nan() {
            return a.is_nan() && b.is_nan();
        }
        if self.kind == other.kind && self.kind == "cpu" {
            return a.to_bits() == b.to_bits() && self.found.predicted == other.found.predicted;
        }
        discrete || a == b || (a - b).abs() <= TOLERANCE * a.abs().max(b.abs()).max(1.0)
    }

    /// Finite is better than infinite, and anything better than no number.
    fn sanity(&self) -> u8 {
        let loss = self.found.loss;
        u8::from(!loss.is_nan()) + u8::from(loss.is_finite())
    }
}

/// What opinions come to.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// All agree.
    Agreed,
    /// These stand against the others, whose loss is given.
    Outvoted(Vec<EvaluatorId>, f32),
    /// As many on one side as on another; were there nobody else to ask, those who joined later would be outvoted.
    Undecided(Vec<EvaluatorId>, f32),
}

/// The canaries of one job.
#[derive(Clone, Debug, Default)]
pub(super) struct Canaries {
    /// Whether losses are not continuous.
    discrete: bool,
    /// Who has been asked, and with which lease.
    asked: BTreeMap<EvaluatorId, LeaseId>,
    opinions: BTreeMap<EvaluatorId, Opinion>,
}

impl Canaries {
    pub(super) fn new(discrete: bool) -> Self {
        Self { discrete, ..Self::default() }
    }

    /// Whether an evaluator is still to be asked.
    pub(super) fn wanted_of(&self, id: EvaluatorId) -> bool {
        !self.asked.contains_key(&id) && !self.opinions.contains_key(&id)
    }

    pub(super) fn ask(&mut self, id: EvaluatorId, lease: LeaseId) {
        self.asked.insert(id, lease);
    }

    /// The lease that an evaluator has been asked with, if it has not answered.
    pub(super) fn asked_with(&self, id: EvaluatorId) -> Option<LeaseId> {
        self.asked.get(&id).copied()
    }

    /// A lease is over: who has not answered its canary may be asked again.
    pub(super) fn over(&mut self, id: EvaluatorId, lease: LeaseId) {
        if self.asked_with(id) == Some(lease) {
            self.asked.remove(&id);
        }
    }

    pub(super) fn take(&mut self, id: EvaluatorId, opinion: Opinion) {
        self.opinions.insert(id, opinion);
    }

    /// Takes an opinion out of consideration.
    pub(super) fn dismiss(&mut self, id: EvaluatorId) -> Option<Opinion> {
        self.opinions.remove(&id)
    }

    pub(super) fn has(&self, id: EvaluatorId) -> bool {
        self.opinions.contains_key(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.opinions.len()
    }

    /// Whom to believe: the larger side; of two as large the one that makes more sense.
    pub(super) fn verdict(&self) -> Verdict {
        let mut groups: Vec<(&Opinion, Vec<EvaluatorId>)> = Vec::new();
        for (id, opinion) in &self.opinions {
            let same = |group: &&mut (&Opinion, Vec<EvaluatorId>)| {
                let same_bits = group.0.found.loss.to_bits() == opinion.found.loss.to_bits();
                same_bits
                    && group.0.kind == opinion.kind
                    && group.0.found.predicted == opinion.found.predicted
            };
            match groups.iter_mut().find(same) {
                Some(group) => group.1.push(*id),
                None => groups.push((opinion, vec![*id])),
            }
        }
        let agree = |a: &Opinion, b: &Opinion| a.agrees(b, self.discrete);
        let support = |opinion: &Opinion| -> usize {
            groups.iter().filter(|group| agree(group.0, opinion)).map(|group| group.1.len()).sum()
        };
        let rank = |group: &&(&Opinion, Vec<EvaluatorId>)| {
            (support(group.0), group.0.sanity(), Reverse(group.1.first().copied()))
        };
        let Some(winner) = groups.iter().max_by_key(rank) else { return Verdict::Agreed };
        let against: Vec<_> = groups.iter().filter(|group| !agree(group.0, winner.0)).collect();
        let even = |group: &&&(&Opinion, Vec<EvaluatorId>)| {
            support(group.0) == support(winner.0) && group.0.sanity() == winner.0.sanity()
        };
        let undecided = against.iter().any(|group| even(&group));
        let ids: BTreeSet<EvaluatorId> = against.iter().flat_map(|group| group.1.iter().copied()).collect();
        let ids: Vec<EvaluatorId> = ids.into_iter().collect();
        match (ids.is_empty(), undecided) {
            (true, _) => Verdict::Agreed,
            (false, true) => Verdict::Undecided(ids, winner.0.found.loss),
            (false, false) => Verdict::Outvoted(ids, winner.0.found.loss),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canaries(found: &[(&str, f32)]) -> Canaries {
        let mut canaries = Canaries::default();
        for (id, (kind, loss)) in (1..).zip(found) {
            let found = CanaryOutcome { loss: *loss, predicted: 0 };
            canaries
                .take(EvaluatorId(id), Opinion { name: format!("e{id}"), kind: (*kind).to_owned(), found });
        }
        canaries
    }

    fn ids(ids: &[u64]) -> Vec<EvaluatorId> {
        ids.iter().map(|id| EvaluatorId(*id)).collect()
    }

    #[test]
    fn bits_on_processors_and_nearness_elsewhere() {
        let near = f32::from_bits(1.5f32.to_bits() + 1);
        assert_eq!(canaries(&[("cpu", 1.5), ("cpu", 1.5)]).verdict(), Verdict::Agreed);
        assert_ne!(canaries(&[("cpu", 1.5), ("cpu", near)]).verdict(), Verdict::Agreed);
        assert_eq!(canaries(&[("cuda", 1.5), ("cuda", near), ("cpu", 1.51)]).verdict(), Verdict::Agreed);
        assert_ne!(canaries(&[("cpu", 1.5), ("cuda", 1.52)]).verdict(), Verdict::Agreed);
        assert_eq!(canaries(&[("cpu", 0.001), ("cuda", 0.009)]).verdict(), Verdict::Agreed);
        assert_eq!(canaries(&[("cpu", f32::NAN), ("cuda", f32::NAN)]).verdict(), Verdict::Agreed);
        assert_eq!(canaries(&[("cpu", f32::INFINITY), ("cuda", f32::INFINITY)]).verdict(), Verdict::Agreed);
        assert_eq!(canaries(&[]).verdict(), Verdict::Agreed);
    }

    #[test]
    fn a_loss_that_jumps_is_compared_on_like_devices_alone() {
        let discrete = |found: &[(&str, f32)]| Canaries { discrete: true, ..canaries(found) }.verdict();
        assert_eq!(discrete(&[("cpu", 0.0), ("cuda", -1.0)]), Verdict::Agreed);
        assert_ne!(discrete(&[("cpu", 0.0), ("cpu", -1.0)]), Verdict::Agreed);
        assert_ne!(discrete(&[("cpu", 0.0), ("cuda", f32::NAN)]), Verdict::Agreed);
    }

    #[test]
    fn the_smaller_side_is_outvoted() {
        let verdict = canaries(&[("cpu", 9.0), ("cpu", 1.5), ("cpu", 1.5)]).verdict();
        assert_eq!(verdict, Verdict::Outvoted(ids(&[1]), 1.5));
        let verdict = canaries(&[("cpu", 9.0), ("cpu", 1.5), ("cuda", 1.5), ("cpu", f32::NAN)]).verdict();
        assert_eq!(verdict, Verdict::Outvoted(ids(&[1, 4]), 1.5));
    }

    #[test]
    fn between_two_a_number_beats_none_and_else_nobody_knows() {
        let verdict = canaries(&[("cpu", f32::NAN), ("cpu", 1.5)]).verdict();
        assert_eq!(verdict, Verdict::Outvoted(ids(&[1]), 1.5));
        assert_eq!(canaries(&[("cpu", 2.0), ("cpu", 1.5)]).verdict(), Verdict::Undecided(ids(&[2]), 2.0));
    }
}
