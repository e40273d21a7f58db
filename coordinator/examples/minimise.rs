//! The optimiser alone, as a library: minimises Rosenbrock's and Rastrigin's functions.
//!
//! `cargo run --release -p coordinator --no-default-features --example minimise`
#![allow(clippy::print_stdout)] // that is what it is for

use coordinator::cma::{Bounds, Error, Options, Restarting, Restarts, Stopping};

fn rosenbrock(x: &[f64]) -> f64 {
    x.windows(2).map(|w| 100.0 * (w[0] * w[0] - w[1]).powi(2) + (w[0] - 1.0).powi(2)).sum()
}

fn rastrigin(x: &[f64]) -> f64 {
    x.iter().map(|v| v * v + 10.0 - 10.0 * (std::f64::consts::TAU * v).cos()).sum()
}

fn minimise(mut search: Restarting, loss: fn(&[f64]) -> f64) -> Result<Restarting, Error> {
    while search.stop().is_empty() {
        let candidates = search.ask()?;
        let losses: Vec<f64> = candidates.iter().map(|x| loss(x)).collect(); // on a cluster, say
        search.tell(&candidates, &losses)?;
    }
    Ok(search)
}

fn report(name: &str, search: &Restarting) {
    for ended in search.ended() {
        let reasons: Vec<_> = ended.reasons.iter().map(ToString::to_string).collect();
        println!(
            "{name}: population {}, {} evaluations, best {:.3e}, stopped by {}",
            ended.population,
            ended.evaluations,
            ended.best.unwrap_or(f64::NAN),
            reasons.join(", ")
        );
    }
    if let Some((x, loss)) = search.best() {
        println!("{name}: {loss:.3e} at {x:.6?}");
    }
}

fn main() -> Result<(), Error> {
    let options = Options { seed: 1, ..Options::new(4, 0.5) };
    report("rosenbrock", &minimise(Restarting::new(&options, Restarts::None)?, rosenbrock)?);

    // many minima: begin again with ever larger populations, within bounds, until one is good enough
    let options = Options {
        mean: Some(vec![3.0; 4]),
        bounds: Some(Bounds { lower: vec![-5.0], upper: vec![5.0] }),
        stopping: Stopping { ftarget: Some(1e-8), maxfevals: Some(100_000), ..Stopping::default() },
        ..Options::new(4, 2.0)
    };
    report("rastrigin", &minimise(Restarting::new(&options, Restarts::BIPOP)?, rastrigin)?);
    Ok(())
}
