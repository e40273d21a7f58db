//! A client that is not ours speaks with a standing coordinator: Python's gRPC, stubs from the .proto, health and
//! reflection. It gets what an embedded run of the same file has made, to the bit.
//!
//! Python's packages come from PyPI into a virtual environment under target/, once for each list of requirements. Where
//! there is no Python, or PyPI cannot be reached, the test says so and is skipped.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tests::{Case, Family, Process, Standing, artefact, binary, evaluator, root, run};

/// The Python of an environment with the client's requirements, or why there is none.
fn python() -> Result<PathBuf, String> {
    let requirements = root().join("examples/python-client/requirements.txt");
    let wanted = std::fs::read(&requirements).unwrap();
    let target = binary("zeroth").ancestors().nth(2).unwrap().join("python-client");
    let (python, made) = (target.join("bin/python"), target.join("requirements.txt"));
    if std::fs::read(&made).is_ok_and(|made| made == wanted) && python.is_file() {
        return Ok(python);
    }
    let venv = Command::new("python3").args(["-m", "venv", "--clear"]).arg(&target).output();
    let venv = venv.map_err(|error| format!("python3: {error}"))?;
    succeeded("python3 -m venv", &venv)?;
    let quiet = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    let pip = [&quiet[..], &["--retries", "1", "--only-binary=:all:", "-r"]].concat();
    let pip = Command::new(&python).args(pip).arg(&requirements).output();
    succeeded("pip install", &pip.map_err(|error| format!("pip: {error}"))?)?;
    std::fs::write(made, wanted).unwrap(); // last: an environment without it is made anew
    Ok(python)
}

fn succeeded(what: &str, output: &std::process::Output) -> Result<(), String> {
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    if output.status.success() { Ok(()) } else { Err(format!("{what}: {}: {last}", output.status)) }
}

fn client(case: &Case, python: &Path, address: &str, more: &[&str]) -> Command {
    let mut command = Command::new(python);
    command.current_dir(case.path("")).arg(root().join("examples/python-client/client.py"));
    command.args(["--url", address, "--to", "fetched", "run.toml"]).args(more);
    command
}

#[test]
fn a_python_client_submits_watches_and_fetches() {
    let python = match python() {
        Ok(python) => python,
        Err(why) => return eprintln!("skipped: no Python with grpcio to be had ({why})"),
    };
    let case = Case::masked(Family::Bert, "add");
    run(&mut case.tune("whole", &[])).expect(0);
    let standing = Standing::start(&case, &[]);
    let _evaluators = ["a", "b"].map(|name| Process::start(&mut evaluator(&case, &standing.url(), name)));

    let wrong = run(&mut client(&case, &python, &standing.address, &["--set", "search.budgte=1"])).expect(1);
    let last = wrong.err.lines().last().unwrap_or_default();
    assert!(last.starts_with("error: INVALID_ARGUMENT: --set search.budgte=1: unknown key"), "{last}");

    let ended = run(&mut client(&case, &python, &standing.address, &[])).expect(0);
    let said: Vec<Value> = ended.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let services = said[0]["services"].as_array().unwrap();
    for service in ["zeroth.v1.Runs", "zeroth.v1.Evaluators", "grpc.health.v1.Health"] {
        assert!(services.iter().any(|name| name == service), "{service}: {services:?}");
    }
    assert_eq!(said[0]["methods"], serde_json::json!(["Cancel", "Fetch", "List", "Submit", "Watch"]));
    assert_eq!(said[1], serde_json::json!({"run": 1}));
    let states = &said[2..said.len() - 1];
    let calls: Vec<u64> = states.iter().map(|state| state["calls"].as_u64().unwrap()).collect();
    assert!(calls.is_sorted() && calls.last() == Some(&144), "{calls:?}");
    assert_eq!(states.last().unwrap()["state"], "STATE_DONE");
    assert!(std::fs::read(case.path("fetched")).unwrap() == artefact(&case.path("whole")));
}
