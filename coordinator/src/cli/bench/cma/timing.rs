//! One size's generations, timed: drawing a population (its normals too), learning from its losses, and what a fleet waits
//! for between two layers. The losses themselves, of an ellipsoid, are not timed.

use std::time::{Duration, Instant};

use shared::random::{Domain, Stream};

use crate::cma::{Options, State, Variant, normals};
use crate::error::Error;

/// What is timed.
pub(super) struct Size {
    pub(super) dim: usize,
    pub(super) population: usize,
    pub(super) variant: Variant,
    pub(super) generations: u64,
}

/// What a generation took, on average.
pub(super) struct Timed {
    /// The variant, chosen where it was left to be.
    pub(super) variant: Variant,
    pub(super) ask_ms: f64,
    pub(super) tell_ms: f64,
    /// From the last loss to the incumbent that the next layer's candidates wait for.
    pub(super) critical_ms: f64,
    /// The process's memory at its peak less what it had at first; on Linux.
    pub(super) memory_bytes: Option<u64>,
}

/// Runs the generations, after a few of a small size: threads and the program's pages are no part of what is measured.
pub(super) fn time(size: &Size) -> Result<Timed, Error> {
    run(&Size { dim: 150, population: 200, variant: Variant::Full, generations: 3 })?;
    run(size)
}

fn run(size: &Size) -> Result<Timed, Error> {
    let Size { dim, population, variant, generations } = *size;
    let options = Options {
        population: Some(population),
        mean: Some(vec![1.0; dim]),
        variant,
        ..Options::new(dim, 0.5)
    };
    let before = memory("VmRSS");
    let mut state = State::new(&options).map_err(Error::input)?;
    let count = population * dim;
    let (mut asking, mut telling, mut critical) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    for generation in 0..generations {
        let began = Instant::now();
        let normals = normals(Stream::new(1, Domain::Search, 0), generation * count as u64, count);
        let candidates = state.ask(&normals)?;
        asking += began.elapsed();
        let losses: Vec<f64> = candidates.iter().map(|x| ellipsoid(x)).collect();

        let began = Instant::now();
        let foreseen = state.foresee(&candidates, &losses)?;
        let best = foreseen.best.as_ref().map_or(&foreseen.mean, |(x, _)| x);
        let incumbent: Vec<f32> = best.iter().map(|&x| x as f32).collect();
        critical += began.elapsed();
        std::hint::black_box(incumbent);

        let began = Instant::now();
        state.tell(&candidates, &losses)?;
        telling += began.elapsed();
    }
    let ms = |all: Duration| 1e3 * all.as_secs_f64() / generations as f64;
    Ok(Timed {
        variant: options.choice().variant,
        ask_ms: ms(asking),
        tell_ms: ms(telling),
        critical_ms: ms(critical),
        memory_bytes: before.zip(memory("VmHWM")).map(|(before, peak)| peak.saturating_sub(before)),
    })
}

/// Axes of lengths 1 to 1000: it gives the covariance something to learn.
fn ellipsoid(x: &[f64]) -> f64 {
    let n = x.len().max(2) as f64 - 1.0;
    x.iter().enumerate().map(|(i, v)| 10f64.powf(6.0 * i as f64 / n) * v * v).sum()
}

/// A line of this process's status, in bytes.
fn memory(line: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let found = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':'))?;
    Some(1024 * found.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?)
}
