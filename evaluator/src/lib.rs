//! See Cargo.toml.
pub mod models;
