//! The population engine: the losses' logits of many candidates of one layer, sharing whatever they share.
//!
//! For one layer the candidates differ in that layer's prompt alone. So the layers below run once per context
//! (`context`), examples are packed without padding (`pack`), the last layer is computed at the read-out's rows
//! alone, and tasks of one candidate and a few examples run in parallel, each single-threaded with buffers of its own
//! (`forward`). A candidate's logits have the same bits whatever else is in the call, however it is cut and however
//! many threads there are: no operation mixes rows of different candidates or examples.

mod bytes;
mod context;
mod flops;
mod forward;
pub(crate) mod pack;
mod population;
pub(crate) mod read_out;
mod settings;
pub(crate) mod statistics;
pub(crate) mod timing;
#[cfg(test)]
pub(crate) mod tiny;

use std::ops::Range;
use std::sync::Arc;

use rayon::ThreadPool;
use rayon::prelude::*;

use crate::backbone::{Backbone, Place, Wanted};
use context::Cache;
use forward::{Deep, From, Pass, Pool};
use pack::{Batch, Slots};
use read_out::Head;
use settings::check;

pub(crate) use bytes::task_rows;
pub use bytes::{cached_bytes, row_bytes, thread_bytes};
pub use pack::Tokens;
pub use read_out::ReadOut;
pub use settings::{Around, EngineError, Injection, Settings};

/// Rows of one task at most, where the token budget allows them: enough for the weights to be read seldom, few enough
/// for a task's rows to stay in the cache.
pub(crate) const TASK_ROWS: usize = 512;

/// Hidden states of one example after one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct States {
    /// `[rows, hidden]`
    pub text: Vec<f32>,
    /// Of its prompt rows in `add`, `[n, hidden]`; else empty.
    pub prompt: Vec<f32>,
}

/// The engine of one run: packed training examples, the context's prompts and the cached hidden states.
pub struct Engine {
    pub(crate) backbone: Arc<Backbone>,
    pub(crate) settings: Settings,
    pub(crate) head: Head,
    slots: Slots,
    pub(crate) tokens: Vec<Tokens>,
    pub(crate) batch: Batch,
    /// The context's prompts: `[L][n * hidden]` (add) or their keys and values, `[L][n * 2 * keys * width]` (prefix).
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
        let slots = Slots {
            lead: usize::from(settings.around.before.is_some()),
            ids: (0..n).map(|i| ids.and_then(|ids| ids.get(i)).copied()).collect(),
            outputs: settings.injection == Injection::Add,
        };
        check(&backbone, &train, n, settings.around.before)?;
        let batch = Batch::embed(&backbone, &head, &train, &slots);
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

    /// The compute pool.
    pub fn pool(&self) -> &ThreadPool {
        &self.settings.pool
    }

    /// Its threads.
    pub fn threads(&self) -> usize {
        self.settings.pool.current_num_threads()
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
        let Around { before, after } = self.settings.around;
        match (self.settings.injection, &self.settings.initial_ids) {
            (Injection::Prefix, Some(ids)) => {
                let all: Vec<u32> = before.iter().chain(ids).chain(&after).copied().collect();
                let lead = self.slots.lead;
                statistics::rows_alone(&self.backbone, &all, lead..lead + ids.len())
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
                Injection::Add => self.added(&zero),
                Injection::Prefix => Deep::Prefix(&self.deep), // the initial prompts: nothing has been set yet
            };
            let mut stds = vec![statistics::table_std(&self.backbone.embeddings.word)];
            let mut cache = Cache::default();
            for layer in 1..self.backbone.layers() {
                cache.reach(layer, self.pass(), &self.batch, deep, &self.buffers, self.task_rows());
                stds.push(statistics::clipped_std(cache.text(), &cache.prompt(self.tokens.len())));
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
        self.check_population(layer, prompts, &examples)?;
        let pool = Arc::clone(&self.settings.pool);
        Ok(pool.install(|| {
            let mut cache = std::mem::take(&mut self.cache);
            cache.reach(layer, self.pass(), &self.batch, self.deep(), &self.buffers, self.task_rows());
            self.cache = cache;
            self.population(layer, prompts, examples)
        }))
    }

    /// Logits `[examples * classes]` of any examples under a whole deep prompt (`[L][n * hidden]`), or without prompt
    /// rows. Examples are embedded a few at a time, so memory does not grow with their number.
    ///
    /// # Errors
    /// An example that does not fit the model, or a prompt that does not fit this engine.
    pub fn score(&self, prompts: Option<&[Vec<f32>]>, examples: &[Tokens]) -> Result<Vec<f32>, EngineError> {
        self.under(prompts, examples, |deep, slots| {
            let extra = if slots.ids.is_empty() { 0 } else { self.extra_rows() };
            let groups = group_tokens(examples, extra, self.task_rows());
            let score = |group: &Range<usize>| {
                let batch = Batch::embed(&self.backbone, &self.head, &examples[group.clone()], slots);
                let rows = deep.rows(&batch);
                let from = From::bottom(&batch, &rows);
                self.buffers.with(|buffers| self.pass().run(from, deep, None, buffers))
            };
            let logits: Vec<Vec<f32>> = self.settings.pool.install(|| groups.par_iter().map(score).collect());
            logits.concat()
        })
    }

    /// What `work` makes of a whole deep prompt, or of none, once `examples` are known to fit.
    fn under<T>(
        &self,
        prompts: Option<&[Vec<f32>]>,
        examples: &[Tokens],
        work: impl FnOnce(Deep<'_>, &Slots) -> T,
    ) -> Result<T, EngineError> {
        let prompts = prompts.unwrap_or_default();
        let slots = &self.check_deep(prompts, examples)?;
        let formed: Vec<Vec<f32>> =
            prompts.iter().enumerate().map(|(l, prompt)| self.form(l, prompt)).collect();
        let deep = match (prompts.len(), self.settings.injection) {
            (0, _) => Deep::Absent,
            (_, Injection::Add) => self.added(&formed),
            (_, Injection::Prefix) => Deep::Prefix(&formed),
        };
        Ok(work(deep, slots))
    }

    /// Hidden states of one example at the embeddings and after every layer, before a final norm, under a whole deep
    /// prompt or without prompt rows: for comparison with other implementations.
    ///
    /// # Errors
    /// As [`Self::score`].
    pub fn states(&self, prompts: Option<&[Vec<f32>]>, example: &Tokens) -> Result<Vec<States>, EngineError> {
        let mut states = Vec::new();
        self.under(prompts, std::slice::from_ref(example), |deep, slots| {
            let batch = Batch::embed(&self.backbone, &self.head, std::slice::from_ref(example), slots);
            let rows = deep.rows(&batch);
            let from = From::bottom(&batch, &rows);
            states.push(States { text: batch.text.clone(), prompt: rows.clone() });
            self.buffers.with(|buffers| {
                for layer in 0..self.backbone.layers() {
                    self.pass().layer(layer, from, deep, None, Wanted::All, buffers);
                    let hidden = buffers.hidden();
                    states.push(States { text: hidden.text.clone(), prompt: hidden.prompt.clone() });
                }
            });
        })?;
        Ok(states)
    }

    /// Floating-point operations of one candidate of `layer` on all training examples.
    pub fn flops(&self, layer: usize) -> f64 {
        self.work().candidate(layer)
    }

    /// Floating-point operations that bring the cached context from the layer below to `layer`.
    pub fn context_flops(&self, layer: usize) -> f64 {
        self.work().context(layer)
    }

    fn work(&self) -> flops::Work<'_> {
        flops::Work { pass: self.pass(), batch: &self.batch, injection: self.settings.injection }
    }

    /// Rows of the longest training example, its prompt rows included.
    pub fn longest(&self) -> usize {
        let longest = self.batch.spans.iter().map(std::ops::Range::len).max();
        longest.unwrap_or(0) + self.settings.prompt_tokens
    }

    /// Keeps so many rows in flight at most from now on; no number that it gives depends on it.
    pub fn limit(&mut self, max_batch_tokens: usize) {
        self.settings.max_batch_tokens = max_batch_tokens;
    }

    fn pass(&self) -> Pass<'_> {
        Pass { backbone: &self.backbone, head: &self.head }
    }

    fn deep(&self) -> Deep<'_> {
        match self.settings.injection {
            Injection::Add => self.added(&self.deep),
            Injection::Prefix => Deep::Prefix(&self.deep),
        }
    }

    fn added<'a>(&self, prompts: &'a [Vec<f32>]) -> Deep<'a> {
        if self.backbone.is_causal() { Deep::AddShared(prompts) } else { Deep::Add(prompts) }
    }

    /// A prompt as the blocks take it.
    fn form(&self, layer: usize, prompt: &[f32]) -> Vec<f32> {
        match self.settings.injection {
            Injection::Add => prompt.to_vec(),
            Injection::Prefix => self.backbone.blocks[layer].prefix(prompt, self.slots.place()),
        }
    }

    /// Prompt rows that each example has of its own.
    fn extra_rows(&self) -> usize {
        let own = self.settings.injection == Injection::Add && !self.backbone.is_causal();
        if own { self.settings.prompt_tokens } else { 0 }
    }

    /// Rows of one task: the token budget shared by the threads.
    fn task_rows(&self) -> usize {
        task_rows(self.settings.max_batch_tokens, self.settings.pool.current_num_threads())
    }

    /// Whether examples fit the model and a deep prompt this engine; the prompt's slots, none where there is no prompt.
    pub(crate) fn check_deep(&self, prompts: &[Vec<f32>], examples: &[Tokens]) -> Result<Slots, EngineError> {
        let slots = if prompts.is_empty() { Slots::default() } else { self.slots.clone() };
        check(&self.backbone, examples, slots.ids.len(), self.settings.around.before)?;
        prompts.iter().enumerate().try_for_each(|(layer, prompt)| self.check_prompt(layer, prompt))?;
        Ok(slots)
    }

    /// Whether a population fits this engine.
    pub(crate) fn check_population(
        &self,
        layer: usize,
        prompts: &[Vec<f32>],
        examples: &Range<usize>,
    ) -> Result<(), EngineError> {
        prompts.iter().try_for_each(|prompt| self.check_prompt(layer, prompt))?;
        if examples.start > examples.end || examples.end > self.tokens.len() {
            return Err(EngineError::Shape(format!("examples {examples:?} of {}", self.tokens.len())));
        }
        Ok(())
    }

    pub(crate) fn check_prompt(&self, layer: usize, prompt: &[f32]) -> Result<(), EngineError> {
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

/// Pooled last hidden states of `examples` without prompt rows, `[examples][hidden]`.
///
/// # Errors
/// An example that does not fit the model.
pub fn embed(backbone: &Backbone, examples: &[Tokens]) -> Result<Vec<Vec<f32>>, EngineError> {
    check(backbone, examples, 0, None)?;
    Ok(examples.iter().map(|tokens| statistics::pooled_alone(backbone, &tokens.ids)).collect())
}

/// Consecutive examples in groups of at most `limit` rows.
fn group_tokens(examples: &[Tokens], extra: usize, limit: usize) -> Vec<Range<usize>> {
    Batch::of_lengths(examples, Place::default()).groups(0..examples.len(), extra, limit)
}
