//! `zeroth bench cma`: what the optimiser takes of a generation's time, whole and on the fleet's way (docs/cma.md); with
//! `--stdio` the optimiser itself, for another program to drive.
//!
//! - [`timing`]: one size's hundred generations
//! - [`stdio`]: requests in, replies out, a JSON object a line
//! - [`setup`]: what a search starts from, as JSON says it

mod setup;
mod stdio;
mod timing;

use std::str::FromStr;

use tokio::sync::watch;

use crate::cma::Variant;
use crate::error::Error;
use timing::{Size, Timed};

/// What is timed where no size is named: dimension and population.
const SIZES: [(usize, usize); 5] = [(500, 20), (500, 200), (500, 2000), (1000, 20), (2000, 20)];

/// The columns' names.
const HEAD: &str = "   dim  population  variant          ms/generation  ask ms  tell ms  critical ms  memory";

/// Options of `zeroth bench cma`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Number of variables, may be given several times. [default: 500, 1000 and 2000]
    #[arg(long, value_name = "N")]
    dim: Vec<usize>,
    /// Candidates a generation, may be given several times. [default: 20; with 500 variables 200 and 2000 as well]
    #[arg(long, value_name = "N")]
    population: Vec<usize>,
    /// Generations, of which the mean is shown.
    #[arg(long, value_name = "N", default_value_t = 100)]
    generations: u64,
    /// full, separable, diagonal-start, limited-memory or auto.
    #[arg(long, value_name = "NAME", default_value = "full")]
    variant: String,
    /// Print one JSON object a line instead of a table.
    #[arg(long)]
    json: bool,
    /// Be the optimiser of another program instead: requests on stdin, replies on stdout, a JSON object a line.
    #[arg(long, conflicts_with_all = ["dim", "population", "generations", "variant", "json"])]
    stdio: bool,
}

/// Runs `zeroth bench cma`, on a thread of its own, so that a signal ends it.
pub(super) async fn run(args: Args, mut stop: watch::Receiver<bool>) -> Result<(), Error> {
    let work = tokio::task::spawn_blocking(move || if args.stdio { stdio::run() } else { table(&args) });
    tokio::select! {
        ended = work => ended.map_err(Error::failed)?,
        _ = stop.changed() => Err(Error::Interrupted("nothing was to be kept".to_owned())),
    }
}

fn table(args: &Args) -> Result<(), Error> {
    let variant =
        Variant::from_str(&args.variant).map_err(|problem| Error::Input(format!("--variant: {problem}")))?;
    if args.generations == 0 {
        return Err(Error::Input("--generations must be 1 or more".to_owned()));
    }
    let mut head = (!args.json).then_some(HEAD);
    for (dim, population) in sizes(args) {
        let size = Size { dim, population, variant, generations: args.generations };
        let timed = timing::time(&size)?;
        head.take().into_iter().for_each(|head| println!("{head}"));
        println!("{}", if args.json { json(&size, &timed) } else { line(&size, &timed) });
    }
    Ok(())
}

fn sizes(args: &Args) -> Vec<(usize, usize)> {
    if args.dim.is_empty() && args.population.is_empty() {
        return SIZES.to_vec();
    }
    let or = |given: &[usize], default: usize| if given.is_empty() { vec![default] } else { given.to_vec() };
    let (dims, populations) = (or(&args.dim, 500), or(&args.population, 20));
    dims.iter().flat_map(|&dim| populations.iter().map(move |&population| (dim, population))).collect()
}

fn line(size: &Size, timed: &Timed) -> String {
    format!(
        "{:6} {:11}  {:15} {:>14.3} {:>7.3} {:>8.3} {:>12.4}  {}",
        size.dim,
        size.population,
        timed.variant.name(),
        timed.ask_ms + timed.tell_ms,
        timed.ask_ms,
        timed.tell_ms,
        timed.critical_ms,
        timed.memory_bytes.map_or("-".to_owned(), |bytes| format!("{} M", bytes >> 20)),
    )
}

fn json(size: &Size, timed: &Timed) -> String {
    let row = serde_json::json!({
        "dim": size.dim,
        "population": size.population,
        "variant": timed.variant.name(),
        "generations": size.generations,
        "ms": timed.ask_ms + timed.tell_ms,
        "ask_ms": timed.ask_ms,
        "tell_ms": timed.tell_ms,
        "critical_ms": timed.critical_ms,
        "memory_bytes": timed.memory_bytes,
    });
    row.to_string()
}
