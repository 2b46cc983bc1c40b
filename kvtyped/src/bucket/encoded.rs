//! A bucket whose keys are stored by a key codec.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryFutureExt, future, stream};

use crate::backend::{
    Batch, BucketIdentity, BucketStatus, ClockReading, Deadline, KeySpace, ListKeysRequest, Precondition, RawBucket,
    RawEntry, Read, ReadAt, ScanItem, ScanRequest, WatchRequest, WatchSignal, Write,
};
use crate::config::BucketConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::key::{Key, KeyCodec, Pattern, Patterns, Token};
use crate::revision::Revision;

/// Translates every key to and from the backend, so no layer above knows the codec.
pub(super) struct EncodedBucket {
    raw: Arc<dyn RawBucket>,
    codec: KeyCodec,
}

/// Returns the bucket with its keys stored by `codec`.
pub(super) fn encoded(raw: Arc<dyn RawBucket>, codec: KeyCodec) -> Arc<dyn RawBucket> {
    match codec {
        KeyCodec::Escaped => raw,
        codec => Arc::new(EncodedBucket { raw, codec }),
    }
}

fn decoded(codec: KeyCodec, entry: RawEntry) -> Result<RawEntry> {
    match codec.decode(&entry.key) {
        Ok(key) => Ok(RawEntry { key, ..entry }),
        Err(error) => {
            let error = Error::new(ErrorKind::Decode { codec: "key", detail: error.to_string() });
            Err(error.at_revision(entry.revision).with_key(entry.key.as_str()))
        }
    }
}

/// Returns the error with the decoded key, as the caller knows it.
fn translated(codec: KeyCodec, error: Error) -> Error {
    let stored = error.key().and_then(|key| Key::new(key).ok());
    match stored.map(|stored| codec.decode(&stored)) {
        Some(Ok(key)) => error.with_key(key.as_str()),
        _ => error,
    }
}

/// The patterns of the stored keys. Stored keys cannot be filtered by a literal prefix or suffix of a segment, so
/// `rest` checks the decoded keys.
struct Filter {
    stored: Patterns,
    rest: Option<Patterns>,
}

impl Filter {
    fn new(codec: KeyCodec, patterns: Patterns) -> Result<Self> {
        let stored = patterns.iter().map(|pattern| codec.encode_pattern(pattern)).collect::<Result<_, _>>()?;
        let half_open =
            |token: &Token| matches!(token, Token::Any { prefix, suffix } if !(prefix.is_empty() && suffix.is_empty()));
        let is_exact = !patterns.iter().flat_map(Pattern::tokens).any(half_open);
        Ok(Self { stored, rest: (!is_exact).then_some(patterns) })
    }
}

fn passes_filter(rest: Option<&Patterns>, key: &Key) -> bool {
    rest.is_none_or(|patterns| patterns.matches(key.as_str()))
}

impl EncodedBucket {
    /// Returns the stored form of a key. Index entries contain the keys of records as this crate writes them.
    fn encode_key(&self, space: KeySpace, key: &Key) -> Result<Key> {
        match space {
            KeySpace::Records => Ok(self.codec.encode(key)?),
            KeySpace::Index => Ok(key.clone()),
        }
    }

    fn encode_write(&self, write: Write) -> Result<Write> {
        let (key, guard) = (self.encode_key(write.space, &write.key)?, write.precondition);
        Ok(Write { key, precondition: guard.map(|guard| self.encode_precondition(guard)).transpose()?, ..write })
    }

    fn encode_precondition(&self, guard: Precondition) -> Result<Precondition> {
        Ok(Precondition { key: self.encode_key(guard.space, &guard.key)?, ..guard })
    }

    fn encode_batch(&self, batch: Batch) -> Result<Batch> {
        let writes = batch.writes.into_iter().map(|write| self.encode_write(write)).collect::<Result<_>>()?;
        let checks =
            batch.preconditions.into_iter().map(|guard| self.encode_precondition(guard)).collect::<Result<_>>()?;
        Ok(Batch { writes, preconditions: checks })
    }
}

impl RawBucket for EncodedBucket {
    fn config(&self) -> &BucketConfig {
        self.raw.config()
    }

    fn identity(&self) -> BucketIdentity {
        self.raw.identity()
    }

    fn clock(&self) -> Option<ClockReading> {
        self.raw.clock()
    }

    fn status(&self, deadline: Deadline) -> BoxFuture<'_, Result<BucketStatus>> {
        self.raw.status(deadline)
    }

    fn uncounted_status(&self, deadline: Deadline) -> BoxFuture<'_, Result<BucketStatus>> {
        self.raw.uncounted_status(deadline)
    }

    fn write(&self, write: Write, deadline: Deadline) -> BoxFuture<'_, Result<Revision>> {
        match self.encode_write(write) {
            Ok(write) => self.raw.write(write, deadline).map_err(|error| translated(self.codec, error)).boxed(),
            Err(error) => future::ready(Err(error)).boxed(),
        }
    }

    fn commit(&self, batch: Batch, deadline: Deadline) -> BoxFuture<'_, Result<Vec<Revision>>> {
        match self.encode_batch(batch) {
            Ok(batch) => self.raw.commit(batch, deadline).map_err(|error| translated(self.codec, error)).boxed(),
            Err(error) => future::ready(Err(error)).boxed(),
        }
    }

    fn purge_through<'a>(
        &'a self,
        space: KeySpace,
        key: &'a Key,
        upto: Revision,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<u64>> {
        let erase = async move {
            let stored = self.encode_key(space, key)?;
            self.raw.purge_through(space, &stored, upto, deadline).await
        };
        erase.map_err(|error| translated(self.codec, error)).boxed()
    }

    fn read<'a>(
        &'a self,
        space: KeySpace,
        key: &'a Key,
        at: ReadAt,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Option<RawEntry>>> {
        let read = async move {
            let stored = self.encode_key(space, key)?;
            let entry = self.raw.read(space, &stored, at, deadline).await?;
            Ok(entry.map(|entry| RawEntry { key: key.clone(), ..entry }))
        };
        read.map_err(|error| translated(self.codec, error)).boxed()
    }

    fn read_many<'a>(
        &'a self,
        space: KeySpace,
        keys: &'a [Key],
        read: Read,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Vec<Option<RawEntry>>>> {
        let read_many = async move {
            let stored = keys.iter().map(|key| self.encode_key(space, key)).collect::<Result<Vec<_>>>()?;
            let entries = self.raw.read_many(space, &stored, read, deadline).await?;
            let named = |(entry, key): (Option<RawEntry>, &Key)| Some(RawEntry { key: key.clone(), ..entry? });
            Ok(entries.into_iter().zip(keys).map(named).collect())
        };
        read_many.map_err(|error| translated(self.codec, error)).boxed()
    }

    fn list_keys(&self, list: ListKeysRequest) -> BoxStream<'static, Result<Vec<Key>>> {
        if list.space == KeySpace::Index {
            return self.raw.list_keys(list);
        }
        let codec = self.codec;
        let stored = match codec.encode_pattern(&list.pattern) {
            Ok(stored) => stored,
            Err(error) => return stream::once(future::ready(Err(error.into()))).boxed(),
        };
        let ListKeysRequest { space, pattern, idle_timeout } = list;
        let pages = self.raw.list_keys(ListKeysRequest { space, pattern: stored, idle_timeout });
        let decode = move |page: Vec<Key>| {
            // A key that no program of this codec wrote is not listed.
            let keys = page.iter().filter_map(|key| codec.decode(key).ok());
            keys.filter(|key| pattern.matches(key.as_str())).collect()
        };
        pages.map(move |page| page.map(&decode)).boxed()
    }

    fn scan(&self, scan: ScanRequest) -> BoxStream<'static, Result<ScanItem>> {
        let codec = self.codec;
        let Filter { stored, rest } = match Filter::new(codec, scan.patterns) {
            Ok(filter) => filter,
            Err(error) => return stream::once(future::ready(Err(error))).boxed(),
        };
        let scanned = self.raw.scan(ScanRequest { patterns: stored, ..scan });
        let plain = scanned.filter_map(move |scanned| {
            let plain = match scanned {
                Ok(ScanItem { entry, pending: behind }) => {
                    decoded(codec, entry).map(|entry| ScanItem { entry, pending: behind })
                }
                Err(error) => Err(translated(codec, error)),
            };
            let passes = plain.as_ref().map_or(true, |scanned| passes_filter(rest.as_ref(), &scanned.entry.key));
            future::ready(passes.then_some(plain))
        });
        plain.boxed()
    }

    fn watch(&self, watch: WatchRequest) -> BoxStream<'static, Result<WatchSignal>> {
        let codec = self.codec;
        let Filter { stored, rest } = match Filter::new(codec, watch.patterns) {
            Ok(filter) => filter,
            Err(error) => return stream::once(future::ready(Err(error))).boxed(),
        };
        let signals = self.raw.watch(WatchRequest { patterns: stored, ..watch });
        let plain = signals.filter_map(move |signal| {
            let plain = match signal {
                Ok(WatchSignal::Entry { entry, pending: behind }) => {
                    decoded(codec, entry).map(|entry| WatchSignal::Entry { entry, pending: behind })
                }
                Ok(signal) => Ok(signal),
                Err(error) => Err(translated(codec, error)),
            };
            let passes = match &plain {
                Ok(WatchSignal::Entry { entry, .. }) => passes_filter(rest.as_ref(), &entry.key),
                _ => true,
            };
            future::ready(passes.then_some(plain))
        });
        plain.boxed()
    }
}

impl fmt::Debug for EncodedBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncodedBucket").field("raw", &self.raw).field("codec", &self.codec).finish()
    }
}
