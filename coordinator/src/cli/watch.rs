//! `zeroth watch`: a coordinator's runs and evaluators as they change. On a terminal the picture is drawn anew in its
//! place; elsewhere it is a line when a run has come further; with `--json` an object a line.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use proto::client::Files;
use proto::v1::{ListRequest, ListResponse, RunStatus, WatchRequest, run_status};
use tokio::time::{MissedTickBehavior, interval};

use super::client::Client;
use super::show;
use crate::error::Error;

/// A plain line of a run at most this often, unless its state changes.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// Options of `zeroth watch`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The coordinator's address, `http://HOST:PORT`.
    #[arg(value_name = "URL")]
    url: String,
    /// A run's number; all runs without it.
    #[arg(value_name = "RUN")]
    run: Option<u64>,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
    /// Seconds between two looks at all runs.
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600))]
    every: u64,
    #[command(flatten)]
    client: Files,
}

/// Runs `zeroth watch`.
pub(super) async fn run(args: Args) -> Result<(), Error> {
    let mut client = Client::connect(&args.url, &args.client).await?;
    match args.run {
        Some(run) => one(&mut client, run, args.json).await,
        None => all(&mut client, Duration::from_secs(args.every), args.json).await,
    }
}

/// Follows one run to its end, which is the command's too: a run that has failed fails it.
pub(super) async fn one(client: &mut Client, run: u64, json: bool) -> Result<(), Error> {
    let answer = client.runs.watch(WatchRequest { run }).await;
    let mut states = client.answer(answer)?;
    let mut screen = Screen::new(json);
    let mut last = None;
    while let Some(status) = states.message().await.map_err(|status| client.failed(&status))? {
        if screen.redraws() {
            let mut list = list(client).await?;
            list.runs = vec![status.clone()];
            screen.draw(&list);
        } else if json {
            println!("{}", show::run_json(&status));
        } else {
            screen.line(&status);
        }
        last = Some(status);
    }
    match last {
        Some(status) if status.state() == run_status::State::Done => Ok(()),
        Some(status) if status.state() == run_status::State::Failed => Err(Error::Failed(status.message)),
        Some(status) if show::over(&status) => Err(Error::Failed(format!("run {run} was cancelled"))),
        _ => Err(Error::Failed(format!("run {run}: the coordinator has gone before its end"))),
    }
}

/// Follows all runs until none is under way.
async fn all(client: &mut Client, every: Duration, json: bool) -> Result<(), Error> {
    let mut screen = Screen::new(json);
    let mut clock = interval(every);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        let list = list(client).await?;
        if screen.redraws() {
            screen.draw(&list);
        } else if json {
            println!("{}", show::list_json(&list));
        } else {
            screen.crowd(show::crowd(&list));
            list.runs.iter().for_each(|run| screen.line(run));
        }
        if list.runs.iter().all(show::over) {
            return Ok(());
        }
    }
}

async fn list(client: &mut Client) -> Result<ListResponse, Error> {
    let answer = client.runs.list(ListRequest {}).await;
    client.answer(answer)
}

/// Where it is shown.
struct Screen {
    terminal: bool,
    /// Lines of the picture before.
    drawn: usize,
    /// When a run's last plain line was, and its state then.
    told: BTreeMap<u64, (i32, Instant)>,
    /// The same of the evaluators together.
    crowd: Option<(String, Instant)>,
}

impl Screen {
    fn new(json: bool) -> Self {
        let terminal = std::io::stdout().is_terminal() && !json;
        Self { terminal, drawn: 0, told: BTreeMap::new(), crowd: None }
    }

    fn redraws(&self) -> bool {
        self.terminal
    }

    /// Draws the picture over the one before.
    fn draw(&mut self, list: &ListResponse) {
        let lines = show::picture(list);
        let up = if self.drawn > 0 { format!("\x1b[{}A", self.drawn) } else { String::new() };
        let body: String = lines.iter().map(|line| format!("{line}\x1b[K\n")).collect();
        // what is too long for the terminal is cut, not wrapped: a line stays a line
        print!("\x1b[?7l{up}\r{body}\x1b[J\x1b[?7h");
        let _ = std::io::stdout().flush(); // a terminal that has gone is told by the next print
        self.drawn = lines.len();
    }

    /// A plain line of all evaluators, where there is something new.
    fn crowd(&mut self, crowd: String) {
        let same = |(told, at): &(String, Instant)| *told == crowd || at.elapsed() < PLAIN_EVERY;
        if !self.crowd.as_ref().is_some_and(same) {
            println!("{crowd}");
            self.crowd = Some((crowd, Instant::now()));
        }
    }

    /// A plain line of a run, where there is something new.
    fn line(&mut self, run: &RunStatus) {
        let fresh = |(state, at): &(i32, Instant)| *state == run.state && at.elapsed() < PLAIN_EVERY;
        let same =
            self.told.get(&run.run).is_some_and(|told| show::over(run) && told.0 == run.state || fresh(told));
        if !same {
            println!("{}", show::run_line(run));
            self.told.insert(run.run, (run.state, Instant::now()));
        }
    }
}
