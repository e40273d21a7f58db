//! See Cargo.toml.

pub mod projection;
pub mod random;
pub mod task;
