//! What rings when a bucket changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Rings for those who listen. With the bucket it goes, and tells so.
///
/// It wakes them in the order in which they began to listen, so that what follows in a simulation follows from its seed;
/// tokio's `watch` wakes in the order of a throw of dice.
#[derive(Debug, Default)]
pub(super) struct Bell(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    rung: Notify,
    gone: AtomicBool,
}

/// One who listens to a bell.
#[derive(Debug, Clone)]
pub(super) struct Listener(Arc<Inner>);

impl Bell {
    pub(super) fn ring(&self) {
        self.0.rung.notify_waiters();
    }

    pub(super) fn listen(&self) -> Listener {
        Listener(Arc::clone(&self.0))
    }

    #[cfg(test)]
    pub(super) fn listeners(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        self.0.gone.store(true, Ordering::Release);
        self.ring();
    }
}

impl Listener {
    /// Ends when the bell rings the next time, counted from this call and not from the first poll.
    pub(super) fn rung(&self) -> Notified<'_> {
        self.0.rung.notified()
    }

    /// Whether the bell, and so the bucket, is gone.
    pub(super) fn is_gone(&self) -> bool {
        self.0.gone.load(Ordering::Acquire)
    }
}
