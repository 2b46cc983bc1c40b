//! The shutdown signal of a store, shared with everything that the store opened.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

use crate::error::{Error, ErrorKind, Result};

#[derive(Debug, Default)]
pub(crate) struct ShutdownSignal {
    closed: AtomicBool,
    notify: Notify,
}

impl ShutdownSignal {
    /// Closes the store. Returns whether it was open.
    pub(crate) fn trigger(&self) -> bool {
        let was_open = !self.closed.swap(true, Ordering::AcqRel);
        self.notify.notify_waiters();
        was_open
    }

    pub(crate) fn is_triggered(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// # Errors
    ///
    /// Returns `Closed` if the store is closed.
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_triggered() { Err(Error::new(ErrorKind::Closed)) } else { Ok(()) }
    }

    /// Waits until the store is closed.
    pub(crate) async fn triggered(self: Arc<Self>) {
        let mut triggered_event = pin!(self.notify.notified());
        // Register before the check, so that a close between the check and the wait is not missed.
        triggered_event.as_mut().enable();
        if !self.is_triggered() {
            triggered_event.await;
        }
    }
}
