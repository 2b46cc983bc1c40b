//! A backend whose file is closed and opened before each read, so that every answer comes from the disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use kvtyped::backend::{
    Backend, Batch, BucketIdentity, BucketStatus, Capabilities, ClockReading, Deadline, KeySpace, ListKeysRequest,
    RawBucket, RawCounters, RawEntry, ReadAt, ScanItem, ScanRequest, WatchRequest, WatchSignal, Write,
};
use kvtyped::config::BucketConfig;
use kvtyped::{Error, ErrorKind, Key, Read, Result, Revision};
use tokio::sync::{OwnedRwLockReadGuard, RwLock};

use super::folder::Folder;

type Open = OwnedRwLockReadGuard<Arc<dyn Backend>>;

/// The backend. Clones share the file.
#[derive(Clone)]
pub(crate) struct Reopening {
    /// Read-locked during each call and as long as a stream exists.
    open: Arc<RwLock<Arc<dyn Backend>>>,
    folder: Arc<Folder>,
    reopens: Arc<AtomicU64>,
}

#[derive(Debug)]
struct ReopeningBucket {
    backend: Reopening,
    /// The bucket at the time of its opening, for calls without I/O.
    first: Arc<dyn RawBucket>,
}

impl Reopening {
    pub(crate) async fn new(folder: Folder) -> Self {
        let open = folder.open().await.expect("the file opens");
        Self { open: Arc::new(RwLock::new(open)), folder: Arc::new(folder), reopens: Arc::default() }
    }

    pub(crate) fn reopens(&self) -> u64 {
        self.reopens.load(Ordering::Relaxed)
    }

    /// Closes and opens the file, unless a stream or another call uses it.
    async fn reopen(&self) {
        let Ok(mut open) = Arc::clone(&self.open).try_write_owned() else { return };
        let (folder, reopens) = (Arc::clone(&self.folder), Arc::clone(&self.reopens));
        // Completes even if the caller is dropped.
        let reopened = tokio::spawn(async move {
            open.close().await.expect("the file closes");
            *open = folder.open().await.expect("the file opens");
            reopens.fetch_add(1, Ordering::Relaxed);
        });
        reopened.await.expect("the file is reopened");
    }

    async fn current(&self) -> Open {
        Arc::clone(&self.open).read_owned().await
    }

    async fn reopened(&self) -> Open {
        self.reopen().await;
        self.current().await
    }

    fn wrap(&self, first: Arc<dyn RawBucket>) -> Arc<dyn RawBucket> {
        Arc::new(ReopeningBucket { backend: self.clone(), first })
    }
}

impl std::fmt::Debug for Reopening {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Reopening").field(&self.folder.file()).finish()
    }
}

impl ReopeningBucket {
    /// Finds the bucket by its name, as each call on a file does.
    async fn of(&self, open: &Open, deadline: Deadline) -> Result<Arc<dyn RawBucket>> {
        let found = open.open(&self.first.config().name, deadline).await?;
        found.ok_or_else(|| Error::new(ErrorKind::BucketNotFound))
    }

    async fn current(&self, deadline: Deadline) -> Result<(Open, Arc<dyn RawBucket>)> {
        let open = self.backend.current().await;
        let bucket = self.of(&open, deadline).await?;
        Ok((open, bucket))
    }

    async fn reopened(&self, deadline: Deadline) -> Result<(Open, Arc<dyn RawBucket>)> {
        self.backend.reopen().await;
        self.current(deadline).await
    }

    /// A stream of the reopened bucket, which keeps the file open.
    fn stream<T: Send + 'static>(
        &self,
        deadline: Deadline,
        begin: impl FnOnce(Arc<dyn RawBucket>) -> BoxStream<'static, Result<T>> + Send + 'static,
    ) -> BoxStream<'static, Result<T>> {
        let this = Self { backend: self.backend.clone(), first: Arc::clone(&self.first) };
        let begun = async move {
            let (open, bucket) = this.reopened(deadline).await?;
            Ok::<_, Error>(begin(bucket).inspect(move |_| {
                let _ = &open;
            }))
        };
        stream::once(begun).try_flatten().boxed()
    }
}

impl Backend for Reopening {
    fn capabilities(&self, deadline: Deadline) -> BoxFuture<'_, Result<Capabilities>> {
        Box::pin(async move { self.reopened().await.capabilities(deadline).await })
    }

    fn create(&self, config: BucketConfig, deadline: Deadline) -> BoxFuture<'_, Result<Arc<dyn RawBucket>>> {
        Box::pin(async move { self.current().await.create(config, deadline).await.map(|bucket| self.wrap(bucket)) })
    }

    fn open<'a>(&'a self, name: &'a str, deadline: Deadline) -> BoxFuture<'a, Result<Option<Arc<dyn RawBucket>>>> {
        Box::pin(async move {
            let found = self.reopened().await.open(name, deadline).await?;
            Ok(found.map(|bucket| self.wrap(bucket)))
        })
    }

    fn update(&self, config: BucketConfig, deadline: Deadline) -> BoxFuture<'_, Result<Arc<dyn RawBucket>>> {
        Box::pin(async move { self.current().await.update(config, deadline).await.map(|bucket| self.wrap(bucket)) })
    }

    fn delete<'a>(&'a self, name: &'a str, deadline: Deadline) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move { self.current().await.delete(name, deadline).await })
    }

    fn counters(
        &self,
        config: BucketConfig,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<Option<Arc<dyn RawCounters>>>> {
        Box::pin(async move { self.current().await.counters(config, deadline).await })
    }

    fn names(&self, deadline: Deadline) -> BoxFuture<'_, Result<Vec<String>>> {
        Box::pin(async move { self.reopened().await.names(deadline).await })
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.current().await.close().await })
    }
}

impl RawBucket for ReopeningBucket {
    fn config(&self) -> &BucketConfig {
        self.first.config()
    }

    fn identity(&self) -> BucketIdentity {
        self.first.identity()
    }

    fn clock(&self) -> Option<ClockReading> {
        self.first.clock()
    }

    fn status(&self, deadline: Deadline) -> BoxFuture<'_, Result<BucketStatus>> {
        Box::pin(async move {
            let (_open, bucket) = self.reopened(deadline).await?;
            bucket.status(deadline).await
        })
    }

    fn write(&self, write: Write, deadline: Deadline) -> BoxFuture<'_, Result<Revision>> {
        Box::pin(async move {
            let (_open, bucket) = self.current(deadline).await?;
            bucket.write(write, deadline).await
        })
    }

    fn commit(&self, batch: Batch, deadline: Deadline) -> BoxFuture<'_, Result<Vec<Revision>>> {
        Box::pin(async move {
            let (_open, bucket) = self.current(deadline).await?;
            bucket.commit(batch, deadline).await
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
            let (_open, bucket) = self.current(deadline).await?;
            bucket.purge_through(space, key, through, deadline).await
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
            let (_open, bucket) = self.reopened(deadline).await?;
            bucket.read(space, key, at, deadline).await
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
            let (_open, bucket) = self.reopened(deadline).await?;
            bucket.read_many(space, keys, read, deadline).await
        })
    }

    fn list_keys(&self, list: ListKeysRequest) -> BoxStream<'static, Result<Vec<Key>>> {
        self.stream(Deadline::after(list.idle_timeout), move |bucket| bucket.list_keys(list))
    }

    fn scan(&self, scan: ScanRequest) -> BoxStream<'static, Result<ScanItem>> {
        self.stream(Deadline::after(scan.idle_timeout), move |bucket| bucket.scan(scan))
    }

    fn watch(&self, watch: WatchRequest) -> BoxStream<'static, Result<WatchSignal>> {
        self.stream(Deadline::after(watch.idle_timeout), move |bucket| bucket.watch(watch))
    }
}
