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

use super::begin;
use super::index::Index;
use super::keeper::{Shared, keep};
use crate::backend::{Deadline, Since};
use crate::bucket::{Entry, ReadBucket};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Filter, KvModel};
use crate::revision::Revision;

impl<T: KvModel> ReadBucket<T> {
    /// Keeps a local copy of the records that a filter matches: ready when it is awaited, and up to date from then on.
    ///
    /// Reading it takes no network, no `await` and no lock. It may be behind: by a moment while all is well, for as long
    /// as it lasts while the connection is lost ([`Cache::staleness`] tells). It drives itself, in a task that ends with the
    /// last handle.
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
    /// Those of a watch that does not begin; `Timeout` if it is not ready in the store's time.
    pub fn cache(&self, filter: impl Into<Filter<T>>) -> OpenCache<'_, T> {
        OpenCache { bucket: self, filter: filter.into(), timeout: None }
    }
}

/// A cache that is filled; see [`ReadBucket::cache`].
#[must_use = "nothing is cached until it is awaited"]
#[derive(Debug)]
pub struct OpenCache<'a, T: KvModel> {
    bucket: &'a ReadBucket<T>,
    filter: Filter<T>,
    timeout: Option<Duration>,
}

impl<T: KvModel> OpenCache<'_, T> {
    /// How long the filling may take; the store's time by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    async fn run(self) -> Result<Cache<T>> {
        let Self { bucket, filter, timeout } = self;
        let deadline = Deadline::after(timeout.unwrap_or_else(|| bucket.timeout()));
        let news = begin(bucket, &filter, Since::Newest, false, Some(deadline.remaining())).await?;
        let shared = Arc::new(Shared::new(bucket.name()));
        let mut progress = shared.progress.subscribe();
        let keeper = tokio::spawn(keep(news, Arc::clone(&shared)));
        let cache = Cache { inner: Arc::new(Inner { shared, keeper }) };
        // The keeper ends only with an error that the cache then has.
        let ready = deadline.bound(progress.wait_for(|progress| progress.ready || progress.over)).await?;
        let over = ready.map_or(true, |progress| progress.over);
        let why = || cache.last_error().map_or_else(|| Error::new(ErrorKind::Closed), |error| Error::also(&error));
        if over { Err(why()) } else { Ok(cache) }
    }
}

impl<'a, T: KvModel> IntoFuture for OpenCache<'a, T> {
    type Output = Result<Cache<T>>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let name = self.bucket.name().to_owned();
        Box::pin(async move { self.run().await.map_err(|error| error.within("cache", &name, None)) })
    }
}

/// A local copy of some records; see [`ReadBucket::cache`]. Cheap to clone; every clone is the same cache.
pub struct Cache<T: KvModel> {
    inner: Arc<Inner<T>>,
}

struct Inner<T: KvModel> {
    shared: Arc<Shared<T>>,
    keeper: JoinHandle<()>,
}

impl<T: KvModel> Drop for Inner<T> {
    fn drop(&mut self) {
        self.keeper.abort();
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
}

impl<T: KvModel> Clone for CacheChange<T> {
    fn clone(&self) -> Self {
        Self { key: self.key.clone(), old: self.old.clone(), new: self.new.clone() }
    }
}

impl<T: KvModel> Cache<T> {
    /// The record of a key, if it is cached.
    pub fn get(&self, key: &T::Key) -> Option<Arc<Entry<T>>> {
        self.inner.shared.records.load().pin().get(key).cloned()
    }

    /// Whether the record of a key is cached.
    pub fn contains(&self, key: &T::Key) -> bool {
        self.inner.shared.records.load().pin().contains_key(key)
    }

    /// How many records are cached.
    pub fn len(&self) -> usize {
        self.inner.shared.records.load().len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All records that are cached now, in no order.
    pub fn snapshot(&self) -> Vec<Arc<Entry<T>>> {
        self.inner.shared.records.load().pin().values().cloned().collect()
    }

    /// The records that are cached now, one after the other, in no order.
    pub fn iter(&self) -> impl Iterator<Item = Arc<Entry<T>>> + use<T> {
        self.snapshot().into_iter()
    }

    /// Every change from now on, with the record before and after. The stream ends with the cache; why that ended, if its
    /// handles are still there, is its [`last_error`](Self::last_error).
    pub fn changes(&self) -> CacheChanges<T> {
        let Shared { changes, progress, .. } = &*self.inner.shared;
        let listeners = (changes.subscribe(), progress.subscribe());
        let changes = futures::stream::unfold(listeners, |(mut changes, mut progress)| async move {
            let change = tokio::select! {
                biased;
                change = changes.recv() => change,
                () = progress.wait_for(|progress| progress.over).map(drop) => return None,
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

    /// An index of the records by something other than their key; it is kept as the cache is. Should the function panic at
    /// a record that comes later, the cache ends, with that as its last error.
    pub fn index_by<K, F>(&self, by: F) -> Index<K, T>
    where
        K: Eq + std::hash::Hash + Clone + Send + Sync + 'static,
        F: Fn(&T) -> K + Send + Sync + 'static,
    {
        let shared = &self.inner.shared;
        let mut indexes = shared.indexes.lock().unwrap_or_else(PoisonError::into_inner);
        indexes.add(by, &shared.records.load())
    }

    /// Everything up to this revision is in the cache.
    pub fn revision(&self) -> Revision {
        self.inner.shared.progress.borrow().revision
    }

    /// Waits until everything up to a revision is in the cache: a writer then reads its own write here.
    ///
    /// # Errors
    ///
    /// Why the cache ended, if it did.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves nothing behind.
    pub async fn wait_for_revision(&self, revision: Revision) -> Result<()> {
        let mut progress = self.inner.shared.progress.subscribe();
        match progress.wait_for(|progress| progress.revision >= revision || progress.over).await {
            Ok(progress) if progress.revision >= revision => Ok(()),
            _ => Err(self.error().within("wait_for_revision", &self.inner.shared.bucket, None)),
        }
    }

    /// How long ago the cache was last up to date as far as it knew: about a second at most while all is well. It grows
    /// while the connection is lost and until the cache has caught up; [`last_error`](Self::last_error) says why.
    pub fn staleness(&self) -> Duration {
        self.inner.shared.progress.borrow().heard.elapsed()
    }

    /// The last thing that went wrong: a record that does not decode, a bucket that was deleted, a denied permission, a lost
    /// connection. An interruption of the watch is forgotten once the cache has caught up; everything else stays.
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
/// An `Err` tells a reader that was too slow how many changes it missed; the stream goes on.
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
