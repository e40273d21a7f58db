//! What a narrower type does to the losses of a run's first population: `precision RUN.toml [KEY=VALUE]...`.
//!
//! For a few layers and each type: Spearman's rank correlation of the candidates' mean losses with those in `f32`, the
//! largest difference, and for comparison how far the losses of the population lie apart. Prints a Markdown table.
#![allow(clippy::print_stdout, clippy::unwrap_used)] // a study ends at its first problem

use std::path::Path;
use std::sync::Arc;

use evaluator::backbone::Dtype;
use evaluator::limits::Limits;
use evaluator::model::Model;
use evaluator::resources::Resources;
use evaluator::session::Session;
use shared::ids::{ContextVersion, Layer, LeaseId, RunId};
use shared::messages::{Lease, Prepare, Start, Work};
use shared::projection::designed_std;
use shared::random::{Domain, Stream};
use shared::spec::{RunFile, RunSpec};
use shared::task::loss::mean;
use shared::task::{dataset, split};

const POPULATION: usize = 50;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut file = RunFile::read(Path::new(&arguments.next().unwrap())).unwrap();
    file.apply_overrides(&arguments.collect::<Vec<_>>()).unwrap();
    let spec = file.resolve().unwrap();
    let prepare = prepare(&spec);
    println!("| layer | dtype | rank correlation | largest difference | standard deviation in f32 |");
    println!("| --- | --- | --- | --- | --- |");
    let all = [Dtype::F32, Dtype::Bf16, Dtype::Int8].map(|dtype| losses(&spec, &prepare, dtype));
    for (at, (layer, exact)) in all[0].iter().enumerate() {
        let average = exact.iter().sum::<f64>() / exact.len() as f64;
        let variance = exact.iter().map(|x| (x - average).powi(2)).sum::<f64>() / exact.len() as f64;
        for (dtype, losses) in [Dtype::Bf16, Dtype::Int8].iter().zip(&all[1..]) {
            let losses = &losses[at].1;
            let largest =
                exact.iter().zip(losses).fold(0.0_f64, |largest, (a, b)| largest.max((a - b).abs()));
            let correlation = pearson(&ranks(exact), &ranks(losses));
            println!("| {layer} | {dtype} | {correlation:.4} | {largest:.5} | {:.5} |", variance.sqrt());
        }
    }
}

fn prepare(spec: &RunSpec) -> Prepare {
    let classes = spec.task.words.len();
    let pool = dataset::read(&spec.task.train, classes).unwrap();
    let chosen = split::split(&pool, classes, spec.task.shots, spec.search.seed).unwrap();
    Prepare {
        run: RunId(1),
        read_out: spec.model.read_out,
        temperature: spec.model.temperature,
        template: spec.task.template.source().to_owned(),
        words: spec.task.words.clone(),
        injection: spec.prompt.injection,
        tokens: spec.prompt.tokens as u32,
        init: spec.prompt.init,
        loss: spec.task.loss,
        projection: spec.search.projection,
        dim: spec.search.dim as u32,
        seed: spec.search.seed,
        train: chosen.train.iter().map(|&row| pool[row].clone()).collect(),
        dev: Vec::new(),
    }
}

/// The first, the middle and the last layer, and the mean loss of each candidate there.
fn losses(spec: &RunSpec, prepare: &Prepare, dtype: Dtype) -> Vec<(usize, Vec<f64>)> {
    let model = Model::load(&spec.model.path, Path::new(""), spec.model.revision.as_deref(), dtype).unwrap();
    let limits = Limits { max_batch_tokens: spec.run.max_batch_tokens, ..Limits::default() };
    let resources = Resources::new(spec.run.threads, limits).unwrap();
    let (mut session, ready) = Session::prepare(&Arc::new(model), &resources, prepare.clone()).unwrap();
    let (search, layers) = (&spec.search, ready.layer_stds.len());
    let std = |&host: &f32| designed_std(search.alpha, f64::from(host), search.dim, search.sigma);
    let start = Start {
        run: RunId(1),
        projection_stds: ready.layer_stds.iter().map(std).collect(),
        version: ContextVersion(0),
        context: vec![vec![0.0; search.dim]; layers],
    };
    session.start(&start).unwrap();
    let mut population = |layer: usize| {
        let mut normals = vec![0.0; POPULATION * search.dim];
        Stream::new(search.seed, Domain::Search, layer as u64).fill_normals(0, &mut normals);
        let z: Vec<f32> = normals.iter().map(|x| (x * search.sigma) as f32).collect();
        let work = Work::Evaluate {
            layer: Layer(layer as u32),
            candidates: z.chunks(search.dim).map(<[f32]>::to_vec).collect(),
            examples: 0..prepare.train.len() as u32,
            canary: None,
        };
        let lease = Lease { id: LeaseId(1), run: RunId(1), version: ContextVersion(0), work, trace: None };
        let answer = session.work(&lease).unwrap();
        (layer, answer.outcomes.iter().map(|outcome| mean(&outcome.losses)).collect())
    };
    vec![population(0), population(layers / 2), population(layers - 1)]
}

/// Each value's place in the order of all.
fn ranks(values: &[f64]) -> Vec<f64> {
    let rank = |x: &f64| values.iter().filter(|y| *y < x).count() as f64;
    values.iter().map(rank).collect()
}

fn pearson(a: &[f64], b: &[f64]) -> f64 {
    let centred = |values: &[f64]| {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        values.iter().map(|x| x - mean).collect::<Vec<_>>()
    };
    let (a, b) = (centred(a), centred(b));
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    product(&a, &b) / (product(&a, &a) * product(&b, &b)).sqrt()
}
