//! `list` and `keys`.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::ready;
use futures::stream::Stream;

use super::cursor::{Cursor, ListProgress};
use super::list_stream::{ListRequest, ListStream};
use crate::bucket::clock::BucketClock;
use crate::bucket::decode;
use crate::bucket::entry::Entry;
use crate::bucket::handle::ReadBucket;
use crate::bucket::verb::verb;
use crate::error::Result;
use crate::key::Key;
use crate::model::{Filter, KvModel, RawRecord};

/// The options of a list, and the position of its stream.
macro_rules! lists {
    ($($list:ident => $stream:ident)*) => {$(
        impl<T: KvModel> $list<'_, T> {
            /// Starts after the cursor of an earlier list of the same bucket.
            ///
            /// A record that was written since then comes after the cursor, even if the earlier list had it. So a
            /// record may repeat, but none is missed. In a bucket that keeps one revision of each key, the list starts
            /// at the cursor. In another bucket, the list skips all earlier entries.
            ///
            /// # Errors
            ///
            /// Returns `BucketReplaced` if the bucket was recreated or restored since then. Start without a cursor.
            pub fn after(mut self, cursor: Cursor) -> Self {
                self.request.after = Some(cursor);
                self
            }

            /// Limits the number of items. Further records are not read.
            pub fn limit(mut self, limit: usize) -> Self {
                self.request.limit = Some(limit);
                self
            }

            /// Sets the longest time without progress. The default is the timeout of the store.
            pub fn timeout(mut self, timeout: Duration) -> Self {
                self.request.timeout = Some(timeout);
                self
            }
        }

        impl $list<'_, RawRecord> {
            /// Also reads the [reserved](crate::Key::RESERVED) records, such as the records of locks. The filter
            /// applies to their keys.
            pub fn include_reserved(mut self) -> Self {
                self.request.filter = self.request.filter.with_reserved();
                self
            }
        }

        impl<T: KvModel> $stream<T> {
            /// Returns the position after the last item that the stream yielded. An error counts as an item.
            pub fn cursor(&self) -> Cursor {
                self.entries.cursor()
            }

            /// Returns the progress of the list.
            pub fn progress(&self) -> ListProgress {
                self.entries.progress()
            }
        }

        impl<T: KvModel> fmt::Debug for $stream<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let ListProgress { seen, remaining } = self.progress();
                let mut text = f.debug_struct(stringify!($stream));
                text.field("seen", &seen).field("remaining", &remaining).finish_non_exhaustive()
            }
        }
    )*};
}

impl<T: KvModel> ReadBucket<T> {
    /// Reads the matching records as a stream, in the order of their writes.
    ///
    /// A record that cannot be decoded is an `Err` item with its key and revision. The stream then continues.
    ///
    /// A record that is written while the list is read moves to its end. Such a record may repeat, but it is not
    /// missed, unless it is rewritten faster than the list is read. A record that is removed before the list reaches it
    /// is not in the list.
    ///
    /// The server sends at most a few thousand records or 32 MiB ahead of the reader. So a list of any length uses
    /// bounded memory, however slowly it is read. [`List::limit`] and [`List::after`] split a list into pages.
    /// [`Entries::progress`] returns its progress.
    ///
    /// In a replicated bucket, any server that stores the bucket may reply, as for a plain read. A list may miss
    /// recently acknowledged writes, and more of them if that server has just restarted.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(key = "{tenant}.{id}")]
    /// # struct Session { tenant: String, id: u64 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let sessions: Bucket<Session> = Store::memory().bucket().await?;
    /// for (tenant, id) in [("acme", 1), ("beta", 2), ("acme", 3)] {
    ///     sessions.put(&Session { tenant: tenant.into(), id }).await?;
    /// }
    /// let mut ids = Vec::new();
    /// let mut found = sessions.list(SessionKey::filter().tenant("acme")).await?;
    /// while let Some(session) = found.try_next().await? {
    ///     ids.push(session.id);
    /// }
    /// assert_eq!(ids, [1, 3]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Errors are items of the stream. An error without a key (`Timeout`, `BucketNotFound`, ..) is the last item.
    ///
    /// # Cancel safety
    ///
    /// Dropping the stream ends the work on the server.
    pub fn list(&self, filter: impl Into<Filter<T>>) -> List<'_, T> {
        List { request: ListRequest::new(self, filter.into()) }
    }

    /// Reads the keys of the records that a filter matches, as a stream, without their values.
    ///
    /// A stream yields each key once, also if the record is written, or removed and created, while the stream is read.
    /// For this purpose it keeps a hash of 16 bytes for each key, some 40 bytes with the table; [`Keys::limit`] bounds
    /// it. Across pages a key may repeat: a record that is written between two pages moves behind the cursor.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(key = "{tenant}.{id}")]
    /// # struct Session { tenant: String, id: u64 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let sessions: Bucket<Session> = Store::memory().bucket().await?;
    /// # sessions.put(&Session { tenant: "acme".into(), id: 1 }).await?;
    /// let keys: Vec<SessionKey> = sessions.keys(..).await?.try_collect().await?;
    /// assert_eq!(keys, [SessionKey::new("acme", 1)]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns the errors of [`list`](Self::list). A key that does not belong to the model is an `Err` item.
    ///
    /// # Cancel safety
    ///
    /// Dropping the stream ends the work on the server.
    pub fn keys(&self, filter: impl Into<Filter<T>>) -> Keys<'_, T> {
        Keys { request: ListRequest::new(self, filter.into()) }
    }
}

/// A list of records; see [`ReadBucket::list`].
#[must_use = "nothing is read until it is awaited"]
#[derive(Debug)]
pub struct List<'a, T: KvModel> {
    request: ListRequest<'a, T>,
}

impl<T: KvModel> List<'_, T> {
    async fn run(self) -> Result<Entries<T>> {
        let clock = Arc::clone(self.request.bucket.clock());
        Ok(Entries { entries: self.request.entries("list", false).await?, clock, model: PhantomData })
    }
}

verb!(List("list", request.bucket) => Entries<T>);

/// A stream of records; see [`ReadBucket::list`].
#[must_use = "a stream does nothing until it is polled"]
pub struct Entries<T: KvModel> {
    entries: ListStream,
    clock: Arc<BucketClock>,
    model: PhantomData<fn() -> T>,
}

impl<T: KvModel> Stream for Entries<T> {
    type Item = Result<Entry<T>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { entries, clock, .. } = &mut *self;
        let entry = ready!(entries.poll(context, |raw| decode::entry(raw, clock)));
        let pending = self.entries.progress().remaining;
        Poll::Ready(entry.map(|entry| entry.map(|entry: Entry<T>| entry.with_pending(pending.unwrap_or_default()))))
    }
}

/// A list of keys; see [`ReadBucket::keys`].
#[must_use = "nothing is read until it is awaited"]
#[derive(Debug)]
pub struct Keys<'a, T: KvModel> {
    request: ListRequest<'a, T>,
}

impl<T: KvModel> Keys<'_, T> {
    async fn run(self) -> Result<KeyStream<T>> {
        let entries = self.request.entries("keys", true).await?;
        Ok(KeyStream { entries, yielded: YieldedKeys::default(), model: PhantomData })
    }
}

verb!(Keys("keys", request.bucket) => KeyStream<T>);

/// A stream of keys; see [`ReadBucket::keys`].
#[must_use = "a stream does nothing until it is polled"]
pub struct KeyStream<T: KvModel> {
    entries: ListStream,
    yielded: YieldedKeys,
    model: PhantomData<fn() -> T>,
}

impl<T: KvModel> Stream for KeyStream<T> {
    type Item = Result<T::Key>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { entries, yielded, .. } = &mut *self;
        entries.poll(context, |entry| match decode::removal(entry)? {
            None if yielded.is_new(&entry.key) => {
                decode::key::<T>(&entry.key).map(Some).map_err(|error| error.at_revision(entry.revision))
            }
            _ => Ok(None),
        })
    }
}

/// The keys that a stream yielded, as hashes.
///
/// Each keyed hash has 128 bits, so the probability that two of a billion keys collide is below 10⁻²⁰.
#[derive(Debug, Default)]
struct YieldedKeys {
    hashers: [RandomState; 2],
    hashes: HashSet<u128>,
}

impl YieldedKeys {
    /// Remembers a key. Returns whether the stream did not yield it before.
    fn is_new(&mut self, key: &Key) -> bool {
        let [low, high] = self.hashers.each_ref().map(|hasher| u128::from(hasher.hash_one(key)));
        self.hashes.insert(high << 64 | low)
    }
}

lists!(List => Entries Keys => KeyStream);
