//! The program `ip`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio, id};

use super::Unavailable;

/// Where `ip` keeps the namespaces that it makes.
pub(super) const FOLDER: &str = "/run/netns";

/// How the names of all namespaces of the harness begin; the id of the process follows.
const PREFIX: &str = "kvtyped-";

/// How the names of those of this process begin.
pub(super) fn own_prefix() -> String {
    format!("{PREFIX}{}-", id())
}

/// Does these things, one after the other, in a namespace or outside all of them.
pub(super) fn batch(namespace: Option<&str>, orders: impl IntoIterator<Item = String>) -> Result<(), Unavailable> {
    let mut text = String::new();
    for order in orders {
        writeln!(text, "{order}").expect("a string takes all");
    }
    let mut command = Command::new("ip");
    if let Some(namespace) = namespace {
        command.args(["-n", namespace]);
    }
    command.args(["-batch", "-"]);
    let output = run(&mut command, &text)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let what = text.lines().next().unwrap_or_default();
    Err(Unavailable::Refused { what: format!("ip {what}"), said })
}

/// Removes all namespaces whose names begin so, and with them the wires that end in them.
pub(super) fn remove(prefix: &str) {
    let Ok(names) = names() else { return };
    for name in names.iter().filter(|name| name.starts_with(prefix)) {
        // One that is gone by now is as good.
        let _ = run(Command::new("ip").args(["netns", "del", name]), "");
    }
}

/// Removes what processes left that are no more.
pub(super) fn remove_stale() -> Result<(), Unavailable> {
    for name in names()? {
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            remove(&name);
        }
    }
    Ok(())
}

/// The names of all namespaces of this machine.
fn names() -> Result<Vec<String>, Unavailable> {
    let output = run(Command::new("ip").args(["netns", "list"]), "")?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
}

fn run(command: &mut Command, input: &str) -> Result<Output, Unavailable> {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(Unavailable::NoProgram)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ends before it has read all says why.
        let _ = stdin.write_all(input.as_bytes());
    }
    child.wait_with_output().map_err(Unavailable::NoProgram)
}
