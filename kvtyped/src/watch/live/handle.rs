//! The handle of a live value.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::updater::LiveState;
use crate::error::{Error, ErrorKind, Result};
use crate::revision::Revision;

/// The current value of one key, or a value derived from it; see [`ReadBucket::live`](crate::ReadBucket::live). Cheap
/// to clone. Each clone tracks its own [`changed`](Self::changed).
pub struct Live<T> {
    inner: Arc<LiveInner<T>>,
    /// The version that this handle loaded last.
    seen: AtomicU64,
}

struct LiveInner<T> {
    shared: Arc<LiveState<T>>,
    task: JoinHandle<()>,
}

impl<T> Drop for LiveInner<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<T> Live<T> {
    /// Creates the first handle. The last one ends the task.
    pub(super) fn new(shared: Arc<LiveState<T>>, task: JoinHandle<()>) -> Self {
        Self { inner: Arc::new(LiveInner { shared, task }), seen: AtomicU64::new(0) }
    }

    /// Returns the current value. Performs no I/O and takes no lock.
    pub fn load(&self) -> Arc<T> {
        let LiveState { version, value, .. } = &*self.inner.shared;
        // Read the version before the value. If a new value arrives in between, `changed` reports it again instead of
        // missing it.
        self.seen.store(version.load(Ordering::Acquire), Ordering::Release);
        value.load_full()
    }

    /// Waits until the value differs from the one that this handle loaded last, and returns it. An invalid record
    /// changes nothing: see [`errors`](Self::errors).
    ///
    /// # Errors
    ///
    /// Returns `Closed` if the live value has ended, because the store was closed or the tokio runtime of the value has
    /// ended. The last error is the cause.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing: the next call reports the change.
    pub async fn changed(&self) -> Result<Arc<T>> {
        let mut values = self.subscribe();
        while self.inner.shared.version.load(Ordering::Acquire) == self.seen.load(Ordering::Acquire) {
            if values.changed().await.is_err() {
                let closed = Error::new(ErrorKind::Closed);
                return Err(match self.last_error() {
                    Some(cause) => closed.caused_by(cause),
                    None => closed,
                });
            }
        }
        Ok(self.load())
    }

    /// Returns a receiver of the [`last_error`](Self::last_error): `Some` when a record is invalid, `None` when a later
    /// one is valid.
    pub fn errors(&self) -> watch::Receiver<Option<Arc<Error>>> {
        self.inner.shared.error.subscribe()
    }

    /// Returns a receiver of every value, for example for a `select!`. The channel closes when the live value ends.
    pub fn subscribe(&self) -> watch::Receiver<Arc<T>> {
        let mut values = self.inner.shared.values.clone();
        values.mark_unchanged();
        values
    }

    /// Returns the revision of the value. For a default, returns the revision of the removal that it follows, or
    /// [`Revision::ZERO`] if it follows none.
    pub fn revision(&self) -> Revision {
        Revision::new(self.inner.shared.revision.load(Ordering::Acquire))
    }

    /// Returns the error of the newest record if it is invalid, or `Closed` if the live value has ended.
    pub fn last_error(&self) -> Option<Arc<Error>> {
        self.inner.shared.error.borrow().clone()
    }
}

impl<T> Clone for Live<T> {
    fn clone(&self) -> Self {
        let seen = AtomicU64::new(self.seen.load(Ordering::Acquire));
        Self { inner: Arc::clone(&self.inner), seen }
    }
}

impl<T: fmt::Debug> fmt::Debug for Live<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live")
            .field("value", &self.inner.shared.value.load())
            .field("revision", &self.revision())
            .finish()
    }
}
