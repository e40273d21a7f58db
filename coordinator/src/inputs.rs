//! What a run reads from disk before it begins: its examples, split into train, dev and test.

use shared::ids::RunId;
use shared::messages::{ModelIdentity, Prepare};
use shared::spec::RunSpec;
use shared::task::dataset::{self, Example};
use shared::task::split;

use crate::error::Error;
use crate::fleet::{Begun, Expected, Handle};

/// A run's specification and its data.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// The specification.
    pub spec: RunSpec,
    /// Identifies everything that the result depends on.
    pub hash: String,
    /// SHA-256 of the training pool.
    pub train_sha256: String,
    /// The k-shot training examples.
    pub train: Vec<Example>,
    /// Their rows in the pool, from 0.
    pub train_rows: Vec<usize>,
    /// The k-shot dev examples.
    pub dev: Vec<Example>,
    /// Their rows in the pool, from 0.
    pub dev_rows: Vec<usize>,
    /// The test set, when there is one.
    pub test: Option<Vec<Example>>,
    /// SHA-256 of its file.
    pub test_sha256: Option<String>,
}

impl Inputs {
    /// Reads and splits the data that `spec` names.
    ///
    /// # Errors
    /// [`Error::Input`], naming file and line.
    pub fn load(spec: RunSpec) -> Result<Self, Error> {
        let classes = spec.task.words.len();
        let pool = dataset::read(&spec.task.train, classes).map_err(Error::input)?;
        let train_sha256 = dataset::data_sha256(&spec.task.train).map_err(Error::input)?;
        let test = spec.task.test.as_deref();
        let test_sha256 = test.map(dataset::data_sha256).transpose().map_err(Error::input)?;
        let test = test.map(|path| dataset::read(path, classes)).transpose().map_err(Error::input)?;
        let split = split::split(&pool, classes, spec.task.shots, spec.search.seed)
            .map_err(|error| Error::Input(format!("{}: {error}", spec.task.train.display())))?;
        let pick = |rows: &[usize]| rows.iter().map(|&row| pool[row].clone()).collect();
        Ok(Self {
            hash: spec.hash(&train_sha256),
            train: pick(&split.train),
            dev: pick(&split.dev),
            train_rows: split.train,
            dev_rows: split.dev,
            train_sha256,
            test,
            test_sha256,
            spec,
        })
    }

    /// A run's specification without examples: for its manual prompt.
    pub fn without_data(spec: RunSpec) -> Self {
        Self {
            spec,
            hash: String::new(),
            train_sha256: String::new(),
            train: Vec::new(),
            train_rows: Vec::new(),
            dev: Vec::new(),
            dev_rows: Vec::new(),
            test: None,
            test_sha256: None,
        }
    }

    /// What an evaluator must know of the run.
    pub fn prepare(&self, run: RunId) -> Prepare {
        let spec = &self.spec;
        Prepare {
            run,
            read_out: spec.model.read_out,
            temperature: spec.model.temperature,
            template: spec.task.template.source().to_owned(),
            words: spec.task.words.clone(),
            injection: spec.prompt.injection,
            tokens: spec.prompt.tokens as u32,
            init: spec.prompt.init,
            loss: spec.task.loss,
            projection: spec.search.projection,
            dim: spec.search.dim as u32,
            seed: spec.search.seed,
            train: self.train.clone(),
            dev: self.dev.clone(),
        }
    }

    /// What its evaluators must be, with the model where it is known.
    pub fn expected(&self, model: Option<ModelIdentity>) -> Expected {
        Expected { model, named: None, dtype: self.spec.model.dtype }
    }

    /// Begins the run on `fleet`; what is wrong with an example is said with its place.
    ///
    /// # Errors
    /// As [`Handle::begin`].
    pub async fn begin(&self, fleet: &Handle, run: RunId, expected: Expected) -> Result<Begun, Error> {
        let begun = fleet.begin(self.prepare(run), expected).await;
        begun.map_err(|error| Error::from(error).in_file(&self.spec.task.train))
    }

    /// Labels of the training examples, in order.
    pub fn train_labels(&self) -> Vec<u32> {
        labels(&self.train)
    }
}

/// Labels in example order.
pub fn labels(examples: &[Example]) -> Vec<u32> {
    examples.iter().map(|example| example.label).collect()
}
