//! `zeroth fetch`: a run's tuned prompt, from its coordinator to a file here.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use proto::v1::FetchRequest;
use shared::artefact::Artefact;

use super::client::{Client, RunArgs};
use crate::error::Error;

/// Options of `zeroth fetch`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    run: RunArgs,
    /// Where to put it; what is there is replaced.
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
}

/// Runs `zeroth fetch`.
pub(super) async fn run(args: Args) -> Result<(), Error> {
    let RunArgs { url, run, client } = args.run;
    let mut client = Client::connect(&url, &client).await?;
    let mut name = args.to.clone().into_os_string();
    name.push(".part");
    let part = PathBuf::from(name);
    let fetched = fetch(&mut client, run, &part).await;
    let placed = fetched.and_then(|()| std::fs::rename(&part, &args.to).map_err(Error::file(&args.to)));
    if placed.is_err() {
        let _ = std::fs::remove_file(&part); // it may not even be there
    }
    placed
}

/// Fetches into `part`, which is a whole artefact in the end.
async fn fetch(client: &mut Client, run: u64, part: &Path) -> Result<(), Error> {
    let answer = client.runs.fetch(FetchRequest { run }).await;
    let mut pieces = client.answer(answer)?;
    let mut file =
        File::create(part).map_err(|error| Error::Input(format!("--to {}: {error}", part.display())))?;
    while let Some(piece) = pieces.message().await.map_err(|status| client.failed(&status))? {
        file.write_all(&piece.data).map_err(Error::file(part))?;
    }
    file.sync_all().map_err(Error::file(part))?;
    Artefact::read(part).map(drop).map_err(Error::failed)
}
