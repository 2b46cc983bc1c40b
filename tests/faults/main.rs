//! Fault suite: real servers crash, hang and are partitioned while workers of every kind continue.
//!
//! `cargo test -p kvtyped-tests --test faults` runs all scenarios. `-- --quick` runs some of them, shortened. `--
//! NAME..` runs the named scenarios, and `-- --list` lists their names. `-- --save` writes the result tables into the
//! docs: one of servers, and one of stores in files. Each scenario prints one line. Safety is asserted; durations are only reported. `KVTYPED_FAULTS_NOTES=1` shows
//! more figures.

/// The writer of the suite for stores in files, and its checks.
#[allow(dead_code, unused_imports, reason = "the suite uses more of it")]
#[path = "../file"]
mod file {
    pub(crate) mod child;
    pub(crate) mod folder;
    pub(crate) mod large;
    pub(crate) mod power;
    pub(crate) mod recovery;
    pub(crate) mod small_disk;
    pub(crate) mod trace;
    pub(crate) mod writer;
}
mod final_state;
mod figures;
mod op_stats;
mod model;
mod report;
mod run;
mod scenarios;
mod worker_context;
mod workers;

use std::process::ExitCode;
use std::time::Duration;

use futures::FutureExt;
use scenarios::{Effort, HOLD, SCENARIOS, Scenario};

/// The time limit of a scenario. One that exceeds it has failed, and the next one starts.
const LIMIT: Duration = Duration::from_secs(10 * 60);
/// The same limit for quick runs.
const QUICK_LIMIT: Duration = Duration::from_secs(3 * 60);

fn main() -> ExitCode {
    let runtime = tokio::runtime::Runtime::new().expect("the runtime starts");
    if file::child::arguments().is_some() {
        runtime.block_on(file::writer::run());
        return ExitCode::SUCCESS;
    }
    let mut arguments = std::env::args().skip(1);
    if let (Some(HOLD), Some(urls)) = (arguments.next().as_deref(), arguments.next()) {
        runtime.block_on(scenarios::hold(&urls));
        return ExitCode::SUCCESS;
    }
    let (options, names): (Vec<_>, Vec<_>) = std::env::args().skip(1).partition(|word| word.starts_with("--"));
    let is_known = |name: &String| SCENARIOS.iter().any(|scenario| scenario.name == name);
    let known = ["--quick", "--list", "--save"];
    let wrong = options.iter().find(|option| !known.contains(&option.as_str()));
    if let Some(word) = wrong.or_else(|| names.iter().find(|name| !is_known(name))) {
        eprintln!("{word} is unknown: say {}, or names that --list tells", known.join(", "));
        return ExitCode::from(2);
    }
    let [quick, list, save] = known.map(|option| options.iter().any(|word| word == option));
    if list {
        for Scenario { name, about, quick, .. } in SCENARIOS {
            println!("{name}: {about}{}", if *quick { " (quick)" } else { "" });
        }
        return ExitCode::SUCCESS;
    }
    let wanted = |scenario: &&Scenario| {
        if names.is_empty() { !quick || scenario.quick } else { names.iter().any(|name| name == scenario.name) }
    };
    let passed = runtime.block_on(run(SCENARIOS.iter().filter(wanted), Effort { quick }, save));
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn run(scenarios: impl Iterator<Item = &'static Scenario>, effort: Effort, save: bool) -> bool {
    let mut rows = Vec::new();
    let (mut passed, mut failed) = (0, 0);
    let limit = effort.of(QUICK_LIMIT, LIMIT);
    for scenario in scenarios {
        let act = std::panic::AssertUnwindSafe((scenario.act)(effort)).catch_unwind();
        match tokio::time::timeout(limit, act).await {
            Ok(Ok(row)) => {
                println!("{}", row.line());
                *if row.violations.is_empty() { &mut passed } else { &mut failed } += 1;
                rows.push(row);
            }
            Ok(Err(_)) => {
                println!("{}: it panicked, see above", scenario.name);
                failed += 1;
            }
            Err(_) => {
                println!("{}: not over after {limit:?}", scenario.name);
                failed += 1;
            }
        }
    }
    // Stores in files have a separate table, so that a run of their scenarios alone can be saved.
    let (files, servers): (Vec<_>, Vec<_>) = rows.into_iter().partition(report::Row::is_of_files);
    for rows in [servers, files].iter().filter(|rows| !rows.is_empty()) {
        let table = report::table(rows);
        println!("\n{table}");
        if save {
            std::fs::write(report::docs(rows), table).expect("the docs can be written");
        }
    }
    println!("{passed} passed, {failed} failed");
    failed == 0
}
