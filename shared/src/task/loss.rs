//! From one example's class logits to its loss and its predicted class; from many examples' to a candidate's.
//!
//! Arithmetic is f64 with `libm` (the same bits on every platform), results per example are f32, and sums run
//! in example order: a candidate's loss does not depend on who computed which examples.
//!
//! Logits that are not numbers are told, not hidden: one NaN among them makes every loss of that example NaN,
//! and its predicted class 0. So does a label that is no class.

use serde::{Deserialize, Serialize};

/// The hinge loss' margin, the same for every published task.
const MARGIN: f64 = 2.0;

/// What a candidate is scored by on the training examples; lower is better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Loss {
    /// Cross-entropy over the classes.
    #[default]
    Ce,
    /// Multi-class hinge with margin 2.
    Hinge,
    /// Minus the metric.
    Metric,
}

/// What a prompt is judged by on the development and test examples; higher is better, at most 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// The share of right predictions.
    #[default]
    Accuracy,
    /// Binary F1 of class 1.
    F1,
}

impl Loss {
    /// The loss of one example from its `logits` (`[classes]`).
    ///
    /// `Metric` gives the example's share of the accuracy with its sign turned: -1 for a hit, 0 for a miss.
    pub fn of(self, logits: &[f32], label: u32) -> f32 {
        match self {
            Self::Ce => ce(logits, label),
            Self::Hinge => hinge(logits, label),
            Self::Metric => missed(logits, label),
        }
    }

    /// The smallest loss that one example can have.
    pub fn least(self) -> f32 {
        match self {
            Self::Ce | Self::Hinge => 0.0,
            Self::Metric => -1.0,
        }
    }
}

impl std::fmt::Display for Metric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Accuracy => "accuracy",
            Self::F1 => "f1",
        })
    }
}

impl Metric {
    /// The metric over all examples; NaN where there are none, or not as many predictions as labels.
    pub fn of(self, predicted: &[u32], labels: &[u32]) -> f64 {
        match self {
            Self::Accuracy => accuracy(predicted, labels),
            Self::F1 => f1(predicted, labels),
        }
    }
}

/// Cross-entropy of one example: `log sum_c exp(s_c) - s_label`.
pub fn ce(logits: &[f32], label: u32) -> f32 {
    let Some(right) = at(logits, label) else {
        return f32::NAN;
    };
    let (highest, above) = log_sum_exp(logits);
    (highest - right + above) as f32
}

/// Hinge loss of one example: `sum over wrong c of max(0, s_c - s_label + 2)`.
pub fn hinge(logits: &[f32], label: u32) -> f32 {
    let Some(right) = at(logits, label) else {
        return f32::NAN;
    };
    let mut sum = 0.0;
    for (class, &logit) in (0_u32..).zip(logits) {
        let excess = f64::from(logit) - right + MARGIN;
        // Not f64::max: it would swallow a NaN.
        if class != label && (excess > 0.0 || excess.is_nan()) {
            sum += excess;
        }
    }
    sum as f32
}

/// Minus the accuracy of one example: -1 for a hit, 0 for a miss.
fn missed(logits: &[f32], label: u32) -> f32 {
    match at(logits, label) {
        None => f32::NAN,
        Some(_) if predicted(logits) == label => -1.0,
        Some(_) => 0.0,
    }
}

/// The class with the largest logit; of equals the lowest. 0 if a logit is NaN, or there is none.
pub fn predicted(logits: &[f32]) -> u32 {
    if logits.iter().any(|logit| logit.is_nan()) {
        return 0;
    }
    let (mut best, mut highest) = (0, f32::NEG_INFINITY);
    for (class, &logit) in (0_u32..).zip(logits) {
        if logit > highest {
            (best, highest) = (class, logit);
        }
    }
    best
}

/// Softmax of the logits: one probability a class, NaN if a logit is.
pub fn probabilities(logits: &[f32]) -> Vec<f32> {
    let (highest, above) = log_sum_exp(logits);
    logits.iter().map(|&logit| libm::exp(f64::from(logit) - highest - above) as f32).collect()
}

/// The mean in example order; NaN of nothing.
pub fn mean(per_example: &[f32]) -> f64 {
    // Not Iterator::sum: its order is not promised.
    let mut sum = 0.0;
    for &loss in per_example {
        sum += f64::from(loss);
    }
    sum / per_example.len() as f64
}

/// A candidate's loss from all its examples, in example order.
///
/// The mean of the losses per example, except with `Loss::Metric` and `Metric::F1`: F1 is no mean over
/// examples, so it is taken from the predictions (and is NaN, as a mean would be, if one example's loss is
/// NaN).
pub fn population_loss(
    loss: Loss,
    metric: Metric,
    per_example: &[f32],
    predicted: &[u32],
    labels: &[u32],
) -> f64 {
    let mean = mean(per_example);
    match (loss, metric) {
        (Loss::Metric, Metric::F1) if mean.is_finite() => -f1(predicted, labels),
        _ => mean,
    }
}

/// The share of right predictions.
fn accuracy(predicted: &[u32], labels: &[u32]) -> f64 {
    if predicted.len() != labels.len() {
        return f64::NAN;
    }
    let hits = predicted.iter().zip(labels).filter(|(predicted, label)| predicted == label).count();
    hits as f64 / labels.len() as f64
}

/// F1 of class 1: `2 tp / (2 tp + fp + fn)`; 0 where class 1 is neither predicted nor right anywhere.
fn f1(predicted: &[u32], labels: &[u32]) -> f64 {
    if predicted.len() != labels.len() || labels.is_empty() {
        return f64::NAN;
    }
    let positives = |classes: &[u32]| classes.iter().filter(|&&class| class == 1).count();
    let both = predicted.iter().zip(labels).filter(|&pair| pair == (&1, &1)).count();
    match positives(predicted) + positives(labels) {
        0 => 0.0,
        sum => 2.0 * both as f64 / sum as f64,
    }
}

/// The label's logit; `None` if it is no class or if any logit is NaN.
fn at(logits: &[f32], label: u32) -> Option<f64> {
    if logits.iter().any(|logit| logit.is_nan()) {
        return None;
    }
    logits.get(label as usize).copied().map(f64::from)
}

/// The largest logit and what `log sum_c exp(s_c)` has above it, apart: their sum would round small losses
/// away.
fn log_sum_exp(logits: &[f32]) -> (f64, f64) {
    let best = predicted(logits);
    let highest = at(logits, best).unwrap_or(f64::NAN);
    let mut others = 0.0;
    for (class, &logit) in (0_u32..).zip(logits) {
        if class != best {
            others += libm::exp(f64::from(logit) - highest);
        }
    }
    (highest, libm::log1p(others))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAN: f32 = f32::NAN;

    fn near(a: f32, b: f64) -> bool {
        (f64::from(a) - b).abs() <= 1e-6 * b.abs().max(1.0)
    }

    #[test]
    fn cross_entropy_is_log_sum_exp_minus_the_right_logit() {
        assert!(near(ce(&[0.0, 0.0, 0.0], 1), 3.0_f64.ln()));
        // torch 2.15: cross_entropy([[1., 2., 3.]], [0]) and so on.
        assert!(near(ce(&[1.0, 2.0, 3.0], 0), 2.407_605_9));
        assert!(near(ce(&[1.0, 2.0, 3.0], 2), 0.407_605_96));
        assert!(near(ce(&[-0.5, 4.25], 0), 4.758_614_5));
    }

    #[test]
    fn cross_entropy_neither_overflows_nor_loses_small_losses() {
        assert_eq!(ce(&[-100.0, 3e38], 1), 0.0);
        assert_eq!(ce(&[1000.0, -1000.0], 1), 2000.0);
        // log(1 + exp(-90)): far below f64's resolution at 90.
        assert!((f64::from(ce(&[90.0, 0.0], 0)) / (-90.0_f64).exp() - 1.0).abs() < 1e-6);
        assert!(ce(&[f32::INFINITY, 0.0], 0).is_nan() && ce(&[f32::NEG_INFINITY; 2], 0).is_nan());
        assert!(near(ce(&[f32::NEG_INFINITY, 1.0], 1), 0.0));
        assert_eq!(ce(&[f32::NEG_INFINITY, 1.0], 0), f32::INFINITY);
    }

    #[test]
    fn hinge_sums_over_wrong_classes_with_margin_two() {
        assert_eq!(hinge(&[0.0, 0.0, 0.0], 1), 4.0);
        assert_eq!(hinge(&[5.0, 3.0, 3.5], 0), 0.5);
        assert_eq!(hinge(&[5.0, 3.0, 3.5], 1), 4.0 + 2.5);
        assert_eq!(hinge(&[5.0, 2.9], 0), 0.0);
    }

    #[test]
    fn predicts_the_largest_and_of_equals_the_lowest() {
        assert_eq!(predicted(&[1.0, 3.0, 3.0]), 1);
        assert_eq!(predicted(&[-1.0, -3.0]), 0);
        assert_eq!(predicted(&[f32::NEG_INFINITY; 2]), 0);
        assert_eq!(predicted(&[]), 0);
    }

    #[test]
    fn a_nan_or_an_unknown_label_gives_nan_and_class_zero() {
        for loss in [Loss::Ce, Loss::Hinge, Loss::Metric] {
            for logits in [[NAN, 1.0], [1.0, NAN]] {
                for label in [0, 1] {
                    assert!(loss.of(&logits, label).is_nan(), "{loss:?} {logits:?} {label}");
                }
                assert_eq!(predicted(&logits), 0);
                assert!(probabilities(&logits).iter().all(|p| p.is_nan()));
            }
            assert!(loss.of(&[1.0, 2.0], 2).is_nan(), "{loss:?}");
            assert!(loss.of(&[], 0).is_nan(), "{loss:?}");
        }
    }

    #[test]
    fn the_metric_loss_counts_hits() {
        assert_eq!(Loss::Metric.of(&[1.0, 2.0], 1), -1.0);
        assert_eq!(Loss::Metric.of(&[1.0, 2.0], 0), 0.0);
        assert_eq!(Loss::Metric.of(&[1.0, 1.0], 1), 0.0);
    }

    #[test]
    fn probabilities_are_softmax() {
        let p = probabilities(&[1.0, 2.0, 3.0]);
        for (p, expected) in p.iter().zip([0.090_030_57, 0.244_728_48, 0.665_240_94]) {
            assert!(near(*p, expected), "{p}");
        }
        assert_eq!(probabilities(&[2000.0, -2000.0]), [1.0, 0.0]);
        assert!(probabilities(&[]).is_empty());
    }

    #[test]
    fn accuracy_and_f1_of_class_one() {
        let (predicted, labels) = ([1, 1, 0, 0, 1], [1, 0, 1, 0, 1]);
        assert_eq!(Metric::Accuracy.of(&predicted, &labels), 0.6);
        // tp 2, fp 1, fn 1.
        assert_eq!(Metric::F1.of(&predicted, &labels), 4.0 / 6.0);
        assert_eq!(Metric::F1.of(&[0, 0], &[0, 0]), 0.0);
        assert_eq!(Metric::F1.of(&[0, 0], &[1, 0]), 0.0);
        for metric in [Metric::Accuracy, Metric::F1] {
            assert!(metric.of(&[], &[]).is_nan());
            assert!(metric.of(&[1], &[1, 1]).is_nan());
        }
    }

    #[test]
    fn the_population_loss_is_a_mean_but_for_f1() {
        let (each, predicted, labels) = ([-1.0, 0.0, 0.0, -1.0, -1.0], [1, 1, 0, 0, 1], [1, 0, 1, 0, 1]);
        let of = |loss, metric, each: &[f32]| population_loss(loss, metric, each, &predicted, &labels);
        assert_eq!(of(Loss::Metric, Metric::Accuracy, &each), -0.6);
        assert_eq!(of(Loss::Metric, Metric::F1, &each), -4.0 / 6.0);
        assert_eq!(of(Loss::Ce, Metric::F1, &[1.0, 2.0, 3.0, 4.0, 5.0]), 3.0);
        assert_eq!(of(Loss::Hinge, Metric::Accuracy, &[0.5, 0.5, 0.0, 0.0, 0.0]), 0.2);
        assert!(of(Loss::Metric, Metric::F1, &[-1.0, NAN, 0.0, 0.0, 0.0]).is_nan());
        assert!(mean(&[]).is_nan());
    }

    #[test]
    fn names_are_lower_case() {
        for (loss, name) in [(Loss::Ce, "\"ce\""), (Loss::Hinge, "\"hinge\""), (Loss::Metric, "\"metric\"")] {
            assert_eq!(serde_json::to_string(&loss).unwrap(), name);
            assert_eq!(serde_json::from_str::<Loss>(name).unwrap(), loss);
        }
        for (metric, name) in [(Metric::Accuracy, "\"accuracy\""), (Metric::F1, "\"f1\"")] {
            assert_eq!(serde_json::to_string(&metric).unwrap(), name);
            assert_eq!(serde_json::from_str::<Metric>(name).unwrap(), metric);
        }
    }
}
