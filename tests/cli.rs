//! What the commands print, for people and for machines.

use serde_json::Value;
use tests::{Case, Coordinator, Ended, Family, Process, evaluator, generations_done, run, until};

fn bert() -> Case {
    Case::masked(Family::Bert, "add")
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

#[track_caller]
fn assert_share(value: &Value) {
    assert!(value.as_f64().is_some_and(|share| (0.0..=1.0).contains(&share)), "{value}");
}

#[test]
fn tune_ends_with_one_json_object() {
    let case = bert().set("task.name", r#""films""#);
    let ended = run(&mut case.tune("run", &[])).expect(0);
    assert_eq!(ended.out.lines().count(), 1, "progress belongs on stderr\n{}", ended.report());
    let line = ended.json();
    let keys: Vec<&String> = line.as_object().unwrap().keys().collect();
    let wanted = [
        "run",
        "task",
        "model",
        "seed",
        "calls",
        "seconds",
        "seconds_per_call",
        "dev",
        "test_before",
        "test_after",
        "artefact",
    ];
    for key in wanted {
        assert!(line.get(key).is_some_and(|value| !value.is_null()), "no {key} in {keys:?}");
    }
    assert_eq!(line["task"], "films");
    assert_eq!(line["seed"], 7);
    assert_eq!(line["calls"].as_u64().unwrap() as usize, 6 * case.generations());
    for key in ["dev", "test_before", "test_after"] {
        assert_share(&line[key]);
    }
    let (seconds, each) = (line["seconds"].as_f64().unwrap(), line["seconds_per_call"].as_f64().unwrap());
    assert!(
        seconds > 0.0 && (each * line["calls"].as_f64().unwrap() - seconds).abs() < 1e-9 * seconds.max(1.0)
    );
    let artefact = std::path::PathBuf::from(line["artefact"].as_str().unwrap());
    assert!(artefact.is_absolute() && artefact.exists(), "{}", artefact.display());
    assert!(line["model"].as_str().unwrap().contains("model"), "{line}");
    assert!(line["run"].as_str().unwrap().contains("run"), "{line}");
}

#[test]
fn tune_without_a_test_set_and_without_json() {
    let case = bert().unset("task.test");
    let line = run(&mut case.tune("run", &[])).expect(0).json();
    assert!(line["test_before"].is_null() && line["test_after"].is_null(), "{line}");
    let ended = run(&mut case.zeroth(&["tune", "run.toml", "--set", "run.folder=plain"])).expect(0);
    for part in ["144 calls", "prompt.safetensors", "dev"] {
        assert!(ended.out.contains(part), "{part}\n{}", ended.report());
    }
    assert!(ended.err.lines().any(|line| line.contains("144")), "plain progress lines\n{}", ended.report());
}

/// One process that evaluates and searches: either has as many threads as the run file says, whatever cores there are.
#[test]
fn tune_computes_on_as_many_threads_as_it_may() {
    for threads in [1, 3] {
        let case = bert().set("run.threads", &threads.to_string()).set("search.budget", "6000000");
        let process = Process::start(&mut case.tune("run", &[]));
        until("the run to begin", || (generations_done(&case.path("run")) >= 1).then_some(()));
        let tasks = std::fs::read_dir(format!("/proc/{}/task", process.id())).unwrap();
        let name = |task: std::io::Result<std::fs::DirEntry>| {
            std::fs::read_to_string(task.ok()?.path().join("comm")).ok()
        };
        let names: Vec<String> = tasks.filter_map(name).collect(); // but for those that end meanwhile
        process.kill();
        for pool in ["zeroth-engine-", "zeroth-search-"] {
            let found = names.iter().filter(|name| name.starts_with(pool)).count();
            assert_eq!(found, threads, "{pool}: {names:?}");
        }
    }
}

/// A budget that is no multiple of the population: generations are whole.
#[test]
fn tune_spends_whole_generations() {
    let case = bert().set("search.budget", "100");
    let line = run(&mut case.tune("run", &[])).expect(0).json();
    assert_eq!(line["calls"], 96);
}

#[test]
fn dry_run_says_what_would_run() {
    let case = bert().set("search.budget", "100");
    let line = run(&mut case.tune("run", &["--dry-run"])).expect(0).json();
    assert_eq!((&line["calls"], &line["generations"]), (&Value::from(96), &Value::from(16)));
    for key in ["flops", "memory_bytes", "wire_bytes", "seconds_per_call", "seconds", "train_tokens"] {
        assert!(line[key].as_f64().is_some_and(|number| number > 0.0), "{key}: {line}");
    }
    let (each, all) = (line["seconds_per_call"].as_f64().unwrap(), line["seconds"].as_f64().unwrap());
    assert!((all - 96.0 * each).abs() < 1e-9 + 1e-6 * all, "{line}");
    // 8 examples of at least 12 tokens and 3 prompt rows; three layers' matrices of 40x40x4 and 40x72x2 a token.
    assert!(line["train_tokens"].as_f64().unwrap() >= 8.0 * 15.0, "{line}");
    let least = 96.0 * line["train_tokens"].as_f64().unwrap() * 2.0 * (40 * 40 * 2) as f64;
    let most = 96.0 * line["train_tokens"].as_f64().unwrap() * 3.0 * 4.0 * (40 * (40 * 4 + 72 * 2)) as f64;
    assert!((least..most).contains(&line["flops"].as_f64().unwrap()), "{least} {line} {most}");
    assert!(!case.path("run").exists(), "a dry run leaves nothing behind");

    let ended = run(&mut case.zeroth(&["tune", "run.toml", "--dry-run"])).expect(0);
    for part in ["96", "calls", "time", "memory", "wire"] {
        assert!(ended.out.contains(part), "{part}\n{}", ended.report());
    }
}

/// The JSON lines of `predict`, each checked by itself.
fn predictions(ended: &Ended, words: [&str; 2]) -> Vec<(u64, Vec<f64>)> {
    let parse = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        let label = line["label"].as_u64().unwrap();
        let probabilities = numbers(&line["probabilities"]);
        assert_eq!(probabilities.len(), 2);
        assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-6, "{line}");
        let likelier = u64::from(probabilities[1] > probabilities[0]);
        assert_eq!(label, likelier, "{line}");
        assert_eq!(line["word"], words[label as usize], "{line}");
        (label, probabilities)
    };
    ended.out.lines().map(parse).collect()
}

const TEXTS: [&str; 3] = ["the movie was great", "the film was bad", "no"];

#[test]
fn predict_from_artefact_and_from_run_file() {
    let case = bert();
    run(&mut case.tune("run", &[])).expect(0);
    let by_text = |source: &str, model: &[&str]| {
        let mut command = case.zeroth(&["predict", source, "--json"]);
        TEXTS.iter().for_each(|text| {
            command.args(["--text", text]);
        });
        predictions(&run(command.args(model)).expect(0), ["bad", "great"])
    };
    let tuned = by_text("run", &[]);
    let manual = by_text("run.toml", &[]);
    assert_eq!((tuned.len(), manual.len()), (3, 3));
    assert_ne!(tuned, manual, "the tuned prompt must show");
    assert_eq!(tuned, by_text("run/prompt.safetensors", &[]), "a folder stands for its artefact");
    // The artefact finds its model anew where it has been moved.
    std::fs::rename(case.path("model"), case.path("moved")).unwrap();
    assert_eq!(tuned, by_text("run", &["--model", "moved"]));
    std::fs::rename(case.path("moved"), case.path("model")).unwrap();

    // Standard input, more lines than one batch: the same probabilities whatever stands beside a text.
    let lines: String = (0..70).map(|i| format!("{}\n", TEXTS[i % 3])).collect();
    let mut command = case.zeroth(&["predict", "run", "--json"]);
    let piped =
        predictions(&Process::start_with_input(&mut command, &lines).wait().expect(0), ["bad", "great"]);
    assert_eq!(piped.len(), 70);
    for (i, prediction) in piped.iter().enumerate() {
        assert_eq!(prediction, &tuned[i % 3], "line {i}");
    }
    let plain = run(&mut case.zeroth(&["predict", "run", "--text", TEXTS[0]])).expect(0);
    assert!(plain.out.contains(["bad", "great"][tuned[0].0 as usize]), "{}", plain.report());
}

#[test]
fn predict_with_similarity() {
    let case = Case::similarity(Family::Roberta, "prefix");
    run(&mut case.tune("run", &[])).expect(0);
    for source in ["run", "run.toml"] {
        let ended = run(&mut case.zeroth(&["predict", source, "--json", "--text", TEXTS[0]])).expect(0);
        assert_eq!(predictions(&ended, ["it was terrible !", "it was great"]).len(), 1);
    }
}

/// Score agrees with what the run itself found before and after, and with predict's labels.
#[test]
fn score_agrees_with_the_run() {
    let case = bert();
    let tuned = run(&mut case.tune("run", &[])).expect(0).json();
    let score = |arguments: &[&str]| {
        run(&mut case.zeroth(&[&["score", "--json"], arguments].concat())).expect(0).json()
    };
    let manual = score(&["run.toml"]);
    assert_eq!((&manual["metric"], &manual["examples"]), (&tuned["test_before"], &Value::from(30)));
    let after = score(&["run", "--data", "test.jsonl"]);
    assert_eq!(after["metric"], tuned["test_after"]);
    assert!(after["loss"].as_f64().is_some_and(|loss| loss > 0.0), "{after}");

    let rows = std::fs::read_to_string(case.path("test.jsonl")).unwrap();
    let rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let texts: String = rows.iter().map(|row| format!("{}\n", row["text"].as_str().unwrap())).collect();
    let mut command = case.zeroth(&["predict", "run", "--json"]);
    let predicted =
        predictions(&Process::start_with_input(&mut command, &texts).wait().expect(0), ["bad", "great"]);
    let right = predicted.iter().zip(&rows).filter(|((label, _), row)| row["label"] == *label).count();
    assert_eq!(right as f64 / 30.0, after["metric"].as_f64().unwrap());
    run(&mut case.zeroth(&["score", "run"])).expect_refusal(&["--data"]);
    let plain = run(&mut case.zeroth(&["score", "run.toml"])).expect(0);
    assert!(plain.out.contains("30 examples") && plain.out.contains("accuracy"), "{}", plain.report());
}

#[test]
fn status_from_the_folder() {
    let case = bert();
    run(&mut case.tune("run", &[])).expect(0);
    let status = run(&mut case.zeroth(&["status", "run", "--json"])).expect(0).json();
    assert_eq!((&status["event"], &status["calls"]), (&Value::from("end"), &Value::from(144)));
    let plain = run(&mut case.zeroth(&["status", "run"])).expect(0);
    assert!(plain.out.contains("done") && plain.out.contains("144 calls"), "{}", plain.report());
    run(&mut case.zeroth(&["status", "absent"])).expect_refusal(&["absent"]);
}

#[test]
fn status_from_the_coordinator() {
    let case = bert().long(300);
    let coordinator = Coordinator::start(&case, "run", &[]);
    let waiting = coordinator.status(&case);
    assert_eq!(waiting["evaluators"], Value::Array(Vec::new()), "{waiting}");
    assert!(waiting["runs"][0]["state"].as_str().is_some_and(|state| state.contains("waiting")), "{waiting}");
    let evaluator = Process::start(&mut evaluator(&case, &coordinator.url(), "helper"));
    let folder = case.path("run");
    until("the run to begin", || (generations_done(&folder) >= 2).then_some(()));
    let running = until("an answer that the status knows of", || {
        let status = coordinator.status(&case);
        status["evaluators"][0]["answered"].as_u64().is_some_and(|answered| answered > 0).then_some(status)
    });
    assert!(generations_done(&folder) < case.generations(), "too late to ask");
    let run_status = &running["runs"][0];
    assert_eq!(run_status["state"], "running", "{running}");
    assert_eq!(run_status["budget"].as_u64().unwrap(), 1800, "{running}");
    assert!((1..1800).contains(&run_status["calls"].as_u64().unwrap()), "{running}");
    assert_eq!(running["evaluators"][0]["name"], "helper", "{running}");
    let plain = run(&mut case.zeroth(&["status", "--coordinator", &coordinator.url()])).expect(0);
    assert!(plain.out.contains("running") && plain.out.contains("helper"), "{}", plain.report());
    let url = coordinator.url();
    coordinator.process.wait().expect(0);
    evaluator.wait().expect(0);
    let gone = run(&mut case.zeroth(&["status", "--coordinator", &url]));
    assert!(
        gone.code == Some(1) && gone.err.lines().count() == 1 && gone.err.contains(&url),
        "{}",
        gone.report()
    );
}

#[test]
fn every_command_has_help() {
    let case = bert();
    let top = run(&mut case.zeroth(&["--help"])).expect(0);
    for command in [
        "tune", "score", "predict", "serve", "submit", "status", "watch", "cancel", "fetch", "model", "bench",
    ] {
        assert!(top.out.contains(command), "{}", top.report());
        let help = run(&mut case.zeroth(&[command, "--help"])).expect(0);
        assert!(help.out.contains("Usage: zeroth") && help.out.contains(command), "{}", help.report());
    }
    let version = run(&mut case.zeroth(&["--version"])).expect(0);
    assert!(version.out.starts_with("zeroth "), "{}", version.report());
    let mut evaluator = std::process::Command::new(tests::binary("zeroth-evaluator"));
    let help = run(evaluator.arg("--help")).expect(0);
    assert!(help.out.contains("--coordinator"), "{}", help.report());
}
