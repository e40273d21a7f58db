//! What a generation teaches: mean, paths, covariance, step size.

use faer::{MatRef, Side};

use super::{Ranked, State, partly};
use crate::cma::Error;
use crate::cma::geometry::Model;
use crate::cma::params::Rates;
use crate::cma::parts::{MOVED, PART, in_parts};

/// Mean, step size and covariance before a generation was learnt, for adapted learning rates.
struct Before {
    mean: Vec<f64>,
    sigma: f64,
    /// C, `[dim * dim]`, or what its diagonal is the square of, `[dim]`.
    covariance: Vec<f64>,
}

impl State {
    /// Learns from a generation, best candidate first.
    pub(super) fn learn(&mut self, ranked: &[Ranked<'_>]) -> Result<(), Error> {
        let before = self.signals.is_some().then(|| self.before());
        // Selection and recombination: m <- sum w_i x_i:lambda (eq. 41 and 42, c_m = 1).
        let new = self.recombine(ranked);
        let old = std::mem::replace(&mut self.mean, new);
        let shift: Vec<f64> = self.mean.iter().zip(&old).map(|(m, old)| m - old).collect();
        let shift = self.geometry.unscaled(&shift);

        // Paths first: they need C and sigma as the candidates saw them.
        let white = self.lengthen_path_sigma(&shift);
        if let Model::Limited(directions) = self.geometry.model_mut() {
            directions.learn(&white, self.params.population);
            self.adapt_sigma_squared();
        } else {
            let open = self.h_sigma();
            self.lengthen_path_c(&shift, open);
            self.adapt_covariance(ranked, &old, open);
            self.adapt_sigma();
        }
        if let Some(before) = before {
            self.go_partly(before)?;
        }
        self.geometry.narrow(self.sigma, self.generation);
        Ok(())
    }

    pub(super) fn recombine(&self, ranked: &[Ranked<'_>]) -> Vec<f64> {
        let mut mean = vec![0.0; self.params.dim];
        for (ranked, w) in ranked.iter().zip(&self.params.weights).take(self.params.mu) {
            mean.iter_mut().zip(ranked.x).for_each(|(m, x)| *m += w * x);
        }
        mean
    }

    /// What a step would have been drawn from: standard normal but for selection.
    pub(super) fn local(&self, step: &[f64], sigma: f64) -> Vec<f64> {
        let mut white = self.geometry.whiten(&self.geometry.unscaled(step));
        white.iter_mut().for_each(|z| *z /= sigma);
        white
    }

    /// p_sigma <- (1 - c_sigma) p_sigma + sqrt(c_sigma (2 - c_sigma) mu_eff) C^(-1/2) (m - m_old) / sigma (eq. 43); gives
    /// what it was lengthened by, before the gain.
    fn lengthen_path_sigma(&mut self, shift: &[f64]) -> Vec<f64> {
        let (c_sigma, mu_eff) = (self.params.c_sigma, self.params.mu_eff);
        let mut white = self.geometry.whiten(shift); // ~ N(0, sigma^2 / mu_eff I) under random selection
        let gain = (c_sigma * (2.0 - c_sigma)).sqrt();
        let unit = mu_eff.sqrt() / self.sigma;
        for (p, z) in self.path_sigma.iter_mut().zip(&mut white) {
            *z *= unit;
            *p = (1.0 - c_sigma) * *p + gain * *z;
        }
        white
    }

    /// h_sigma: false while p_sigma is long, so that C does not stretch because sigma is still far too small.
    fn h_sigma(&self) -> bool {
        let n = self.params.dim as f64;
        let squares: f64 = self.path_sigma.iter().map(|p| p * p).sum();
        let forgotten = (1.0 - self.params.c_sigma).powf(2.0 * self.generation as f64);
        squares / (1.0 - forgotten) / n - 1.0 < 1.0 + 4.0 / (n + 1.0)
    }

    /// p_c <- (1 - c_c) p_c + h_sigma sqrt(c_c (2 - c_c) mu_eff) (m - m_old) / sigma (eq. 45).
    fn lengthen_path_c(&mut self, shift: &[f64], open: bool) {
        let Rates { c_c, .. } = self.params.rates(self.generation);
        let mu_eff = self.params.mu_eff;
        let gain = if open { (c_c * (2.0 - c_c) * mu_eff).sqrt() / self.sigma } else { 0.0 };
        for (p, s) in self.path_c.iter_mut().zip(shift) {
            *p = (1.0 - c_c) * *p + gain * s;
        }
    }

    /// Rank-one and rank-mu update with negative weights (eq. 46 and 47), of C or of the coordinates' scales.
    fn adapt_covariance(&mut self, ranked: &[Ranked<'_>], old: &[f64], open: bool) {
        let Rates { c_c, c_1, c_mu } = self.params.rates(self.generation);
        let (dim, mu) = (self.params.dim, self.params.mu);
        // what C loses while h_sigma closes p_c: delta(h_sigma) of eq. 47
        let c_1a = if open { c_1 } else { c_1 * (1.0 - c_c * (2.0 - c_c)) };
        let mut rates = Vec::with_capacity(ranked.len() + 1);
        rates.push(c_1a);
        rates.extend(ranked.iter().zip(&self.params.weights).map(|(ranked, w)| {
            // what was put in from outside takes no variance away
            if *w < 0.0 && ranked.index < self.placed { 0.0 } else { c_mu * w }
        }));
        let keep = 1.0 - rates.iter().sum::<f64>();

        let units: Vec<f64> = (0..dim).map(|i| self.sigma * self.geometry.scale(i)).collect();
        // p_c times a factor, and then the steps
        let vectors = |factor: f64| {
            let mut vectors = vec![0.0; rates.len() * dim];
            in_parts(&mut vectors, PART * dim, MOVED * rates.len() * dim, |part, rows| {
                for (at, row) in rows.chunks_exact_mut(dim).enumerate() {
                    match (part * PART + at).checked_sub(1).and_then(|step| ranked.get(step)) {
                        None => row.iter_mut().zip(&self.path_c).for_each(|(v, p)| *v = factor * p),
                        Some(Ranked { x, .. }) => {
                            let step = x.iter().zip(old).zip(&units).map(|((x, m), unit)| (x - m) / unit);
                            row.iter_mut().zip(step).for_each(|(v, step)| *v = step);
                        }
                    }
                }
            });
            vectors
        };
        match self.geometry.model_mut() {
            Model::Full(covariance) => {
                let whole = (c_1 / (c_1a + 1e-23)).sqrt(); // c_1a times this squared is c_1
                let vectors = vectors(whole);
                // (eq. 46): a bad step counts as if it had the expected length, so that C stays positive definite
                let bad = vectors.get((mu + 1) * dim..).unwrap_or_default();
                for (rate, norm) in rates.iter_mut().skip(mu + 1).zip(covariance.mahalanobis(bad)) {
                    *rate *= dim as f64 / (norm + 1e-9).powi(2);
                }
                covariance.update(keep, &rates, &vectors);
            }
            Model::Identity => {
                let vectors = vectors(1.0);
                // pycma's factor, "for historical reasons": a variance that is doubled is so at its largest
                rates.iter_mut().for_each(|rate| *rate *= std::f64::consts::LN_2);
                self.geometry.learn_scales(&rates, &vectors);
            }
            Model::Limited(_) => {}
        }
    }

    /// sigma <- sigma exp((c_sigma / d_sigma) (||p_sigma|| / E||N(0, I)|| - 1)) (eq. 44), by at most e either way.
    fn adapt_sigma(&mut self) {
        let (c_sigma, d_sigma, chi) = (self.params.c_sigma, self.params.d_sigma, self.params.chi);
        let long = self.path_sigma.iter().map(|p| p * p).sum::<f64>().sqrt();
        let change = (long / chi - 1.0) * (c_sigma / d_sigma);
        self.sigma *= change.clamp(-1.0, 1.0).exp();
    }

    /// LM-MA-ES' rule: by the path's squared length.
    fn adapt_sigma_squared(&mut self) {
        let (c_sigma, d_sigma) = (self.params.c_sigma, self.params.d_sigma);
        let squares = self.path_sigma.iter().map(|p| p * p).sum::<f64>();
        let change = (squares / self.params.dim as f64 - 1.0) * (c_sigma / d_sigma);
        self.sigma *= change.clamp(-1.0, 1.0).exp();
    }

    fn before(&self) -> Before {
        let covariance = match self.geometry.model() {
            Model::Full(covariance) => covariance.whole(),
            _ => self.geometry.deviations(),
        };
        Before { mean: self.mean.clone(), sigma: self.sigma, covariance }
    }

    /// LRA-CMA-ES: of the step that was made only a part counts.
    fn go_partly(&mut self, before: Before) -> Result<(), Error> {
        let Some(mut signals) = self.signals.take() else {
            return Ok(());
        };
        let shift: Vec<f64> = self.mean.iter().zip(&before.mean).map(|(m, old)| m - old).collect();
        let eta_before = signals.mean.eta();
        // the geometry still has the root of C as it was: it is decomposed when candidates are drawn
        let local = match self.geometry.model() {
            Model::Full(_) => self.local(&shift, before.sigma),
            _ => shift.iter().zip(&before.covariance).map(|(s, d)| s / (before.sigma * d)).collect(),
        };
        let eta = signals.mean.note(&local);
        self.mean = partly(&before.mean, &shift, eta);
        if self.geometry.is_diagonal() {
            let variance = |sigma: f64| move |d: &f64| (sigma * d) * (sigma * d);
            let old: Vec<f64> = before.covariance.iter().map(variance(before.sigma)).collect();
            let new = self.geometry.deviations();
            let change: Vec<f64> =
                new.iter().map(variance(self.sigma)).zip(&old).map(|(new, old)| new - old).collect();
            let step: Vec<f64> =
                change.iter().zip(&old).map(|(c, old)| c / old * std::f64::consts::FRAC_1_SQRT_2).collect();
            let share = signals.covariance.note(&step);
            let variances = partly(&old, &change, share);
            let logs: f64 = variances.iter().map(|v| v.ln()).sum();
            self.sigma = (logs / 2.0 / self.params.dim as f64).exp();
            self.geometry.set_scales(variances.iter().map(|v| v.sqrt() / self.sigma));
        } else if let Model::Full(covariance) = self.geometry.model_mut() {
            let dim = self.params.dim;
            let squared = |sigma: f64| move |c: &f64| sigma * sigma * c;
            let old: Vec<f64> = before.covariance.iter().map(squared(before.sigma)).collect();
            let new = covariance.whole();
            let change: Vec<f64> =
                new.iter().map(squared(self.sigma)).zip(&old).map(|(new, old)| new - old).collect();
            let half = transposed(&covariance.whiten(&change), dim);
            let unit = std::f64::consts::FRAC_1_SQRT_2 / (before.sigma * before.sigma);
            let step: Vec<f64> = covariance.whiten(&half).iter().map(|s| s * unit).collect();
            let share = signals.covariance.note(&step);
            let whole = partly(&old, &change, share);
            let root = MatRef::from_column_major_slice(&whole, dim, dim).llt(Side::Lower);
            let root = root.map_err(|_| Error::Decomposition { generation: self.generation })?;
            let logs: f64 = root.L().diagonal().column_vector().iter().map(|l| l.ln()).sum();
            self.sigma = (logs / dim as f64).exp(); // the determinant of Sigma to the power 1 / (2 dim)
            covariance.set(whole.iter().map(|c| c / (self.sigma * self.sigma)));
        }
        self.sigma *= eta_before / eta;
        self.signals = Some(signals);
        Ok(())
    }

    /// The first of these, where it is better than any that was told before, as it was evaluated.
    pub(super) fn better<'a>(
        &self,
        candidates: &'a [Vec<f64>],
        ranked: &[Ranked<'_>],
    ) -> Option<(&'a [f64], f64)> {
        let first = ranked.first().filter(|first| first.loss.is_finite())?;
        let better = self.doubted || self.best.as_ref().is_none_or(|best| first.loss < best.loss);
        better.then_some((candidates.get(first.index)?.as_slice(), first.loss))
    }

    pub(super) fn check_finite(&self) -> Result<(), Error> {
        self.or_diverged("sigma", self.sigma.is_finite() && self.sigma > 0.0)?;
        self.or_diverged("the mean", self.mean.iter().all(|m| m.is_finite()))?;
        self.or_diverged("a path", self.path_sigma.iter().chain(&self.path_c).all(|p| p.is_finite()))?;
        self.or_diverged("the covariance", self.geometry.is_finite())
    }
}

/// A square matrix turned over its diagonal.
fn transposed(matrix: &[f64], dim: usize) -> Vec<f64> {
    (0..dim).flat_map(|i| matrix.iter().skip(i).step_by(dim).copied()).collect()
}
