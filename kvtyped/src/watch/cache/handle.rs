//! The handle of a cache.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::stream::{BoxStream, Stream, StreamExt};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::change::CacheChange;
use super::index::CacheIndex;
use super::state::CacheState;
use crate::bucket::Entry;
use crate::error::{Error, ErrorKind, Result};
use crate::model::KvModel;
use crate::revision::Revision;
use crate::watch::health::{CacheInfo, OpenCaches};

/// A local copy of some records; see [`ReadBucket::cache`](crate::ReadBucket::cache). Clones are cheap and share the
/// cache.
pub struct Cache<T: KvModel> {
    inner: Arc<CacheInner<T>>,
}

struct CacheInner<T: KvModel> {
    shared: Arc<CacheState<T>>,
    updater: JoinHandle<()>,
}

impl<T: KvModel> Drop for CacheInner<T> {
    fn drop(&mut self) {
        self.updater.abort();
    }
}

impl<T: KvModel> CacheInfo for CacheInner<T> {
    fn last_seen(&self) -> Instant {
        self.shared.progress.borrow().last_seen
    }

    fn entries(&self) -> usize {
        self.shared.contents.load().records.len()
    }
}

impl<T: KvModel> Cache<T> {
    /// Creates the first handle. The last one ends the task of the updater.
    pub(super) fn new(shared: Arc<CacheState<T>>, updater: JoinHandle<()>) -> Self {
        Self { inner: Arc::new(CacheInner { shared, updater }) }
    }

    /// Adds the cache to the open caches of its bucket.
    pub(super) fn register(&self, caches: &OpenCaches) {
        let cache: Arc<dyn CacheInfo> = Arc::clone(&self.inner) as _;
        caches.add(Arc::downgrade(&cache));
    }

    /// Returns the record of a key, if it is cached. A record that does not decode reads as absent: see
    /// [`Cache::try_get`].
    pub fn get(&self, key: &T::Key) -> Option<Arc<Entry<T>>> {
        self.inner.shared.contents.load().records.pin().get(key).cloned()
    }

    /// Returns the record of a key, if it is cached. Unlike [`Cache::get`], this method distinguishes an absent record
    /// from one that does not decode. The cache keeps one error for each undecodable record.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(key = "{id}")]
    /// # struct Session { id: u64, user: String }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let sessions: Bucket<Session> = Store::memory().bucket().await?;
    /// let cache = sessions.cache(..).await?;
    /// match cache.try_get(&SessionKey::new(7)) {
    ///     Ok(Some(session)) => println!("{} is logged in", session.user),
    ///     Ok(None) => println!("logged out"),
    ///     Err(error) => println!("written by another version: {error}"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns the error of the newest record of the key if it does not decode.
    pub fn try_get(&self, key: &T::Key) -> Result<Option<Arc<Entry<T>>>, Arc<Error>> {
        self.inner.shared.contents.load().get(key)
    }

    /// Whether the record of a key is cached.
    pub fn contains(&self, key: &T::Key) -> bool {
        self.inner.shared.contents.load().records.pin().contains_key(key)
    }

    /// Returns the number of cached records.
    pub fn len(&self) -> usize {
        self.inner.shared.contents.load().records.len()
    }

    /// Whether no record is cached.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns all cached records, in no particular order.
    pub fn snapshot(&self) -> Vec<Arc<Entry<T>>> {
        self.inner.shared.contents.load().records.pin().values().cloned().collect()
    }

    /// Iterates over a snapshot of the cached records, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = Arc<Entry<T>>> + use<T> {
        self.snapshot().into_iter()
    }

    /// Returns a stream of every change from now on, with the record before and after. The stream ends with the cache.
    /// If the cache ended although handles exist, [`last_error`](Self::last_error) returns the cause.
    pub fn changes(&self) -> CacheChanges<T> {
        let CacheState { changes, progress, .. } = &*self.inner.shared;
        let listeners = (changes.subscribe(), progress.subscribe());
        let changes = futures::stream::unfold(listeners, |(mut changes, mut progress)| async move {
            let change = tokio::select! {
                biased;
                change = changes.recv() => change,
                () = progress.wait_for(|progress| progress.closed).map(drop) => return None,
            };
            let change = match change {
                Ok(change) => Ok(change),
                Err(broadcast::error::RecvError::Lagged(missed)) => Err(missed),
                Err(broadcast::error::RecvError::Closed) => return None,
            };
            Some((change, (changes, progress)))
        });
        CacheChanges { changes: changes.boxed() }
    }

    /// Creates an index of the records by a value other than their key. The index follows every change, like the cache.
    /// If the function panics for a later record, the cache ends and [`last_error`](Self::last_error) says so.
    pub fn index_by<K, F>(&self, by: F) -> CacheIndex<K, T>
    where
        K: Eq + std::hash::Hash + Clone + Send + Sync + 'static,
        F: Fn(&T) -> K + Send + Sync + 'static,
    {
        let shared = &self.inner.shared;
        let mut indexes = shared.indexes.lock().unwrap_or_else(PoisonError::into_inner);
        indexes.add(by, &shared.contents.load().records)
    }

    /// Returns the revision of the cache: it contains every change up to this revision.
    pub fn revision(&self) -> Revision {
        self.inner.shared.progress.borrow().revision
    }

    /// Waits until the cache is complete up to a revision. A writer can then read its own write from the cache.
    ///
    /// # Errors
    ///
    /// Returns `Closed`, with the cause, if the cache has ended.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn wait_for_revision(&self, revision: Revision) -> Result<()> {
        let mut progress = self.inner.shared.progress.subscribe();
        match progress.wait_for(|progress| progress.revision >= revision || progress.closed).await {
            Ok(progress) if progress.revision >= revision => Ok(()),
            _ => Err(self.error().with_context("wait_for_revision", &self.inner.shared.bucket, None)),
        }
    }

    /// The time since the cache was last known to be up to date: at most about a second in normal operation. It grows
    /// while the connection is lost and until the cache has caught up. [`last_error`](Self::last_error) returns the
    /// cause.
    pub fn staleness(&self) -> Duration {
        self.inner.shared.progress.borrow().last_seen.elapsed()
    }

    /// The last error: a record that does not decode, a bucket that was deleted, a denied permission or a lost
    /// connection. The error of the watch is cleared once the cache has caught up. The error of a record stays.
    /// `Closed` if the cache has ended, because the store was closed or the tokio runtime of the cache ended.
    /// `Unavailable` if it has ended, because a codec or the function of an index panicked.
    pub fn last_error(&self) -> Option<Arc<Error>> {
        self.inner.shared.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn error(&self) -> Error {
        match self.last_error() {
            Some(error) => Error::new(ErrorKind::Closed).caused_by(error),
            None => Error::new(ErrorKind::Closed),
        }
    }
}

impl<T: KvModel> Clone for Cache<T> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<T: KvModel> fmt::Debug for Cache<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("bucket", &self.inner.shared.bucket)
            .field("len", &self.len())
            .field("revision", &self.revision())
            .finish()
    }
}

/// A stream of changes; see [`Cache::changes`].
///
/// An `Err` contains the number of changes that a slow reader missed. The stream continues.
#[must_use = "a stream does nothing until it is polled"]
pub struct CacheChanges<T: KvModel> {
    changes: BoxStream<'static, Result<CacheChange<T>, u64>>,
}

impl<T: KvModel> Stream for CacheChanges<T> {
    type Item = Result<CacheChange<T>, u64>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.changes.poll_next_unpin(context)
    }
}

impl<T: KvModel> fmt::Debug for CacheChanges<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheChanges").finish_non_exhaustive()
    }
}
