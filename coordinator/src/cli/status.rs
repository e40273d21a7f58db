//! `zeroth status`: how far a run is, from its folder's trace or from its coordinator.

use std::path::{Path, PathBuf};

use proto::client::Files;
use proto::v1::runs_client::RunsClient;
use proto::v1::{EvaluatorStatus, ListRequest, RunStatus, run_status};
use serde_json::{Value, json};

use crate::error::Error;
use crate::events::Event;
use crate::serve::cli::connect;

/// Options of `zeroth status`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A run folder.
    #[arg(value_name = "FOLDER", required_unless_present = "coordinator")]
    folder: Option<PathBuf>,
    /// A coordinator's address, `http://HOST:PORT`.
    #[arg(long, env = "ZEROTH_COORDINATOR", value_name = "URL", conflicts_with = "folder")]
    coordinator: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: Files,
}

/// Runs `zeroth status`.
pub(super) async fn run(args: Args) -> Result<(), Error> {
    if let Some(folder) = &args.folder {
        return from_folder(folder, args.json);
    }
    let url = args.coordinator.unwrap_or_default(); // clap requires one of the two
    let (channel, token) = connect(&args.client, &url).await?;
    let mut client = RunsClient::with_interceptor(channel, token);
    let list = client
        .list(ListRequest {})
        .await
        .map_err(|status| Error::Failed(format!("coordinator {url}: {}", status.message())))?
        .into_inner();
    if args.json {
        let runs: Vec<Value> = list.runs.iter().map(run_json).collect();
        let evaluators: Vec<Value> = list.evaluators.iter().map(evaluator_json).collect();
        println!("{}", json!({"runs": runs, "evaluators": evaluators}));
        return Ok(());
    }
    for run in &list.runs {
        println!(
            "run {}  {}  {}  sweep {}/{}  layer {}/{}  {}/{} calls  loss {:.4}  dev {:.4}  {:.1} calls/s {}",
            run.run,
            run.task,
            state(run),
            run.sweep,
            run.sweeps,
            run.layer + 1,
            run.layers,
            run.calls,
            run.budget,
            run.best_loss,
            run.best_dev,
            run.calls_per_second,
            run.message
        );
    }
    for e in &list.evaluators {
        println!(
            "{}  {}  {}  {} leases in flight, {} answered, last heard {:.1} s ago",
            e.name, e.device, e.model, e.leases, e.answered, e.idle_seconds
        );
    }
    Ok(())
}

/// The last generation (or the end) that the trace holds.
fn from_folder(folder: &Path, as_json: bool) -> Result<(), Error> {
    let path = folder.join("events.jsonl");
    let text = std::fs::read_to_string(&path).map_err(|error| {
        Error::Input(format!("{}: {error}; a run folder holds this file", path.display()))
    })?;
    let events = text.lines().filter_map(|line| serde_json::from_str::<Event>(line).ok()); // a torn last line is no event
    let last = events.rev().find(|event| !matches!(event, Event::Begin { .. }));
    match last {
        None if as_json => println!("{}", json!({"state": "begun", "calls": 0})),
        None => println!("{}: begun, no generation finished", folder.display()),
        Some(event) if as_json => println!("{}", serde_json::to_string(&event).map_err(Error::failed)?),
        Some(Event::End { calls, dev, test_before, test_after, .. }) => println!(
            "{}: done, {calls} calls, dev {:.4}, test {} before, {} after",
            folder.display(),
            dev.metric,
            number(test_before),
            number(test_after)
        ),
        Some(Event::Generation { generation, sweep, layer, calls, best, dev, .. }) => println!(
            "{}: generation {generation} (sweep {sweep}, layer {}), {calls} calls, loss {best:.4}, dev {}",
            folder.display(),
            layer + 1,
            number(dev.map(|dev| dev.metric))
        ),
        Some(Event::Begin { .. }) => {}
    }
    Ok(())
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"))
}

fn state(run: &RunStatus) -> &'static str {
    match run.state() {
        run_status::State::Unspecified => "unknown",
        run_status::State::Waiting => "waiting for evaluators",
        run_status::State::Running => "running",
        run_status::State::Done => "done",
        run_status::State::Failed => "failed",
        run_status::State::Cancelled => "cancelled",
    }
}

fn run_json(run: &RunStatus) -> Value {
    json!({
        "run": run.run, "task": run.task, "state": state(run), "sweep": run.sweep, "sweeps": run.sweeps,
        "layer": run.layer, "layers": run.layers, "calls": run.calls, "budget": run.budget,
        "best_loss": run.best_loss, "best_dev": run.best_dev, "calls_per_second": run.calls_per_second,
        "message": run.message,
    })
}

fn evaluator_json(evaluator: &EvaluatorStatus) -> Value {
    json!({
        "id": evaluator.id, "name": evaluator.name, "device": evaluator.device, "model": evaluator.model,
        "leases": evaluator.leases, "answered": evaluator.answered, "idle_seconds": evaluator.idle_seconds,
    })
}
