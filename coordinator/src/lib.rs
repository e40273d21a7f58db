//! See Cargo.toml.

pub mod cma;
