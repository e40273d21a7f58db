//! Models and what Hugging Face transformers computes with them, for the tests of both engines.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor, safetensors};
use evaluator::backbone::{Backbone, Dtype, ModelError};
use evaluator::engine::{self, Around, Engine, Injection, ReadOut, Settings, Tokens};
use evaluator::models::locate;
use evaluator::models::tokenizer::TextEncoder;
use serde::Deserialize;

/// Largest difference allowed, relative to the largest logit.
pub(crate) const TOLERANCE: f32 = 1e-4;

#[derive(Deserialize)]
pub(crate) struct Golden {
    pub(crate) label_ids: Option<Vec<u32>>,
    pub(crate) class_phrases: Vec<Ids>,
    pub(crate) temperature: f32,
    pub(crate) initial_ids: Vec<u32>,
    pub(crate) examples: Vec<Ids>,
    #[serde(default = "one")]
    pub(crate) lead: usize,
    #[serde(default)]
    pub(crate) read_outs: Vec<String>,
}

/// The row after the first special token, where the older files do not say.
fn one() -> usize {
    1
}

#[derive(Deserialize)]
pub(crate) struct Ids {
    pub(crate) ids: Vec<u32>,
    #[serde(default)]
    pub(crate) read_out: usize,
}

impl Ids {
    pub(crate) fn tokens(&self) -> Tokens {
        Tokens { ids: self.ids.clone(), read_out: self.read_out }
    }
}

pub(crate) struct Case {
    pub(crate) golden: Golden,
    pub(crate) tensors: HashMap<String, Tensor>,
    pub(crate) dtype: Dtype,
    pub(crate) backbone: Arc<Backbone>,
    /// The mask token's id, where there is one.
    pub(crate) mask: u32,
}

impl Case {
    pub(crate) fn open(values: &Path, model: &Path) -> Self {
        Self::computed_in(Dtype::F32, values, model).unwrap()
    }

    /// `None` where this processor cannot.
    pub(crate) fn computed_in(dtype: Dtype, values: &Path, model: &Path) -> Option<Self> {
        let backbone = match Backbone::load(&locate::in_folder(model).unwrap(), dtype) {
            Err(error @ ModelError::Processor { .. }) => {
                eprintln!("skipped: {error}");
                return None;
            }
            loaded => Arc::new(loaded.unwrap()),
        };
        let text = std::fs::read_to_string(values.join("golden.json")).unwrap();
        Some(Self {
            golden: serde_json::from_str(&text).unwrap(),
            tensors: safetensors::load(values.join("golden.safetensors"), &Device::Cpu).unwrap(),
            dtype,
            backbone,
            mask: TextEncoder::load(model).unwrap().mask_id().unwrap_or_default(),
        })
    }

    /// A tiny model in a folder of its own, which lasts as long as what comes with it, with sentence-transformers' say
    /// about pooling.
    pub(crate) fn with_pooling(model: &str, mode: &str) -> (Self, tempfile::TempDir) {
        let copy = tempfile::tempdir().unwrap();
        for file in ["config.json", "model.safetensors", "tokenizer.json"] {
            std::fs::copy(folder(model).join(file), copy.path().join(file)).unwrap();
        }
        std::fs::create_dir(copy.path().join("1_Pooling")).unwrap();
        let modes = format!("{{\"word_embedding_dimension\": 30, \"{mode}\": true}}");
        std::fs::write(copy.path().join("1_Pooling/config.json"), modes).unwrap();
        (Self::open(&folder(model), copy.path()), copy)
    }

    pub(crate) fn tensor(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("{name} is in the golden file"))
    }

    pub(crate) fn flat(&self, name: &str) -> Vec<f32> {
        self.tensor(name).flatten_all().unwrap().to_vec1().unwrap()
    }

    /// `[a, n, H]` as `[a][n * H]`.
    pub(crate) fn prompts(&self, name: &str) -> Vec<Vec<f32>> {
        let tensor = self.tensor(name);
        tensor.flatten_from(1).unwrap().to_vec2().unwrap()
    }

    pub(crate) fn train(&self) -> Vec<Tokens> {
        self.golden.examples.iter().map(Ids::tokens).collect()
    }

    pub(crate) fn read_out(&self, name: &str) -> ReadOut {
        let label_ids = || self.golden.label_ids.clone().unwrap();
        match name {
            "masked_lm" => return ReadOut::MaskedLm { label_ids: label_ids() },
            "next_token" => return ReadOut::NextToken { label_ids: label_ids() },
            "seq2seq" => return ReadOut::Seq2Seq { label_ids: label_ids(), mask: self.mask },
            _ => {}
        }
        let phrases: Vec<Tokens> = self.golden.class_phrases.iter().map(Ids::tokens).collect();
        let class_embeddings = engine::embed(&self.backbone, &phrases).unwrap();
        let golden = name.replace("similarity", "class_embeddings");
        if self.dtype == Dtype::F32 {
            close(&class_embeddings.concat(), &self.flat(&golden), "class embeddings");
        }
        ReadOut::Similarity { temperature: self.golden.temperature, class_embeddings }
    }

    pub(crate) fn engine(
        &self,
        injection: Injection,
        read_out: &str,
        max_batch_tokens: usize,
        threads: usize,
    ) -> Engine {
        let settings = Settings {
            injection,
            prompt_tokens: self.golden.initial_ids.len(),
            initial_ids: Some(self.golden.initial_ids.clone()),
            around: Around {
                before: self.golden.examples[0].ids.first().copied().filter(|_| self.golden.lead == 1),
                after: self.golden.examples[0].ids.last().copied(),
            },
            read_out: self.read_out(read_out),
            max_batch_tokens,
            pool: Arc::new(rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()),
        };
        Engine::new(Arc::clone(&self.backbone), settings, self.train()).unwrap()
    }
}

pub(crate) fn close(ours: &[f32], golden: &[f32], what: &str) {
    assert_eq!(ours.len(), golden.len(), "{what}");
    let scale = golden.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
    for (i, (a, b)) in ours.iter().zip(golden).enumerate() {
        assert!(
            (a - b).abs() <= TOLERANCE * scale,
            "{what}: {a} at {i}, transformers has {b} (scale {scale})"
        );
    }
}

pub(crate) fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models").join(name)
}

/// Where MiniLM lies, if it has been fetched.
pub(crate) fn minilm() -> PathBuf {
    let model = std::env::var_os("ZEROTH_MINILM").map(PathBuf::from);
    model.unwrap_or_else(|| folder("../../../models/all-MiniLM-L6-v2"))
}
