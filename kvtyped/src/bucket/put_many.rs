//! `put_many` and `delete_many`: many concurrent writes.

use std::borrow::Borrow;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;
use std::{fmt, vec};

use futures::FutureExt;
use futures::future::{BoxFuture, Either};
use futures::stream::FuturesUnordered;

use super::content::Content;
use super::decode;
use super::handle::Bucket;
use super::verb::verb;
use super::write::{WriteOver, check_ttl};
use crate::backend::{KeySpace, RawEntry, Read, WriteKind, next_output};
use crate::error::{Error, ErrorKind, Result};
use crate::key::{Key, ModelKey};
use crate::model::{KvModel, SingleRevision};
use crate::revision::Revision;

/// The default number of writes in flight.
const WINDOW: usize = 1_024;

/// The largest number of entries that one request reads before they are replaced.
const READ_AHEAD: usize = 1_000;

impl<T: KvModel> Bucket<T> {
    /// Writes many records over any existing ones. The writes are not atomic, but fast: many of them are in flight at
    /// once.
    ///
    /// Returns the revisions in the order of the records, or the first error. An error usually affects only one record,
    /// and the other records are still written. [`results`](PutMany::results) returns a result for each record. If several
    /// records have the same key, the last one remains. For an atomic write, use [`transaction`](Self::transaction).
    ///
    /// Prefer it to a `buffer_unordered` in your code: with more than 128 calls in one task, tokio's cooperative budget
    /// delays the calls that started first.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(key = "{id}")]
    /// # struct Session { id: u64 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// use kvtyped::bucket::WriteProgress;
    ///
    /// # let sessions: Bucket<Session> = Store::memory().bucket().await?;
    /// let rows: Vec<Session> = (0..10_000).map(|id| Session { id }).collect();
    /// let progress = |done: WriteProgress| eprint!("\r{} of {}", done.done, done.total);
    /// let revisions = sessions.put_many(&rows).on_progress(progress).await?;
    /// assert_eq!(revisions.len(), 10_000);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns the errors of [`put`](Self::put). An error that would affect every later write as well (for example
    /// `BucketNotFound`, `PermissionDenied` or `Unavailable`) stops the sending: the unsent writes return the same
    /// error.
    ///
    /// The records are encoded once. If the bucket is switched to another schema version during the call, the remaining
    /// writes return `SchemaMoved`. If the program can write that version, the error
    /// [is retryable](Error::is_retryable): put these records again.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it completes, any of the records may or may not be written.
    pub fn put_many<'a, R: Borrow<T> + 'a>(&'a self, records: impl IntoIterator<Item = R>) -> PutMany<'a, T> {
        let schema = self.schema();
        let write = |record: R| {
            let record: &T = record.borrow();
            let typed = record.key();
            let key = typed.encode()?;
            let content = decode::encode(record, typed, &schema, None).map_err(|error| error.with_key(key.as_str()))?;
            Ok((key, content))
        };
        PutMany { many: WriteMany::new(self, "put_many", records.into_iter().map(write).collect()) }
    }

    /// Removes the records of many keys in the same way as [`put_many`](Self::put_many) writes them. Leaves delete
    /// markers.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(key = "{tenant}.{id}")]
    /// # struct Session { tenant: String, id: u64 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let sessions: Bucket<Session> = Store::memory().bucket().await?;
    /// # for id in 0..3 { sessions.put(&Session { tenant: "acme".into(), id }).await?; }
    /// let acme = SessionKey::filter().tenant("acme");
    /// let keys: Vec<SessionKey> = sessions.keys(acme.clone()).await?.try_collect().await?;
    /// sessions.delete_many(&keys).await?;
    /// assert_eq!(sessions.count(acme).await?, 0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`put_many`](Self::put_many).
    ///
    /// # Cancel safety
    ///
    /// As for [`put_many`](Self::put_many).
    pub fn delete_many<K: Borrow<T::Key>>(&self, keys: impl IntoIterator<Item = K>) -> DeleteMany<'_, T> {
        let schema = self.schema();
        let write = |key: K| Ok((key.borrow().encode()?, Content::removal(WriteKind::Delete, schema.target::<T>()?)));
        DeleteMany { many: WriteMany::new(self, "delete_many", keys.into_iter().map(write).collect()) }
    }
}

/// The progress of many writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct WriteProgress {
    /// The number of completed writes, including failed ones.
    pub done: usize,
    /// The number of all writes.
    pub total: usize,
}

type ProgressFn<'a> = Box<dyn FnMut(WriteProgress) + Send + 'a>;

/// Concurrent writes with shared options.
struct WriteMany<'a, T: KvModel> {
    bucket: &'a Bucket<T>,
    operation: &'static str,
    writes: Vec<Result<(Key, Content)>>,
    ttl: Option<Duration>,
    timeout: Option<Duration>,
    window: usize,
    told: Option<ProgressFn<'a>>,
}

impl<'a, T: KvModel> WriteMany<'a, T> {
    fn new(bucket: &'a Bucket<T>, operation: &'static str, writes: Vec<Result<(Key, Content)>>) -> Self {
        Self { bucket, operation, writes, ttl: None, timeout: None, window: WINDOW, told: None }
    }

    async fn results(self) -> Result<Vec<Result<Revision>>> {
        let Self { bucket, operation, writes, ttl, timeout, window, mut told } = self;
        bucket.raw(operation)?;
        let located = |error: Error| error.with_context(operation, bucket.name(), None);
        let ttl = check_ttl(bucket.config(), ttl).map_err(located)?;
        let total = writes.len();
        let rounds = waves(&writes);
        let last = rounds.iter().copied().max().unwrap_or_default();
        let mut results: Vec<Option<Result<Revision>>> = Vec::with_capacity(total);
        let mut waiting: Vec<Vec<PendingWrite>> = Vec::new();
        waiting.resize_with(last + 1, || Vec::with_capacity(if last == 0 { total } else { 0 }));
        for ((index, write), round) in writes.into_iter().enumerate().zip(rounds) {
            results.push(match write {
                Ok((key, content)) => {
                    let ttl = content.ttl.or(ttl);
                    waiting[round].push(PendingWrite { index, key, content: content.with_ttl(ttl), base: None });
                    None
                }
                Err(error) => Some(Err(located(error))),
            });
        }
        let mut done = results.iter().flatten().count();
        let mut hopeless: Option<ErrorKind> = None;
        for round in waiting {
            let mut queue = WriteQueue::new(bucket, round, window);
            let mut running = FuturesUnordered::new();
            loop {
                if hopeless.is_none()
                    && let Some(read) = queue.read_ahead(timeout)
                {
                    running.push(Either::Left(read));
                }
                while hopeless.is_none() && running.len() < window + usize::from(queue.is_reading) {
                    let Some(PendingWrite { index, key, content, base }) = queue.pop() else { break };
                    let deadline = bucket.deadline(timeout);
                    running.push(Either::Right(async move {
                        let sent = match base {
                            Some(base) if const { !T::__INDEXES.is_empty() } => {
                                bucket
                                    .send_over(
                                        &key,
                                        base,
                                        content,
                                        WriteOver { is_one_of_many: true, ..WriteOver::default() },
                                        deadline,
                                    )
                                    .boxed()
                                    .await
                            }
                            _ => bucket.send_content(&key, content, None, None, deadline).await,
                        };
                        let located = |error: Error| error.with_context(operation, bucket.name(), Some(key.as_str()));
                        Step::Written(index, sent.map_err(located))
                    }));
                }
                let (index, result) = match next_output(&mut running).await {
                    Some(Step::Written(index, result)) => (index, result),
                    Some(Step::Read(writes)) => {
                        queue.add(writes);
                        continue;
                    }
                    None => break,
                };
                if let Err(error) = &result
                    && hopeless.is_none()
                    && is_fatal(error)
                {
                    hopeless = Some(error.kind().clone());
                }
                results[index] = Some(result);
                done += 1;
                if let Some(told) = &mut told {
                    told(WriteProgress { done, total });
                }
            }
            for PendingWrite { index, key, .. } in queue.unsent() {
                let error = Error::new(hopeless.clone().unwrap_or(ErrorKind::Closed));
                results[index] = Some(Err(error.with_context(operation, bucket.name(), Some(key.as_str()))));
            }
        }
        Ok(results.into_iter().map(|result| result.unwrap_or_else(|| Err(Error::new(ErrorKind::Closed)))).collect())
    }

    async fn all(self) -> Result<Vec<Revision>> {
        self.results().await?.into_iter().collect()
    }
}

/// A write that is not sent yet.
struct PendingWrite {
    index: usize,
    key: Key,
    content: Content,
    /// The entry that the write replaces, if it was read.
    base: Option<Option<RawEntry>>,
}

/// The end of a read or of a write.
enum Step {
    Read(Vec<PendingWrite>),
    Written(usize, Result<Revision>),
}

/// The writes of one round. A write of an indexed model needs the entry that it replaces, so such entries are read ahead,
/// many in one request.
struct WriteQueue<'a, T: KvModel> {
    bucket: &'a Bucket<T>,
    /// The number of entries that one request reads.
    portion: usize,
    /// The writes whose entries are not read yet.
    unread: vec::IntoIter<PendingWrite>,
    ready: VecDeque<PendingWrite>,
    is_reading: bool,
}

impl<'a, T: KvModel> WriteQueue<'a, T> {
    fn new(bucket: &'a Bucket<T>, writes: Vec<PendingWrite>, window: usize) -> Self {
        let portion = window.min(READ_AHEAD);
        Self { bucket, portion, unread: writes.into_iter(), ready: VecDeque::new(), is_reading: false }
    }

    /// Returns the next read, if its entries will soon be needed.
    fn read_ahead(&mut self, timeout: Option<Duration>) -> Option<BoxFuture<'a, Step>> {
        if const { T::__INDEXES.is_empty() } || self.is_reading || self.ready.len() > self.portion / 2 {
            return None;
        }
        let mut writes: Vec<PendingWrite> = self.unread.by_ref().take(self.portion).collect();
        let (bucket, deadline) = (self.bucket, self.bucket.deadline(timeout));
        self.is_reading = !writes.is_empty();
        self.is_reading.then(|| {
            let read = async move {
                let keys: Vec<Key> = writes.iter().map(|write| write.key.clone()).collect();
                let read = bucket.inner.raw.read_many(KeySpace::Records, &keys, Read::Any, deadline);
                // After an error, each write reads its entry, and has its own result.
                for (write, base) in writes.iter_mut().zip(read.await.unwrap_or_default()) {
                    write.base = Some(base);
                }
                Step::Read(writes)
            };
            read.boxed()
        })
    }

    /// Adds the writes whose entries were read.
    fn add(&mut self, writes: Vec<PendingWrite>) {
        self.is_reading = false;
        self.ready.extend(writes);
    }

    /// Returns the next write that can be sent.
    fn pop(&mut self) -> Option<PendingWrite> {
        let next = self.ready.pop_front();
        next.or_else(|| if T::__INDEXES.is_empty() { self.unread.next() } else { None })
    }

    /// Returns the writes that are not sent.
    fn unsent(self) -> impl Iterator<Item = PendingWrite> {
        self.ready.into_iter().chain(self.unread)
    }
}

/// Returns the round of each write. Writes of the same key must stay in order: the second write of a key is sent after
/// all first writes are done, and so on.
fn waves(writes: &[Result<(Key, Content)>]) -> Vec<usize> {
    let mut met: HashMap<&Key, usize> = HashMap::with_capacity(writes.len());
    let mut times = |key| {
        let times = met.entry(key).or_default();
        std::mem::replace(times, *times + 1)
    };
    writes.iter().map(|write| write.as_ref().map_or(0, |(key, _)| times(key))).collect()
}

/// Returns whether unsent writes would fail with the same error.
fn is_fatal(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::BucketNotFound
            | ErrorKind::Closed
            | ErrorKind::PermissionDenied { .. }
            | ErrorKind::Unauthorized
            | ErrorKind::LimitReached { .. }
            | ErrorKind::Unavailable { .. }
            | ErrorKind::Timeout { .. }
            | ErrorKind::Unsupported { .. }
    )
}

/// A write of many records; see [`Bucket::put_many`].
#[must_use = "nothing is written until it is awaited"]
pub struct PutMany<'a, T: KvModel> {
    many: WriteMany<'a, T>,
}

/// A removal of many records; see [`Bucket::delete_many`].
#[must_use = "nothing is removed until it is awaited"]
pub struct DeleteMany<'a, T: KvModel> {
    many: WriteMany<'a, T>,
}

/// Many writes with a separate result for each; see [`PutMany::results`].
#[must_use = "nothing is written until it is awaited"]
pub struct WriteManyResults<'a, T: KvModel> {
    many: WriteMany<'a, T>,
}

impl<'a, T: KvModel> PutMany<'a, T> {
    pub(super) fn new(bucket: &'a Bucket<T>, operation: &'static str, writes: Vec<Result<(Key, Content)>>) -> Self {
        Self { many: WriteMany::new(bucket, operation, writes) }
    }

    /// Sets the TTL of each record: at least one second, rounded up to whole seconds (ADR-43).
    pub fn ttl(mut self, ttl: Duration) -> Self
    where
        T: SingleRevision,
    {
        self.many.ttl = Some(ttl);
        self
    }
}

macro_rules! many {
    ($($verb:ident($operation:literal))*) => {$(
        impl<'a, T: KvModel> $verb<'a, T> {
            /// Sets the number of writes in flight. Default: 1,024. Zero counts as one.
            pub fn window(mut self, window: usize) -> Self {
                self.many.window = window.max(1);
                self
            }

            /// Sets how long each write may take, from the moment it is sent. The default is the bucket's timeout.
            pub fn timeout(mut self, timeout: Duration) -> Self {
                self.many.timeout = Some(timeout);
                self
            }

            /// Sets a callback that runs each time a sent write completes.
            pub fn on_progress(mut self, told: impl FnMut(WriteProgress) + Send + 'a) -> Self {
                self.many.told = Some(Box::new(told));
                self
            }

            /// Returns a separate result for each write, in order.
            pub fn results(self) -> WriteManyResults<'a, T> {
                WriteManyResults { many: self.many }
            }

            async fn run(self) -> Result<Vec<Revision>> {
                self.many.all().await
            }
        }

        verb!($verb($operation, many.bucket) => Vec<Revision>);
    )*};
}

many!(PutMany("put_many") DeleteMany("delete_many"));

impl<T: KvModel> WriteManyResults<'_, T> {
    async fn run(self) -> Result<Vec<Result<Revision>>> {
        self.many.results().await
    }
}

verb!(WriteManyResults("write_many", many.bucket) => Vec<Result<Revision>>);

macro_rules! debug {
    ($($verb:ident)*) => {$(
        impl<T: KvModel> fmt::Debug for $verb<'_, T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let WriteMany { bucket, writes, ttl, timeout, window, .. } = &self.many;
                f.debug_struct(stringify!($verb))
                    .field("bucket", bucket)
                    .field("writes", &writes.len())
                    .field("ttl", ttl)
                    .field("timeout", timeout)
                    .field("window", window)
                    .finish_non_exhaustive()
            }
        }
    )*};
}

debug!(PutMany DeleteMany WriteManyResults);
