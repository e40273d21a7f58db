//! The population engine on a device: what [`Engine`] is on the processor, with the same contract.
//!
//! What needs no weights (packing, checks, the cut, label words) is the processor's engine's; the layers run here. A
//! chunk is some candidates with some examples, as many as the token budget allows: the linear layers are one product
//! over all their rows, without padding.

use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;

use super::backbone::DeviceBackbone;
use super::block::{Input, Known, Next};
use super::forward::{Brought, Prompts, Reading, Start};
use super::plan::{Layout, Own};
use super::plans::{Chunk, Kept, Plans, Stage};
use crate::backbone::{Place, Wanted};
use crate::engine::pack::{Batch, Group};
use crate::engine::read_out::Reads;
use crate::engine::{Engine, EngineError, Injection, Tokens, statistics};

/// Padded rows at once while the statistics are taken, whatever the token budget: evaluators must agree on them.
const STATISTICS_ROWS: usize = 4096;

/// The engine of one run on a device.
pub struct DeviceEngine {
    host: Engine,
    pub(super) backbone: Arc<DeviceBackbone>,
    /// The context's prompts, each `[n, hidden]`, or keys and values, `[n, 2 * keys * width]`.
    pub(super) deep: Vec<Tensor>,
    cache: Option<Cache>,
    plans: Kept,
}

/// Hidden states of the training examples at the input of one layer, the same for all its candidates.
pub(super) struct Cache {
    layer: usize,
    /// `[rows, hidden]`
    text: Tensor,
    /// In `add`, before the layer's prompt is added: `[examples * n, hidden]`, or `[n, hidden]` where it is shared.
    prompt: Option<Tensor>,
    /// Projections at the layer.
    known: Option<Known>,
}

impl DeviceEngine {
    /// From the run's engine on the processor, and the same model's weights on a device.
    ///
    /// # Errors
    /// The device's.
    pub fn new(host: Engine, backbone: Arc<DeviceBackbone>) -> Result<Self, EngineError> {
        let mut engine = Self { host, backbone, deep: Vec::new(), cache: None, plans: Kept::default() };
        engine.deep = engine.formed(&engine.host.initial_prompts())?;
        Ok(engine)
    }

    /// What is the same on every device: examples, classes, initial prompts, operations.
    pub fn host(&self) -> &Engine {
        &self.host
    }

    /// The same, to set its token budget.
    pub(crate) fn host_mut(&mut self) -> &mut Engine {
        &mut self.host
    }

    /// As [`Engine::set_prompt`].
    ///
    /// # Errors
    /// A layer or length that is not this engine's; the device's.
    pub fn set_prompt(&mut self, layer: usize, prompt: &[f32]) -> Result<(), EngineError> {
        self.host.check_prompt(layer, prompt)?;
        self.deep[layer] = self.form(layer, std::slice::from_ref(&prompt))?;
        if self.cache.as_ref().is_some_and(|cache| cache.layer > layer) {
            self.cache = None;
        }
        Ok(())
    }

    /// As [`Engine::evaluate`].
    ///
    /// # Errors
    /// A layer, prompt or range that is not this engine's; the device's.
    pub fn evaluate(
        &mut self,
        layer: usize,
        prompts: &[Vec<f32>],
        examples: Range<usize>,
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        self.host.check_population(layer, prompts, &examples)?;
        let cache = match self.cache.take() {
            Some(cache) if cache.layer <= layer => cache,
            _ => self.bottom()?,
        };
        let mut plans = std::mem::take(&mut self.plans);
        let cache = self.reach((cache, &mut plans), layer, &self.deep, self.limit())?;
        let cache = self.projected(cache)?;
        let logits = self.population((&cache, &mut plans), prompts, &examples);
        (self.plans, self.cache) = (plans, Some(cache));
        Ok(logits?)
    }

    /// The population, in parts whose prompts and whose rows to read are no more rows than the budget each: an upload waits
    /// for what is queued.
    fn population(
        &self,
        (cache, plans): (&Cache, &mut Kept),
        prompts: &[Vec<f32>],
        examples: &Range<usize>,
    ) -> candle_core::Result<Vec<Vec<f32>>> {
        let mut logits = vec![Vec::new(); prompts.len()];
        let rows = self.host.settings.prompt_tokens.max(examples.len());
        let held = (self.limit() / rows.max(1)).max(1);
        let groups = self.host.batch.grouped(self.cut(&self.host.batch, examples.clone(), self.limit()));
        for (prompts, logits) in prompts.chunks(held).zip(logits.chunks_mut(held)) {
            let own = self.brought(cache.layer, prompts)?;
            for group in &groups {
                self.group((cache, plans), group, &own, logits)?;
            }
        }
        Ok(logits)
    }

    /// A part of the population with some examples: all chunks are queued before the first is waited for.
    fn group(
        &self,
        (cache, plans): (&Cache, &mut Kept),
        group: &Group,
        own: &Brought,
        logits: &mut [Vec<f32>],
    ) -> candle_core::Result<()> {
        let batch = &self.host.batch;
        let padded = group.spans.len() * self.longest(batch, &group.examples);
        let most = (self.limit() / padded.max(1)).max(1);
        let even = logits.len().div_ceil(logits.len().div_ceil(most).max(1)).max(1);
        let (reads, transformed) = (self.host.head.reads(), self.host.head.transforms());
        let mut queued = Vec::new();
        for first in (0..logits.len()).step_by(even) {
            let count = even.min(logits.len() - first);
            let layout = self.layout(batch.place, &group.spans, count);
            let reading = Reading {
                reads,
                picks: &batch.picks[group.examples.clone()],
                given: batch.group_given(group, self.backbone.hidden),
                transformed,
            };
            let rows = own.prompts.dim(0)? / logits.len();
            let candidates = own.part(first * rows, count * rows)?;
            let under = Prompts { deep: &self.deep, candidates: Some(&candidates) };
            let plans = plans.of(Chunk { examples: group.examples.clone(), candidates: count });
            let start = cache.slice(batch, &group.examples)?;
            queued.push(self.backbone.run((layout, plans), start, under, reading)?);
        }
        for (logits, rows) in logits.chunks_mut(even).zip(queued) {
            let classified = self.classify(&rows)?;
            let each = (classified.len() / logits.len()).max(1);
            let parts = logits.iter_mut().zip(classified.chunks_exact(each));
            parts.for_each(|(logits, part)| logits.extend_from_slice(part));
        }
        Ok(())
    }

    /// As [`Engine::score`].
    ///
    /// # Errors
    /// An example that does not fit the model, or a prompt that does not fit this engine; the device's.
    pub fn score(&self, prompts: Option<&[Vec<f32>]>, examples: &[Tokens]) -> Result<Vec<f32>, EngineError> {
        let prompts = prompts.unwrap_or_default();
        let slots = self.host.check_deep(prompts, examples)?;
        let deep = self.formed(prompts)?;
        let spans = Batch::of_lengths(examples, slots.place());
        let mut logits = Vec::new();
        for group in self.cut(&spans, 0..examples.len(), self.limit()) {
            let batch = Batch::embed(&self.host.backbone, &self.host.head, &examples[group], &slots);
            let layout = self.layout(batch.place, &batch.spans, 1);
            let start = self.bottom_of(&batch, layout)?;
            let reading = Reading {
                reads: self.host.head.reads(),
                picks: &batch.picks,
                given: batch.all_given(),
                transformed: self.host.head.transforms(),
            };
            let start = Start { layer: 0, text: start.text, prompt: start.prompt, known: None };
            let under = Prompts { deep: &deep, candidates: None };
            logits.extend(self.classify(&self.backbone.run(
                (layout, &mut Plans::default()),
                start,
                under,
                reading,
            )?)?);
        }
        Ok(logits)
    }

    /// As [`Engine::layer_stds`].
    ///
    /// # Errors
    /// The device's.
    pub fn layer_stds(&self) -> Result<Vec<f32>, EngineError> {
        let (layers, hidden) = (self.host.backbone.layers(), self.backbone.hidden);
        let zero = match self.host.settings.injection {
            Injection::Add => {
                self.formed(&vec![vec![0.0; self.host.settings.prompt_tokens * hidden]; layers])?
            }
            Injection::Prefix => self.deep.clone(), // the initial prompts: nothing has been set yet
        };
        let mut stds = vec![statistics::table_std(&self.host.backbone.embeddings.word)];
        let (mut cache, mut plans) = (self.bottom()?, Kept::default());
        for layer in 1..layers {
            cache = self.reach((cache, &mut plans), layer, &zero, STATISTICS_ROWS)?;
            let prompt = cache.prompt.as_ref().map(numbers).transpose()?.unwrap_or_default();
            let times = if self.own() == Own::Shared { self.host.tokens.len() } else { 1 };
            stds.push(statistics::clipped_std(&numbers(&cache.text)?, &prompt.repeat(times)));
        }
        Ok(stds)
    }

    /// The cached context at the embeddings.
    pub(super) fn bottom(&self) -> candle_core::Result<Cache> {
        let batch = &self.host.batch;
        self.bottom_of(batch, self.layout(batch.place, &batch.spans, 1))
    }

    fn bottom_of(&self, batch: &Batch, layout: Layout<'_>) -> candle_core::Result<Cache> {
        let prompt = match layout.own {
            Own::Rows => batch.prompt.repeat(batch.spans.len()),
            Own::Shared => batch.prompt.clone(),
            Own::Prefix => Vec::new(),
        };
        let prompt = if prompt.is_empty() { None } else { Some(self.backbone.rows(&prompt)?) };
        Ok(Cache { layer: 0, text: self.backbone.rows(&batch.text)?, prompt, known: None })
    }

    /// Brings a cache to the input of `layer`, layer by layer under the prompts `deep`.
    fn reach(
        &self,
        (mut cache, plans): (Cache, &mut Kept),
        layer: usize,
        deep: &[Tensor],
        limit: usize,
    ) -> candle_core::Result<Cache> {
        let batch = &self.host.batch;
        let groups = batch.grouped(self.cut(batch, 0..batch.spans.len(), limit));
        while cache.layer < layer && !groups.is_empty() {
            let (mut texts, mut prompts) = (Vec::new(), Vec::new());
            for group in &groups {
                let layout = self.layout(batch.place, &group.spans, 1);
                let start = cache.slice(batch, &group.examples)?;
                let added = deep.get(cache.layer);
                let under = (&start.text, start.prompt.as_ref());
                let (rows, _) = self.backbone.entering(cache.layer, batch.place.rows, under, added)?;
                let prefix = added.filter(|_| layout.own == Own::Prefix);
                let input = Input { prefix, ..Input::of(&rows) };
                let plans = plans.of(Chunk { examples: group.examples.clone(), candidates: 1 });
                let plan = plans.of(Stage::Context, || layout.plan(Wanted::All, false))?;
                let rows = self.backbone.blocks[cache.layer].forward(input, plan, Next::default())?.stream;
                let (text, own) = (layout.text(), layout.prompt());
                texts.push(rows.narrow(0, 0, text)?);
                if own > 0 && (layout.own == Own::Rows || prompts.is_empty()) {
                    prompts.push(rows.narrow(0, text, own)?);
                }
            }
            let prompt = if prompts.is_empty() { None } else { Some(Tensor::cat(&prompts, 0)?) };
            cache = Cache { layer: cache.layer + 1, text: Tensor::cat(&texts, 0)?, prompt, known: None };
        }
        Ok(Cache { layer, ..cache })
    }

    /// With the projections of the rows at its layer that no candidate changes.
    fn projected(&self, cache: Cache) -> candle_core::Result<Cache> {
        if cache.known.is_some() || self.host.batch.rows() == 0 {
            return Ok(cache);
        }
        let batch = &self.host.batch;
        let text = batch.spans.iter().flat_map(|span| (0..span.len()).map(|row| batch.place.text(row)));
        let positions = super::look::index(&self.backbone.device, text)?;
        let block = &self.backbone.blocks[cache.layer];
        // nothing turns rows where projections are linear, so these need no positions of their own
        let prompt = cache.prompt.as_ref().filter(|_| self.shifts(cache.layer));
        let prompt = prompt.map(|rows| block.project(rows, &positions)).transpose()?;
        let known = Known { text: block.project(&cache.text, &positions)?, prompt };
        Ok(Cache { known: Some(known), ..cache })
    }

    /// Whether a candidate adds to its rows' projections at a layer what each example has of them.
    fn shifts(&self, layer: usize) -> bool {
        self.own() == Own::Rows && self.backbone.blocks[layer].is_linear()
    }

    /// What candidates bring to a layer.
    fn brought(&self, layer: usize, prompts: &[Vec<f32>]) -> candle_core::Result<Brought> {
        let prompts = self.form(layer, prompts)?;
        let blocks = &self.backbone.blocks;
        let asking = layer + 1 < blocks.len() || self.host.head.reads() == Reads::All;
        let shift = self.shifts(layer).then(|| blocks[layer].shift(&prompts, asking)).transpose()?;
        Ok(Brought { prompts, shift })
    }

    /// Consecutive examples of `range` in groups of at most `limit` rows, each example padded to the longest.
    pub(super) fn cut(&self, batch: &Batch, range: Range<usize>, limit: usize) -> Vec<Range<usize>> {
        let mut groups: Vec<Range<usize>> = Vec::new();
        for example in range {
            match groups.last_mut() {
                Some(group)
                    if self.longest(batch, &(group.start..example + 1)) * (example + 1 - group.start)
                        <= limit =>
                {
                    group.end = example + 1;
                }
                _ => groups.push(example..example + 1),
            }
        }
        groups
    }

    /// Keys of the longest example.
    pub(super) fn longest(&self, batch: &Batch, examples: &Range<usize>) -> usize {
        let longest = batch.spans[examples.clone()].iter().map(|span| span.len()).max();
        longest.unwrap_or(0) + batch.place.rows
    }

    pub(super) fn layout<'a>(
        &'a self,
        place: Place,
        spans: &'a [Range<usize>],
        candidates: usize,
    ) -> Layout<'a> {
        let (device, own) = (&self.backbone.device, self.own());
        Layout { device, candidates, spans, place, own, text_shared: true, prefix_each: false }
    }

    fn own(&self) -> Own {
        match self.host.settings.injection {
            Injection::Prefix => Own::Prefix,
            Injection::Add if self.host.backbone.is_causal() => Own::Shared,
            Injection::Add => Own::Rows,
        }
    }

    /// Prompts of one layer as its block takes them, one after the other.
    fn form(&self, layer: usize, prompts: &[impl AsRef<[f32]>]) -> candle_core::Result<Tensor> {
        let mut all = Vec::with_capacity(prompts.iter().map(|prompt| prompt.as_ref().len()).sum());
        prompts.iter().for_each(|prompt| all.extend_from_slice(prompt.as_ref()));
        let place = self.host.batch.place;
        self.backbone.form(layer, self.own(), place, &self.backbone.rows(&all)?)
    }

    /// A deep prompt, layer by layer.
    fn formed(&self, prompts: &[Vec<f32>]) -> candle_core::Result<Vec<Tensor>> {
        prompts.iter().enumerate().map(|(l, prompt)| self.form(l, std::slice::from_ref(prompt))).collect()
    }

    /// Logits from the rows that the head reads.
    fn classify(&self, rows: &Tensor) -> candle_core::Result<Vec<f32>> {
        Ok(self.host.head.classify(&numbers(rows)?, self.backbone.hidden))
    }

    fn limit(&self) -> usize {
        self.host.settings.max_batch_tokens.min(self.most_rows())
    }
}

impl Cache {
    /// A group's part.
    pub(super) fn slice(&self, batch: &Batch, group: &Range<usize>) -> candle_core::Result<Start> {
        let rows = batch.group_rows(group);
        let shared = batch.place.rows;
        let prompt = match &self.prompt {
            Some(prompt) if prompt.dim(0)? > shared => {
                Some(prompt.narrow(0, group.start * shared, group.len() * shared)?)
            }
            other => other.clone(),
        };
        let known = match &self.known {
            Some(known) => {
                let own = known.prompt.as_ref();
                let own = own.map(|own| own.part(group.start * shared, group.len() * shared)).transpose()?;
                Some(Known { text: known.text.part(rows.start, rows.len())?, prompt: own })
            }
            None => None,
        };
        let text = self.text.narrow(0, rows.start, rows.len())?;
        Ok(Start { layer: self.layer, text, prompt, known })
    }
}

fn numbers(tensor: &Tensor) -> candle_core::Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}
