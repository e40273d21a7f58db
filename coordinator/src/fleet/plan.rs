//! Who shall take how much of a job, so that all end together. Pure.

use std::collections::{BTreeMap, BTreeSet};

use shared::ids::EvaluatorId;

/// So much longer equal shares may take than just ones.
const UNEVEN: f64 = 0.25;

/// Speeds up to this factor apart may be the same.
const ALIKE: f64 = 1.3;

/// An evaluator that takes part.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Hand {
    pub(super) id: EvaluatorId,
    /// Operations a second.
    pub(super) speed: f64,
    /// Seconds until it has done what it has.
    pub(super) busy: f64,
    /// Seconds that a lease takes beside its operations.
    pub(super) overhead: f64,
}

impl Hand {
    /// Seconds until the operations of another lease begin.
    fn begin(&self) -> f64 {
        self.busy + self.overhead
    }
}

/// Speeds that differ from the median by no more than measurements do are taken for it: odd shares that follow from
/// chance alone would be more leases, which are more load and more chance.
pub(super) fn liken(hands: &mut [Hand]) {
    let mut speeds: Vec<f64> = hands.iter().map(|hand| hand.speed).collect();
    if speeds.is_empty() {
        return;
    }
    let middle = speeds.len() / 2;
    let (_, &mut median, _) = speeds.select_nth_unstable_by(middle, f64::total_cmp);
    let alike = |speed: f64| speed < median * ALIKE && speed > median / ALIKE;
    hands.iter_mut().filter(|hand| alike(hand.speed)).for_each(|hand| hand.speed = median);
}

/// Divides `work` operations: each works until the same moment, who is busy for longer takes none.
pub(super) fn shares(mut hands: Vec<Hand>, work: f64) -> BTreeMap<EvaluatorId, f64> {
    hands.sort_by(|a, b| a.begin().total_cmp(&b.begin()).then(a.id.cmp(&b.id)));
    // Who is free first begins; another one joins in where it is free before these would have ended.
    let (mut speeds, mut ahead, mut end) = (0.0, 0.0, f64::INFINITY);
    for hand in &hands {
        if hand.begin() >= end {
            break;
        }
        speeds += hand.speed;
        ahead += hand.speed * hand.begin();
        end = (work + ahead) / speeds;
    }
    let share = |hand: &Hand| (hand.id, (end - hand.begin()) * hand.speed);
    hands.iter().map(share).filter(|&(_, share)| share > 0.0).collect()
}

/// Whether it costs little to give everybody the same: then a few leases of whole candidates are better than more
/// of odd sizes, for measured speeds are never quite the same.
pub(super) fn may_be_even(hands: &[Hand], work: f64) -> bool {
    let speeds: f64 = hands.iter().map(|hand| hand.speed).sum();
    let ahead: f64 = hands.iter().map(|hand| hand.speed * hand.begin()).sum();
    let overhead = hands.iter().map(|hand| hand.overhead).sum::<f64>() / hands.len() as f64;
    let each = work / hands.len() as f64;
    let last = hands.iter().map(|hand| hand.begin() + each / hand.speed).fold(0.0, f64::max);
    last - (work + ahead) / speeds <= UNEVEN * (overhead + work / speeds)
}

/// Shares too small for a lease behind another one go together to those that have the largest; the `idle` keep theirs.
pub(super) fn without_crumbs(
    shares: &mut BTreeMap<EvaluatorId, f64>,
    crumb: f64,
    idle: &BTreeSet<EvaluatorId>,
) {
    let small = |(id, share): &(&EvaluatorId, &f64)| **share < crumb / 2.0 && !idle.contains(id);
    let mut small: Vec<(EvaluatorId, f64)> = shares.iter().filter(small).map(|(id, s)| (*id, *s)).collect();
    let sum: f64 = small.iter().map(|(_, share)| share).sum();
    small.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let kept = ((sum / crumb) as usize).max(usize::from(small.len() == shares.len()));
    for (place, (id, _)) in small.into_iter().enumerate() {
        if place < kept {
            shares.insert(id, sum / kept as f64);
        } else {
            shares.remove(&id);
        }
    }
}

/// Makes all shares whole numbers of `unit`s, their sum as near to what it was as can be: who lacks least is rounded up.
pub(super) fn whole(shares: &mut BTreeMap<EvaluatorId, f64>, unit: f64) {
    let units = (shares.values().sum::<f64>() / unit).round();
    let mut parts: Vec<(EvaluatorId, f64)> = shares.iter().map(|(id, share)| (*id, share / unit)).collect();
    let spare = units - parts.iter().map(|(_, share)| share.floor()).sum::<f64>();
    parts.sort_by(|a, b| b.1.fract().total_cmp(&a.1.fract()).then(a.0.cmp(&b.0)));
    for (place, (id, share)) in parts.into_iter().enumerate() {
        let up = if (place as f64) < spare { 1.0 } else { 0.0 };
        shares.insert(id, (share.floor() + up) * unit);
    }
    shares.retain(|_, share| *share > 0.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hand(id: u64, speed: f64, busy: f64) -> Hand {
        Hand { id: EvaluatorId(id), speed, busy, overhead: 0.0 }
    }

    fn divided(hands: &[Hand], work: f64) -> Vec<f64> {
        let shares = shares(hands.to_vec(), work);
        hands.iter().map(|hand| shares.get(&hand.id).copied().unwrap_or(0.0)).collect()
    }

    #[test]
    fn shares_are_as_the_speeds() {
        assert_eq!(divided(&[hand(1, 3.0, 0.0), hand(2, 1.0, 0.0)], 8.0), [6.0, 2.0]);
        assert_eq!(divided(&[], 8.0), [0.0; 0]);
    }

    #[test]
    fn who_is_busy_takes_less_or_none() {
        let hands = [hand(1, 1.0, 2.0), hand(2, 1.0, 0.0), hand(3, 2.0, 50.0)];
        assert_eq!(divided(&hands, 8.0), [3.0, 5.0, 0.0]);
        assert_eq!(divided(&hands, 1.0), [0.0, 1.0, 0.0]);
    }
    #[test]
    fn equal_shares_will_do_where_speeds_are_nearly_equal() {
        assert!(may_be_even(&[hand(1, 1.0, 0.0), hand(2, 0.8, 0.0)], 8.0));
        assert!(!may_be_even(&[hand(1, 1.0, 0.0), hand(2, 0.5, 0.0)], 8.0));
        assert!(may_be_even(&[hand(1, 1.0, 3.0), hand(2, 1.0, 3.5)], 8.0));
        assert!(!may_be_even(&[hand(1, 1.0, 3.0), hand(2, 1.0, 9.0)], 8.0));
    }

    #[test]
    fn what_a_lease_takes_beside_its_work_puts_its_end_off() {
        let hands = [Hand { overhead: 2.0, ..hand(1, 1.0, 0.0) }, hand(2, 1.0, 0.0)];
        assert_eq!(divided(&hands, 8.0), [3.0, 5.0]);
        let latent = |id, busy| Hand { overhead: 50.0, ..hand(id, 20.0, busy) };
        assert!(may_be_even(&[latent(1, 0.0), latent(2, 5.0)], 40.0), "little, beside the overhead");
    }

    #[test]
    fn speeds_that_may_be_the_same_are() {
        let mut hands = [1.0, 1.2, 0.85, 0.5, 3.0].map(|speed| hand(1, speed, 0.0));
        liken(&mut hands);
        assert_eq!(hands.map(|hand| hand.speed), [1.0, 1.0, 1.0, 0.5, 3.0]);
    }

    #[test]
    fn whole_shares_have_the_same_sum() {
        let mut shares: BTreeMap<_, _> =
            [4.2, 3.9, 0.7, 7.2].into_iter().enumerate().map(|(i, s)| (EvaluatorId(i as u64), s)).collect();
        whole(&mut shares, 2.0);
        assert_eq!(shares.into_values().collect::<Vec<_>>(), [4.0, 4.0, 8.0]);
    }

    #[test]
    fn crumbs_are_swept_together() {
        let mut shares: BTreeMap<_, _> = (1..=9).map(|id| (EvaluatorId(id), 1.0)).collect();
        without_crumbs(&mut shares, 4.0, &BTreeSet::new());
        assert_eq!(shares.into_iter().collect::<Vec<_>>(), [(EvaluatorId(1), 4.5), (EvaluatorId(2), 4.5)]);
        let mut one = [(EvaluatorId(1), 0.5), (EvaluatorId(2), 0.6)].into();
        without_crumbs(&mut one, 4.0, &BTreeSet::from([EvaluatorId(1)]));
        assert_eq!(one, [(EvaluatorId(1), 0.5)].into(), "what is left over is nobody's yet");
        let mut last = [(EvaluatorId(1), 0.5), (EvaluatorId(2), 0.6)].into();
        without_crumbs(&mut last, 4.0, &BTreeSet::new());
        assert_eq!(last, [(EvaluatorId(2), 1.1)].into());
    }
}
