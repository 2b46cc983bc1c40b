//! The traits of the backend interface over the shared state.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;
use futures::stream::BoxStream;

use super::shared::LocalShared;
use super::{scan, watch};
use crate::backend::state::bucket::BucketState;
use crate::backend::{
    Backend, Batch, BucketIdentity, BucketStatus, Capabilities, ClockReading, Deadline, RawBucket, RawCounters,
    RawEntry, Read, ReadAt, ScanItem, ScanRequest, WatchRequest, WatchSignal, Write,
};
use crate::config::BucketConfig;
use crate::error::Result;
use crate::key::Key;
use crate::revision::Revision;

/// A backend in this process. Clones share the buckets.
#[derive(Clone)]
pub(crate) struct LocalBackend {
    shared: Arc<LocalShared>,
    backing_store: &'static str,
}

struct LocalBucket {
    shared: Arc<LocalShared>,
    backing_store: &'static str,
    config: BucketConfig,
    created: SystemTime,
}

impl LocalBackend {
    /// Creates a backend without buckets. `name` is its name in messages, and `backing_store` the storage system in
    /// [`BucketStatus::backing_store`].
    pub(crate) fn new(name: &'static str, backing_store: &'static str) -> Self {
        Self { shared: Arc::new(LocalShared::new(name)), backing_store }
    }

    /// Returns the names of all buckets, in order.
    pub(crate) fn bucket_names(&self) -> Vec<String> {
        self.shared.lock().names()
    }

    /// Returns the shared state.
    #[cfg(test)]
    pub(crate) fn shared(&self) -> &LocalShared {
        &self.shared
    }

    fn handle(&self, state: &BucketState) -> Arc<dyn RawBucket> {
        let (created, config) = (self.shared.date(state.created), state.config.clone());
        Arc::new(LocalBucket { shared: Arc::clone(&self.shared), backing_store: self.backing_store, config, created })
    }
}

/// Shows the names of the buckets and none of their contents.
impl fmt::Debug for LocalBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LocalBackend").field(&self.bucket_names()).finish()
    }
}

impl fmt::Debug for LocalBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalBucket").field("name", &self.config.name).finish_non_exhaustive()
    }
}

impl LocalBucket {
    /// Calls `act` with the current state of this bucket.
    fn with_state<R>(&self, act: impl FnOnce(&mut BucketState, Duration) -> Result<R>) -> Result<R> {
        let mut state = self.shared.lock();
        let (bucket, now) = self.shared.bucket(&mut state, &self.config.name)?;
        act(bucket, now)
    }
}

/// Starts every operation. Fails if the deadline has passed, and yields from time to time, so that a task that only
/// calls such operations lets other tasks run, as it would on a network.
async fn begin(deadline: Deadline) -> Result<()> {
    tokio::task::coop::consume_budget().await;
    if deadline.is_expired() { Err(deadline.error()) } else { Ok(()) }
}

impl Backend for LocalBackend {
    fn capabilities(&self, deadline: Deadline) -> BoxFuture<'_, Result<Capabilities>> {
        Box::pin(async move {
            begin(deadline).await?;
            Ok(Capabilities {
                key_ttl: true,
                atomic: true,
                write_epochs: true,
                ..Capabilities::new(self.shared.lock().name())
            })
        })
    }

    fn create(&self, config: BucketConfig, deadline: Deadline) -> BoxFuture<'_, Result<Arc<dyn RawBucket>>> {
        Box::pin(async move {
            begin(deadline).await?;
            self.shared.lock().create(config, self.shared.now()).map(|bucket| self.handle(bucket))
        })
    }

    fn open<'a>(&'a self, name: &'a str, deadline: Deadline) -> BoxFuture<'a, Result<Option<Arc<dyn RawBucket>>>> {
        Box::pin(async move {
            begin(deadline).await?;
            Ok(self.shared.lock().bucket(name, self.shared.now()).map(|(bucket, ..)| self.handle(bucket)))
        })
    }

    fn update(&self, config: BucketConfig, deadline: Deadline) -> BoxFuture<'_, Result<Arc<dyn RawBucket>>> {
        Box::pin(async move {
            begin(deadline).await?;
            self.shared.lock().update(config, self.shared.now()).map(|(bucket, _)| self.handle(bucket))
        })
    }

    fn delete<'a>(&'a self, name: &'a str, deadline: Deadline) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            begin(deadline).await?;
            Ok(self.shared.lock().delete(name))
        })
    }

    fn counters(
        &self,
        config: BucketConfig,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<Option<Arc<dyn RawCounters>>>> {
        Box::pin(async move {
            begin(deadline).await?;
            config.validate()?;
            config.check_no_epochs()?;
            Ok(None)
        })
    }

    fn names(&self, deadline: Deadline) -> BoxFuture<'_, Result<Vec<String>>> {
        Box::pin(async move {
            begin(deadline).await?;
            Ok(self.shared.lock().names())
        })
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        // No operation is in flight, and the other handles keep the contents.
        Box::pin(async { Ok(()) })
    }
}

impl RawBucket for LocalBucket {
    fn config(&self) -> &BucketConfig {
        &self.config
    }

    fn identity(&self) -> BucketIdentity {
        // No connection can be lost here: the bucket can be another one only if a bucket was created since.
        BucketIdentity { created: self.created, connection_epoch: self.shared.lock().buckets_created() }
    }

    fn clock(&self) -> Option<ClockReading> {
        Some(self.shared.clock())
    }

    fn status(&self, deadline: Deadline) -> BoxFuture<'_, Result<BucketStatus>> {
        Box::pin(async move {
            begin(deadline).await?;
            self.with_state(|bucket, now| {
                let created = self.shared.date(bucket.created);
                Ok(BucketStatus {
                    now: self.shared.date(now),
                    values: bucket.entries.len() as u64,
                    bytes: bucket.bytes,
                    last_revision: bucket.last_revision,
                    ..BucketStatus::new(bucket.config.clone(), self.backing_store, created)
                })
            })
        })
    }

    fn write(&self, write: Write, deadline: Deadline) -> BoxFuture<'_, Result<Revision>> {
        Box::pin(async move {
            begin(deadline).await?;
            let changes = self.with_state(|bucket, now| bucket.write(write, now))?;
            Ok(changes.last_stored())
        })
    }

    fn commit(&self, batch: Batch, deadline: Deadline) -> BoxFuture<'_, Result<Vec<Revision>>> {
        Box::pin(async move {
            begin(deadline).await?;
            let writes = batch.writes.len();
            let mut changes = self.with_state(|bucket, now| bucket.commit(batch, now))?;
            // The markers that carry checks follow the writes.
            changes.stored.truncate(writes);
            Ok(changes.stored)
        })
    }

    fn purge_through<'a>(&'a self, key: &'a Key, through: Revision, deadline: Deadline) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            begin(deadline).await?;
            self.with_state(|bucket, _| Ok(bucket.erase(key, through).removed.len() as u64))
        })
    }

    fn read<'a>(&'a self, key: &'a Key, at: ReadAt, deadline: Deadline) -> BoxFuture<'a, Result<Option<RawEntry>>> {
        Box::pin(async move {
            begin(deadline).await?;
            self.with_state(|bucket, _| {
                let found = bucket.read(key, at);
                Ok(found.map(|(revision, stored)| self.shared.entry(revision, stored, true)))
            })
        })
    }

    fn read_many<'a>(
        &'a self,
        keys: &'a [Key],
        read: Read,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Vec<Option<RawEntry>>>> {
        Box::pin(async move {
            begin(deadline).await?;
            self.with_state(|bucket, _| {
                let found = keys.iter().map(|key| bucket.read(key, ReadAt::Newest(read)));
                let entry = |(revision, stored)| self.shared.entry(revision, stored, true);
                Ok(found.map(|found| found.map(entry)).collect())
            })
        })
    }

    fn scan(&self, scan: ScanRequest) -> BoxStream<'static, Result<ScanItem>> {
        scan::scan(Arc::clone(&self.shared), self.config.name.clone(), scan)
    }

    fn watch(&self, watch: WatchRequest) -> BoxStream<'static, Result<WatchSignal>> {
        watch::watch(Arc::clone(&self.shared), self.config.name.clone(), watch)
    }
}
