//! The optimiser's variants, bounds and reasons to stop beside pycma's, given the same normals (golden values:
//! scripts/golden/pycma_variants.py).
// clippy's leave for tests does not reach the helpers of an integration test
#![allow(clippy::panic, clippy::print_stdout, clippy::unwrap_used)]

use std::collections::BTreeMap;

use coordinator::cma::{Bounds, Options, State, Stopping, Variant};
use given::{Normals, deviation, ellipsoid, norm, rosenbrock};
use serde::Deserialize;

mod given;

/// Largest deviation borne, relative to the vector's norm.
const TOLERANCE: f64 = 1e-9;

#[derive(Deserialize)]
struct Golden<T> {
    tool: String,
    cases: Vec<T>,
}

#[derive(Deserialize)]
struct Case {
    variant: String,
    dim: usize,
    population: usize,
    seed: u64,
    diagonal: u64,
    weights: Vec<f64>,
    snapshots: Vec<Snapshot>,
}

/// Vectors by their norm and their first, second, middle and last entry.
#[derive(Deserialize)]
struct Snapshot {
    generation: u64,
    sigma: f64,
    mean: Vec<f64>,
    path_sigma: Vec<f64>,
    path_c: Vec<f64>,
    scales: Vec<f64>,
    covariance_diagonal: Vec<f64>,
    covariance_last_row: Vec<f64>,
    covariance_norm: f64,
    stds: Vec<f64>,
    best_loss: f64,
    generation_best: f64,
}

#[derive(Deserialize)]
struct Stop {
    function: String,
    dim: usize,
    seed: u64,
    option: Option<String>,
    value: Option<f64>,
    generations: u64,
    reasons: Vec<String>,
}

fn digest(values: &[f64]) -> Vec<f64> {
    let mut at = vec![0, 1, values.len() / 2, values.len() - 1];
    at.dedup();
    let mut found = vec![norm(values)];
    found.extend(at.into_iter().map(|i| values[i]));
    found
}

fn compare(state: &State, golden: &Snapshot) -> Vec<(&'static str, f64)> {
    let dim = state.dim();
    let entries = |row: fn(usize, usize) -> (usize, usize)| -> Vec<f64> {
        (0..dim).map(|i| row(i, dim)).map(|(i, j)| state.covariance(i, j)).collect()
    };
    let square = (0..dim).flat_map(|i| (0..dim).map(move |j| (i, j)));
    let whole: Vec<f64> = square.map(|(i, j)| state.covariance(i, j)).collect();
    let scales: Vec<f64> = (0..dim).map(|i| state.scale(i)).collect();
    vec![
        ("sigma", deviation(&[state.sigma()], &[golden.sigma])),
        ("mean", deviation(&digest(state.mean()), &golden.mean)),
        ("p_sigma", deviation(&digest(state.path_sigma()), &golden.path_sigma)),
        ("p_c", deviation(&digest(state.path_c()), &golden.path_c)),
        ("scales", deviation(&digest(&scales), &golden.scales)),
        ("C's diagonal", deviation(&digest(&entries(|i, _| (i, i))), &golden.covariance_diagonal)),
        ("C's last row", deviation(&digest(&entries(|i, dim| (dim - 1, i))), &golden.covariance_last_row)),
        ("C's norm", deviation(&[norm(&whole)], &[golden.covariance_norm])),
        ("standard deviations", deviation(&digest(&state.stds()), &golden.stds)),
        ("best loss", deviation(&[state.best().unwrap().1], &[golden.best_loss])),
    ]
}

fn options(case: &Case) -> Options {
    let start = Options {
        population: Some(case.population),
        mean: Some(vec![1.0; case.dim]),
        ..Options::new(case.dim, 0.5)
    };
    match case.variant.as_str() {
        "full" => start,
        "passive" => Options { active: false, ..start },
        "bounds" => Options { bounds: Some(Bounds { lower: vec![0.2], upper: vec![3.0] }), ..start },
        "diagonal-start" => {
            Options { variant: Variant::DiagonalStart { generations: Some(case.diagonal) }, ..start }
        }
        "separable" => Options { variant: Variant::Separable, ..start },
        other => panic!("unknown variant {other}"),
    }
}

/// The agreement of each quantity, the worst of all cases, is in docs/cma.md.
#[test]
fn variants_are_pycmas() {
    let golden: Golden<Case> =
        serde_json::from_str(include_str!("../../tests/golden/cma/variants.json")).unwrap();
    assert!(golden.tool.starts_with("pycma 4.5.0"));
    assert_eq!(golden.cases.len(), 45);
    let mut worst: BTreeMap<(String, &str), f64> = BTreeMap::new();
    for case in &golden.cases {
        let mut state = State::new(&options(case)).unwrap();
        assert!(deviation(&digest(&state.params().weights), &case.weights) < 1e-13);
        let mut normals = Normals(case.seed);
        let mut snapshots = case.snapshots.iter().peekable();
        while let Some(next) = snapshots.peek() {
            let candidates = state.ask(&normals.draw(case.population * case.dim)).unwrap();
            let losses: Vec<f64> = candidates.iter().map(|x| ellipsoid(x)).collect();
            state.tell(&candidates, &losses).unwrap();
            if state.generation() < next.generation {
                continue;
            }
            let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
            let mut found = compare(&state, next);
            found.push(("generation's best", deviation(&[best], &[next.generation_best])));
            for (what, apart) in found {
                let Case { variant, dim, population, .. } = case;
                assert!(
                    apart <= TOLERANCE,
                    "{variant} {dim} {population}: {what} deviates by {apart:e} in generation {}",
                    next.generation
                );
                let entry = worst.entry((variant.clone(), what)).or_default();
                *entry = entry.max(apart);
            }
            snapshots.next();
        }
    }
    for ((variant, what), apart) in worst {
        println!("{variant}: {what} {apart:.0e}");
    }
}

#[test]
fn stops_when_and_why_pycma_stops() {
    let golden: Golden<Stop> =
        serde_json::from_str(include_str!("../../tests/golden/cma/stops.json")).unwrap();
    assert!(golden.tool.starts_with("pycma 4.5.0"));
    assert_eq!(golden.cases.len(), 10);
    for case in &golden.cases {
        let mut options = Options::new(case.dim, 0.5);
        let start = if case.function == "rosenbrock" { 0.0 } else { 1.0 };
        options.mean = Some(vec![start; case.dim]);
        let value = case.value.unwrap_or_default();
        let stopping = Stopping::default();
        match case.option.as_deref() {
            None => {}
            Some("CMA_diagonal") => options.variant = Variant::Separable,
            Some("maxiter") => options.stopping = Stopping { maxiter: Some(value as u64), ..stopping },
            Some("ftarget") => options.stopping = Stopping { ftarget: Some(value), ..stopping },
            Some("tolx") => options.stopping = Stopping { tolx: value, ..stopping },
            Some("tolfunrel") => options.stopping = Stopping { tolfunrel: value, ..stopping },
            Some("tolconditioncov") => {
                options.stopping = Stopping { tolconditioncov: value, ..stopping };
            }
            Some(other) => panic!("unknown option {other}"),
        }
        let loss: fn(&[f64]) -> f64 = match case.function.as_str() {
            "ellipsoid" => ellipsoid,
            "rosenbrock" => rosenbrock,
            "flat" => |_| 1.0,
            "linear" => |x| x.iter().sum(),
            other => panic!("unknown function {other}"),
        };
        let mut state = State::new(&options).unwrap();
        let mut normals = Normals(case.seed);
        while state.stop().is_empty() && state.generation() <= case.generations {
            let candidates = state.ask(&normals.draw(state.population() * case.dim)).unwrap();
            let losses: Vec<f64> = candidates.iter().map(|x| loss(x)).collect();
            state.tell(&candidates, &losses).unwrap();
        }
        let mut reasons: Vec<String> = state.stop().iter().map(ToString::to_string).collect();
        reasons.sort();
        let name = format!("{} {:?}", case.function, case.option);
        assert_eq!((state.generation(), &reasons), (case.generations, &case.reasons), "{name}");
    }
}
