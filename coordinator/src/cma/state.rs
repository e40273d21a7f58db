//! The search's state: ask for candidates, tell their losses, generation by generation.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::covariance::Covariance;
use super::params::Params;
use super::stop::{Distribution, History, StopReason};
use super::{Error, Options};

/// Everything that CMA-ES knows. Serialised it loses no bit: a state that is read back goes on as the one written
/// would have. Bytes of another shape are refused on reading.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct State {
    params: Params,
    /// Completed generations, g.
    generation: u64,
    /// Whether candidates are out whose losses were not told.
    asked: bool,
    /// m, `[dim]`.
    mean: Vec<f64>,
    sigma: f64,
    sigma_start: f64,
    /// p_sigma, `[dim]`.
    path_sigma: Vec<f64>,
    /// p_c, `[dim]`.
    path_c: Vec<f64>,
    covariance: Covariance,
    best: Option<Best>,
    history: History,
}

/// The best candidate told so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Best {
    candidate: Vec<f64>,
    loss: f64,
}

/// What a generation's losses will have made of a state.
#[derive(Clone, Debug, PartialEq)]
pub struct Foreseen {
    /// The mean, `[dim]`.
    pub mean: Vec<f64>,
    /// The best candidate and its loss; none while no loss was finite.
    pub best: Option<(Vec<f64>, f64)>,
}

impl State {
    /// A search that has not begun.
    ///
    /// # Errors
    /// Dimension, population, sigma or mean that no search can start from.
    pub fn new(options: &Options) -> Result<State, Error> {
        let params = Params::new(options.dim, options.population, options.active)?;
        let dim = params.dim;
        if !(options.sigma.is_finite() && options.sigma > 0.0) {
            return Err(Error::Sigma(options.sigma));
        }
        let mean = options.mean.clone().unwrap_or_else(|| vec![0.0; dim]);
        length("entries of the mean", mean.len(), dim)?;
        finite("the initial mean", &mean)?;
        Ok(State {
            generation: 0,
            asked: false,
            sigma: options.sigma,
            sigma_start: options.sigma,
            path_sigma: vec![0.0; dim],
            path_c: vec![0.0; dim],
            covariance: Covariance::new(dim),
            best: None,
            history: History::new(&mean, params.population),
            mean,
            params,
        })
    }

    /// The next candidates, `[population][dim]`, from standard normal numbers, `[population * dim]`, a candidate's
    /// after another's. Decomposes C when it is due. Asking again before `tell`, with the same normals, gives the
    /// same candidates.
    ///
    /// # Errors
    /// Wrong number of normals, or not finite; [`Error::Decomposition`], [`Error::Diverged`].
    pub fn ask(&mut self, normals: &[f64]) -> Result<Vec<Vec<f64>>, Error> {
        let Params { dim, population, lazy_gap, .. } = self.params;
        length("normals", normals.len(), population * dim)?;
        finite("the normals", normals)?;
        let decomposed = self.covariance.refresh(lazy_gap);
        decomposed.ok_or(Error::Decomposition { generation: self.generation })?;
        let steps = self.covariance.stretch(normals); // ~ N(0, C) (eq. 39, with C's Cholesky factor)
        let candidates: Vec<Vec<f64>> = steps
            .chunks_exact(dim)
            .map(|y| self.mean.iter().zip(y).map(|(m, y)| m + self.sigma * y).collect()) // ~ N(m, sigma^2 C) (eq. 40)
            .collect();
        let finite = candidates.iter().flatten().all(|x| x.is_finite());
        self.or_diverged("a candidate", finite)?;
        self.asked = true;
        Ok(candidates)
    }

    /// Learns from the losses of the candidates that `ask` gave, in the same order. A loss that is not finite ranks
    /// last; equal losses rank by index. What the caller changed in a candidate is learnt as if it had been drawn.
    ///
    /// # Errors
    /// No `ask` before; another number of candidates, losses or variables; a candidate that is not finite;
    /// [`Error::Diverged`].
    pub fn tell(&mut self, candidates: &[Vec<f64>], losses: &[f64]) -> Result<(), Error> {
        self.check_told(candidates, losses)?;
        self.asked = false;
        self.generation += 1;
        let ranked = rank(candidates, losses);

        // Selection and recombination: m <- sum w_i x_i:lambda (eq. 41 and 42, c_m = 1).
        let new = self.recombine(&ranked);
        let old = std::mem::replace(&mut self.mean, new);
        let shift: Vec<f64> = self.mean.iter().zip(&old).map(|(m, old)| m - old).collect();

        // Paths first: they need C and sigma as the candidates saw them.
        self.lengthen_path_sigma(&shift);
        let open = self.h_sigma();
        self.lengthen_path_c(&shift, open);
        self.adapt_covariance(&ranked, &old, open);
        self.adapt_sigma();

        let sorted: Vec<f64> = ranked.iter().map(|(_, loss)| *loss).collect();
        self.history.note(&sorted, &self.mean);
        self.remember(&ranked);
        self.check_finite()
    }

    /// What [`State::tell`] will make of the mean and of the best candidate: neither needs the covariance, so whoever
    /// waits for them alone need not wait for the rest.
    ///
    /// # Errors
    /// As [`State::tell`], but for what shows only there.
    pub fn foresee(&self, candidates: &[Vec<f64>], losses: &[f64]) -> Result<Foreseen, Error> {
        self.check_told(candidates, losses)?;
        let ranked = rank(candidates, losses);
        let told = || self.best.as_ref().map(|best| (best.candidate.clone(), best.loss));
        let best = self.better(&ranked).map(|(x, loss)| (x.to_vec(), loss)).or_else(told);
        Ok(Foreseen { mean: self.recombine(&ranked), best })
    }

    /// The best candidate told so far and its loss; the first of equals; none while no loss was finite.
    pub fn best(&self) -> Option<(&[f64], f64)> {
        self.best.as_ref().map(|best| (best.candidate.as_slice(), best.loss))
    }

    /// The distribution's mean m, `[dim]`.
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// The step size.
    pub fn sigma(&self) -> f64 {
        self.sigma
    }

    /// Completed generations.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Candidates a generation.
    pub fn population(&self) -> usize {
        self.params.population
    }

    /// Number of variables.
    pub fn dim(&self) -> usize {
        self.params.dim
    }

    /// The strategy's constants.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The step size's evolution path p_sigma, `[dim]`.
    pub fn path_sigma(&self) -> &[f64] {
        &self.path_sigma
    }

    /// The rank-one evolution path p_c, `[dim]`.
    pub fn path_c(&self) -> &[f64] {
        &self.path_c
    }

    /// C's entry in row i and column j; 0 outside of it.
    pub fn covariance(&self, i: usize, j: usize) -> f64 {
        self.covariance.entry(i, j)
    }

    /// Why the search may end, in a fixed order; empty while it should go on, and before the first `tell`.
    pub fn stop(&self) -> Vec<StopReason> {
        if self.generation == 0 {
            return Vec::new();
        }
        let deviations: Vec<f64> = self.covariance.variances().map(f64::sqrt).collect();
        let axis: Vec<f64> = self.covariance.scaled_axis(self.generation).collect();
        let distribution = Distribution {
            mean: &self.mean,
            sigma: self.sigma,
            sigma_start: self.sigma_start,
            path_c: &self.path_c,
            deviations: &deviations,
            lengths: self.covariance.lengths(),
            axis: &axis,
        };
        let mut reasons = self.history.reasons();
        reasons.extend(distribution.reasons());
        reasons.sort();
        reasons
    }

    fn check_told(&self, candidates: &[Vec<f64>], losses: &[f64]) -> Result<(), Error> {
        if !self.asked {
            return Err(Error::NotAsked);
        }
        length("candidates", candidates.len(), self.params.population)?;
        length("losses", losses.len(), self.params.population)?;
        for candidate in candidates {
            length("variables of a candidate", candidate.len(), self.params.dim)?;
            finite("a candidate", candidate)?;
        }
        Ok(())
    }

    fn recombine(&self, ranked: &[(&[f64], f64)]) -> Vec<f64> {
        let mut mean = vec![0.0; self.params.dim];
        for ((x, _), w) in ranked.iter().zip(&self.params.weights).take(self.params.mu) {
            mean.iter_mut().zip(*x).for_each(|(m, x)| *m += w * x);
        }
        mean
    }

    /// p_sigma <- (1 - c_sigma) p_sigma + sqrt(c_sigma (2 - c_sigma) mu_eff) C^(-1/2) (m - m_old) / sigma (eq. 43).
    fn lengthen_path_sigma(&mut self, shift: &[f64]) {
        let Params { c_sigma, mu_eff, .. } = self.params;
        let white = self.covariance.whiten(shift); // ~ N(0, sigma^2 / mu_eff I) under random selection
        let gain = (c_sigma * (2.0 - c_sigma)).sqrt();
        let unit = mu_eff.sqrt() / self.sigma;
        for (p, z) in self.path_sigma.iter_mut().zip(&white) {
            *p = (1.0 - c_sigma) * *p + gain * (z * unit);
        }
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
        let Params { c_c, mu_eff, .. } = self.params;
        let gain = if open { (c_c * (2.0 - c_c) * mu_eff).sqrt() / self.sigma } else { 0.0 };
        for (p, s) in self.path_c.iter_mut().zip(shift) {
            *p = (1.0 - c_c) * *p + gain * s;
        }
    }

    /// Rank-one and rank-mu update with negative weights (eq. 46 and 47).
    fn adapt_covariance(&mut self, ranked: &[(&[f64], f64)], old: &[f64], open: bool) {
        let Params { dim, mu, c_c, c_1, c_mu, ref weights, .. } = self.params;
        // what C loses while h_sigma closes p_c: delta(h_sigma) of eq. 47
        let c_1a = if open { c_1 } else { c_1 * (1.0 - c_c * (2.0 - c_c)) };
        let mut rates = Vec::with_capacity(weights.len() + 1);
        rates.push(c_1a);
        rates.extend(weights.iter().map(|w| c_mu * w));
        let keep = 1.0 - rates.iter().sum::<f64>();

        let whole = (c_1 / (c_1a + 1e-23)).sqrt(); // c_1a times this squared is c_1
        let mut vectors = Vec::with_capacity((ranked.len() + 1) * dim);
        vectors.extend(self.path_c.iter().map(|p| whole * p));
        for (x, _) in ranked {
            vectors.extend(x.iter().zip(old).map(|(x, m)| (x - m) / self.sigma));
        }
        // (eq. 46): a bad step counts as if it had the expected length, so that C stays positive definite
        let bad = vectors.get((mu + 1) * dim..).unwrap_or_default();
        for (rate, norm) in rates.iter_mut().skip(mu + 1).zip(self.covariance.mahalanobis(bad)) {
            *rate *= dim as f64 / (norm + 1e-9).powi(2);
        }
        self.covariance.update(keep, &rates, &vectors);
    }

    /// sigma <- sigma exp((c_sigma / d_sigma) (||p_sigma|| / E||N(0, I)|| - 1)) (eq. 44), by at most e either way.
    fn adapt_sigma(&mut self) {
        let Params { c_sigma, d_sigma, chi, .. } = self.params;
        let long = self.path_sigma.iter().map(|p| p * p).sum::<f64>().sqrt();
        let change = (long / chi - 1.0) * (c_sigma / d_sigma);
        self.sigma *= change.clamp(-1.0, 1.0).exp();
    }

    /// The first of these, where it is better than any that was told before.
    fn better<'a>(&self, ranked: &[(&'a [f64], f64)]) -> Option<(&'a [f64], f64)> {
        let (x, loss) = *ranked.first().filter(|(_, loss)| loss.is_finite())?;
        self.best.as_ref().is_none_or(|best| loss < best.loss).then_some((x, loss))
    }

    fn remember(&mut self, ranked: &[(&[f64], f64)]) {
        if let Some((x, loss)) = self.better(ranked) {
            self.best = Some(Best { candidate: x.to_vec(), loss });
        }
    }

    fn check_finite(&self) -> Result<(), Error> {
        self.or_diverged("sigma", self.sigma.is_finite() && self.sigma > 0.0)?;
        self.or_diverged("the mean", self.mean.iter().all(|m| m.is_finite()))?;
        self.or_diverged("a path", self.path_sigma.iter().chain(&self.path_c).all(|p| p.is_finite()))?;
        // an entry of C cannot overflow before its row's diagonal entry does
        self.or_diverged("the covariance", self.covariance.variances().all(|c| c.is_finite()))
    }

    fn or_diverged(&self, what: &'static str, finite: bool) -> Result<(), Error> {
        if finite { Ok(()) } else { Err(Error::Diverged { generation: self.generation, what }) }
    }

    /// Whether the parts fit one another; false only for bytes that we did not write.
    fn is_shaped(&self) -> bool {
        let Params { dim, population, mu, ref weights, .. } = self.params;
        let vectors = [&self.mean, &self.path_sigma, &self.path_c];
        let sized = (1..=super::MAX_DIM).contains(&dim)
            && (super::MIN_POPULATION..=super::MAX_POPULATION).contains(&population);
        sized
            && weights.len() == population
            && (1..=population).contains(&mu)
            && vectors.iter().all(|v| v.len() == dim)
            && self.best.as_ref().is_none_or(|best| best.candidate.len() == dim)
            && self.covariance.is_shaped(dim)
            && self.history.is_shaped(dim)
    }
}

impl Serialize for State {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        State::serialize(self, to) // the derived one, by `remote = "Self"`
    }
}

impl<'de> Deserialize<'de> for State {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<State, D::Error> {
        let state = State::deserialize(from)?;
        if state.is_shaped() {
            Ok(state)
        } else {
            Err(serde::de::Error::custom("parts of the CMA-ES state do not fit"))
        }
    }
}

/// Candidates with their losses, best first; a loss that is not finite becomes infinite and so ranks last.
fn rank<'a>(candidates: &'a [Vec<f64>], losses: &[f64]) -> Vec<(&'a [f64], f64)> {
    let known = |loss: &f64| if loss.is_finite() { *loss } else { f64::INFINITY };
    let mut ranked: Vec<_> = candidates.iter().map(Vec::as_slice).zip(losses.iter().map(known)).collect();
    // stable: equal losses keep the order of their indices
    ranked.sort_by(|a, b| a.1.partial_cmp(&b.1).unwrap_or(std::cmp::Ordering::Equal));
    ranked
}

fn length(what: &'static str, found: usize, wanted: usize) -> Result<(), Error> {
    if found == wanted { Ok(()) } else { Err(Error::Length { what, found, wanted }) }
}

fn finite(what: &'static str, values: &[f64]) -> Result<(), Error> {
    if values.iter().all(|v| v.is_finite()) { Ok(()) } else { Err(Error::NotFinite(what)) }
}
