//! A backend decorator that records the stored writes of a fleet, and delays each request by a random time.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::future::BoxFuture;
use kvtyped::Result;
use kvtyped::backend::{
    Backend, Batch, BucketStatus, Deadline, KeySpace, RawBucket, RawEntry, ReadAt, Write, WriteKind,
};
use kvtyped::config::BucketConfig;
use kvtyped::{Key, Revision};

use crate::simulation::seed::Chance;
use crate::support::forward::forward;

/// One stored write.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) revision: Revision,
    pub(super) key: String,
    /// Whether a program of the new version wrote it.
    pub(super) by_new: bool,
    /// The write epoch of the write.
    pub(super) epoch: Option<u64>,
    /// `None` for a delete marker.
    pub(super) record: Option<Record>,
}

/// The stored form of a record.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Record {
    /// The schema version. A record without the header has version 1.
    pub(super) version: u32,
    pub(super) is_rewrite: bool,
    pub(super) value: Vec<u8>,
}

/// The state that all programs of a fleet share.
#[derive(Debug)]
pub(super) struct Shared {
    chance: Mutex<Chance>,
    stored: Mutex<Vec<Stored>>,
    /// The longest delay of a request, and of its reply.
    delay: Duration,
}

impl Shared {
    pub(super) fn new(seed: u64, delay: Duration) -> Arc<Self> {
        Arc::new(Self { chance: Mutex::new(Chance::new(seed)), stored: Mutex::default(), delay })
    }

    pub(super) fn chance(&self) -> MutexGuard<'_, Chance> {
        self.chance.lock().expect("no holder panics")
    }

    /// Returns the stored writes in the order of revisions.
    pub(super) fn stored(&self) -> Vec<Stored> {
        let mut stored = self.stored.lock().expect("no holder panics").clone();
        stored.sort_by_key(|stored| stored.revision);
        stored
    }

    /// Waits for a random part of the longest delay.
    pub(super) async fn pause(&self) {
        let most = self.delay.as_micros() as u64;
        let pause = Duration::from_micros(self.chance().between(most / 16, most));
        tokio::time::sleep(pause).await;
    }
}

/// The backend of one program.
#[derive(Debug)]
pub(super) struct Recorder {
    pub(super) inner: Arc<dyn Backend>,
    pub(super) shared: Arc<Shared>,
    pub(super) is_new: bool,
}

#[derive(Debug)]
struct RecordedBucket {
    inner: Arc<dyn RawBucket>,
    shared: Arc<Shared>,
    is_new: bool,
}

impl Recorder {
    fn wrap(&self, inner: Arc<dyn RawBucket>) -> Arc<dyn RawBucket> {
        Arc::new(RecordedBucket { inner, shared: Arc::clone(&self.shared), is_new: self.is_new })
    }
}

impl RecordedBucket {
    fn record(&self, write: &Write, revision: Revision) {
        let record = match &write.kind {
            WriteKind::Put(value) => Some(Record {
                version: write.headers.version.unwrap_or(1),
                is_rewrite: write.headers.cause().is_some(),
                value: value.to_vec(),
            }),
            WriteKind::Delete | WriteKind::Purge => None,
        };
        let (key, epoch) = (write.key.as_str().to_owned(), write.epoch);
        let stored = Stored { revision, key, by_new: self.is_new, epoch, record };
        self.shared.stored.lock().expect("no holder panics").push(stored);
    }
}

impl Backend for Recorder {
    forward! { inner: capabilities delete counters names close }

    fn create(&self, config: BucketConfig, deadline: Deadline) -> BoxFuture<'_, Result<Arc<dyn RawBucket>>> {
        Box::pin(async move { Ok(self.wrap(self.inner.create(config, deadline).await?)) })
    }

    fn open<'a>(&'a self, name: &'a str, deadline: Deadline) -> BoxFuture<'a, Result<Option<Arc<dyn RawBucket>>>> {
        Box::pin(async move { Ok(self.inner.open(name, deadline).await?.map(|bucket| self.wrap(bucket))) })
    }

    fn update(&self, config: BucketConfig, deadline: Deadline) -> BoxFuture<'_, Result<Arc<dyn RawBucket>>> {
        Box::pin(async move {
            self.shared.pause().await;
            let updated = self.inner.update(config, deadline).await?;
            self.shared.pause().await;
            Ok(self.wrap(updated))
        })
    }
}

impl RawBucket for RecordedBucket {
    forward! { inner: config identity purge_through read_many list_keys count_keys scan watch }

    fn status(&self, deadline: Deadline) -> BoxFuture<'_, Result<BucketStatus>> {
        Box::pin(async move {
            self.shared.pause().await;
            self.inner.status(deadline).await
        })
    }

    fn write(&self, write: Write, deadline: Deadline) -> BoxFuture<'_, Result<Revision>> {
        Box::pin(async move {
            self.shared.pause().await;
            let written = self.inner.write(write.clone(), deadline).await;
            if let Ok(revision) = written {
                self.record(&write, revision);
            }
            self.shared.pause().await;
            written
        })
    }

    fn commit(&self, batch: Batch, deadline: Deadline) -> BoxFuture<'_, Result<Vec<Revision>>> {
        Box::pin(async move {
            self.shared.pause().await;
            let committed = self.inner.commit(batch.clone(), deadline).await;
            let revisions = committed.iter().flatten();
            batch.writes.iter().zip(revisions).for_each(|(write, revision)| self.record(write, *revision));
            self.shared.pause().await;
            committed
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
            let read = self.inner.read(space, key, at, deadline).await;
            self.shared.pause().await;
            read
        })
    }
}
