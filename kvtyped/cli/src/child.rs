//! A command that runs while a lease is held.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use kvtyped::recipes::Lease;
use kvtyped::{Error, ErrorKind};
use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};

use crate::app::App;
use crate::fail::{Code, Done, Failure, message_of};
use crate::interrupt::Forwarded;
use crate::time::parse_duration;
use crate::watchdog::{Target, Watchdog};

/// The exit code if the lease was not had in time.
const NOT_HAD: Code = Code::Other(124);
/// The exit code if the lease was lost, or if the tool failed.
const LOST: Code = Code::Other(125);

/// The options of a command that runs under a lease.
#[derive(Debug, clap::Args)]
pub(crate) struct RunOptions {
    /// The longest time to wait for the lease; exit code 124 if it passes. Without it, waits without a limit
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) wait: Option<Duration>,
    /// How long after the last renewal the lease is free again
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    pub(crate) ttl: Duration,
    /// The name of the holder, for others to read
    #[arg(long, value_name = "NAME")]
    pub(crate) owner: Option<String>,
    /// The time between SIGTERM and SIGKILL if the lease is lost
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    pub(crate) grace: Duration,
    /// The command, which finds the fencing token in KVTYPED_FENCE
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

impl RunOptions {
    /// Returns how long before its expiry the lease is given up: long enough to end the command before another holder
    /// can have the lease.
    pub(crate) fn margin(&self) -> Result<Duration, Failure> {
        let margin = self.grace + Duration::from_secs(1);
        match margin < self.ttl {
            true => Ok(margin),
            false => Err(Failure::usage(format!(
                "`--grace` ({:?}) must be more than a second shorter than `--ttl` ({:?}), so that the command has ended \
                 before the lease expires",
                self.grace, self.ttl
            ))),
        }
    }

    /// Returns the failure of an attempt to have the lease.
    pub(crate) fn not_had(error: Error) -> Failure {
        let code = if matches!(error.kind(), ErrorKind::Timeout { .. }) { NOT_HAD } else { LOST };
        Failure::from(error).with_code(code)
    }

    /// Returns the failure with the exit code of a tool that failed before it ran the command.
    pub(crate) fn not_run(failure: Failure) -> Failure {
        match failure.code {
            Code::Usage | Code::Refused | Code::Interrupted | Code::Other(_) => failure,
            _ => failure.with_code(LOST),
        }
    }

    /// Runs the command under the lease. Ends it if the lease is lost.
    ///
    /// If the tool dies, a watchdog ends the command.
    pub(crate) async fn run(&self, app: &App, lease: &Lease, what: &str) -> Result<Ended, Failure> {
        // From here on, the command decides what a signal does.
        let mut signals = Forwarded::enter()?;
        // A renewal leaves two thirds of the TTL, and the command must have ended before the lease expires.
        // On a terminal, the command stays in the group of the tool. Another group may not read from the terminal.
        let has_group = !io::stdin().is_terminal();
        let grace = self.grace.min(self.ttl / 2);
        let mut watchdog = Watchdog::start(grace, has_group).map_err(|error| unguarded(&error))?;
        let mut child = match Process::spawn(&self.command, lease, has_group.then(|| watchdog.group())) {
            Ok(child) => child,
            Err(failure) => {
                watchdog.dismiss().await;
                return Err(failure);
            }
        };
        if let Some(Target::Process(pid)) = child.target {
            watchdog.watch(pid).await.map_err(|error| unguarded(&error))?;
        }
        let ended = self.guard(app, lease, what, &mut signals, &mut child).await?;
        watchdog.dismiss().await;
        Ok(ended)
    }

    /// Waits for the end of the command or the loss of the lease.
    async fn guard(
        &self,
        app: &App,
        lease: &Lease,
        what: &str,
        signals: &mut Forwarded,
        child: &mut Process,
    ) -> Result<Ended, Failure> {
        if app.options.verbose {
            app.out.note(&format!("{what} is held with fence {}", lease.fence()));
        }
        loop {
            tokio::select! {
                biased;
                status = child.child.wait() => return Ok(Ended::Exited(status.map_err(failed)?)),
                signal = signals.next() => child.forward(signal),
                () = lease.lost() => {
                    app.out.warn(&format!("{what} is lost, and the command is stopped"));
                    child.stop(self.grace).await?;
                    return Ok(Ended::Lost);
                }
            }
        }
    }

    /// Returns the exit code, after the lease was released with this result.
    pub(crate) fn finish(app: &App, what: &str, ended: Ended, released: kvtyped::Result<()>) -> Done {
        let lost = || Failure::conflict(format!("{what} was lost while the command ran")).with_code(LOST);
        match (ended, released) {
            (Ended::Lost, _) => Err(lost()),
            (_, Err(error)) if matches!(error.kind(), ErrorKind::Lost) => Err(lost()),
            (Ended::Exited(status), released) => {
                if let Err(error) = released {
                    app.out.warn(&format!(
                        "{what} stays until its TTL ends, because its release failed: {}",
                        message_of(&error)
                    ));
                }
                Ok(code_of(status))
            }
        }
    }
}

/// How a command ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ended {
    Exited(ExitStatus),
    /// The lease was lost first.
    Lost,
}

/// Returns the exit code of a command. A signal has the code that a shell gives it.
fn code_of(status: ExitStatus) -> Code {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    if code == 0 { Code::Success } else { Code::Other(u8::try_from(code).unwrap_or(1)) }
}

fn failed(error: io::Error) -> Failure {
    Failure::local(format!("cannot wait for the command: {error}")).with_code(LOST)
}

fn unguarded(error: &io::Error) -> Failure {
    Failure::local(format!("cannot start the watchdog of the command: {error}")).with_code(LOST)
}

struct Process {
    child: Child,
    /// The command, with its children if it is in the group of the watchdog.
    target: Option<Target>,
}

impl Process {
    fn spawn(command: &[OsString], lease: &Lease, group: Option<Pid>) -> Result<Self, Failure> {
        let [program, arguments @ ..] = command else { return Err(Failure::usage("no command is given")) };
        let mut builder = Command::new(program);
        builder.args(arguments).env("KVTYPED_FENCE", lease.fence().to_string()).env("KVTYPED_NAME", lease.name());
        builder.kill_on_drop(true);
        if let Some(group) = group {
            builder.process_group(group.as_raw_pid());
        }
        let child = builder.spawn().map_err(|error| {
            let code = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
            Failure::local(format!("`{}`: {error}", program.display())).with_code(Code::Other(code))
        })?;
        let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        Ok(Self { child, target: group.map(Target::Group).or(pid.map(Target::Process)) })
    }

    fn signal(&self, signal: Signal) {
        if let Some(target) = self.target {
            target.signal(signal);
        }
    }

    /// Passes on a signal that the tool received.
    fn forward(&self, signal: Signal) {
        // The terminal has sent its signals to the command, too.
        if matches!(self.target, Some(Target::Group(_))) || signal == Signal::TERM {
            self.signal(signal);
        }
    }

    /// Ends the command: with SIGTERM, and with SIGKILL after the grace.
    async fn stop(&mut self, grace: Duration) -> Result<(), Failure> {
        self.signal(Signal::TERM);
        if tokio::time::timeout(grace, self.child.wait()).await.is_err() {
            self.signal(Signal::KILL);
            self.child.wait().await.map_err(failed)?;
        }
        if let Some(group @ Target::Group(_)) = self.target {
            // Its children may have outlived it.
            group.signal(Signal::KILL);
        }
        Ok(())
    }
}
