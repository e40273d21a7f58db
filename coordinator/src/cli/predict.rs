//! `zeroth predict`: text in, class and probabilities out.

use std::io::{BufRead, Write};

use serde_json::json;
use shared::task::Example;
use shared::task::loss::probabilities;

use super::{ModelArgs, SourceArgs, open};
use crate::error::Error;

/// Texts evaluated together: bounds memory and delay when texts come from a pipe.
const BATCH: usize = 64;

/// Options of `zeroth predict`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    source: SourceArgs,
    /// A text to classify; may be given several times. Without it, each line of standard input is one.
    #[arg(long)]
    text: Vec<String>,
    /// The second text of a sentence pair; as often as --text.
    #[arg(long)]
    text_pair: Vec<String>,
    /// Print one JSON object a line: label, word, probabilities in label order.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
}

/// Runs `zeroth predict`.
pub(super) async fn run(args: Args) -> Result<(), Error> {
    if !args.text_pair.is_empty() && args.text_pair.len() != args.text.len() {
        return Err(Error::Input(format!(
            "{} --text and {} --text-pair given; a pair needs one of each",
            args.text.len(),
            args.text_pair.len()
        )));
    }
    let opened = open::open(&args.source, &args.model).await?;
    if args.text.is_empty() {
        for batch in StandardInput.batches() {
            print(&opened, batch?, args.json).await.map_err(|error| error.at(line_of_input))?;
        }
        return Ok(());
    }
    let mut pairs = args.text_pair.into_iter();
    let texts = (1..).zip(args.text);
    let examples = texts.map(|(number, text)| example(text, pairs.next(), number)).collect();
    let place = |number| format!("--text number {number}");
    print(&opened, examples, args.json).await.map_err(|error| error.at(place))
}

struct StandardInput;

impl StandardInput {
    /// Lines of standard input, a batch at a time.
    fn batches(self) -> impl Iterator<Item = Result<Vec<Example>, Error>> {
        let mut lines = (1..).zip(std::io::stdin().lock().lines());
        std::iter::from_fn(move || {
            let mut batch = Vec::new();
            for (number, line) in lines.by_ref().take(BATCH) {
                match line {
                    Ok(line) if line.trim().is_empty() => {
                        return Some(Err(Error::Input(format!("{}: empty text", line_of_input(number)))));
                    }
                    Ok(line) => batch.push(example(line, None, number)),
                    Err(error) => {
                        return Some(Err(Error::Input(format!("{}: {error}", line_of_input(number)))));
                    }
                }
            }
            (!batch.is_empty()).then_some(Ok(batch))
        })
    }
}

fn line_of_input(number: u32) -> String {
    format!("standard input, line {number}")
}

fn example(text: String, text_pair: Option<String>, line: u32) -> Example {
    Example { text, text_pair, label: 0, line } // the label is not looked at
}

async fn print(opened: &open::Opened, examples: Vec<Example>, json: bool) -> Result<(), Error> {
    let outcome = opened.score(examples).await?;
    let mut out = std::io::stdout().lock();
    let rows = outcome.logits.chunks_exact(opened.words.len());
    for (&label, logits) in outcome.predicted.iter().zip(rows) {
        let probabilities = probabilities(logits);
        let word = opened.words.get(label as usize).map_or("", String::as_str);
        let written = if json {
            writeln!(out, "{}", json!({"label": label, "word": word, "probabilities": probabilities}))
        } else {
            let share = probabilities.get(label as usize).copied().unwrap_or(f32::NAN);
            writeln!(out, "{label}\t{word}\t{share:.3}")
        };
        match written {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()), // `| head` has enough
            written => written.map_err(Error::failed)?,
        }
    }
    Ok(())
}
