//! Formats rows for the terminal and as Markdown.

use std::fmt::Write;

use super::{Goal, GoalResult, Report, Row, Unit};

/// Formats a row for the terminal.
pub(super) fn line(row: &Row) -> String {
    let [low, median, high] = row.ratio.map(ratio);
    let (ours, theirs) = (figure(row.unit, row.ours), figure(row.unit, row.theirs));
    let goal = goal_result(row);
    let Row { name, baseline: other, .. } = row;
    format!("  {name:<62} {ours:>9}  {median:>7} ({low}..{high}) of {theirs} {other}{}{goal}", gap(&goal))
}

fn gap(goal_result: &str) -> &'static str {
    if goal_result.is_empty() { "" } else { "; " }
}

/// Formats the number of goals that are reached.
pub(super) fn summary(rows: &[Row]) -> String {
    let count = |wanted| rows.iter().filter(|row| row.goal_result == Some(wanted)).count();
    let [met, near, missed] = [GoalResult::Met, GoalResult::Near, GoalResult::Missed].map(count);
    let goals = met + near + missed;
    format!("{} rows; of {goals} goals {met} met, {near} within the spread, {missed} missed", rows.len())
}

/// Formats all rows, with a table for each group.
pub(super) fn markdown(report: &Report) -> String {
    let Report { server, client, cores, load, rows, .. } = report;
    let busy = load.map(|load| format!(", with a load of {load} before it began")).unwrap_or_default();
    let on = format!("nats-server {server} and {client} on {cores} cores{busy}, over loopback");
    let mut text = format!("{on}. {}.\n", summary(rows));
    let mut group = "";
    for row in rows {
        if row.group != group {
            group = row.group;
            write!(text, "\n## {group}\n\n| | ours | compared with | theirs | ratio (quartiles) | goal |\n|---|---:|---|---:|---:|---|\n")
                .expect("a write to a string succeeds");
        }
        let [low, median, high] = row.ratio.map(ratio);
        let (ours, theirs) = (figure(row.unit, row.ours), figure(row.unit, row.theirs));
        let Row { name, baseline: other, .. } = row;
        writeln!(
            text,
            "| {name} | {ours} | {other} | {theirs} | **{median}** ({low} to {high}) | {} |",
            goal_result(row)
        )
        .expect("a write to a string succeeds");
    }
    text
}

/// Formats the goal and whether it is reached, if there is one.
fn goal_result(row: &Row) -> String {
    let wanted = match row.goal {
        None => return String::new(),
        Some(Goal::Ratio(most)) => format!("≤ {}", ratio(most)),
        Some(Goal::Ours(most)) => format!("≤ {}", figure(row.unit, most)),
    };
    let reached = match row.goal_result {
        Some(GoalResult::Met) => "met",
        Some(GoalResult::Near) => "within the spread",
        Some(GoalResult::Missed) | None => "missed",
    };
    format!("{wanted}: {reached}")
}

fn figure(unit: Unit, value: f64) -> String {
    match unit {
        Unit::Bytes => format!("{value:.0} B"),
        Unit::Exponent => format!("{value:.2}"),
        Unit::Seconds if value < 1e-6 => format!("{} ns", digits(value * 1e9)),
        Unit::Seconds if value < 1e-3 => format!("{} µs", digits(value * 1e6)),
        Unit::Seconds if value < 1.0 => format!("{} ms", digits(value * 1e3)),
        Unit::Seconds => format!("{} s", digits(value)),
    }
}

pub(super) fn ratio(value: f64) -> String {
    match value {
        _ if value < 0.01 => format!("{value:.4}"),
        _ if value < 0.1 => format!("{value:.3}"),
        _ if value < 10.0 => format!("{value:.2}"),
        _ => format!("{value:.0}"),
    }
}

fn digits(value: f64) -> String {
    if value < 10.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}
