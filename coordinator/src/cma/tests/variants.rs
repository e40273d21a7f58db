//! Every variant: it converges, resumes without a trace, and a state of another version is refused.

use super::{Normals, ellipsoid, rosenbrock, sphere, step};
use crate::cma::{Bounds, Error, LearningRates, Options, State, StopReason, Stopping, Variant};

const VARIANTS: [Variant; 4] = [
    Variant::Full,
    Variant::Separable,
    Variant::DiagonalStart { generations: Some(5) },
    Variant::LimitedMemory,
];

fn started(dim: usize, variant: Variant) -> Options {
    Options { mean: Some(vec![1.0; dim]), variant, ..Options::new(dim, 0.5) }
}

/// Options of every kind of state there is.
fn kinds(dim: usize) -> Vec<Options> {
    let bounds = Bounds { lower: vec![-2.0], upper: vec![1.5] };
    let mut kinds: Vec<Options> = VARIANTS.map(|variant| started(dim, variant)).into();
    kinds.push(Options { bounds: Some(bounds), stds: Some(vec![0.3; dim]), ..started(dim, Variant::Full) });
    for variant in [Variant::Full, Variant::Separable] {
        kinds.push(Options { learning: LearningRates::Adapted, ..started(dim, variant) });
    }
    kinds
}

fn evaluations(options: &Options, loss: fn(&[f64]) -> f64, target: f64) -> u64 {
    let (mut state, mut normals) = (State::new(options).unwrap(), Normals(7));
    while state.best().is_none_or(|(_, best)| best > target) {
        assert!(
            state.evaluations() < 400_000,
            "{}: {:?}",
            options.variant,
            state.best().map(|(_, loss)| loss)
        );
        step(&mut state, &mut normals, loss);
    }
    state.evaluations()
}

/// Budgets: about twice what each took when this was written.
#[test]
fn converge() {
    for variant in VARIANTS {
        assert!(evaluations(&started(20, variant), sphere, 1e-9) < 6_000, "{variant}");
    }
    let separable = evaluations(&started(20, Variant::Separable), ellipsoid, 1e-9);
    let full = evaluations(&started(20, Variant::Full), ellipsoid, 1e-9);
    assert!(separable < 10_000 && 2 * separable < full, "{separable} and {full}");
    let turning = started(20, Variant::DiagonalStart { generations: Some(30) });
    assert!(evaluations(&turning, rosenbrock, 1e-9) < 60_000);
    assert!(evaluations(&started(20, Variant::LimitedMemory), rosenbrock, 1e-6) < 200_000);
    let adapted = Options { learning: LearningRates::Adapted, ..started(10, Variant::Full) };
    assert!(evaluations(&adapted, ellipsoid, 1e-9) < 30_000);
}

/// A hundred thousand variables: what fits into memory moves, and moves well.
#[test]
fn a_hundred_thousand_variables() {
    for variant in [Variant::Separable, Variant::LimitedMemory] {
        let options = Options { sigma: 0.05, ..started(100_000, variant) };
        assert!(options.memory_bytes() < 200 << 20, "{}", options.memory_bytes());
        let (mut state, mut normals) = (State::new(&options).unwrap(), Normals(3));
        for _ in 0..3 {
            step(&mut state, &mut normals, sphere);
        }
        let length = |x: &[f64]| sphere(x).sqrt();
        assert!(length(state.mean()) < length(&vec![1.0; 100_000]));
    }
}

#[test]
fn resume_bit_for_bit() {
    let config = bincode::config::standard();
    let bytes = |state: &State| bincode::serde::encode_to_vec(state, config).unwrap();
    for options in kinds(6) {
        let (mut whole, mut normals) = (State::new(&options).unwrap(), Normals(3));
        for generation in 0..12 {
            whole.inject(&[vec![0.25; 6]], generation % 2 == 0).unwrap();
            let z = normals.draw(whole.population() * 6);
            let candidates = whole.ask(&z).unwrap();
            let losses: Vec<f64> = candidates.iter().map(|x| ellipsoid(x)).collect();
            // written between ask and tell, the worst moment
            let (mut read, _): (State, usize) =
                bincode::serde::decode_from_slice(&bytes(&whole), config).unwrap();
            assert_eq!(read.ask(&z).unwrap(), candidates);
            let foreseen = whole.foresee(&candidates, &losses).unwrap();
            whole.tell(&candidates, &losses).unwrap();
            read.tell(&candidates, &losses).unwrap();
            assert_eq!(bytes(&whole), bytes(&read), "{} in generation {generation}", options.variant);
            assert_eq!(foreseen.mean, whole.favourite());
            assert_eq!(foreseen.best.as_ref().map(|(x, loss)| (x.as_slice(), *loss)), whole.best());
            whole = read;
        }
    }
}

#[test]
fn other_versions_are_refused() {
    let config = bincode::config::standard();
    let mut bytes =
        bincode::serde::encode_to_vec(State::new(&Options::new(3, 1.0)).unwrap(), config).unwrap();
    bytes[0] += 1;
    let error = bincode::serde::decode_from_slice::<State, _>(&bytes, config).unwrap_err().to_string();
    assert!(error.contains("of the CMA-ES state; this program reads version"), "{error}");
}

/// No bytes may bring any kind of state to a panic: what is read is refused, or it works.
#[test]
fn damaged_bytes() {
    let config = bincode::config::standard();
    for options in kinds(2) {
        let (mut state, mut normals) = (State::new(&options).unwrap(), Normals(3));
        state.inject(&[vec![0.5, 0.5]], false).unwrap();
        step(&mut state, &mut normals, sphere);
        let bytes = bincode::serde::encode_to_vec(&state, config).unwrap();
        for at in 0..bytes.len() {
            for value in [0, 1, 7, 255] {
                let mut damaged = bytes.clone();
                damaged[at] = value;
                let Ok((mut read, _)) = bincode::serde::decode_from_slice::<State, _>(&damaged, config)
                else {
                    continue;
                };
                let z = normals.draw(read.population() * read.dim());
                if let Ok(candidates) = read.ask(&z) {
                    let losses: Vec<f64> = candidates.iter().map(|x| sphere(x)).collect();
                    let _ = read.tell(&candidates, &losses);
                }
                read.stop();
            }
        }
    }
}

/// The `cmaes` package's `lr_adapt` (0.13.1), same setting, five seeds: 0.074 to 0.087 and 0.52 to 0.65 without noise, 0.064
/// to 0.071 and 0.08 to 0.28 with a noise of ten. It has other weights and rates than pycma, so the ranges are theirs and
/// a little.
#[test]
fn adapted_rates_follow_the_noise() {
    let rates = |noise: f64| {
        let options = Options { learning: LearningRates::Adapted, ..started(5, Variant::Full) };
        let (mut state, mut normals, mut other) = (State::new(&options).unwrap(), Normals(7), Normals(11));
        for _ in 0..150 {
            let z = normals.draw(state.population() * 5);
            let candidates = state.ask(&z).unwrap();
            let losses: Vec<f64> = candidates.iter().map(|x| sphere(x) + noise * other.draw(1)[0]).collect();
            state.tell(&candidates, &losses).unwrap();
        }
        state.learning_rates().unwrap()
    };
    let (clear, noisy) = (rates(0.0), rates(10.0));
    let between = |x: f64, low: f64, high: f64| low < x && x < high;
    assert!(between(clear.0, 0.07, 0.1) && between(clear.1, 0.45, 0.75), "{clear:?}");
    assert!(between(noisy.0, 0.055, 0.075) && between(noisy.1, 0.05, 0.35), "{noisy:?}");
}

#[test]
fn bounds_hold() {
    let bounds = Bounds { lower: vec![0.1, f64::NEG_INFINITY], upper: vec![0.7, f64::INFINITY] };
    for variant in VARIANTS {
        let options = Options {
            mean: Some(vec![0.4, 3.0]),
            bounds: Some(bounds.clone()),
            variant,
            ..Options::new(2, 2.0)
        };
        let (mut state, mut normals) = (State::new(&options).unwrap(), Normals(5));
        assert!(state.stds()[0] <= 0.2 * 1.001);
        while state.stop().is_empty() {
            let z = normals.draw(state.population() * 2);
            let candidates = state.ask(&z).unwrap();
            assert!(candidates.iter().all(|x| (0.1..=0.7).contains(&x[0])));
            let losses: Vec<f64> = candidates.iter().map(|x| sphere(x)).collect();
            state.tell(&candidates, &losses).unwrap();
        }
        let (best, loss) = state.best().unwrap();
        assert!((best[0] - 0.1).abs() < 1e-9 && (loss - 0.01).abs() < 1e-9, "{variant}: {best:?}");
        assert_eq!(state.favourite()[0], state.favourite()[0].clamp(0.1, 0.7));
        let outside = vec![vec![0.0, 0.0]; state.population()];
        state.ask(&normals.draw(state.population() * 2)).unwrap();
        let losses = vec![0.0; state.population()];
        assert!(matches!(state.tell(&outside, &losses), Err(Error::OutsideBounds { .. })));
        // inside, but not what was asked: learnt where it is
        let inside = vec![vec![0.5, 0.0]; state.population()];
        state.tell(&inside, &losses).unwrap();
        assert!((state.favourite()[0] - 0.5).abs() < 1e-12);
    }
}

#[test]
fn diagonal_start_turns_full() {
    let mut state = State::new(&started(4, Variant::DiagonalStart { generations: Some(3) })).unwrap();
    let mut normals = Normals(1);
    let correlated = |state: &State| (0..4).any(|i| (0..i).any(|j| state.covariance(i, j) != 0.0));
    for generation in 1..=6 {
        step(&mut state, &mut normals, rosenbrock);
        assert_eq!(correlated(&state), generation > 3);
        assert_ne!(state.scale(0), 1.0);
    }
}

#[test]
fn reasons_of_budget_and_target() {
    let stopped = |stopping: Stopping| {
        let options = Options { stopping, ..started(4, Variant::Full) };
        let (mut state, mut normals) = (State::new(&options).unwrap(), Normals(1));
        while state.stop().is_empty() {
            step(&mut state, &mut normals, sphere);
        }
        (state.stop(), state.evaluations())
    };
    let default = Stopping::default();
    assert_eq!(stopped(Stopping { maxiter: Some(3), ..default }), (vec![StopReason::MaxIter], 24));
    assert_eq!(stopped(Stopping { maxfevals: Some(17), ..default }), (vec![StopReason::MaxFEvals], 24));
    let (reasons, evaluations) = stopped(Stopping { ftarget: Some(1e-3), ..default });
    assert_eq!(reasons, [StopReason::FTarget]);
    assert!(evaluations < 600);
    assert_eq!(stopped(Stopping { tolfunrel: 1e-3, ..default }).0, [StopReason::TolFunRel]);
    assert_eq!(stopped(Stopping { tolx: 1e-3, ..default }).0, [StopReason::TolX]);
}

/// A best loss that never comes again and medians that do not move: stagnation, once a hundred fifths are known.
#[test]
fn stagnation() {
    let stopping = Stopping { tolstagnation: Some(100), maxiter: Some(2000), ..Stopping::default() };
    let options = Options { stopping, ..started(4, Variant::Full) };
    let (mut state, mut normals) = (State::new(&options).unwrap(), Normals(1));
    while state.stop().is_empty() {
        step(&mut state, &mut normals, |x| (1e6 * x.iter().sum::<f64>()).sin());
    }
    assert_eq!(state.stop(), [StopReason::TolStagnation]);
    assert!((505..2000).contains(&state.generation()), "{}", state.generation());
}
