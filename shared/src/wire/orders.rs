//! Orders: coordinator to evaluator.

use std::ops::Range;

use proto::v1;
use proto::v1::order;

use super::{WireError, named, to_bytes, to_numbers, unknown_number};
use crate::ids::{ContextVersion, Layer, LeaseId, RunId};
use crate::messages::{Canary, ContextUpdate, ExampleSet, Lease, Order, Prepare, Prompted, Start, Work};
use crate::task::{Example, Loss};

fn loss_name(loss: Loss) -> &'static str {
    match loss {
        Loss::Ce => "ce",
        Loss::Hinge => "hinge",
        Loss::Metric => "metric",
    }
}

fn loss_of(name: &str) -> Result<Loss, WireError> {
    match name {
        "ce" => Ok(Loss::Ce),
        "hinge" => Ok(Loss::Hinge),
        "metric" => Ok(Loss::Metric),
        other => Err(WireError::Unknown {
            field: "prepare.loss",
            problem: format!("\"{other}\" is none of: ce, hinge, metric"),
        }),
    }
}

fn range_to(range: Range<u32>) -> v1::Range {
    v1::Range { start: range.start, end: range.end }
}

fn range_of(range: v1::Range) -> Range<u32> {
    range.start..range.end
}

impl From<Order> for v1::Order {
    fn from(order: Order) -> Self {
        let kind = match order {
            Order::Prepare(prepare) => order::Kind::Prepare((*prepare).into()),
            Order::Start(start) => order::Kind::Start(start.into()),
            Order::SetContext(update) => order::Kind::SetContext(update.into()),
            Order::Lease(lease) => order::Kind::Lease(lease.into()),
            Order::Forget(run) => order::Kind::ForgetRun(run.0),
            Order::Drain => order::Kind::Drain(v1::Drain {}),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<v1::Order> for Order {
    type Error = WireError;

    fn try_from(order: v1::Order) -> Result<Self, WireError> {
        Ok(match order.kind.ok_or(WireError::UnknownKind("an order"))? {
            order::Kind::Prepare(prepare) => Self::Prepare(Box::new(prepare.try_into()?)),
            order::Kind::Start(start) => Self::Start(start.try_into()?),
            order::Kind::SetContext(update) => Self::SetContext(update.try_into()?),
            order::Kind::Lease(lease) => Self::Lease(lease.try_into()?),
            order::Kind::ForgetRun(run) => Self::Forget(RunId(run)),
            order::Kind::Drain(_) => Self::Drain,
            order::Kind::Welcome(_) => return Err(WireError::Unexpected("welcome")),
            order::Kind::Heartbeat(_) => return Err(WireError::Unexpected("heartbeat")),
            order::Kind::Refused(_) => return Err(WireError::Unexpected("refused")),
        })
    }
}

impl From<Prepare> for v1::Prepare {
    fn from(prepare: Prepare) -> Self {
        Self {
            run: prepare.run.0,
            read_out: prepare.read_out.to_string(),
            temperature: prepare.temperature,
            template: prepare.template,
            words: prepare.words,
            injection: prepare.injection.to_string(),
            tokens: prepare.tokens,
            init: prepare.init.to_string(),
            loss: loss_name(prepare.loss).to_owned(),
            projection: prepare.projection.to_string(),
            dim: prepare.dim,
            seed: prepare.seed,
            train: prepare.train.into_iter().map(Into::into).collect(),
            dev: prepare.dev.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::Prepare> for Prepare {
    type Error = WireError;

    fn try_from(prepare: v1::Prepare) -> Result<Self, WireError> {
        Ok(Self {
            run: RunId(prepare.run),
            read_out: named("prepare.read_out", &prepare.read_out)?,
            temperature: prepare.temperature,
            template: prepare.template,
            words: prepare.words,
            injection: named("prepare.injection", &prepare.injection)?,
            tokens: prepare.tokens,
            init: named("prepare.init", &prepare.init)?,
            loss: loss_of(&prepare.loss)?,
            projection: named("prepare.projection", &prepare.projection)?,
            dim: prepare.dim,
            seed: prepare.seed,
            train: prepare.train.into_iter().map(Into::into).collect(),
            dev: prepare.dev.into_iter().map(Into::into).collect(),
        })
    }
}

impl From<Example> for v1::Example {
    fn from(example: Example) -> Self {
        Self { text: example.text, text_pair: example.text_pair, label: example.label, line: example.line }
    }
}

impl From<v1::Example> for Example {
    fn from(example: v1::Example) -> Self {
        Self { text: example.text, text_pair: example.text_pair, label: example.label, line: example.line }
    }
}

impl From<Start> for v1::Start {
    fn from(start: Start) -> Self {
        Self {
            run: start.run.0,
            projection_stds: to_bytes(&start.projection_stds),
            version: start.version.0,
            context: start.context.iter().map(|z| to_bytes(z)).collect(),
        }
    }
}

impl TryFrom<v1::Start> for Start {
    type Error = WireError;

    fn try_from(start: v1::Start) -> Result<Self, WireError> {
        let context = start.context.iter().map(|z| to_numbers("start.context", z));
        Ok(Self {
            run: RunId(start.run),
            projection_stds: to_numbers("start.projection_stds", &start.projection_stds)?,
            version: ContextVersion(start.version),
            context: context.collect::<Result<_, _>>()?,
        })
    }
}

impl From<ContextUpdate> for v1::SetContext {
    fn from(update: ContextUpdate) -> Self {
        Self { run: update.run.0, version: update.version.0, layer: update.layer.0, z: to_bytes(&update.z) }
    }
}

impl TryFrom<v1::SetContext> for ContextUpdate {
    type Error = WireError;

    fn try_from(update: v1::SetContext) -> Result<Self, WireError> {
        Ok(Self {
            run: RunId(update.run),
            version: ContextVersion(update.version),
            layer: Layer(update.layer),
            z: to_numbers("set_context.z", &update.z)?,
        })
    }
}

impl From<Lease> for v1::Lease {
    fn from(lease: Lease) -> Self {
        let work = match lease.work {
            Work::Evaluate { layer, candidates, examples, canary } => {
                v1::lease::Work::Evaluate(v1::Evaluate {
                    layer: layer.0,
                    candidates: candidates.iter().map(|z| to_bytes(z)).collect(),
                    examples: Some(range_to(examples)),
                    canary: canary
                        .map(|canary| v1::Canary { z: to_bytes(&canary.z), example: canary.example }),
                })
            }
            Work::Score { prompt, examples } => v1::lease::Work::Score(score_to(prompt, examples)),
        };
        Self {
            id: lease.id.0,
            run: lease.run.0,
            version: lease.version.0,
            work: Some(work),
            traceparent: lease.trace,
        }
    }
}

fn score_to(prompt: Prompted, examples: ExampleSet) -> v1::Score {
    let prompted = match prompt {
        Prompted::Manual => v1::score::Prompted::Manual,
        Prompted::Context => v1::score::Prompted::Context,
    };
    let examples = match examples {
        ExampleSet::Train(range) => v1::score::Examples::Train(range_to(range)),
        ExampleSet::Dev(range) => v1::score::Examples::Dev(range_to(range)),
        ExampleSet::Inline(examples) => v1::score::Examples::Inline(v1::Examples {
            examples: examples.into_iter().map(Into::into).collect(),
        }),
    };
    v1::Score { prompted: prompted.into(), examples: Some(examples) }
}

impl TryFrom<v1::Lease> for Lease {
    type Error = WireError;

    fn try_from(lease: v1::Lease) -> Result<Self, WireError> {
        let work = match lease.work.ok_or(WireError::UnknownKind("a lease"))? {
            v1::lease::Work::Evaluate(evaluate) => Work::Evaluate {
                layer: Layer(evaluate.layer),
                candidates: evaluate
                    .candidates
                    .iter()
                    .map(|z| to_numbers("evaluate.candidates", z))
                    .collect::<Result<_, _>>()?,
                examples: range_of(evaluate.examples.ok_or(WireError::Missing("evaluate.examples"))?),
                canary: evaluate.canary.map(canary_of).transpose()?,
            },
            v1::lease::Work::Score(score) => score_of(score)?,
        };
        Ok(Self {
            id: LeaseId(lease.id),
            run: RunId(lease.run),
            version: ContextVersion(lease.version),
            work,
            trace: lease.traceparent,
        })
    }
}

fn canary_of(canary: v1::Canary) -> Result<Canary, WireError> {
    Ok(Canary { z: to_numbers("canary.z", &canary.z)?, example: canary.example })
}

pub(super) fn score_of(score: v1::Score) -> Result<Work, WireError> {
    let prompt = match v1::score::Prompted::try_from(score.prompted) {
        Ok(v1::score::Prompted::Manual) => Prompted::Manual,
        Ok(v1::score::Prompted::Context) => Prompted::Context,
        _ => {
            return Err(unknown_number("score.prompted", score.prompted, "1 (manual), 2 (context)"));
        }
    };
    let examples = match score.examples.ok_or(WireError::UnknownKind("a score"))? {
        v1::score::Examples::Train(range) => ExampleSet::Train(range_of(range)),
        v1::score::Examples::Dev(range) => ExampleSet::Dev(range_of(range)),
        v1::score::Examples::Inline(inline) => {
            ExampleSet::Inline(inline.examples.into_iter().map(Into::into).collect())
        }
    };
    Ok(Work::Score { prompt, examples })
}
