//! What the optimiser's tests are given, here and in `src/cma/tests.rs`: the golden scripts' normals and functions, and how far
//! two searches are apart.
#![allow(dead_code)] // no test uses all of it

/// The scripts' generator: exact in floating point, so that both sides have the same bits.
pub(crate) struct Normals(pub(crate) u64);

impl Normals {
    pub(crate) fn draw(&mut self, count: usize) -> Vec<f64> {
        let mut uniform = || {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (self.0 >> 32) as f64 / 4294967296.0
        };
        (0..count).map(|_| (0..12).map(|_| uniform()).sum::<f64>() - 6.0).collect()
    }
}

pub(crate) fn sphere(x: &[f64]) -> f64 {
    x.iter().map(|v| v * v).sum()
}

pub(crate) fn ellipsoid(x: &[f64]) -> f64 {
    let n = (x.len() - 1) as f64;
    x.iter().enumerate().map(|(i, v)| 10f64.powf(6.0 * i as f64 / n) * v * v).sum()
}

pub(crate) fn rosenbrock(x: &[f64]) -> f64 {
    x.windows(2).map(|w| 100.0 * (w[0] * w[0] - w[1]).powi(2) + (w[0] - 1.0).powi(2)).sum()
}

pub(crate) fn norm(values: &[f64]) -> f64 {
    sphere(values).sqrt()
}

/// Largest |ours - theirs| over the largest |theirs|.
pub(crate) fn deviation(ours: &[f64], theirs: &[f64]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let scale = theirs.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
    let apart = ours.iter().zip(theirs).fold(0.0, |a: f64, (x, y)| a.max((x - y).abs()));
    assert!(ours.iter().all(|x| x.is_finite()));
    if apart == 0.0 { 0.0 } else { apart / scale }
}
