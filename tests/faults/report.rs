//! The report of a scenario: a line when it ends, and a table at the end.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use crate::figures::Figures;
use crate::op_stats::Counts;

/// The maximum number of violations in the report of a scenario.
const MAX_SHOWN: usize = 20;

/// The result of a scenario.
#[derive(Debug, Default)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) counts: Counts,
    pub(crate) faults: usize,
    /// Only set for a run with the usual workers.
    pub(crate) times: Option<Times>,
    pub(crate) figures: Figures,
    pub(crate) violations: Vec<String>,
    pub(crate) notes: Vec<String>,
    pub(crate) took: Duration,
}

/// Durations of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// The longest time without an answer: of writers with all addresses, of writers with one address, and of watchers.
    pub(crate) outages: [Option<Duration>; 3],
    /// The time from the end of the last fault until every worker had made progress.
    pub(crate) recovered: Duration,
    /// The time from the last write until all watches, caches and live values agreed with the leader.
    pub(crate) converged: Duration,
}

impl Row {
    /// Creates the result of a scenario without the usual workers.
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, ..Self::default() }
    }

    /// Whether the scenario has stores in files, and no server.
    pub(crate) fn is_of_files(&self) -> bool {
        self.name.starts_with("file-")
    }

    /// Returns the report line, followed by the violations.
    pub(crate) fn line(&self) -> String {
        let Self { name, counts, faults, times, figures: _, violations, notes, took } = self;
        let Counts { ok, refused, failed, unknown } = counts;
        let mut line = format!(
            "{name}: {} operations ({ok} done, {refused} refused, {failed} failed, {unknown} unknown), {faults} faults, {} \
             violations",
            counts.sum(),
            violations.len(),
        );
        if let Some(Times { outages, recovered, converged }) = times {
            let [roaming, staying, watching] = outages.map(|outage| outage.map_or("none measured".into(), seconds));
            let _ = write!(
                line,
                "; longest outage {roaming} ({staying} with one server's address, {watching} of those who watch), all go on \
                 {} after the last fault, agree after {}",
                seconds(*recovered),
                seconds(*converged),
            );
        }
        let _ = write!(line, "; took {}", seconds(*took));
        for violation in violations.iter().take(MAX_SHOWN) {
            let _ = write!(line, "\n    VIOLATION {violation}");
        }
        if std::env::var_os("KVTYPED_FAULTS_NOTES").is_some() || !violations.is_empty() {
            for note in notes {
                let _ = write!(line, "\n    {note}");
            }
        }
        line
    }
}

/// Returns a Markdown table of scenarios, and a list of their promises. The scenarios have servers, or stores in files.
pub(crate) fn table(rows: &[Row]) -> String {
    if rows.iter().all(Row::is_of_files) { file_table(rows) } else { server_table(rows) }
}

fn server_table(rows: &[Row]) -> String {
    let mut table = String::from(
        "| scenario | operations | done | refused | failed | unknown | faults | violations | outage: all addresses | one \
         address | watches |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for Row { name, counts, faults, times, violations, .. } in rows {
        let Counts { ok, refused, failed, unknown } = counts;
        let outages = times.map(|times| times.outages.map(|outage| outage.map(seconds).unwrap_or_default()));
        let outages = outages.unwrap_or_default();
        let [roaming, staying, watching] = outages;
        let (sum, violations) = (counts.sum(), violations.len());
        let _ = writeln!(
            table,
            "| `{name}` | {sum} | {ok} | {refused} | {failed} | {unknown} | {faults} | {violations} | {roaming} | {staying} | \
             {watching} |"
        );
    }
    let all = rows.iter().map(|row| row.counts).fold(Counts::default(), Counts::and);
    let Counts { ok, refused, failed, unknown } = all;
    let faults: usize = rows.iter().map(|row| row.faults).sum();
    let violations: usize = rows.iter().map(|row| row.violations.len()).sum();
    let sum = all.sum();
    let _ = writeln!(
        table,
        "| **all** | {sum} | {ok} | {refused} | {failed} | {unknown} | {faults} | **{violations}** | | | |"
    );
    let mut figures = Figures::default();
    for row in rows {
        figures.take_in(&row.figures);
    }
    table.push('\n');
    table.push_str(&figures.promises());
    table
}

fn file_table(rows: &[Row]) -> String {
    let mut table = String::from(
        "\n## Stores in files\n\n| scenario | operations | done | failed | faults | violations |\n|---|---:|---:|---:|---:|---:|\n",
    );
    let mut figures = Figures::default();
    for Row { name, counts, faults, violations, figures: of_row, .. } in rows {
        let Counts { ok, failed, .. } = counts;
        let (sum, violations) = (counts.sum(), violations.len());
        let _ = writeln!(table, "| `{name}` | {sum} | {ok} | {failed} | {faults} | {violations} |");
        figures.take_in(of_row);
    }
    table.push('\n');
    table.push_str(&figures.promises());
    table
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// Returns the path of the table of these scenarios in the docs of the library.
pub(crate) fn docs(rows: &[Row]) -> PathBuf {
    let name = if rows.iter().all(Row::is_of_files) { "guarantees-file-table.md" } else { "guarantees-table.md" };
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../kvtyped/docs").join(name)
}
