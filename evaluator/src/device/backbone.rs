//! The backbone's weights as tensors of a device, taken from the loaded [`Backbone`]: no page knows of devices.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, bail};

use super::block::{Block, Cross, FeedForward, Positions, Turns};
use super::look::Relative;
use super::ops::Ops;
use super::parts::{Linear, Norm, Norms};
use crate::backbone::{self, Backbone, NormKind, Rotary};

/// Weights of one model on a device. Embedding tables stay with the [`Backbone`]: rows come embedded.
pub struct DeviceBackbone {
    pub(super) ops: Arc<Ops>,
    pub(super) device: Device,
    pub(super) dtype: DType,
    pub(super) hidden: usize,
    pub(super) blocks: Vec<Block>,
    pub(super) final_norm: Option<Norm>,
    pub(super) decoder: Option<Stack>,
    /// What a masked-LM head does before the vocabulary.
    pub(super) transform: Option<Transform>,
}

/// A decoder's blocks and the norm after them.
pub(super) struct Stack {
    pub(super) blocks: Vec<Block>,
    pub(super) final_norm: Option<Norm>,
}

/// See [`backbone::Transform`].
pub(super) struct Transform {
    pub(super) dense: Linear,
    pub(super) activation: backbone::Activation,
    pub(super) norm: Norm,
}

impl std::fmt::Debug for DeviceBackbone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DeviceBackbone({:?}, {:?})", self.device.location(), self.dtype)
    }
}

impl DeviceBackbone {
    /// Copies the weights to `device`: matrices as `dtype` (`F32`, `F16` or `BF16`), one at a time, the rest as `F32`.
    ///
    /// # Errors
    /// The device's, out of memory before all; a backbone that was not loaded as `f32`.
    pub fn of(backbone: &Backbone, device: &Device, dtype: DType) -> Result<Self> {
        let positions = backbone.max_tokens();
        let ops = Arc::new(Ops::new(device, dtype)?);
        let mut upload = Upload { ops, device, dtype, positions, turns: Vec::new() };
        let blocks = backbone.blocks.iter().map(|block| upload.block(block)).collect::<Result<_>>()?;
        let decoder = match &backbone.decoder {
            Some(decoder) => Some(Stack {
                blocks: decoder.blocks.iter().map(|block| upload.block(block)).collect::<Result<_>>()?,
                final_norm: decoder.final_norm.as_ref().map(|norm| upload.norm(norm)).transpose()?,
            }),
            None => None,
        };
        let transform = backbone.head.as_ref().and_then(|head| head.transform.as_ref());
        let transform = transform.map(|transform| upload.transform(transform)).transpose()?;
        let final_norm = backbone.final_norm.as_ref().map(|norm| upload.norm(norm)).transpose()?;
        let (ops, hidden) = (upload.ops, backbone.hidden());
        Ok(Self { ops, device: device.clone(), dtype, hidden, blocks, final_norm, decoder, transform })
    }

    /// What the device's maker calls it, where it says.
    pub(crate) fn name(&self) -> Option<String> {
        #[cfg(feature = "cuda")]
        if let Device::Cuda(device) = &self.device {
            return device.cuda_stream().context().name().ok();
        }
        None
    }

    /// Hidden states as a tensor, `[rows, hidden]`.
    pub(super) fn rows(&self, values: &[f32]) -> Result<Tensor> {
        Tensor::from_slice(values, (values.len() / self.hidden, self.hidden), &self.device)
    }
}

/// The way of one model's weights to a device.
struct Upload<'a> {
    ops: Arc<Ops>,
    device: &'a Device,
    dtype: DType,
    positions: usize,
    /// Rotary tables that are there already: layers share them.
    turns: Vec<(Rotary, Arc<Turns>)>,
}

impl Upload<'_> {
    fn block(&mut self, block: &backbone::Block) -> Result<Block> {
        let heads = block.heads;
        let norm = |norm: &Option<backbone::Norm>| norm.as_ref().map(|norm| self.norm(norm)).transpose();
        Ok(Block {
            ops: Arc::clone(&self.ops),
            query_norm: norm(&block.query_norm)?,
            key_norm: norm(&block.key_norm)?,
            query: self.linear(&block.query)?,
            key_value: self.linear(&block.key_value)?,
            relative: block.relative.as_ref().map(|relative| self.relative(relative)).transpose()?,
            disentangled: match &block.disentangled {
                Some(positions) => Some(self.disentangled(positions, &heads)?),
                None => None,
            },
            output: self.linear(&block.output)?,
            attention_norms: self.norms(&block.attention_norms)?,
            cross: block.cross.as_ref().map(|cross| self.cross(cross)).transpose()?,
            feed_forward: self.feed_forward(&block.feed_forward)?,
            feed_forward_norms: self.norms(&block.feed_forward_norms)?,
            rotary: block.rotary.as_ref().map(|rotary| self.turns(rotary)).transpose()?,
            heads,
        })
    }

    fn cross(&self, cross: &backbone::Cross) -> Result<Cross> {
        Ok(Cross {
            heads: cross.heads,
            query: self.linear(&cross.query)?,
            key_value: self.linear(&cross.key_value)?,
            output: self.linear(&cross.output)?,
            norms: self.norms(&cross.norms)?,
        })
    }

    fn feed_forward(&self, layer: &backbone::FeedForward) -> Result<FeedForward> {
        Ok(FeedForward {
            up: self.linear(&layer.up)?,
            gated: layer.gated,
            activation: layer.activation,
            down: self.linear(&layer.down)?,
        })
    }

    fn transform(&self, transform: &backbone::Transform) -> Result<Transform> {
        Ok(Transform {
            dense: self.linear(&transform.dense)?,
            activation: transform.activation,
            norm: self.norm(&transform.norm)?,
        })
    }

    fn linear(&self, linear: &backbone::Linear) -> Result<Linear> {
        let weight = &linear.weight;
        let Some(rows) = weight.rows() else { bail!("only weights that were loaded as f32 are copied") };
        let weight = Tensor::from_vec(rows, (weight.outputs(), weight.depth()), self.device)?;
        let bias = linear.bias.as_ref().map(|bias| self.vector(bias)?.to_dtype(self.dtype)).transpose()?;
        Ok(Linear { weight: weight.to_dtype(self.dtype)?, bias })
    }

    fn norm(&self, norm: &backbone::Norm) -> Result<Norm> {
        let bias = match norm.kind {
            NormKind::Layer { .. } => Some(self.vector(&norm.bias)?), // the loader has made it zeros where there is none
            NormKind::Rms => None,
        };
        Ok(Norm { weight: self.vector(&norm.weight)?, bias, eps: norm.eps })
    }

    fn norms(&self, norms: &backbone::Norms) -> Result<Norms> {
        let norm = |norm: &Option<backbone::Norm>| norm.as_ref().map(|norm| self.norm(norm)).transpose();
        Ok(Norms { input: norm(&norms.input)?, branch: norm(&norms.branch)?, sum: norm(&norms.sum)? })
    }

    fn relative(&self, relative: &backbone::Relative) -> Result<Relative> {
        let (reach, biases) = relative.biases();
        let distances = 2 * reach + 1;
        let table = Tensor::from_slice(biases, (biases.len() / distances, distances), self.device)?;
        Ok(Relative { reach, table: table.t()?.contiguous()? })
    }

    fn disentangled(&self, from: &backbone::Disentangled, heads: &backbone::Heads) -> Result<Positions> {
        let (rows, keys, queries) = from.tables();
        let table = |values: &[f32]| {
            let shape = (values.len() / heads.query_width(), heads.queries, heads.width);
            let table = Tensor::from_slice(values, shape, self.device)?.to_dtype(self.dtype)?;
            table.permute((1, 2, 0))?.contiguous()
        };
        Ok(Positions { rows: Arc::clone(rows), keys: table(keys)?, queries: table(queries)? })
    }

    fn turns(&mut self, rotary: &Rotary) -> Result<Arc<Turns>> {
        if let Some((_, turns)) = self.turns.iter().find(|(known, _)| known.same(rotary)) {
            return Ok(Arc::clone(turns));
        }
        let (cos, sin) = rotary.table(self.positions);
        let pairs = rotary.pairs();
        let table =
            |values: Vec<f32>| Tensor::from_vec(values.clone(), (values.len() / pairs, pairs), self.device);
        let turns = Arc::new(Turns { cos: table(cos)?, sin: table(sin)?, pairs });
        self.turns.push((rotary.clone(), Arc::clone(&turns)));
        Ok(turns)
    }

    fn vector(&self, values: &[f32]) -> Result<Tensor> {
        Tensor::from_slice(values, values.len(), self.device)
    }
}
