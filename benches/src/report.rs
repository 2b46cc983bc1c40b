//! What was measured: printed as it comes, and written down at the end.

mod plot;
mod table;

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::measure::Measured;

/// Where the docs of the library find the table and the plot.
const DOCS: &str = "kvtyped/docs";

/// Everything that was measured in one run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    server: String,
    client: &'static str,
    cores: usize,
    /// How many programs wanted a core when it began, over the minute before.
    load: Option<f64>,
    quick: bool,
    rows: Vec<Row>,
    #[serde(skip)]
    group: &'static str,
}

/// One thing, beside another.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    group: &'static str,
    name: String,
    /// What it is set beside.
    beside: String,
    unit: Unit,
    ours: f64,
    theirs: f64,
    /// Ours by theirs: the median over the blocks, and the quartiles.
    ratio: [f64; 3],
    goal: Option<Goal>,
    verdict: Option<Verdict>,
}

/// What the figures count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    Seconds,
    Bytes,
    /// The exponent with which a figure grows with the size.
    Exponent,
}

/// What is wanted.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum Goal {
    /// A ratio of no more than this.
    Ratio(f64),
    /// Ours no more than this, in its unit.
    Ours(f64),
}

/// Whether it is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Met,
    /// A quarter of the blocks or more are within it.
    Near,
    Missed,
}

/// A row that is not measured yet.
#[must_use = "nothing is reported until it is measured"]
#[derive(Debug)]
pub(crate) struct Blank<'a> {
    report: &'a mut Report,
    name: String,
    beside: String,
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

    /// What the rows that follow are about.
    pub(crate) fn group(&mut self, name: &'static str) {
        self.group = name;
        println!("\n{name}");
    }

    /// A row to be measured: what it is, and beside what.
    pub(crate) fn row(&mut self, name: impl Into<String>, beside: impl Into<String>) -> Blank<'_> {
        let (name, beside) = (name.into(), beside.into());
        Blank { report: self, name, beside, unit: Unit::Seconds, goal: None }
    }

    /// Writes everything below the target folder, and where the docs are if it is to be kept.
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

    /// The ratio that it should have, at most.
    pub(crate) fn goal(mut self, ratio: impl Into<Option<f64>>) -> Self {
        self.goal = ratio.into().map(Goal::Ratio);
        self
    }

    /// What ours should be, at most, in its unit.
    pub(crate) fn at_most(mut self, ours: f64) -> Self {
        self.goal = Some(Goal::Ours(ours));
        self
    }

    pub(crate) fn measured(self, measured: &Measured) {
        let Self { report, name, beside, unit, goal } = self;
        let (ours, theirs) = measured.medians();
        let ratio = measured.ratio();
        let verdict = goal.map(|goal| match goal {
            Goal::Ratio(most) if ratio.median <= most => Verdict::Met,
            Goal::Ratio(most) if ratio.low <= most => Verdict::Near,
            Goal::Ours(most) if ours <= most => Verdict::Met,
            _ => Verdict::Missed,
        });
        let ratio = [ratio.low, ratio.median, ratio.high];
        let row = Row { group: report.group, name, beside, unit, ours, theirs, ratio, goal, verdict };
        println!("{}", table::line(&row));
        report.rows.push(row);
    }
}

/// The root of the workspace.
pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in a workspace").to_owned()
}

/// The folder of the benchmarks below the target folder; made if missing.
pub(crate) fn home() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    // `join` keeps an absolute folder as it is.
    let home = workspace().join(target).join("benches");
    fs::create_dir_all(&home).expect("the folder can be made");
    home
}

fn write(path: &Path, text: &str) {
    let folder = path.parent().expect("it lies in a folder");
    fs::create_dir_all(folder).and_then(|()| fs::write(path, text)).expect("it can be written");
}
