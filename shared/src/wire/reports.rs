//! Reports: evaluator to coordinator; and refusals, which go both ways.

use proto::v1;
use proto::v1::report;

use super::{WireError, to_bytes, to_numbers, unknown_number};
use crate::ids::{LeaseId, RunId};
use crate::messages::{Answer, CanaryOutcome, Outcome, Ready, Refusal, Refused, Report};

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
        Ok(match report.kind.ok_or(WireError::UnknownKind("a report"))? {
            report::Kind::Hello(_) => return Err(WireError::Unexpected("hello")),
            report::Kind::Ready(ready) => Self::Ready(Box::new(ready.try_into()?)),
            report::Kind::Answer(answer) => Self::Answer(answer.try_into()?),
            report::Kind::Refused(refused) => Self::Refused(refused.try_into()?),
            report::Kind::Heartbeat(heartbeat) => Self::Heartbeat { progress: heartbeat.progress },
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
        let canary =
            answer.canary.map(|CanaryOutcome { loss, predicted }| v1::CanaryOutcome { loss, predicted });
        Self { lease: answer.lease.0, outcomes: outcomes.collect(), canary }
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
        let canary =
            answer.canary.map(|v1::CanaryOutcome { loss, predicted }| CanaryOutcome { loss, predicted });
        Ok(Self { lease: LeaseId(answer.lease), outcomes: outcomes.collect::<Result<_, _>>()?, canary })
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
            refusal: refused.refusal.ok_or(WireError::Missing("refused.refusal"))?.try_into()?,
        })
    }
}

impl From<Refusal> for v1::Refusal {
    fn from(refusal: Refusal) -> Self {
        use v1::refusal::Kind;
        let quarantined = matches!(refusal, Refusal::Quarantined(_));
        let (kind, message, line) = match refusal {
            Refusal::Input(text) => (Kind::Input, text, None),
            Refusal::Example { line, problem } => (Kind::Input, problem, Some(line)),
            Refusal::Model(text) | Refusal::Quarantined(text) => (Kind::Model, text, None),
            Refusal::Protocol(text) => (Kind::Protocol, text, None),
            Refusal::Failed(text) => (Kind::Failed, text, None),
        };
        Self { kind: kind.into(), message, line, quarantined }
    }
}

impl TryFrom<v1::Refusal> for Refusal {
    type Error = WireError;

    fn try_from(refusal: v1::Refusal) -> Result<Self, WireError> {
        use v1::refusal::Kind;
        let text = refusal.message;
        Ok(match Kind::try_from(refusal.kind) {
            Ok(Kind::Input) => match refusal.line {
                Some(line) => Self::Example { line, problem: text },
                None => Self::Input(text),
            },
            Ok(Kind::Model) if refusal.quarantined => Self::Quarantined(text),
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
