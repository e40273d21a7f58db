//! What the processor could do at most while the engine was at work: bare instructions, and our product alone.

use std::time::{Duration, Instant};

use rayon::ThreadPool;
use shared::spec::Dtype;

use crate::backbone::{Backbone, Linear};
use crate::device::DeviceBackbone;
use crate::kernel::Instruction;

/// One burst: long enough for the clock to be read without error, short enough to disturb nothing.
const BURST: Duration = Duration::from_millis(10);
/// Rows of the product: few enough to stay in the cache.
const ROWS: usize = 96;

/// Bursts so far, in operations a second over all threads.
#[derive(Debug, Default)]
pub(super) struct Peaks {
    instruction: Vec<f64>,
    gemm: Vec<f64>,
}

impl Peaks {
    /// One more burst of each, on all threads of `pool` at once.
    pub(super) fn take(&mut self, pool: &ThreadPool, dtype: Dtype, backbone: &Backbone) {
        let instruction = instruction(dtype);
        let bursts: Option<Vec<f64>> = pool.broadcast(|_| instruction.burst(BURST)).into_iter().collect();
        self.instruction.extend(bursts.map(|each| each.iter().sum::<f64>()));
        if let Some(block) = backbone.blocks.first() {
            let each = pool.broadcast(|_| product(&block.feed_forward.up));
            self.gemm.push(each.iter().sum());
        }
    }

    /// One more burst of a large product on a GPU, which has no bare instructions to show.
    pub(super) fn take_on_device(&mut self, backbone: &DeviceBackbone) -> candle_core::Result<()> {
        self.gemm.push(backbone.product_peak()?);
        Ok(())
    }

    /// The median burst of bare instructions; none where there is no such instruction.
    pub(super) fn instruction(&self) -> Option<f64> {
        median(&self.instruction)
    }

    /// The median burst of the product.
    pub(super) fn gemm(&self) -> f64 {
        median(&self.gemm).unwrap_or_default()
    }
}

/// What a product of this type is made of.
fn instruction(dtype: Dtype) -> Instruction {
    match dtype {
        // no processor's engine is built in f16: the loader has refused it
        Dtype::F32 | Dtype::F16 => Instruction::F32,
        Dtype::Bf16 => Instruction::Bf16,
        Dtype::Int8 => Instruction::Int8,
    }
}

/// Operations a second of one thread's products by a layer's widest matrix.
fn product(linear: &Linear) -> f64 {
    let x = vec![0.5; ROWS * linear.weight.depth()];
    let mut out = Vec::new();
    linear.forward(&x, ROWS, &mut out); // its memory is new
    let (began, mut done) = (Instant::now(), 0.0);
    loop {
        linear.forward(&x, ROWS, &mut out);
        done += (2 * ROWS * linear.weight.outputs() * linear.weight.depth()) as f64;
        let spent = began.elapsed();
        if spent >= BURST {
            return done / spent.as_secs_f64();
        }
    }
}

/// The middle of some numbers; of an even count the mean of the two in the middle.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = sorted.get(middle)?;
    Some(if sorted.len().is_multiple_of(2) { (sorted[middle - 1] + upper) / 2.0 } else { *upper })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }
}
