//! `zeroth-evaluator`: loads a model, dials a coordinator, answers until it is told to leave.
#![allow(clippy::print_stderr)] // a command line speaks

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use evaluator::backbone::Dtype;
use evaluator::dial::{self, DialOptions};
use evaluator::fetch::{self, FetchError};
use evaluator::limits::{Allowed, Limits};
use evaluator::model::{LoadError, Model};
use evaluator::observe::{Observer, Window};
use evaluator::resources::Resources;
use evaluator::worker::{HEARTBEAT, Worker};
use proto::client::{Files, Security};
use proto::observe::Args;
use shared::messages::Hello;
use shared::spec::{BatchTokens, Bytes, Device, KeepProjections};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;
use tracing_subscriber::EnvFilter;

/// Evaluates populations for a coordinator, with a replica of the model in this process.
#[derive(Debug, Parser)]
#[command(name = "zeroth-evaluator", version)]
struct Cli {
    /// The coordinator's address, `http://HOST:PORT` or `https://HOST:PORT`.
    #[arg(long, env = "ZEROTH_COORDINATOR", value_name = "URL", required_unless_present = "fetch_only")]
    coordinator: Option<String>,
    /// Folder, GGUF file or hub id of the model; it must be the run's.
    #[arg(long, env = "ZEROTH_MODEL", value_name = "DIR|ID")]
    model: String,
    /// Revision, when the model comes from the hub.
    #[arg(long, env = "ZEROTH_REVISION")]
    revision: Option<String>,
    /// Bring the model here (a hub id into the hub's cache), and end: for a volume that evaluators share.
    #[arg(long)]
    fetch_only: bool,
    /// Where the model is not there yet, wait until another process has brought it.
    #[arg(long)]
    wait_for_model: bool,
    /// What the blocks' linear layers are computed in, f32, bf16, int8, or on a GPU f16; it must be the run's model.dtype.
    #[arg(long, env = "ZEROTH_DTYPE", value_name = "TYPE", default_value_t)]
    dtype: Dtype,
    /// Where to compute: cpu, cuda, cuda:N or metal; a GPU needs a build for it.
    #[arg(long, env = "ZEROTH_DEVICE", default_value_t)]
    device: Device,
    /// Threads; 0 means all cores.
    #[arg(long, env = "ZEROTH_THREADS", default_value_t = 0)]
    threads: usize,
    /// Rows (real tokens) in flight at most, over all threads: bounds the memory beside the weights; `auto` takes as
    /// many as fit into the memory allowed and make it faster.
    #[arg(long, env = "ZEROTH_MAX_BATCH_TOKENS", value_name = "N|auto",
        default_value_t = BatchTokens::default())]
    max_batch_tokens: BatchTokens,
    /// Memory that this process may take, such as 4GiB; by default what its control group and the machine leave. A run
    /// that does not fit is refused here.
    #[arg(long, env = "ZEROTH_MEMORY", value_name = "SIZE")]
    memory: Option<Bytes>,
    /// Projections: kept in `memory`, made anew for each piece of work (`regenerate`), or `auto`: kept while they fit.
    #[arg(long, env = "ZEROTH_PROJECTIONS", value_name = "POLICY", default_value_t = KeepProjections::Auto)]
    projections: KeepProjections,
    /// A name to be known by; host name and process id by default.
    #[arg(long, env = "ZEROTH_NAME")]
    name: Option<String>,
    /// Stop with exit code 1 when no coordinator answers for so many seconds; by default it tries for ever.
    #[arg(long, value_name = "SECONDS")]
    give_up_after: Option<u64>,
    /// A coordinator that says nothing for so many seconds is dead, and dialled anew; give both sides about the same.
    #[arg(long, env = "ZEROTH_SILENCE", value_name = "SECONDS", default_value_t = 20,
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    silence: u64,
    /// Pauses between two attempts to reach the coordinator grow up to so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    longest_pause: u64,
    /// Exit code after SIGTERM or SIGINT: one that whoever starts evaluators can tell from a run that is done.
    #[arg(long, env = "ZEROTH_STOPPED_CODE", value_name = "CODE", default_value_t = 0)]
    stopped_code: u8,
    #[command(flatten)]
    security: Files,
    #[command(flatten)]
    observe: Args,
    /// What to log: error, warn, info, debug, or a filter such as `evaluator=debug`.
    #[arg(long, env = "ZEROTH_LOG", default_value = "info")]
    log: String,
    /// Log as JSON, one object a line.
    #[arg(long)]
    log_json: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    log(&cli);
    match run(cli) {
        Ok(Done::Finished) => ExitCode::SUCCESS,
        Ok(Done::Stopped { code }) => ExitCode::from(code),
        Err(Ended::Input(text)) => {
            eprintln!("error: {}", text.replace('\n', " "));
            ExitCode::from(2)
        }
        Err(Ended::Failed(text)) => {
            eprintln!("error: {}", text.replace('\n', " "));
            ExitCode::from(1)
        }
    }
}

/// How the process ends when all went well.
enum Done {
    /// There is nothing more to do.
    Finished,
    /// A signal came first; the exit code that was asked for then.
    Stopped { code: u8 },
}

/// Why the process ends early.
enum Ended {
    /// The user can mend it: exit code 2.
    Input(String),
    /// Anything else: exit code 1.
    Failed(String),
}

fn run(cli: Cli) -> Result<Done, Ended> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2) // it only moves messages
        .enable_all()
        .build()
        .map_err(failed)?;
    let ended = runtime.block_on(work(cli));
    runtime.shutdown_background(); // the compute thread may be in the middle of a lease nobody waits for
    ended
}

fn failed(error: impl std::fmt::Display) -> Ended {
    Ended::Failed(error.to_string())
}

async fn work(cli: Cli) -> Result<Done, Ended> {
    let window = Window::open(&cli.observe).map_err(|error| Ended::Input(error.to_string()))?;
    let beat = window.observer().begin();
    let ended = tokio::select! {
        ended = evaluate(cli, window.observer()) => ended,
        never = beat.keep() => match never {},
    };
    window.close().await;
    ended
}

async fn evaluate(cli: Cli, observer: &Observer) -> Result<Done, Ended> {
    let mut stop = pin!(stopped().map_err(failed)?);
    let stopped = Done::Stopped { code: cli.stopped_code };
    let _located = tokio::select! {
        fetched = fetch::fetch(&cli.model, cli.revision.as_deref(), cli.wait_for_model) => fetched.map_err(absent)?,
        () = stop.as_mut() => return Ok(stopped),
    };
    if cli.fetch_only {
        return Ok(Done::Finished);
    }
    let limits = Limits {
        max_batch_tokens: cli.max_batch_tokens,
        projections: cli.projections,
        memory: cli.memory.map_or(Allowed::Machine, Allowed::Here),
        beside: 0,
    };
    let resources = Resources::new(cli.threads, limits).map_err(failed)?;
    let (device, dtype, path, revision) = (cli.device, cli.dtype, cli.model.clone(), cli.revision.clone());
    let began = Instant::now();
    let load = move || Model::load_on(device, &path, Path::new(""), revision.as_deref(), dtype);
    let model = tokio::select! {
        loaded = spawn_blocking(load) => loaded.map_err(failed)?.map_err(unusable)?,
        () = stop.as_mut() => return Ok(stopped), // a large model takes its time, and nobody waits for it any more
    };
    let hello = hello(&cli, &model, resources.max_batch_tokens());
    observer.loaded(&hello, began.elapsed());
    let security = Security::read(&cli.security).map_err(Ended::Input)?;
    let silence = Duration::from_secs(cli.silence);
    let options = DialOptions {
        url: cli.coordinator.unwrap_or_default(), // clap asks for it unless --fetch-only
        security,
        hello,
        silence,
        longest_pause: Duration::from_secs(cli.longest_pause),
        give_up_after: cli.give_up_after.map(Duration::from_secs),
        observer: observer.clone(),
    };
    let heartbeat = HEARTBEAT.min(silence / 4);
    let worker = Worker { model: Arc::new(model), resources, heartbeat, observer: observer.clone() };
    let start = |orders, reports| tokio::spawn(worker.clone().run(orders, reports));
    let told = AtomicBool::new(false);
    let stop = async {
        stop.await;
        told.store(true, Ordering::Relaxed);
    };
    let ended = dial::run(options, start, stop).await;
    ended.map_err(
        |error| if error.of_configuration() { Ended::Input(error.to_string()) } else { failed(error) },
    )?;
    Ok(if told.into_inner() { stopped } else { Done::Finished })
}

fn absent(error: FetchError) -> Ended {
    match error {
        FetchError::Locate(error) => unusable(error.into()),
        FetchError::Look(error) => failed(error),
    }
}

/// What may pass, a hub that does not answer say, is no mistake of the user's.
fn unusable(error: LoadError) -> Ended {
    if error.may_pass() { failed(error) } else { Ended::Input(error.to_string()) }
}

/// Ends at the first SIGINT or SIGTERM: unanswered leases go back to the coordinator.
fn stopped() -> std::io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

fn hello(cli: &Cli, model: &Model, max_batch_tokens: u32) -> Hello {
    Hello {
        protocol: proto::PROTOCOL_VERSION,
        name: cli.name.clone().unwrap_or_else(default_name),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        model: model.identity.clone(),
        device: cli.device.to_string(),
        dtype: model.dtype.to_string(),
        max_batch_tokens,
    }
}

fn default_name() -> String {
    let host = std::fs::read_to_string(PathBuf::from("/proc/sys/kernel/hostname")).unwrap_or_default();
    let host = host.trim();
    format!("{}-{}", if host.is_empty() { "evaluator" } else { host }, std::process::id())
}

fn log(cli: &Cli) {
    let filter = EnvFilter::try_new(&cli.log).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal()) // a log file wants no colours
        .with_writer(std::io::stderr);
    if cli.log_json { builder.json().flatten_event(true).init() } else { builder.with_target(false).init() }
}
