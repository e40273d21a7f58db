//! The optimiser as its user meets it: it converges, resumes without a trace, and refuses misuse.

use given::{Normals, ellipsoid, rosenbrock, sphere};

use super::covariance::Covariance;
use super::{Error, Options, State, StopReason, Variant};

#[path = "../../tests/given/mod.rs"]
mod given;
mod options;
mod restarts;
mod variants;

fn started(dim: usize, at: f64, sigma: f64) -> State {
    State::new(&Options { mean: Some(vec![at; dim]), ..Options::new(dim, sigma) }).unwrap()
}

fn step(state: &mut State, normals: &mut Normals, loss: impl Fn(&[f64]) -> f64) {
    let z = normals.draw(state.population() * state.dim());
    let candidates = state.ask(&z).unwrap();
    let losses: Vec<f64> = candidates.iter().map(|x| loss(x)).collect();
    state.tell(&candidates, &losses).unwrap();
}

fn evaluations_to(state: &mut State, loss: fn(&[f64]) -> f64, target: f64) -> u64 {
    let mut normals = Normals(7);
    while state.best().is_none_or(|(_, best)| best > target) {
        assert!(state.generation() < 5000, "no convergence: {:?}", state.best());
        step(state, &mut normals, loss);
    }
    state.generation() * state.population() as u64
}

/// Budgets: about twice what pycma needs from the same start.
#[test]
fn converges() {
    assert!(evaluations_to(&mut started(10, 1.0, 0.5), sphere, 1e-9) < 3_500);
    assert!(evaluations_to(&mut started(10, 1.0, 0.5), ellipsoid, 1e-9) < 12_000);
    assert!(evaluations_to(&mut started(10, 0.0, 0.3), rosenbrock, 1e-9) < 16_000);
    assert!(evaluations_to(&mut started(1, 1.0, 0.5), sphere, 1e-9) < 400);
    assert!(evaluations_to(&mut started(2, 1.0, 0.5), sphere, 1e-9) < 900);
}

#[test]
fn resumes_bit_for_bit() {
    let config = bincode::config::standard();
    for dim in [3, 150] {
        let (mut whole, mut normals) = (started(dim, 1.0, 0.5), Normals(3));
        for _ in 0..7 {
            step(&mut whole, &mut normals, ellipsoid);
        }
        // written between ask and tell, the worst moment
        let z = normals.draw(whole.population() * dim);
        let candidates = whole.ask(&z).unwrap();
        let bytes = bincode::serde::encode_to_vec(&whole, config).unwrap();
        let (mut read, used): (State, usize) = bincode::serde::decode_from_slice(&bytes, config).unwrap();
        assert_eq!((used, &read), (bytes.len(), &whole));
        assert_eq!(read.ask(&z).unwrap(), candidates);
        let losses: Vec<f64> = candidates.iter().map(|x| ellipsoid(x)).collect();
        whole.tell(&candidates, &losses).unwrap();
        read.tell(&candidates, &losses).unwrap();
        let mut other = Normals(normals.0);
        for _ in 0..20 {
            step(&mut whole, &mut normals, ellipsoid);
            step(&mut read, &mut other, ellipsoid);
        }
        let bytes = |state| bincode::serde::encode_to_vec(state, config).unwrap();
        assert_eq!(bytes(&whole), bytes(&read)); // == would call NaN unequal and -0 equal
    }
}

/// Sizes at which all that may be spread over threads is, with parts of 64 of which the last one is smaller.
#[test]
fn threads_change_no_bit() {
    let searched = |variant: Variant| {
        let (dim, population) = (200, 340);
        let options = Options { population: Some(population), variant, ..Options::new(dim, 0.5) };
        let (mut state, mut normals) = (State::new(&options).unwrap(), Normals(5));
        (0..3).for_each(|_| step(&mut state, &mut normals, ellipsoid));
        bincode::serde::encode_to_vec(&state, bincode::config::standard()).unwrap()
    };
    let on = |threads, variant| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| searched(variant))
    };
    for variant in [Variant::Full, Variant::Separable, Variant::LimitedMemory] {
        let alone = on(1, variant);
        for threads in [2, 3, 7] {
            assert!(on(threads, variant) == alone, "{variant} on {threads} threads");
        }
    }
}

/// No bytes may bring the optimiser to a panic: what is read is refused, or it works.
#[test]
fn damaged_bytes() {
    let config = bincode::config::standard();
    let (mut state, mut normals) = (started(3, 1.0, 0.5), Normals(3));
    step(&mut state, &mut normals, sphere);
    let bytes = bincode::serde::encode_to_vec(&state, config).unwrap();
    let mut refused = 0;
    for at in 0..bytes.len() {
        for value in [0, 1, 7, 255] {
            let mut damaged = bytes.clone();
            damaged[at] = value;
            let Ok((mut read, _)) = bincode::serde::decode_from_slice::<State, _>(&damaged, config) else {
                refused += 1;
                continue;
            };
            let z = normals.draw(read.population() * read.dim());
            if let Ok(candidates) = read.ask(&z) {
                let losses: Vec<f64> = candidates.iter().map(|x| sphere(x)).collect();
                let _ = read.tell(&candidates, &losses);
            }
            read.stop();
        }
        let cut = bincode::serde::decode_from_slice::<State, _>(&bytes[..at], config);
        assert!(cut.is_err());
    }
    assert!(refused > 0);
}

#[test]
fn losses_that_are_no_numbers_rank_last() {
    let ranked = |bad: f64| {
        let mut state = started(5, 1.0, 0.5);
        let z = Normals(1).draw(state.population() * 5);
        let candidates = state.ask(&z).unwrap();
        let losses: Vec<f64> =
            (0..state.population()).map(|i| if i < 2 { bad } else { -(i as f64) }).collect();
        state.tell(&candidates, &losses).unwrap();
        state
    };
    let high = ranked(1e300);
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -f64::NAN] {
        let state = ranked(bad);
        assert_eq!((state.mean(), state.sigma(), state.best()), (high.mean(), high.sigma(), high.best()));
    }
}

#[test]
fn no_loss_is_a_number() {
    let (mut state, mut normals) = (started(4, 1.0, 0.5), Normals(1));
    for _ in 0..50 {
        step(&mut state, &mut normals, |_| f64::NAN);
    }
    assert_eq!(state.best(), None);
    assert_eq!(state.stop(), [StopReason::TolFlatFitness]);
}

#[test]
fn equal_losses_rank_by_index() {
    let tell = |loss: fn(usize) -> f64| {
        let mut state = started(5, 1.0, 0.5);
        let z = Normals(1).draw(state.population() * 5);
        let candidates = state.ask(&z).unwrap();
        let losses: Vec<f64> = (0..state.population()).map(loss).collect();
        state.tell(&candidates, &losses).unwrap();
        state
    };
    let (tied, rising) = (tell(|_| 0.5), tell(|i| i as f64));
    assert_eq!((tied.mean(), tied.path_c(), tied.sigma()), (rising.mean(), rising.path_c(), rising.sigma()));
    assert_eq!(tied.best().map(|(x, _)| x), rising.best().map(|(x, _)| x));
}

#[test]
fn stops_with_reasons() {
    let (mut state, mut normals) = (started(4, 1.0, 0.5), Normals(1));
    assert_eq!(state.stop(), []);
    step(&mut state, &mut normals, |_| 0.0);
    assert_eq!(state.stop(), [StopReason::TolFun]);
    step(&mut state, &mut normals, |_| 0.0);
    assert_eq!(state.stop(), [StopReason::TolFun, StopReason::TolFlatFitness]);
    step(&mut state, &mut normals, sphere);
    assert_eq!(state.stop(), []);

    let (mut state, mut generations) = (started(4, 1.0, 0.5), 0);
    while state.stop().is_empty() {
        step(&mut state, &mut normals, sphere);
        generations += 1;
    }
    assert!((50..500).contains(&generations), "{generations}");
    assert_eq!(state.stop()[0].to_string(), "tolfun");

    let mut state = started(4, 0.0, 1e-3);
    while state.stop().is_empty() && state.generation() < 500 {
        step(&mut state, &mut normals, |x| x.iter().sum());
    }
    assert_eq!(state.stop(), [StopReason::TolFacUpX]);
}

/// Flat means that the best loss recurs beyond three quarters of the population: 7 of 8.
#[test]
fn flat_from_three_quarters_on() {
    for (equal, flat) in [(6, false), (7, true)] {
        let (mut state, mut normals) = (started(4, 1.0, 0.5), Normals(1));
        for _ in 0..2 {
            let candidates = state.ask(&normals.draw(8 * 4)).unwrap();
            let losses: Vec<f64> = (0..8).map(|i| if i < equal { 1.0 } else { 2.0 }).collect();
            state.tell(&candidates, &losses).unwrap();
        }
        assert_eq!(state.stop().contains(&StopReason::TolFlatFitness), flat);
    }
}

/// However far the candidates are that the caller puts in, sigma changes by a factor of e at most.
#[test]
fn sigma_changes_within_bounds() {
    let mut state = started(4, 0.0, 0.5);
    state.ask(&Normals(1).draw(8 * 4)).unwrap();
    let far: Vec<Vec<f64>> = (0..8).map(|i| vec![1e6 + i as f64; 4]).collect();
    state.tell(&far, &[0.0; 8]).unwrap();
    assert_eq!(state.sigma(), 0.5 * 1f64.exp());
}

#[test]
fn repairs_a_matrix_that_is_not_positive() {
    let mut covariance = Covariance::new(3);
    covariance.update(1.0, &[-5.0], &[1.0, 0.0, 0.0]);
    assert!(covariance.entry(0, 0) < -3.9);
    assert_eq!(covariance.refresh(1.0), Some(()));
    assert_eq!(covariance.repairs(), 1);
    assert!(covariance.entry(0, 0) > 0.0 && covariance.lengths().iter().all(|d| *d > 0.0));
    covariance.update(1.0, &[f64::NAN], &[1.0, 0.0, 0.0]);
    assert_eq!(covariance.refresh(1.0), None);
}

#[test]
fn ask_and_tell_in_turn() {
    let mut state = started(3, 1.0, 0.5);
    let lambda = state.population();
    let z = Normals(1).draw(lambda * 3);
    let (some, losses) = (vec![vec![0.0; 3]; lambda], vec![0.0; lambda]);
    assert_eq!(state.tell(&some, &losses), Err(Error::NotAsked));
    let short = Error::Length { what: "normals", found: lambda * 3 - 1, wanted: lambda * 3 };
    assert_eq!(state.ask(&z[1..]), Err(short));
    let candidates = state.ask(&z).unwrap();
    assert_eq!(state.ask(&z).unwrap(), candidates);

    let before = state.clone();
    let length = |result| matches!(result, Err(Error::Length { .. }));
    assert!(length(state.tell(&candidates[1..], &losses)));
    assert!(length(state.tell(&candidates, &losses[1..])));
    let mut odd = candidates.clone();
    odd[1].pop();
    assert!(length(state.tell(&odd, &losses)));
    odd[1] = vec![0.0, f64::NAN, 0.0];
    assert_eq!(state.tell(&odd, &losses), Err(Error::NotFinite("a candidate")));
    assert_eq!(state.ask(&vec![f64::NAN; lambda * 3]), Err(Error::NotFinite("the normals")));
    assert_eq!(state, before);

    state.tell(&candidates, &losses).unwrap();
    assert_eq!(state.tell(&candidates, &losses), Err(Error::NotAsked));
}

#[test]
fn impossible_starts() {
    let new =
        |dim, population, sigma, mean| State::new(&Options { population, mean, ..Options::new(dim, sigma) });
    assert_eq!(new(0, None, 1.0, None).unwrap_err(), Error::Dimension(0));
    let far = new(100_001, None, 1.0, None).unwrap_err();
    assert_eq!(far.to_string(), "dimension 100001 is outside 1..=100000");
    assert_eq!(new(3, Some(2), 1.0, None).unwrap_err(), Error::Population(2));
    for sigma in [0.0, -1.0, f64::INFINITY] {
        assert_eq!(new(3, None, sigma, None).unwrap_err(), Error::Sigma(sigma));
    }
    assert!(matches!(new(3, None, f64::NAN, None), Err(Error::Sigma(_))));
    assert!(matches!(new(3, None, 1.0, Some(vec![0.0; 2])), Err(Error::Length { .. })));
    assert!(matches!(new(3, None, 1.0, Some(vec![f64::NAN; 3])), Err(Error::NotFinite(_))));
}

#[test]
fn divergence_is_an_error() {
    let mut state = started(3, 0.0, 1e308);
    let z = vec![3.0; state.population() * 3];
    assert!(matches!(state.ask(&z), Err(Error::Diverged { .. })));
}
