//! Why a model's weights cannot be had.

use std::path::PathBuf;

use thiserror::Error;

use super::gguf::GgufError;

/// Why a weight cannot be had; all of these are about the model's files.
#[derive(Debug, Error)]
pub enum WeightError {
    /// The file is damaged or no safetensors file.
    #[error("{}: not a usable safetensors file: {reason}; is it complete?", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What the reader says.
        reason: String,
    },
    /// The file is damaged, or none that PyTorch saved.
    #[error(
        "{}: not a usable PyTorch file: {reason}; is it complete? (what PyTorch saved before 1.6 must be saved anew)",
        path.display()
    )]
    Pickle {
        /// Which.
        path: PathBuf,
        /// What the reader says.
        reason: String,
    },
    /// No such tensor.
    #[error("{}: tensor `{name}` is missing; is this a checkpoint of the architecture in config.json?", folder.display())]
    Missing {
        /// The model's folder.
        folder: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A tensor whose shape contradicts the configuration.
    #[error("{}: tensor `{name}` has shape {found:?}, config.json asks for {expected:?}", folder.display())]
    Shape {
        /// The model's folder.
        folder: PathBuf,
        /// The tensor.
        name: String,
        /// In the file.
        found: Vec<usize>,
        /// By the configuration.
        expected: Vec<usize>,
    },
    /// A GGUF file's tensor.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A tensor of a type that has no `f32` values.
    #[error("{}: tensor `{name}`: {reason}", folder.display())]
    Type {
        /// The model's folder.
        folder: PathBuf,
        /// The tensor.
        name: String,
        /// Why not.
        reason: String,
    },
}
