//! Thousands of random options: right or wrong, the optimiser never panics, never goes on for ever, and when it ends it
//! says why.
#![allow(clippy::print_stdout, clippy::unwrap_used)] // a test's helpers, too, end by panicking

use std::cell::Cell;

use coordinator::cma::{Bounds, LearningRates, Options, Restarting, Restarts, Start, Stopping, Variant};
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

/// Evaluations that a search may have.
const BUDGET: u64 = 1500;

/// Mostly a number of a useful size, now and then anything.
fn number() -> impl Strategy<Value = f64> {
    prop_oneof![8 => 1e-3..10.0, 2 => -10.0..10.0, 1 => prop::num::f64::ANY, 1 => Just(0.0)]
}

fn positive() -> impl Strategy<Value = f64> {
    prop_oneof![20 => 1e-3..10.0, 1 => 1e-300..1e300, 1 => prop::num::f64::ANY]
}

fn vector(dim: usize, entry: fn() -> BoxedStrategy<f64>) -> BoxedStrategy<Option<Vec<f64>>> {
    let right = prop::collection::vec(entry(), dim).prop_map(Some);
    let wrong = prop::collection::vec(entry(), 0..4).prop_map(Some);
    prop_oneof![4 => Just(None), 4 => right, 1 => wrong].boxed()
}

fn bounds(dim: usize) -> impl Strategy<Value = Option<Bounds>> {
    let side = |sign: f64| {
        let entry = prop_oneof![6 => (5.0..20.0).prop_map(move |v: f64| sign * v), 2 => Just(sign * f64::INFINITY), 1 => number()];
        prop_oneof![Just(1), Just(dim), 0..3usize]
            .prop_flat_map(move |count| prop::collection::vec(entry.clone(), count))
    };
    let both = (side(-1.0), side(1.0)).prop_map(|(lower, upper)| Some(Bounds { lower, upper }));
    prop_oneof![2 => Just(None), 1 => both]
}

fn stopping() -> impl Strategy<Value = Stopping> {
    let tolerance = || prop_oneof![12 => Just(None), 6 => (0.0..1.0).prop_map(Some), 1 => prop::num::f64::ANY.prop_map(Some)];
    let some = |value: Option<f64>, default: f64| value.unwrap_or(default);
    let default = Stopping::default();
    let tolerances = (tolerance(), tolerance(), tolerance(), tolerance(), tolerance(), tolerance());
    let counts =
        (prop::option::of(0u64..200), prop::option::of(0u64..BUDGET), prop::option::of(0u64..300), 0u32..4);
    (tolerances, counts, prop::option::of(number())).prop_map(
        move |(t, (maxiter, maxfevals, stagnation, flat), ftarget)| Stopping {
            maxiter,
            maxfevals: Some(maxfevals.unwrap_or(BUDGET)),
            ftarget,
            tolx: some(t.0, default.tolx),
            tolfun: some(t.1, default.tolfun),
            tolfunhist: some(t.2, default.tolfunhist),
            tolfunrel: some(t.3, default.tolfunrel),
            tolfacupx: some(t.4, default.tolfacupx),
            tolconditioncov: some(t.5, default.tolconditioncov),
            tolstagnation: stagnation,
            tolflatfitness: flat,
            ..default
        },
    )
}

fn options() -> impl Strategy<Value = Options> {
    let dim = prop_oneof![12 => 1usize..10, 1 => Just(0), 1 => 40usize..60, 1 => 100_000usize..200_000];
    let population =
        prop_oneof![4 => Just(None), 6 => (4usize..40).prop_map(Some), 1 => (0usize..4).prop_map(Some)];
    let mu = prop_oneof![3 => Just(None), 1 => (0usize..20).prop_map(Some)];
    let variant = prop_oneof![
        Just(Variant::Full),
        Just(Variant::Separable),
        prop::option::of(0u64..40).prop_map(|generations| Variant::DiagonalStart { generations }),
        Just(Variant::LimitedMemory),
        Just(Variant::Auto),
    ];
    let learning = prop_oneof![3 => Just(LearningRates::Fixed), 1 => Just(LearningRates::Adapted)];
    (dim, population, mu, variant, learning).prop_flat_map(|(dim, population, mu, variant, learning)| {
        let shape = dim.min(100); // longer vectors are wrong ones, and take time
        let vectors =
            (vector(shape, || number().boxed()), vector(shape, || positive().boxed()), bounds(shape));
        (vectors, positive(), any::<bool>(), any::<u64>(), stopping()).prop_map(
            move |((mean, stds, bounds), sigma, active, seed, stopping)| Options {
                population,
                mu,
                mean,
                stds,
                bounds,
                active,
                variant,
                learning,
                seed,
                stopping,
                ..Options::new(dim, sigma)
            },
        )
    })
}

fn restarts() -> impl Strategy<Value = Restarts> {
    let increase = || prop_oneof![4 => 1.1..3.0, 1 => number()];
    prop_oneof![
        Just(Restarts::None),
        (0u64..4, increase()).prop_map(|(most, increase)| Restarts::Ipop { most, increase }),
        (0u64..4, increase(), number()).prop_map(|(most, increase, share)| Restarts::Bipop {
            most,
            increase,
            share
        }),
    ]
}

fn start(options: &Options, between: bool) -> Start {
    let corner = |value| vec![value; options.dim.min(100)];
    if between { Start::Between { lower: corner(-1.0), upper: corner(2.0) } } else { Start::Mean }
}

fn loss(kind: usize, x: &[f64]) -> f64 {
    let sphere: f64 = x.iter().map(|v| v * v).sum();
    match kind {
        0 => sphere,
        1 => x.iter().map(|v| v * v + 10.0 - 10.0 * (6.0 * v).cos()).sum(),
        2 => 1.0,
        3 => f64::NAN,
        4 => x.iter().sum(),
        5 if x[0] > 0.0 => f64::INFINITY,
        6 => (1e6 * sphere).sin(),
        7 => sphere * 1e300,
        8 => -f64::INFINITY,
        _ => x.iter().enumerate().map(|(i, v)| 10f64.powi(i as i32) * v * v).sum(),
    }
}

/// Runs to the end; whether there was a search at all.
fn run(options: &Options, restarts: Restarts, between: bool, kind: usize) -> Result<bool, TestCaseError> {
    let mut search = match Restarting::starting(options, restarts, start(options, between)) {
        Ok(search) => search,
        Err(error) => {
            let text = error.to_string();
            prop_assert!(!text.is_empty() && !text.contains('\n'), "{}", text);
            return Ok(false);
        }
    };
    let mut generations = 0;
    while search.stop().is_empty() {
        // a search that has broken down says so, and why it is over
        let Ok(candidates) = search.ask() else { break };
        prop_assert!(candidates.iter().flatten().all(|x| x.is_finite()));
        let losses: Vec<f64> = candidates.iter().map(|x| loss(kind, x)).collect();
        search.tell(&candidates, &losses).unwrap();
        generations += 1;
        prop_assert!(generations <= BUDGET, "{generations} generations");
    }
    prop_assert!(!search.stop().is_empty());
    prop_assert!(search.ended().iter().all(|ended| !ended.reasons.is_empty()));
    prop_assert_eq!(search.ended().iter().map(|ended| ended.evaluations).sum::<u64>(), search.evaluations());
    Ok(true)
}

#[test]
fn never_panics_never_loops_always_says_why() {
    let config = ProptestConfig { cases: 6000, failure_persistence: None, ..ProptestConfig::default() };
    let (ran, refused) = (Cell::new(0), Cell::new(0));
    let any = (options(), restarts(), any::<bool>(), 0usize..10);
    // the same ones each time: what fails once must fail again
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
        .run(&any, |(options, restarts, between, kind)| {
            let count = if run(&options, restarts, between, kind)? { &ran } else { &refused };
            count.set(count.get() + 1);
            Ok(())
        })
        .unwrap();
    println!("{} searches ran, {} were refused", ran.get(), refused.get());
    assert!(ran.get() > 1000 && refused.get() > 1000);
}
