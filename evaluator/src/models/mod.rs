//! The model's files: where they lie, whose they are, and the tokenizer among them.

pub mod hub;
pub mod identity;
pub mod locate;
pub mod tokenizer;
pub mod weights;
