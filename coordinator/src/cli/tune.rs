//! `zeroth tune RUN.toml`: the main job.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;
use shared::ids::{ContextVersion, Layer, RunId};
use shared::messages::{ModelIdentity, Start};
use shared::spec::RunFile;
use shared::system::peak_memory;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{Instrument, error_span};

use super::{listen, report};
use crate::checkpoint::Checkpoint;
use crate::error::Error;
use crate::fleet::{self, Fleet, Handle};
use crate::folder::RunFolder;
use crate::inputs::Inputs;
use crate::model;
use crate::observe::{Observer, Window};
use crate::progress::Progress;
use crate::run::{self, Origin, Summary};
use crate::search;
use crate::serve::clients::Clients;
use crate::serve::{self, ServeError, ServeOptions};

/// Options of `zeroth tune`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The run file (docs/run-file.md).
    #[arg(value_name = "RUN.toml")]
    run_file: PathBuf,
    /// Override a key of the run file; may be given several times.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Go on from the run folder's checkpoint.
    #[arg(long)]
    resume: bool,
    /// Print one JSON object as the last line.
    #[arg(long)]
    json: bool,
    /// Say what would run (calls, FLOPs, memory, bytes on the wire, time after one measured call), and stop.
    #[arg(long, conflicts_with_all = ["resume", "listen"])]
    dry_run: bool,
    /// Wait for remote evaluators on this address instead of evaluating here; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    #[command(flatten)]
    serve: serve::cli::Args,
    #[command(flatten)]
    observe: proto::observe::Args,
}

/// Runs `zeroth tune`; what it does is shown, unless it is `logged`.
pub(super) async fn run(args: Args, logged: bool, stop: watch::Receiver<bool>) -> Result<(), Error> {
    let mut file = RunFile::read(&args.run_file).map_err(Error::input)?;
    file.apply_overrides(&args.set).map_err(Error::input)?;
    let inputs = Inputs::load(file.resolve().map_err(Error::input)?)?;
    if args.dry_run {
        return dry_run(&inputs, args.json).await;
    }
    let (folder, checkpoint) = RunFolder::open(&inputs.spec, &inputs.hash, args.resume)?;
    let done = checkpoint.as_ref().and_then(|checkpoint| run::done_before(checkpoint, &inputs));
    if let Some(summary) = done.filter(|_| folder.artefact().exists()) {
        eprintln!("{}: finished before; nothing to do", folder.path().display());
        return print(&inputs, &folder, &summary, args.json);
    }
    let begun_with = checkpoint.as_ref().map(|checkpoint| &checkpoint.model);
    let model = if args.listen.is_some() { model_of(&inputs, begun_with)? } else { begun_with.cloned() };
    if args.listen.is_none() {
        search_threads(inputs.spec.run.threads)?;
    }
    let mut window = Window::open(&args.observe)?;
    let stop = cancellable(stop);
    let place = Place { folder: &folder, checkpoint, model, logged };
    let tuned = tune(&args, &inputs, place, &mut window, &stop).await;
    window.close().await;
    print(&inputs, &folder, &tuned?, args.json)
}

/// What the optimiser's large products are spread over, beside an evaluator in this process: no more threads than that has.
/// Without one all cores are theirs.
fn search_threads(threads: usize) -> Result<(), Error> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    pool.thread_name(|i| format!("zeroth-search-{i}")).build_global().map_err(Error::failed)
}

/// What is known of a run before it begins.
struct Place<'a> {
    folder: &'a RunFolder,
    /// Where it goes on.
    checkpoint: Option<Checkpoint>,
    model: Option<ModelIdentity>,
    /// Whether its progress is logged rather than shown.
    logged: bool,
}

/// The run itself, seen through `window`.
async fn tune(
    args: &Args,
    inputs: &Inputs,
    Place { folder, checkpoint, model, logged }: Place<'_>,
    window: &mut Window,
    stop: &watch::Sender<bool>,
) -> Result<Summary, Error> {
    let (reporter, progress) = watch::channel(Progress::default());
    let silence = Duration::from_secs(args.serve.silence);
    let settings = fleet::Settings { silence, ..fleet_settings(inputs) };
    let (fleet, owner) = Fleet::spawn_observed(settings, window.observer());
    let clients = Clients {
        progress: progress.clone(),
        fleet: fleet.status(),
        cancel: stop.clone(),
        artefact: folder.artefact(),
    };
    window.show(clients.clone().into(), stop.subscribe())?;
    let house = open_house(args, inputs, &fleet, clients, window).await?;
    let shown =
        tokio::spawn(async move { if logged { drop(progress) } else { report::show(progress).await } });
    let origin = Origin {
        id: RunId(1),
        checkpoint,
        expected: inputs.expected(model),
        observer: window.observer().clone(),
    };
    let span = error_span!("run", run = origin.id.0); // at this level it is there whatever is logged
    let run = run::tune(origin, inputs, folder, &fleet, &reporter, stop.subscribe());
    let ended = run.instrument(span).await;
    fleet.drain().await;
    drop(reporter);
    let _ = shown.await; // its only failure is a panic, already reported
    house.close().await;
    owner.abort();
    let _ = owner.await; // the spans of its leases end with it
    ended
}

/// The model that remote evaluators must have: the one that the run file names, where it lies here, too.
fn model_of(inputs: &Inputs, begun_with: Option<&ModelIdentity>) -> Result<Option<ModelIdentity>, Error> {
    let here = model::here(&inputs.spec.model);
    if let (Err(reason), None) = (&here, begun_with) {
        eprintln!("{reason}; whatever model the first evaluator has is taken for the run's");
    }
    model::expected(begun_with, here.ok().as_ref())
}

/// Whoever evaluates: a worker in this process, or a server that remote ones dial.
enum House {
    Embedded(JoinHandle<std::io::Result<()>>),
    Served { server: JoinHandle<Result<(), ServeError>>, close: watch::Sender<bool> },
}

impl House {
    async fn close(self) {
        match self {
            Self::Embedded(worker) => worker.abort(),
            Self::Served { server, close } => {
                close.send_replace(true);
                let _ = tokio::time::timeout(Duration::from_secs(5), server).await; // streams may hang: do not wait longer
            }
        }
    }
}

/// A stop that a client may send too, beside the signals.
fn cancellable(mut signalled: watch::Receiver<bool>) -> watch::Sender<bool> {
    let (stop, _) = watch::channel(false);
    let sender = stop.clone();
    tokio::spawn(async move {
        if signalled.wait_for(|&stop| stop).await.is_ok() {
            sender.send_replace(true);
        }
    });
    stop
}

async fn open_house(
    args: &Args,
    inputs: &Inputs,
    fleet: &Handle,
    clients: Clients,
    window: &Window,
) -> Result<House, Error> {
    let Some(address) = args.listen else {
        return Ok(House::Embedded(embedded(inputs, fleet, window.observer()).await?));
    };
    let options =
        window.watch(ServeOptions::try_from(&args.serve)?).with_stopping(clients.cancel.subscribe());
    let listener = listen(address, &options).await?;
    let (close, mut closing) = watch::channel(false);
    let server = tokio::spawn(serve::serve(listener, fleet.clone(), clients, options, async move {
        let _ = closing.wait_for(|&close| close).await; // a dropped sender closes too
    }));
    Ok(House::Served { server, close })
}

#[cfg(feature = "embedded")]
async fn embedded(
    inputs: &Inputs,
    fleet: &Handle,
    observer: &Observer,
) -> Result<JoinHandle<std::io::Result<()>>, Error> {
    let spec = &inputs.spec;
    let settings = crate::embedded::Settings {
        model: &spec.model.path,
        base: std::path::Path::new(""),
        revision: spec.model.revision.as_deref(),
        dtype: spec.model.dtype,
        device: spec.model.device,
        threads: spec.run.threads,
        max_batch_tokens: spec.run.max_batch_tokens,
        memory: spec.run.memory,
        projections: spec.run.projections,
        search: Some(&spec.search),
        traces: observer.traces(),
    };
    crate::embedded::attach(fleet, settings).await
}

#[cfg(not(feature = "embedded"))]
async fn embedded(_: &Inputs, _: &Handle, _: &Observer) -> Result<JoinHandle<std::io::Result<()>>, Error> {
    Err(Error::Input("this zeroth was built without an evaluator; give --listen ADDRESS:PORT".to_owned()))
}

fn fleet_settings(inputs: &Inputs) -> fleet::Settings {
    fleet::Settings {
        lease_timeout: Duration::from_secs(inputs.spec.run.lease_timeout_s),
        ..fleet::Settings::default()
    }
}

fn print(inputs: &Inputs, folder: &RunFolder, summary: &Summary, json: bool) -> Result<(), Error> {
    let spec = &inputs.spec;
    let per_call = summary.seconds / summary.calls.max(1) as f64;
    if json {
        let mut line = json!({
            "run": folder.path(), "task": spec.task.name, "model": spec.model.path, "seed": spec.search.seed,
            "calls": summary.calls, "seconds": summary.seconds, "seconds_per_call": per_call,
            "dev": summary.dev.metric, "test_before": summary.test_before, "test_after": summary.test_after,
            "artefact": folder.artefact(), "peak_memory_bytes": peak_memory(),
        });
        if let Some(saved) = summary.saved_calls {
            line["saved_calls"] = json!(saved);
        }
        println!("{line}");
        return Ok(());
    }
    let percent =
        |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| format!("{:.1} %", 100.0 * v));
    println!("task      {} with {}, seed {}", spec.task.name, spec.model.path, spec.search.seed);
    println!("search    {} calls in {:.1} s ({per_call:.4} s a call)", summary.calls, summary.seconds);
    if let Some(saved) = summary.saved_calls {
        println!("racing    {saved:.1} calls saved");
    }
    let (before, after) = (summary.dev_before.metric, summary.dev.metric);
    println!("dev       {} before, {} after", percent(Some(before)), percent(Some(after)));
    println!("test      {} before, {} after", percent(summary.test_before), percent(summary.test_after));
    println!("artefact  {}", folder.artefact().display());
    Ok(())
}

/// Prepares the run, measures one call at the middle layer, and says what the whole would take.
async fn dry_run(inputs: &Inputs, json: bool) -> Result<(), Error> {
    let (fleet, owner) = Fleet::spawn(fleet_settings(inputs));
    let worker = embedded(inputs, &fleet, &Observer::default()).await?;
    let run = RunId(1);
    let begun = inputs.begin(&fleet, run, inputs.expected(None)).await?;
    let plan = run::plan(inputs, begun.model.layers as usize);
    let start = Start {
        run,
        projection_stds: run::projection_stds(inputs, &begun.ready),
        version: ContextVersion(0),
        context: vec![vec![0.0; plan.dim]; plan.layers],
    };
    fleet.start(start).await?;
    let middle = Layer(plan.tuned as u32 / 2);
    let zero = vec![vec![0.0; plan.dim]];
    let all = 0..inputs.train.len() as u32;
    for measured in [false, true] {
        let began = Instant::now(); // the first call builds the cached context and is not counted
        fleet.offer(run, ContextVersion(0), middle, zero.clone(), all.clone()).await?.gathered().await?;
        if measured {
            Estimate::new(inputs, &plan, &begun.ready, middle, began.elapsed()).print(json);
        }
    }
    worker.abort();
    owner.abort();
    Ok(())
}

/// What a run will take.
struct Estimate {
    calls: u64,
    generations: u64,
    racing: bool,
    covariance: Option<String>,
    flops: f64,
    memory_bytes: u64,
    search_bytes: u64,
    wire_bytes: u64,
    call_seconds: f64,
    seconds: f64,
    tokens: u64,
}

impl Estimate {
    fn new(
        inputs: &Inputs,
        plan: &search::Plan,
        ready: &shared::messages::Ready,
        measured: Layer,
        call: Duration,
    ) -> Self {
        let generations = plan.budget / plan.population as u64;
        let calls = generations * plan.population as u64;
        let tuned = &ready.flops[..plan.tuned.min(ready.flops.len())];
        let mean_flops = tuned.iter().sum::<f64>() / tuned.len().max(1) as f64;
        let measured_flops = ready.flops.get(measured.index()).copied().unwrap_or(mean_flops);
        let call_seconds = call.as_secs_f64() * mean_flops / measured_flops.max(1.0);
        // Out: z of each candidate and the incumbent. Back: a loss and a prediction an example.
        let generation_bytes = 4 * plan.dim * (plan.population + 1)
            + 5 * inputs.train.len() * plan.population
            + 9 * inputs.dev.len();
        Self {
            calls,
            generations,
            racing: plan.racing,
            covariance: plan.said(),
            flops: mean_flops * calls as f64,
            memory_bytes: ready.memory_bytes,
            search_bytes: search::memory_bytes(plan.tuned, plan.dim, plan.covariance),
            wire_bytes: generation_bytes as u64 * generations,
            call_seconds,
            seconds: call_seconds * calls as f64,
            tokens: ready.train_tokens,
        }
    }

    fn print(&self, json: bool) {
        if json {
            let line = json!({
                "calls": self.calls, "generations": self.generations, "train_tokens": self.tokens,
                "flops": self.flops, "memory_bytes": self.memory_bytes,
                "search_bytes": self.search_bytes, "wire_bytes": self.wire_bytes,
                "seconds_per_call": self.call_seconds, "seconds": self.seconds,
            });
            println!("{line}");
            return;
        }
        let more = if self.racing { ", or more generations: racing saves calls" } else { "" };
        println!("calls     {} in {} generations{more}", self.calls, self.generations);
        if let Some(said) = &self.covariance {
            println!("learns    {said}");
        }
        println!("tokens    {} a call, prompt rows included", self.tokens);
        println!("compute   {:.3} TFLOP in all", self.flops / 1e12);
        println!(
            "memory    {:.1} MiB beside the weights, each evaluator",
            self.memory_bytes as f64 / 1_048_576.0
        );
        println!("search    {:.1} MiB, the coordinator's", self.search_bytes as f64 / 1_048_576.0);
        println!(
            "wire      {:.2} MiB in all, were the evaluator remote",
            self.wire_bytes as f64 / 1_048_576.0
        );
        println!("time      {:.0} s here ({:.4} s a call, measured once)", self.seconds, self.call_seconds);
    }
}
