//! How far losses in one type of number are from those in another: by size, and by the order of the candidates, which
//! is all that the search looks at.

use serde::Serialize;

/// Losses of a sweep: `[layers][candidates][examples]`.
pub(super) type Losses = Vec<Vec<Vec<f32>>>;

/// How far a sweep's losses are from those in f32.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Agreement {
    /// Largest difference of any example's loss.
    pub largest_loss_difference: f64,
    /// Spearman's rank correlation of the population's mean losses: the mean over the layers, none where a population
    /// has no order.
    pub rank_correlation: Option<f64>,
    /// The least over the layers.
    pub least_rank_correlation: Option<f64>,
}

impl Agreement {
    /// Of `losses` with the reference's, which may have fewer candidates: the first ones.
    pub(super) fn of(reference: &Losses, losses: &Losses) -> Self {
        let candidates = reference.iter().zip(losses).flat_map(|(a, b)| a.iter().zip(b));
        let examples = candidates.flat_map(|(a, b)| a.iter().zip(b));
        let differences = examples.map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs());
        let of_layer = |(a, b): (&Vec<Vec<f32>>, &Vec<Vec<f32>>)| {
            spearman(&means(a), &means(&b[..a.len().min(b.len())]))
        };
        let ranks: Option<Vec<f64>> = reference.iter().zip(losses).map(of_layer).collect();
        let ranks = ranks.filter(|ranks| !ranks.is_empty());
        Self {
            largest_loss_difference: differences.fold(0.0, f64::max),
            rank_correlation: ranks.as_ref().map(|ranks| ranks.iter().sum::<f64>() / ranks.len() as f64),
            least_rank_correlation: ranks.map(|ranks| ranks.into_iter().fold(1.0, f64::min)),
        }
    }
}

/// Each candidate's mean loss.
fn means(candidates: &[Vec<f32>]) -> Vec<f64> {
    let mean = |losses: &Vec<f32>| losses.iter().copied().map(f64::from).sum::<f64>() / losses.len() as f64;
    candidates.iter().map(mean).collect()
}

/// Pearson's correlation of the ranks; none where one side is all ties.
fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    let (a, b) = (ranks(a), ranks(b));
    let mean = (a.len() as f64 - 1.0) / 2.0; // ranks begin at zero
    let product =
        |x: &[f64], y: &[f64]| -> f64 { x.iter().zip(y).map(|(x, y)| (x - mean) * (y - mean)).sum() };
    let scale = (product(&a, &a) * product(&b, &b)).sqrt();
    (scale > 0.0).then(|| product(&a, &b) / scale)
}

/// Each value's place among all; ties share the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let below = |value: f64| values.iter().filter(|&&other| other < value).count();
    let upto = |value: f64| values.iter().filter(|&&other| other <= value).count();
    values.iter().map(|&value| (below(value) + upto(value)) as f64 / 2.0 - 0.5).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rank_correlation_is_spearmans() {
        // scipy.stats.spearmanr([1, 2, 3, 4, 5], [5, 6, 7, 8, 7]) = 0.8207826816681233
        let found = spearman(&[1.0, 2.0, 3.0, 4.0, 5.0], &[5.0, 6.0, 7.0, 8.0, 7.0]).unwrap();
        assert!((found - 0.820_782_681_668_123_3).abs() < 1e-12, "{found}");
        assert_eq!(spearman(&[1.0, 2.0, 3.0], &[0.3, 0.2, 0.1]), Some(-1.0));
        assert_eq!(spearman(&[1.0, 2.0], &[3.0, 3.0]), None);
    }

    #[test]
    fn differences_are_of_examples_and_ranks_of_candidates() {
        let reference = vec![vec![vec![1.0, 3.0], vec![2.0, 4.0], vec![5.0, 5.0]]];
        let swapped = vec![vec![vec![1.0, 6.0], vec![2.0, 4.0], vec![5.0, 5.5]]];
        let found = Agreement::of(&reference, &swapped);
        assert_eq!((found.largest_loss_difference, found.rank_correlation), (3.0, Some(0.5)));
        assert_eq!(Agreement::of(&reference, &reference).least_rank_correlation, Some(1.0));
        let fewer = vec![reference[0][..2].to_vec()];
        assert_eq!(Agreement::of(&fewer, &reference).rank_correlation, Some(1.0));
    }
}
