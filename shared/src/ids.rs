//! Ids as types, so that a lease cannot be mistaken for an evaluator nor a layer for a version.
//!
//! ```compile_fail
//! use shared::ids::{EvaluatorId, LeaseId};
//! let lease: LeaseId = EvaluatorId(1); // two ids cannot be swapped
//! ```

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

number_id!(
    /// One evaluator's stay in the fleet; a reconnect is a new stay and gets a new id.
    EvaluatorId,
    "evaluator-"
);
number_id!(
    /// One piece of work handed to one evaluator; handed to another, it gets a new id.
    LeaseId,
    "lease-"
);
number_id!(
    /// One run within one coordinator process.
    RunId,
    "run-"
);
number_id!(
    /// How often the context has changed since the run began.
    ContextVersion,
    "v"
);

/// A backbone's block that takes a prompt, counted from the input side, from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Layer(pub u32);

impl Layer {
    /// The layer as an index into per-layer lists.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "layer {}", self.0)
    }
}
