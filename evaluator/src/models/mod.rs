//! The model's files: where they lie, what is in them, and the tokenizer among them.

pub mod census;
pub mod gguf;
pub mod hub;
pub mod locate;
pub mod map;
pub mod pickle;
mod random;
pub mod tokenizer;
pub mod weights;
