//! `file`: the file of a `file:` store.

use std::path::PathBuf;

use kvtyped::backend::file::salvage;

use crate::app::App;
use crate::fail::{Code, Done, Failure};
use crate::json::{Json, object};
use crate::out::Item;

/// The commands of `file`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Copy everything readable of a damaged file into a new file. The damaged file is not changed. Exit code 1 if
    /// something is missing in the copy
    Salvage {
        /// The damaged file
        from: PathBuf,
        /// The new file
        to: PathBuf,
    },
}

pub(crate) async fn run(app: &App, command: Command) -> Done {
    let Command::Salvage { from, to } = command;
    if app.options.read_only {
        return Err(Failure::refused("the command writes a file, and `--read-only` is set"));
    }
    if from.to_str().is_some_and(|from| from.starts_with("file:")) && !from.exists() {
        return Err(Failure::usage("the arguments are paths, without `file:`"));
    }
    if !from.exists() {
        return Err(Failure::not_found(format!("file `{}` does not exist", from.display())));
    }
    let copy = to.clone();
    let salvaged = tokio::task::spawn_blocking(move || salvage(&from, &copy)).await;
    let report = salvaged.map_err(|error| Failure::local(error.to_string()))??;
    let problems: Vec<Json> = report.problems.iter().map(Json::from).collect();
    let json = object! {
        "v" => 1u8,
        "type" => "salvaged",
        "file" => to.display().to_string(),
        "buckets" => report.buckets,
        "entries" => report.entries,
        "problems" => problems,
    };
    let cells = [
        to.display().to_string(),
        report.buckets.to_string(),
        report.entries.to_string(),
        report.problems.len().to_string(),
    ];
    let item = Item::new(json).cells(cells).name(to.display().to_string());
    let columns = ["FILE", "BUCKETS", "ENTRIES", "PROBLEMS"];
    app.out.one(&columns, &item)?;
    if !app.out.is_json() {
        report.problems.iter().for_each(|problem| app.out.warn(problem));
    }
    Ok(if report.problems.is_empty() { Code::Success } else { Code::No })
}
