//! The results: printed as they arrive, and written to files at the end.

mod plot;
mod table;

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::measure::Measured;

/// The folder of the table and the plot for the library's docs.
const DOCS: &str = "kvtyped/docs";

/// All results of one run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    server: String,
    client: &'static str,
    cores: usize,
    /// The load average over the minute before the run.
    load: Option<f64>,
    quick: bool,
    rows: Vec<Row>,
    #[serde(skip)]
    group: &'static str,
}

/// The comparison of two operations.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    group: &'static str,
    name: String,
    /// The operation to compare with.
    baseline: String,
    unit: Unit,
    ours: f64,
    theirs: f64,
    /// The ratio of ours to theirs: the lower quartile, the median and the upper quartile over the blocks.
    ratio: [f64; 3],
    goal: Option<Goal>,
    goal_result: Option<GoalResult>,
}

/// The unit of the figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    Seconds,
    Bytes,
    /// The exponent of a figure's growth with the size.
    Exponent,
}

/// The goal of a row.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum Goal {
    /// The largest ratio.
    Ratio(f64),
    /// The largest value of ours, in the unit of the row.
    Ours(f64),
}

/// Whether a row reaches its goal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum GoalResult {
    Met,
    /// At least a quarter of the blocks reach the goal.
    Near,
    Missed,
}

/// A row without a measurement.
#[must_use = "nothing is reported until it is measured"]
#[derive(Debug)]
pub(crate) struct Blank<'a> {
    report: &'a mut Report,
    name: String,
    baseline: String,
    unit: Unit,
    goal: Option<Goal>,
}

impl Report {
    pub(crate) fn new(server: String, quick: bool) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let load = fs::read_to_string("/proc/loadavg").ok();
        let load = load.and_then(|text| text.split_whitespace().next()?.parse().ok());
        Self { server, client: "async-nats 0.51", cores, load, quick, rows: Vec::new(), group: "" }
    }

    /// Starts a group of rows.
    pub(crate) fn group(&mut self, name: &'static str) {
        self.group = name;
        println!("\n{name}");
    }

    /// Starts a row that compares two operations.
    pub(crate) fn row(&mut self, name: impl Into<String>, baseline: impl Into<String>) -> Blank<'_> {
        let (name, baseline) = (name.into(), baseline.into());
        Blank { report: self, name, baseline, unit: Unit::Seconds, goal: None }
    }

    /// Writes all results below the target folder. If `save` is set, also writes them to the folder of the docs.
    pub(crate) fn finish(&self, save: bool) {
        let (table, plot) = (table::markdown(self), plot::svg(self));
        let folder = home();
        let json = serde_json::to_string_pretty(self).expect("it encodes");
        write(&folder.join("results.json"), &json);
        write(&folder.join("results.md"), &table);
        write(&folder.join("results.svg"), &plot);
        println!("\n{}", table::summary(&self.rows));
        println!("In {}: results.json, results.md, results.svg", folder.display());
        if save {
            let docs = workspace().join(DOCS);
            write(&docs.join("performance-table.md"), &table);
            write(&docs.join("performance-plot.svg"), &plot);
            println!("Saved for the docs in {}", docs.display());
        }
    }
}

impl Blank<'_> {
    pub(crate) fn unit(mut self, unit: Unit) -> Self {
        self.unit = unit;
        self
    }

    /// Sets the largest ratio as the goal.
    pub(crate) fn goal(mut self, ratio: impl Into<Option<f64>>) -> Self {
        self.goal = ratio.into().map(Goal::Ratio);
        self
    }

    /// Sets the largest value of ours as the goal, in the unit of the row.
    pub(crate) fn at_most(mut self, ours: f64) -> Self {
        self.goal = Some(Goal::Ours(ours));
        self
    }

    pub(crate) fn measured(self, measured: &Measured) {
        let Self { report, name, baseline, unit, goal } = self;
        let (ours, theirs) = measured.medians();
        let ratio = measured.ratio();
        let goal_result = goal.map(|goal| match goal {
            Goal::Ratio(most) if ratio.median <= most => GoalResult::Met,
            Goal::Ratio(most) if ratio.low <= most => GoalResult::Near,
            Goal::Ours(most) if ours <= most => GoalResult::Met,
            _ => GoalResult::Missed,
        });
        let ratio = [ratio.low, ratio.median, ratio.high];
        let row = Row { group: report.group, name, baseline, unit, ours, theirs, ratio, goal, goal_result };
        println!("{}", table::line(&row));
        report.rows.push(row);
    }
}

/// Returns the root of the workspace.
pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in a workspace").to_owned()
}

/// Returns the folder of the benchmarks below the target folder, and creates it if it is missing.
pub(crate) fn home() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    // `join` keeps an absolute path unchanged.
    let home = workspace().join(target).join("benches");
    fs::create_dir_all(&home).expect("the folder can be made");
    home
}

fn write(path: &Path, text: &str) {
    let folder = path.parent().expect("it lies in a folder");
    fs::create_dir_all(folder).and_then(|()| fs::write(path, text)).expect("it can be written");
}
