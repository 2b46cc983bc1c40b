//! Signals that end the tool.

use std::sync::atomic::{AtomicUsize, Ordering};

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

/// Waits for a signal that ends the tool.
#[cfg(unix)]
pub(crate) async fn signal() -> Failure {
    use tokio::signal::unix::{SignalKind, signal};
    let streams = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()), signal(SignalKind::hangup()));
    let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)) = streams else {
        // Without a handler, a signal ends the process at once.
        return std::future::pending().await;
    };
    loop {
        tokio::select! {
            _ = interrupt.recv() => if FOREGROUND.load(Ordering::Relaxed) == 0 {
                return Failure::interrupted(Code::Interrupted);
            },
            _ = terminate.recv() => return Failure::interrupted(Code::Other(143)),
            _ = hangup.recv() => return Failure::interrupted(Code::Other(129)),
        }
    }
}

/// Waits for a signal that ends the tool.
#[cfg(not(unix))]
pub(crate) async fn signal() -> Failure {
    match tokio::signal::ctrl_c().await {
        Ok(()) => Failure::interrupted(Code::Interrupted),
        Err(_) => std::future::pending().await,
    }
}
