//! The population engine: the losses' logits of many candidates of one layer, sharing whatever they share.
//!
//! For one layer the candidates differ in that layer's prompt alone. So the layers below run once per context
//! (`context`), examples are packed without padding (`pack`), the last layer is computed at the read-out's rows
//! alone, and tasks of one candidate and a few examples run in parallel, each single-threaded with buffers of its own
//! (`forward`). A candidate's logits have the same bits whatever else is in the call, however it is cut and however
//! many threads there are: no operation mixes rows of different candidates or examples.

mod context;
mod forward;
mod pack;
mod read_out;
mod statistics;

use std::ops::Range;
use std::sync::Arc;

use rayon::ThreadPool;
use rayon::prelude::*;
use thiserror::Error;

use crate::backbone::Backbone;
use context::Cache;
use forward::{Deep, From, Pass, Pool};
use pack::{Batch, Slots};
use read_out::Head;

pub use pack::Tokens;
pub use read_out::ReadOut;

/// Rows of one task at most, where the token budget allows them: enough for the weights to be read seldom, few enough
/// for a task's rows to stay in the cache.
const TASK_ROWS: usize = 512;

/// How a prompt enters a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Injection {
    /// Added to the hidden states at the prompt's positions.
    Add,
    /// Replaces them: keys and values only.
    Prefix,
}

/// What an engine is built with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How a prompt enters a layer.
    pub injection: Injection,
    /// Prompt tokens a layer, `n`.
    pub prompt_tokens: usize,
    /// Token ids at the prompt's positions; `None` is a zero word at each.
    pub initial_ids: Option<Vec<u32>>,
    /// The special tokens before and after a text, which the initial ids stand between in `prefix`.
    pub around: (u32, u32),
    /// The read-out.
    pub read_out: ReadOut,
    /// Rows in flight at most, over all threads.
    pub max_batch_tokens: usize,
    /// The compute pool.
    pub pool: Arc<ThreadPool>,
}

/// What an engine cannot do.
#[derive(Debug, Error)]
pub enum EngineError {
    /// A masked-LM read-out on a model without that head.
    #[error("this model has no masked-LM head (it is an encoder); use model.read_out = \"similarity\"")]
    NoHead,
    /// A label word outside the vocabulary.
    #[error("a label word's token id lies outside the vocabulary of {vocab}")]
    Label {
        /// Its size.
        vocab: usize,
    },
    /// A token id outside the vocabulary: the tokenizer is another model's.
    #[error(
        "example {example}: token id {id} lies outside the model's vocabulary of {vocab}; is tokenizer.json this model's?"
    )]
    Token {
        /// Its index.
        example: usize,
        /// The id.
        id: u32,
        /// The vocabulary's size.
        vocab: usize,
    },
    /// More tokens than the model has positions.
    #[error("example {example}: {tokens} tokens, prompt included; the model allows {limit}")]
    TooLong {
        /// Its index.
        example: usize,
        /// Its tokens.
        tokens: usize,
        /// The limit.
        limit: usize,
    },
    /// A layer, prompt or range that does not fit this engine.
    #[error("{0}")]
    Shape(String),
}

/// The engine of one run: packed training examples, the context's prompts and the cached hidden states.
pub struct Engine {
    backbone: Arc<Backbone>,
    settings: Settings,
    head: Head,
    slots: Slots,
    tokens: Vec<Tokens>,
    batch: Batch,
    /// The context's prompts: `[L][n * hidden]` (add) or their keys and values, `[L][n * 2 hidden]` (prefix).
    deep: Vec<Vec<f32>>,
    cache: Cache,
    buffers: Pool,
}

impl Engine {
    /// Packs `train` under the context of initial prompts.
    ///
    /// # Errors
    /// A read-out the model has not, or an example that does not fit it.
    pub fn new(backbone: Arc<Backbone>, settings: Settings, train: Vec<Tokens>) -> Result<Self, EngineError> {
        let head = Head::new(&backbone, &settings.read_out)?;
        let n = settings.prompt_tokens;
        let ids = settings.initial_ids.as_ref();
        let slots = Slots { ids: (0..n).map(|i| ids.and_then(|ids| ids.get(i)).copied()).collect() };
        check(&backbone, &train, n)?;
        let batch = Batch::embed(&backbone, &train, &slots);
        let mut engine = Self {
            backbone,
            settings,
            head,
            slots,
            tokens: train,
            batch,
            deep: Vec::new(),
            cache: Cache::default(),
            buffers: Pool::default(),
        };
        let initial = engine.initial_prompts();
        engine.deep = initial.iter().enumerate().map(|(layer, prompt)| engine.form(layer, prompt)).collect();
        Ok(engine)
    }

    /// Training examples.
    pub fn train(&self) -> &[Tokens] {
        &self.tokens
    }

    /// Real tokens of the training examples, prompt rows included.
    pub fn train_rows(&self) -> usize {
        self.batch.rows() + self.batch.spans.len() * self.settings.prompt_tokens
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.head.classes()
    }

    /// What each layer's prompt starts from, `[L][n * hidden]`: zero in `add`; in `prefix` with initial ids the hidden
    /// states of these tokens alone between the special tokens.
    pub fn initial_prompts(&self) -> Vec<Vec<f32>> {
        let (layers, hidden) = (self.backbone.layers(), self.backbone.hidden());
        let zero = vec![vec![0.0; self.settings.prompt_tokens * hidden]; layers];
        let (first, last) = self.settings.around;
        match (self.settings.injection, &self.settings.initial_ids) {
            (Injection::Prefix, Some(ids)) => {
                let all: Vec<u32> = [&[first], ids.as_slice(), &[last]].concat();
                statistics::rows_alone(&self.backbone, &all, 1..1 + ids.len())
            }
            _ => zero,
        }
    }

    /// Standard deviation of the hidden states at each layer's input over the training examples, `[L]`, under zero
    /// prompts (spec 3.2: layer 0 takes the word embeddings' instead).
    pub fn layer_stds(&self) -> Vec<f32> {
        self.settings.pool.install(|| {
            let zero =
                vec![vec![0.0; self.settings.prompt_tokens * self.backbone.hidden()]; self.backbone.layers()];
            let deep = match self.settings.injection {
                Injection::Add => Deep::Add(&zero),
                Injection::Prefix => Deep::Prefix(&self.deep), // the initial prompts: nothing has been set yet
            };
            let mut stds = vec![statistics::std(&self.backbone.embeddings.word)];
            let mut cache = Cache::default();
            for layer in 1..self.backbone.layers() {
                cache.reach(layer, self.pass(), &self.batch, deep, &self.buffers, self.task_rows());
                stds.push(statistics::clipped_std(cache.text(), cache.prompt()));
            }
            stds
        })
    }

    /// Sets the context's prompt of one layer, `[n * hidden]`.
    ///
    /// # Errors
    /// A layer or length that is not this engine's.
    pub fn set_prompt(&mut self, layer: usize, prompt: &[f32]) -> Result<(), EngineError> {
        self.check_prompt(layer, prompt)?;
        self.deep[layer] = self.form(layer, prompt);
        self.cache.prompt_changed(layer);
        Ok(())
    }

    /// Logits of each candidate of `layer` on a range of the training examples: `[candidates][examples * classes]`.
    ///
    /// # Errors
    /// A layer, prompt or range that is not this engine's.
    pub fn evaluate(
        &mut self,
        layer: usize,
        prompts: &[Vec<f32>],
        examples: Range<usize>,
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        prompts.iter().try_for_each(|prompt| self.check_prompt(layer, prompt))?;
        if examples.start > examples.end || examples.end > self.tokens.len() {
            return Err(EngineError::Shape(format!("examples {examples:?} of {}", self.tokens.len())));
        }
        let pool = Arc::clone(&self.settings.pool);
        Ok(pool.install(|| {
            let mut cache = std::mem::take(&mut self.cache);
            cache.reach(layer, self.pass(), &self.batch, self.deep(), &self.buffers, self.task_rows());
            self.cache = cache;
            self.population(layer, prompts, examples)
        }))
    }

    /// The population's tasks: each candidate with each group of examples.
    fn population(&self, layer: usize, prompts: &[Vec<f32>], examples: Range<usize>) -> Vec<Vec<f32>> {
        let own: Vec<Vec<f32>> = prompts.par_iter().map(|prompt| self.form(layer, prompt)).collect();
        let groups = self.batch.groups(examples, self.extra_rows(), self.task_rows());
        let spans: Vec<_> = groups.iter().map(|group| self.batch.group_spans(group)).collect();
        let tasks = prompts.len() * groups.len();
        let logits: Vec<Vec<f32>> = (0..tasks)
            .into_par_iter()
            .with_max_len(1)
            .map(|task| {
                let (candidate, group) = (task / groups.len(), task % groups.len());
                let slice = self.cache.slice(self.pass(), &self.batch, &groups[group]);
                let from = From {
                    layer,
                    text: slice.text,
                    prompt: slice.prompt,
                    known: Some(slice.known),
                    spans: &spans[group],
                    picks: &self.batch.picks[groups[group].clone()],
                };
                self.buffers
                    .with(|buffers| self.pass().run(from, self.deep(), Some(&own[candidate]), buffers))
            })
            .collect();
        logits.chunks(groups.len().max(1)).map(|parts| parts.concat()).collect()
    }

    /// Logits `[examples * classes]` of any examples under a whole deep prompt (`[L][n * hidden]`), or without prompt
    /// rows. Examples are embedded a few at a time, so memory does not grow with their number.
    ///
    /// # Errors
    /// An example that does not fit the model, or a prompt that does not fit this engine.
    pub fn score(&self, prompts: Option<&[Vec<f32>]>, examples: &[Tokens]) -> Result<Vec<f32>, EngineError> {
        let none = Slots::default();
        let slots = prompts.map_or(&none, |_| &self.slots);
        check(&self.backbone, examples, slots.ids.len())?;
        let prompts = prompts.unwrap_or_default();
        prompts.iter().enumerate().try_for_each(|(layer, prompt)| self.check_prompt(layer, prompt))?;
        let formed: Vec<Vec<f32>> =
            prompts.iter().enumerate().map(|(l, prompt)| self.form(l, prompt)).collect();
        let deep = match (prompts.len(), self.settings.injection) {
            (0, _) => Deep::Absent,
            (_, Injection::Add) => Deep::Add(&formed),
            (_, Injection::Prefix) => Deep::Prefix(&formed),
        };
        let groups = group_tokens(examples, slots.ids.len(), self.task_rows());
        let score = |group: &Range<usize>| {
            let batch = Batch::embed(&self.backbone, &examples[group.clone()], slots);
            let rows = match deep {
                Deep::Add(_) => batch.prompt.repeat(batch.spans.len()),
                _ => Vec::new(),
            };
            let (spans, picks) = (&batch.spans, &batch.picks);
            let from = From { layer: 0, text: &batch.text, prompt: &rows, known: None, spans, picks };
            self.buffers.with(|buffers| self.pass().run(from, deep, None, buffers))
        };
        let logits: Vec<Vec<f32>> = self.settings.pool.install(|| groups.par_iter().map(score).collect());
        Ok(logits.concat())
    }

    /// Floating-point operations of one candidate of `layer` on all training examples.
    pub fn flops(&self, layer: usize) -> f64 {
        forward::flops(&self.backbone, &self.settings, &self.head, &self.batch.spans, layer)
    }

    /// Bytes of the cached context and of all tasks in flight, at most.
    pub fn working_bytes(&self) -> usize {
        let (hidden, wide) = (self.backbone.hidden(), self.backbone.config.intermediate_size);
        let cached = self.train_rows() * hidden * 5; // states at the bottom and at the layer, query, key and value
        let task = self.task_rows() * (hidden * 14 + wide);
        4 * (cached + task * self.settings.pool.current_num_threads())
    }

    fn pass(&self) -> Pass<'_> {
        Pass { backbone: &self.backbone, head: &self.head }
    }

    fn deep(&self) -> Deep<'_> {
        match self.settings.injection {
            Injection::Add => Deep::Add(&self.deep),
            Injection::Prefix => Deep::Prefix(&self.deep),
        }
    }

    /// A prompt as the blocks take it.
    fn form(&self, layer: usize, prompt: &[f32]) -> Vec<f32> {
        match self.settings.injection {
            Injection::Add => prompt.to_vec(),
            Injection::Prefix => self.backbone.blocks[layer].prefix(prompt),
        }
    }

    /// Prompt rows that each example has of its own.
    fn extra_rows(&self) -> usize {
        if self.settings.injection == Injection::Add { self.settings.prompt_tokens } else { 0 }
    }

    /// Rows of one task: the token budget shared by the threads.
    fn task_rows(&self) -> usize {
        (self.settings.max_batch_tokens / self.settings.pool.current_num_threads()).clamp(1, TASK_ROWS)
    }

    fn check_prompt(&self, layer: usize, prompt: &[f32]) -> Result<(), EngineError> {
        let expected = self.settings.prompt_tokens * self.backbone.hidden();
        if layer < self.backbone.layers() && prompt.len() == expected {
            return Ok(());
        }
        Err(EngineError::Shape(format!(
            "layer {layer} with a prompt of {} numbers; there are {} layers and a prompt has {expected}",
            prompt.len(),
            self.backbone.layers()
        )))
    }
}

/// Mean-pooled last hidden states of `examples` without prompt rows, `[examples][hidden]`.
///
/// # Errors
/// An example that does not fit the model.
pub fn embed(backbone: &Backbone, examples: &[Tokens]) -> Result<Vec<Vec<f32>>, EngineError> {
    check(backbone, examples, 0)?;
    Ok(examples.iter().map(|tokens| statistics::pooled_alone(backbone, &tokens.ids)).collect())
}

/// Whether every example fits the model.
fn check(backbone: &Backbone, examples: &[Tokens], prompt: usize) -> Result<(), EngineError> {
    let (limit, vocab) = (backbone.max_tokens(), backbone.vocab());
    for (example, tokens) in examples.iter().enumerate() {
        let count = tokens.ids.len() + prompt;
        if count > limit {
            return Err(EngineError::TooLong { example, tokens: count, limit });
        }
        if let Some(&id) = tokens.ids.iter().find(|&&id| id as usize >= vocab) {
            return Err(EngineError::Token { example, id, vocab });
        }
        if tokens.ids.len() <= tokens.read_out {
            let text = format!(
                "example {example}: row {} of {} tokens is to be read",
                tokens.read_out,
                tokens.ids.len()
            );
            return Err(EngineError::Shape(text));
        }
    }
    Ok(())
}

/// Consecutive examples in groups of at most `limit` rows.
fn group_tokens(examples: &[Tokens], extra: usize, limit: usize) -> Vec<Range<usize>> {
    let mut spans = Vec::with_capacity(examples.len());
    let mut start = 0;
    for tokens in examples {
        spans.push(start..start + tokens.ids.len());
        start += tokens.ids.len();
    }
    Batch { spans, ..Batch::default() }.groups(0..examples.len(), extra, limit)
}
