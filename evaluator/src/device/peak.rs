//! What a device's own matrix product reaches: what a forward pass on it is compared with.

use std::time::Instant;

use candle_core::{DType, Result, Tensor};

use super::backbone::DeviceBackbone;
use super::parts::Linear;

/// Rows, depth and outputs of the product on a GPU, and on candle's processor device, which tests run.
const SIZE: usize = 8192;
const SMALL: usize = 256;
/// Products in a burst.
const TIMES: usize = 8;

impl DeviceBackbone {
    /// Operations a second of one large square product in the weights' type, of random numbers: zeros would be faster.
    pub(crate) fn product_peak(&self) -> Result<f64> {
        let size = if self.device.is_cpu() { SMALL } else { SIZE };
        let random = || Tensor::randn(0.0_f32, 1.0, (size, size), &self.device)?.to_dtype(self.dtype);
        let (x, weight) = (random()?, random()?);
        let linear = Linear { weight, bias: None };
        wait_for(&self.ops.linear(&linear, &x)?)?;
        let began = Instant::now();
        let mut last = None;
        for _ in 0..TIMES {
            last = Some(self.ops.linear(&linear, &x)?);
        }
        last.map_or(Ok(()), |last| wait_for(&last))?;
        Ok((2 * size * size * size * TIMES) as f64 / began.elapsed().as_secs_f64())
    }
}

/// Waits for what is queued, by reading one number.
pub(super) fn wait_for(tensor: &Tensor) -> Result<()> {
    let number = tensor.narrow(0, 0, 1)?.narrow(1, 0, 1)?.to_dtype(DType::F32)?;
    number.flatten_all()?.to_vec1::<f32>().map(|_| ())
}
