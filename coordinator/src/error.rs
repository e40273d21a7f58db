//! What can end a command, and the exit code each ending has.

use std::path::{Path, PathBuf};

use shared::messages::Refusal;
use thiserror::Error;

use crate::fleet::FleetError;
use crate::serve::ServeError;

/// Why a command ended early.
#[derive(Debug, Error)]
pub enum Error {
    /// The user's input is wrong; the text names file, line or key and what would be right.
    #[error("{0}")]
    Input(String),
    /// One example is wrong; [`Error::in_file`] adds the file.
    #[error("line {line}: {problem}")]
    Example {
        /// Its line.
        line: u32,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// Stopped by the user, after a checkpoint.
    #[error("interrupted; {0}")]
    Interrupted(String),
    /// The fleet could not do what the run needs.
    #[error(transparent)]
    Fleet(FleetError),
    /// The optimiser refused its settings or broke down.
    #[error("optimiser: {0}")]
    Cma(#[from] crate::cma::Error),
    /// A file of the run folder could not be written or read.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Anything else; the program's fault or the machine's.
    #[error("{0}")]
    Failed(String),
}

impl Error {
    /// An input error from anything that explains itself.
    pub fn input(error: impl std::fmt::Display) -> Self {
        Self::Input(error.to_string())
    }

    /// A failure from anything that explains itself.
    pub fn failed(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }

    /// An input error with the name of what it is about before it; any other error as it is.
    #[must_use]
    pub fn about(self, name: impl std::fmt::Display) -> Self {
        match self {
            Self::Input(text) => Self::Input(format!("{name}: {text}")),
            other => other,
        }
    }

    /// The error of an example with the file it was read from; any other error as it is.
    #[must_use]
    pub fn in_file(self, file: &Path) -> Self {
        self.at(|line| format!("{}:{line}", file.display()))
    }

    /// The error of an example with what `place` makes of its line; any other error as it is.
    #[must_use]
    pub fn at(self, place: impl FnOnce(u32) -> String) -> Self {
        match self {
            Self::Example { line, problem } => Self::Input(format!("{}: {problem}", place(line))),
            other => other,
        }
    }

    /// For `map_err`: names the file.
    pub fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }

    /// 1 failed, 2 wrong usage or input, 130 interrupted.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Input(_) | Self::Example { .. } => 2,
            Self::Interrupted(_) => 130,
            Self::Fleet(_) | Self::Cma(_) | Self::File { .. } | Self::Failed(_) => 1,
        }
    }
}

impl From<ServeError> for Error {
    fn from(error: ServeError) -> Self {
        match error {
            ServeError::Input(text) => Self::Input(text),
            ServeError::Transport(text) => Self::Failed(text),
        }
    }
}

impl From<FleetError> for Error {
    fn from(error: FleetError) -> Self {
        match error {
            FleetError::Refused(Refusal::Input(text) | Refusal::Model(text)) => Self::Input(text),
            FleetError::Refused(Refusal::Example { line, problem }) => Self::Example { line, problem },
            other => Self::Fleet(other),
        }
    }
}
