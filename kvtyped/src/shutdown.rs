//! The shutdown of a store, which everything that the store opened observes.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::error::{Error, ErrorKind, Result};

const OPEN: u8 = 0;
const DRAINING: u8 = 1;
const CLOSED: u8 = 2;

/// The phase of a store: open, draining (new operations are refused, and leases are released), or closed.
#[derive(Debug)]
pub(crate) struct ShutdownSignal {
    phase: AtomicU8,
    notify: Notify,
    /// The number of leases that are held or being released.
    leases: watch::Sender<usize>,
}

/// A lease that is held or being released. A shutdown waits until it is dropped.
#[derive(Debug)]
pub(crate) struct LeaseToken(Arc<ShutdownSignal>);

impl ShutdownSignal {
    /// Closes the store. Returns whether it was open or draining.
    pub(crate) fn trigger(&self) -> bool {
        self.advance(CLOSED) != CLOSED
    }

    /// Refuses new operations, and makes the lease keepers release their leases. Returns whether the store was open.
    pub(crate) fn drain(&self) -> bool {
        self.advance(DRAINING) == OPEN
    }

    fn advance(&self, phase: u8) -> u8 {
        let before = self.phase.fetch_max(phase, Ordering::AcqRel);
        self.notify.notify_waiters();
        before
    }

    pub(crate) fn is_triggered(&self) -> bool {
        self.phase.load(Ordering::Acquire) == CLOSED
    }

    /// Whether new operations are refused.
    pub(crate) fn is_draining(&self) -> bool {
        self.phase.load(Ordering::Acquire) != OPEN
    }

    /// # Errors
    ///
    /// Returns `Closed` if new operations are refused.
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_draining() { Err(Error::new(ErrorKind::Closed)) } else { Ok(()) }
    }

    /// Waits until the store is closed.
    pub(crate) async fn triggered(self: Arc<Self>) {
        self.reached(CLOSED).await;
    }

    /// Waits until new operations are refused.
    pub(crate) async fn draining(self: Arc<Self>) {
        self.reached(DRAINING).await;
    }

    async fn reached(&self, phase: u8) {
        loop {
            let mut changed = pin!(self.notify.notified());
            // Register before the check, so that a change between the check and the wait is not missed.
            changed.as_mut().enable();
            if self.phase.load(Ordering::Acquire) >= phase {
                return;
            }
            changed.await;
        }
    }

    /// Counts a lease until the token is dropped.
    pub(crate) fn lease_token(self: &Arc<Self>) -> LeaseToken {
        self.leases.send_modify(|count| *count += 1);
        LeaseToken(Arc::clone(self))
    }

    /// Waits until no lease is held, for at most `limit`.
    ///
    /// # Errors
    ///
    /// Returns `Timeout` if a lease is held after that time.
    pub(crate) async fn released(&self, limit: Duration) -> Result<()> {
        let mut leases = self.leases.subscribe();
        match tokio::time::timeout(limit, leases.wait_for(|count| *count == 0)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::timeout(limit)),
        }
    }
}

impl Default for ShutdownSignal {
    fn default() -> Self {
        Self { phase: AtomicU8::new(OPEN), notify: Notify::new(), leases: watch::Sender::new(0) }
    }
}

impl Clone for LeaseToken {
    fn clone(&self) -> Self {
        self.0.lease_token()
    }
}

impl Drop for LeaseToken {
    fn drop(&mut self) {
        self.0.leases.send_modify(|count| *count = count.saturating_sub(1));
    }
}
