//! What a search starts from, as JSON says it: the keys are those of `cma::Options` and of its `stopping`, every one but
//! `dim` and `sigma` with the library's default.

use std::str::FromStr;

use serde_json::{Map, Value, json};

use crate::cma::{Bounds, LearningRates, Options, Restarting, Restarts, Start, Stopping, Variant};

/// A search from what a program has sent; an error says which key is wrong, and what would be right.
pub(super) fn search(mut given: Map<String, Value>) -> Result<Restarting, String> {
    let dim = needed(&mut given, "dim")?;
    let sigma = needed(&mut given, "sigma")?;
    let mut options = Options::new(dim, sigma);
    let take = &mut given;
    options.population = optional(take, "population")?;
    options.mu = optional(take, "mu")?;
    options.mean = optional(take, "mean")?;
    options.stds = optional(take, "stds")?;
    options.active = optional(take, "active")?.unwrap_or(options.active);
    options.seed = optional(take, "seed")?.unwrap_or(options.seed);
    options.memory = optional(take, "memory")?.unwrap_or(options.memory);
    if let Some((lower, upper)) = optional::<(Vec<Option<f64>>, Vec<Option<f64>>)>(take, "bounds")? {
        let or = |bound: Vec<Option<f64>>, none| bound.into_iter().map(|b| b.unwrap_or(none)).collect();
        options.bounds =
            Some(Bounds { lower: or(lower, f64::NEG_INFINITY), upper: or(upper, f64::INFINITY) });
    }
    if let Some(name) = optional::<String>(take, "variant")? {
        options.variant = Variant::from_str(&name).map_err(|problem| format!("\"variant\": {problem}"))?;
    }
    options.learning = match optional::<String>(take, "learning")?.as_deref() {
        None | Some("fixed") => LearningRates::Fixed,
        Some("adapted") => LearningRates::Adapted,
        Some(other) => return Err(format!("\"learning\": \"{other}\" is none of: fixed, adapted")),
    };
    if let Some(stopping) = take.remove("stopping") {
        options.stopping = stopping_of(stopping)?;
    }
    let restarts = restarts(take)?;
    let corners = optional::<(Vec<f64>, Vec<f64>)>(take, "between")?;
    let start = corners.map_or(Start::Mean, |(lower, upper)| Start::Between { lower, upper });
    if let Some(unknown) = given.keys().next() {
        return Err(format!("\"{unknown}\" is none of: {KEYS}"));
    }
    Restarting::starting(&options, restarts, start).map_err(|error| error.to_string())
}

const KEYS: &str = "dim, sigma, population, mu, mean, stds, bounds, active, variant, learning, seed, memory, stopping, \
restarts, most, increase, share, between";

fn restarts(given: &mut Map<String, Value>) -> Result<Restarts, String> {
    let name: Option<String> = optional(given, "restarts")?;
    let most = optional(given, "most")?.unwrap_or(9);
    let increase = optional(given, "increase")?.unwrap_or(2.0);
    let share = optional(given, "share")?.unwrap_or(1.0);
    match name.as_deref() {
        None | Some("none") => Ok(Restarts::None),
        Some("ipop") => Ok(Restarts::Ipop { most, increase }),
        Some("bipop") => Ok(Restarts::Bipop { most, increase, share }),
        Some(other) => Err(format!("\"restarts\": \"{other}\" is none of: none, ipop, bipop")),
    }
}

/// The defaults with what was given in their place, key by key, so that an error can name the key.
fn stopping_of(given: Value) -> Result<Stopping, String> {
    let Value::Object(given) = given else {
        return Err("\"stopping\" must be an object".to_owned());
    };
    let mut all = json!(Stopping::default());
    let mut stopping = Stopping::default();
    for (key, value) in given {
        if all.get(&key).is_none() {
            let keys = all.as_object().map(|all| all.keys().cloned().collect::<Vec<_>>().join(", "));
            return Err(format!("\"stopping\": \"{key}\" is none of: {}", keys.unwrap_or_default()));
        }
        all[&key] = value;
        stopping = serde_json::from_value(all.clone())
            .map_err(|problem| format!("\"stopping\": \"{key}\": {problem}"))?;
    }
    Ok(stopping)
}

fn needed<T: serde::de::DeserializeOwned>(given: &mut Map<String, Value>, key: &str) -> Result<T, String> {
    optional(given, key)?.ok_or_else(|| format!("\"{key}\" is missing"))
}

/// Takes a key out; null is as good as nothing.
fn optional<T: serde::de::DeserializeOwned>(
    given: &mut Map<String, Value>,
    key: &str,
) -> Result<Option<T>, String> {
    let value = given.remove(key).unwrap_or(Value::Null);
    serde_json::from_value(value).map_err(|problem| format!("\"{key}\": {problem}"))
}
