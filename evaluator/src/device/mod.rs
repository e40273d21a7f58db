//! The population engine on a device that is not the processor: the same blocks and savings, on candle's tensors.
//!
//! A family's page is read once, by `backbone`; [`DeviceBackbone`] takes the loaded weights from there.

mod attention;
mod backbone;
mod block;
mod choice;
mod engine;
mod forward;
mod plan;

pub use backbone::DeviceBackbone;
pub(crate) use choice::first_line;
pub use choice::{DeviceError, open};
pub use engine::DeviceEngine;
