//! A row of the bench as a line of a table, and as JSON.

use serde_json::json;

use crate::embedded::Row;

/// The columns' names.
pub(super) const HEAD: &str = "\
shape            inject. dtype   s/call  calls/s GFLOP/call  GFLOP/s  of instr. peak   of GEMM peak  \
first s  middle s    last s  memory  loss diff    rank  last run";

/// A row as a line; `before` is the last run's seconds a call.
pub(super) fn line(row: &Row, before: Option<f64>) -> String {
    let giga = |number: f64| format!("{:.0}", number / 1e9);
    let share = |share: Option<f64>, of: Option<f64>| match (share, of) {
        (Some(share), Some(of)) => format!("{:.0}% of {}", 100.0 * share, giga(of)),
        _ => "-".to_owned(),
    };
    let layer = |layer: usize| row.layer_seconds.get(layer).copied().unwrap_or(f64::NAN);
    let last = row.layer_seconds.len().saturating_sub(1);
    let agreement = row.agreement;
    let difference =
        agreement.map_or("-".to_owned(), |found| format!("{:.1e}", found.largest_loss_difference));
    let rank = agreement.and_then(|found| found.rank_correlation);
    format!(
        "{:16} {:7} {:5} {:>8.4} {:>8.2} {:>10.2} {:>8} {:>15} {:>14} {:>8.4} {:>9.4} {:>9.4} {:>7} {:>10} {:>7} {:>9}",
        row.shape,
        row.injection,
        row.dtype,
        row.seconds,
        1.0 / row.seconds,
        row.flop_per_call / 1e9,
        giga(row.flops),
        share(row.share_of_instruction_peak, row.instruction_peak),
        share(Some(row.share_of_gemm_peak), Some(row.gemm_peak)),
        layer(0),
        layer(last / 2),
        layer(last),
        row.peak_memory_bytes.map_or("-".to_owned(), mib),
        difference,
        rank.map_or("-".to_owned(), |rank| format!("{rank:.4}")),
        before.map_or("-".to_owned(), |before| format!("{:.2}x", before / row.seconds)),
    )
}

/// A row as one JSON object.
pub(super) fn json(row: &Row, before: Option<f64>) -> String {
    let mut object = serde_json::to_value(row).unwrap_or_default();
    let last = row.layer_seconds.len().saturating_sub(1);
    object["calls_per_second"] = json!(1.0 / row.seconds);
    object["seconds_first"] = json!(row.layer_seconds.first());
    object["seconds_middle"] = json!(row.layer_seconds.get(last / 2));
    object["seconds_last"] = json!(row.layer_seconds.last());
    object["last_run_seconds"] = json!(before);
    object["last_run_ratio"] = json!(before.map(|before| before / row.seconds));
    object.to_string()
}

fn mib(bytes: u64) -> String {
    format!("{} M", bytes >> 20)
}
