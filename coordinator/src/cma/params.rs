//! The strategy's constants: set once, in the order of the tutorial's table 1, with pycma 4.5's values.

use serde::{Deserialize, Serialize};

use super::{Error, Options, Variant, limited};

/// Learning rates of a covariance.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Cumulation for the rank-one path, c_c.
    pub c_c: f64,
    /// Rank-one learning rate, c_1.
    pub c_1: f64,
    /// Rank-mu learning rate, c_mu.
    pub c_mu: f64,
}

/// Strategy constants; functions of the options alone. Stored with the state, so that a run resumed by
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
    /// Generations with a diagonal covariance before the full one, and their rates.
    pub start: Option<(u64, Rates)>,
}

impl Params {
    /// The options' constants.
    ///
    /// # Errors
    /// Options that no search can start from.
    pub fn new(options: &Options) -> Result<Params, Error> {
        options.check()?;
        Ok(Params::of(options, options.choice().variant))
    }

    /// As [`Params::new`], for options that were checked.
    pub(super) fn of(options: &Options, variant: Variant) -> Params {
        let (dim, population) = (options.dim, options.population());
        let n = dim as f64;
        let raw = raw_weights(population, options.mu);
        let mu = raw.iter().filter(|&&w| w > 0.0).count();
        let positive: f64 = raw.iter().take(mu).sum();
        let mut weights: Vec<f64> = raw.iter().map(|w| w / positive).collect();
        let mu_eff = effective(weights.iter().take(mu));

        let times = |rates: Rates| {
            let c_1 = f64::min(1.0, rates.c_1 * options.rankone);
            Rates { c_1, c_mu: f64::min(1.0 - c_1, rates.c_mu * options.rankmu), ..rates }
        };
        let full = times(full_rates(n, population as f64, mu_eff));
        let diagonal = times(diagonal_rates(n, mu_eff));
        let default_start = || 1 + (100.0 * n / (population as f64).sqrt()) as u64;
        let (rates, start) = match variant {
            Variant::Full | Variant::Auto => (full, None),
            Variant::Separable => (diagonal, None),
            Variant::DiagonalStart { generations } => {
                (full, Some((generations.unwrap_or_else(default_start), diagonal)))
            }
            Variant::LimitedMemory => (Rates { c_c: 0.0, c_1: 0.0, c_mu: 0.0 }, None),
        };
        let Rates { c_c, c_1, c_mu } = rates;
        let active = options.active && variant != Variant::LimitedMemory;
        scale_negative(&mut weights, mu, active, |mu_eff_minus| {
            let no_decay = 1.0 + c_1 / c_mu; // (eq. 50): c_1 + c_mu * sum w = 0
            let as_effective = 1.0 + 2.0 * mu_eff_minus / (mu_eff + 2.0); // (eq. 51)
            let definite = match variant {
                // pycma: none either where a full covariance's rates leave no room for them
                Variant::Separable if full.c_1 + full.c_mu >= 1.0 => 0.0,
                Variant::Separable => f64::INFINITY, // a factor of a variance is positive whatever its exponent
                _ => (1.0 - c_1 - c_mu) / (n * c_mu), // (eq. 52)
            };
            no_decay.min(definite).min(as_effective)
        });

        let (c_sigma, d_sigma) = match variant {
            Variant::LimitedMemory => (limited::c_sigma(n, population as f64), 2.0),
            _ => {
                let c_sigma = f64::min(0.5, (mu_eff + 2.0) / (n + mu_eff + 3.0)); // (eq. 55)
                (c_sigma, damping(n, mu_eff, c_sigma))
            }
        };
        let chi = expected_length(dim);
        let lazy_gap = 1.0 / (c_1 + c_mu + 1e-23) / n / 10.0;
        Params {
            dim,
            population,
            mu,
            weights,
            mu_eff,
            c_sigma,
            d_sigma,
            c_c,
            c_1,
            c_mu,
            chi,
            lazy_gap,
            start,
        }
    }

    /// The rates of a generation, counted from 1.
    pub(super) fn rates(&self, generation: u64) -> Rates {
        match self.start {
            Some((last, rates)) if generation <= last => rates,
            _ => Rates { c_c: self.c_c, c_1: self.c_1, c_mu: self.c_mu },
        }
    }
}

/// `4 + floor(3 ln dim)` (eq. 48).
pub(super) fn default_population(dim: usize) -> usize {
    4 + (3.0 * (dim.max(1) as f64).ln()).floor() as usize
}

/// A full covariance's.
fn full_rates(n: f64, population: f64, mu_eff: f64) -> Rates {
    let c_c = (4.0 + mu_eff / n) / (n + (4.0 + 2.0 * mu_eff / n)); // (eq. 56)
    // (eq. 57), alpha_cov = 2; fewer than six candidates learn less
    let c_1 = f64::min(1.0, population / 6.0) * 2.0 / ((n + 1.3).powi(2) + mu_eff);
    // (eq. 58) with the quarter that pycma adds
    let c_mu = f64::min(1.0 - c_1, 2.0 * (0.25 + mu_eff - 2.0 + 1.0 / mu_eff) / ((n + 2.0).powi(2) + mu_eff));
    Rates { c_c, c_1, c_mu }
}

/// A diagonal covariance's, pycma's `cc_sep`, `c1_sep` and `cmu_sep`: about n / 3 times the full one's.
fn diagonal_rates(n: f64, mu_eff: f64) -> Rates {
    let c_c = (1.0 + 1.0 / n + mu_eff / n) / (n.sqrt() + 1.0 / n + 2.0 * mu_eff / n);
    let c_1 = 1.0 / (n + 2.0 * n.sqrt() + mu_eff / n);
    let c_mu =
        f64::min(1.0 - c_1, (0.25 + mu_eff + 1.0 / mu_eff - 2.0) / (n + 4.0 * n.sqrt() + mu_eff / 2.0));
    Rates { c_c, c_1, c_mu }
}

/// `ln((lambda + 1) / 2) - ln i` (eq. 49). With a `mu` of one's own they are those of `2 mu` candidates, and those
/// between the better and the worse ones weigh nothing, as in pycma.
fn raw_weights(population: usize, mu: Option<usize>) -> Vec<f64> {
    let weighty = mu.map_or(population, |mu| 2 * mu);
    let middle = ((weighty as f64 + 1.0) / 2.0).ln();
    let mut weights: Vec<f64> = (1..=weighty).map(|i| middle - (i as f64).ln()).collect();
    let at = weighty / 2;
    weights.splice(at..at, std::iter::repeat_n(0.0, population - weighty));
    weights
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
    use crate::cma::{MAX_DIM, MAX_POPULATION};

    fn of(dim: usize, population: Option<usize>) -> Options {
        Options { population, ..Options::new(dim, 1.0) }
    }

    /// The specification's numbers (bbtv2.md section 1.6) at the published setting.
    #[test]
    fn bbtv2_setting() {
        let p = Params::new(&of(500, Some(20))).unwrap();
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
        assert_eq!(Params::new(&of(1, None)).unwrap().population, 4);
        assert_eq!(Params::new(&of(10, None)).unwrap().population, 10);
        assert_eq!(Params::new(&of(0, None)), Err(Error::Dimension(0)));
        assert_eq!(Params::new(&of(MAX_DIM + 1, None)), Err(Error::Dimension(MAX_DIM + 1)));
        assert_eq!(Params::new(&of(3, Some(3))), Err(Error::Population(3)));
        assert_eq!(Params::new(&of(3, Some(MAX_POPULATION + 1))), Err(Error::Population(MAX_POPULATION + 1)));
    }

    #[test]
    fn expected_lengths() {
        assert!((expected_length(3) - 1.595769121605731).abs() < 1e-15);
        assert!((expected_length(100) - 9.97503163955105).abs() < 1e-13);
        assert!((expected_length(1000) - 31.61487189698).abs() < 1e-6);
    }
}
