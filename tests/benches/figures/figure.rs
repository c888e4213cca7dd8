//! One line per figure.

use serde_json::{Value, json};

use crate::machine::Probe;

/// Median and range of some runs.
pub(crate) fn summary(values: &[f64]) -> Value {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    json!({
        "median": round(percentile(&sorted, 0.5)),
        "min": round(sorted.first().copied().unwrap_or(f64::NAN)),
        "max": round(sorted.last().copied().unwrap_or(f64::NAN)),
        "runs": sorted.len(),
    })
}

/// A percentile of sorted values.
pub(crate) fn percentile(sorted: &[f64], share: f64) -> f64 {
    match sorted.len() {
        0 => f64::NAN,
        n => sorted[((n - 1) as f64 * share).round() as usize],
    }
}

/// A percentile of values in any order.
pub(crate) fn percentile_of(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    percentile(values, share)
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// Prints a figure with what was measured of the machine meanwhile.
pub(crate) fn print(name: &str, unit: &str, load: Value, values: Value, probe: &Probe) {
    let line = json!({
        "figure": name,
        "unit": unit,
        "values": values,
        "load": load,
        "machine": probe.report(),
        "commit": commit(),
    });
    println!("{line}");
}

fn commit() -> String {
    let output = std::process::Command::new("git")
        .args(["describe", "--always", "--dirty"])
        .output();
    output.map_or_else(
        |_| "unknown".into(),
        |o| String::from_utf8_lossy(&o.stdout).trim().to_owned(),
    )
}
