//! The health of a bucket and its caches.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

use crate::bucket::ReadBucket;
use crate::error::{ErrorKind, Result};
use crate::model::KvModel;

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
}

impl BucketHealth {
    /// Whether the bucket has a leader, so that it can be written and read.
    pub fn is_healthy(&self) -> bool {
        self.has_leader
    }
}

/// A cache, as the health of its bucket needs it.
pub(super) trait CacheAge: Send + Sync {
    /// Returns when the cache was last known to be up to date.
    fn last_seen(&self) -> Instant;
}

/// The open caches of a bucket.
#[derive(Default)]
pub(super) struct OpenCaches(Mutex<Vec<Weak<dyn CacheAge>>>);

impl OpenCaches {
    pub(super) fn add(&self, cache: Weak<dyn CacheAge>) {
        let mut caches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        caches.retain(|cache| cache.strong_count() > 0);
        caches.push(cache);
    }

    fn oldest(&self) -> Option<Duration> {
        let caches: Vec<Arc<dyn CacheAge>> = {
            let caches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            caches.iter().filter_map(Weak::upgrade).collect()
        };
        caches.iter().map(|cache| cache.last_seen().elapsed()).max()
    }
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
        let oldest_cache = self.shared::<OpenCaches>().oldest();
        match self.status().await {
            Ok(status) => Ok(BucketHealth {
                has_leader: status.has_leader,
                replicas_behind: status.replicas_behind,
                bytes: Some(status.bytes),
                max_bytes: status.config.max_bytes,
                oldest_cache,
            }),
            Err(error) if is_silent(error.kind()) && self.is_connected() => Ok(BucketHealth {
                has_leader: false,
                replicas_behind: 0,
                bytes: None,
                max_bytes: self.config().max_bytes,
                oldest_cache,
            }),
            Err(error) => Err(error),
        }
    }
}

/// Whether the leader did not answer.
fn is_silent(kind: &ErrorKind) -> bool {
    matches!(kind, ErrorKind::Timeout { .. } | ErrorKind::Unavailable { .. })
}
