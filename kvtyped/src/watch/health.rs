//! The health of a bucket and its caches.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

use crate::bucket::ReadBucket;
use crate::bucket::index::synced::FollowerState;
use crate::context::StoreContext;
use crate::error::{ErrorKind, Result};
use crate::model::KvModel;
use crate::observe::StoreEvent;

/// The health of a bucket; see [`ReadBucket::health`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BucketHealth {
    /// Whether the bucket has a leader. A bucket without a leader accepts no write.
    pub has_leader: bool,
    /// The number of replicas that are offline or behind the leader.
    pub replicas_behind: u32,
    /// The size of the bucket in bytes. `None` if no leader reports it.
    pub bytes: Option<u64>,
    /// The largest size of the bucket, if it has a limit. A full bucket refuses writes.
    pub max_bytes: Option<u64>,
    /// The [staleness](crate::Cache::staleness) of the oldest open cache of this handle and its clones. `None` if no
    /// cache is open.
    pub oldest_cache: Option<Duration>,
    /// The time since the index follower of this handle or a clone last caught up with the bucket. It also grows while the
    /// follower waits after a failure. `None` if this handle runs no follower, or another process leads. See
    /// [`maintain_indexes`](crate::Bucket::maintain_indexes).
    pub index_follower: Option<Duration>,
}

impl BucketHealth {
    /// Whether the bucket has a leader, so that it can be written and read.
    pub fn is_healthy(&self) -> bool {
        self.has_leader
    }
}

/// How often the state of the open caches is reported.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

/// A cache, as the health of its bucket needs it.
pub(super) trait CacheInfo: Send + Sync {
    /// Returns when the cache was last known to be up to date.
    fn last_seen(&self) -> Instant;

    /// Returns the number of cached records.
    fn entries(&self) -> usize;
}

/// The open caches of a bucket.
#[derive(Default)]
pub(super) struct OpenCaches(Mutex<CacheList>);

#[derive(Default)]
struct CacheList {
    caches: Vec<Weak<dyn CacheInfo>>,
    /// Whether a task reports the caches.
    is_reported: bool,
}

impl OpenCaches {
    fn list(&self) -> MutexGuard<'_, CacheList> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, cache: Weak<dyn CacheInfo>) {
        let caches = &mut self.list().caches;
        caches.retain(|cache| cache.strong_count() > 0);
        caches.push(cache);
    }

    fn open(&self) -> Vec<Arc<dyn CacheInfo>> {
        self.list().caches.iter().filter_map(Weak::upgrade).collect()
    }

    fn oldest(&self) -> Option<Duration> {
        oldest(&self.open())
    }

    /// Reports the caches to the observer of the store now, and from now on until the last one is closed.
    pub(super) fn report(self: Arc<Self>, context: &Arc<StoreContext>, bucket: &str) {
        self.report_once(context, bucket);
        if std::mem::replace(&mut self.list().is_reported, true) {
            return;
        }
        let (caches, context, bucket) = (Arc::downgrade(&self), Arc::clone(context), bucket.to_owned());
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(REPORT_INTERVAL).await;
                let Some(caches) = caches.upgrade() else { return };
                caches.report_once(&context, &bucket);
                let mut list = caches.list();
                if list.caches.iter().all(|cache| cache.strong_count() == 0) {
                    list.is_reported = false;
                    return;
                }
            }
        });
    }

    fn report_once(&self, context: &StoreContext, bucket: &str) {
        let open = self.open();
        let (entries, staleness) = (open.iter().map(|cache| cache.entries()).sum(), oldest(&open).unwrap_or_default());
        context.instruments().event(&StoreEvent::CacheState { bucket, entries, staleness });
    }
}

fn oldest(caches: &[Arc<dyn CacheInfo>]) -> Option<Duration> {
    caches.iter().map(|cache| cache.last_seen().elapsed()).max()
}

impl<T: KvModel> ReadBucket<T> {
    /// Returns the health of the bucket: its leader, its replicas, its size, and the age of its caches.
    ///
    /// Requests the information of the stream, which every role of [`permissions`](crate::permissions) may request.
    /// Use the health to decide whether the process is *ready* for requests, and not for *liveness*.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(bucket = "config", key = "app")]
    /// # struct AppConfig { limit: u32 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// let configs: Bucket<AppConfig> = Store::memory().bucket().await?;
    /// let health = configs.health().await?;
    /// assert!(health.is_healthy() && health.replicas_behind == 0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns `BucketNotFound` if the bucket does not exist, and `Unavailable` if there is no connection. A bucket whose
    /// leader does not answer within the bucket's timeout is a result, not an error.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn health(&self) -> Result<BucketHealth> {
        self.observe("health", Box::pin(self.run_health())).await
    }

    async fn run_health(&self) -> Result<BucketHealth> {
        let oldest_cache = self.shared::<OpenCaches>().oldest();
        let index_follower = self.shared::<FollowerState>().age();
        match self.status_for("health").await {
            Ok(status) => Ok(BucketHealth {
                has_leader: status.has_leader,
                replicas_behind: status.replicas_behind,
                bytes: Some(status.bytes),
                max_bytes: status.config.max_bytes,
                oldest_cache,
                index_follower,
            }),
            Err(error) if is_silent(error.kind()) && self.is_connected() => Ok(BucketHealth {
                has_leader: false,
                replicas_behind: 0,
                bytes: None,
                max_bytes: self.config().max_bytes,
                oldest_cache,
                index_follower,
            }),
            Err(error) => Err(error),
        }
    }
}

/// Whether the leader did not answer.
fn is_silent(kind: &ErrorKind) -> bool {
    matches!(kind, ErrorKind::Timeout { .. } | ErrorKind::Unavailable { .. })
}
