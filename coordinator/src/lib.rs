//! The coordinator: it owns the search and never sees a tensor.
//!
//! - [`cma`]: the optimiser alone
//! - [`search`]: sweeps over the layers, the context, dev selection
//! - [`fleet`]: who evaluates what: links, leases, losses of evaluators
//! - [`run`]: one run from its data ([`inputs`]) to its artefact, with its folder ([`folder`], [`checkpoint`], [`events`],
//!   [`keeper`])
//! - [`model`]: which model a run is for
//! - [`standing`]: many runs on one fleet, as clients hand them in
//! - [`serve`]: gRPC for evaluators and clients
//! - [`observe`]: all of it seen from outside: metrics, health, traces
//! - [`embedded`]: an evaluator in this process
//! - [`cli`]: the commands

pub mod artefact;
pub mod checkpoint;
pub mod cli;
pub mod cma;
#[cfg(feature = "embedded")]
pub mod embedded;
pub mod error;
pub mod events;
pub mod fleet;
pub mod folder;
pub mod inputs;
pub mod keeper;
pub mod model;
pub mod observe;
pub mod progress;
pub mod racing;
pub mod run;
pub mod search;
pub mod serve;
pub mod standing;
