//! The builder of a watch.

use std::future::IntoFuture;
use std::time::Duration;

use futures::future::BoxFuture;

use super::coalesce::coalesce;
use super::event::Events;
use super::start::start_watch;
use crate::backend::StartFrom;
use crate::bucket::ReadBucket;
use crate::error::{Error, Result};
use crate::model::{Filter, KvModel, RawRecord};
use crate::revision::Revision;

impl<T: KvModel> ReadBucket<T> {
    /// Watches the records that match a filter. The stream yields the current records, then [`Event::Ready`], then the
    /// changes.
    ///
    /// The stream continues over every temporary failure: a restarted server, a new leader, a lost connection. If
    /// changes may have been missed, it yields [`Event::Resync`] and then all current records again. You see the newest
    /// state of every record, but not necessarily every state in between.
    ///
    /// A record that expires is an [`Event::Removed`], also if the server writes no marker: in buckets with
    /// `max_bytes`, on servers before 2.11, and in buckets of other clients. The watch then evicts the record by its
    /// TTL and the server's clock, never early. The server itself may serve the record for a moment longer. For this
    /// purpose the watch keeps the keys of the records that can expire: about 200 bytes each, plus two copies of the
    /// key. With [`updates_only`](Watch::updates_only) it does not know older records, and reports no expiry of them.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # use kvtyped::Event;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(key = "{tenant}.{id}")]
    /// # struct Session { tenant: String, id: u64 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let sessions: Bucket<Session> = Store::memory().bucket().await?;
    /// sessions.put(&Session { tenant: "acme".into(), id: 1 }).await?;
    /// let mut events = sessions.watch(SessionKey::filter().tenant("acme")).await?;
    /// assert!(matches!(events.try_next().await?, Some(Event::Put(session)) if session.id == 1));
    /// assert!(matches!(events.try_next().await?, Some(Event::Ready)));
    ///
    /// sessions.delete(&SessionKey::new("acme", 1)).await?;
    /// let event = events.try_next().await?;
    /// assert!(matches!(event, Some(Event::Removed { reason: Removed::Deleted, .. })));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns `InvalidConfig` if the filter matches no key, for example an empty union or only keys that are too long,
    /// and if the options exclude each other.
    ///
    /// The stream yields an error that the reader must know. It yields `BucketNotFound` once if the bucket is deleted,
    /// and continues with a `Resync` if the bucket is created again. Errors that an administrator may undo are also
    /// reported once: `PermissionDenied`, `Unauthorized`, or `Unsupported` if JetStream was disabled. The stream then
    /// retries until it works again. Only `Closed` is the last item. A record that does not decode is an
    /// [`Event::Undecodable`].
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if a read of the stream is dropped. Dropping the stream ends the work on the server.
    ///
    /// [`Event::Ready`]: super::Event::Ready
    /// [`Event::Resync`]: super::Event::Resync
    /// [`Event::Removed`]: super::Event::Removed
    /// [`Event::Undecodable`]: super::Event::Undecodable
    pub fn watch(&self, filter: impl Into<Filter<T>>) -> Watch<'_, T> {
        Watch {
            bucket: self,
            filter: filter.into(),
            updates_only: false,
            history: false,
            from: None,
            headers_only: false,
            ignore_deletes: false,
            ignore_rewrites: false,
            coalesce: false,
            timeout: None,
        }
    }
}

/// A builder of a watch; see [`ReadBucket::watch`].
#[must_use = "nothing is watched until it is awaited"]
#[derive(Debug)]
pub struct Watch<'a, T: KvModel> {
    bucket: &'a ReadBucket<T>,
    filter: Filter<T>,
    updates_only: bool,
    history: bool,
    from: Option<Revision>,
    headers_only: bool,
    ignore_deletes: bool,
    ignore_rewrites: bool,
    coalesce: bool,
    timeout: Option<Duration>,
}

impl Watch<'_, RawRecord> {
    /// Also watches the [reserved](crate::Key::RESERVED) records, such as the records of locks. The filter applies to
    /// their keys.
    pub fn include_reserved(mut self) -> Self {
        self.filter = self.filter.with_reserved();
        self
    }
}

impl<T: KvModel> Watch<'_, T> {
    /// Yields only changes from now on. `Ready` is the first event.
    pub fn updates_only(mut self) -> Self {
        self.updates_only = true;
        self
    }

    /// Yields every kept revision, rather than only the newest of each record.
    pub fn history(mut self) -> Self {
        self.history = true;
        self
    }

    /// Yields every kept revision from this one on, inclusive. Removals whose delete markers are gone are not reported.
    pub fn from_revision(mut self, revision: Revision) -> Self {
        self.from = Some(revision);
        self
    }

    /// Omits the values: a live record is an [`Event::HeadersOnly`](super::Event::HeadersOnly).
    pub fn headers_only(mut self) -> Self {
        self.headers_only = true;
        self
    }

    /// Omits all removals.
    pub fn ignore_deletes(mut self) -> Self {
        self.ignore_deletes = true;
        self
    }

    /// Omits the [rewrites](crate::Entry::is_rewrite) of a migration, which do not change a record for its readers.
    ///
    /// A rewrite is still an event if it replaced a write that this watch has not yielded. The watch therefore misses
    /// no change, and yields every existing record. The watch remembers a hash and a revision, about 30 bytes, for each
    /// key that it has yielded. With [`updates_only`](Self::updates_only), the first rewrite of each older record is an
    /// event.
    pub fn ignore_rewrites(mut self) -> Self {
        self.ignore_rewrites = true;
        self
    }

    /// Keeps only the newest pending event of each key, for a reader that may be slow. A separate task receives the
    /// events. It ends with the stream.
    pub fn coalesce(mut self) -> Self {
        self.coalesce = true;
        self
    }

    /// Bounds the time that the start may take. The default is the bucket's timeout.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    fn start_from(&self) -> Result<StartFrom> {
        let illegal = |what: &str| Err(Error::invalid_config(what));
        match (self.updates_only, self.history, self.from) {
            (true, true, _) => illegal(
                "`updates_only` and `history` exclude each other: the first omits old revisions, the second wants all",
            ),
            (true, _, Some(_)) => illegal("`updates_only` and `from_revision` exclude each other: each sets the start"),
            (_, true, Some(_)) => illegal("`history` and `from_revision` exclude each other: each sets the start"),
            (true, ..) => Ok(StartFrom::Now),
            (_, true, _) if self.coalesce => {
                illegal("`history` and `coalesce` exclude each other: the first wants every revision")
            }
            (_, true, _) => Ok(StartFrom::History),
            (.., Some(revision)) => Ok(StartFrom::After(Revision::new(revision.get().saturating_sub(1)))),
            _ => Ok(StartFrom::Newest),
        }
    }

    /// Starts the watch as a part of the operation.
    pub(super) async fn run_as(self, operation: &'static str) -> Result<Events<T>> {
        let located = |error: Error| error.with_context(operation, self.bucket.name(), None);
        let since = self.start_from().map_err(located)?;
        let updates = start_watch(self.bucket, &self.filter, since, self.headers_only, self.timeout, operation)
            .await
            .map_err(located)?;
        let updates = if self.coalesce { coalesce(updates) } else { updates };
        Ok(Events::new(updates, self.bucket, self.headers_only, self.ignore_deletes, self.ignore_rewrites))
    }
}

impl<'a, T: KvModel> IntoFuture for Watch<'a, T> {
    type Output = Result<Events<T>>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let bucket = self.bucket;
        bucket.observe("watch", Box::pin(self.run_as("watch")))
    }
}
