//! `zeroth bench fleet`: the real fleet and server in this process, simulated evaluators in a second one, gRPC between
//! them; what the coordinator adds to the evaluators' own time.
//!
//! - [`plan`]: what is simulated and for how long, checked
//! - [`work`]: the model and run that both processes pretend to, and the losses they agree on
//! - [`alarm`]: rings at the very time
//! - [`device`]: how long a simulated device takes, and what goes wrong with it
//! - [`simulated`]: the evaluators' process
//! - [`drive`]: the coordinator's side, as a run would drive it
//! - [`report`]: what was measured, for people and as JSON

mod alarm;
mod device;
mod drive;
mod plan;
mod report;
mod simulated;
mod work;

use std::process::Stdio;

use clap::ValueEnum;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::{oneshot, watch};

use crate::error::Error;
use crate::fleet::{Fleet, Settings};
use crate::progress::Progress;
use crate::serve::clients::Clients;
use crate::serve::{LeaseTimes, ServeOptions, serve};
use plan::Plan;

/// Options of `zeroth bench fleet`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Simulated evaluators, each with a connection of its own.
    #[arg(long, value_name = "N", default_value_t = 64)]
    evaluators: usize,
    /// What a lease takes an evaluator, in milliseconds (the median with --profile heavy-tailed).
    #[arg(long, value_name = "MS", default_value_t = 50.0)]
    latency_ms: f64,
    /// What takes the latency: each lease whatever its size, or population / evaluators candidates.
    #[arg(long, value_enum, default_value_t = Cost::Lease)]
    cost: Cost,
    /// How leases vary: not at all, lognormally (sigma 1), or with evaluators that cut their streams, fall silent and
    /// refuse leases now and then.
    #[arg(long, value_enum, default_value_t = Profile::Constant)]
    profile: Profile,
    /// So many of the evaluators are slower than the others.
    #[arg(long, value_name = "N", default_value_t = 0)]
    slow: usize,
    /// How much slower.
    #[arg(long, value_name = "F", default_value_t = 10.0)]
    slow_factor: f64,
    /// Candidates at each layer.
    #[arg(long, value_name = "P", default_value_t = 64)]
    population: usize,
    /// Numbers in a candidate.
    #[arg(long, value_name = "D", default_value_t = 500)]
    dim: usize,
    /// Training examples.
    #[arg(long, value_name = "E", default_value_t = 32)]
    examples: u32,
    /// Layers of the model.
    #[arg(long, value_name = "L", default_value_t = 12)]
    layers: u32,
    /// Generations to time. [default: as many as --seconds allows]
    #[arg(long, value_name = "G", conflicts_with = "seconds")]
    generations: Option<u64>,
    /// Seconds to time.
    #[arg(long, value_name = "S", default_value_t = 10.0)]
    seconds: f64,
    /// Seed of everything that varies.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Be the evaluators of the coordinator at this address.
    #[arg(long, value_name = "URL", hide = true)]
    simulate: Option<String>,
}

/// What an evaluator's latency is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Cost {
    /// A lease, whatever its size.
    Lease,
    /// As many candidates as there are for each evaluator, on all examples.
    Candidate,
}

/// How leases vary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Profile {
    Constant,
    HeavyTailed,
    Failing,
}

/// Runs `zeroth bench fleet`.
pub(super) async fn run(args: Args, mut stop: watch::Receiver<bool>) -> Result<(), Error> {
    let plan = Plan::new(&args)?;
    if let Some(url) = &args.simulate {
        return simulated::run(&plan, url).await;
    }
    let measured = tokio::select! {
        measured = measure(&plan) => measured?,
        _ = stop.wait_for(|&stop| stop) => return Err(Error::Interrupted("nothing was kept".to_owned())),
    };
    if args.json {
        println!("{}", report::json(&plan, &measured));
    } else {
        println!("{}", report::table(&plan, &measured));
    }
    Ok(())
}

/// Serves a fleet, has it attended by a second process, and times generations.
async fn measure(plan: &Plan) -> Result<drive::Measured, Error> {
    let (fleet, owner) = Fleet::spawn(Settings { silence: plan.silence(), ..Settings::default() });
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(Error::failed)?;
    let address = listener.local_addr().map_err(Error::failed)?;
    let (close, closing) = oneshot::channel::<()>();
    let times = LeaseTimes::default();
    let clients = Clients {
        progress: watch::channel(Progress::default()).1,
        fleet: fleet.status(),
        cancel: watch::channel(false).0,
        artefact: "none".into(),
    };
    let options = ServeOptions::default().with_lease_times(times.clone());
    let url = options.url(address);
    let server = tokio::spawn(serve(listener, fleet.clone(), clients, options, async move {
        let _ = closing.await; // dropped is as good as sent
    }));
    let mut evaluators = spawn_evaluators(&url)?;
    let stay = evaluators.stdin.take(); // its end tells the process to go, should this one be killed
    let measured = tokio::select! {
        measured = drive::run(plan, &fleet, &times) => measured,
        ended = evaluators.wait() => {
            let ended = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
            Err(Error::failed(format!("the simulated evaluators' process has ended early: {ended}")))
        }
    };
    fleet.drain().await;
    let _ = close.send(()); // a server that has ended needs no telling
    server.await.map_err(Error::failed)??;
    drop(stay);
    evaluators.wait().await.map_err(Error::failed)?;
    drop(fleet);
    owner.await.map_err(Error::failed)?;
    measured
}

/// This program once more, as the evaluators.
fn spawn_evaluators(url: &str) -> Result<Child, Error> {
    let program = std::env::current_exe().map_err(Error::failed)?;
    Command::new(program)
        .args(std::env::args_os().skip(1))
        .args(["--simulate", url])
        .stdin(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(Error::failed)
}
