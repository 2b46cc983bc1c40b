//! The backend interface of one bucket. Each method delegates to `read/` or `write/`.

use std::fmt;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use super::context::StreamContext;
use super::read::get::get;
use super::read::get_many::get_many;
use super::read::list_keys::{count_keys, list_keys};
use super::read::scan::scan;
use super::read::status::status;
use super::read::watch::watch;
use super::write::commit::commit;
use super::write::publish::publish;
use super::write::purge::purge;
use crate::backend::{
    Batch, BucketIdentity, BucketStatus, ClockReading, Deadline, KeySpace, ListKeysRequest, OnDrop, RawBucket,
    RawEntry, Read, ReadAt, ScanItem, ScanRequest, WatchRequest, WatchSignal, Write, detached,
};
use crate::config::BucketConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::key::{Key, Pattern};
use crate::observe::part_of_operation;
use crate::revision::Revision;

/// A handle to one bucket.
pub(super) struct NatsBucket {
    context: Arc<StreamContext>,
}

impl NatsBucket {
    pub(super) fn new(context: StreamContext) -> Self {
        Self { context: Arc::new(context) }
    }
}

impl RawBucket for NatsBucket {
    fn config(&self) -> &BucketConfig {
        &self.context.config
    }

    fn identity(&self) -> BucketIdentity {
        BucketIdentity { created: self.context.created, connection_epoch: self.context.api.connection().epoch() }
    }

    fn clock(&self) -> Option<ClockReading> {
        self.context.clock
    }

    fn status(&self, deadline: Deadline) -> BoxFuture<'_, Result<BucketStatus>> {
        status(&self.context, deadline).boxed()
    }

    fn uncounted_status(&self, deadline: Deadline) -> BoxFuture<'_, Result<BucketStatus>> {
        self.context.stream_status(deadline).boxed()
    }

    fn write(&self, write: Write, deadline: Deadline) -> BoxFuture<'_, Result<Revision>> {
        publish(&self.context, write, deadline).boxed()
    }

    fn commit(&self, batch: Batch, deadline: Deadline) -> BoxFuture<'_, Result<Vec<Revision>>> {
        let context = Arc::clone(&self.context);
        // A batch holds one of the connection's permits for batches, so it continues although its caller is not polled.
        let work = async move { commit(&context, batch, deadline).await };
        let closed = || Err(Error::new(ErrorKind::Closed).unknown_outcome());
        async move { detached(part_of_operation(work), OnDrop::Continue).await.unwrap_or_else(closed) }.boxed()
    }

    fn purge_through<'a>(
        &'a self,
        space: KeySpace,
        key: &'a Key,
        upto: Revision,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<u64>> {
        purge(&self.context, space, key, Some(upto), deadline).boxed()
    }

    fn read<'a>(
        &'a self,
        space: KeySpace,
        key: &'a Key,
        at: ReadAt,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Option<RawEntry>>> {
        get(&self.context, space, key, at, deadline).boxed()
    }

    fn read_many<'a>(
        &'a self,
        space: KeySpace,
        keys: &'a [Key],
        read: Read,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Vec<Option<RawEntry>>>> {
        get_many(&self.context, space, keys, read, deadline).boxed()
    }

    fn list_keys(&self, list: ListKeysRequest) -> BoxStream<'static, Result<Vec<Key>>> {
        list_keys(Arc::clone(&self.context), list)
    }

    fn count_keys<'a>(
        &'a self,
        space: KeySpace,
        pattern: &'a Pattern,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<u64>> {
        count_keys(&self.context, space, pattern, deadline).boxed()
    }

    fn scan(&self, request: ScanRequest) -> BoxStream<'static, Result<ScanItem>> {
        scan(Arc::clone(&self.context), request)
    }

    fn watch(&self, request: WatchRequest) -> BoxStream<'static, Result<WatchSignal>> {
        watch(Arc::clone(&self.context), request)
    }
}

impl fmt::Debug for NatsBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsBucket").field("stream", &self.context.stream).field("api", &self.context.api).finish()
    }
}
