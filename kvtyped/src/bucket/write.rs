//! `put`, `create`, `update`.

use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;

use super::decode;
use super::handle::{Bucket, BucketInner};
use super::modify::decision::{CasDecision, CasLimits, CasStart};
use super::precondition;
use super::precondition::FenceResult;
use super::verb::{options, verb};
use crate::backend::{Deadline, RawEntry, Read, ReadAt, Write, WriteKind};
use crate::config::BucketConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::key::{Key, ModelKey};
use crate::model::KvModel;
use crate::revision::Revision;
use crate::ttl::Ttl;

impl<T: KvModel> Bucket<T> {
    /// Writes a record over any existing one.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(key = "{id}")]
    /// # struct Session { id: u64 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let sessions: Bucket<Session> = Store::memory().bucket().await?;
    /// let first = sessions.put(&Session { id: 7 }).await?;
    /// let second = sessions.put(&Session { id: 7 }).ttl(Duration::from_secs(60)).await?;
    /// assert!(second > first);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns [`ErrorKind::Encode`] if the value would not be read back equal, such as `NaN` or `Some(None)` in JSON.
    /// Each write decodes its bytes and compares the values before it sends them, which costs about 1 µs for a record
    /// of 200 bytes.
    ///
    /// If the acknowledgement is lost and the stored entry does not reveal the result, the outcome is `Unknown`: a
    /// server that hangs may apply the write later. If a late write must not overwrite a newer record, use `update` or
    /// `modify`.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it completes, the record may or may not be written.
    pub fn put<'a>(&'a self, record: &'a T) -> Put<'a, T> {
        Put { bucket: self, record, ttl: None, timeout: None, fence: None }
    }

    /// Writes a record if its key has no live record.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(key = "{id}")]
    /// # struct Session { id: u64 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let sessions: Bucket<Session> = Store::memory().bucket().await?;
    /// let revision = sessions.create(&Session { id: 7 }).ttl(Duration::from_secs(60)).await?;
    /// let error = sessions.create(&Session { id: 7 }).await.unwrap_err();
    /// assert!(error.is_conflict() && error.revision() == Some(revision));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns `AlreadyExists`, with the revision of the existing record.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it completes, the record may or may not be written.
    pub fn create<'a>(&'a self, record: &'a T) -> Create<'a, T> {
        Create { bucket: self, record, ttl: None, timeout: None, fence: None }
    }

    /// Writes a record if its key has this revision (compare-and-set).
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(key = "{id}")]
    /// # struct Session { id: u64, visits: u32 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let sessions: Bucket<Session> = Store::memory().bucket().await?;
    /// let first = sessions.put(&Session { id: 7, visits: 1 }).await?;
    /// sessions.update(&Session { id: 7, visits: 2 }, first).await?;
    /// assert!(sessions.update(&Session { id: 7, visits: 9 }, first).await.unwrap_err().is_conflict());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns `Conflict`, with the actual revision if the server reports it.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it completes, the record may or may not be written.
    pub fn update<'a>(&'a self, record: &'a T, revision: Revision) -> Update<'a, T> {
        Update { bucket: self, record, revision, ttl: None, timeout: None, fence: None }
    }
}

/// Checks that the bucket supports the TTL.
pub(crate) fn check_ttl(config: &BucketConfig, ttl: Option<Duration>) -> Result<Option<Ttl>> {
    let Some(asked) = ttl else { return Ok(None) };
    match config.history {
        None | Some(1) => {}
        Some(history) => {
            return Err(Error::unsupported(
                "`history = 1` for the TTL of a single key, because the previous value would reappear otherwise",
                format!("history = {history}"),
            ));
        }
    }
    if config.takes_no_purge() {
        return Err(Error::no_rollups_for_ttl(&config.name));
    }
    let ttl = parse_ttl(asked)?;
    match config.ttl {
        Some(longest) if asked > longest => Err(Error::invalid_config(format!(
            "a TTL of {asked:?} is longer than that of the bucket, which removes every record after {longest:?}: \
             ask for a shorter TTL, or raise the `ttl` of the bucket"
        ))),
        _ => Ok(Some(ttl)),
    }
}

pub(crate) fn parse_ttl(asked: Duration) -> Result<Ttl> {
    Ttl::new(asked).ok_or_else(|| {
        Error::invalid_config(format!("the TTL is {asked:?}; it must be from 1 s to a century (ADR-43)"))
    })
}

/// The conditions of a write.
#[derive(Debug, Default)]
pub(super) struct WriteConditions {
    /// The revision that the key must have.
    pub(super) expected: Option<Revision>,
    /// A precondition on another record.
    pub(super) fence: FenceResult,
    pub(super) timeout: Option<Duration>,
}

impl<T: KvModel> Bucket<T> {
    /// Returns the encoded parts of a record.
    fn encode_record(
        &self,
        operation: &'static str,
        record: &T,
        ttl: Option<Duration>,
    ) -> Result<(Key, Bytes, Option<Ttl>)> {
        let typed = record.key();
        let key = typed.encode().map_err(|error| self.bad_key(operation, error))?;
        let parts = decode::encode(record, typed).and_then(|value| Ok((value, check_ttl(self.config(), ttl)?)));
        let (value, ttl) = parts.map_err(|error| error.with_context(operation, self.name(), Some(key.as_str())))?;
        Ok((key, value, ttl))
    }

    /// Sends one write.
    pub(super) async fn send(
        &self,
        operation: &'static str,
        key: Key,
        kind: WriteKind,
        ttl: Option<Ttl>,
        terms: WriteConditions,
    ) -> Result<Revision> {
        let raw = self.raw(operation)?;
        let WriteConditions { expected, fence, timeout } = terms;
        // A marker with a TTL may expire, so it is not remembered.
        let leaves_a_marker = ttl.is_none() && !matches!(kind, WriteKind::Put(_));
        let mut write = Write::new(key.clone(), kind).with_ttl(ttl);
        if let Some(expected) = expected {
            write = write.if_revision(expected);
        }
        let id = write.id.clone();
        let deadline = self.deadline(timeout);
        // Load the epoch before the request.
        let epoch = self.inner.raw.identity().connection_epoch;
        let guarded = expected.is_some_and(|revision| revision > Revision::ZERO);
        let written = match fence {
            // A separate branch: a write without preconditions has a smaller future.
            None if !guarded => raw.write(write, deadline).await,
            fence => self.send_conditional(write, expected.filter(|_| guarded), fence, deadline).boxed().await,
        };
        let located = |error: Error| error.with_context(operation, self.name(), Some(key.as_str()));
        let revision = self.record_write(written.map_err(located)?, &id);
        if leaves_a_marker {
            self.inner.tombstones.remember(key, revision, epoch);
        }
        Ok(revision)
    }

    async fn send_conditional(
        &self,
        write: Write,
        expected: Option<Revision>,
        fence: FenceResult,
        deadline: Deadline,
    ) -> Result<Revision> {
        let on = self.resolve_fence(fence)?;
        let Some(expected) = expected else {
            return precondition::write(&*self.inner.raw, write, on.as_ref(), deadline).await;
        };
        self.check_identity(&write.key, expected, deadline).await?;
        match precondition::write(&*self.inner.raw, write, on.as_ref(), deadline).await {
            Err(error) => Err(self.explain_conflict(error, deadline).await),
            written => written,
        }
    }
}

/// A write of a record; see [`Bucket::put`].
#[must_use = "nothing is written until it is awaited"]
#[derive(Debug)]
pub struct Put<'a, T: KvModel> {
    bucket: &'a Bucket<T>,
    record: &'a T,
    ttl: Option<Duration>,
    timeout: Option<Duration>,
    fence: FenceResult,
}

impl<T: KvModel> Put<'_, T> {
    async fn run(self) -> Result<Revision> {
        let Self { bucket, record, ttl, timeout, fence } = self;
        let (key, value, ttl) = bucket.encode_record("put", record, ttl)?;
        let terms = WriteConditions { fence, timeout, ..WriteConditions::default() };
        bucket.send("put", key, WriteKind::Put(value), ttl, terms).await
    }
}

/// A write of a new record; see [`Bucket::create`].
#[must_use = "nothing is written until it is awaited"]
#[derive(Debug)]
pub struct Create<'a, T: KvModel> {
    bucket: &'a Bucket<T>,
    record: &'a T,
    ttl: Option<Duration>,
    timeout: Option<Duration>,
    fence: FenceResult,
}

impl<T: KvModel> Bucket<T> {
    /// Returns the starting point of a `create`: a remembered marker, or else the assumption that the key has no entry.
    /// The server refuses this assumption if another client left a marker. If the last `create` found such a marker, a
    /// read before the write is cheaper.
    async fn initial_guess(&self, key: &Key, deadline: Deadline) -> CasStart {
        let BucketInner { raw, tombstones: markers, .. } = &*self.inner;
        let marker = markers.forget(key, raw.identity().connection_epoch);
        if marker.is_some() || !markers.expect_foreign() {
            return CasStart::NoRecord(marker.unwrap_or_default());
        }
        match raw.read(key, ReadAt::Newest(Read::Any), deadline).await {
            // The nearest server may be behind, and the record may be gone.
            Ok(Some(entry)) if !entry.is_removed() => CasStart::LeaderRead,
            Ok(Some(marker)) => CasStart::NoRecord(marker.revision),
            Ok(None) | Err(_) => {
                markers.saw_none();
                CasStart::NoRecord(Revision::ZERO)
            }
        }
    }
}

impl<T: KvModel> Create<'_, T> {
    async fn run(self) -> Result<Revision> {
        let Self { bucket, record, ttl, timeout, fence } = self;
        let (key, value, ttl) = bucket.encode_record("create", record, ttl)?;
        let limits = CasLimits { attempts: None, deadline: bucket.deadline(timeout), fence };
        let markers = &bucket.inner.tombstones;
        let decide = |newest: Option<&RawEntry>| match newest {
            Some(entry) if !entry.is_removed() => Err(Error::new(ErrorKind::AlreadyExists).at_revision(entry.revision)),
            // No entry, or a delete marker: the TTL applies to the write in both cases.
            newest => {
                if newest.is_some() {
                    markers.saw_foreign();
                }
                Ok(CasDecision::<()>::Write { kind: WriteKind::Put(value.clone()), ttl, result: () })
            }
        };
        let first = bucket.initial_guess(&key, limits.deadline).await;
        let created = bucket.compare_and_set("create", &key, first, limits, decide).await;
        let created = created.map_err(|error| error.with_context("create", bucket.name(), Some(key.as_str())))?;
        Ok(created.revision)
    }
}

/// A write that expects a revision; see [`Bucket::update`].
#[must_use = "nothing is written until it is awaited"]
#[derive(Debug)]
pub struct Update<'a, T: KvModel> {
    bucket: &'a Bucket<T>,
    record: &'a T,
    revision: Revision,
    ttl: Option<Duration>,
    timeout: Option<Duration>,
    fence: FenceResult,
}

impl<T: KvModel> Update<'_, T> {
    async fn run(self) -> Result<Revision> {
        let Self { bucket, record, revision, ttl, timeout, fence } = self;
        let (key, value, ttl) = bucket.encode_record("update", record, ttl)?;
        let terms = WriteConditions { expected: Some(revision), fence, timeout };
        bucket.send("update", key, WriteKind::Put(value), ttl, terms).await
    }
}

options!(fence: Put Create Update);
options!(ttl: Put Create Update);
options!(timeout: Put Create Update);

verb!(Put => Revision);
verb!(Create => Revision);
verb!(Update => Revision);
