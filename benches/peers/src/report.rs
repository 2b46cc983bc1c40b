//! The table of the results, as Markdown.

use crate::measure::Measured;

/// Prints the head of a table.
pub(crate) fn head(ours: &str, theirs: &str) {
    println!("\n| | kvtyped on NATS, {ours} | {theirs} | ratio (quartiles) |\n|---|---:|---:|---|");
}

/// Prints the comparison of an operation.
pub(crate) fn row(name: &str, measured: &Measured) {
    let (ours, theirs) = measured.medians();
    let spread = measured.ratio();
    let [low, median, high] = [spread.low, spread.median, spread.high].map(ratio);
    println!("| {name} | {} | {} | **{median}** ({low} to {high}) |", seconds(ours), seconds(theirs));
}

fn ratio(value: f64) -> String {
    if value < 0.1 {
        format!("{value:.3}")
    } else if value < 10.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.0}")
    }
}

fn seconds(value: f64) -> String {
    let (value, unit) = if value < 1e-3 { (value * 1e6, "µs") } else { (value * 1e3, "ms") };
    if value < 10.0 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}
