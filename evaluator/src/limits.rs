//! What a user lets an evaluator take in memory.

use shared::spec::{BatchTokens, Bytes, KeepProjections};
use shared::system::memory_limit;

/// Bytes that this process may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// Nobody said: what the machine's limits leave.
    Machine,
    /// A run file's `run.memory`: no evaluator could do with less.
    RunFile(Bytes),
    /// An evaluator's own `--memory`.
    Here(Bytes),
}

/// What may be kept in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Rows in flight at most, over all threads.
    pub max_batch_tokens: BatchTokens,
    /// Whether projections are kept.
    pub projections: KeepProjections,
    /// Bytes that this process may take.
    pub memory: Allowed,
    /// Bytes of these that are another's: the search's, where it runs in this process.
    pub beside: u64,
}

impl Limits {
    /// Bytes that this process may take.
    pub fn bytes(&self) -> u64 {
        match self.memory {
            Allowed::Machine => memory_limit().unwrap_or(u64::MAX),
            Allowed::RunFile(bytes) | Allowed::Here(bytes) => bytes.0,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_batch_tokens: BatchTokens::default(),
            projections: KeepProjections::Auto,
            memory: Allowed::Machine,
            beside: 0,
        }
    }
}
