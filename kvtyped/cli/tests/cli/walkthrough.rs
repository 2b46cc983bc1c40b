//! The walkthrough in the documentation, as a user types it.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::terminal::Terminal;
use crate::world::{SOON, run, tool};

/// A command on the page, and the lines that it prints.
struct Step {
    command: String,
    output: Vec<String>,
}

/// Returns the steps in the blocks of a page.
fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for block in page.split("```console\n").skip(1) {
        let (block, _) = block.split_once("```").expect("the block ends");
        for line in block.lines() {
            match (line.strip_prefix("$ "), steps.last_mut()) {
                (Some(command), _) => steps.push(Step { command: command.to_owned(), output: Vec::new() }),
                (None, Some(step)) => step.output.push(line.to_owned()),
                (None, None) => panic!("a block begins with a command"),
            }
        }
    }
    steps
}

/// Whether a line is this one. `…` on the page is any text. Spaces between columns do not count.
fn is_line(found: &str, wanted: &str) -> bool {
    let spaced = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (found, wanted) = (spaced(found), spaced(wanted));
    let mut parts = wanted.split('…');
    let Some(mut rest) = parts.next().and_then(|first| found.strip_prefix(first)) else { return false };
    let mut is_open = false;
    for part in parts {
        is_open = part.is_empty();
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    is_open || rest.is_empty()
}

/// Returns what is left of a line that a progress bar has drawn several times.
fn last_drawn(line: &str) -> &str {
    let line = line.rsplit("\u{1b}[2K").next().unwrap_or_default();
    line.trim_end().rsplit('\r').next().unwrap_or_default()
}

fn shell(folder: &Path, url: &str, command: &str) -> Command {
    let program = Path::new(env!("CARGO_BIN_EXE_kvtyped"));
    let mut shell = tool(folder);
    let variables: Vec<_> =
        shell.get_envs().map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned))).collect();
    shell = Command::new("sh");
    for (name, value) in variables {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap_or_default());
    shell.args(["-c", command]).current_dir(folder).env("PATH", path).env("KVTYPED_URL", url).env("NO_COLOR", "1");
    shell
}

/// Starts a command that holds a lock, and waits until it does.
fn start(folder: &Path, url: &str, command: &str) -> Child {
    let command = format!("exec {}", command.trim_end_matches('&'));
    let child = shell(folder, url, &command).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let end = Instant::now() + SOON;
    while run(shell(folder, url, "kvtyped lock ls -o name"), b"").out.is_empty() {
        assert!(Instant::now() < end, "no lock is held");
    }
    child
}

#[test]
fn walkthrough_prints_what_the_page_shows() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = runtime.block_on(harness::Server::start());
    let folder = tempfile::tempdir().unwrap();
    let (url, folder) = (server.url(), folder.path());
    let mut background = Vec::new();
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/walkthrough.md")).unwrap();
    let steps = steps(&page);
    assert!(steps.len() > 10);
    for step in &steps {
        if step.command.starts_with("export KVTYPED_URL=") {
            continue;
        }
        if step.command.ends_with('&') {
            background.push(start(folder, &url, &step.command));
            continue;
        }
        let (_, shown) = Terminal::spawn(shell(folder, &url, &step.command), 110).end();
        let shown: Vec<_> = shown.lines().map(last_drawn).collect();
        let fits = shown.len() == step.output.len()
            && shown.iter().zip(&step.output).all(|(found, wanted)| is_line(found, wanted));
        assert!(
            fits,
            "`{}` prints\n{}\nand the page shows\n{}",
            step.command,
            shown.join("\n"),
            step.output.join("\n")
        );
    }
    for mut child in background {
        assert_eq!(child.wait().unwrap().code(), Some(125), "the lock was broken");
    }
    runtime.block_on(server.terminate());
}

#[test]
fn ellipsis_on_the_page_is_any_text() {
    for (found, wanted, fits) in [
        ("acme.7   1  3s", "acme.7  1 …", true),
        ("acme.7  1  3s  x", "acme.7 … x", true),
        ("acme.7  1  3s  y", "acme.7 … x", false),
        ("acme.8", "acme.7", false),
        ("acme.7 x", "acme.7", false),
    ] {
        assert_eq!(is_line(found, wanted), fits, "{found} {wanted}");
    }
}
