//! Whether a store was closed, for all that it opened.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

use crate::error::{Error, ErrorKind, Result};

#[derive(Debug, Default)]
pub(crate) struct Closing {
    closed: AtomicBool,
    bell: Notify,
}

impl Closing {
    /// Closes it; tells whether it was open.
    pub(crate) fn close(&self) -> bool {
        let was_open = !self.closed.swap(true, Ordering::AcqRel);
        self.bell.notify_waiters();
        was_open
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// # Errors
    ///
    /// `Closed`.
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_closed() { Err(Error::new(ErrorKind::Closed)) } else { Ok(()) }
    }

    /// Waits until it is closed.
    pub(crate) async fn wait(self: Arc<Self>) {
        let mut rung = pin!(self.bell.notified());
        // Before the look, lest what comes behind it is slept through.
        rung.as_mut().enable();
        if !self.is_closed() {
            rung.await;
        }
    }
}
