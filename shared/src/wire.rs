//! Messages to and from their protobuf form, field by field.
//!
//! Lives here because of the orphan rule: `proto` may not know `shared`. Only prost types, no transport.
//! What a peer sends is checked for presence and form; whether it makes sense is for its reader to say.

use std::fmt::Display;
use std::ops::Range;
use std::str::FromStr;

use proto::v1;
use proto::v1::{order, report};
use thiserror::Error;

use crate::ids::{ContextVersion, Layer, LeaseId, RunId};
use crate::messages::{
    Answer, ContextUpdate, ExampleSet, Hello, Lease, ModelIdentity, Order, Outcome, Prepare, Prompted, Ready,
    Refusal, Refused, Report, Start, Work,
};
use crate::task::{Example, Loss};

/// What is wrong with a message of a peer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    /// A field that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A vector of numbers that is not a whole number of f32.
    #[error("{field} holds {bytes} bytes, which is no whole number of f32")]
    Torn {
        /// Which.
        field: &'static str,
        /// How many bytes it holds.
        bytes: usize,
    },
    /// A name or number that stands for nothing known.
    #[error("{field}: {problem}")]
    Unknown {
        /// Which.
        field: &'static str,
        /// What was sent, and what is known.
        problem: String,
    },
    /// A message that belongs to the handshake, in the middle of the conversation.
    #[error("unexpected {0}")]
    Unexpected(&'static str),
}

/// Numbers as little-endian f32.
fn to_bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// The numbers of `bytes`.
fn to_numbers(field: &'static str, bytes: &[u8]) -> Result<Vec<f32>, WireError> {
    let (whole, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(WireError::Torn {
            field,
            bytes: bytes.len(),
        });
    }
    Ok(whole.iter().map(|&four| f32::from_le_bytes(four)).collect())
}

fn named<T: FromStr<Err: Display>>(field: &'static str, name: &str) -> Result<T, WireError> {
    name.parse().map_err(|problem: T::Err| WireError::Unknown {
        field,
        problem: problem.to_string(),
    })
}

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
    v1::Range {
        start: range.start,
        end: range.end,
    }
}

fn range_of(range: v1::Range) -> Range<u32> {
    range.start..range.end
}

impl From<Hello> for v1::Hello {
    fn from(hello: Hello) -> Self {
        Self {
            protocol: hello.protocol,
            name: hello.name,
            version: hello.version,
            model: Some(hello.model.into()),
            device: hello.device,
            dtype: hello.dtype,
            max_batch_tokens: hello.max_batch_tokens,
        }
    }
}

impl TryFrom<v1::Hello> for Hello {
    type Error = WireError;

    fn try_from(hello: v1::Hello) -> Result<Self, WireError> {
        Ok(Self {
            protocol: hello.protocol,
            name: hello.name,
            version: hello.version,
            model: hello.model.ok_or(WireError::Missing("hello.model"))?.into(),
            device: hello.device,
            dtype: hello.dtype,
            max_batch_tokens: hello.max_batch_tokens,
        })
    }
}

impl From<ModelIdentity> for v1::Model {
    fn from(model: ModelIdentity) -> Self {
        Self {
            name: model.name,
            revision: model.revision,
            weights_sha256: model.weights_sha256,
            config_sha256: model.config_sha256,
            tokenizer_sha256: model.tokenizer_sha256,
            layers: model.layers,
            hidden: model.hidden,
        }
    }
}

impl From<v1::Model> for ModelIdentity {
    fn from(model: v1::Model) -> Self {
        Self {
            name: model.name,
            revision: model.revision,
            weights_sha256: model.weights_sha256,
            config_sha256: model.config_sha256,
            tokenizer_sha256: model.tokenizer_sha256,
            layers: model.layers,
            hidden: model.hidden,
        }
    }
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
        Ok(match order.kind.ok_or(WireError::Missing("order.kind"))? {
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
        Self {
            text: example.text,
            text_pair: example.text_pair,
            label: example.label,
        }
    }
}

impl From<v1::Example> for Example {
    fn from(example: v1::Example) -> Self {
        Self {
            text: example.text,
            text_pair: example.text_pair,
            label: example.label,
        }
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
        Self {
            run: update.run.0,
            version: update.version.0,
            layer: update.layer.0,
            z: to_bytes(&update.z),
        }
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
            Work::Evaluate {
                layer,
                candidates,
                examples,
            } => v1::lease::Work::Evaluate(v1::Evaluate {
                layer: layer.0,
                candidates: candidates.iter().map(|z| to_bytes(z)).collect(),
                examples: Some(range_to(examples)),
            }),
            Work::Score { prompt, examples } => v1::lease::Work::Score(score_to(prompt, examples)),
        };
        Self {
            id: lease.id.0,
            run: lease.run.0,
            version: lease.version.0,
            work: Some(work),
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
    v1::Score {
        prompted: prompted.into(),
        examples: Some(examples),
    }
}

impl TryFrom<v1::Lease> for Lease {
    type Error = WireError;

    fn try_from(lease: v1::Lease) -> Result<Self, WireError> {
        let work = match lease.work.ok_or(WireError::Missing("lease.work"))? {
            v1::lease::Work::Evaluate(evaluate) => Work::Evaluate {
                layer: Layer(evaluate.layer),
                candidates: evaluate
                    .candidates
                    .iter()
                    .map(|z| to_numbers("evaluate.candidates", z))
                    .collect::<Result<_, _>>()?,
                examples: range_of(evaluate.examples.ok_or(WireError::Missing("evaluate.examples"))?),
            },
            v1::lease::Work::Score(score) => score_of(score)?,
        };
        Ok(Self {
            id: LeaseId(lease.id),
            run: RunId(lease.run),
            version: ContextVersion(lease.version),
            work,
        })
    }
}

fn score_of(score: v1::Score) -> Result<Work, WireError> {
    let prompt = match v1::score::Prompted::try_from(score.prompted) {
        Ok(v1::score::Prompted::Manual) => Prompted::Manual,
        Ok(v1::score::Prompted::Context) => Prompted::Context,
        _ => {
            return Err(unknown_number(
                "score.prompted",
                score.prompted,
                "1 (manual), 2 (context)",
            ));
        }
    };
    let examples = match score.examples.ok_or(WireError::Missing("score.examples"))? {
        v1::score::Examples::Train(range) => ExampleSet::Train(range_of(range)),
        v1::score::Examples::Dev(range) => ExampleSet::Dev(range_of(range)),
        v1::score::Examples::Inline(inline) => {
            ExampleSet::Inline(inline.examples.into_iter().map(Into::into).collect())
        }
    };
    Ok(Work::Score { prompt, examples })
}

fn unknown_number(field: &'static str, number: i32, known: &str) -> WireError {
    WireError::Unknown {
        field,
        problem: format!("{number} is none of: {known}"),
    }
}

impl From<Report> for v1::Report {
    fn from(report: Report) -> Self {
        let kind = match report {
            Report::Ready(ready) => report::Kind::Ready((*ready).into()),
            Report::Answer(answer) => report::Kind::Answer(answer.into()),
            Report::Refused(refused) => report::Kind::Refused(refused.into()),
            Report::Heartbeat { progress } => report::Kind::Heartbeat(v1::Heartbeat { progress }),
            Report::Leaving => report::Kind::Leaving(v1::Leaving {}),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<v1::Report> for Report {
    type Error = WireError;

    fn try_from(report: v1::Report) -> Result<Self, WireError> {
        Ok(match report.kind.ok_or(WireError::Missing("report.kind"))? {
            report::Kind::Hello(_) => return Err(WireError::Unexpected("hello")),
            report::Kind::Ready(ready) => Self::Ready(Box::new(ready.try_into()?)),
            report::Kind::Answer(answer) => Self::Answer(answer.try_into()?),
            report::Kind::Refused(refused) => Self::Refused(refused.try_into()?),
            report::Kind::Heartbeat(heartbeat) => Self::Heartbeat {
                progress: heartbeat.progress,
            },
            report::Kind::Leaving(_) => Self::Leaving,
        })
    }
}

impl From<Ready> for v1::Ready {
    fn from(ready: Ready) -> Self {
        Self {
            run: ready.run.0,
            layer_stds: to_bytes(&ready.layer_stds),
            initial: to_bytes(&ready.initial),
            initial_ids: ready.initial_ids,
            label_ids: ready.label_ids,
            train_tokens: ready.train_tokens,
            flops: ready.flops,
            memory_bytes: ready.memory_bytes,
        }
    }
}

impl TryFrom<v1::Ready> for Ready {
    type Error = WireError;

    fn try_from(ready: v1::Ready) -> Result<Self, WireError> {
        Ok(Self {
            run: RunId(ready.run),
            layer_stds: to_numbers("ready.layer_stds", &ready.layer_stds)?,
            initial: to_numbers("ready.initial", &ready.initial)?,
            initial_ids: ready.initial_ids,
            label_ids: ready.label_ids,
            train_tokens: ready.train_tokens,
            flops: ready.flops,
            memory_bytes: ready.memory_bytes,
        })
    }
}

impl From<Answer> for v1::Answer {
    fn from(answer: Answer) -> Self {
        let outcomes = answer.outcomes.into_iter().map(|outcome| v1::Outcome {
            losses: to_bytes(&outcome.losses),
            predicted: outcome.predicted,
            logits: to_bytes(&outcome.logits),
        });
        Self {
            lease: answer.lease.0,
            outcomes: outcomes.collect(),
        }
    }
}

impl TryFrom<v1::Answer> for Answer {
    type Error = WireError;

    fn try_from(answer: v1::Answer) -> Result<Self, WireError> {
        let outcomes = answer.outcomes.into_iter().map(|outcome| {
            Ok(Outcome {
                losses: to_numbers("outcome.losses", &outcome.losses)?,
                predicted: outcome.predicted,
                logits: to_numbers("outcome.logits", &outcome.logits)?,
            })
        });
        Ok(Self {
            lease: LeaseId(answer.lease),
            outcomes: outcomes.collect::<Result<_, _>>()?,
        })
    }
}

impl From<Refused> for v1::Refused {
    fn from(refused: Refused) -> Self {
        Self {
            run: refused.run.0,
            lease: refused.lease.map(|lease| lease.0),
            refusal: Some(refused.refusal.into()),
        }
    }
}

impl TryFrom<v1::Refused> for Refused {
    type Error = WireError;

    fn try_from(refused: v1::Refused) -> Result<Self, WireError> {
        Ok(Self {
            run: RunId(refused.run),
            lease: refused.lease.map(LeaseId),
            refusal: refused
                .refusal
                .ok_or(WireError::Missing("refused.refusal"))?
                .try_into()?,
        })
    }
}

impl From<Refusal> for v1::Refusal {
    fn from(refusal: Refusal) -> Self {
        use v1::refusal::Kind;
        let (kind, message) = match refusal {
            Refusal::Input(text) => (Kind::Input, text),
            Refusal::Model(text) => (Kind::Model, text),
            Refusal::Protocol(text) => (Kind::Protocol, text),
            Refusal::Failed(text) => (Kind::Failed, text),
        };
        Self {
            kind: kind.into(),
            message,
        }
    }
}

impl TryFrom<v1::Refusal> for Refusal {
    type Error = WireError;

    fn try_from(refusal: v1::Refusal) -> Result<Self, WireError> {
        use v1::refusal::Kind;
        let text = refusal.message;
        Ok(match Kind::try_from(refusal.kind) {
            Ok(Kind::Input) => Self::Input(text),
            Ok(Kind::Model) => Self::Model(text),
            Ok(Kind::Protocol) => Self::Protocol(text),
            Ok(Kind::Failed) => Self::Failed(text),
            Ok(Kind::Unspecified) | Err(_) => {
                let known = "1 (input), 2 (model), 3 (protocol), 4 (failed)";
                return Err(unknown_number("refusal.kind", refusal.kind, known));
            }
        })
    }
}

#[cfg(test)]
mod tests;
