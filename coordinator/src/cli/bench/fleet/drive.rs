//! The coordinator's side: generations through the fleet as a run drives it, the next layer's population always
//! offered one ahead; every loss is checked.

use std::time::{Duration, Instant};

use shared::ids::{ContextVersion, Layer};
use shared::messages::{ContextUpdate, Start};

use super::plan::{Plan, Until};
use super::work::{self, RUN};
use crate::error::Error;
use crate::fleet::{Expected, Gathered, Handle, Ticket};
use crate::serve::LeaseTimes;

/// Generations before the clock runs: meanwhile evaluators get ready and their speeds become known.
const WARM_UP: u64 = 10;

/// How long the evaluators may take to come.
const ARRIVAL: Duration = Duration::from_secs(60);

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    pub(super) generations: u64,
    pub(super) seconds: f64,
    /// Leases answered, copies among them.
    pub(super) leases: u64,
    /// Median and 99th percentile of what a lease took, from its order into the stream to its answer out of it.
    pub(super) lease: [Option<Duration>; 2],
    /// Processor seconds of this process while the clock ran.
    pub(super) cpu_seconds: Option<f64>,
    /// Peak of this process's memory.
    pub(super) rss_bytes: Option<u64>,
}

/// Times generations, once all evaluators are there.
pub(super) async fn run(plan: &Plan, fleet: &Handle, times: &LeaseTimes) -> Result<Measured, Error> {
    arrived(plan, fleet).await?;
    let expected = Expected { model: Some(work::hello(plan, 0).model), ..Expected::default() };
    fleet.begin(work::prepare(plan), expected).await?;
    let layers = plan.layers as usize;
    let version = ContextVersion(0);
    let context = vec![vec![0.0; plan.dim]; layers];
    fleet.start(Start { run: RUN, projection_stds: vec![1.0; layers], version, context }).await?;
    let mut generations = Generations::new(plan, fleet);
    for _ in 0..WARM_UP {
        generations.next().await?;
    }
    times.clear();
    let before = generations.number;
    let (began, cpu) = (Instant::now(), shared::system::cpu_time());
    loop {
        generations.next().await?;
        let over = match plan.until {
            Until::Generations(wanted) => generations.number - before >= wanted,
            Until::Elapsed(wanted) => began.elapsed() >= wanted,
        };
        if over {
            break;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let used = shared::system::cpu_time().zip(cpu).map(|(now, then)| (now - then).as_secs_f64());
    Ok(Measured {
        generations: generations.number - before,
        seconds,
        leases: times.leases(),
        lease: [0.5, 0.99].map(|share| times.quantile(share)),
        cpu_seconds: used,
        rss_bytes: shared::system::peak_memory(),
    })
}

async fn arrived(plan: &Plan, fleet: &Handle) -> Result<(), Error> {
    let mut status = fleet.status();
    let all = status.wait_for(|status| status.evaluators.len() >= plan.evaluators);
    let came = tokio::time::timeout(ARRIVAL, all).await.map(|found| found.is_ok());
    match came {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::failed("the fleet has ended")),
        Err(_) => {
            let came = fleet.status().borrow().evaluators.len();
            Err(Error::failed(format!("only {came} of {} evaluators came within 60 s", plan.evaluators)))
        }
    }
}

/// Generation after generation.
struct Generations<'a> {
    plan: &'a Plan,
    fleet: &'a Handle,
    /// A population; each generation's is made of it.
    base: Vec<Vec<f32>>,
    number: u64,
    ahead: Option<Offered>,
}

/// A population on its way, and what its losses depend on.
struct Offered {
    ticket: Ticket,
    keys: Vec<u32>,
}

impl<'a> Generations<'a> {
    fn new(plan: &'a Plan, fleet: &'a Handle) -> Self {
        let number = |c: usize, i: usize| (c * plan.dim + i) as f32 * 1e-3;
        let base = (0..plan.population).map(|c| (0..plan.dim).map(|i| number(c, i)).collect()).collect();
        Self { plan, fleet, base, number: 0, ahead: None }
    }

    async fn next(&mut self) -> Result<Gathered, Error> {
        let now = match self.ahead.take() {
            Some(offered) => offered,
            None => self.offer(self.number).await?,
        };
        self.ahead = Some(self.offer(self.number + 1).await?);
        let gathered = now.ticket.gathered().await?;
        let update = ContextUpdate {
            run: RUN,
            version: ContextVersion(self.number + 1),
            layer: self.layer(self.number),
            z: vec![self.number as f32; self.plan.dim],
        };
        self.fleet.set_context(update).await?;
        self.number += 1;
        check(&now.keys, self.plan.examples, &gathered)?; // while the next generation is at work
        Ok(gathered)
    }

    fn layer(&self, generation: u64) -> Layer {
        Layer((generation % u64::from(self.plan.layers)) as u32)
    }

    async fn offer(&self, generation: u64) -> Result<Offered, Error> {
        let turned = |c: usize| {
            let mut z = self.base[(c + generation as usize) % self.base.len()].clone();
            z[0] = generation as f32;
            z
        };
        let candidates: Vec<Vec<f32>> = (0..self.plan.population).map(turned).collect();
        let keys = candidates.iter().map(|z| work::key(z.iter().map(|x| x.to_bits()))).collect();
        let (version, layer) = (ContextVersion(generation), self.layer(generation));
        let ticket = self.fleet.offer(RUN, version, layer, candidates, 0..self.plan.examples).await?;
        Ok(Offered { ticket, keys })
    }
}

/// Whether each loss is that of its candidate and example.
fn check(keys: &[u32], examples: u32, gathered: &Gathered) -> Result<(), Error> {
    let whole = gathered.losses.len() == keys.len() && gathered.predicted.len() == keys.len();
    let rows = keys.iter().zip(gathered.losses.iter().zip(&gathered.predicted));
    let right = |(&key, (losses, predicted)): (&u32, (&Vec<f32>, &Vec<u32>))| {
        let wanted = (0..examples).map(|example| work::outcome(key, example));
        wanted.eq(losses.iter().copied().zip(predicted.iter().copied())) && losses.len() == predicted.len()
    };
    if whole && rows.into_iter().all(right) {
        return Ok(());
    }
    Err(Error::failed("losses came back that are not those of their candidates and examples"))
}
