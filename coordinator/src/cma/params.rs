//! The strategy's constants: set once, in the order of the tutorial's table 1, with pycma 4.5's values.

use serde::{Deserialize, Serialize};

use super::{Error, MAX_DIM, MAX_POPULATION, MIN_POPULATION};

/// Strategy constants; functions of dimension and population alone. Stored with the state, so that a run resumed by
/// another build, whose `ln` may round otherwise, goes on with the numbers it began with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Params {
    /// Number of variables, n.
    pub dim: usize,
    /// Candidates a generation, lambda.
    pub population: usize,
    /// Candidates that form the new mean, mu: those with a positive weight.
    pub mu: usize,
    /// Recombination weights by rank, `[population]`, best first; the positive ones sum to 1.
    pub weights: Vec<f64>,
    /// Variance-effective number of the positive weights, mu_eff.
    pub mu_eff: f64,
    /// Cumulation for the step size, c_sigma.
    pub c_sigma: f64,
    /// Damping of the step size, d_sigma.
    pub d_sigma: f64,
    /// Cumulation for the rank-one path, c_c.
    pub c_c: f64,
    /// Rank-one learning rate, c_1.
    pub c_1: f64,
    /// Rank-mu learning rate, c_mu.
    pub c_mu: f64,
    /// Expected length of a standard normal vector, E||N(0, I)||.
    pub chi: f64,
    /// Generations that a decomposition of C may be old.
    pub lazy_gap: f64,
}

impl Params {
    /// Constants for `dim` variables; `population` `None` means the default of eq. 48.
    ///
    /// # Errors
    /// Dimension or population outside its bounds.
    pub fn new(dim: usize, population: Option<usize>, active: bool) -> Result<Params, Error> {
        if !(1..=MAX_DIM).contains(&dim) {
            return Err(Error::Dimension(dim));
        }
        let n = dim as f64;
        let population = population.unwrap_or(4 + (3.0 * n.ln()).floor() as usize); // (eq. 48)
        if !(MIN_POPULATION..=MAX_POPULATION).contains(&population) {
            return Err(Error::Population(population));
        }
        let raw = raw_weights(population);
        let mu = raw.iter().filter(|&&w| w > 0.0).count();
        let positive: f64 = raw.iter().take(mu).sum();
        let mut weights: Vec<f64> = raw.iter().map(|w| w / positive).collect();
        let mu_eff = effective(weights.iter().take(mu));

        let c_sigma = f64::min(0.5, (mu_eff + 2.0) / (n + mu_eff + 3.0)); // (eq. 55)
        let d_sigma = damping(n, mu_eff, c_sigma);
        let c_c = (4.0 + mu_eff / n) / (n + (4.0 + 2.0 * mu_eff / n)); // (eq. 56)
        // (eq. 57), alpha_cov = 2; fewer than six candidates learn less
        let c_1 = f64::min(1.0, population as f64 / 6.0) * 2.0 / ((n + 1.3).powi(2) + mu_eff);
        // (eq. 58) with the quarter that pycma adds
        let c_mu =
            f64::min(1.0 - c_1, 2.0 * (0.25 + mu_eff - 2.0 + 1.0 / mu_eff) / ((n + 2.0).powi(2) + mu_eff));
        scale_negative(&mut weights, mu, active, |mu_eff_minus| {
            let no_decay = 1.0 + c_1 / c_mu; // (eq. 50): c_1 + c_mu * sum w = 0
            let as_effective = 1.0 + 2.0 * mu_eff_minus / (mu_eff + 2.0); // (eq. 51)
            let definite = (1.0 - c_1 - c_mu) / (n * c_mu); // (eq. 52)
            no_decay.min(definite).min(as_effective)
        });

        let chi = expected_length(dim);
        let lazy_gap = 1.0 / (c_1 + c_mu + 1e-23) / n / 10.0;
        Ok(Params { dim, population, mu, weights, mu_eff, c_sigma, d_sigma, c_c, c_1, c_mu, chi, lazy_gap })
    }
}

/// `ln((lambda + 1) / 2) - ln i` (eq. 49).
fn raw_weights(population: usize) -> Vec<f64> {
    let middle = ((population as f64 + 1.0) / 2.0).ln();
    (1..=population).map(|i| middle - (i as f64).ln()).collect()
}

/// `(sum w)^2 / sum w^2`; 0 for no weights (eq. 8 and its like for the negative ones).
fn effective<'a>(weights: impl Iterator<Item = &'a f64>) -> f64 {
    let (sum, squares) = weights.fold((0.0, 0.0), |(sum, squares), w| (sum + w, squares + w * w));
    if squares > 0.0 { sum * sum / squares } else { 0.0 }
}

/// Scales the negative weights so that their magnitudes sum to `limit(mu_eff_minus)` (eq. 53), or puts them to 0.
fn scale_negative(weights: &mut [f64], mu: usize, active: bool, limit: impl Fn(f64) -> f64) {
    let mu_eff_minus = effective(weights.iter().skip(mu));
    let sum: f64 = weights.iter().skip(mu).sum();
    let factor = if active && sum < 0.0 { limit(mu_eff_minus) / -sum } else { 0.0 };
    for w in weights.iter_mut().skip(mu) {
        *w *= factor;
    }
}

/// d_sigma (eq. 55) as pycma 4.5 has it: the term for large mu_eff is steeper than the tutorial's by up to 3.
/// The two agree wherever that term is 0, which is so for the default population and for BBTv2's 20 at 500.
fn damping(n: f64, mu_eff: f64, c_sigma: f64) -> f64 {
    let steeper = f64::max(1.0, 3.0 * (1.0 - 0.5f64.powf(n / 9.0)));
    0.5 + 0.5 + 2.0 * f64::max(0.0, steeper * ((mu_eff - 1.0) / (n + 1.0)).sqrt() - 1.0) + c_sigma
}

/// E||N(0, I)||: exact up to 100 by `E_n E_(n+1) = n`, above that the series pycma uses (error below 1e-7).
fn expected_length(dim: usize) -> f64 {
    if dim <= 100 {
        let one = (2.0 / std::f64::consts::PI).sqrt();
        return (1..dim).fold(one, |length, n| n as f64 / length);
    }
    let n = dim as f64;
    n.sqrt() * (1.0 - 1.0 / (4.0 * n) + 1.0 / (32.0 * n * n))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The specification's numbers (bbtv2.md section 1.6) at the published setting.
    #[test]
    fn bbtv2_setting() {
        let p = Params::new(500, Some(20), true).unwrap();
        let close = |a: f64, b: f64, places: f64| assert!((a - b).abs() < 0.5 * places, "{a} is not {b}");
        assert_eq!(p.mu, 10);
        close(p.mu_eff, 5.939, 1e-3);
        close(p.c_sigma, 0.01560, 1e-5);
        close(p.d_sigma, 1.0156, 1e-4);
        close(p.c_c, 0.00796, 1e-5);
        close(p.c_1, 7.958e-6, 1e-9);
        close(p.c_mu, 3.458e-5, 1e-8);
        close(p.lazy_gap, 4.70, 1e-2);
        close(-p.weights.iter().filter(|w| **w < 0.0).sum::<f64>(), 1.230, 1e-3);
        close(p.weights[0], 0.2796, 1e-4);
    }

    #[test]
    fn default_population_and_bounds() {
        assert_eq!(Params::new(1, None, true).unwrap().population, 4);
        assert_eq!(Params::new(10, None, true).unwrap().population, 10);
        assert_eq!(Params::new(0, None, true), Err(Error::Dimension(0)));
        assert_eq!(Params::new(MAX_DIM + 1, None, true), Err(Error::Dimension(MAX_DIM + 1)));
        assert_eq!(Params::new(3, Some(3), true), Err(Error::Population(3)));
        assert_eq!(
            Params::new(3, Some(MAX_POPULATION + 1), true),
            Err(Error::Population(MAX_POPULATION + 1))
        );
    }

    #[test]
    fn expected_lengths() {
        assert!((expected_length(3) - 1.595769121605731).abs() < 1e-15);
        assert!((expected_length(100) - 9.97503163955105).abs() < 1e-13);
        assert!((expected_length(1000) - 31.61487189698).abs() < 1e-6);
    }
}
