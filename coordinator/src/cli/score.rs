//! `zeroth score`: how well a prompt does on labelled data.

use std::path::PathBuf;

use serde_json::json;
use shared::task::dataset;
use shared::task::loss::mean;

use super::{ModelArgs, SourceArgs, open};
use crate::error::Error;
use crate::inputs::labels;

/// Options of `zeroth score`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    source: SourceArgs,
    /// Labelled data (JSON Lines, CSV or TSV); a run file's own test set is the default.
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
}

/// Runs `zeroth score`.
pub(super) async fn run(args: Args) -> Result<(), Error> {
    let opened = open::open(&args.source, &args.model).await?;
    let data = args.data.or_else(|| opened.test.clone());
    let data = data.ok_or_else(|| Error::Input("no data to score on: give --data FILE".to_owned()))?;
    let examples = dataset::read(&data, opened.words.len()).map_err(Error::input)?;
    let labels = labels(&examples);
    let outcome = opened.score(examples).await.map_err(|error| error.in_file(&data))?;
    let (metric, loss) = (opened.metric.of(&outcome.predicted, &labels), mean(&outcome.losses));
    if args.json {
        println!("{}", json!({"data": data, "examples": labels.len(), "metric": metric, "loss": loss}));
    } else {
        println!(
            "{} examples of {}: {} {:.1} %, loss {loss:.4}",
            labels.len(),
            data.display(),
            opened.metric,
            100.0 * metric
        );
    }
    Ok(())
}
