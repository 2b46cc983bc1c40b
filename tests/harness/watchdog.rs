//! Sees to it that no server and no file outlives the test process, even one
//! that is killed, or whose servers live in statics and so are never dropped.
//!
//! One small shell for each test process holds the reading end of a pipe. When
//! the process ends, however it ends, the pipe closes; the shell then kills
//! each server whose id is in a `pid` file and removes the files, and the
//! network namespaces of the process.

use crate::{netns, paths};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// The folder is renamed first: a server that is just being started either
/// has left its id there before, or finds no place for it and does not start.
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
    /// Holds the pipe, which the system closes when this process ends.
    _shell: Child,
}

/// The folder for the servers of this process, one folder in it for each.
pub(crate) fn root() -> &'static Path {
    static WATCHDOG: OnceLock<Watchdog> = OnceLock::new();
    &WATCHDOG.get_or_init(start).root
}

fn start() -> Watchdog {
    let root = paths::fresh_dir(&paths::home(), "run");
    // A group of its own, so that Ctrl-C at the terminal does not reach it.
    // No inherited output, or a pipe that reads the tests' output stays open.
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
