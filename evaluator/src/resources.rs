//! What an evaluator is given by its user, the same for every run: threads, and limits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use shared::messages::Refusal;
use shared::spec::BatchTokens;
use tracing::{info, warn};

use crate::engine::{self, Engine};
use crate::limits::{Allowed, Limits};
use crate::memory::{Footprint, Kept, TASK_CHOICES};

/// Threads and limits.
#[derive(Clone, Debug)]
pub struct Resources {
    /// The compute pool.
    pub pool: Arc<ThreadPool>,
    /// What may be kept.
    pub limits: Limits,
    /// Rows of a task beyond which this machine is no faster with this model: measured once.
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
        engine: &mut Engine,
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
        if self.limits.max_batch_tokens == BatchTokens::Auto {
            let threads = self.pool.current_num_threads();
            let most = kept.max_batch_tokens as usize / threads.max(1);
            let rows = self.fastest_rows(engine, most).unwrap_or(most).min(most);
            kept.max_batch_tokens = (rows * threads) as u32;
        }
        engine.limit(kept.max_batch_tokens as usize);
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
