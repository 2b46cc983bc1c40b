//! Signals that end the tool.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::fail::{Code, Failure};

/// The number of programs that run in the foreground and handle the signals of the terminal themselves.
static FOREGROUND: AtomicUsize = AtomicUsize::new(0);

/// Ignores the signals of the terminal while a program such as an editor runs in the foreground.
#[derive(Debug)]
pub(crate) struct Foreground(());

impl Foreground {
    pub(crate) fn enter() -> Self {
        FOREGROUND.fetch_add(1, Ordering::Relaxed);
        Self(())
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        FOREGROUND.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The number of commands that receive all signals of the tool.
static FORWARDED: AtomicUsize = AtomicUsize::new(0);

fn is_forwarded() -> bool {
    FORWARDED.load(Ordering::Relaxed) > 0
}

/// The signals of the tool, while a command decides what they do.
#[cfg(unix)]
#[derive(Debug)]
pub(crate) struct Forwarded {
    streams: [(tokio::signal::unix::Signal, rustix::process::Signal); 3],
}

#[cfg(unix)]
impl Forwarded {
    pub(crate) fn enter() -> Result<Self, Failure> {
        use rustix::process::Signal;
        use tokio::signal::unix::{SignalKind, signal};
        let streams = [
            (signal(SignalKind::interrupt())?, Signal::INT),
            (signal(SignalKind::terminate())?, Signal::TERM),
            (signal(SignalKind::hangup())?, Signal::HUP),
        ];
        FORWARDED.fetch_add(1, Ordering::Relaxed);
        Ok(Self { streams })
    }

    /// Waits for the next signal.
    pub(crate) async fn next(&mut self) -> rustix::process::Signal {
        let [interrupt, terminate, hangup] = &mut self.streams;
        tokio::select! {
            Some(()) = interrupt.0.recv() => interrupt.1,
            Some(()) = terminate.0.recv() => terminate.1,
            Some(()) = hangup.0.recv() => hangup.1,
            else => std::future::pending().await,
        }
    }
}

#[cfg(unix)]
impl Drop for Forwarded {
    fn drop(&mut self) {
        FORWARDED.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How long a command may take to end after a signal.
const GRACE: Duration = Duration::from_secs(3);

/// Ends the process if a command does not end soon after a signal, or at a second signal. A write to a pipe that
/// no program reads blocks the thread of the command, so another thread waits for the signals.
pub(crate) fn enforce() {
    let watch = async {
        let mut signals = Signals::listen();
        let failure = signals.next().await;
        tokio::select! {
            () = tokio::time::sleep(GRACE) => {}
            _ = signals.next() => {}
        }
        std::process::exit(failure.code.number().into());
    };
    let thread = std::thread::Builder::new().name("signals".to_owned()).spawn(|| {
        if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() {
            runtime.block_on(watch);
        }
    });
    // Without the thread, signals end commands that are not blocked.
    drop(thread);
}

/// The signals that end the tool. No signal is lost after [`listen`](Self::listen).
#[cfg(unix)]
#[derive(Debug)]
pub(crate) struct Signals(Option<[tokio::signal::unix::Signal; 3]>);

#[cfg(unix)]
impl Signals {
    /// Handles the signals from now on. Needs a runtime.
    pub(crate) fn listen() -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        let streams = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()), signal(SignalKind::hangup()));
        match streams {
            (Ok(interrupt), Ok(terminate), Ok(hangup)) => Self(Some([interrupt, terminate, hangup])),
            // Without a handler, a signal ends the process at once.
            _ => Self(None),
        }
    }

    /// Waits for the next signal that ends the tool.
    pub(crate) async fn next(&mut self) -> Failure {
        let Some([interrupt, terminate, hangup]) = &mut self.0 else { return std::future::pending().await };
        loop {
            tokio::select! {
                _ = interrupt.recv() => if FOREGROUND.load(Ordering::Relaxed) == 0 && !is_forwarded() {
                    return Failure::interrupted(Code::Interrupted);
                },
                _ = terminate.recv() => if !is_forwarded() { return Failure::interrupted(Code::Other(143)) },
                _ = hangup.recv() => if !is_forwarded() { return Failure::interrupted(Code::Other(129)) },
            }
        }
    }
}

/// The signals that end the tool.
#[cfg(not(unix))]
#[derive(Debug)]
pub(crate) struct Signals(());

#[cfg(not(unix))]
impl Signals {
    pub(crate) fn listen() -> Self {
        Self(())
    }

    /// Waits for the next signal that ends the tool.
    pub(crate) async fn next(&mut self) -> Failure {
        match tokio::signal::ctrl_c().await {
            Ok(()) => Failure::interrupted(Code::Interrupted),
            Err(_) => std::future::pending().await,
        }
    }
}
