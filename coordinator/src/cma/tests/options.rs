//! Options as pycma's users know them, and what is said of wrong ones.

use super::{Normals, sphere, step};
use crate::cma::{Bounds, Error, LearningRates, Options, State, Stopping, Variant};

fn refusal(options: &Options) -> String {
    let error = State::new(options).unwrap_err().to_string();
    assert!(!error.contains('\n') && !error.ends_with('.'), "{error}");
    error
}

#[test]
fn wrong_options_end_in_one_sentence() {
    let good = Options::new(3, 1.0);
    let bounds = |lower: &[f64], upper: &[f64]| Some(Bounds { lower: lower.to_vec(), upper: upper.to_vec() });
    let cases = [
        (Options { sigma: 0.0, ..good.clone() }, "sigma must be finite and above 0, not 0"),
        (Options { population: Some(1), ..good.clone() }, "population 1 is outside 4..=65536"),
        (Options { mu: Some(4), ..good.clone() }, "mu 4 is outside 1..=3, half of the population"),
        (
            Options { bounds: bounds(&[1.0], &[-1.0]), ..good.clone() },
            "the bounds of coordinate 0 leave nothing between them: 1 and -1",
        ),
        (
            Options { bounds: bounds(&[0.5], &[1.0]), ..good.clone() },
            "the initial mean: coordinate 0 is 0, outside its bounds 0.5 to 1",
        ),
        (
            Options { mean: Some(vec![0.0, f64::NAN, 0.0]), ..good.clone() },
            "the initial mean holds a value that is not finite",
        ),
        (Options { mean: Some(vec![0.0]), ..good.clone() }, "entries of the mean: 1 given, 3 wanted"),
        (
            Options { stds: Some(vec![1.0, 0.0, 1.0]), ..good.clone() },
            "the standard deviation of coordinate 1 must be finite and above 0, not 0",
        ),
        (
            Options { stopping: Stopping { tolx: -1.0, ..Stopping::default() }, ..good.clone() },
            "tolx must be a number that is not negative, not -1",
        ),
        (
            Options { learning: LearningRates::Adapted, variant: Variant::LimitedMemory, ..good.clone() },
            "learning rates are adapted with the full or the separable variant alone",
        ),
        (
            Options::new(50_000, 1.0),
            "the full variant takes 80047200000 bytes at 50000 variables and 36 candidates (80000000000 for 4 dim^2 \
             numbers: covariance, axes and the scratch of a decomposition, 47200000 for dim (3 population + 10) \
             numbers for candidates and vectors), more than the 8589934592 allowed; the limited-memory variant would \
             take 61600000",
        ),
    ];
    for (options, expected) in cases {
        assert_eq!(refusal(&options), expected);
    }
}

#[test]
fn names() {
    for name in ["full", "separable", "diagonal-start", "limited-memory", "auto"] {
        assert_eq!(name.parse::<Variant>().unwrap().to_string(), name);
    }
    let error = "sep".parse::<Variant>().unwrap_err();
    assert_eq!(error, "\"sep\" is none of: full, separable, diagonal-start, limited-memory, auto");
}

#[test]
fn the_automatic_choice_says_why() {
    let auto =
        |dim, stopping| Options { variant: Variant::Auto, stopping, ..Options::new(dim, 1.0) }.choice();
    let open = auto(500, Stopping::default());
    assert_eq!((open.variant, open.why.as_str()), (Variant::Full, "a full covariance fits into memory"));
    let short = auto(500, Stopping { maxiter: Some(16), ..Stopping::default() });
    assert_eq!(short.variant, Variant::LimitedMemory);
    assert!(short.why.starts_with("in 16 generations a full covariance would change by "), "{}", short.why);
    let long = auto(10, Stopping { maxfevals: Some(10_000), ..Stopping::default() });
    assert_eq!(
        (long.variant, long.why.as_str()),
        (Variant::Full, "a full covariance has 1000 generations to learn in")
    );
    let large = auto(100_000, Stopping::default());
    assert_eq!(large.variant, Variant::LimitedMemory);
    assert!(large.why.contains("more than the 8589934592 allowed"), "{}", large.why);
    let state = State::new(&Options { variant: Variant::Auto, ..Options::new(3, 1.0) }).unwrap();
    assert_eq!(state.variant(), Variant::Full);
}

#[test]
fn own_weights_and_deviations() {
    let options = Options {
        population: Some(10),
        mu: Some(2),
        stds: Some(vec![1.0, 10.0, 0.1]),
        ..Options::new(3, 0.5)
    };
    let mut state = State::new(&options).unwrap();
    let weights = &state.params().weights;
    assert_eq!(state.params().mu, 2);
    assert!(weights[..2].iter().all(|w| *w > 0.0) && weights[8..].iter().all(|w| *w < 0.0));
    assert_eq!(weights[2..8], [0.0; 6]);
    let stds = state.stds();
    assert!(stds.iter().zip([0.5, 5.0, 0.05]).all(|(a, b)| (a / b - 1.0).abs() < 1e-4), "{stds:?}");
    let candidates = state.ask(&[1.0; 30]).unwrap();
    assert!(candidates[0].iter().zip(stds).all(|(x, std)| (x / std - 1.0).abs() < 1e-12));
}

#[test]
fn injected_points_are_among_the_candidates() {
    let (mut state, mut normals) = (State::new(&Options::new(4, 0.5)).unwrap(), Normals(1));
    let z = normals.draw(state.population() * 4);
    let plain = state.ask(&z).unwrap();
    let far = vec![8.0, 8.0, 8.0, 8.0];
    state.inject(&[vec![0.0; 4], far.clone()], false).unwrap();
    state.inject(std::slice::from_ref(&far), true).unwrap();
    let candidates = state.ask(&z).unwrap();
    assert_eq!(state.ask(&z).unwrap(), candidates);
    assert_eq!((&candidates[0], &candidates[2]), (&vec![0.0; 4], &far));
    assert_eq!(candidates[3..], plain[3..]);
    // as long as what was drawn in its place, and in its own direction
    let drawn: f64 = z[4..8].iter().map(|z| z * z).sum::<f64>().sqrt() * 0.5;
    assert!((candidates[1].iter().map(|x| x * x).sum::<f64>().sqrt() / drawn - 1.0).abs() < 1e-4);
    assert!(candidates[1].iter().all(|x| (x / candidates[1][0] - 1.0).abs() < 1e-12));

    let losses: Vec<f64> = candidates.iter().map(|x| -sphere(x)).collect();
    state.tell(&candidates, &losses).unwrap();
    assert_eq!(state.best().unwrap().0, far);
    let z = normals.draw(state.population() * 4);
    let asked = state.ask(&z).unwrap();
    assert_ne!(asked[2], far); // it has had its turn
    assert_eq!(state.set_mean(&[0.0; 4]), Err(Error::Asked("the mean cannot be set")));
    state.tell(&asked, &losses).unwrap();
    state.set_mean(&[2.0; 4]).unwrap();
    assert_eq!(state.mean(), [2.0; 4]);
    assert!(state.inject(&[vec![f64::NAN; 4]], false).is_err());
    assert!(state.inject(&vec![vec![0.0; 4]; 5000], false).is_err());
}

/// What is put in from outside and ranks among the worse takes no variance away.
#[test]
fn injected_points_take_no_variance_away() {
    let told = |inject: bool| {
        let mut state = State::new(&Options::new(4, 0.5)).unwrap();
        let z = Normals(1).draw(state.population() * 4);
        let first = state.ask(&z).unwrap()[0].clone();
        if inject {
            state.inject(&[first], true).unwrap();
        }
        let candidates = state.ask(&z).unwrap();
        let losses: Vec<f64> = (0..candidates.len()).map(|i| if i == 0 { 9.0 } else { i as f64 }).collect();
        state.tell(&candidates, &losses).unwrap();
        let trace: f64 = (0..4).map(|i| state.covariance(i, i)).sum();
        (state.mean().to_vec(), trace)
    };
    let ((mean, plain), (injected_mean, injected)) = (told(false), told(true));
    assert!(mean.iter().zip(&injected_mean).all(|(a, b)| (a - b).abs() < 1e-12));
    assert!((plain - injected).abs() > 1e-6, "{plain} and {injected}");
}

/// A best loss that was luck is found out, and what is best is the best of its generation.
#[test]
fn a_doubted_best_is_evaluated_again() {
    let (mut state, mut normals) = (State::new(&Options::new(3, 0.5)).unwrap(), Normals(1));
    step(&mut state, &mut normals, |x| sphere(x) - 100.0);
    let lucky = state.best().unwrap().0.to_vec();
    state.reconsider();
    state.reconsider(); // once is enough
    let z = normals.draw(state.population() * 3);
    let candidates = state.ask(&z).unwrap();
    assert_eq!(candidates[0], lucky);
    assert_ne!(candidates[1], lucky);
    let losses: Vec<f64> = candidates.iter().map(|x| sphere(x)).collect();
    let foreseen = state.foresee(&candidates, &losses).unwrap().best.unwrap();
    state.tell(&candidates, &losses).unwrap();
    let (best, loss) = state.best().unwrap();
    assert_eq!((best, loss), (foreseen.0.as_slice(), foreseen.1));
    assert_eq!(loss, losses.iter().copied().fold(f64::INFINITY, f64::min));
    step(&mut state, &mut normals, |_| 50.0); // no longer doubted
    assert_eq!(state.best().unwrap().1, loss);
}

#[test]
fn bad_losses_are_counted() {
    let (mut state, mut normals) = (State::new(&Options::new(3, 0.5)).unwrap(), Normals(1));
    step(&mut state, &mut normals, |x| if x[0] > 0.0 { f64::NAN } else { sphere(x) });
    let first = state.bad_losses();
    assert!((1..7).contains(&first), "{first}");
    step(&mut state, &mut normals, |_| f64::INFINITY);
    assert_eq!(state.bad_losses(), first + 7);
}
