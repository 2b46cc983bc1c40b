//! The traits of the backend interface over the shared state.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;
use futures::stream::BoxStream;

use super::shared::LocalShared;
use super::{list_keys, scan, watch};
use crate::backend::state::bucket::BucketState;
use crate::backend::state::changes::Changes;
use crate::backend::state::entry::StoredEntry;
use crate::backend::state::log::Applied;
use crate::backend::state::machine::StateMachine;
use crate::backend::{
    Backend, Batch, BucketIdentity, BucketStatus, Capabilities, ClockReading, Deadline, KeySpace, ListKeysRequest,
    RawBucket, RawCounters, RawEntry, Read, ReadAt, ScanItem, ScanRequest, WatchRequest, WatchSignal, Write,
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

    /// Creates a backend over a shared state; see [`new`](Self::new).
    #[cfg(feature = "file")]
    pub(crate) fn over(shared: Arc<LocalShared>, backing_store: &'static str) -> Self {
        Self { shared, backing_store }
    }

    /// Wakes the writer of the log.
    #[cfg(feature = "file")]
    pub(crate) fn wake_writer(&self) {
        if let Some(log) = self.shared.lock().log() {
            log.wake();
        }
    }

    /// Closes the log; see [`Log::close`](crate::backend::state::log::Log::close).
    #[cfg(feature = "file")]
    pub(crate) fn close_log(&self) {
        if let Some(log) = self.shared.lock().log() {
            log.close();
        }
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
    /// Applies a verb to this bucket, and waits until its changes are durable; see [`LocalShared::change`].
    async fn change(
        &self,
        size: usize,
        visible: bool,
        deadline: Deadline,
        verb: impl FnOnce(&mut BucketState, Duration) -> Result<Changes>,
    ) -> Result<Applied> {
        begin(deadline).await?;
        self.shared.change(&self.config.name, size, visible, deadline, verb).await
    }

    fn entry(&self, found: Option<(Revision, &StoredEntry)>) -> Option<RawEntry> {
        found.map(|(revision, stored)| self.shared.entry(revision, stored, true))
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
            let state = self.shared.lock();
            state.check()?;
            Ok(Capabilities { key_ttl: true, atomic: true, write_epochs: true, ..Capabilities::new(state.name()) })
        })
    }

    fn create(&self, config: BucketConfig, deadline: Deadline) -> BoxFuture<'_, Result<Arc<dyn RawBucket>>> {
        Box::pin(async move {
            begin(deadline).await?;
            let create = |state: &mut StateMachine| Ok(self.handle(state.create(config, self.shared.now())?));
            self.shared.change_all(deadline, create).await
        })
    }

    fn open<'a>(&'a self, name: &'a str, deadline: Deadline) -> BoxFuture<'a, Result<Option<Arc<dyn RawBucket>>>> {
        Box::pin(async move {
            begin(deadline).await?;
            let open = |state: &mut StateMachine| {
                let (bucket, _) = state.bucket(name, self.shared.now())?;
                Some(self.handle(bucket))
            };
            self.shared.read_all(deadline, open).await
        })
    }

    fn update(&self, config: BucketConfig, deadline: Deadline) -> BoxFuture<'_, Result<Arc<dyn RawBucket>>> {
        Box::pin(async move {
            begin(deadline).await?;
            let update = |state: &mut StateMachine| Ok(self.handle(state.update(config, self.shared.now())?));
            self.shared.change_all(deadline, update).await
        })
    }

    fn delete<'a>(&'a self, name: &'a str, deadline: Deadline) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            begin(deadline).await?;
            self.shared.change_all(deadline, |state| state.delete(name, self.shared.now())).await
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
            config.check_no_index_entries()?;
            Ok(None)
        })
    }

    fn names(&self, deadline: Deadline) -> BoxFuture<'_, Result<Vec<String>>> {
        Box::pin(async move {
            begin(deadline).await?;
            self.shared.read_all(deadline, |state| state.names()).await
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
        BucketIdentity {
            created: self.created,
            connection_epoch: self.shared.lock().buckets_created() + self.shared.opens(),
        }
    }

    fn clock(&self) -> Option<ClockReading> {
        Some(self.shared.clock())
    }

    fn status(&self, deadline: Deadline) -> BoxFuture<'_, Result<BucketStatus>> {
        Box::pin(async move {
            begin(deadline).await?;
            let status = |state: &mut StateMachine| -> Result<_> {
                let (bucket, now) = self.shared.bucket(state, &self.config.name)?;
                let created = self.shared.date(bucket.created);
                Ok(BucketStatus {
                    now: self.shared.date(now),
                    values: bucket.entries.len() as u64,
                    bytes: bucket.bytes,
                    last_revision: bucket.last_revision,
                    ..BucketStatus::new(bucket.config.clone(), self.backing_store, created)
                })
            };
            let status = self.shared.read_all(deadline, status).await??;
            Ok(BucketStatus { raw: self.shared.raw_status(), ..status })
        })
    }

    fn write(&self, write: Write, deadline: Deadline) -> BoxFuture<'_, Result<Revision>> {
        Box::pin(async move {
            let size = write.value().len();
            let applied = self.change(size, true, deadline, |bucket, now| bucket.write(write, now)).await?;
            Ok(applied.stored.last().copied().unwrap_or_default())
        })
    }

    fn commit(&self, batch: Batch, deadline: Deadline) -> BoxFuture<'_, Result<Vec<Revision>>> {
        Box::pin(async move {
            let writes = batch.writes.len();
            let size = batch.writes.iter().map(|write| write.value().len()).sum();
            let applied = self.change(size, true, deadline, |bucket, now| bucket.commit(batch, now)).await?;
            let mut revisions = applied.stored;
            // The markers that carry checks follow the writes.
            revisions.truncate(writes);
            Ok(revisions)
        })
    }

    fn purge_through<'a>(
        &'a self,
        space: KeySpace,
        key: &'a Key,
        through: Revision,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let erased = self.change(0, false, deadline, |bucket, _| Ok(bucket.erase(space, key, through))).await?;
            Ok(erased.removed)
        })
    }

    fn read<'a>(
        &'a self,
        space: KeySpace,
        key: &'a Key,
        at: ReadAt,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Option<RawEntry>>> {
        Box::pin(async move {
            begin(deadline).await?;
            let read = |bucket: &BucketState, _| {
                let found = bucket.read(space, key, at);
                (self.entry(found), bucket.shown_by(at, found))
            };
            self.shared.read(&self.config.name, deadline, read).await
        })
    }

    fn read_many<'a>(
        &'a self,
        space: KeySpace,
        keys: &'a [Key],
        read: Read,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Vec<Option<RawEntry>>>> {
        Box::pin(async move {
            begin(deadline).await?;
            let read = |bucket: &BucketState, _| {
                let mut seq = 0;
                let found = keys.iter().map(|key| {
                    let found = bucket.read(space, key, ReadAt::Newest(read));
                    seq = seq.max(bucket.shown_by(ReadAt::Newest(read), found));
                    self.entry(found)
                });
                (found.collect(), seq)
            };
            self.shared.read(&self.config.name, deadline, read).await
        })
    }

    fn list_keys(&self, list: ListKeysRequest) -> BoxStream<'static, Result<Vec<Key>>> {
        list_keys::list_keys(Arc::clone(&self.shared), self.config.name.clone(), list)
    }

    fn scan(&self, scan: ScanRequest) -> BoxStream<'static, Result<ScanItem>> {
        scan::scan(Arc::clone(&self.shared), self.config.name.clone(), scan)
    }

    fn watch(&self, watch: WatchRequest) -> BoxStream<'static, Result<WatchSignal>> {
        watch::watch(Arc::clone(&self.shared), self.config.name.clone(), watch)
    }
}
