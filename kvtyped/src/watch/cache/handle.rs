//! A local copy of some records, kept by a watch.

use std::fmt;
use std::future::IntoFuture;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, Stream, StreamExt};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio::time::timeout_at;

use super::index::CacheIndex;
use super::updater::{CacheState, run_updater};
use crate::backend::StartFrom;
use crate::bucket::{Entry, ReadBucket};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Filter, KvModel};
use crate::revision::Revision;
use crate::watch::{UpdateStream, start_watch};

impl<T: KvModel> ReadBucket<T> {
    /// Creates a local copy of the records that match a filter. The call returns once the copy is complete. From then
    /// on the copy follows every change.
    ///
    /// A read needs no network, no `await` and no lock. The copy may be stale: by a moment in normal operation, and for
    /// as long as a connection is lost (see [`Cache::staleness`]). A task updates the copy, and ends with the last
    /// handle.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(key = "{tenant}.{id}")]
    /// # struct Session { tenant: String, id: u64, user: String }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let sessions: Bucket<Session> = Store::memory().bucket().await?;
    /// let cache = sessions.cache(..).await?;
    /// let by_user = cache.index_by(|session| session.user.clone());
    ///
    /// let ada = Session { tenant: "acme".into(), id: 7, user: "ada".into() };
    /// let revision = sessions.put(&ada).await?;
    /// cache.wait_for_revision(revision).await?; // a writer that reads its own write
    /// assert_eq!(cache.get(&ada.key()).expect("cached").user, "ada");
    /// assert_eq!(by_user.get(&"ada".to_owned()).len(), 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns the error of the watch if it cannot start, such as `InvalidConfig` if the filter matches no key. Returns
    /// `Timeout` if the listing makes no progress within [`timeout`](OpenCache::timeout). A listing of any length
    /// succeeds while new entries arrive.
    pub fn cache(&self, filter: impl Into<Filter<T>>) -> OpenCache<'_, T> {
        OpenCache { bucket: self, filter: filter.into(), timeout: None }
    }
}

/// A builder of a cache; see [`ReadBucket::cache`].
#[must_use = "nothing is cached until it is awaited"]
#[derive(Debug)]
pub struct OpenCache<'a, T: KvModel> {
    bucket: &'a ReadBucket<T>,
    filter: Filter<T>,
    timeout: Option<Duration>,
}

impl<T: KvModel> OpenCache<'_, T> {
    /// Bounds the time without progress of the listing. The default is the bucket's timeout. Each new entry is progress,
    /// as in a list. A repeated entry is not.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    async fn run(self) -> Result<Cache<T>> {
        let Self { bucket, filter, timeout } = self;
        let idle = timeout.unwrap_or_else(|| bucket.timeout());
        let news = start_watch(bucket, &filter, StartFrom::Newest, false, Some(idle)).await?;
        fill(news, bucket.name(), idle).await
    }
}

/// Fills a cache until it is ready, unless nothing new arrives for as long as `idle`.
async fn fill<T: KvModel>(news: UpdateStream, bucket: &str, idle: Duration) -> Result<Cache<T>> {
    let shared = Arc::new(CacheState::new(bucket));
    let mut progress = shared.progress.subscribe();
    let keeper = tokio::spawn(run_updater(news, Arc::clone(&shared)));
    let cache = Cache { inner: Arc::new(CacheInner { shared, updater: keeper }) };
    // If the keeper ends or its watch fails, the cache has the error.
    let over = loop {
        let advanced = cache.inner.shared.advanced();
        let ready = progress.wait_for(|progress| progress.ready || progress.closed || progress.failed);
        // An instant beyond the range of the clock is no bound.
        let ready = match advanced.checked_add(idle) {
            Some(until) => timeout_at(until, ready).await,
            None => Ok(ready.await),
        };
        match ready {
            Ok(ready) => break ready.map_or(true, |progress| progress.closed || !progress.ready),
            Err(_) if cache.inner.shared.advanced() > advanced => {}
            Err(_) => return Err(Error::timeout(idle)),
        }
    };
    let why = || cache.last_error().map_or_else(|| Error::new(ErrorKind::Closed), |error| Error::shared(&error));
    if over { Err(why()) } else { Ok(cache) }
}

impl<'a, T: KvModel> IntoFuture for OpenCache<'a, T> {
    type Output = Result<Cache<T>>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let name = self.bucket.name().to_owned();
        Box::pin(async move { self.run().await.map_err(|error| error.with_context("cache", &name, None)) })
    }
}

/// A local copy of some records; see [`ReadBucket::cache`]. Clones are cheap and share the cache.
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

/// One change of a cache.
#[derive(Debug)]
#[non_exhaustive]
pub struct CacheChange<T: KvModel> {
    /// The key.
    pub key: T::Key,
    /// The record before.
    pub old: Option<Arc<Entry<T>>>,
    /// The record after.
    pub new: Option<Arc<Entry<T>>>,
    /// The error of the new record, if it does not decode.
    pub error: Option<Arc<Error>>,
}

impl<T: KvModel> Clone for CacheChange<T> {
    fn clone(&self) -> Self {
        let Self { key, old, new, error } = self;
        Self { key: key.clone(), old: old.clone(), new: new.clone(), error: error.clone() }
    }
}

impl<T: KvModel> Cache<T> {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::SystemTime;

    use bytes::Bytes;
    use futures::stream;
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::backend::{Operation, RawEntry};
    use crate::key::Key;
    use crate::watch::resume::WatchUpdate;

    const SECOND: Duration = Duration::from_secs(1);

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, kvtyped::KvModel)]
    #[kv(key = "{id}")]
    struct Session {
        id: u64,
    }

    fn entry(revision: u64) -> WatchUpdate {
        let entry = RawEntry {
            key: Key::new(revision.to_string()).unwrap(),
            revision: Revision::new(revision),
            created: SystemTime::UNIX_EPOCH,
            operation: Operation::Put,
            value: Bytes::from(format!("{{\"id\":{revision}}}")),
            ttl: None,
            id: None,
        };
        WatchUpdate::Entry(entry, 0)
    }

    /// A watch that delivers an entry every second, and then nothing.
    fn slow(news: Vec<WatchUpdate>) -> UpdateStream {
        let told = stream::iter(news).then(|news| async {
            tokio::time::sleep(SECOND).await;
            Ok(news)
        });
        told.chain(stream::pending()).boxed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_listing_may_take_long_while_it_makes_progress() {
        let news = (1..=20).map(entry).chain([WatchUpdate::Ready]).collect();
        let cache: Cache<Session> = fill(slow(news), "b", 3 * SECOND).await.unwrap();
        assert_eq!(cache.len(), 20);
    }

    #[tokio::test(start_paused = true)]
    async fn a_listing_of_fewer_records_than_were_pending_is_complete() {
        for pending in [0, 1_000, u64::MAX] {
            let news = (1..=20).map(entry).map(move |news| match news {
                WatchUpdate::Entry(entry, _) => WatchUpdate::Entry(entry, pending),
                other => other,
            });
            let news = stream::iter(news.chain([WatchUpdate::Ready]).map(Ok)).chain(stream::pending());
            let cache: Cache<Session> = fill(news.boxed(), "b", SECOND).await.unwrap();
            assert_eq!(cache.len(), 20);
            assert!((1..=20).all(|id| cache.get(&SessionKey::new(id)).is_some_and(|session| session.id == id)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_listing_without_progress_times_out() {
        let start = tokio::time::Instant::now();
        let news = (1..=5).map(entry).collect();
        let error = fill::<Session>(slow(news), "b", 3 * SECOND).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Timeout { after } if *after == 3 * SECOND), "{error}");
        assert_eq!(start.elapsed().as_secs(), 8, "5 s of progress, and 3 s without");
    }

    #[tokio::test(start_paused = true)]
    async fn a_listing_that_keeps_starting_over_times_out() {
        let news = (0..20).flat_map(|_| [entry(1), entry(2), WatchUpdate::Resync]).collect();
        let error = fill::<Session>(slow(news), "b", 3 * SECOND).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Timeout { .. }), "{error}");
    }
}
