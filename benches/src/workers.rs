//! Other processes: this program, run again. They are told what to do line by line, and answer each line by one.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::{allocator, contention, memory, sizes};

/// A process that waits for something to do. It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Worker {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Worker {
    /// Starts one, and waits until it is ready.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let program = std::env::current_exe().expect("this program has a path");
        let mut command = Command::new(program);
        command.arg("worker").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it starts again");
        let input = child.stdin.take().expect("it has an input");
        let output = BufReader::new(child.stdout.take().expect("it has an output"));
        let mut worker = Self { child, input, output };
        assert_eq!(worker.hear(), "ready");
        worker
    }

    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.input, "{line}").expect("it listens");
    }

    /// Its next line; waits for it, and blocks this thread.
    pub(crate) fn hear(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("it talks");
        line.trim_end().to_owned()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What such a process does.
pub(crate) fn work(arguments: &[String]) {
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    if arguments.first() == Some(&"memory") {
        allocator::count();
    }
    let runtime = tokio::runtime::Runtime::new().expect("the runtime starts");
    runtime.block_on(async {
        match arguments.as_slice() {
            ["increments", url, bucket] => contention::work(url, bucket).await,
            ["memory", url, bucket] => memory::work(url, bucket).await,
            ["fill", url, bucket] => sizes::work(url, bucket).await,
            other => panic!("no such work: {other:?}"),
        }
    });
}

/// Says that it is ready, and answers each line, until there are no more. Reading blocks this thread: the runtime has
/// others.
pub(crate) async fn serve(mut answer: impl AsyncFnMut(&str) -> String) {
    println!("ready");
    for line in std::io::stdin().lines() {
        println!("{}", answer(&line.expect("it is text")).await);
    }
}
