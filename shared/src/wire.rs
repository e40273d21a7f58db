//! Messages to and from their protobuf form, field by field.
//!
//! Lives here because of the orphan rule: `proto` may not know `shared`. Only prost types, no transport.
//! What a peer sends is checked for presence and form; whether it makes sense is for its reader to say.

mod orders;
mod reports;

use std::fmt::Display;
use std::str::FromStr;

use proto::v1;
use thiserror::Error;

use crate::messages::{Hello, ModelIdentity};

/// What is wrong with a message of a peer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    /// A field that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A vector of numbers that is not a whole number of f32.
    #[error("{field} holds {bytes} bytes, which is no whole number of f32")]
    Torn {
        /// Which.
        field: &'static str,
        /// How many bytes it holds.
        bytes: usize,
    },
    /// A name or number that stands for nothing known.
    #[error("{field}: {problem}")]
    Unknown {
        /// Which.
        field: &'static str,
        /// What was sent, and what is known.
        problem: String,
    },
    /// A message of a kind that came into being after this program.
    #[error("{0} of a kind that this program does not know: the other side is newer; update the older one")]
    UnknownKind(&'static str),
    /// A message that belongs to the handshake, in the middle of the conversation.
    #[error("unexpected {0}")]
    Unexpected(&'static str),
}

impl WireError {
    /// Whether the peer speaks of what this program does not know: no other attempt will mend that.
    pub fn of_versions(&self) -> bool {
        matches!(self, Self::Unknown { .. } | Self::UnknownKind(_))
    }
}

/// Numbers as little-endian f32.
fn to_bytes(numbers: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 * numbers.len());
    numbers.iter().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
    bytes
}

/// The numbers of `bytes`.
fn to_numbers(field: &'static str, bytes: &[u8]) -> Result<Vec<f32>, WireError> {
    let (whole, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(WireError::Torn { field, bytes: bytes.len() });
    }
    Ok(whole.iter().map(|&four| f32::from_le_bytes(four)).collect())
}

fn named<T: FromStr<Err: Display>>(field: &'static str, name: &str) -> Result<T, WireError> {
    name.parse().map_err(|problem: T::Err| WireError::Unknown { field, problem: problem.to_string() })
}

impl From<Hello> for v1::Hello {
    fn from(hello: Hello) -> Self {
        Self {
            protocol: hello.protocol,
            name: hello.name,
            version: hello.version,
            model: Some(hello.model.into()),
            device: hello.device,
            dtype: hello.dtype,
            max_batch_tokens: hello.max_batch_tokens,
        }
    }
}

impl TryFrom<v1::Hello> for Hello {
    type Error = WireError;

    fn try_from(hello: v1::Hello) -> Result<Self, WireError> {
        Ok(Self {
            protocol: hello.protocol,
            name: hello.name,
            version: hello.version,
            model: hello.model.ok_or(WireError::Missing("hello.model"))?.into(),
            device: hello.device,
            dtype: hello.dtype,
            max_batch_tokens: hello.max_batch_tokens,
        })
    }
}

impl From<ModelIdentity> for v1::Model {
    fn from(model: ModelIdentity) -> Self {
        Self {
            name: model.name,
            revision: model.revision,
            weights_sha256: model.weights_sha256,
            config_sha256: model.config_sha256,
            tokenizer_sha256: model.tokenizer_sha256,
            layers: model.layers,
            hidden: model.hidden,
        }
    }
}

impl From<v1::Model> for ModelIdentity {
    fn from(model: v1::Model) -> Self {
        Self {
            name: model.name,
            revision: model.revision,
            weights_sha256: model.weights_sha256,
            config_sha256: model.config_sha256,
            tokenizer_sha256: model.tokenizer_sha256,
            layers: model.layers,
            hidden: model.hidden,
        }
    }
}

fn unknown_number(field: &'static str, number: i32, known: &str) -> WireError {
    WireError::Unknown { field, problem: format!("{number} is none of: {known}") }
}

#[cfg(test)]
mod tests;
