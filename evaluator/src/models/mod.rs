//! The model's files: where they lie, what is in them, and the tokenizer among them.

pub mod census;
pub mod gguf;
pub mod hub;
pub mod locate;
pub mod map;
mod mapped;
pub mod pickle;
mod random;
pub mod stored;
pub mod tokenizer;
mod weight_error;
pub mod weights;
