//! `zeroth bench evaluator`: what it says of a tiny shape, what it keeps, and what it refuses. `zeroth bench fleet`: what
//! it says of a few simulated evaluators, honest or failing.

use serde_json::{Value, json};
use tests::{Case, Ended, Family, run};

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
    let kept = std::fs::read_to_string(case.path("kept/bench.jsonl")).unwrap();
    assert_eq!(kept.lines().count(), 2, "the newest of each kind\n{kept}");
    let table = bench(&case, &[&TINY[..], &["--injection", "add"]].concat()).expect(0);
    for part in ["s/call", "GFLOP/call", "bert-tiny", "% of", "kept/bench.jsonl"] {
        assert!(table.out.contains(part), "{part}\n{}", table.report());
    }
}

#[test]
fn a_real_model_is_timed() {
    let case = case();
    let real = [
        "--model",
        "model",
        "--prompt-tokens",
        "2",
        "--population",
        "2",
        "--examples",
        "2",
        "--repeats",
        "1",
    ];
    let found = rows(&bench(&case, &[&real[..], &["--json"]].concat()).expect(0));
    assert_eq!((&found[0]["shape"], found.len()), (&json!("model"), 2), "{found:?}");
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
