//! `zeroth bench evaluator`: what it says of a tiny shape, what it keeps, and what it refuses. `zeroth bench fleet`: what
//! it says of a few simulated evaluators, honest or failing. `zeroth bench cma`: what it says of small sizes, and the
//! optimiser that another program drives.

use serde_json::{Value, json};
use tests::{Case, Ended, Family, Process, run};

const TINY: [&str; 10] = [
    "--shape",
    "bert-tiny",
    "--examples",
    "3",
    "--prompt-tokens",
    "4",
    "--population",
    "3",
    "--repeats",
    "1",
];

fn case() -> Case {
    Case::masked(Family::Bert, "add")
}

fn bench(case: &Case, more: &[&str]) -> Ended {
    run(&mut case.zeroth(&[&["bench", "evaluator", "--save", "kept/bench.jsonl"], more].concat()))
}

fn rows(ended: &Ended) -> Vec<Value> {
    ended.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The count is the one that docs/engine.md gives, worked out here from the shape's numbers.
#[test]
fn a_shape_is_timed_in_both_injections() {
    let case = case();
    let ended = bench(&case, &[&TINY[..], &["--threads", "1", "--json"]].concat()).expect(0);
    let found = rows(&ended);
    assert_eq!((found.len(), ended.err.as_str()), (2, ""), "{}", ended.report());
    for (row, injection) in found.iter().zip(["add", "prefix"]) {
        let named = [&row["shape"], &row["injection"], &row["dtype"], &row["threads"], &row["population"]];
        assert_eq!(named, [&json!("bert-tiny"), &json!(injection), &json!("f32"), &json!(1), &json!(3)]);
        let number = |key: &str| row[key].as_f64().unwrap_or_else(|| panic!("{key}: {row}"));
        let (seconds, needed) = (number("seconds"), number("flop_per_call"));
        let layers: Vec<f64> =
            row["layer_seconds"].as_array().unwrap().iter().map(|s| s.as_f64().unwrap()).collect();
        assert!((layers.iter().sum::<f64>() / 2.0 / seconds - 1.0).abs() < 1e-9, "{row}");
        assert!((number("flops") * seconds / needed - 1.0).abs() < 1e-9, "{row}");
        // Two layers of 128 and 512, 24 * 128^2 operations a row and layer. Of the text's: 18 and 4 at the first layer,
        // none at the last, (24 + 6 + 6) / 3 candidates for the context; half of that a layer. Attention adds a few %.
        let rows = number("text_rows") + if injection == "add" { 12.0 } else { 0.0 };
        let share = needed / (24.0 * 128.0 * 128.0 * rows);
        assert!(share > 0.68 && share < 0.85, "{share} {row}");
        for peak in ["instruction_peak", "gemm_peak", "share_of_gemm_peak", "peak_memory_bytes"] {
            assert!(number(peak) > 0.0, "{peak}: {row}");
        }
        assert_eq!((&row["last_run_ratio"], row.get("logits")), (&Value::Null, None), "{row}");
    }
}

#[test]
fn a_run_is_compared_with_the_last_one_of_its_kind() {
    let case = case();
    let once = |more: &[&str]| {
        rows(&bench(&case, &[&TINY[..], &["--injection", "add", "--json"], more].concat()).expect(0))
    };
    let first = once(&[]);
    let second = once(&[]);
    let (before, now) = (first[0]["seconds"].as_f64().unwrap(), second[0]["seconds"].as_f64().unwrap());
    assert_eq!(second[0]["last_run_seconds"], json!(before));
    assert!((second[0]["last_run_ratio"].as_f64().unwrap() - before / now).abs() < 1e-9, "{second:?}");
    assert_eq!(once(&["--max-batch-tokens", "99"])[0]["last_run_ratio"], Value::Null, "another setting");
    let read = || std::fs::read_to_string(case.path("kept/bench.jsonl")).unwrap();
    let kept = read();
    assert_eq!(kept.lines().count(), 2, "the newest of each kind\n{kept}");

    // A line as the first versions wrote it.
    let mut old: Value = serde_json::from_str(kept.lines().next().unwrap()).unwrap();
    for key in ["version", "unix_seconds"] {
        assert!(old.as_object_mut().unwrap().remove(key).is_some(), "{key}: {kept}");
    }
    case.write("kept/bench.jsonl", &format!("{old}\n"));
    assert_eq!(once(&[])[0]["last_run_seconds"], old["seconds"]);
    assert_eq!(read().lines().count(), 1, "{}", read());

    let table = bench(&case, &[&TINY[..], &["--injection", "add"]].concat()).expect(0);
    for part in ["s/call", "GFLOP/call", "bert-tiny", "% of", "kept/bench.jsonl"] {
        assert!(table.out.contains(part), "{part}\n{}", table.report());
    }
}

/// Of the columns' table in docs/engine.md, every key but those that a run before gives.
#[test]
fn every_documented_key_is_there() {
    let text = std::fs::read_to_string(tests::root().join("docs/engine.md")).unwrap();
    let table = text.split("| column | `--json` | is |").nth(1).and_then(|rest| rest.split("\n\n").next());
    let columns = table.unwrap().lines().filter_map(|line| line.split('|').nth(2));
    let keys: Vec<&str> = columns.flat_map(|column| column.split('`').skip(1).step_by(2)).collect();
    assert!(keys.len() >= 18, "has the table lost a key, or its form? {keys:?}");
    let narrow = ["--injection", "add", "--dtype", "f32", "--dtype", "bf16", "--dtype", "int8", "--json"];
    let found = rows(&bench(&case(), &[&TINY[..], &narrow].concat()).expect(0));
    assert_eq!(found.iter().map(|row| &row["dtype"]).collect::<Vec<_>>(), ["f32", "bf16", "int8"]);
    for row in &found {
        for &key in &keys {
            let of_f32 = ["largest_loss_difference", "rank_correlation", "least_rank_correlation"];
            let there = match (&row[key], key) {
                (Value::Null, _) if key.starts_with("last_run_") => row.get(key).is_some(), // there is none
                (Value::Null, "instruction_peak" | "share_of_instruction_peak") => {
                    eprintln!("skipped: this processor has no instructions for {}", row["dtype"]);
                    row.get(key).is_some()
                }
                (Value::Null, _) => row["dtype"] == "f32" && of_f32.contains(&key),
                (Value::Array(layers), _) => key == "layer_seconds" && layers.len() == 2,
                (value, _) => value.is_number(),
            };
            assert!(there, "{key}: {row}");
        }
    }
}

#[test]
fn a_real_model_is_timed_and_not_compared_with_another_of_its_name() {
    let case = case();
    let time = |model: &str| {
        let real = ["--model", model, "--prompt-tokens", "2", "--population", "2", "--examples", "2"];
        let found = rows(&bench(&case, &[&real[..], &["--repeats", "1", "--json"]].concat()).expect(0));
        assert_eq!((&found[0]["shape"], found.len()), (&json!("model"), 2), "{found:?}");
        found[0]["last_run_ratio"].clone()
    };
    case.put_model(Family::Bert, "other/model");
    assert_eq!(time("model"), Value::Null);
    assert_eq!(time("other/model"), Value::Null, "another model");
    assert!(time("./model").is_number(), "the same one");
}

#[test]
fn what_cannot_be_timed_is_refused() {
    let case = case();
    bench(&case, &["--shape", "bert-huge"]).expect_refusal(&["--shape", "bert-huge", "roberta-large"]);
    bench(&case, &["--dtype", "f64"]).expect_refusal(&["--dtype", "f64", "f32"]);
    bench(&case, &["--injection", "both"]).expect_refusal(&["--injection", "add, prefix"]);
    for option in ["population", "examples", "repeats", "prompt-tokens", "max-batch-tokens"] {
        bench(&case, &[&format!("--{option}"), "0"]).expect_refusal(&[option, "1 or more"]);
    }
    bench(&case, &["--model", "absent"]).expect_refusal(&["absent", "no folder"]);
    bench(&case, &["--work", "absent"]).expect_refusal(&["absent/work.json"]);
    let long = ["--shape", "bert-tiny", "--prompt-tokens", "600"];
    bench(&case, &long).expect_refusal(&["example 0", "the model allows 512"]);
    for save in ["run.toml/bench.jsonl", "model"] {
        let ended = run(&mut case.zeroth(&["bench", "evaluator", "--shape", "bert-tiny", "--save", save]));
        ended.expect_refusal(&[save, "say --save FILE"]);
    }
    case.write("kept/bench.jsonl", "{}\nnothing\n");
    bench(&case, &TINY).expect_refusal(&["kept/bench.jsonl", "line 2"]);
}

fn fleet(case: &Case, more: &[&str]) -> Ended {
    run(&mut case.zeroth(&[&["bench", "fleet"], more].concat()))
}

const FEW: [&str; 8] = ["--evaluators", "8", "--population", "16", "--latency-ms", "1", "--dim", "20"];

/// Nothing of time: whatever else this machine does, losses come back to their places.
#[test]
fn a_fleet_of_simulated_evaluators_is_timed() {
    let case = case();
    let seldom = ["--generations", "20", "--json"];
    let fewer = ["--evaluators", "20", "--population", "6"]; // candidates than evaluators
    for (few, more) in [
        (&FEW[..4], &[][..]),
        (&FEW[..4], &["--cost", "candidate", "--slow", "1", "--slow-factor", "3"]),
        (&FEW[..4], &["--profile", "heavy-tailed"]),
        (&fewer, &[]),
    ] {
        let ended = fleet(&case, &[few, &FEW[4..], &seldom, more].concat()).expect(0);
        let found = rows(&ended);
        assert_eq!((found.len(), ended.err.as_str()), (1, ""), "{}", ended.report());
        let number = |key: &str| found[0][key].as_f64().unwrap_or_else(|| panic!("{key}: {}", found[0]));
        assert_eq!(number("generations"), 20.0);
        let efficiency = number("efficiency");
        let most = if more.contains(&"heavy-tailed") { 3.0 } else { 1.05 }; // of few draws, not of the distribution
        assert!(efficiency > 0.0 && efficiency <= most, "{efficiency} {more:?}");
        let calls = 20.0 * number("population");
        assert!((number("calls_per_second") * number("seconds") / calls - 1.0).abs() < 1e-9);
        assert!(number("leases") >= 20.0, "{}", found[0]);
        assert!(number("lease_ms_p50") <= number("lease_ms_p99"), "{}", found[0]);
        assert!(number("coordinator_rss_mb") > 1.0 && number("coordinator_cpu_seconds") >= 0.0);
    }
    let table = fleet(&case, &[&FEW[..], &["--seconds", "0.2"]].concat()).expect(0);
    for part in ["evaluators   8 of 1 ms a lease, constant", "% of the ideal", "the middle one", "MB"] {
        assert!(table.out.contains(part), "{part}\n{}", table.report());
    }
}

#[test]
fn a_failing_fleet_loses_nothing() {
    let case = case();
    let failing = ["--profile", "failing", "--generations", "150", "--json", "--log", "info"];
    let ended = fleet(&case, &[&FEW[..], &failing].concat()).expect(0);
    assert_eq!(rows(&ended)[0]["generations"], json!(150));
    let joined = ended.err.matches("joins as evaluator-").count();
    assert!(joined > 8, "nobody came back\n{}", ended.report());
}

#[test]
fn a_fleet_that_cannot_be_simulated_is_refused() {
    let case = case();
    for option in ["evaluators", "population", "dim", "examples", "layers", "generations"] {
        fleet(&case, &[&format!("--{option}"), "0"]).expect_refusal(&[option, "1 or more"]);
    }
    fleet(&case, &["--slow", "65"]).expect_refusal(&["--slow 65", "--evaluators 64"]);
    fleet(&case, &["--slow-factor", "0.5"]).expect_refusal(&["--slow-factor", "between 1 and"]);
    fleet(&case, &["--latency-ms=-1"]).expect_refusal(&["--latency-ms", "0 or more"]);
    fleet(&case, &["--evaluators", "1000000000"]).expect_refusal(&["ulimit -n"]);
}

fn cma(case: &Case, more: &[&str]) -> Ended {
    run(&mut case.zeroth(&[&["bench", "cma"], more].concat()))
}

/// Nothing of time but that it adds up.
#[test]
fn the_optimiser_is_timed() {
    let case = case();
    let sizes = ["--dim", "5", "--dim", "20", "--population", "8", "--generations", "3"];
    let found = rows(&cma(&case, &[&sizes[..], &["--json"]].concat()).expect(0));
    assert_eq!(found.iter().map(|row| &row["dim"]).collect::<Vec<_>>(), [&json!(5), &json!(20)]);
    for row in &found {
        assert_eq!(
            [&row["population"], &row["generations"], &row["variant"]],
            [&json!(8), &json!(3), &json!("full")]
        );
        let number = |key: &str| row[key].as_f64().unwrap_or_else(|| panic!("{key}: {row}"));
        assert!(
            (number("ms") - number("ask_ms") - number("tell_ms")).abs() < 1e-9 && number("critical_ms") > 0.0
        );
    }
    let table = cma(&case, &[&sizes[..], &["--variant", "separable"]].concat()).expect(0);
    for part in ["ms/generation", "critical ms", "separable"] {
        assert!(table.out.contains(part), "{part}\n{}", table.report());
    }
    cma(&case, &["--dim", "0"]).expect_refusal(&["dimension 0"]);
    cma(&case, &["--population", "1"]).expect_refusal(&["population 1"]);
    cma(&case, &["--generations", "0"]).expect_refusal(&["--generations", "1 or more"]);
    cma(&case, &["--variant", "fast"]).expect_refusal(&["--variant", "\"fast\"", "separable"]);
    cma(&case, &["--stdio", "--json"]).expect(2);
}

/// Sends lines to the optimiser.
fn drive(case: &Case, lines: &[Value]) -> Ended {
    let input: String = lines.iter().map(|line| format!("{line}\n")).collect();
    Process::start_with_input(&mut case.zeroth(&["bench", "cma", "--stdio"]), &input).wait()
}

/// The same losses whatever is asked: the search need not know that nobody evaluates.
#[test]
fn another_program_drives_the_optimiser() {
    let case = case();
    let start = json!({"start": {
        "dim": 3, "sigma": 0.5, "mean": [0.1, 0.2, 0.3], "population": 6, "seed": 1, "restarts": "bipop", "most": 1,
        "bounds": [[0.0], [1.0]], "stopping": {"maxiter": 2},
    }, "ask": true});
    let tell = json!({"tell": [3.0, 1.0, null, 2.0, 5.0, 4.0], "ask": true});
    let found =
        rows(&drive(&case, &[start.clone(), tell.clone(), json!({"tell": [1, 2, 3, 4, 5, 6]})]).expect(0));
    let candidates = found[0]["candidates"].as_array().unwrap();
    let inside = |x: &Value| (0.0..=1.0).contains(&x.as_f64().unwrap());
    assert_eq!(candidates.len(), 6);
    assert!(
        candidates
            .iter()
            .all(|z| z.as_array().unwrap().len() == 3 && z.as_array().unwrap().iter().all(inside))
    );
    assert_eq!(
        [&found[0]["best"], &found[0]["evaluations"], &found[0]["variant"]],
        [&Value::Null, &json!(0), &json!("full")]
    );
    assert_eq!(
        [&found[1]["best"], &found[1]["evaluations"], &found[1]["searches"]],
        [&json!(1.0), &json!(6), &json!(0)]
    );
    assert_eq!(found[1]["best_candidate"], candidates[1], "the one with the smallest loss");
    assert_ne!(found[1]["candidates"], found[0]["candidates"]);
    assert_eq!(
        [&found[2]["evaluations"], &found[2]["searches"]],
        [&json!(12), &json!(1)],
        "two generations were allowed"
    );
    assert_eq!(found[2].get("candidates"), None, "none were asked for");
    assert_eq!(rows(&drive(&case, &[start, tell]).expect(0)), found[..2], "as before");

    let enough = json!({"start": {"dim": 2, "sigma": 1, "stopping": {"ftarget": 0.5}}, "ask": true});
    let found = rows(&drive(&case, &[enough, json!({"tell": [1, 2, 0.5, 3, 4, 5], "ask": true})]).expect(0));
    assert_eq!((&found[1]["stop"], found[1].get("candidates")), (&json!(["ftarget"]), None));
}

#[test]
fn a_wrong_request_is_told() {
    let case = case();
    let start = |key: &str, value: Value| {
        let mut given = json!({"dim": 2, "sigma": 1.0});
        given[key] = value;
        json!({"start": given, "ask": true})
    };
    let right = start("seed", json!(0));
    for (line, parts) in [
        (json!({"ask": true}), ["line 1", "\"start\""]),
        (json!({"begin": {}}), ["line 1", "`begin`"]),
        (json!({"start": {"sigma": 1}}), ["line 1", "\"dim\" is missing"]),
        (start("sigma", json!("large")), ["line 1", "\"sigma\": invalid type"]),
        (start("sigma", json!(0)), ["line 1", "sigma"]),
        (start("popsize", json!(9)), ["line 1", "\"popsize\" is none of: dim, sigma, population"]),
        (start("variant", json!("fast")), ["\"variant\"", "separable"]),
        (start("restarts", json!("often")), ["\"restarts\"", "none, ipop, bipop"]),
        (start("learning", json!("fast")), ["\"learning\"", "fixed, adapted"]),
        (start("stopping", json!({"tolfum": 1})), ["\"stopping\": \"tolfum\"", "tolfun"]),
        (start("stopping", json!({"tolfun": "x"})), ["\"stopping\": \"tolfun\"", "f64"]),
    ] {
        drive(&case, &[line]).expect_refusal(&[&["stdin"][..], &parts].concat());
    }
    for (losses, part) in [(json!([1, 2]), "6"), (json!([1, 2, 3, 4, 5, "x"]), "f64")] {
        let ended = drive(&case, &[right.clone(), json!({"tell": losses})]).expect(2);
        assert_eq!((ended.out.lines().count(), ended.err.lines().count()), (1, 1), "{}", ended.report());
        assert!(ended.err.contains("stdin, line 2: ") && ended.err.contains(part), "{}", ended.report());
    }
}
