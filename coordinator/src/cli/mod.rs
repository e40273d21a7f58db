//! The command line of `zeroth`.
#![allow(clippy::print_stdout, clippy::print_stderr)] // a command line speaks on both

mod bench;
mod client;
mod fetch;
mod model;
mod open;
mod predict;
mod report;
mod score;
mod serve;
mod show;
mod status;
mod submit;
mod tune;
mod watch;

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use shared::spec::Device;
use tokio::net::TcpListener;
use tracing_subscriber::EnvFilter;

use crate::error::Error;
use crate::serve::ServeOptions;

/// Tunes language models without gradients: BBTv2 and BBT over a fleet of evaluators.
#[derive(Debug, Parser)]
#[command(name = "zeroth", version, propagate_version = true)]
pub struct Cli {
    /// What to log: error, warn, info, debug, or a filter such as `coordinator=debug`; warn by default, info as JSON.
    #[arg(long, global = true, env = "ZEROTH_LOG", value_name = "LEVEL")]
    log: Option<String>,
    /// Log as JSON, one object a line; what a run does is then logged instead of shown.
    #[arg(long, global = true)]
    log_json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Tune a prompt as a run file says.
    Tune(tune::Args),
    /// Score a tuned prompt, or a run file's manual prompt, on labelled data.
    Score(score::Args),
    /// Classify texts with a tuned prompt, or with a run file's manual prompt.
    Predict(predict::Args),
    /// Stand ready for run files that clients hand in, and for evaluators; several runs are at work at once.
    Serve(serve::Args),
    /// Hand a run file to a standing coordinator.
    Submit(submit::Args),
    /// Show how far a run is, from its folder or from its coordinator.
    Status(status::Args),
    /// Follow a coordinator's runs and evaluators until the runs have ended.
    Watch(watch::Args),
    /// End a run of a coordinator, after a checkpoint.
    Cancel(client::CancelArgs),
    /// Fetch the tuned prompt of a coordinator's run.
    Fetch(fetch::Args),
    /// Look at a model, or fetch one from the hub.
    Model(model::Args),
    /// Measure what a candidate costs on this machine.
    Bench(bench::Args),
}

/// Where the model is, when it is not where the run was made.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ModelArgs {
    /// Folder, GGUF file or hub id of the model, instead of the one named in the run file or artefact.
    #[arg(long, value_name = "DIR|ID")]
    model: Option<String>,
    /// Where to compute: cpu, cuda, cuda:N or metal; what the run file says by default, or cpu.
    #[arg(long)]
    device: Option<Device>,
    /// Threads; 0 means all cores.
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

/// An artefact (or the run folder that holds one), or a run file.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SourceArgs {
    /// `prompt.safetensors` or the run folder that holds it: the tuned prompt. A run file: its manual prompt.
    #[arg(value_name = "ARTEFACT|RUN.toml")]
    source: PathBuf,
    /// Override a key of the run file, as in `tune`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Threads of the runtime: for one run it only moves messages; several searches are at work beside each other.
fn threads(command: &Command) -> usize {
    match command {
        Command::Serve(_) => std::thread::available_parallelism().map_or(2, usize::from).max(2),
        _ => 2,
    }
}

/// Runs a command to its end.
///
/// # Errors
/// What [`Error::exit_code`] turns into the process's exit code.
pub fn run(cli: Cli) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads(&cli.command))
        .enable_all()
        .build()
        .map_err(Error::failed)?;
    let ended = runtime.block_on(async {
        let stop = stop_on_signal()?;
        match cli.command {
            Command::Tune(args) => tune::run(args, cli.log_json, stop).await,
            Command::Score(args) => score::run(args).await,
            Command::Predict(args) => predict::run(args).await,
            Command::Serve(args) => serve::run(args, stop).await,
            Command::Submit(args) => submit::run(args).await,
            Command::Status(args) => status::run(args).await,
            Command::Watch(args) => watch::run(args).await,
            Command::Cancel(args) => client::cancel(args).await,
            Command::Fetch(args) => fetch::run(args).await,
            Command::Model(args) => model::run(&args),
            Command::Bench(args) => bench::run(args, stop).await,
        }
    });
    runtime.shutdown_background(); // the compute thread may be in the middle of a lease nobody waits for
    ended
}

/// Sets up logging, to stderr.
pub fn log(cli: &Cli) {
    let usual = if cli.log_json { "info" } else { "warn" };
    let filter =
        EnvFilter::try_new(cli.log.as_deref().unwrap_or(usual)).unwrap_or_else(|_| EnvFilter::new(usual));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal()) // a log file wants no colours
        .with_writer(std::io::stderr);
    if cli.log_json { builder.json().flatten_event(true).init() } else { builder.with_target(false).init() }
}

/// Says why the command ended, in one line.
pub fn complain(error: &Error) {
    eprintln!("error: {}", error.to_string().replace('\n', " "));
}

/// Listens for evaluators and clients, and says where.
async fn listen(address: SocketAddr, options: &ServeOptions) -> Result<TcpListener, Error> {
    let listener = TcpListener::bind(address).await.map_err(|error| {
        Error::Input(format!("--listen {address}: {error}; choose a free address or port 0"))
    })?;
    let bound = listener.local_addr().map_err(Error::failed)?;
    let url = options.url(bound);
    eprintln!("listening on {bound}; start evaluators with: zeroth-evaluator --coordinator {url}");
    Ok(listener)
}

/// Turns true at the first SIGINT or SIGTERM; a second one ends the process at once.
fn stop_on_signal() -> Result<tokio::sync::watch::Receiver<bool>, Error> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::failed)?;
    let (sender, receiver) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        for attempt in 0.. {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if attempt > 0 {
                std::process::exit(130);
            }
            sender.send_replace(true);
        }
    });
    Ok(receiver)
}
