//! The wire: types generated from `zeroth/v1/*.proto`, the descriptor for reflection, and the protocol version.
//!
//! Depends on nothing of ours. Transport code exists under the features `client`, `server` and `observe` only, so that
//! the domain crate sees messages and no sockets.

/// Version of the conversation; both sides must agree. Raise it when an old peer would misunderstand a new one;
/// adding a field that may be ignored does not need it. 0 means that a peer did not say, and is never valid.
pub const PROTOCOL_VERSION: u32 = 2;

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "observe")]
pub mod observe;

/// The generated types of package `zeroth.v1`.
pub mod v1 {
    #![allow(missing_docs, unreachable_pub, clippy::all)] // generated; the .proto files carry the documentation
    include!(concat!(env!("OUT_DIR"), "/zeroth.v1.rs"));

    /// Encoded file descriptor set, for gRPC reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/zeroth_v1.bin"));
}
