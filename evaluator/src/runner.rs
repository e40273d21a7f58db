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
        match &model.on_device {
            Some(backbone) => Self::on_device(engine, backbone),
            None => Ok(Self::Processor(Box::new(engine))),
        }
    }

    fn on_device(engine: Engine, backbone: &Arc<DeviceBackbone>) -> Result<Self, EngineError> {
        Ok(Self::Device(Box::new(DeviceEngine::new(engine, Arc::clone(backbone))?)))
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
