//! What an evaluator is given by its user, the same for every run: threads, and limits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use shared::messages::Refusal;
use shared::spec::BatchTokens;
use tracing::{info, warn};

use crate::device::DeviceEngine;
use crate::engine::{self, Engine};
use crate::limits::{Allowed, Limits};
use crate::memory::{Footprint, Kept, TASK_CHOICES};
use crate::runner::Runner;

/// Threads and limits.
#[derive(Clone, Debug)]
pub struct Resources {
    /// The compute pool.
    pub pool: Arc<ThreadPool>,
    /// What may be kept.
    pub limits: Limits,
    /// Rows of a task beyond which this machine is no faster with this model, or rows in flight beyond which its device
    /// is not: measured once.
    fastest: Arc<OnceLock<usize>>,
    /// Bytes that the runs prepared here take beside what they share.
    taken: Arc<AtomicU64>,
}

/// What one run takes of them, until it is dropped.
pub(crate) struct Taken {
    bytes: u64,
    of: Arc<AtomicU64>,
}

impl Taken {
    fn new(bytes: u64, of: &Arc<AtomicU64>) -> Self {
        of.fetch_add(bytes, Ordering::Relaxed);
        Self { bytes, of: Arc::clone(of) }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.of.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Resources {
    /// A pool of `threads` named threads; 0 means all cores.
    ///
    /// # Errors
    /// When the operating system gives no threads.
    pub fn new(threads: usize, limits: Limits) -> Result<Self, ThreadPoolBuildError> {
        let builder =
            ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("zeroth-engine-{i}"));
        Ok(Self { pool: Arc::new(builder.build()?), limits, fastest: Arc::default(), taken: Arc::default() })
    }

    /// Rows in flight at most, whatever is measured.
    pub fn max_batch_tokens(&self) -> u32 {
        match self.limits.max_batch_tokens {
            BatchTokens::Rows(rows) => rows,
            BatchTokens::Auto => (engine::TASK_ROWS * self.pool.current_num_threads()) as u32,
        }
    }

    /// Decides what a run keeps here beside those that are here already, and sets its engine's token budget.
    ///
    /// # Errors
    /// A refusal, where what is allowed was stated and is less than the least that the run takes.
    pub(crate) fn settle(
        &self,
        footprint: &Footprint,
        runner: &mut Runner,
    ) -> Result<(Kept, Taken), Refusal> {
        let limit = self.limits.bytes();
        let others = self.taken.load(Ordering::Relaxed);
        let limits = Limits { beside: self.limits.beside + others, ..self.limits };
        let mut kept = footprint.within(&limits, limit);
        let mib = |bytes: u64| format!("{} MiB", bytes.div_ceil(1 << 20));
        if kept.bytes > limit {
            let of_others =
                if others > 0 { format!(", {} of them other runs'", mib(others)) } else { String::new() };
            let problem = |key: &str| {
                format!("{key} allows {}, but this run takes {}{of_others}", mib(limit), mib(kept.bytes))
            };
            match self.limits.memory {
                Allowed::Machine => warn!("{}", problem("what the machine has left")),
                Allowed::RunFile(_) => return Err(Refusal::Input(problem("run.memory") + "; raise it")),
                Allowed::Here(_) => return Err(Refusal::Failed(problem("--memory") + "; raise it")),
            }
        }
        kept.max_batch_tokens = match (&*runner, self.limits.max_batch_tokens) {
            (Runner::Device(engine), _) => self.rows_on_device(engine, kept.max_batch_tokens),
            (Runner::Processor(engine), BatchTokens::Auto) => {
                let threads = self.pool.current_num_threads();
                let most = kept.max_batch_tokens as usize / threads.max(1);
                let rows = self.fastest_rows(engine, most).unwrap_or(most).min(most);
                (rows * threads) as u32
            }
            (Runner::Processor(_), BatchTokens::Rows(rows)) => rows,
        };
        runner.host_mut().limit(kept.max_batch_tokens as usize);
        info!(
            "{} rows in flight at most, projections {}, {} in all of {} allowed",
            kept.max_batch_tokens,
            kept.keep,
            mib(footprint.total(kept.max_batch_tokens, kept.keep) + limits.beside),
            mib(limit)
        );
        let taken = Taken::new(footprint.own(kept.max_batch_tokens, kept.keep), &self.taken);
        Ok((kept, taken))
    }

    /// Rows in flight on a device: those asked for, as far as it can count them, or what its own measure says.
    fn rows_on_device(&self, engine: &DeviceEngine, asked: u32) -> u32 {
        if self.limits.max_batch_tokens == BatchTokens::Auto {
            let found = self.fastest.get().copied().or_else(|| engine.fastest_rows());
            return found.map_or(asked, |rows| *self.fastest.get_or_init(|| rows) as u32);
        }
        let most = engine.most_rows().try_into().unwrap_or(u32::MAX);
        if asked > most {
            warn!(
                "max_batch_tokens = {asked} is more than this device's kernels count with this model; {most} are taken"
            );
        }
        asked.min(most)
    }

    /// Measures at the first run that has examples, with `most` rows a task at most; later runs take what was found then.
    fn fastest_rows(&self, engine: &Engine, most: usize) -> Option<usize> {
        if let Some(&rows) = self.fastest.get() {
            return Some(rows);
        }
        let choices: Vec<usize> = TASK_CHOICES.into_iter().filter(|&rows| rows <= most).collect();
        let rows = engine.fastest_rows(&choices)?;
        Some(*self.fastest.get_or_init(|| rows))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use candle_core::{DType, Device};
    use shared::ids::RunId;
    use shared::messages::Prepare;
    use shared::spec::{Init, Injection, ProjectionKind, ReadOut};
    use shared::task::{Example, Loss};

    use super::*;
    use crate::backbone::Dtype;
    use crate::device::DeviceBackbone;
    use crate::model::Model;
    use crate::session::Session;

    fn prepare(texts: &[&str]) -> Prepare {
        let example = |(line, text): (u32, &&str)| Example {
            text: (*text).to_owned(),
            text_pair: None,
            label: 0,
            line,
        };
        Prepare {
            run: RunId(1),
            read_out: ReadOut::MaskedLm,
            temperature: 1.0,
            template: "{text} {mask}".to_owned(),
            words: vec!["a".to_owned(), "b".to_owned()],
            injection: Injection::Add,
            tokens: 2,
            init: Init::Vocabulary,
            loss: Loss::Ce,
            projection: ProjectionKind::Normal,
            dim: 3,
            seed: 1,
            train: (1..).zip(texts).map(example).collect(),
            dev: Vec::new(),
        }
    }

    #[test]
    fn rows_in_flight_on_a_device_are_what_was_measured_there_at_the_first_run() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models/bert-tiny");
        let model = Model::load(folder.to_str().unwrap(), Path::new(""), None, Dtype::F32).unwrap();
        let weights = DeviceBackbone::of(&model.backbone, &Device::Cpu, DType::F32).unwrap();
        let model = Arc::new(Model { on_device: Some(Arc::new(weights)), ..model });
        let resources =
            |max_batch_tokens| Resources::new(1, Limits { max_batch_tokens, ..Limits::default() }).unwrap();
        let rows = |resources: &Resources, texts: &[&str]| {
            Session::prepare(&model, resources, prepare(texts)).unwrap().0.max_batch_tokens()
        };
        let auto = resources(BatchTokens::Auto);
        assert_eq!(rows(&auto, &[]), engine::TASK_ROWS as u32, "nothing to measure with");
        assert_eq!(auto.fastest.get(), None);
        let found = rows(&auto, &["a b c", "no", "d e f g h"]);
        assert!(found >= 4096, "{found} is the processor's");
        assert_eq!(auto.fastest.get(), Some(&(found as usize)));
        let later = Resources { fastest: Arc::new(OnceLock::from(12_345)), ..auto };
        assert_eq!(rows(&later, &["a b c"]), 12_345, "a later run measures nothing");
        // what is asked for is taken, as far as it can be counted
        assert_eq!(rows(&resources(BatchTokens::Rows(300)), &["a b c"]), 300);
        let most = rows(&resources(BatchTokens::Rows(u32::MAX)), &["a b c"]);
        assert!(most < i32::MAX as u32 / model.backbone.hidden() as u32, "{most} rows");
    }
}
