//! Notification of bucket changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Notifies its listeners of changes. When the bucket drops the notifier, the listeners see that the bucket is gone.
///
/// Listeners wake in the order of their registration, so that a simulation is reproducible from its seed. Tokio's
/// `watch` wakes its receivers in a random order.
#[derive(Debug, Default)]
pub(crate) struct ChangeNotifier(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    notify: Notify,
    gone: AtomicBool,
}

/// A subscription to the changes of a bucket.
#[derive(Debug, Clone)]
pub(crate) struct ChangeSubscription(Arc<Inner>);

impl ChangeNotifier {
    pub(crate) fn notify(&self) {
        self.0.notify.notify_waiters();
    }

    pub(crate) fn subscribe(&self) -> ChangeSubscription {
        ChangeSubscription(Arc::clone(&self.0))
    }

    #[cfg(test)]
    pub(crate) fn listeners(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }
}

impl Drop for ChangeNotifier {
    fn drop(&mut self) {
        self.0.gone.store(true, Ordering::Release);
        self.notify();
    }
}

impl ChangeSubscription {
    /// Completes at the next change after this call, not after the first poll.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.0.notify.notified()
    }

    /// Whether the notifier, and thus the bucket, was dropped.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.gone.load(Ordering::Acquire)
    }
}
