//! What a scenario came to: a line when it is over, a table in the end.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use crate::gauge::Counts;

/// How many violations of a scenario are told in words.
const TOLD: usize = 20;

/// A scenario that is over.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) counts: Counts,
    pub(crate) faults: usize,
    /// The longest time without an answer: of writers who know all servers, of writers who know one, of those who watch.
    pub(crate) outages: [Duration; 3],
    /// From the end of the last fault until every worker had gone on.
    pub(crate) recovered: Duration,
    /// From the last write until all who look on had what the leader has.
    pub(crate) converged: Duration,
    pub(crate) violations: Vec<String>,
    pub(crate) notes: Vec<String>,
    pub(crate) took: Duration,
}

impl Row {
    /// The line, and what is wrong behind it.
    pub(crate) fn line(&self) -> String {
        let Self { name, counts, faults, outages, recovered, converged, violations, notes, took } = self;
        let Counts { ok, refused, failed, unknown } = counts;
        let [roaming, staying, watching] = outages;
        let mut line = format!(
            "{name}: {} operations ({ok} done, {refused} refused, {failed} failed, {unknown} unknown), {faults} faults, {} \
             violations; longest outage {roaming:.1?} ({staying:.1?} with one server's address, {watching:.1?} of those who \
             watch), all go on {recovered:.1?} after the last fault, agree after {converged:.1?}; {:.0} s",
            counts.sum(),
            violations.len(),
            took.as_secs_f64(),
        );
        for violation in violations.iter().take(TOLD) {
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

/// All scenarios as a table, in Markdown.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut table = String::from(
        "| scenario | operations | done | refused | failed | unknown | faults | violations | outage: all addresses | one \
         address | watches |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for Row { name, counts, faults, outages, violations, .. } in rows {
        let Counts { ok, refused, failed, unknown } = counts;
        let [roaming, staying, watching] = outages.map(|outage| format!("{:.1} s", outage.as_secs_f64()));
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
    table
}

/// Where the docs of the library find the table.
pub(crate) fn docs() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../kvtyped/docs/guarantees-table.md")
}
