//! What learns within a small budget: the table "The budget's truth" of docs/cma.md.
//!
//! `cargo run --release -p coordinator --no-default-features --example budget`
//!
//! 500 variables, 320 evaluations (16 generations of 20: a layer's share in the paper's setting) and ten times as many.
//! Each figure is the loss at the mean, without noise, over that at the start: the median of three seeds.
#![allow(clippy::print_stdout)] // that is what it is for

use coordinator::cma::{Error, LearningRates, Options, State, Variant};
use shared::random::{Domain, Stream};

const DIM: usize = 500;
const SEEDS: u64 = 3;
const BUDGETS: [u64; 2] = [320, 3200];

/// A function of the prompt's kind, zero at its best.
struct Problem {
    name: &'static str,
    /// What each direction counts, `[DIM]`.
    weights: Vec<f64>,
    /// Reflections, so that no coordinate is a direction of its own.
    turns: Vec<Vec<f64>>,
    /// Standard deviation of the noise, as a share of the loss at the start.
    noise: f64,
}

/// A way to search.
struct Way {
    name: &'static str,
    options: Options,
}

fn normals(index: u64, count: usize) -> Vec<f64> {
    let mut out = vec![0.0; count];
    Stream::new(0, Domain::Sample, index).fill_normals(0, &mut out);
    out
}

/// A reflection at the plane that `v` stands on.
fn turn(x: &mut [f64], v: &[f64]) {
    let (mut along, mut square) = (0.0, 0.0);
    for (x, v) in x.iter().zip(v) {
        along += x * v;
        square += v * v;
    }
    x.iter_mut().zip(v).for_each(|(x, v)| *x -= 2.0 * along / square * v);
}

impl Problem {
    fn loss(&self, x: &[f64]) -> f64 {
        let mut apart: Vec<f64> = x.iter().map(|x| x - 0.2).collect();
        self.turns.iter().for_each(|v| turn(&mut apart, v));
        apart.iter().zip(&self.weights).map(|(x, w)| w * x * x).sum()
    }
}

fn problems() -> Vec<Problem> {
    let even = vec![1.0; DIM];
    let scales: Vec<f64> = (0..DIM).map(|i| 10f64.powf(4.0 * i as f64 / (DIM - 1) as f64)).collect();
    let few = (0..DIM).map(|i| if i < 10 { 1.0 } else { 1e-3 }).collect();
    let turns = |turned| if turned { (0..3).map(|index| normals(index, DIM)).collect() } else { Vec::new() };
    let problem = |name, weights, turned, noise| Problem { name, weights, turns: turns(turned), noise };
    vec![
        problem("sphere", even.clone(), false, 0.0),
        problem("scales", scales.clone(), false, 0.0),
        problem("turned scales", scales, true, 0.0),
        problem("ten directions", few, true, 0.0),
        problem("noisy sphere", even, false, 0.1),
    ]
}

fn ways() -> Vec<Way> {
    let paper = Options { population: Some(20), ..Options::new(DIM, 0.2) };
    let of = |name, variant| Way { name, options: Options { variant, ..paper.clone() } };
    let small = |name, variant| Way { name, options: Options { variant, sigma: 0.05, ..paper.clone() } };
    let rates =
        |name, factor| Way { name, options: Options { rankone: factor, rankmu: factor, ..paper.clone() } };
    vec![
        of("full (the paper's)", Variant::Full),
        of("separable", Variant::Separable),
        of("limited-memory", Variant::LimitedMemory),
        small("full, sigma 0.05", Variant::Full),
        small("separable, sigma 0.05", Variant::Separable),
        small("limited-memory, sigma 0.05", Variant::LimitedMemory),
        rates("full, rates x 10", 10.0),
        rates("full, rates x 100", 100.0),
        Way {
            name: "separable, adapted rates",
            options: Options {
                learning: LearningRates::Adapted,
                variant: Variant::Separable,
                ..paper.clone()
            },
        },
        Way { name: "full, population 8", options: Options { population: Some(8), ..paper.clone() } },
        Way {
            name: "full, 50 variables",
            options: Options { population: Some(20), ..Options::new(50, 0.2) },
        },
    ]
}

/// The point that a search of fewer variables stands for: a fixed random map, as a projection makes a prompt of a point.
fn whole(z: &[f64], map: &[f64]) -> Vec<f64> {
    if z.len() == DIM {
        return z.to_vec();
    }
    let row = |row: &[f64]| row.iter().zip(z).map(|(a, z)| a * z).sum::<f64>() / (z.len() as f64).sqrt();
    map.chunks_exact(z.len()).map(row).collect()
}

fn search(problem: &Problem, way: &Way, seed: u64, map: &[f64]) -> Result<Vec<f64>, Error> {
    let mut state = State::new(&way.options)?;
    let stream = Stream::new(seed, Domain::Search, 0);
    let start = problem.loss(&[0.0; DIM]);
    let mut drawn = vec![0.0; state.population() * state.dim()];
    let mut found = Vec::new();
    for budget in BUDGETS {
        while state.evaluations() < budget {
            stream.fill_normals(state.generation() * drawn.len() as u64, &mut drawn);
            let candidates = state.ask(&drawn)?;
            let noise = normals((seed << 32) + state.evaluations() + 10, candidates.len());
            let loss =
                |(x, noise): (&Vec<f64>, &f64)| problem.loss(&whole(x, map)) + problem.noise * start * noise;
            let losses: Vec<f64> = candidates.iter().zip(&noise).map(loss).collect();
            state.tell(&candidates, &losses)?;
        }
        found.push(problem.loss(&whole(state.mean(), map)) / start);
    }
    Ok(found)
}

/// The middle one of the seeds' losses, for each budget.
fn medians(problem: &Problem, way: &Way, map: &[f64]) -> Result<Vec<f64>, Error> {
    let found: Vec<_> = (0..SEEDS).map(|seed| search(problem, way, seed, map)).collect::<Result<_, _>>()?;
    let middle = |at: usize| {
        let mut losses: Vec<f64> = found.iter().filter_map(|found| found.get(at).copied()).collect();
        losses.sort_by(f64::total_cmp);
        losses.get(losses.len() / 2).copied().unwrap_or(f64::NAN)
    };
    Ok((0..BUDGETS.len()).map(middle).collect())
}

fn main() -> Result<(), Error> {
    let (problems, ways) = (problems(), ways());
    let map = normals(99, DIM * 50);
    let mut rows = Vec::new();
    for way in &ways {
        let of: Vec<_> =
            problems.iter().map(|problem| medians(problem, way, &map)).collect::<Result<_, _>>()?;
        rows.push((way.name, of));
    }
    for (at, budget) in BUDGETS.iter().enumerate() {
        let names: Vec<_> = problems.iter().map(|problem| problem.name).collect();
        println!("| {budget} evaluations | {} |", names.join(" | "));
        println!("| --- |{}", " --- |".repeat(names.len()));
        for (name, of) in &rows {
            let losses: Vec<_> =
                of.iter().filter_map(|of| of.get(at)).map(|loss| format!("{loss:.3}")).collect();
            println!("| {name} | {} |", losses.join(" | "));
        }
        println!();
    }
    Ok(())
}
