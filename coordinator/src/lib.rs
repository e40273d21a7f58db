//! Zeroth's coordinator: the search and the fleet.

pub mod fleet;
