//! The optimiser over stdin and stdout: a JSON object a line, one reply to each request.
//!
//! A request may hold `start` (what a search starts from; a new one takes the old one's place), `inject` (points), `tell`
//! (the losses of the last candidates, null for one that is no number) and `ask`; they are done in this order, so that one
//! line a generation is enough. A wrong request ends it, with its line's number and what would be right. docs/cma.md has
//! an example.

use std::io::{BufRead, Write};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::setup;
use crate::cma::Restarting;
use crate::error::Error;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    start: Option<Map<String, Value>>,
    inject: Option<Vec<Vec<f64>>>,
    tell: Option<Vec<Option<f64>>>,
    #[serde(default)]
    ask: bool,
}

#[derive(Debug, Serialize)]
struct Reply {
    /// Candidates a generation of the search at work.
    population: usize,
    variant: &'static str,
    /// Completed generations of the search at work.
    generation: u64,
    sigma: f64,
    /// Candidates whose losses were told, and searches that have ended, since `start`.
    evaluations: u64,
    searches: usize,
    /// The smallest loss since `start`, and where it was.
    best: Option<f64>,
    best_candidate: Option<Vec<f64>>,
    /// Why all is over; empty while it is not.
    stop: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    candidates: Option<Vec<Vec<f64>>>,
}

/// A search, and its candidates whose losses were not told yet.
struct Session {
    search: Restarting,
    asked: Vec<Vec<f64>>,
}

/// Answers requests until there are no more.
pub(super) fn run() -> Result<(), Error> {
    let (input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    let mut session = None;
    for (number, line) in input.lines().enumerate() {
        let wrong = |problem: String| Error::Input(format!("stdin, line {}: {problem}", number + 1));
        let line = line.map_err(|error| wrong(error.to_string()))?;
        let reply = answer(&mut session, &line).map_err(wrong)?;
        let sent = serde_json::to_writer(&mut output, &reply).map_err(Error::failed);
        sent.and_then(|()| output.write_all(b"\n").and_then(|()| output.flush()).map_err(Error::failed))?;
    }
    Ok(())
}

fn answer(session: &mut Option<Session>, line: &str) -> Result<Reply, String> {
    let request: Request = serde_json::from_str(line).map_err(|error| error.to_string())?;
    if let Some(start) = request.start {
        *session = Some(Session { search: setup::search(start)?, asked: Vec::new() });
    }
    let Session { search, asked } =
        session.as_mut().ok_or("nothing was started; the first request must hold \"start\"")?;
    if let Some(points) = request.inject {
        search.inject(&points, false).map_err(|error| error.to_string())?;
    }
    if let Some(losses) = request.tell {
        let losses: Vec<f64> = losses.into_iter().map(|loss| loss.unwrap_or(f64::NAN)).collect();
        search.tell(asked, &losses).map_err(|error| error.to_string())?;
        asked.clear();
    }
    if request.ask && search.stop().is_empty() {
        *asked = search.ask().map_err(|error| error.to_string())?;
    }
    let best = search.best();
    Ok(Reply {
        population: search.state().population(),
        variant: search.state().variant().name(),
        generation: search.state().generation(),
        sigma: search.state().sigma(),
        evaluations: search.evaluations(),
        searches: search.ended().len(),
        best: best.map(|(_, loss)| loss),
        best_candidate: best.map(|(x, _)| x.to_vec()),
        stop: search.stop().iter().map(|reason| reason.name()).collect(),
        candidates: (request.ask && search.stop().is_empty()).then(|| asked.clone()),
    })
}
