//! Worker processes: this program, started again. A worker reads commands line by line, and answers each with one line.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::{allocator, contention, file, memory, sizes};

/// A process that waits for commands. Dropping it kills the process.
#[derive(Debug)]
pub(crate) struct Worker {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Worker {
    /// Starts a worker and waits until it is ready.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let program = std::env::current_exe().expect("this program has a path");
        let mut command = Command::new(program);
        command.arg("worker").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it starts again");
        let input = child.stdin.take().expect("it has an input");
        let output = BufReader::new(child.stdout.take().expect("it has an output"));
        let mut worker = Self { child, input, output };
        assert_eq!(worker.receive(), "ready");
        worker
    }

    pub(crate) fn send(&mut self, line: &str) {
        writeln!(self.input, "{line}").expect("it listens");
    }

    /// Reads the next line of the worker. Blocks this thread.
    pub(crate) fn receive(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("it talks");
        line.trim_end().to_owned()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a worker process.
pub(crate) fn work(arguments: &[String]) {
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    if matches!(arguments.first(), Some(&("memory" | "embedded"))) {
        allocator::count();
    }
    let runtime = tokio::runtime::Runtime::new().expect("the runtime starts");
    runtime.block_on(async {
        match arguments.as_slice() {
            ["increments", url, bucket] => contention::work(url, bucket).await,
            ["embedded", url] => file::work(url).await,
            ["memory", url, bucket] => memory::work(url, bucket).await,
            ["fill", url, bucket] => sizes::work(url, bucket).await,
            other => panic!("no such work: {other:?}"),
        }
    });
}

/// Prints `ready`, and then answers each line of the input until the input ends. Reading blocks this thread, but the
/// runtime has others.
pub(crate) async fn serve(mut answer: impl AsyncFnMut(&str) -> String) {
    println!("ready");
    for line in std::io::stdin().lines() {
        println!("{}", answer(&line.expect("it is text")).await);
    }
}
