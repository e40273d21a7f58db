//! One run on this evaluator: its tokenised examples, its projections, its engine; an order in, an answer out.
//!
//! Blocking arithmetic, no channel: `worker` owns the thread it runs on.

use std::ops::Range;
use std::sync::Arc;

use rayon::ThreadPool;
use shared::ids::ContextVersion;
use shared::messages::{
    Answer, Canary, CanaryOutcome, ContextUpdate, ExampleSet, Lease, Outcome, Prepare, Prompted, Ready,
    Refusal, Start, Work,
};
use shared::projection::{Kind, Projection};
use shared::spec::{Init, Injection, ProjectionKind, ReadOut};
use shared::task::loss::predicted;
use shared::task::{Example, Loss, Template};

use crate::engine::{self, Around, Tokens};
use crate::memory::{Footprint, Kept, Sizes};
use crate::model::{EncodeError, Model};
use crate::observe::Asked;
use crate::projections::Projections;
use crate::resources::{Resources, Taken};
use crate::runner::Runner;

/// Candidates that are worked on at once, whose prompts are held: so memory does not grow with the population.
pub(crate) const HELD: usize = 40;

/// One run's state.
pub struct Session {
    model: Arc<Model>,
    settings: Prepare,
    template: Template,
    engine: Runner,
    dev: Vec<Tokens>,
    /// `p0` of each layer, `[L][tokens * hidden]`.
    initial: Vec<Vec<f32>>,
    /// Made at [`Session::start`].
    projections: Option<Projections>,
    kept: Kept,
    /// What it takes of the evaluator's memory, given back with it.
    _taken: Taken,
    /// The context, `[L][dim]`.
    context: Vec<Vec<f32>>,
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
        let mut engine = Runner::new(
            model,
            engine::Settings {
                injection,
                prompt_tokens: tokens,
                initial_ids: initial_ids.clone(),
                around: around(model),
                read_out,
                max_batch_tokens: resources.max_batch_tokens() as usize,
                pool: Arc::clone(&resources.pool),
            },
            train,
        )
        .map_err(input)?;
        let sizes = Sizes {
            examples: engine.host().train().len(),
            train_rows: engine.host().train_rows(),
            longest: engine.host().longest(),
            prompt_tokens: tokens,
            dim: settings.dim as usize,
            threads: resources.pool.current_num_threads(),
        };
        let footprint = Footprint::new(model, sizes);
        let (kept, taken) = resources.settle(&footprint, engine.host_mut())?;
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
            memory_bytes: footprint.beside_weights(kept.max_batch_tokens, kept.keep),
        };
        let prompts = initial.clone();
        let session = Self {
            model: Arc::clone(model),
            settings,
            template,
            engine,
            dev,
            initial,
            projections: None,
            kept,
            _taken: taken,
            context: vec![Vec::new(); layers],
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
        if self.projections.is_none() {
            let layers =
                start.projection_stds.iter().enumerate().map(|(layer, &std)| self.projection(layer, std));
            self.projections =
                Some(Projections::new(layers.collect(), self.kept.keep, Arc::clone(&self.pool)));
        }
        for (layer, z) in start.context.iter().enumerate() {
            self.place(layer, z)?;
        }
        self.version = start.version.0;
        Ok(())
    }

    /// The context's version.
    pub fn version(&self) -> ContextVersion {
        ContextVersion(self.version)
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

    /// Rows in flight at most.
    pub fn max_batch_tokens(&self) -> u32 {
        self.kept.max_batch_tokens
    }

    /// What a piece of work takes, as far as it makes sense.
    pub fn asked(&self, work: &Work) -> Asked {
        let Work::Evaluate { layer, candidates, examples, .. } = work else {
            let Work::Score { examples, .. } = work else { return Asked::default() };
            return Asked { examples: examples.len() as u64, ..Asked::default() };
        };
        let (host, candidates) = (self.engine.host(), candidates.len() as u64);
        let Some(chosen) = host.train().get(index_range(examples)) else { return Asked::default() };
        let rows =
            chosen.iter().map(|tokens| tokens.ids.len() + self.settings.tokens as usize).sum::<usize>();
        let share = chosen.len() as f64 / host.train().len().max(1) as f64;
        let flops =
            if layer.index() < self.model.backbone.layers() { host.flops(layer.index()) } else { 0.0 };
        Asked {
            examples: candidates * chosen.len() as u64,
            tokens: candidates * rows as u64,
            flop: candidates as f64 * share * flops,
        }
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
        let (outcomes, canary) = match &lease.work {
            Work::Evaluate { layer, candidates, examples, canary } => {
                let outcomes = self.evaluate(layer.index(), candidates, index_range(examples))?;
                let canary = canary.as_ref().map(|canary| self.canary(layer.index(), canary)).transpose()?;
                (outcomes, canary)
            }
            Work::Score { prompt, examples } => (vec![self.score(*prompt, examples)?], None),
        };
        Ok(Answer { lease: lease.id, outcomes, canary })
    }

    /// On its own, so that it is the same piece of arithmetic on every evaluator.
    fn canary(&mut self, layer: usize, canary: &Canary) -> Result<CanaryOutcome, Refusal> {
        let example = canary.example..canary.example.saturating_add(1);
        let outcomes = self.evaluate(layer, std::slice::from_ref(&canary.z), index_range(&example))?;
        let found =
            outcomes.first().and_then(|outcome| Some((outcome.losses.first()?, outcome.predicted.first()?)));
        let (&loss, &predicted) = found.ok_or_else(|| failed("a canary without a loss"))?;
        Ok(CanaryOutcome { loss, predicted })
    }

    fn evaluate(
        &mut self,
        layer: usize,
        candidates: &[Vec<f32>],
        examples: Range<usize>,
    ) -> Result<Vec<Outcome>, Refusal> {
        let labels = labels(self.settings.train.get(examples.clone()))?;
        if candidates.is_empty() {
            return Ok(Vec::new());
        }
        let (loss, mut outcomes) = (self.settings.loss, Vec::with_capacity(candidates.len()));
        for some in candidates.chunks(HELD) {
            let prompts = self.made(layer, some)?;
            let logits = self.engine.evaluate(layer, &prompts, examples.clone()).map_err(failed)?;
            outcomes.extend(logits.iter().map(|logits| outcome(loss, logits, &labels)));
        }
        Ok(outcomes)
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

    /// The projection of one layer; the same on every node.
    fn projection(&self, layer: usize, std: f32) -> Projection {
        Projection {
            seed: self.settings.seed,
            layer: layer as u32,
            rows: self.settings.tokens as usize * self.model.backbone.hidden(),
            dim: self.settings.dim as usize,
            kind: match self.settings.projection {
                ProjectionKind::Normal => Kind::Normal { std },
                ProjectionKind::Uniform => Kind::Uniform,
            },
        }
    }

    /// `A_l z + p0` of each `z`, `[candidates][tokens * hidden]`.
    fn made(&self, layer: usize, zs: &[Vec<f32>]) -> Result<Vec<Vec<f32>>, Refusal> {
        let dim = self.settings.dim as usize;
        if let Some(z) = zs.iter().find(|z| z.len() != dim) {
            return Err(failed(format!("a candidate of {} numbers, {dim} expected", z.len())));
        }
        let projections = self.projections.as_ref().ok_or_else(|| failed("the run has not been started"))?;
        let mut prompts = projections.prompts(layer, zs).ok_or_else(|| failed("no such layer"))?;
        for prompt in &mut prompts {
            prompt.iter_mut().zip(&self.initial[layer]).for_each(|(p, p0)| *p += p0);
        }
        Ok(prompts)
    }

    fn place(&mut self, layer: usize, z: &[f32]) -> Result<(), Refusal> {
        if self.context.get(layer).is_some_and(|own| own == z) {
            return Ok(()); // an incumbent that has stayed: its prompt need not be made again
        }
        for prompt in self.made(layer, &[z.to_vec()])? {
            self.engine.set_prompt(layer, &prompt).map_err(failed)?;
            self.prompts[layer] = prompt;
        }
        self.context[layer] = z.to_vec();
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
