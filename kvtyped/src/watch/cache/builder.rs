//! The builder of a cache.

use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use tokio::time::timeout_at;

use super::handle::Cache;
use super::state::CacheState;
use super::updater::run_updater;
use crate::backend::StartFrom;
use crate::bucket::ReadBucket;
use crate::bucket::clock::BucketClock;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Filter, KvModel, RawRecord};
use crate::observe::StoreEvent;
use crate::watch::health::OpenCaches;
use crate::watch::start::start_watch;
use crate::watch::update::{UpdateStream, WatchUpdate};

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

impl OpenCache<'_, RawRecord> {
    /// Also caches the [reserved](crate::Key::RESERVED) records, such as the records of locks. The filter applies to
    /// their keys.
    pub fn include_reserved(mut self) -> Self {
        self.filter = self.filter.with_reserved();
        self
    }
}

impl<T: KvModel> OpenCache<'_, T> {
    /// Bounds the time without progress of the listing. The default is the bucket's timeout. Each new entry is
    /// progress, as in a list. A repeated entry is not.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    async fn run(self) -> Result<Cache<T>> {
        let Self { bucket, filter, timeout } = self;
        let idle = timeout.unwrap_or_else(|| bucket.timeout());
        let updates = start_watch(bucket, &filter, StartFrom::Newest, false, Some(idle), "cache").await?;
        let cache = fill(report_stale(updates, bucket), bucket.name(), Arc::clone(bucket.clock()), idle).await?;
        let caches = bucket.shared::<OpenCaches>();
        cache.register(&caches);
        if bucket.context().instruments().has_observer() {
            caches.report(bucket.context(), bucket.name());
        }
        Ok(cache)
    }
}

/// Reports each loss of the watch to the observer of the store, if there is one.
fn report_stale<T: KvModel>(updates: UpdateStream, bucket: &ReadBucket<T>) -> UpdateStream {
    let (context, bucket) = (Arc::clone(bucket.context()), bucket.name().to_owned());
    if !context.instruments().has_observer() {
        return updates;
    }
    let report = move |update: &Result<WatchUpdate>| {
        if matches!(update, Ok(WatchUpdate::Interrupted(_))) {
            context.instruments().event(&StoreEvent::CacheStale { bucket: &bucket });
        }
    };
    updates.inspect(report).boxed()
}

/// Fills a cache until it is ready, unless nothing new arrives for as long as `idle`.
async fn fill<T: KvModel>(
    updates: UpdateStream,
    bucket: &str,
    clock: Arc<BucketClock>,
    idle: Duration,
) -> Result<Cache<T>> {
    let shared = Arc::new(CacheState::new(bucket));
    let mut progress = shared.progress.subscribe();
    let updater = tokio::spawn(run_updater(updates, Arc::clone(&shared), clock));
    let cache = Cache::new(Arc::clone(&shared), updater);
    // If the updater ends or its watch fails, the cache has the error.
    let over = loop {
        let advanced = shared.advanced();
        let ready = progress.wait_for(|progress| progress.ready || progress.closed || progress.failed);
        // An instant beyond the range of the clock is no bound.
        let ready = match advanced.checked_add(idle) {
            Some(until) => timeout_at(until, ready).await,
            None => Ok(ready.await),
        };
        match ready {
            Ok(ready) => break ready.map_or(true, |progress| progress.closed || !progress.ready),
            Err(_) if shared.advanced() > advanced => {}
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
        let bucket = self.bucket;
        let open = async move { self.run().await.map_err(|error| error.with_context("cache", bucket.name(), None)) };
        bucket.observe("cache", Box::pin(open))
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
    use crate::backend::{Operation, RawEntry, RecordHeaders};
    use crate::key::Key;
    use crate::revision::Revision;

    const SECOND: Duration = Duration::from_secs(1);

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, kvtyped::KvModel)]
    #[kv(key = "{id}")]
    struct Session {
        id: u64,
    }

    fn clock() -> Arc<BucketClock> {
        Arc::new(BucketClock::local())
    }

    fn entry(revision: u64) -> WatchUpdate {
        let entry = RawEntry {
            key: Key::new(revision.to_string()).unwrap(),
            revision: Revision::new(revision),
            created: SystemTime::UNIX_EPOCH,
            operation: Operation::Put,
            value: Bytes::from(format!("{{\"id\":{revision}}}")),
            ttl: None,
            headers: RecordHeaders::default(),
            id: None,
        };
        WatchUpdate::Entry(entry, 0)
    }

    /// A watch that delivers an entry every second, and then nothing.
    fn slow(updates: Vec<WatchUpdate>) -> UpdateStream {
        let delivered = stream::iter(updates).then(|update| async {
            tokio::time::sleep(SECOND).await;
            Ok(update)
        });
        delivered.chain(stream::pending()).boxed()
    }

    #[tokio::test(start_paused = true)]
    async fn slow_listing_with_progress_completes() {
        let updates = (1..=20).map(entry).chain([WatchUpdate::Ready]).collect();
        let cache: Cache<Session> = fill(slow(updates), "b", clock(), 3 * SECOND).await.unwrap();
        assert_eq!(cache.len(), 20);
    }

    #[tokio::test(start_paused = true)]
    async fn listing_completes_despite_wrong_pending_count() {
        for pending in [0, 1_000, u64::MAX] {
            let updates = (1..=20).map(entry).map(move |update| match update {
                WatchUpdate::Entry(entry, _) => WatchUpdate::Entry(entry, pending),
                other => other,
            });
            let updates = stream::iter(updates.chain([WatchUpdate::Ready]).map(Ok)).chain(stream::pending());
            let cache: Cache<Session> = fill(updates.boxed(), "b", clock(), SECOND).await.unwrap();
            assert_eq!(cache.len(), 20);
            assert!((1..=20).all(|id| cache.get(&SessionKey::new(id)).is_some_and(|session| session.id == id)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn listing_without_progress_times_out() {
        let start = tokio::time::Instant::now();
        let updates = (1..=5).map(entry).collect();
        let error = fill::<Session>(slow(updates), "b", clock(), 3 * SECOND).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Timeout { after } if *after == 3 * SECOND), "{error}");
        assert_eq!(start.elapsed().as_secs(), 8, "5 s of progress, and 3 s without");
    }

    #[tokio::test(start_paused = true)]
    async fn listing_with_endless_resyncs_times_out() {
        let updates = (0..20).flat_map(|_| [entry(1), entry(2), WatchUpdate::Resync]).collect();
        let error = fill::<Session>(slow(updates), "b", clock(), 3 * SECOND).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Timeout { .. }), "{error}");
    }
}
