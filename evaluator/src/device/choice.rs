//! The device that a run file or a command line names, opened; or one line that says why not.

use candle_core::DType;
use shared::spec::{Device, Dtype};
use thiserror::Error;

/// Why a device cannot be used.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// A build without it.
    #[error("this build has no {name}: build with --features {feature}")]
    Built {
        /// What it is called.
        name: &'static str,
        /// The feature that brings it.
        feature: &'static str,
    },
    /// It is not there, or does not answer.
    #[error("model.device = \"{device}\" cannot be used: {reason}")]
    Open {
        /// The device.
        device: Device,
        /// What it says.
        reason: String,
    },
    /// A type that only the processor computes in.
    #[error(
        "model.dtype = \"{dtype}\" is for the processor alone; on {device} use \"f32\", \"f16\" or \"bf16\""
    )]
    Type {
        /// The type.
        dtype: Dtype,
        /// The device.
        device: Device,
    },
    /// The weights do not fit.
    #[error("the weights cannot be copied to {device}: {reason}")]
    Upload {
        /// The device.
        device: Device,
        /// What it says.
        reason: String,
    },
}

impl DeviceError {
    /// Of the weights' way to a device.
    pub(crate) fn upload(device: Device, error: &candle_core::Error) -> Self {
        Self::Upload { device, reason: first_line(error) }
    }
}

/// Opens `device` for linear layers in `dtype`; `None` is the processor.
///
/// # Errors
/// See [`DeviceError`].
pub fn open(device: Device, dtype: Dtype) -> Result<Option<(candle_core::Device, DType)>, DeviceError> {
    let opened = match device {
        Device::Cpu => return Ok(None),
        Device::Metal if !cfg!(feature = "metal") => {
            return Err(DeviceError::Built { name: "Metal", feature: "metal" });
        }
        #[cfg(feature = "cuda")]
        Device::Cuda(number) => super::cuda::open(number),
        #[cfg(not(feature = "cuda"))]
        Device::Cuda(_) => return Err(DeviceError::Built { name: "CUDA", feature: "cuda" }),
        Device::Metal => candle_core::Device::new_metal(0),
    };
    let dtype = match dtype {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::Bf16 => DType::BF16,
        Dtype::Int8 => return Err(DeviceError::Type { dtype, device }),
    };
    let opened = opened.map_err(|error| DeviceError::Open { device, reason: first_line(&error) })?;
    Ok(Some((opened, dtype)))
}

/// What a device says, without the traces that follow it.
fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

#[cfg(all(test, not(any(feature = "cuda", feature = "metal"))))]
mod tests {
    use super::*;

    #[test]
    fn a_build_without_a_device_says_how_to_get_it() {
        assert!(matches!(open(Device::Cpu, Dtype::Int8), Ok(None)));
        let text = |device| open(device, Dtype::F32).unwrap_err().to_string();
        assert_eq!(text(Device::Cuda(1)), "this build has no CUDA: build with --features cuda");
        assert_eq!(text(Device::Metal), "this build has no Metal: build with --features metal");
    }
}
