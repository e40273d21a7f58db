//! What Prometheus scrapes: what docs/observability.md lists, no more and no less, and right.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};

use tests::{Coordinator, Process, evaluator, root, until};

use super::page::Page;
use super::{endless, place, stop};

/// A documented metric: its type and its labels.
type Documented = BTreeMap<String, (String, BTreeSet<String>)>;

/// The table below a heading of docs/observability.md.
fn documented(heading: &str) -> Documented {
    let text = std::fs::read_to_string(root().join("docs/observability.md")).unwrap();
    let section = text.split("\n### ").find(|section| section.starts_with(heading)).expect(heading);
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let names = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, ..] = &cells[..] else { panic!("{row}") };
        (names(name)[0].clone(), ((*kind).to_owned(), names(labels).into_iter().collect()))
    })
    .collect()
}

/// The page has every documented metric, of its type and with its labels; or what it lacks.
fn compare(page: &Page, documented: &Documented) -> Result<(), String> {
    for (name, family) in &page.families {
        let (kind, labels) = documented.get(name).unwrap_or_else(|| panic!("{name} is not documented"));
        assert_eq!((kind, labels), (&family.kind, &without_bucket(&family.labels)), "{name}");
    }
    documented.keys().find(|name| !page.families.contains_key(*name)).map_or(Ok(()), |name| Err(name.clone()))
}

fn without_bucket(labels: &BTreeSet<String>) -> BTreeSet<String> {
    labels.iter().filter(|label| *label != "le").cloned().collect()
}

/// Prometheus's own opinion, where its tool is here.
fn promtool(page: &Page) {
    let mut tool = Command::new("promtool");
    let started = tool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut checking) = started else { return };
    std::io::Write::write_all(&mut checking.stdin.take().unwrap(), page.text.as_bytes()).unwrap();
    let checked = checking.wait_with_output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
}

#[test]
fn what_is_documented_is_shown_and_what_is_shown_is_documented() {
    let (coordinators, evaluators) = (documented("Of the coordinator"), documented("Of the evaluator"));
    assert!(coordinators.len() > 20 && evaluators.len() > 15, "the tables have moved");
    let case = endless();
    let show = ["--metrics", "127.0.0.1:0"];
    let mut coordinator = Coordinator::start(&case, "run", &show);
    let mut workers =
        ["a", "b"].map(|name| Process::start(evaluator(&case, &coordinator.url(), name).args(show)));
    let urls = [place(&mut coordinator.process, "metrics"), place(&mut workers[0], "metrics")];

    for (url, documented) in urls.iter().zip([&coordinators, &evaluators]) {
        let page = until("every documented metric", || {
            let page = Page::fetch(url);
            compare(&page, documented).ok().map(|()| page)
        });
        promtool(&page);
    }

    // Two pages, one after the other, of a coordinator that is at work.
    let seen =
        |page: &Page, series: &str| page.value(series).unwrap_or_else(|| panic!("{series}\n{}", page.text));
    let later = until("generations by two evaluators", || {
        let page = Page::fetch(&urls[0]);
        let done = seen(&page, "zeroth_run_generations_total{run=\"1\"}");
        let both = seen(&page, "zeroth_fleet_joins_total") == 2.0;
        (both && done >= 10.0).then_some(page)
    });
    assert_eq!(seen(&later, "zeroth_runs{state=\"running\"}"), 1.0);
    assert_eq!(seen(&later, "zeroth_run_budget_calls{run=\"1\"}"), 6_000_000.0);
    assert!(seen(&later, "zeroth_run_calls_total{run=\"1\"}") >= 60.0);
    assert!(seen(&later, "zeroth_generation_seconds_count") >= 10.0);
    assert!(seen(&later, "zeroth_lease_seconds_count") >= seen(&later, "zeroth_generation_seconds_count"));
    let answered = seen(&later, "zeroth_leases_ended_total{outcome=\"answered\"}");
    assert!(answered <= seen(&later, "zeroth_leases_sent_total"));
    for layer in 0..3 {
        let loss = seen(&later, &format!("zeroth_run_best_loss{{layer=\"{layer}\",run=\"1\"}}"));
        assert!(loss > 0.0 && loss < 10.0, "{loss}");
    }
    assert!(seen(&later, "zeroth_memory_peak_bytes") > 1e6);

    // What the evaluator has counted fits together.
    let page = Page::fetch(&urls[1]);
    assert_eq!(seen(&page, "zeroth_evaluator_ready"), 1.0);
    assert_eq!(seen(&page, "zeroth_evaluator_info{device=\"cpu\",dtype=\"f32\",model=\"model\"}"), 1.0);
    let examples = seen(&page, "zeroth_evaluator_examples_total{work=\"evaluate\"}");
    let tokens = seen(&page, "zeroth_evaluator_batch_tokens_sum");
    assert!(tokens >= 10.0 * examples, "an example has some ten tokens: {tokens} of {examples}");
    assert!(seen(&page, "zeroth_evaluator_flop_total") > 1000.0 * tokens);
    stop(coordinator.process, 130);
}

/// A standing coordinator shows the runs that are at work, and counts those that have ended.
#[test]
fn a_run_that_has_ended_is_counted_and_shown_no_longer() {
    let case = tests::Case::masked(tests::Family::Bert, "add").set("search.budget", "24");
    let mut standing = tests::Standing::start(&case, &["--metrics", "127.0.0.1:0"]);
    let url = place(&mut standing.process, "metrics");
    let of_runs =
        |page: &Page| page.text.lines().filter(|line| line.contains("{") && line.contains("run=\"")).count();
    let before = Page::fetch(&url);
    assert_eq!(of_runs(&before), 0);
    standing.submit(&case, &[]);
    until("a run that waits", || {
        let page = Page::fetch(&url);
        // one run that nobody has prepared is a reason to start an evaluator
        let waits = page.value("zeroth_runs{state=\"waiting\"}") == Some(1.0);
        (waits && page.value("zeroth_queue_candidates") == Some(1.0)).then_some(())
    });
    let _worker = Process::start(&mut evaluator(&case, &standing.url(), "a"));
    until("a run that is done", || {
        let page = Page::fetch(&url);
        let done = page.value("zeroth_runs{state=\"done\"}") == Some(1.0);
        (done && of_runs(&page) == 0).then_some(())
    });
    assert_eq!(Page::fetch(&url).value("zeroth_generation_seconds_count"), Some(4.0));
    stop(standing.process, 0);
}
