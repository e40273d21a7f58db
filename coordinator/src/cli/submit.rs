//! `zeroth submit`: a run file, handed to a standing coordinator.

use std::path::PathBuf;

use proto::client::Files;
use proto::v1::SubmitRequest;
use serde_json::json;

use super::client::Client;
use super::watch;
use crate::error::Error;

/// Options of `zeroth submit`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The coordinator's address, `http://HOST:PORT`.
    #[arg(value_name = "URL")]
    url: String,
    /// The run file. Its paths are the coordinator's: relative ones are relative to `zeroth serve --folder`.
    #[arg(value_name = "RUN.toml")]
    run_file: PathBuf,
    /// Override a key of the run file; may be given several times.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Go on from the checkpoint that run.folder holds.
    #[arg(long)]
    resume: bool,
    /// Follow the run to its end, as `zeroth watch` does.
    #[arg(long)]
    watch: bool,
    /// Print JSON: `{"run": NUMBER}`, then with --watch an object a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: Files,
}

/// Runs `zeroth submit`.
pub(super) async fn run(args: Args) -> Result<(), Error> {
    let path = args.run_file.display();
    let run_file =
        std::fs::read_to_string(&args.run_file).map_err(|error| Error::Input(format!("{path}: {error}")))?;
    let name = args.run_file.file_name().map(|name| name.to_string_lossy().into_owned());
    let mut client = Client::connect(&args.url, &args.client).await?;
    let request =
        SubmitRequest { run_file, name: name.unwrap_or_default(), set: args.set, resume: args.resume };
    let answer = client.runs.submit(request).await;
    let run = client.answer(answer)?.run;
    if args.json {
        println!("{}", json!({ "run": run }));
    } else {
        println!("run {run}");
    }
    if args.watch { watch::one(&mut client, run, args.json).await } else { Ok(()) }
}
