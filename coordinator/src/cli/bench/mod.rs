//! `zeroth bench`: measures parts of the program on this machine.

mod cma;
#[cfg(feature = "embedded")]
mod engine;
mod fleet;
#[cfg(feature = "embedded")]
mod saved;
#[cfg(feature = "embedded")]
mod table;

use std::path::PathBuf;

use tokio::sync::watch;

use crate::error::Error;

/// Options of `zeroth bench`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// What a candidate costs, and how near that is to what the processor can do (docs/engine.md).
    Evaluator(Evaluator),
    /// What the coordinator adds to its evaluators' own time: a fleet of simulated ones over real gRPC.
    Fleet(fleet::Args),
    /// What the optimiser takes of a generation's time; or the optimiser itself, for another program (docs/cma.md).
    Cma(cma::Args),
}

/// Options of `zeroth bench evaluator`.
#[derive(Debug, clap::Args)]
struct Evaluator {
    /// Shape to time with random weights, may be given several times: bert-tiny, minilm, roberta-base, roberta-large,
    /// gpt2-large, t5-large, llama-1b. [default: roberta-base]
    #[arg(long, value_name = "SHAPE")]
    shape: Vec<String>,
    /// A real model instead: folder, GGUF file or hub id.
    #[arg(long, value_name = "PATH|ID", conflicts_with = "shape")]
    model: Option<String>,
    /// A folder of scripts/bench-peers instead: its model, examples, prompts and threads.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["shape", "model"], hide = true)]
    work: Option<PathBuf>,
    /// add or prefix, may be given several times. [default: both]
    #[arg(long, value_name = "INJECTION")]
    injection: Vec<String>,
    /// f32, bf16, f16 (GPUs) or int8 (processors), may be given several times. [default: f32]
    #[arg(long, value_name = "TYPE")]
    dtype: Vec<String>,
    /// cpu, cuda, cuda:N or metal.
    #[arg(long, default_value = "cpu")]
    device: shared::spec::Device,
    /// Training examples, as long as SST-2's.
    #[arg(long, value_name = "N", default_value_t = 32)]
    examples: usize,
    /// Prompt tokens a layer.
    #[arg(long, value_name = "N", default_value_t = 50)]
    prompt_tokens: usize,
    /// Candidates at each layer.
    #[arg(long, value_name = "N", default_value_t = 20)]
    population: usize,
    /// Sweeps over all layers; medians are shown.
    #[arg(long, value_name = "N", default_value_t = 5)]
    repeats: usize,
    /// Threads; 0 means all cores.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Rows in flight at most, over all threads.
    #[arg(long, value_name = "N", default_value_t = shared::spec::DEFAULT_MAX_BATCH_TOKENS)]
    max_batch_tokens: usize,
    /// Print one JSON object a line instead of a table.
    #[arg(long)]
    json: bool,
    /// Where results are kept, to be compared with the next run's. [default: zeroth/bench.jsonl in the user's cache]
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
}

/// Runs `zeroth bench`.
pub(super) async fn run(args: Args, stop: watch::Receiver<bool>) -> Result<(), Error> {
    match args.command {
        Command::Evaluator(args) => evaluator(args, stop).await,
        Command::Fleet(args) => fleet::run(args, stop).await,
        Command::Cma(args) => cma::run(args, stop).await,
    }
}

/// On a thread of its own, so that a signal ends it.
#[cfg(feature = "embedded")]
async fn evaluator(args: Evaluator, mut stop: watch::Receiver<bool>) -> Result<(), Error> {
    let work = tokio::task::spawn_blocking(move || engine::run(&args));
    tokio::select! {
        ended = work => ended.map_err(Error::failed)?,
        _ = stop.changed() => Err(Error::Interrupted("what was shown is saved".to_owned())),
    }
}

#[cfg(not(feature = "embedded"))]
async fn evaluator(_: Evaluator, _: watch::Receiver<bool>) -> Result<(), Error> {
    Err(Error::Input("this zeroth was built without an evaluator, which bench evaluator needs".to_owned()))
}
