//! Zeroth's coordinator: the search and the fleet.

pub mod fleet;
pub mod progress;
pub mod serve;
