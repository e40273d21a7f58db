//! `zeroth model`: what a model is and takes, and one fetched from the hub.

#[cfg(feature = "embedded")]
use serde_json::json;
use shared::spec::{BatchTokens, Bytes, Dtype, KeepProjections};

use crate::error::Error;

/// Rows of the training examples that memory is worked out for: 16 examples of two classes, 50 prompt rows and 78 of
/// text each.
const TRAIN_TOKENS: u32 = 4096;

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
struct Inspect {
    /// Folder or hub id of the model.
    #[arg(value_name = "DIR|ID")]
    model: String,
    /// Training examples: classes times shots.
    #[arg(long, value_name = "N", default_value_t = 32)]
    examples: u32,
    /// Their rows, prompt rows included (`zeroth tune --dry-run` says a run's).
    #[arg(long, value_name = "N", default_value_t = TRAIN_TOKENS, value_parser = clap::value_parser!(u32).range(1..))]
    train_tokens: u32,
    /// Rows in flight at most.
    #[arg(long, value_name = "N|auto", default_value_t = BatchTokens::default())]
    max_batch_tokens: BatchTokens,
    /// Prompt tokens a layer.
    #[arg(long, value_name = "N", default_value_t = default("prompt.tokens"),
        value_parser = clap::value_parser!(u32).range(1..))]
    prompt_tokens: u32,
    /// What its blocks' linear layers would be computed in: f32, bf16 or int8.
    #[arg(long, value_name = "TYPE", default_value_t)]
    dtype: Dtype,
    /// Dimension of a layer's search space.
    #[arg(long, value_name = "N", default_value_t = default("search.dim"),
        value_parser = clap::value_parser!(u32).range(1..=4096))]
    dim: u32,
    /// Threads; 0 means all cores.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Memory that the run may take, such as 4GiB; by default what this machine's limits leave.
    #[arg(long, value_name = "SIZE")]
    memory: Option<Bytes>,
    /// Projections: kept in `memory`, made anew for each piece of work (`regenerate`), or `auto`: kept while they fit.
    #[arg(long, value_name = "POLICY", default_value_t = KeepProjections::Auto)]
    projections: KeepProjections,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
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
    let run = crate::embedded::Assumed {
        examples: args.examples as usize,
        train_tokens: args.train_tokens as usize,
        prompt_tokens: args.prompt_tokens as usize,
        dim: args.dim as usize,
        threads: args.threads,
        max_batch_tokens: args.max_batch_tokens,
        memory: args.memory,
        projections: args.projections,
    };
    let (facts, search_bytes) = crate::embedded::inspect(&args.model, args.dtype, run)?;
    let kept = facts.kept;
    if args.json {
        let line = json!({
            "family": facts.family, "layers": facts.layers, "hidden": facts.hidden,
            "parameters": facts.parameters, "dtype": facts.dtype, "vocabulary": facts.vocabulary,
            "max_tokens": facts.max_tokens, "read_outs": facts.read_outs,
            "weight_bytes": facts.weight_bytes, "table_bytes": facts.table_bytes,
            "projection_bytes": kept.projections, "search_bytes": search_bytes, "memory_bytes": kept.bytes,
            "max_batch_tokens": kept.max_batch_tokens, "computed_in": args.dtype,
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
        "memory    {} at the peak of zeroth tune: {} of weights, {} of projections ({}), {} of the search, the rest \
         for {} tokens of examples and {} in flight",
        mib(kept.bytes),
        mib(facts.weight_bytes),
        mib(kept.projections),
        kept.keep,
        mib(search_bytes),
        args.train_tokens,
        kept.max_batch_tokens
    );
    println!("run       {} prompt tokens a layer, search.dim {}", args.prompt_tokens, args.dim);
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
