//! Logs as JSON: one object a line, and what is said of a run says of which, of which layer and generation.

use serde_json::Value;
use tests::{Case, Coordinator, Family, Process, evaluator, run};

fn records(err: &str) -> Vec<Value> {
    let record = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    err.lines().map(record).collect()
}

/// A field of the innermost span that has it.
fn field(record: &Value, name: &str) -> Option<u64> {
    record["spans"].as_array()?.iter().rev().find_map(|span| span[name].as_u64())
}

#[test]
fn every_record_of_a_run_says_of_which_and_where_it_is() {
    let case = Case::masked(Family::Bert, "add");
    let ended =
        run(&mut case.zeroth(&["--log-json", "tune", "run.toml", "--set", "run.folder=run"])).expect(0);
    let records = records(&ended.err); // every line of it
    let done: Vec<&Value> = records.iter().filter(|record| record["message"] == "generation done").collect();
    let told: Vec<_> = done
        .iter()
        .map(|record| [field(record, "run"), field(record, "generation"), field(record, "layer")])
        .collect();
    let wanted: Vec<_> = (0..24).map(|index| [Some(1), Some(index + 1), Some(index % 3)]).collect();
    assert_eq!(told, wanted);
    assert!(done.iter().all(|record| record["level"] == "INFO" && record["best"].as_f64().is_some()));
}

#[test]
fn an_evaluators_record_says_of_which_run_it_is() {
    let case = Case::masked(Family::Bert, "add");
    let coordinator = Coordinator::start(&case, "run", &[]);
    let worker = Process::start(evaluator(&case, &coordinator.url(), "a").arg("--log-json"));
    coordinator.process.wait().expect(0);
    let records = records(&worker.wait().expect(0).err);
    let said = |text: &str| {
        records.iter().any(|record| record["message"].as_str().is_some_and(|said| said.contains(text)))
    };
    assert!(said("welcomes us") && said("rows in flight"), "{records:?}");
    let of_run = records
        .iter()
        .find(|record| record["message"].as_str().is_some_and(|said| said.contains("rows in flight")));
    assert_eq!(of_run.and_then(|record| field(record, "run")), Some(1));
}
