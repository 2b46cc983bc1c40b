//! Buckets in the memory of this process.
//!
//! This backend is not a mock. It has the semantics of a NATS server, so the same program runs on both. Revisions,
//! preconditions, delete markers, history, expiry and limits match a server, including its count of bytes.
//!
//! The differences, because there is one process and one copy:
//! * Every read is fresh, regardless of [`Read`].
//! * `placement`, `compression`, `republish`, `metadata` and `description` are stored and returned, but have no effect.
//!   Neither has `replicas`, except that a full bucket with several replicas refuses more writes, as a server does.
//!   `mirror` and `sources` are refused.
//! * An entry expires exactly on time. A server is some hundred milliseconds late.
//! * An attached watch delivers every change in order, however late its reader polls. For this purpose a bucket keeps
//!   up to 8,192 entries or 16 MiB that were overwritten or removed before every watch read them. A watch that falls
//!   behind further delivers what is still stored, as a server does for a slow consumer.
//! * When the last handle is dropped, all contents are dropped. A watch is a handle.
//!
//! The clock is tokio's: a test that pauses the clock controls expiry.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::time::Instant;

use super::{scan, watch};
use crate::backend::state::bucket::{BucketState, StoredEntry};
use crate::backend::state::machine::{self, StateMachine};
use crate::backend::{
    Backend, Batch, BucketIdentity, BucketStatus, Capabilities, Deadline, RawBucket, RawCounters, RawEntry, Read,
    ReadAt, ScanItem, ScanRequest, WatchRequest, WatchSignal, Write,
};
use crate::config::BucketConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::revision::Revision;

/// A backend with buckets in memory. Clones share the buckets.
///
/// ```
/// use std::time::Duration;
/// use kvtyped::backend::memory::MemoryBackend;
/// use kvtyped::backend::{ReadAt, Backend, Deadline, Read, Write, WriteKind};
/// use kvtyped::{BucketConfig, Key};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), kvtyped::Error> {
/// let backend = MemoryBackend::new();
/// let deadline = Deadline::after(Duration::from_secs(5));
/// let bucket = backend.create(BucketConfig::new("sessions"), deadline).await?;
///
/// let key = Key::new("acme.7").unwrap();
/// let revision = bucket.write(Write::new(key.clone(), WriteKind::Put("hello".into())), deadline).await?;
/// let entry = bucket.read(&key, ReadAt::Newest(Read::Leader), deadline).await?.unwrap();
/// assert_eq!((entry.revision, &*entry.value), (revision, b"hello".as_slice()));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct MemoryBackend(pub(crate) Arc<LocalShared>);

pub(crate) struct LocalShared {
    state: Mutex<StateMachine>,
    pub(crate) epoch: Instant,
    epoch_as_date: SystemTime,
}

struct MemoryBucket {
    shared: Arc<LocalShared>,
    config: BucketConfig,
    created: SystemTime,
}

impl MemoryBackend {
    /// Creates a backend without buckets.
    pub fn new() -> Self {
        let state = Mutex::new(StateMachine::default());
        Self(Arc::new(LocalShared { state, epoch: Instant::now(), epoch_as_date: SystemTime::now() }))
    }

    fn handle(&self, state: &BucketState) -> Arc<dyn RawBucket> {
        let created = self.0.date(state.created);
        Arc::new(MemoryBucket { shared: Arc::clone(&self.0), config: state.config.clone(), created })
    }
}

/// Shows the names of the buckets and none of their contents.
impl fmt::Debug for MemoryBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MemoryBackend").field(&self.0.lock().names()).finish()
    }
}

impl fmt::Debug for MemoryBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBucket").field("name", &self.config.name).finish_non_exhaustive()
    }
}

impl Default for MemoryBackend {
    fn default() -> Self {
        Self::new()
    }
}

impl LocalShared {
    pub(crate) fn now(&self) -> Duration {
        Instant::now().saturating_duration_since(self.epoch)
    }

    /// Locks the state. The lock is never held across an await point. A panic cannot leave the state half changed, so a
    /// poisoned lock is usable.
    pub(crate) fn lock(&self) -> MutexGuard<'_, StateMachine> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn date(&self, at: Duration) -> SystemTime {
        self.epoch_as_date + at
    }

    pub(crate) fn entry(&self, revision: Revision, stored: &StoredEntry, with_value: bool) -> RawEntry {
        let StoredEntry { key, at, operation, value, ttl, id, record: _ } = stored;
        RawEntry {
            key: key.clone(),
            revision,
            created: self.date(*at),
            operation: operation.clone(),
            value: if with_value { value.clone() } else { Bytes::new() },
            ttl: *ttl,
            id: id.clone(),
        }
    }
}

impl MemoryBucket {
    /// Calls `act` with the current state of this bucket.
    fn with_state<R>(&self, act: impl FnOnce(&mut BucketState, Duration) -> Result<R>) -> Result<R> {
        let mut state = self.shared.lock();
        let (bucket, now) = bucket_mut(&mut state, &self.shared, &self.config.name)?;
        act(bucket, now)
    }
}

/// Finds the current bucket of a name. Reads the clock under the lock, so that timestamps have the order of the writes.
pub(crate) fn bucket_mut<'a>(
    state: &'a mut StateMachine,
    shared: &LocalShared,
    name: &str,
) -> Result<(&'a mut BucketState, Duration)> {
    state.bucket(name, shared.now()).ok_or_else(|| Error::new(ErrorKind::BucketNotFound))
}

/// Starts every operation. Fails if the deadline has passed, and yields from time to time, so that a task that only
/// calls such operations lets other tasks run, as it would on a network.
async fn begin(deadline: Deadline) -> Result<()> {
    tokio::task::coop::consume_budget().await;
    if deadline.is_expired() { Err(deadline.error()) } else { Ok(()) }
}

impl Backend for MemoryBackend {
    fn capabilities(&self, deadline: Deadline) -> BoxFuture<'_, Result<Capabilities>> {
        Box::pin(async move {
            begin(deadline).await?;
            Ok(Capabilities { key_ttl: true, atomic: true, ..Capabilities::new(machine::NAME) })
        })
    }

    fn create(&self, config: BucketConfig, deadline: Deadline) -> BoxFuture<'_, Result<Arc<dyn RawBucket>>> {
        Box::pin(async move {
            begin(deadline).await?;
            self.0.lock().create(config, self.0.now()).map(|bucket| self.handle(bucket))
        })
    }

    fn open<'a>(&'a self, name: &'a str, deadline: Deadline) -> BoxFuture<'a, Result<Option<Arc<dyn RawBucket>>>> {
        Box::pin(async move {
            begin(deadline).await?;
            Ok(self.0.lock().bucket(name, self.0.now()).map(|(bucket, _)| self.handle(bucket)))
        })
    }

    fn update(&self, config: BucketConfig, deadline: Deadline) -> BoxFuture<'_, Result<Arc<dyn RawBucket>>> {
        Box::pin(async move {
            begin(deadline).await?;
            self.0.lock().update(config, self.0.now()).map(|bucket| self.handle(bucket))
        })
    }

    fn delete<'a>(&'a self, name: &'a str, deadline: Deadline) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            begin(deadline).await?;
            Ok(self.0.lock().delete(name))
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
            Ok(None)
        })
    }

    fn names(&self, deadline: Deadline) -> BoxFuture<'_, Result<Vec<String>>> {
        Box::pin(async move {
            begin(deadline).await?;
            Ok(self.0.lock().names())
        })
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        // No operation is in flight, and the other handles keep the contents.
        Box::pin(async { Ok(()) })
    }
}

impl RawBucket for MemoryBucket {
    fn config(&self) -> &BucketConfig {
        &self.config
    }

    fn identity(&self) -> BucketIdentity {
        // No connection can be lost here: the bucket can be another one only if a bucket was created since.
        BucketIdentity { created: self.created, connection_epoch: self.shared.lock().buckets_created() }
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
                    ..BucketStatus::new(bucket.config.clone(), "memory", created)
                })
            })
        })
    }

    fn write(&self, write: Write, deadline: Deadline) -> BoxFuture<'_, Result<Revision>> {
        Box::pin(async move {
            begin(deadline).await?;
            self.with_state(|bucket, now| bucket.write(write, now))
        })
    }

    fn commit(&self, batch: Batch, deadline: Deadline) -> BoxFuture<'_, Result<Vec<Revision>>> {
        Box::pin(async move {
            begin(deadline).await?;
            self.with_state(|bucket, now| bucket.commit(batch, now))
        })
    }

    fn purge_through<'a>(&'a self, key: &'a Key, upto: Revision, deadline: Deadline) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            begin(deadline).await?;
            self.with_state(|bucket, _| Ok(bucket.erase(key, upto)))
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
