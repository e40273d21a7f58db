//! `zeroth bench evaluator`: options to a plan, its rows to the screen and to the file.

use std::fs;
use std::path::Path;
use std::str::FromStr;

use shared::spec;

use super::saved::Saved;
use super::{Evaluator, table};
use crate::embedded::{self, Injection, Plan, Subject};
use crate::error::Error;

/// Runs `zeroth bench evaluator`.
pub(super) fn run(args: &Evaluator) -> Result<(), Error> {
    let subjects = subjects(args)?;
    let plan = plan(args)?;
    let mut saved = Saved::open(args.save.as_deref())?;
    let mut head = (!args.json).then_some(table::HEAD);
    for subject in subjects {
        let mut failed = None;
        let model = model(&subject);
        let plan = Plan { subject, ..plan.clone() };
        embedded::bench(&plan, |row| {
            let before = saved.before(&row, model.as_deref());
            head.take().into_iter().for_each(|head| println!("{head}"));
            println!("{}", if args.json { table::json(&row, before) } else { table::line(&row, before) });
            failed = failed.take().or(saved.keep(&row, model.as_deref()).err());
        })?;
        failed.map_or(Ok(()), Err)?;
    }
    if !args.json {
        println!("\nkept in {} for the next run to be compared with", saved.path().display());
    }
    Ok(())
}

/// Which model a subject's name is of: folders of the same name lie in different places. A shape's name says all.
fn model(subject: &Subject) -> Option<String> {
    let whole =
        |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()).display().to_string();
    match subject {
        Subject::Shape(_) => None,
        Subject::Model(name) => Some(whole(Path::new(name))), // a hub id stays as it is
        Subject::Work(folder) => Some(whole(folder)),
    }
}

/// What is to be timed, one after the other.
fn subjects(args: &Evaluator) -> Result<Vec<Subject>, Error> {
    if let Some(model) = &args.model {
        return Ok(vec![Subject::Model(model.clone())]);
    }
    if let Some(folder) = &args.work {
        return Ok(vec![Subject::Work(folder.clone())]);
    }
    let shapes = embedded::shapes();
    if let Some(unknown) = args.shape.iter().find(|shape| !shapes.contains(&shape.as_str())) {
        return Err(Error::Input(format!("--shape: \"{unknown}\" is none of: {}", shapes.join(", "))));
    }
    let asked = if args.shape.is_empty() { vec!["roberta-base".to_owned()] } else { args.shape.clone() };
    Ok(asked.into_iter().map(Subject::Shape).collect())
}

fn plan(args: &Evaluator) -> Result<Plan, Error> {
    for (name, count) in [
        ("examples", args.examples),
        ("prompt-tokens", args.prompt_tokens),
        ("population", args.population),
        ("repeats", args.repeats),
        ("max-batch-tokens", args.max_batch_tokens),
    ] {
        if count == 0 {
            return Err(Error::Input(format!("--{name} must be 1 or more")));
        }
    }
    let injections: Vec<spec::Injection> = named("injection", &args.injection)?;
    let injection = |injection: &spec::Injection| match injection {
        spec::Injection::Add => Injection::Add,
        spec::Injection::Prefix => Injection::Prefix,
    };
    let both = vec![Injection::Add, Injection::Prefix];
    let dtypes: Vec<spec::Dtype> = named("dtype", &args.dtype)?;
    Ok(Plan {
        subject: Subject::Shape(String::new()),
        injections: if injections.is_empty() { both } else { injections.iter().map(injection).collect() },
        dtypes: if dtypes.is_empty() { vec![spec::Dtype::F32] } else { dtypes },
        device: args.device,
        examples: args.examples,
        prompt_tokens: args.prompt_tokens,
        population: args.population,
        repeats: args.repeats,
        threads: args.threads,
        max_batch_tokens: args.max_batch_tokens,
    })
}

/// Names to what they mean, each once.
fn named<T: FromStr<Err = String> + PartialEq>(option: &str, names: &[String]) -> Result<Vec<T>, Error> {
    let mut found: Vec<T> = Vec::new();
    for name in names {
        let one = T::from_str(name).map_err(|problem| Error::Input(format!("--{option}: {problem}")))?;
        if !found.contains(&one) {
            found.push(one);
        }
    }
    Ok(found)
}
