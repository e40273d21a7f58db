//! Restarts by pycma's rules, and a search that is a function of its seed.

use super::{ellipsoid, sphere};
use crate::cma::{Options, Restarting, Restarts, Start, StopReason, Stopping};

fn rastrigin(x: &[f64]) -> f64 {
    let tau = std::f64::consts::TAU;
    x.iter().map(|v| v * v + 10.0 - 10.0 * (tau * v).cos()).sum()
}

fn step(search: &mut Restarting, loss: fn(&[f64]) -> f64) -> Vec<Vec<f64>> {
    let candidates = search.ask().unwrap();
    let losses: Vec<f64> = candidates.iter().map(|x| loss(x)).collect();
    search.tell(&candidates, &losses).unwrap();
    candidates
}

fn run(options: &Options, restarts: Restarts, loss: fn(&[f64]) -> f64) -> Restarting {
    let mut search = Restarting::new(options, restarts).unwrap();
    while search.stop().is_empty() {
        step(&mut search, loss);
    }
    search
}

fn rugged(dim: usize, target: f64, budget: u64) -> Options {
    let stopping = Stopping { ftarget: Some(target), maxfevals: Some(budget), ..Stopping::default() };
    Options { mean: Some(vec![3.0; dim]), seed: 0, stopping, ..Options::new(dim, 2.0) }
}

#[test]
fn restarts_find_what_one_search_does_not() {
    let options = rugged(5, 1e-8, 100_000);
    let one = run(&options, Restarts::None, rastrigin);
    assert!(one.best().unwrap().1 > 0.1);
    assert_eq!(one.ended().len(), 1);
    for restarts in [Restarts::IPOP, Restarts::BIPOP] {
        let search = run(&options, restarts, rastrigin);
        assert_eq!(search.stop(), [StopReason::FTarget], "{:?}", search.ended());
        assert!(search.evaluations() < 100_000 && search.ended().len() > 1);
    }
}

#[test]
fn populations_double() {
    let search = run(&rugged(3, -1.0, 20_000), Restarts::IPOP, rastrigin);
    assert_eq!(search.stop().last(), Some(&StopReason::MaxFEvals));
    let populations: Vec<usize> = search.ended().iter().map(|ended| ended.population).collect();
    let expected: Vec<usize> = (0..populations.len()).map(|k| 7 << k).collect();
    assert_eq!(populations, expected);
    assert_eq!(search.ended().iter().map(|ended| ended.evaluations).sum::<u64>(), search.evaluations());
}

/// pycma's rule: a small search begins whenever the small ones have cost less than the large ones; populations lie
/// between the first and the last large one, and it gets half of what the large ones had.
#[test]
fn small_searches_between_large_ones() {
    let search = run(&rugged(3, -1.0, 60_000), Restarts::BIPOP, rastrigin);
    let (mut cheap, mut dear, mut larger) = (0, 0, 0u32);
    for (k, ended) in search.ended().iter().enumerate() {
        let small = k == 0 || cheap < u64::max(1, dear);
        assert_eq!(ended.small, small, "search {k}");
        if small {
            assert!((7..=7 << larger).contains(&ended.population), "search {k}: {}", ended.population);
            let most = dear / 2 + ended.population as u64;
            assert!(k == 0 || ended.evaluations <= most, "search {k}: {} of {most}", ended.evaluations);
            cheap += ended.evaluations;
        } else {
            larger += 1;
            assert_eq!(ended.population, 7 << larger, "search {k}");
            dear += ended.evaluations;
        }
    }
    assert!(larger > 2 && search.ended().len() as u32 > larger + 2);
}

#[test]
fn as_many_restarts_as_allowed() {
    let search = run(&rugged(2, -1.0, u64::MAX), Restarts::Ipop { most: 2, increase: 1.5 }, sphere);
    assert_eq!(search.ended().iter().map(|ended| ended.population).collect::<Vec<_>>(), [6, 9, 13]);
    assert!(!search.stop().is_empty());
}

#[test]
fn a_function_of_the_seed() {
    let begin = |seed| {
        let (lower, upper) = (vec![-4.0; 3], vec![4.0; 3]);
        let options = Options { seed, ..rugged(3, 1e-8, 30_000) };
        Restarting::starting(&options, Restarts::BIPOP, Start::Between { lower, upper }).unwrap()
    };
    let config = bincode::config::standard();
    let (mut one, mut other) = (begin(0), begin(1));
    assert_ne!(step(&mut one, rastrigin), step(&mut other, rastrigin));
    let mut again = begin(0);
    step(&mut again, rastrigin);
    for _ in 0..400 {
        // written and read on the way, in one search or between two
        let bytes = bincode::serde::encode_to_vec(&again, config).unwrap();
        again = bincode::serde::decode_from_slice(&bytes, config).unwrap().0;
        assert_eq!(step(&mut one, rastrigin), step(&mut again, rastrigin));
    }
    assert!(one.ended().len() > 1);
    assert_eq!(one, again);
}

/// A search that breaks down is an end like another.
#[test]
fn breaking_down_is_an_end() {
    let mut search = Restarting::new(&Options::new(3, f64::MAX), Restarts::IPOP).unwrap();
    assert!(search.ask().is_err());
    assert_eq!(search.stop(), [StopReason::Diverged]);
    assert_eq!(search.ended().len(), 10);
}

#[test]
fn wrong_restarts() {
    let new = |restarts| Restarting::new(&Options::new(3, 1.0), restarts).unwrap_err().to_string();
    let ipop = Restarts::Ipop { most: 3, increase: 1.0 };
    assert_eq!(new(ipop), "the population's increase must be finite and above 1");
    let bipop = Restarts::Bipop { most: 3, increase: 2.0, share: f64::NAN };
    assert_eq!(new(bipop), "the small searches' share must be finite and not negative");
    let outside = Start::Between { lower: vec![0.0; 2], upper: vec![1.0; 3] };
    assert!(Restarting::starting(&Options::new(3, 1.0), Restarts::None, outside).is_err());
    let search =
        run(&Options { mean: Some(vec![1.0; 3]), ..Options::new(3, 0.5) }, Restarts::None, ellipsoid);
    assert!(search.best().unwrap().1 < 1e-8);
}
