//! Ensures that no server and no file outlives the test process. This includes a process that is killed, and servers in
//! statics, which are never dropped.
//!
//! One small shell per test process holds the reading end of a pipe. The pipe closes when the process ends for any
//! reason. The shell then kills each server whose id is in a `pid` file and removes the files and the network
//! namespaces of the process.

use crate::{netns, paths};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// The script renames the directory first. A server that is just starting either has already written its process id
/// there, or finds no directory and does not start.
const SCRIPT: &str = r#"
root=$0
while read -r _; do :; done
mv "$root" "$root.gone" || exit 0
pids=$(cat "$root.gone"/*/pid 2>/dev/null)
for pid in $pids; do kill -KILL "$pid"; kill -CONT "$pid"; done
for path in "$1"*; do [ -e "$path" ] && ip netns del "${path##*/}"; done
for _ in 1 2 3 4 5 6 7 8 9 10; do
    rm -rf "$root.gone" && exit 0
    sleep 0.1
done
"#;

struct Watchdog {
    root: PathBuf,
    /// Keeps the pipe open. The system closes it when this process ends.
    _shell: Child,
}

/// Returns the directory for the servers of this process. Each server has a subdirectory.
pub(crate) fn root() -> &'static Path {
    static WATCHDOG: OnceLock<Watchdog> = OnceLock::new();
    &WATCHDOG.get_or_init(start).root
}

fn start() -> Watchdog {
    let root = paths::fresh_dir(&paths::home(), "run");
    // A separate process group, so that Ctrl-C in the terminal does not reach the shell. The output is not inherited:
    // otherwise a pipe that reads the tests' output would stay open.
    let shell = Command::new("sh")
        .args(["-c", SCRIPT])
        .arg(&root)
        .arg(netns::own_paths())
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("sh starts");
    Watchdog { root, _shell: shell }
}
