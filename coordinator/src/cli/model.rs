//! `zeroth model`: what a model is and takes, and one fetched from the hub.

#[cfg(feature = "embedded")]
use serde_json::json;

use shared::spec::Dtype;

use crate::error::Error;

/// Options of `zeroth model`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Say what a model is, how it can be read, and what memory it takes.
    Inspect(Inspect),
    /// Fetch a model from the Hugging Face hub into its cache, and say where it lies and which it is.
    Pull(Pull),
}

#[derive(Debug, clap::Args)]
#[cfg_attr(not(feature = "embedded"), expect(dead_code, reason = "only an evaluator knows models"))]
struct Inspect {
    /// Folder or hub id of the model.
    #[arg(value_name = "DIR|ID")]
    model: String,
    /// Rows in flight at most, and rows of the training examples, that the memory is worked out for.
    #[arg(long, value_name = "N", default_value_t = shared::spec::DEFAULT_MAX_BATCH_TOKENS as u32,
        value_parser = clap::value_parser!(u32).range(1..))]
    max_batch_tokens: u32,
    /// Prompt tokens a layer that the memory is worked out for.
    #[arg(long, value_name = "N", default_value_t = default("prompt.tokens"),
        value_parser = clap::value_parser!(u32).range(1..))]
    prompt_tokens: u32,
    /// What its blocks' linear layers would be computed in: f32, bf16 or int8.
    #[arg(long, value_name = "TYPE", default_value_t)]
    dtype: Dtype,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[cfg_attr(not(feature = "embedded"), expect(dead_code, reason = "only an evaluator knows models"))]
struct Pull {
    /// Hub id of the model.
    #[arg(value_name = "ORGANISATION/NAME")]
    id: String,
    /// Branch, tag or commit.
    #[arg(long, value_name = "REV")]
    revision: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// A key's default, as the run file has it.
fn default(name: &str) -> u32 {
    let key = shared::spec::KEYS.iter().find(|key| key.name == name);
    key.and_then(|key| key.default.parse().ok()).unwrap_or_default()
}

/// Runs `zeroth model`.
pub(super) fn run(args: &Args) -> Result<(), Error> {
    match &args.command {
        Command::Inspect(args) => inspect(args),
        Command::Pull(args) => pull(args),
    }
}

#[cfg(feature = "embedded")]
fn inspect(args: &Inspect) -> Result<(), Error> {
    let dim = default("search.dim");
    let facts =
        crate::embedded::inspect(&args.model, args.dtype, args.max_batch_tokens, args.prompt_tokens, dim)?;
    if args.json {
        let line = json!({
            "family": facts.family, "layers": facts.layers, "hidden": facts.hidden,
            "parameters": facts.parameters, "dtype": facts.dtype, "vocabulary": facts.vocabulary,
            "max_tokens": facts.max_tokens, "read_outs": facts.read_outs,
            "weight_bytes": facts.weight_bytes, "memory_bytes": facts.memory_bytes,
            "max_batch_tokens": args.max_batch_tokens, "computed_in": args.dtype,
        });
        println!("{line}");
        return Ok(());
    }
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / 1_048_576.0);
    println!("family    {}", facts.family);
    println!("read-out  {}", facts.read_outs.join(", "));
    println!("layers    {} that take a prompt, hidden size {}", facts.layers, facts.hidden);
    println!(
        "tokens    {} at most, prompt rows included; a vocabulary of {}",
        facts.max_tokens, facts.vocabulary
    );
    println!(
        "weights   {} parameters, stored as {}, linear layers computed in {}",
        facts.parameters, facts.dtype, args.dtype
    );
    println!(
        "memory    {}: {} of weights, the rest for {} tokens of examples and as many in flight, {} prompt tokens \
         a layer, search.dim {dim}",
        mib(facts.memory_bytes),
        mib(facts.weight_bytes),
        args.max_batch_tokens,
        args.prompt_tokens
    );
    Ok(())
}

#[cfg(feature = "embedded")]
fn pull(args: &Pull) -> Result<(), Error> {
    let located = crate::embedded::pull(&args.id, args.revision.as_deref())?;
    let identity = shared::model::identify(&located).map_err(Error::input)?;
    let revision = identity.revision.as_deref().unwrap_or_default();
    if args.json {
        let line = json!({
            "model": identity.name, "revision": revision, "folder": located.folder,
            "weights_sha256": identity.weights_sha256, "config_sha256": identity.config_sha256,
            "tokenizer_sha256": identity.tokenizer_sha256,
        });
        println!("{line}");
        return Ok(());
    }
    println!("model      {} at {revision}", identity.name);
    println!("folder     {}", located.folder.display());
    println!("weights    sha256 {}", identity.weights_sha256);
    println!("config     sha256 {}", identity.config_sha256);
    println!("tokenizer  sha256 {}", identity.tokenizer_sha256);
    Ok(())
}

#[cfg(not(feature = "embedded"))]
fn inspect(_: &Inspect) -> Result<(), Error> {
    Err(without_evaluator())
}

#[cfg(not(feature = "embedded"))]
fn pull(_: &Pull) -> Result<(), Error> {
    Err(without_evaluator())
}

#[cfg(not(feature = "embedded"))]
fn without_evaluator() -> Error {
    Error::Input(
        "this zeroth was built without an evaluator, which model inspect and model pull need".to_owned(),
    )
}
