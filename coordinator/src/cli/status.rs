//! `zeroth status`: how far a run is, from its folder's trace or from its coordinator.

use std::path::Path;

use proto::client::Files;
use proto::v1::ListRequest;
use serde_json::json;

use super::client::Client;
use super::show;
use crate::error::Error;
use crate::events::Event;

/// Options of `zeroth status`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A run folder, or a coordinator's address, `http://HOST:PORT`.
    #[arg(value_name = "FOLDER|URL", required_unless_present = "coordinator")]
    of: Option<String>,
    /// A coordinator's address.
    #[arg(long, env = "ZEROTH_COORDINATOR", value_name = "URL", conflicts_with = "of")]
    coordinator: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: Files,
}

/// Runs `zeroth status`.
pub(super) async fn run(args: Args) -> Result<(), Error> {
    let of = args.of.or(args.coordinator.clone()).unwrap_or_default(); // clap requires one of the two
    if args.coordinator.is_none() && !of.starts_with("http://") && !of.starts_with("https://") {
        return from_folder(Path::new(&of), args.json);
    }
    let mut client = Client::connect(&of, &args.client).await?;
    let answer = client.runs.list(ListRequest {}).await;
    let list = client.answer(answer)?;
    if args.json {
        println!("{}", show::list_json(&list));
    } else {
        show::lines(&list).iter().for_each(|line| println!("{line}"));
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
