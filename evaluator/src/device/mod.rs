//! The population engine on a device that is not the processor: the same blocks and savings, on candle's tensors.
//!
//! A family's page is read once, by `backbone`; [`DeviceBackbone`] takes the loaded weights from there.

mod attention;
mod backbone;
mod block;
mod choice;
#[cfg(test)]
mod counted;
#[cfg(feature = "cuda")]
mod cuda;
mod engine;
mod fastest;
#[cfg(test)]
mod flops;
mod forward;
mod look;
mod mean;
mod ops;
mod parts;
mod peak;
mod plan;
mod plans;

pub use backbone::DeviceBackbone;
pub use choice::{DeviceError, open};
pub use engine::DeviceEngine;
