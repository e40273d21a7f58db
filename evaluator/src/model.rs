//! A model ready to be tuned: its weights, its tokenizer, and what tells it from another.

use std::path::Path;
use std::sync::Arc;

use shared::messages::ModelIdentity;
use shared::model::{self, FilesError};
use shared::spec::Device;
use shared::task::{Example, Template, TemplateError};
use thiserror::Error;

use crate::backbone::{Backbone, Dtype, ModelError};
use crate::device::{self, DeviceBackbone, DeviceError};
use crate::engine::Tokens;
use crate::models::gguf::Gguf;
use crate::models::locate::{self, LocateError, Located};
use crate::models::tokenizer::{self, TextEncoder, TokenizerError};

/// Why a model cannot be used; all of these are the user's to mend.
#[derive(Debug, Error)]
pub enum LoadError {
    /// It is not where it should be.
    #[error(transparent)]
    Locate(#[from] LocateError),
    /// Its weights or configuration are not usable.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Its tokenizer is not usable, or belongs to another model.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The device it is to run on.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// One of its files cannot be hashed.
    #[error(transparent)]
    Files(#[from] FilesError),
}

impl LoadError {
    /// Whether another attempt, or another machine, may find the model usable as things are.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Locate(LocateError::Hub { source, .. }) => source.may_pass(),
            Self::Device(DeviceError::Open { .. } | DeviceError::Upload { .. }) => true,
            _ => false,
        }
    }
}

/// Why an example cannot be read by a model; which example it was is the caller's to say.
#[derive(Debug, Error)]
pub enum EncodeError {
    /// The template does not fit the example or the model.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The tokenizer refuses it, or it is too long, or it has no single mask.
    #[error(transparent)]
    Text(#[from] tokenizer::EncodeError),
}

/// Weights, tokenizer and identity of one model.
#[derive(Debug)]
pub struct Model {
    /// Configuration and weights.
    pub backbone: Arc<Backbone>,
    /// Tokenizer.
    pub encoder: TextEncoder,
    /// Hashes and shape.
    pub identity: ModelIdentity,
    /// What the blocks' linear layers are computed in.
    pub dtype: Dtype,
    /// The weights on a device, where that is not the processor.
    pub on_device: Option<Arc<DeviceBackbone>>,
}

impl Model {
    /// Finds and loads the model called `name`; a relative path is relative to `base`.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load(name: &str, base: &Path, revision: Option<&str>, dtype: Dtype) -> Result<Self, LoadError> {
        Self::from_located(&locate::locate(name, base, revision)?, dtype)
    }

    /// As [`Self::load`], and copies the weights to `device` where that is not the processor; those in memory are
    /// `f32` then.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load_on(
        device: Device,
        name: &str,
        base: &Path,
        revision: Option<&str>,
        dtype: Dtype,
    ) -> Result<Self, LoadError> {
        let Some((opened, narrow)) = device::open(device, dtype)? else {
            return Self::load(name, base, revision, dtype);
        };
        let model = Self::load(name, base, revision, Dtype::F32)?;
        let backbone = DeviceBackbone::of(&model.backbone, &opened, narrow)
            .map_err(|error| DeviceError::upload(device, &error))?;
        Ok(Self { dtype, on_device: Some(Arc::new(backbone)), ..model })
    }

    /// Loads a model whose files have been found.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn from_located(located: &Located, dtype: Dtype) -> Result<Self, LoadError> {
        let (backbone, encoder) = match located.gguf() {
            Some(file) => {
                let gguf = Arc::new(Gguf::open(file).map_err(ModelError::from)?);
                let encoder = TextEncoder::of_gguf(&gguf)?;
                (Backbone::of_gguf(gguf, dtype)?, encoder)
            }
            None => (Backbone::load(located, dtype)?, TextEncoder::load(&located.folder)?),
        };
        encoder.check_vocabulary(backbone.vocab())?;
        encoder.check_padding(backbone.padding())?;
        let identity = model::identify(located)?;
        Ok(Self { backbone: Arc::new(backbone), encoder, identity, dtype, on_device: None })
    }

    /// Tokenises one example; `prompt` rows are counted against the model's limit.
    ///
    /// # Errors
    /// See [`EncodeError`].
    pub fn encode(
        &self,
        template: &Template,
        example: &Example,
        prompt: usize,
    ) -> Result<Tokens, EncodeError> {
        let rendered = template.render(example, self.encoder.mask_token())?;
        let encoded = self.encode_text(&rendered, prompt)?;
        // without a mask the row read is the text's last one, before what the tokenizer puts after it
        let last = encoded.ids.len().saturating_sub(1 + self.encoder.around().1.len());
        let read_out = if template.has_mask() { encoded.mask()? } else { last };
        Ok(Tokens { ids: encoded.ids, read_out })
    }

    /// Tokenises a text as it is.
    ///
    /// # Errors
    /// See [`tokenizer::EncodeError`].
    pub fn encode_text(
        &self,
        text: &str,
        prompt: usize,
    ) -> Result<tokenizer::Encoded, tokenizer::EncodeError> {
        self.encoder.encode(text, self.backbone.max_tokens().saturating_sub(prompt))
    }
}
