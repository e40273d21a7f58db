//! Our CMA-ES beside pycma's: the same normals must give the same search (golden values: scripts/golden/pycma.py).
// clippy's leave for tests does not reach the helpers of an integration test
#![allow(clippy::panic, clippy::print_stdout, clippy::unwrap_used)]

use coordinator::cma::{Options, State};
use given::{Normals, deviation, ellipsoid, norm, rosenbrock};
use serde::Deserialize;

mod given;

/// Largest deviation borne, relative to the vector's or matrix's largest entry.
const TOLERANCE: f64 = 1e-9;

#[derive(Deserialize)]
struct Golden {
    tool: String,
    function: String,
    dim: usize,
    population: usize,
    active: bool,
    start: f64,
    sigma: f64,
    seed: u64,
    constants: Constants,
    snapshots: Vec<Snapshot>,
}

#[derive(Deserialize)]
struct Constants {
    weights: Vec<f64>,
    mu: usize,
    mu_eff: f64,
    c_sigma: f64,
    d_sigma: f64,
    c_c: f64,
    c_1: f64,
    c_mu: f64,
    chi: f64,
    lazy_gap: f64,
}

#[derive(Deserialize)]
struct Snapshot {
    generation: u64,
    sigma: f64,
    mean: Vec<f64>,
    path_sigma: Vec<f64>,
    path_c: Vec<f64>,
    covariance_diagonal: Vec<f64>,
    covariance_first_column: Vec<f64>,
    covariance_norm: f64,
    best_loss: f64,
    generation_best: f64,
    /// Lower triangle, row after row.
    covariance: Option<Vec<Vec<f64>>>,
}

fn objective(function: &str) -> fn(&[f64]) -> f64 {
    match function {
        "ellipsoid" => ellipsoid,
        "rosenbrock" => rosenbrock,
        other => panic!("unknown function {other}"),
    }
}

fn compare(name: &str, state: &State, golden: &Snapshot) -> f64 {
    let dim = state.dim();
    let diagonal: Vec<f64> = (0..dim).map(|i| state.covariance(i, i)).collect();
    let column: Vec<f64> = (0..dim).map(|i| state.covariance(i, 0)).collect();
    let square = (0..dim).flat_map(|i| (0..dim).map(move |j| (i, j)));
    let whole: Vec<f64> = square.map(|(i, j)| state.covariance(i, j)).collect();
    let best = state.best().unwrap().1;
    let mut found = vec![
        ("sigma", deviation(&[state.sigma()], &[golden.sigma])),
        ("mean", deviation(state.mean(), &golden.mean)),
        ("path_sigma", deviation(state.path_sigma(), &golden.path_sigma)),
        ("path_c", deviation(state.path_c(), &golden.path_c)),
        ("diagonal", deviation(&diagonal, &golden.covariance_diagonal)),
        ("column", deviation(&column, &golden.covariance_first_column)),
        ("norm", deviation(&[norm(&whole)], &[golden.covariance_norm])),
        ("best loss", deviation(&[best], &[golden.best_loss])),
    ];
    if let Some(rows) = &golden.covariance {
        let lower = (0..dim).flat_map(|i| (0..=i).map(move |j| (i, j)));
        let ours: Vec<f64> = lower.map(|(i, j)| state.covariance(i, j)).collect();
        found.push(("covariance", deviation(&ours, &rows.concat())));
    }
    for (what, apart) in &found {
        let generation = golden.generation;
        assert!(*apart <= TOLERANCE, "{name}: {what} deviates by {apart:e} in generation {generation}");
    }
    found.iter().fold(0.0, |a: f64, (_, b)| a.max(*b))
}

fn check_constants(state: &State, golden: &Constants) {
    let p = state.params();
    assert_eq!(p.mu, golden.mu);
    assert!(deviation(&p.weights, &golden.weights) < 1e-13);
    let pairs = [
        (p.mu_eff, golden.mu_eff),
        (p.c_sigma, golden.c_sigma),
        (p.d_sigma, golden.d_sigma),
        (p.c_c, golden.c_c),
        (p.c_1, golden.c_1),
        (p.c_mu, golden.c_mu),
        (p.chi, golden.chi),
        (p.lazy_gap, golden.lazy_gap),
    ];
    for (ours, theirs) in pairs {
        assert!((ours / theirs - 1.0).abs() < 1e-13, "{ours} is not {theirs}");
    }
}

fn follow(name: &str, json: &str) {
    let golden: Golden = serde_json::from_str(json).unwrap();
    assert!(golden.tool.starts_with("pycma 4.5.0"));
    let options = Options {
        population: Some(golden.population),
        mean: Some(vec![golden.start; golden.dim]),
        active: golden.active,
        ..Options::new(golden.dim, golden.sigma)
    };
    let mut state = State::new(&options).unwrap();
    check_constants(&state, &golden.constants);
    let mut normals = Normals(golden.seed);
    let loss = objective(&golden.function);
    let mut snapshots = golden.snapshots.iter().peekable();
    let mut worst: f64 = 0.0;
    while let Some(next) = snapshots.peek() {
        let z = normals.draw(golden.population * golden.dim);
        let candidates = state.ask(&z).unwrap();
        let losses: Vec<f64> = candidates.iter().map(|x| loss(x)).collect();
        state.tell(&candidates, &losses).unwrap();
        if state.generation() == next.generation {
            let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
            assert!(
                deviation(&[best], &[next.generation_best]) <= TOLERANCE,
                "{name}: another best candidate"
            );
            worst = worst.max(compare(name, &state, next));
            snapshots.next();
        }
    }
    assert_eq!(state.generation(), 200);
    println!("{name}: largest deviation {worst:e}");
}

macro_rules! golden {
    ($test:ident, $name:literal) => {
        #[test]
        fn $test() {
            follow($name, include_str!(concat!("../../tests/golden/cma/", $name, ".json")));
        }
    };
}

golden!(ellipsoid_10, "ellipsoid-10");
golden!(ellipsoid_40, "ellipsoid-40");
golden!(ellipsoid_120_decomposes_lazily, "ellipsoid-120");
golden!(rosenbrock_10, "rosenbrock-10");
golden!(rosenbrock_40, "rosenbrock-40");
golden!(wide_population, "wide-20");
golden!(without_active_update, "passive-10");

/// The default population is pycma's too.
#[test]
fn default_population() {
    for (dim, population) in [(10, 10), (40, 15), (120, 18), (500, 22)] {
        assert_eq!(State::new(&Options::new(dim, 1.0)).unwrap().population(), population);
    }
}
