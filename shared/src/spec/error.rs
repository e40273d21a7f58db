//! What is said of a run file that is wrong: one line, with file, line, key and what would be right.

use thiserror::Error;

/// What is wrong with a run file; each names the file, the line and the key where there is one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SpecError {
    /// The file cannot be read.
    #[error("{file}: {reason}")]
    Unreadable {
        /// The run file.
        file: String,
        /// What the file system says.
        reason: String,
    },
    /// It is no TOML.
    #[error("{place}: not valid TOML: {reason}")]
    Syntax {
        /// File and line.
        place: String,
        /// What the parser says.
        reason: String,
    },
    /// A key nobody knows.
    #[error("{place}: unknown key `{key}`; did you mean `{nearest}`?")]
    UnknownKey {
        /// File and line, or the option.
        place: String,
        /// What was typed.
        key: String,
        /// The nearest known one.
        nearest: &'static str,
    },
    /// A key that has no default is not there.
    #[error("{file}: `{key}` is missing")]
    Missing {
        /// The run file.
        file: String,
        /// The key.
        key: &'static str,
    },
    /// A value that cannot be.
    #[error("{place}: `{key}`: {reason}")]
    Value {
        /// File and line, or the option.
        place: String,
        /// The key.
        key: String,
        /// What is wrong and what would be right.
        reason: String,
    },
}
