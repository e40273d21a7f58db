//! The engine of one run, on the processor or on another device.

use std::ops::Range;
use std::sync::Arc;

use crate::device::{DeviceBackbone, DeviceEngine};
use crate::engine::{Engine, EngineError, Settings, Tokens};
use crate::model::Model;

/// One of the two engines.
pub enum Runner {
    /// On the processor.
    Processor(Box<Engine>),
    /// On a GPU.
    Device(Box<DeviceEngine>),
}

impl Runner {
    /// Packs `train` under the context of initial prompts, where the model's weights are.
    ///
    /// # Errors
    /// As [`Engine::new`]; the device's.
    pub fn new(model: &Model, settings: Settings, train: Vec<Tokens>) -> Result<Self, EngineError> {
        let engine = Engine::new(Arc::clone(&model.backbone), settings, train)?;
        Self::of(engine, model.on_device.as_ref())
    }

    /// The engine itself, or one on the device that the same model's weights are on.
    pub(crate) fn of(engine: Engine, backbone: Option<&Arc<DeviceBackbone>>) -> Result<Self, EngineError> {
        Ok(match backbone {
            Some(backbone) => Self::Device(Box::new(DeviceEngine::new(engine, Arc::clone(backbone))?)),
            None => Self::Processor(Box::new(engine)),
        })
    }

    /// What is the same on every device: examples, classes, initial prompts, operations.
    pub fn host(&self) -> &Engine {
        match self {
            Self::Processor(engine) => engine,
            Self::Device(engine) => engine.host(),
        }
    }

    /// The same, to set its token budget.
    pub(crate) fn host_mut(&mut self) -> &mut Engine {
        match self {
            Self::Processor(engine) => engine,
            Self::Device(engine) => engine.host_mut(),
        }
    }

    /// See [`Engine::layer_stds`].
    ///
    /// # Errors
    /// The device's.
    pub fn layer_stds(&self) -> Result<Vec<f32>, EngineError> {
        match self {
            Self::Processor(engine) => Ok(engine.layer_stds()),
            Self::Device(engine) => engine.layer_stds(),
        }
    }

    /// See [`Engine::set_prompt`].
    ///
    /// # Errors
    /// As there; the device's.
    pub fn set_prompt(&mut self, layer: usize, prompt: &[f32]) -> Result<(), EngineError> {
        match self {
            Self::Processor(engine) => engine.set_prompt(layer, prompt),
            Self::Device(engine) => engine.set_prompt(layer, prompt),
        }
    }

    /// See [`Engine::evaluate`].
    ///
    /// # Errors
    /// As there; the device's.
    pub fn evaluate(
        &mut self,
        layer: usize,
        prompts: &[Vec<f32>],
        examples: Range<usize>,
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        match self {
            Self::Processor(engine) => engine.evaluate(layer, prompts, examples),
            Self::Device(engine) => engine.evaluate(layer, prompts, examples),
        }
    }

    /// See [`Engine::score`].
    ///
    /// # Errors
    /// As there; the device's.
    pub fn score(&self, prompts: Option<&[Vec<f32>]>, examples: &[Tokens]) -> Result<Vec<f32>, EngineError> {
        match self {
            Self::Processor(engine) => engine.score(prompts, examples),
            Self::Device(engine) => engine.score(prompts, examples),
        }
    }
}
