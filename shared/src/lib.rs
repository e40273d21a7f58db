//! Zeroth's domain: what coordinator and evaluator must agree on. No I/O framework, no model.
//!
//! - [`spec`]: the run file, as typed and as resolved
//! - [`task`]: examples, template, k-shot split, losses
//! - [`artefact`], [`frame`]: the tuned prompt and the checkpoint as files
//! - [`model`], [`gguf`]: a model's files and their fingerprint
//! - [`random`], [`projection`]: the random matrices that every node makes alike
//! - [`system`]: memory, as the system counts it
//! - [`messages`], [`ids`]: the contract between coordinator and evaluator; [`wire`]: its form on the wire

pub mod artefact;
pub mod frame;
pub mod gguf;
mod hash;
pub mod ids;
pub mod messages;
pub mod model;
pub mod projection;
pub mod random;
pub mod spec;
pub mod system;
pub mod task;
pub mod wire;
