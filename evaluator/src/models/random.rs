//! Random weights: a model of any shape without a file, for benchmarks.

use rayon::prelude::*;

/// Standard deviation of matrices, as their authors initialise them.
const DEVIATION: f32 = 0.02;

/// Tensors as they are asked for: the same numbers for the same name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Random {
    /// Tensors that a model may lack, but this one has.
    pub(super) optional: &'static [&'static str],
}

impl Random {
    /// About normal numbers of [`DEVIATION`]; norms' weights lie around one.
    pub(super) fn values(self, name: &str, shape: &[usize]) -> Vec<f32> {
        let middle = if shape.len() == 1 && name.ends_with("weight") { 1.0 } else { 0.0 };
        let seed = name.bytes().fold(0, |seed, byte| mixed(seed ^ u64::from(byte)));
        let mut values = vec![0.0; shape.iter().product()];
        let chunk = 1 << 16; // numbers a task
        values.par_chunks_mut(chunk).enumerate().for_each(|(index, values)| {
            for (at, value) in (index * chunk..).zip(values) {
                *value = middle + DEVIATION * normal(mixed(seed.wrapping_add(at as u64)));
            }
        });
        values
    }
}

/// The sum of four uniform numbers, scaled to deviation one: near enough to a normal for a benchmark, and cheap.
fn normal(bits: u64) -> f32 {
    let sum: u64 = (0..4).map(|part| (bits >> (16 * part)) & 0xffff).sum();
    (sum as f32 / 65_536.0 - 2.0) * 3.0_f32.sqrt()
}

/// SplitMix64's step: neighbouring numbers to unlike ones.
fn mixed(number: u64) -> u64 {
    let mut x = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_mean_and_deviation_that_is_said_and_depend_on_the_name() {
        let random = Random { optional: &[] };
        let one = random.values("a.weight", &[300, 400]);
        let mean = one.iter().sum::<f32>() / one.len() as f32;
        let square = one.iter().map(|x| x * x).sum::<f32>() / one.len() as f32;
        assert!(mean.abs() < 2e-4, "{mean}");
        assert!((square.sqrt() / DEVIATION - 1.0).abs() < 0.01, "{square}");
        assert_eq!(one, random.values("a.weight", &[300, 400]));
        assert_ne!(one, random.values("b.weight", &[300, 400]));
        let norm = random.values("norm.weight", &[1000]);
        assert!((norm.iter().sum::<f32>() / 1000.0 - 1.0).abs() < 0.01);
    }
}
