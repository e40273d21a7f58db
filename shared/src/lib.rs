//! Zeroth domain: see the modules.

pub mod ids;
pub mod messages;
