//! One run on this evaluator: its tokenised examples, its projections, its engine; an order in, an answer out.
//!
//! Blocking arithmetic, no channel: `worker` owns the thread it runs on.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use shared::messages::{
    Answer, ContextUpdate, ExampleSet, Lease, Outcome, Prepare, Prompted, Ready, Refusal, Start, Work,
};
use shared::projection::{self, Kind, Projection};
use shared::spec::{Init, Injection, ProjectionKind, ReadOut};
use shared::task::loss::predicted;
use shared::task::{Example, Loss, Template};

use crate::engine::{self, Around, Tokens};
use crate::model::{EncodeError, Model};
use crate::runner::Runner;

/// What the evaluator is given by its user, the same for every run.
#[derive(Clone, Debug)]
pub struct Resources {
    /// The compute pool.
    pub pool: Arc<ThreadPool>,
    /// Rows in flight at most, over all threads.
    pub max_batch_tokens: usize,
}

impl Resources {
    /// A pool of `threads` named threads; 0 means all cores.
    ///
    /// # Errors
    /// When the operating system gives no threads.
    pub fn new(threads: usize, max_batch_tokens: usize) -> Result<Self, ThreadPoolBuildError> {
        let builder =
            ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("zeroth-engine-{i}"));
        Ok(Self { pool: Arc::new(builder.build()?), max_batch_tokens })
    }
}

/// One run's state.
pub struct Session {
    model: Arc<Model>,
    settings: Prepare,
    template: Template,
    engine: Runner,
    dev: Vec<Tokens>,
    /// `p0` of each layer, `[L][tokens * hidden]`.
    initial: Vec<Vec<f32>>,
    /// `A_l` of each layer, `[tokens * hidden, dim]`; made at [`Session::start`].
    projections: Vec<Vec<f32>>,
    /// The context's prompts, `[L][tokens * hidden]`.
    prompts: Vec<Vec<f32>>,
    version: u64,
    pool: Arc<ThreadPool>,
}

impl Session {
    /// Tokenises, builds the engine and measures the statistics for the projections.
    ///
    /// # Errors
    /// [`Refusal::Input`] or [`Refusal::Example`] for what the user must mend.
    pub fn prepare(
        model: &Arc<Model>,
        resources: &Resources,
        settings: Prepare,
    ) -> Result<(Self, Ready), Refusal> {
        let template = Template::parse(&settings.template).map_err(input)?;
        let tokens = settings.tokens as usize;
        let train = encode_all(model, &template, &settings.train, tokens)?;
        let dev = encode_all(model, &template, &settings.dev, tokens)?;
        let (read_out, label_ids) = read_out(model, &settings)?;
        let initial_ids = match settings.init {
            Init::Vocabulary => Some(model.encoder.initial_prompt_ids(tokens, model.backbone.vocab())),
            Init::None => None,
        };
        let injection = match settings.injection {
            Injection::Add => engine::Injection::Add,
            Injection::Prefix => engine::Injection::Prefix,
        };
        let engine = Runner::new(
            model,
            engine::Settings {
                injection,
                prompt_tokens: tokens,
                initial_ids: initial_ids.clone(),
                around: around(model),
                read_out,
                max_batch_tokens: resources.max_batch_tokens,
                pool: Arc::clone(&resources.pool),
            },
            train,
        )
        .map_err(input)?;
        let initial = engine.host().initial_prompts();
        let layers = model.backbone.layers();
        let ready = Ready {
            run: settings.run,
            layer_stds: if settings.train.is_empty() {
                Vec::new()
            } else {
                engine.layer_stds().map_err(failed)?
            },
            initial: sent_initial(&initial),
            initial_ids: initial_ids.unwrap_or_default(),
            label_ids,
            train_tokens: engine.host().train_rows() as u64,
            flops: (0..layers).map(|layer| engine.host().flops(layer)).collect(),
            memory_bytes: memory_bytes(model, &settings, &engine),
        };
        let prompts = initial.clone();
        let session = Self {
            model: Arc::clone(model),
            settings,
            template,
            engine,
            dev,
            initial,
            projections: Vec::new(),
            prompts,
            version: 0,
            pool: Arc::clone(&resources.pool),
        };
        Ok((session, ready))
    }

    /// Makes the projections and takes the whole context.
    ///
    /// # Errors
    /// [`Refusal::Failed`] when the message does not fit the run's shape.
    pub fn start(&mut self, start: &Start) -> Result<(), Refusal> {
        let layers = self.model.backbone.layers();
        if start.context.len() != layers || start.projection_stds.len() != layers {
            return Err(failed(format!("start: {} layers expected", layers)));
        }
        let made = |layer: usize| self.projection(layer, start.projection_stds[layer]);
        if self.projections.is_empty() {
            self.projections = (0..layers).map(made).collect();
        }
        for (layer, z) in start.context.iter().enumerate() {
            self.place(layer, z)?;
        }
        self.version = start.version.0;
        Ok(())
    }

    /// Takes one layer's new incumbent.
    ///
    /// # Errors
    /// [`Refusal::Failed`] when an update is missing or of the wrong shape.
    pub fn set_context(&mut self, update: &ContextUpdate) -> Result<(), Refusal> {
        if update.version.0 != self.version + 1 {
            return Err(failed(format!("context {} after v{}", update.version, self.version)));
        }
        self.place(update.layer.index(), &update.z)?;
        self.version = update.version.0;
        Ok(())
    }

    /// Does a lease's work.
    ///
    /// # Errors
    /// [`Refusal::Failed`] when this evaluator cannot, [`Refusal::Example`] when no evaluator could.
    pub fn work(&mut self, lease: &Lease) -> Result<Answer, Refusal> {
        if lease.version.0 != self.version {
            return Err(failed(format!(
                "the lease wants context {}, here is v{}",
                lease.version, self.version
            )));
        }
        let outcomes = match &lease.work {
            Work::Evaluate { layer, candidates, examples } => {
                self.evaluate(layer.index(), candidates, index_range(examples))?
            }
            Work::Score { prompt, examples } => vec![self.score(*prompt, examples)?],
        };
        Ok(Answer { lease: lease.id, outcomes })
    }

    fn evaluate(
        &mut self,
        layer: usize,
        candidates: &[Vec<f32>],
        examples: Range<usize>,
    ) -> Result<Vec<Outcome>, Refusal> {
        let labels = labels(self.settings.train.get(examples.clone()))?;
        let prompts = candidates.iter().map(|z| self.prompt(layer, z)).collect::<Result<Vec<_>, _>>()?;
        let logits = self.engine.evaluate(layer, &prompts, examples).map_err(failed)?;
        let loss = self.settings.loss;
        Ok(logits.iter().map(|logits| outcome(loss, logits, &labels)).collect())
    }

    fn score(&self, prompt: Prompted, examples: &ExampleSet) -> Result<Outcome, Refusal> {
        let deep = match prompt {
            Prompted::Manual => None,
            Prompted::Context => Some(self.prompts.as_slice()),
        };
        let (tokens, labels) = match examples {
            ExampleSet::Train(range) => {
                let range = index_range(range);
                let tokens = self.engine.host().train().get(range.clone());
                (tokens.ok_or_else(out_of_range)?.to_vec(), labels(self.settings.train.get(range))?)
            }
            ExampleSet::Dev(range) => {
                let range = index_range(range);
                let tokens = self.dev.get(range.clone());
                (tokens.ok_or_else(out_of_range)?.to_vec(), labels(self.settings.dev.get(range))?)
            }
            ExampleSet::Inline(examples) => {
                // The prompt's rows count for the manual prompt too: a test set that the tuned prompt could not be
                // scored on is refused before the search, not after it.
                let rows = self.settings.tokens as usize;
                let tokens = encode_all(&self.model, &self.template, examples, rows)?;
                (tokens, labels(Some(examples))?)
            }
        };
        let logits = self.engine.score(deep, &tokens).map_err(failed)?;
        let scored = outcome(self.settings.loss, &logits, &labels);
        Ok(Outcome { logits, ..scored })
    }

    /// The projection of one layer, its rows made in parallel; the same on every node.
    fn projection(&self, layer: usize, std: f32) -> Vec<f32> {
        let rows = self.settings.tokens as usize * self.model.backbone.hidden();
        let dim = self.settings.dim as usize;
        let kind = match self.settings.projection {
            ProjectionKind::Normal => Kind::Normal { std },
            ProjectionKind::Uniform => Kind::Uniform,
        };
        let projection = Projection { seed: self.settings.seed, layer: layer as u32, rows, dim, kind };
        let mut matrix = vec![0.0; rows * dim];
        let chunk = 256; // rows a task: enough work to be worth a steal
        self.pool.install(|| {
            matrix.par_chunks_mut(chunk * dim.max(1)).enumerate().for_each(|(i, out)| {
                let first = i * chunk;
                projection.fill_rows(first..first + out.len() / dim, out);
            });
        });
        matrix
    }

    /// `A_l z + p0`, `[tokens * hidden]`.
    fn prompt(&self, layer: usize, z: &[f32]) -> Result<Vec<f32>, Refusal> {
        let matrix = self.projections.get(layer).ok_or_else(|| failed("no such layer, or not started"))?;
        if z.len() != self.settings.dim as usize {
            return Err(failed(format!(
                "a candidate of {} numbers, {} expected",
                z.len(),
                self.settings.dim
            )));
        }
        let mut prompt = projection::apply(matrix, z);
        prompt.iter_mut().zip(&self.initial[layer]).for_each(|(p, p0)| *p += p0);
        Ok(prompt)
    }

    fn place(&mut self, layer: usize, z: &[f32]) -> Result<(), Refusal> {
        let prompt = self.prompt(layer, z)?;
        if prompt != self.prompts[layer] {
            self.engine.set_prompt(layer, &prompt).map_err(failed)?;
            self.prompts[layer] = prompt;
        }
        Ok(())
    }
}

/// Losses and predictions of one candidate from its logits, `[examples * classes]`.
fn outcome(loss: Loss, logits: &[f32], labels: &[u32]) -> Outcome {
    let classes = logits.len() / labels.len().max(1);
    let rows = logits.chunks_exact(classes.max(1)).zip(labels);
    let (losses, predicted) = rows.map(|(row, &label)| (loss.of(row, label), predicted(row))).unzip();
    Outcome { losses, predicted, logits: Vec::new() }
}

/// The read-out of the run, and the label words' token ids where it has any.
fn read_out(model: &Model, settings: &Prepare) -> Result<(engine::ReadOut, Vec<u32>), Refusal> {
    match settings.read_out {
        ReadOut::MaskedLm | ReadOut::NextToken | ReadOut::Seq2Seq => {
            let ids = settings.words.iter().map(|word| model.encoder.label_word_id(word));
            let label_ids = ids
                .collect::<Result<Vec<u32>, _>>()
                .map_err(|error| Refusal::Input(format!("task.words: {error}")))?;
            let found = label_ids.clone();
            let read_out = match settings.read_out {
                ReadOut::NextToken => engine::ReadOut::NextToken { label_ids },
                ReadOut::Seq2Seq => {
                    let mask =
                        model.encoder.mask_id().ok_or_else(|| input("this tokenizer has no mask token"))?;
                    engine::ReadOut::Seq2Seq { label_ids, mask }
                }
                _ => engine::ReadOut::MaskedLm { label_ids },
            };
            Ok((read_out, found))
        }
        ReadOut::Similarity => {
            let phrases = settings.words.iter().map(|phrase| {
                let encoded = model.encode_text(phrase, 0).map_err(input)?;
                Ok(Tokens { ids: encoded.ids, read_out: 0 })
            });
            let phrases = phrases.collect::<Result<Vec<Tokens>, Refusal>>()?;
            let class_embeddings = engine::embed(&model.backbone, &phrases).map_err(input)?;
            Ok((
                engine::ReadOut::Similarity { temperature: settings.temperature, class_embeddings },
                Vec::new(),
            ))
        }
    }
}

/// The special tokens that the tokenizer puts around a text.
fn around(model: &Model) -> Around {
    let (before, after) = model.encoder.around();
    Around { before: before.first().copied(), after: after.last().copied() }
}

fn encode_all(
    model: &Model,
    template: &Template,
    examples: &[Example],
    prompt: usize,
) -> Result<Vec<Tokens>, Refusal> {
    let encode = |example: &Example| {
        let named = |error: EncodeError| Refusal::Example { line: example.line, problem: error.to_string() };
        model.encode(template, example, prompt).map_err(named)
    };
    examples.iter().map(encode).collect()
}

/// `p0` for the wire: nothing when it is zero everywhere.
fn sent_initial(initial: &[Vec<f32>]) -> Vec<f32> {
    let flat: Vec<f32> = initial.concat();
    if flat.iter().all(|&x| x == 0.0) { Vec::new() } else { flat }
}

/// Bytes of the process itself: its code, the run's texts, what its allocator keeps. An estimate: with it the peak
/// measured of Gemma 3 270M stayed 5 % below what is stated.
pub(crate) const PROGRAM_BYTES: u64 = 48 << 20;

/// Projections, prompts, cached hidden states and scratch, the tokenizer, and the program.
fn memory_bytes(model: &Model, settings: &Prepare, engine: &Runner) -> u64 {
    let prompts = engine::prompt_bytes(&model.backbone, settings.tokens as usize, settings.dim as usize);
    prompts + engine.working_bytes() as u64 + model.encoder.bytes() as u64 + PROGRAM_BYTES
}

fn labels(examples: Option<&[Example]>) -> Result<Vec<u32>, Refusal> {
    Ok(examples.ok_or_else(out_of_range)?.iter().map(|example| example.label).collect())
}

fn index_range(range: &Range<u32>) -> Range<usize> {
    range.start as usize..range.end as usize
}

fn out_of_range() -> Refusal {
    failed("a range beyond the examples this run was prepared with")
}

fn input(error: impl std::fmt::Display) -> Refusal {
    Refusal::Input(error.to_string())
}

fn failed(error: impl std::fmt::Display) -> Refusal {
    Refusal::Failed(error.to_string())
}
