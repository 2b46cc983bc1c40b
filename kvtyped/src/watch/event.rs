//! Typed events.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use futures::ready;
use futures::stream::{Stream, StreamExt};

use super::update::{UpdateStream, WatchUpdate};
use crate::backend::RawEntry;
use crate::bucket::clock::BucketClock;
use crate::bucket::{Entry, ReadBucket, Removed, Version, decode};
use crate::error::{Error, Result};
use crate::model::KvModel;
use crate::revision::Revision;

/// An event of a watch.
#[non_exhaustive]
pub enum Event<T: KvModel> {
    /// A record: an existing one before [`Event::Ready`], a written one after it.
    Put(Entry<T>),
    /// A record, in a watch without values.
    HeadersOnly {
        /// The key.
        key: T::Key,
        /// The revision.
        revision: Revision,
        /// The time of the write.
        created: SystemTime,
    },
    /// A record was removed.
    Removed {
        /// The key.
        key: T::Key,
        /// The revision of the removal. If the server wrote no marker, the revision of the expired record.
        revision: Revision,
        /// The cause of the removal.
        reason: Removed,
    },
    /// The watch has reported all existing records. The first event if no record exists.
    Ready,
    /// The stored bytes are not a record of the model. The stream continues.
    Undecodable {
        /// The stored key.
        key: String,
        /// The revision. [`Revision::ZERO`] if it is not available.
        revision: Revision,
        /// The decoding error.
        error: Error,
    },
    /// Events may be missing. Discard all earlier events: all existing records follow, and then `Ready`.
    Resync,
    /// The reader is at least this many changes behind. They are not lost. `coalesce` reduces their number.
    Lagging {
        /// The number of pending changes.
        pending: u64,
    },
}

impl<T: KvModel + fmt::Debug> fmt::Debug for Event<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put(entry) => f.debug_tuple("Put").field(entry).finish(),
            Self::HeadersOnly { key, revision, .. } => write!(f, "HeadersOnly({key} at {revision})"),
            Self::Removed { key, revision, reason } => write!(f, "Removed({key} at {revision}, {reason:?})"),
            Self::Ready => f.write_str("Ready"),
            Self::Undecodable { key, error, .. } => write!(f, "Undecodable({key}, {error})"),
            Self::Resync => f.write_str("Resync"),
            Self::Lagging { pending } => write!(f, "Lagging({pending})"),
        }
    }
}

/// A stream of events; see [`ReadBucket::watch`](crate::ReadBucket::watch).
#[must_use = "a stream does nothing until it is polled"]
pub struct Events<T: KvModel> {
    updates: UpdateStream,
    bucket: String,
    clock: Arc<BucketClock>,
    headers_only: bool,
    ignore_deletes: bool,
    /// `None` if rewrites are events.
    rewrites: Option<YieldedWrites>,
    model: PhantomData<fn() -> T>,
}

impl<T: KvModel> Events<T> {
    pub(super) fn new(
        updates: UpdateStream,
        bucket: &ReadBucket<T>,
        headers_only: bool,
        ignore_deletes: bool,
        ignore_rewrites: bool,
    ) -> Self {
        let (bucket, clock) = (bucket.name().to_owned(), Arc::clone(bucket.clock()));
        let rewrites = ignore_rewrites.then(YieldedWrites::default);
        Self { updates, bucket, clock, headers_only, ignore_deletes, rewrites, model: PhantomData }
    }

    pub(super) fn bucket(&self) -> &str {
        &self.bucket
    }

    /// Waits for the next item. `None`: the watch ended. `Some(None)`: an item without an event, such as a heartbeat, an
    /// interruption or an ignored removal.
    pub(super) async fn next_or_idle(&mut self) -> Option<Option<Result<Event<T>>>> {
        let update = self.updates.next().await?;
        Some(self.event(update))
    }

    /// Returns the event for an item of the watch. `None` if the item is internal or filtered out.
    fn event(&mut self, update: Result<WatchUpdate>) -> Option<Result<Event<T>>> {
        let event = match update {
            Ok(WatchUpdate::Entry(raw, pending)) => {
                if self.rewrites.as_mut().is_some_and(|yielded| yielded.covers(&raw)) {
                    return None;
                }
                let clock = &self.clock;
                let event: Event<T> =
                    if self.headers_only { headers_only_event(&raw, clock) } else { decode_event(&raw, clock) };
                let event = match event {
                    Event::Put(entry) => Event::Put(entry.with_pending(pending)),
                    event => event,
                };
                if self.ignore_deletes && matches!(event, Event::Removed { .. }) {
                    return None;
                }
                event
            }
            Ok(WatchUpdate::Ready) => Event::Ready,
            Ok(WatchUpdate::Resync) => {
                self.rewrites.as_mut().map(YieldedWrites::clear);
                Event::Resync
            }
            Ok(WatchUpdate::Lagging(pending)) => Event::Lagging { pending },
            Ok(WatchUpdate::Alive(_) | WatchUpdate::Interrupted(_)) => return None,
            Err(error) => match error.key().map(str::to_owned) {
                Some(key) => Event::Undecodable { key, revision: error.revision().unwrap_or_default(), error },
                None => return Some(Err(error.with_context("watch", &self.bucket, None))),
            },
        };
        Some(Ok(event))
    }
}

/// The newest revision of each key that a watch has yielded, by a hash of the key.
#[derive(Default)]
struct YieldedWrites {
    hasher: RandomState,
    newest: HashMap<u64, Revision>,
}

impl YieldedWrites {
    /// Whether an entry rewrites a write that the watch has yielded. Otherwise the entry is yielded.
    fn covers(&mut self, raw: &RawEntry) -> bool {
        let newest = self.newest.entry(self.hasher.hash_one(&raw.key)).or_default();
        let is_covered = raw.headers.rewrite_of().is_some_and(|source| source <= *newest);
        *newest = raw.revision.max(*newest);
        is_covered
    }

    fn clear(&mut self) {
        self.newest.clear();
    }
}

/// Returns the event for an entry.
pub(super) fn decode_event<T: KvModel>(raw: &RawEntry, clock: &Arc<BucketClock>) -> Event<T> {
    match decode::version(raw, clock) {
        Ok(Version::Put(entry)) => Event::Put(entry),
        Ok(Version::Removed { key, revision, reason, .. }) => Event::Removed { key, revision, reason },
        Ok(Version::Undecodable { error, .. }) | Err(error) => undecodable(raw, error),
    }
}

fn headers_only_event<T: KvModel>(raw: &RawEntry, clock: &Arc<BucketClock>) -> Event<T> {
    match decode::key::<T>(&raw.key) {
        Ok(key) if raw.is_live() => Event::HeadersOnly { key, revision: raw.revision, created: raw.created },
        Ok(_) => decode_event(raw, clock),
        Err(error) => undecodable(raw, error),
    }
}

fn undecodable<T: KvModel>(raw: &RawEntry, error: Error) -> Event<T> {
    Event::Undecodable { key: raw.key.to_string(), revision: raw.revision, error }
}

impl<T: KvModel> Stream for Events<T> {
    type Item = Result<Event<T>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let Some(update) = ready!(self.updates.poll_next_unpin(context)) else { return Poll::Ready(None) };
            if let Some(event) = self.event(update) {
                return Poll::Ready(Some(event));
            }
        }
    }
}

impl<T: KvModel> fmt::Debug for Events<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("bucket", &self.bucket).finish_non_exhaustive()
    }
}
