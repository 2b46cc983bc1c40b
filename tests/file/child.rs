//! Processes of a test: this binary, started again.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child as Process, ChildStdout, Command, Stdio};

/// The variable with the arguments of a process, one a line.
const ARGUMENTS: &str = "KVTYPED_FILE_PROCESS";
/// The beginning of a line of the process. The test runner prints other lines.
const MARK: &str = "::: ";

/// The command that starts a process, below another command such as `strace`. The process runs an ignored test.
pub(crate) fn command(wrapper: &[&str], test: &str, arguments: &[String]) -> Command {
    let program = std::env::current_exe().expect("this binary has a path");
    let mut command = match wrapper {
        [] => Command::new(&program),
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest).arg(&program);
            command
        }
    };
    command
        .args(["--ignored", "--exact", test, "--nocapture", "--test-threads=1"])
        .env(ARGUMENTS, arguments.join("\n"))
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command
}

/// The arguments of this process, if another process started it.
pub(crate) fn arguments() -> Option<Vec<String>> {
    std::env::var(ARGUMENTS).ok().map(|text| text.lines().map(str::to_owned).collect())
}

/// Prints a line for the parent process, with one call of the system.
pub(crate) fn say(line: impl std::fmt::Display) {
    let line = format!("{MARK}{line}\n");
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes()).and_then(|()| out.flush()).expect("the parent reads");
}

/// Returns the text that [`say`] printed, if a complete line contains one.
pub(crate) fn said(line: &str) -> Option<&str> {
    // The last line of a killed process may be incomplete.
    let (_, text) = line.strip_suffix('\n')?.split_once(MARK)?;
    Some(text)
}

/// A running process. Dropping it kills the process.
pub(crate) struct Child {
    pub(crate) process: Process,
    output: BufReader<ChildStdout>,
}

impl Child {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut process = command.spawn().expect("the process starts");
        let output = BufReader::new(process.stdout.take().expect("the output is piped"));
        Self { process, output }
    }

    /// Returns the next text of the process, or `None` at its end. Blocks this thread.
    pub(crate) fn next(&mut self) -> Option<String> {
        let mut line = String::new();
        while self.output.read_line(&mut line).expect("the output is text") > 0 {
            if let Some(text) = said(&line) {
                return Some(text.to_owned());
            }
            line.clear();
        }
        None
    }

    /// Kills the process, and waits for its end.
    pub(crate) fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}
