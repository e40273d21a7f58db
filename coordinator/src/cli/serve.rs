//! `zeroth serve`: a standing coordinator (docs/serve.md).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;

use super::listen;
use crate::error::Error;
use crate::fleet::{self, Fleet};
use crate::observe::Window;
use crate::serve::clients::Service;
use crate::serve::{self, ServeOptions};
use crate::standing::{Limits, Standing};

/// How long streams may take to end; then they are cut.
const PARTING: Duration = Duration::from_secs(5);

/// Options of `zeroth serve`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Address for clients and evaluators; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Where runs are kept, and what the relative paths of run files are relative to.
    #[arg(long, value_name = "DIR")]
    folder: PathBuf,
    /// Runs at work at once.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    max_runs: u16,
    /// Runs that may wait for their turn; more are refused.
    #[arg(long, value_name = "N", default_value_t = 100)]
    max_queued: u16,
    /// Seconds after which unanswered work is given to another evaluator; `run.lease_timeout_s` is not read here.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    lease_timeout_s: u64,
    #[command(flatten)]
    serve: serve::cli::Args,
    #[command(flatten)]
    observe: proto::observe::Args,
}

/// Runs `zeroth serve` until it is told to stop; then every run has a checkpoint.
pub(super) async fn run(args: Args, stop: watch::Receiver<bool>) -> Result<(), Error> {
    let mut window = Window::open(&args.observe)?;
    let ended = stand(args, stop, &mut window).await;
    window.close().await;
    ended
}

async fn stand(args: Args, mut stop: watch::Receiver<bool>, window: &mut Window) -> Result<(), Error> {
    let options = window.watch(ServeOptions::try_from(&args.serve)?).with_stopping(stop.clone());
    let lease_timeout = Duration::from_secs(args.lease_timeout_s);
    let silence = Duration::from_secs(args.serve.silence);
    let settings = fleet::Settings { lease_timeout, silence, mixed: true, ..fleet::Settings::default() };
    let (fleet, owner) = Fleet::spawn_observed(settings, window.observer());
    let limits = Limits { at_work: args.max_runs.into(), queued: args.max_queued.into() };
    let standing = Standing::open(&args.folder, fleet.clone(), limits, window.observer().clone())?;
    let listener = listen(args.listen, &options).await?;
    standing.go_on();
    let service = Service::Many(standing.clone(), fleet.status());
    window.show(service.clone(), stop.clone())?;
    let (close, mut closing) = watch::channel(false);
    let mut server = tokio::spawn(serve::serve(listener, fleet, service, options, async move {
        let _ = closing.wait_for(|&close| close).await; // a dropped sender closes too
    }));
    let broken = tokio::select! {
        ended = &mut server => Some(ended.map_err(Error::failed)?),
        _ = stop.wait_for(|&stop| stop) => None,
    };
    standing.close().await;
    close.send_replace(true);
    owner.abort(); // evaluators are not sent away: they dial again until there is a coordinator
    let _ = owner.await; // the spans of its leases end with it
    match broken {
        Some(ended) => ended.map_err(Error::from),
        None => {
            let _ = tokio::time::timeout(PARTING, server).await; // streams may hang: do not wait longer
            Ok(())
        }
    }
}
