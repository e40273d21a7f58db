//! The programs seen from outside, as Prometheus, a collector, a probe and a reader of logs see them.

mod logs;
mod metrics;
mod page;
mod probes;
mod traces;

use tests::{Case, Family, Process, until};

/// A run that is at work until it is told to stop.
fn endless() -> Case {
    Case::masked(Family::Bert, "add").set("search.budget", "6000000")
}

/// What a process says of a place, `metrics on PLACE` or `health on PLACE`.
fn place(process: &mut Process, what: &str) -> String {
    let start = format!("{what} on ");
    let line = process.err_line(&start);
    line.split(&start).nth(1).unwrap_or_default().trim().to_owned()
}

/// Ends a coordinator as a user would.
fn stop(process: Process, code: i32) {
    process.signal("TERM");
    process.wait().expect(code);
}
