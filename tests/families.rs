//! Every kind of model from its files to an artefact that scores as the run says.

use serde_json::Value;
use tests::{Case, Family, generations, run};

/// The losses of a generation; what is not finite is written as null, and is no number.
fn losses(generation: &Value) -> Vec<f64> {
    let losses = generation["losses"].as_array().unwrap();
    losses.iter().map(|loss| loss.as_f64().unwrap_or_else(|| panic!("{generation}"))).collect()
}

fn best<'a>(generations: impl IntoIterator<Item = &'a Value>) -> f64 {
    generations.into_iter().flat_map(losses).fold(f64::INFINITY, f64::min)
}

/// Tunes, and scores what was there before and what came out.
fn comes_out(case: &Case) {
    let said = run(&mut case.tune("run", &[])).expect(0).json();
    let trace = generations(&case.path("run"));
    assert_eq!(trace.len(), case.generations());
    let (first, all) = (best(&trace[..1]), best(&trace));
    assert!(all < first, "the best loss, {all}, is not below the first generation's, {first}");
    for (source, key) in [("run.toml", "test_before"), ("run", "test_after")] {
        let data = ["score", source, "--data", "test.jsonl", "--json"];
        let scored = run(&mut case.zeroth(&data)).expect(0).json();
        assert_eq!((&scored["metric"], &scored["examples"]), (&said[key], &Value::from(30)), "{source}");
        assert!(scored["loss"].as_f64().is_some_and(f64::is_finite), "{scored}");
    }
}

#[test]
fn modernbert() {
    comes_out(&Case::masked(Family::ModernBert, "add"));
    comes_out(&Case::masked(Family::ModernBert, "prefix"));
}

#[test]
fn deberta() {
    comes_out(&Case::masked(Family::Deberta, "add"));
    comes_out(&Case::masked(Family::Deberta, "prefix"));
}

#[test]
fn cpt() {
    comes_out(&Case::masked(Family::Cpt, "add"));
    comes_out(&Case::masked(Family::Cpt, "prefix"));
}

#[test]
fn gpt2() {
    comes_out(&Case::next_token(Family::Gpt2, "add"));
    comes_out(&Case::next_token(Family::Gpt2, "prefix"));
}

#[test]
fn llama() {
    comes_out(&Case::next_token(Family::Llama, "add"));
    comes_out(&Case::next_token(Family::Llama, "prefix"));
}

#[test]
fn bart() {
    comes_out(&Case::seq2seq(Family::Bart, "add"));
    comes_out(&Case::seq2seq(Family::Bart, "prefix"));
}

#[test]
fn t5() {
    comes_out(&Case::seq2seq(Family::T5, "add"));
    comes_out(&Case::seq2seq(Family::T5, "prefix"));
}
