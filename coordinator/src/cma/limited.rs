//! A covariance of a few directions: LM-MA-ES (Loshchilov, Glasmachers, Beyer 2017, arXiv 1705.06693).
//!
//! Steps are `M z` with `M = prod_j ((1 - c_j) I + c_j m_j m_j^T)`. Each direction `m_j` is a path of the mean's way, the
//! first ones short, the last ones long. Drawing costs `O(directions * dim)` a candidate, and so does whitening, each
//! factor's inverse being of the same form (Sherman and Morrison): what the caller changed in a candidate is learnt too.

use serde::{Deserialize, Serialize};

/// The paths and what each counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Directions {
    dim: usize,
    /// Generations learnt from: as many directions count.
    learnt: u64,
    /// m_j one after the other, `[directions * dim]`.
    paths: Vec<f64>,
}

/// Directions that are kept: as many as pycma's default population has candidates.
pub(super) fn directions(dim: usize) -> usize {
    super::params::default_population(dim)
}

/// Cumulation for the step size, `2 lambda / n`; below some 60 variables the half of it that CMA-ES goes to at most.
pub(super) fn c_sigma(n: f64, population: f64) -> f64 {
    f64::min(0.5, 2.0 * population / n)
}

impl Directions {
    pub(super) fn new(dim: usize) -> Directions {
        Directions { dim, learnt: 0, paths: vec![0.0; directions(dim) * dim] }
    }

    /// c_d: how much direction j counts, j from 0; less than all of a step even where there is one variable.
    fn weight(&self, j: usize) -> f64 {
        f64::min(0.5, 1.0 / (1.5f64.powi(j as i32) * self.dim as f64))
    }

    /// c_c: how fast direction j forgets.
    fn cumulation(&self, j: usize, population: usize) -> f64 {
        f64::min(1.0, population as f64 / (4f64.powi(j as i32) * self.dim as f64))
    }

    /// The directions that count so far, with their weights.
    fn counting(&self) -> impl DoubleEndedIterator<Item = (f64, &[f64])> {
        let count = (self.paths.len() / self.dim).min(self.learnt.try_into().unwrap_or(usize::MAX));
        (0..count).map(|j| (self.weight(j), &self.paths[j * self.dim..(j + 1) * self.dim]))
    }

    /// `M z` for each vector; `vectors`: `[count * dim]`.
    pub(super) fn stretch(&self, vectors: &[f64]) -> Vec<f64> {
        let mut out = vectors.to_vec();
        for d in out.chunks_exact_mut(self.dim) {
            for (weight, path) in self.counting() {
                let along = weight * dot(path, d);
                d.iter_mut().zip(path).for_each(|(d, m)| *d = (1.0 - weight) * *d + along * m);
            }
        }
        out
    }

    /// `M^-1 y` for each vector.
    pub(super) fn whiten(&self, vectors: &[f64]) -> Vec<f64> {
        let mut out = vectors.to_vec();
        for d in out.chunks_exact_mut(self.dim) {
            for (weight, path) in self.counting().rev() {
                let rest = 1.0 - weight;
                let along = weight * dot(path, d) / (rest + weight * dot(path, path));
                d.iter_mut().zip(path).for_each(|(d, m)| *d = (*d - along * m) / rest);
            }
        }
        out
    }

    /// Learns from the mean's way, whitened and `N(0, I)` under random selection.
    pub(super) fn learn(&mut self, white: &[f64], population: usize) {
        for j in 0..self.paths.len() / self.dim {
            let c = self.cumulation(j, population);
            // the root of mu_eff is in `white`
            let gain = (c * (2.0 - c)).sqrt();
            let path = &mut self.paths[j * self.dim..(j + 1) * self.dim];
            path.iter_mut().zip(white).for_each(|(m, z)| *m = (1.0 - c) * *m + gain * z);
        }
        self.learnt = self.learnt.saturating_add(1);
    }

    pub(super) fn is_finite(&self) -> bool {
        self.paths.iter().all(|m| m.is_finite())
    }

    pub(super) fn is_shaped(&self, dim: usize) -> bool {
        self.dim == dim && self.paths.len() == directions(dim) * dim
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whitening_undoes_stretching() {
        let dim = 40;
        let mut directions = Directions::new(dim);
        let wave = |k: usize| -> Vec<f64> { (0..dim).map(|i| ((i * k + k) as f64).sin() * 1.4).collect() };
        for k in 1..30 {
            directions.learn(&wave(k), 15);
            let z = wave(k + 7);
            let back = directions.whiten(&directions.stretch(&z));
            assert!(z.iter().zip(&back).all(|(a, b)| (a - b).abs() < 1e-12));
        }
        assert_ne!(directions.stretch(&wave(3)), wave(3));
    }
}
