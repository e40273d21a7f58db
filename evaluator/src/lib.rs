//! Zeroth's evaluator: a replica of the model and the population engine.

pub mod dial;
