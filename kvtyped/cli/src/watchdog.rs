//! A process that ends a command if the tool dies before the command, for example by SIGKILL.
//!
//! The tool holds one end of a pipe. The kernel closes it when the tool dies, and the process at the other end then ends
//! the command.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, getpgrp, kill_process, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

use crate::fail::{Code, Done, Failure};
use crate::time::parse_duration;

/// The processes that a watchdog ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Process(Pid),
    /// A process group, which includes the children of the command.
    Group(Pid),
}

impl Target {
    /// Sends a signal. The target may have ended.
    pub(crate) fn signal(self, signal: Signal) {
        let _ = match self {
            Self::Process(pid) => kill_process(pid, signal),
            Self::Group(pid) => kill_process_group(pid, signal),
        };
    }
}

/// A handle to the watchdog of a command. Dropping the handle ends the command.
#[derive(Debug)]
pub(crate) struct Watchdog {
    child: Child,
    pid: Pid,
}

impl Watchdog {
    /// Starts a watchdog. `grace` is the time between SIGTERM and SIGKILL.
    ///
    /// With `has_group`, the watchdog ends its own process group, and the command must start in that group. Otherwise,
    /// [`watch`](Self::watch) must name the command.
    pub(crate) fn start(grace: Duration, has_group: bool) -> io::Result<Self> {
        // The file may have been replaced since the start of the tool.
        let program = if cfg!(target_os = "linux") { "/proc/self/exe".into() } else { std::env::current_exe()? };
        let mut command = Command::new(program);
        command.args(["watchdog", "--grace", &format!("{}ms", grace.as_millis())]);
        if has_group {
            command.arg("--group");
        }
        // The signals of the terminal do not reach another group.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let child = command.spawn()?;
        let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).ok_or(io::ErrorKind::NotFound)?;
        Ok(Self { child, pid })
    }

    /// Returns the process group of the watchdog.
    pub(crate) fn group(&self) -> Pid {
        self.pid
    }

    /// Sends the process ID of the command to the watchdog.
    pub(crate) async fn watch(&mut self, pid: Pid) -> io::Result<()> {
        self.send(&format!("{pid}\n")).await
    }

    /// Ends the watchdog after the command has ended.
    pub(crate) async fn dismiss(mut self) {
        // The watchdog may have ended with the command.
        let _ = self.send("ended\n").await;
        drop(self.child.stdin.take());
        let _ = self.child.wait().await;
    }

    async fn send(&mut self, line: &str) -> io::Result<()> {
        let stdin = self.child.stdin.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        stdin.write_all(line.as_bytes()).await?;
        stdin.flush().await
    }
}

/// The arguments of the watchdog.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The time between SIGTERM and SIGKILL
    #[arg(long, value_parser = parse_duration)]
    grace: Duration,
    /// End the process group of the watchdog. Otherwise, the first line names a process
    #[arg(long)]
    group: bool,
}

/// Runs the watchdog: ends the command when stdin ends, unless the line `ended` comes first.
pub(crate) fn run(args: &Args) -> Done {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        // The command receives these signals, and the watchdog stays until its end.
        let _ignored =
            [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?];
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        let target = match args.group {
            true => Some(Target::Group(getpgrp())),
            false => lines.next_line().await?.and_then(|line| Pid::from_raw(line.parse().ok()?)).map(Target::Process),
        };
        if let (Some(target), Ok(None) | Err(_)) = (target, lines.next_line().await) {
            target.signal(Signal::TERM);
            tokio::time::sleep(args.grace).await;
            // This ends the watchdog, too, if it is in the group.
            target.signal(Signal::KILL);
        }
        Ok::<_, Failure>(())
    })?;
    // A read of stdin may still block a thread.
    runtime.shutdown_background();
    Ok(Code::Success)
}
