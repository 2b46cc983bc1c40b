//! Calls of the program `ip`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio, id};

use super::Unavailable;

/// The directory of named namespaces.
pub(super) const FOLDER: &str = "/run/netns";

/// The prefix of all namespace names of the harness. The process id follows.
const PREFIX: &str = "kvtyped-";

/// Returns the prefix of the namespace names of this process.
pub(super) fn own_prefix() -> String {
    format!("{PREFIX}{}-", id())
}

/// Runs a batch of `ip` commands, in a namespace or outside of all of them.
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

/// Removes all namespaces with the given prefix, and with them their links.
pub(super) fn remove(prefix: &str) {
    let Ok(names) = names() else { return };
    for name in names.iter().filter(|name| name.starts_with(prefix)) {
        // A namespace that is already gone is not an error.
        let _ = run(Command::new("ip").args(["netns", "del", name]), "");
    }
}

/// Removes the namespaces of processes that no longer exist.
pub(super) fn remove_stale() -> Result<(), Unavailable> {
    for name in names()? {
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            remove(&name);
        }
    }
    Ok(())
}

/// Returns the names of all namespaces of this machine.
fn names() -> Result<Vec<String>, Unavailable> {
    let output = run(Command::new("ip").args(["netns", "list"]), "")?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
}

fn run(command: &mut Command, input: &str) -> Result<Output, Unavailable> {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(Unavailable::NoProgram)?;
    if let Some(mut stdin) = child.stdin.take() {
        // An `ip` that exits before it has read all input reports the reason on stderr.
        let _ = stdin.write_all(input.as_bytes());
    }
    child.wait_with_output().map_err(Unavailable::NoProgram)
}
