//! The timed sweeps of one engine.

use std::sync::Arc;
use std::time::Instant;

use rayon::{ThreadPool, ThreadPoolBuilder};
use shared::spec::Dtype;
use shared::task::Loss;

use super::agree::Losses;
use super::model::Source;
use super::peaks::{Peaks, median};
use super::{BenchError, Host, Plan, Row};
use crate::backbone::Backbone;
use crate::device::{self, DeviceBackbone, DeviceError};
use crate::engine::{Engine, EngineError, Injection, Settings};
use crate::runner::Runner;
use crate::session::HELD;

/// What came of it.
pub(super) struct Timed {
    pub(super) row: Row,
    pub(super) losses: Losses,
}

/// One engine under the clock.
struct Bench<'a> {
    source: &'a Source,
    plan: &'a Plan,
    injection: Injection,
    backbone: Arc<Backbone>,
    on_device: Option<Arc<DeviceBackbone>>,
    runner: Runner,
}

/// One sweep: seconds a candidate at each layer, and what the candidates came to.
#[derive(Default)]
struct Sweep {
    seconds: Vec<f64>,
    losses: Losses,
    /// The first candidate's at each layer.
    logits: Vec<Vec<f32>>,
}

/// Times `plan.repeats` sweeps, after a little work to warm up.
pub(super) fn of(
    (source, host): (&Source, &Host),
    plan: &Plan,
    injection: Injection,
    dtype: Dtype,
) -> Result<Timed, BenchError> {
    let pool = ThreadPoolBuilder::new().num_threads(plan.threads).build()?;
    let mut bench = Bench::new((source, host), plan, injection, (dtype, Arc::new(pool)))?;
    bench.warm_up()?;
    memory::reset();
    let (mut peaks, mut sweeps) = (Peaks::default(), Vec::new());
    for _ in 0..plan.repeats {
        sweeps.push(bench.sweep(dtype, &mut peaks)?);
    }
    Ok(bench.told(dtype, &peaks, sweeps))
}

impl<'a> Bench<'a> {
    fn new(
        (source, host): (&'a Source, &Host),
        plan: &'a Plan,
        injection: Injection,
        (dtype, pool): (Dtype, Arc<ThreadPool>),
    ) -> Result<Self, BenchError> {
        let device = plan.device;
        let opened = device::open(device, dtype)?;
        let backbone = match (&opened, host.get()) {
            (Some(_), Some(known)) => Arc::clone(known),
            (Some(_), None) => {
                let loaded = Arc::new(source.backbone(Dtype::F32)?);
                Arc::clone(host.get_or_init(|| loaded))
            }
            (None, _) => Arc::new(source.backbone(dtype)?),
        };
        let upload = |(opened, narrow)| DeviceBackbone::of(&backbone, &opened, narrow);
        let on_device =
            opened.map(upload).transpose().map_err(|error| DeviceError::upload(device, &error))?;
        let on_device = on_device.map(Arc::new);
        let parts = source.parts(plan);
        let settings = Settings {
            injection,
            prompt_tokens: plan.prompt_tokens,
            initial_ids: Some(parts.initial_ids),
            around: parts.around,
            read_out: parts.read_out.ready(&backbone)?,
            max_batch_tokens: plan.max_batch_tokens,
            pool,
        };
        let engine = Engine::new(Arc::clone(&backbone), settings, parts.train)?;
        let runner = Runner::of(engine, on_device.as_ref())?;
        Ok(Self { source, plan, injection, backbone, on_device, runner })
    }

    /// Brings weights and buffers into memory: a few candidates at the bottom.
    fn warm_up(&mut self) -> Result<(), BenchError> {
        let few = 0..self.plan.population.min(self.runner.host().threads());
        let prompts = self.source.candidates(self.plan, self.injection, (0, few), self.backbone.hidden());
        self.runner.evaluate(0, &prompts, 0..self.plan.examples)?;
        Ok(())
    }

    /// A population at every layer, bottom to top; peaks are taken after each.
    fn sweep(&mut self, dtype: Dtype, peaks: &mut Peaks) -> Result<Sweep, BenchError> {
        let mut sweep = Sweep::default();
        let hidden = self.backbone.hidden();
        for layer in 0..self.backbone.layers() {
            let incumbent = self.source.context(self.plan, self.injection, layer, hidden);
            self.runner.set_prompt(layer, &incumbent)?;
        }
        for layer in 0..self.backbone.layers() {
            let (seconds, logits) = self.population(layer)?;
            sweep.seconds.push(seconds / self.plan.population as f64);
            sweep.losses.push(logits.iter().map(|logits| self.losses(logits)).collect());
            sweep.logits.extend(logits.into_iter().next());
            match &self.on_device {
                Some(backbone) => peaks.take_on_device(backbone).map_err(EngineError::from)?,
                None => peaks.take(self.runner.host().pool(), dtype, &self.backbone),
            }
        }
        Ok(sweep)
    }

    /// Seconds of one layer's population, and its logits.
    fn population(&mut self, layer: usize) -> Result<(f64, Vec<Vec<f32>>), BenchError> {
        let (mut seconds, mut logits) = (0.0, Vec::with_capacity(self.plan.population));
        for first in (0..self.plan.population).step_by(HELD) {
            let range = first..self.plan.population.min(first + HELD);
            let prompts =
                self.source.candidates(self.plan, self.injection, (layer, range), self.backbone.hidden());
            let began = Instant::now(); // moving the cached context up is part of the work
            logits.extend(self.runner.evaluate(layer, &prompts, 0..self.plan.examples)?);
            seconds += began.elapsed().as_secs_f64();
        }
        Ok((seconds, logits))
    }

    /// Each example's loss; labels go round the classes.
    fn losses(&self, logits: &[f32]) -> Vec<f32> {
        let classes = self.runner.host().classes();
        let rows = logits.chunks_exact(classes.max(1)).enumerate();
        rows.map(|(example, row)| Loss::Ce.of(row, (example % classes) as u32)).collect()
    }

    /// Floating-point operations a candidate needs, on average over the layers.
    fn flop_per_call(&self) -> f64 {
        let layers = self.backbone.layers();
        let population = self.plan.population as f64;
        let of =
            |layer| self.runner.host().flops(layer) + self.runner.host().context_flops(layer) / population;
        (0..layers).map(of).sum::<f64>() / layers as f64
    }

    /// Where the work was done: a GPU's name beside the one that the run file has for it.
    fn device(&self) -> String {
        let device = self.plan.device.to_string();
        match self.on_device.as_ref().and_then(|backbone| backbone.name()) {
            Some(name) => format!("{device} ({name})"),
            None => device,
        }
    }

    fn told(&self, dtype: Dtype, peaks: &Peaks, mut sweeps: Vec<Sweep>) -> Timed {
        let mean = |sweep: &Sweep| sweep.seconds.iter().sum::<f64>() / sweep.seconds.len() as f64;
        let means: Vec<f64> = sweeps.iter().map(mean).collect();
        let seconds = median(&means).unwrap_or_default();
        let at = |layer: usize| {
            let of_layer: Vec<f64> = sweeps.iter().map(|sweep| sweep.seconds[layer]).collect();
            median(&of_layer).unwrap_or_default()
        };
        let layer_seconds = (0..self.backbone.layers()).map(at).collect();
        let flop_per_call = self.flop_per_call();
        let flops = flop_per_call / seconds;
        let (instruction_peak, gemm_peak) = (peaks.instruction(), peaks.gemm());
        let last = sweeps.pop().unwrap_or_default();
        let row = Row {
            shape: self.source.name(),
            injection: self.injection.to_string(),
            dtype: dtype.to_string(),
            device: self.device(),
            examples: self.plan.examples,
            text_rows: self.runner.host().train().iter().map(|tokens| tokens.ids.len()).sum(),
            prompt_tokens: self.plan.prompt_tokens,
            population: self.plan.population,
            repeats: self.plan.repeats,
            threads: self.runner.host().threads(),
            max_batch_tokens: self.plan.max_batch_tokens,
            seconds,
            layer_seconds,
            flop_per_call,
            flops,
            instruction_peak,
            gemm_peak,
            share_of_instruction_peak: instruction_peak.map(|peak| flops / peak),
            share_of_gemm_peak: flops / gemm_peak,
            peak_memory_bytes: memory::peak(),
            agreement: None,
            logits: matches!(self.source, Source::Work(_)).then_some(last.logits),
        };
        Timed { row, losses: last.losses }
    }
}

/// What the process holds at most, where the system is Linux.
mod memory {
    /// Begins anew, as far as the system lets us.
    pub(super) fn reset() {
        let _ = std::fs::write("/proc/self/clear_refs", "5"); // a mark only: without it the peak is the process's whole
    }

    /// Bytes held at most since then.
    pub(super) fn peak() -> Option<u64> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(1024 * kib)
    }
}
