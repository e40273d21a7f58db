//! The evaluator: a replica of the model, and the engine that runs populations through it.
//!
//! - [`models`]: the model's files, its tokenizer, its fingerprint
//! - [`backbone`]: configuration, weights and one transformer block
//! - [`kernel`]: arithmetic on rows, the only place with `unsafe` but for [`models::map`]
//! - [`engine`]: the population forward
//! - [`device`]: the same forward on tensors of a GPU
//! - [`model`], [`runner`], [`session`], [`worker`]: a run's orders in, its reports out
//! - [`limits`], [`resources`], [`memory`], [`projections`]: what a run may keep in memory, and what it takes
//! - [`mod@bench`]: what a candidate costs, and how near that is to the processor's limit
//! - [`facts`]: what a model is and takes, for people to read
//! - [`fetch`]: the model brought here first, or waited for
//! - [`dial`]: the way to a coordinator
//! - [`observe`]: all of it seen from outside: metrics, health, traces

pub mod backbone;
pub mod bench;
pub mod device;
pub mod dial;
pub mod engine;
pub mod facts;
pub mod fetch;
pub mod kernel;
pub mod limits;
pub mod memory;
pub mod model;
pub mod models;
pub mod observe;
pub mod projections;
pub mod resources;
pub mod runner;
pub mod session;
pub mod worker;
