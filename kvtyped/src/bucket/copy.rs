//! `copy_bucket`: the current records of a bucket, copied to a bucket of any store.

use std::fmt;
use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, OptionFuture};
use futures::stream::StreamExt;

use super::copy_window::{Sent, Window};
use super::handle::{Bucket, ReadBucket};
use super::list::Cursor;
use super::open_raw::open_like;
use crate::backend::{Backend, Operation, RawBucket, ScanRequest};
use crate::context::StoreContext;
use crate::error::{Error, Result};
use crate::key::Pattern;
use crate::model::RawRecord;
use crate::revision::Revision;

/// The operation of errors.
const OPERATION: &str = "copy_bucket";

/// Copies the records of a bucket to a bucket of the same name in another store, on any backend.
///
/// The copy has the bytes, the [headers](crate::Entry::headers), the remaining TTL and the order of the records. Their
/// revisions differ. History, delete markers, and entries of indexes are not copied. The copied cards list no
/// indexes, so build the indexes of the copy again.
///
/// A target that does not exist is created with the settings and the model cards of the source. The settings for
/// mirrors, sources, republish, placement and write epochs are not copied, nor are limit markers and atomic batches
/// that the target's backend does not support. An existing target keeps its settings. A copied record replaces the
/// record under its key, and other records of the target stay.
///
/// A record that is written during the copy is copied in its newer state, or a resumed copy reads it. If the source
/// removes a copied record, this copy or a resumed copy removes it from the target, as long as the source keeps the
/// delete marker. A copy that is resumed until it copies nothing equals the source at that moment.
///
/// A remaining TTL is rounded down to seconds, so a copy does not live longer than its source. A record with less than
/// one second left is not copied. If the target keeps more than one revision of each key, or has no limit markers, the
/// TTL of the target starts again for each record. A record that would never expire there, or that has its own TTL, fails
/// the copy.
///
/// ```
/// # use kvtyped::prelude::*;
/// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
/// # #[kv(bucket = "sessions", key = "{id}")]
/// # struct Session { id: u64 }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), kvtyped::Error> {
/// use kvtyped::bucket::{Cursor, copy_bucket};
///
/// let (store, other) = (Store::memory(), Store::memory()); // for example a file and a server
/// # let sessions: Bucket<Session> = store.bucket().await?;
/// # sessions.put(&Session { id: 7 }).ttl(Duration::from_secs(60)).await?;
/// let from = store.raw("sessions").read_only().await?;
/// let mut cursor: Option<Cursor> = None;
/// let copied = copy_bucket(&from, &other).name("sessions-copy").on_progress(|done| cursor = Some(done.cursor)).await?;
/// assert_eq!(copied.records, 1);
///
/// // Continue later, or after an error, at the last cursor.
/// let cursor = cursor.expect("there was progress");
/// let more = copy_bucket(&from, &other).name("sessions-copy").resume(cursor).await?;
/// assert_eq!(more.records, 0);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// Returns `InvalidConfig` if the target is the source. Returns `BucketReplaced` if the cursor is from another bucket.
/// Otherwise returns the errors of a list, of a write, and of the creation of a bucket. After an error, resume at the
/// last cursor.
///
/// # Cancel safety
///
/// If the future is dropped, any of the records after the last cursor may or may not be written. Resume at the cursor.
pub fn copy_bucket<'a>(from: &'a ReadBucket<RawRecord>, to: impl Into<CopyTarget>) -> CopyBucket<'a> {
    let name = from.name().to_owned();
    CopyBucket { from, to: to.into(), name, resume: None, include_reserved: false, timeout: None, told: None }
}

/// The store that a bucket is copied to: `&Store` converts to it.
#[derive(Clone)]
pub struct CopyTarget {
    backend: Arc<dyn Backend>,
    timeout: Duration,
    context: Arc<StoreContext>,
}

/// The progress of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CopyProgress {
    /// The number of copied records.
    pub records: u64,
    /// The number of entries of the source that remain, as far as the server knows.
    pub remaining: u64,
    /// The position: everything up to here is copied.
    pub cursor: Cursor,
}

/// The result of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Copied {
    /// The number of copied records.
    pub records: u64,
    /// The number of records that were removed from the target, because the source removed them since the copy began.
    pub removed: u64,
    /// The number of records that were not copied, because they had less than a second left.
    pub expiring: u64,
    /// The number of entries that were not copied, because no client of this version can read them: an illegal key, or
    /// an unknown operation.
    pub unreadable: u64,
    /// The position at the end.
    pub cursor: Cursor,
}

type ProgressFn<'a> = Box<dyn FnMut(CopyProgress) + Send + 'a>;

/// A copy of a bucket; see [`copy_bucket`].
#[must_use = "nothing is copied until it is awaited"]
pub struct CopyBucket<'a> {
    from: &'a ReadBucket<RawRecord>,
    to: CopyTarget,
    name: String,
    resume: Option<Cursor>,
    include_reserved: bool,
    timeout: Option<Duration>,
    told: Option<ProgressFn<'a>>,
}

impl<'a> CopyBucket<'a> {
    /// Sets the name of the target. Default: the name of the source.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Continues an earlier copy at the cursor of its progress or its result.
    pub fn resume(mut self, cursor: Cursor) -> Self {
        self.resume = Some(cursor);
        self
    }

    /// Sets a callback that runs when a group of records is copied.
    pub fn on_progress(mut self, told: impl FnMut(CopyProgress) + Send + 'a) -> Self {
        self.told = Some(Box::new(told));
        self
    }

    /// Also copies the [reserved](crate::Key::RESERVED) records of recipes: leases, counters, ids, and results of
    /// `once`.
    ///
    /// No holder renews the copy of a lease, so it expires. Fencing tokens are revisions, so they start again in the
    /// target. Stop the programs that use the recipes first.
    pub fn include_reserved(mut self) -> Self {
        self.include_reserved = true;
        self
    }

    /// Sets the longest time of one request, and of a read of the source without progress. Default: the timeouts of the
    /// two stores.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    async fn run(self) -> Result<Copied> {
        let name = self.name.clone();
        self.copy().await.map_err(|error| error.with_context(OPERATION, &name, None))
    }

    async fn copy(self) -> Result<Copied> {
        let Self { from, to, name, resume, include_reserved, timeout, mut told } = self;
        let source = from.raw(OPERATION)?;
        let deadline = from.deadline(timeout);
        // The reading of the clock decides how long the records still live.
        from.status_for(OPERATION).await?;
        let after = match resume {
            Some(cursor) => from.resume(cursor, deadline).await?,
            None => Revision::ZERO,
        };
        let target = to.open(from, &name, timeout).await?;
        let reserved = include_reserved.then(Pattern::reserved);
        let patterns = std::iter::once(Pattern::all()).chain(reserved).collect();
        let scan = ScanRequest { after, ..from.scan_request(patterns, timeout) };
        let mut entries = from.scan(OPERATION, scan)?;
        let created = source.identity().created;
        let mut copied =
            Copied { records: 0, removed: 0, expiring: 0, unreadable: 0, cursor: Cursor::new(created, after) };
        let (mut window, mut sending, mut is_over) = (Window::default(), None, false);
        loop {
            if sending.is_none() && !window.entries.is_empty() {
                let window = std::mem::take(&mut window);
                sending = Some(Box::pin(window.send(from, &target)));
            }
            // The next window fills while the last one is sent.
            tokio::select! {
                biased;
                Some(sent) = OptionFuture::from(sending.as_mut()) => {
                    sending = None;
                    let Sent { records, removed, expiring, through, remaining } = sent?;
                    copied.records += records;
                    copied.removed += removed;
                    copied.expiring += expiring;
                    copied.cursor = Cursor::new(created, through);
                    if let Some(told) = &mut told {
                        told(CopyProgress { records: copied.records, remaining, cursor: copied.cursor });
                    }
                }
                scanned = entries.next(), if !is_over && !window.is_full() => match scanned {
                    Some(Ok(item)) if matches!(item.entry.operation, Operation::Unknown(_)) => copied.unreadable += 1,
                    Some(Ok(item)) => window.push(item),
                    // An illegal key replaces its entry.
                    Some(Err(error)) if error.key().is_some() => copied.unreadable += 1,
                    Some(Err(error)) => return Err(error),
                    None => is_over = true,
                },
                else => return Ok(copied),
            }
        }
    }
}

impl CopyTarget {
    pub(crate) fn new(backend: Arc<dyn Backend>, timeout: Duration, context: Arc<StoreContext>) -> Self {
        Self { backend, timeout, context }
    }

    /// Opens the target. Creates it with the settings of the source if it does not exist.
    async fn open(
        self,
        from: &ReadBucket<RawRecord>,
        name: &str,
        timeout: Option<Duration>,
    ) -> Result<Bucket<RawRecord>> {
        let timeout = timeout.unwrap_or(self.timeout);
        let target = open_like(self.backend, self.context, name, from.config(), timeout).await?;
        if is_same(from, &*target.inner.raw) {
            return Err(Error::invalid_config("the target is the source; choose another `name` or another store"));
        }
        Ok(target)
    }
}

/// Whether a bucket is the source. Two connections to one server have different backends.
fn is_same(from: &ReadBucket<RawRecord>, target: &dyn RawBucket) -> bool {
    from.name() == target.config().name && from.inner.raw.identity().created == target.identity().created
}

impl<'a> IntoFuture for CopyBucket<'a> {
    type Output = Result<Copied>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let from = self.from;
        from.observe(OPERATION, Box::pin(self.run()))
    }
}

impl fmt::Debug for CopyBucket<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to: _, name, resume, include_reserved, timeout, told: _ } = self;
        f.debug_struct("CopyBucket")
            .field("from", from)
            .field("name", name)
            .field("resume", resume)
            .field("include_reserved", include_reserved)
            .field("timeout", timeout)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for CopyTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CopyTarget").field("backend", &self.backend).finish_non_exhaustive()
    }
}
