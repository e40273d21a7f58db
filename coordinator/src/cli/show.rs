//! How a coordinator's runs and evaluators are shown: a line each for people, an object each for machines.

use proto::v1::{EvaluatorStatus, ListResponse, RunStatus, evaluator_status, run_status};
use serde_json::{Value, json};

/// Runs, and evaluators, that a terminal shows at most.
const MOST: usize = 10;

/// Everything, a line each.
pub(super) fn lines(list: &ListResponse) -> Vec<String> {
    let runs = list.runs.iter().map(run_line);
    let evaluators = list.evaluators.iter().map(evaluator_line);
    runs.chain([crowd(list)]).chain(evaluators).collect()
}

/// What fits on a terminal: of many runs those under way, of many evaluators those that something is wrong with.
pub(super) fn picture(list: &ListResponse) -> Vec<String> {
    let mut runs: Vec<&RunStatus> = list.runs.iter().collect();
    runs.sort_by_key(|run| (over(run), std::cmp::Reverse(run.run)));
    let mut evaluators: Vec<&EvaluatorStatus> = list.evaluators.iter().collect();
    evaluators.sort_by_key(|evaluator| (std::cmp::Reverse(concern(evaluator.state())), evaluator.id));
    let rest = |all: usize, what: &str| (all > MOST).then(|| format!("and {} more {what}", all - MOST));
    let mut lines: Vec<String> = runs.iter().take(MOST).map(|run| run_line(run)).collect();
    lines.extend(rest(runs.len(), "runs"));
    lines.push(crowd(list));
    lines.extend(evaluators.iter().take(MOST).map(|evaluator| evaluator_line(evaluator)));
    lines.extend(rest(evaluators.len(), "evaluators"));
    lines
}

/// Whether a run has ended.
pub(super) fn over(run: &RunStatus) -> bool {
    use run_status::State::{Cancelled, Done, Failed};
    matches!(run.state(), Done | Failed | Cancelled)
}

/// How many evaluators there are, and in which states.
pub(super) fn crowd(list: &ListResponse) -> String {
    let mut states: Vec<evaluator_status::State> =
        list.evaluators.iter().map(EvaluatorStatus::state).collect();
    states.sort_by_key(|state| concern(*state));
    let each = states.chunk_by(|a, b| a == b).filter_map(|same| Some((same.first()?, same.len())));
    let each: Vec<String> =
        each.map(|(state, count)| format!("{count} {}", evaluator_state(*state))).collect();
    match (states.len(), each.join(", ")) {
        (0, _) => "no evaluators".to_owned(),
        (1, each) => format!("1 evaluator: {each}"),
        (all, each) => format!("{all} evaluators: {each}"),
    }
}

/// The more, the sooner somebody should look.
fn concern(state: evaluator_status::State) -> u8 {
    use evaluator_status::State;
    match state {
        State::Working => 0,
        State::Idle => 1,
        State::Preparing => 2,
        State::Unspecified => 3,
        State::Late => 4,
        State::Quarantined => 5,
    }
}

/// One run.
pub(super) fn run_line(run: &RunStatus) -> String {
    use run_status::State::{Queued, Waiting};
    let mut parts = vec![format!("run {}  {}  {}", run.run, run.task, run_state(run))];
    if !matches!(run.state(), Queued | Waiting) {
        parts.push(format!(
            "sweep {}/{}  layer {}/{}  {}/{} calls  loss {}  dev {}  {:.1} calls/s",
            run.sweep,
            run.sweeps,
            if run.layers == 0 { 0 } else { run.layer + 1 },
            run.layers,
            run.calls,
            run.budget,
            number(run.best_loss),
            number(run.best_dev),
            run.calls_per_second
        ));
    }
    parts.extend(run.seconds_left.map(|seconds| format!("{} left", duration(seconds))));
    parts.extend(Some(run.message.clone()).filter(|message| !message.is_empty()));
    parts.join("  ")
}

/// One evaluator.
pub(super) fn evaluator_line(e: &EvaluatorStatus) -> String {
    if e.state() == evaluator_status::State::Quarantined {
        return format!("{}  {}: {}", e.name, evaluator_state(e.state()), e.message);
    }
    let pace = e.calls_per_second.map(|calls| format!("  {calls:.1} calls/s")).unwrap_or_default();
    format!(
        "{}  {}  {}  {}  {} leases in flight, {} answered{pace}, last heard {:.1} s ago",
        e.name,
        e.device,
        e.model,
        evaluator_state(e.state()),
        e.leases,
        e.answered,
        e.idle_seconds
    )
}

/// Everything as one object.
pub(super) fn list_json(list: &ListResponse) -> Value {
    let runs: Vec<Value> = list.runs.iter().map(run_json).collect();
    let evaluators: Vec<Value> = list.evaluators.iter().map(evaluator_json).collect();
    json!({"runs": runs, "evaluators": evaluators})
}

/// One run as an object.
pub(super) fn run_json(run: &RunStatus) -> Value {
    json!({
        "run": run.run, "task": run.task, "state": run_state(run), "sweep": run.sweep, "sweeps": run.sweeps,
        "layer": run.layer, "layers": run.layers, "calls": run.calls, "budget": run.budget,
        "generation": run.generation, "best_loss": run.best_loss, "best_dev": run.best_dev,
        "calls_per_second": run.calls_per_second, "seconds_left": run.seconds_left, "folder": run.folder,
        "message": run.message,
    })
}

fn evaluator_json(evaluator: &EvaluatorStatus) -> Value {
    json!({
        "id": evaluator.id, "name": evaluator.name, "device": evaluator.device, "model": evaluator.model,
        "state": evaluator_state(evaluator.state()), "leases": evaluator.leases, "answered": evaluator.answered,
        "calls_per_second": evaluator.calls_per_second, "idle_seconds": evaluator.idle_seconds,
        "message": evaluator.message,
    })
}

fn run_state(run: &RunStatus) -> &'static str {
    match run.state() {
        run_status::State::Unspecified => "unknown",
        run_status::State::Queued => "queued",
        run_status::State::Waiting => "waiting for evaluators",
        run_status::State::Running => "running",
        run_status::State::Done => "done",
        run_status::State::Failed => "failed",
        run_status::State::Cancelled => "cancelled",
    }
}

fn evaluator_state(state: evaluator_status::State) -> &'static str {
    match state {
        evaluator_status::State::Unspecified => "unknown",
        evaluator_status::State::Preparing => "preparing",
        evaluator_status::State::Working => "working",
        evaluator_status::State::Idle => "idle",
        evaluator_status::State::Late => "late",
        evaluator_status::State::Quarantined => "quarantined",
    }
}

fn number(value: f64) -> String {
    if value.is_nan() { "-".to_owned() } else { format!("{value:.4}") }
}

/// `1 h 05 min`, `3 min 20 s`, `8 s`.
fn duration(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds:02} s"),
        (hours, minutes, _) => format!("{hours} h {minutes:02} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units() {
        let shown = [0.4, 59.6, 200.0, 3900.0, 1e6].map(duration);
        assert_eq!(shown, ["0 s", "1 min 00 s", "3 min 20 s", "1 h 05 min", "277 h 46 min"]);
    }

    #[test]
    fn a_line_has_what_is_known() {
        let mut run = RunStatus { run: 3, task: "films".to_owned(), ..RunStatus::default() };
        run.set_state(run_status::State::Queued);
        assert_eq!(run_line(&run), "run 3  films  queued");
        run.set_state(run_status::State::Running);
        (run.best_loss, run.best_dev, run.layers, run.seconds_left) = (0.5, f64::NAN, 2, Some(8.0));
        assert_eq!(
            run_line(&run),
            "run 3  films  running  sweep 0/0  layer 1/2  0/0 calls  loss 0.5000  dev -  0.0 calls/s  8 s left"
        );
        let nobody = lines(&ListResponse::default());
        assert_eq!(nobody, ["no evaluators"]);
        let mut one = EvaluatorStatus { name: "a".to_owned(), ..EvaluatorStatus::default() };
        one.calls_per_second = Some(2.5);
        assert!(evaluator_line(&one).contains("2.5 calls/s"), "{}", evaluator_line(&one));
        one.set_state(evaluator_status::State::Quarantined);
        one.message = "its canary differs".to_owned();
        assert_eq!(evaluator_line(&one), "a  quarantined: its canary differs");
    }

    #[test]
    fn a_picture_of_many_shows_what_matters() {
        let run = |id, state| {
            let mut run = RunStatus { run: id, ..RunStatus::default() };
            run.set_state(state);
            run
        };
        let evaluator = |id, state| {
            let mut one = EvaluatorStatus { id, name: format!("e{id}"), ..EvaluatorStatus::default() };
            one.set_state(state);
            one
        };
        let mut list = ListResponse {
            runs: (1..=12).map(|id| run(id, run_status::State::Done)).collect(),
            evaluators: (1..=12).map(|id| evaluator(id, evaluator_status::State::Working)).collect(),
        };
        list.runs[0].set_state(run_status::State::Running);
        list.evaluators[11].set_state(evaluator_status::State::Late);
        let lines = picture(&list);
        assert!(lines[0].starts_with("run 1  ") && lines[1].starts_with("run 12  "), "{lines:#?}");
        assert_eq!([&lines[10], &lines[11]], ["and 2 more runs", "12 evaluators: 11 working, 1 late"]);
        assert!(lines[12].starts_with("e12  ") && lines[13].starts_with("e1  "), "{lines:#?}");
        assert_eq!(lines.len(), 23);
        assert_eq!(super::lines(&list).len(), 25);
    }
}
