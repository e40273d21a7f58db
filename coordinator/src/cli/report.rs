//! Progress for people: a bar on a terminal, plain lines elsewhere, on stderr.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::watch;

use crate::progress::{Progress, State};

/// A plain line at most this often, unless the state changes.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// Shows progress until the writing end is dropped.
pub(super) async fn show(mut progress: watch::Receiver<Progress>) {
    let bar = std::io::stderr().is_terminal().then(bar);
    let mut last: Option<(State, Instant)> = None;
    while progress.changed().await.is_ok() {
        let now = progress.borrow_and_update().clone();
        if now.state == State::Failed {
            break; // the error line says it
        }
        if let Some(bar) = &bar {
            bar.set_length(now.budget);
            bar.set_position(now.calls);
            bar.set_message(line(&now));
            continue;
        }
        if matches!(now.state, State::Failed | State::Cancelled) {
            continue; // the command's last line says so, and why
        }
        let due = last.is_none_or(|(state, at)| state != now.state || at.elapsed() >= PLAIN_EVERY);
        if due {
            eprintln!("{}/{} calls  {}", now.calls, now.budget, line(&now));
            last = Some((now.state, Instant::now()));
        }
    }
    if let Some(bar) = bar {
        bar.finish();
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} calls  {eta} left  {wide_msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

fn line(progress: &Progress) -> String {
    match progress.state {
        State::Queued => "waiting for its turn".to_owned(),
        State::Waiting => "waiting for an evaluator".to_owned(),
        State::Before => "scoring the manual prompt".to_owned(),
        State::After => "scoring the tuned prompt".to_owned(),
        State::Done => "done".to_owned(),
        State::Failed => "failed".to_owned(),
        State::Cancelled => "interrupted".to_owned(),
        State::Searching => format!(
            "sweep {}/{}, layer {}/{}, loss {}, dev {}, {:.1} calls/s",
            progress.sweep,
            progress.sweeps,
            progress.layer + 1,
            progress.layers,
            number(progress.best_loss),
            number(progress.best_dev),
            progress.calls_per_second
        ),
    }
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"))
}
