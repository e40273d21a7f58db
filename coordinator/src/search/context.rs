//! The context: the incumbent `z` of every layer, and its version.

use serde::{Deserialize, Serialize};
use shared::ids::{ContextVersion, Layer, RunId};
use shared::messages::ContextUpdate;

/// What all candidates of the current layer share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Context {
    version: ContextVersion,
    zs: Vec<Vec<f32>>,
}

impl Context {
    /// `layers` incumbents of `dim` zeros, version 0.
    pub fn new(layers: usize, dim: usize) -> Self {
        Self { version: ContextVersion(0), zs: vec![vec![0.0; dim]; layers] }
    }

    /// How often it has changed.
    pub fn version(&self) -> ContextVersion {
        self.version
    }

    /// Every layer's incumbent, `[L][d]`.
    pub fn zs(&self) -> &[Vec<f32>] {
        &self.zs
    }

    /// Sets one layer's incumbent and returns the message that tells the fleet.
    pub fn set(&mut self, run: RunId, layer: Layer, z: Vec<f32>) -> ContextUpdate {
        self.version = ContextVersion(self.version.0 + 1);
        self.zs[layer.index()] = z.clone();
        ContextUpdate { run, version: self.version, layer, z }
    }

    /// Sets all layers at once.
    pub fn replace(&mut self, zs: &[Vec<f32>]) {
        self.version = ContextVersion(self.version.0 + 1);
        self.zs = zs.to_vec();
    }
}
