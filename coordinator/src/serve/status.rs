//! What clients are told of runs and evaluators: the domain's values as the wire has them.

use std::path::Path;
use std::time::{Duration, Instant};

use proto::v1::{EvaluatorStatus, RunStatus, evaluator_status, run_status};

use crate::fleet::{self, FleetStatus};
use crate::progress::{Progress, State};

/// An evaluator unheard of for so long has missed three heartbeats.
const UNHEARD: Duration = Duration::from_secs(6);

/// One run.
pub(super) fn run(id: u64, progress: &Progress, folder: &Path) -> RunStatus {
    let state = match progress.state {
        State::Queued => run_status::State::Queued,
        State::Waiting => run_status::State::Waiting,
        State::Before | State::Searching | State::After => run_status::State::Running,
        State::Done => run_status::State::Done,
        State::Failed => run_status::State::Failed,
        State::Cancelled => run_status::State::Cancelled,
    };
    RunStatus {
        run: id,
        task: progress.task.clone(),
        state: state.into(),
        sweep: progress.sweep as u32,
        sweeps: progress.sweeps as u32,
        layer: progress.layer,
        layers: progress.layers,
        calls: progress.calls,
        budget: progress.budget,
        best_loss: progress.best_loss.unwrap_or(f64::NAN),
        best_dev: progress.best_dev.unwrap_or(f64::NAN),
        calls_per_second: progress.calls_per_second,
        message: progress.message.clone(),
        generation: progress.generation,
        seconds_left: progress.seconds_left(),
        folder: folder.display().to_string(),
    }
}

/// All evaluators.
pub(super) fn evaluators(fleet: &FleetStatus, now: Instant) -> Vec<EvaluatorStatus> {
    let here = fleet.evaluators.iter().map(|one| evaluator(one, now));
    here.chain(fleet.quarantined.iter().map(quarantined)).collect()
}

fn evaluator(one: &fleet::EvaluatorStatus, now: Instant) -> EvaluatorStatus {
    let unheard = now.saturating_duration_since(one.last_report);
    EvaluatorStatus {
        id: one.id.0,
        name: one.name.clone(),
        device: one.device.clone(),
        model: one.model.clone(),
        leases: one.leases as u32,
        answered: one.answered,
        idle_seconds: unheard.as_secs_f64(),
        state: evaluator_state(one, unheard).into(),
        calls_per_second: one.calls_per_second,
        message: String::new(),
    }
}

/// Who has been sent away for good is told of for as long as the coordinator lives.
fn quarantined(one: &fleet::Quarantined) -> EvaluatorStatus {
    let (name, message) = (one.name.clone(), one.reason.clone());
    let state = evaluator_status::State::Quarantined.into();
    EvaluatorStatus { name, state, message, ..EvaluatorStatus::default() }
}

/// What an evaluator is doing, in a word.
pub(crate) fn evaluator_state_name(one: &fleet::EvaluatorStatus, now: Instant) -> &'static str {
    use evaluator_status::State;
    match evaluator_state(one, now.saturating_duration_since(one.last_report)) {
        State::Preparing => "preparing",
        State::Working => "working",
        State::Idle => "idle",
        State::Late => "late",
        State::Quarantined | State::Unspecified => "quarantined",
    }
}

fn evaluator_state(one: &fleet::EvaluatorStatus, unheard: Duration) -> evaluator_status::State {
    use evaluator_status::State;
    if one.late || unheard >= UNHEARD {
        State::Late
    } else if one.leases > 0 {
        State::Working
    } else if one.preparing {
        State::Preparing
    } else {
        State::Idle
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evaluator_status::State::{Idle, Late, Preparing, Working};

    #[test]
    fn an_evaluators_state_is_the_worst_that_holds() {
        let seconds = Duration::from_secs;
        let one = |leases, preparing, late| fleet::EvaluatorStatus {
            id: shared::ids::EvaluatorId(1),
            name: String::new(),
            device: String::new(),
            model: String::new(),
            leases,
            answered: 0,
            calls_per_second: None,
            last_report: Instant::now(),
            preparing,
            late,
        };
        for (status, unheard, state) in [
            (one(0, false, false), 5, Idle),
            (one(0, false, false), 6, Late),
            (one(0, true, false), 0, Preparing),
            (one(1, true, false), 0, Working),
            (one(2, false, true), 0, Late),
        ] {
            assert_eq!(evaluator_state(&status, seconds(unheard)), state, "{status:?}");
        }
    }

    #[test]
    fn who_is_quarantined_is_told_of_with_the_reason() {
        let one = fleet::Quarantined { name: "liar".to_owned(), reason: "1 where others find 2".to_owned() };
        let told =
            evaluators(&FleetStatus { quarantined: vec![one], ..FleetStatus::default() }, Instant::now());
        assert_eq!((told.len(), told[0].state()), (1, evaluator_status::State::Quarantined));
        assert_eq!((told[0].name.as_str(), told[0].message.as_str()), ("liar", "1 where others find 2"));
    }

    #[test]
    fn time_left_is_told_while_a_run_is_searching_alone() {
        let progress = Progress { calls: 30, budget: 90, calls_per_second: 2.0, ..Progress::default() };
        assert_eq!(run(1, &progress, Path::new("f")).seconds_left, None);
        let searching = Progress { state: State::Searching, ..progress };
        assert_eq!(run(1, &searching, Path::new("f")).seconds_left, Some(30.0));
        let slow = Progress { calls_per_second: 0.0, ..searching };
        assert_eq!(run(1, &slow, Path::new("f")).seconds_left, None);
    }
}
