//! A coordinator that listens, and evaluators that dial it.

use std::process::Command;

use serde_json::Value;

use crate::{Case, Process, binary, run};

/// A `zeroth tune --listen` and where it listens.
#[derive(Debug)]
pub struct Coordinator {
    /// The process.
    pub process: Process,
    /// `127.0.0.1:PORT`.
    pub address: String,
}

impl Coordinator {
    /// Starts it on a free port.
    pub fn start(case: &Case, folder: &str, more: &[&str]) -> Self {
        Self::start_at(case, folder, "127.0.0.1:0", more)
    }

    /// Starts it on the address given.
    pub fn start_at(case: &Case, folder: &str, address: &str, more: &[&str]) -> Self {
        let mut process = Process::start(case.tune(folder, &["--listen", address]).args(more));
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

    /// What `zeroth status --coordinator` says.
    pub fn status(&self, case: &Case) -> Value {
        run(&mut case.zeroth(&["status", "--coordinator", &self.url(), "--json"])).expect(0).json()
    }
}

/// `zeroth-evaluator` on the case's model, dialling `url`.
pub fn evaluator(case: &Case, url: &str, name: &str) -> Command {
    evaluator_on(case, "model", url, name)
}

/// `zeroth-evaluator` on another model.
pub fn evaluator_on(case: &Case, model: &str, url: &str, name: &str) -> Command {
    let mut command = Command::new(binary("zeroth-evaluator"));
    command.current_dir(case.path(""));
    command.args(["--coordinator", url, "--model", model, "--threads", "1", "--name", name]);
    command
}
