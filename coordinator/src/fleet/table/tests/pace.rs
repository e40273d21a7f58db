//! What is made of the times that leases have taken.

use super::super::pace::{Line, Pace};
use super::*;

/// The line of an evaluator that has answered leases of these operations in these seconds, one after the other.
fn line(leases: &[(f64, f64)]) -> Line {
    let (mut pace, mut now) = (Pace::default(), Instant::now());
    for &(work, seconds) in leases {
        let sent = now;
        now += Duration::from_secs_f64(seconds);
        pace.answered(now, sent, Some(work));
    }
    pace.line().unwrap()
}

#[test]
fn work_that_takes_in_proportion_has_no_overhead() {
    let found = line(&[(10.0, 1.0), (40.0, 4.0), (20.0, 2.0)]);
    assert!(found.overhead < 1e-6 && (found.speed - 10.0).abs() < 1e-6, "{found:?}");
}

/// Without this, who had the larger lease would pass for the faster one, and get the larger lease again.
#[test]
fn latency_is_told_from_work_and_remembered_while_leases_are_alike() {
    let leases = [(10.0, 1.0), (40.0, 1.0)].into_iter().chain([(40.0, 1.0); 50]).collect::<Vec<_>>();
    let found = line(&leases);
    assert!((found.overhead - 0.95).abs() < 1e-6 && (found.seconds(40.0) - 1.0).abs() < 1e-6, "{found:?}");
}
