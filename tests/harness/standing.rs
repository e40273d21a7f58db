//! A `zeroth serve`, and the commands that call it.

use std::process::Command;

use serde_json::Value;

use crate::{Case, Ended, Process, run, until};

/// A standing coordinator whose folder is a case's, and where it listens.
#[derive(Debug)]
pub struct Standing {
    /// The process.
    pub process: Process,
    /// `127.0.0.1:PORT`.
    pub address: String,
}

impl Standing {
    /// Starts it on a free port.
    pub fn start(case: &Case, more: &[&str]) -> Self {
        Self::start_at(case, "127.0.0.1:0", more)
    }

    /// Starts it on the address given.
    pub fn start_at(case: &Case, address: &str, more: &[&str]) -> Self {
        let serve = ["serve", "--listen", address, "--folder", "."];
        let mut process = Process::start(case.zeroth(&serve).args(more));
        let line = process.err_line("listening on ");
        let rest = line.split("listening on ").nth(1).unwrap_or_default();
        let address = rest.split(';').next().unwrap_or_default().to_owned();
        assert!(address.starts_with("127.0.0.1:"), "{line}");
        Self { process, address }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `zeroth COMMAND URL MORE`.
    pub fn command(&self, case: &Case, command: &str, more: &[&str]) -> Command {
        let mut command = case.zeroth(&[command, &self.url()]);
        command.args(more);
        command
    }

    /// Hands in the case's run file; its number.
    pub fn submit(&self, case: &Case, more: &[&str]) -> u64 {
        let more = [&["run.toml", "--json"], more].concat();
        run(&mut self.command(case, "submit", &more)).expect(0).json()["run"].as_u64().expect("a number")
    }

    /// A run, as `zeroth status` has it.
    pub fn status(&self, case: &Case, id: u64) -> Value {
        let all = run(&mut self.command(case, "status", &["--json"])).expect(0).json();
        let runs = all["runs"].as_array().expect("a list");
        runs.iter().find(|run| run["run"] == id).unwrap_or_else(|| panic!("no run {id} in {all}")).clone()
    }

    /// Follows a run to its end.
    pub fn watch(&self, case: &Case, id: u64) -> Ended {
        run(&mut self.command(case, "watch", &[&id.to_string()]))
    }

    /// Waits until a run is in `state`.
    pub fn until(&self, case: &Case, id: u64, state: &str) {
        until(&format!("run {id} to be {state}"), || (self.status(case, id)["state"] == state).then_some(()));
    }
}
