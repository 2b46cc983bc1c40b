//! `put`, `create`, `update`.

use std::time::Duration;

use futures::FutureExt;

use super::content::{Content, Target};
use super::decode;
use super::handle::{Bucket, BucketInner};
use super::index::write::{IndexedWrite, Replaced};
use super::modify::decision::{CasDecision, CasLimits, CasStart};
use super::modify::retry::{CasAttempts, CasRetry};
use super::precondition::FenceResult;
use super::verb::{options, verb};
use crate::backend::{Deadline, KeySpace, Precondition, RawEntry, Read, ReadAt, RecordHeaders, Write, WriteKind};
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
    /// of 200 bytes. Returns [`ErrorKind::Invalid`] if the validation function of the model refuses the record, and
    /// [`ErrorKind::SchemaMoved`] if the bucket was switched to a schema version that this program cannot write.
    ///
    /// Returns [`ErrorKind::NotUnique`] if another record has a value of a unique index. In a model with indexes, the
    /// write reads the stored record first, and replaces exactly that record. It is retried until it is applied, and
    /// returns [`ErrorKind::RetriesExhausted`] after 100 lost attempts.
    ///
    /// If the acknowledgement is lost and the stored entry does not reveal the result, the outcome is `Unknown`: a
    /// server that hangs may apply the write later. If a late write must not overwrite a newer record, use `update` or
    /// `modify`.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it completes, the record may or may not be written.
    pub fn put<'a>(&'a self, record: &'a T) -> Put<'a, T> {
        Put { bucket: self, record, ttl: None, timeout: None, fence: None, headers: None }
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
    /// Returns `AlreadyExists`, with the revision of the existing record, and [`ErrorKind::NotUnique`] if another record
    /// has a value of a unique index.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it completes, the record may or may not be written.
    pub fn create<'a>(&'a self, record: &'a T) -> Create<'a, T> {
        Create { bucket: self, record, ttl: None, timeout: None, fence: None, headers: None }
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
    /// Returns `Conflict`, with the actual revision if the server reports it, and [`ErrorKind::NotUnique`] if another
    /// record has a value of a unique index.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it completes, the record may or may not be written.
    pub fn update<'a>(&'a self, record: &'a T, revision: Revision) -> Update<'a, T> {
        Update { bucket: self, record, revision, ttl: None, timeout: None, fence: None, headers: None }
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

/// Checks that a write can keep the TTL of the record that it replaces. In a bucket with a history, a server raises the
/// TTL to that of the limit markers, and the previous value becomes the record again when the TTL ends.
pub(crate) fn check_kept_ttl(config: &BucketConfig, kept: Option<Ttl>) -> Result<Option<Ttl>> {
    match (kept.filter(|ttl| !ttl.is_never()), config.history) {
        (None, _) | (_, None | Some(1)) => Ok(kept),
        (Some(ttl), Some(history)) => Err(Error::unsupported(
            "`history = 1` to keep the TTL of the record, because the previous value would reappear otherwise; write the \
             record without a TTL with `put` or `update`",
            format!("a TTL of {ttl} and history = {history}"),
        )),
    }
}

fn parse_ttl(asked: Duration) -> Result<Ttl> {
    Ttl::new(asked).ok_or_else(|| {
        Error::invalid_config(format!("the TTL is {asked:?}; it must be from 1 s to a century (ADR-43)"))
    })
}

/// Checks the TTL of a delete marker. The markers of an indexed model must outlive every write in flight.
pub(crate) fn parse_marker_ttl<T: KvModel>(asked: Duration) -> Result<Ttl> {
    let least = BucketConfig::INDEX_MARKERS;
    if !T::__INDEXES.is_empty() && asked < least {
        return Err(Error::invalid_config(format!(
            "the TTL of a delete marker is {asked:?}; it must be at least {least:?} for a model with indexes"
        )));
    }
    parse_ttl(asked)
}

/// Checks that the headers of a raw record can be sent.
pub(super) fn check_headers(headers: &RecordHeaders) -> Result<()> {
    let mut invalid = None;
    headers.for_each(|name, text| {
        if !text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
            invalid = Some(name);
        }
    });
    match invalid {
        None => Ok(()),
        Some(name) => {
            Err(Error::invalid_config(format!("the header `{name}` contains a control character or is not ASCII")))
        }
    }
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

/// The conditions of a write of an indexed model.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct WriteOver<'a> {
    /// The revision that the key must have.
    pub(super) expected: Option<Revision>,
    /// The precondition on another record.
    pub(super) on: Option<&'a Precondition>,
    /// Whether many writes are sent at once.
    pub(super) is_one_of_many: bool,
}

impl<T: KvModel> Bucket<T> {
    /// Encodes a record for the schema version that the bucket takes. `headers` replaces the headers of the record.
    pub(super) fn encode_record(
        &self,
        record: &T,
        key: T::Key,
        ttl: Option<Duration>,
        headers: Option<&RecordHeaders>,
    ) -> Result<Content> {
        let mut content = decode::encode(record, key, &self.schema(), None)?;
        if let Some(headers) = headers {
            check_headers(headers)?;
            content.headers = headers.clone().with_indexes(None);
        }
        Ok(content.with_ttl(check_ttl(self.config(), ttl)?))
    }

    /// Sends the write of a record.
    async fn send_record(
        &self,
        operation: &'static str,
        record: &T,
        (ttl, headers): (Option<Duration>, Option<Box<RecordHeaders>>),
        conditions: WriteConditions,
    ) -> Result<Revision> {
        let typed = record.key();
        let key = typed.encode().map_err(|error| self.bad_key(operation, error))?;
        let encode = || self.encode_record(record, typed.clone(), ttl, headers.as_deref());
        self.send(operation, key, conditions, encode).await
    }

    /// Sends a removal.
    pub(super) async fn send_removal(
        &self,
        operation: &'static str,
        key: Key,
        kind: WriteKind,
        ttl: Option<Ttl>,
        conditions: WriteConditions,
    ) -> Result<Revision> {
        let content = || Ok(Content::removal(kind.clone(), self.schema().target::<T>()?).with_ttl(ttl));
        self.send(operation, key, conditions, content).await
    }

    /// Sends one write. Encodes its content again if the bucket was switched to another schema version.
    async fn send(
        &self,
        operation: &'static str,
        key: Key,
        conditions: WriteConditions,
        encode: impl Fn() -> Result<Content> + Send,
    ) -> Result<Revision> {
        let WriteConditions { expected, fence, timeout } = conditions;
        let located = |error: Error| error.with_context(operation, self.name(), Some(key.as_str()));
        let deadline = self.deadline(timeout);
        self.follow_switch(deadline).await.map_err(located)?;
        let mut content = encode().map_err(located)?;
        self.raw(operation)?;
        let on = self.resolve_fence(fence).map_err(located)?;
        loop {
            match self.send_content(&key, content, expected, on.as_ref(), deadline).await {
                Err(error) if error.is_stale_schema() => content = encode().map_err(located)?,
                sent => return sent.map_err(located),
            }
        }
    }

    /// Sends one write with this content.
    pub(crate) async fn send_content(
        &self,
        key: &Key,
        content: Content,
        expected: Option<Revision>,
        on: Option<&Precondition>,
        deadline: Deadline,
    ) -> Result<Revision> {
        // The `const` block and the box keep the code of indexes out of models without indexes.
        if const { !T::__INDEXES.is_empty() } && content.index.is_some() {
            return self.send_indexed(key, content, expected, on, deadline).boxed().await;
        }
        // A marker with a TTL may expire, so it is not remembered.
        let leaves_a_marker = content.ttl.is_none() && !content.is_put();
        let target = content.target;
        let mut write = content.write(key.clone());
        if let Some(expected) = expected {
            write = write.if_revision(expected);
        }
        let id = write.id.clone();
        // Load the epoch of the connection before the request.
        let epoch = self.inner.raw.identity().connection_epoch;
        let read = expected.filter(|revision| *revision > Revision::ZERO);
        let written = match read {
            // A separate branch: a write that no read precedes has a smaller future.
            None => self.inner.write(write, on, target, deadline).await,
            Some(expected) => self.send_conditional(write, expected, on, target, deadline).boxed().await,
        };
        let revision = self.record_write(written?, &id);
        if leaves_a_marker {
            self.inner.tombstones.remember(key.clone(), revision, epoch);
        }
        Ok(revision)
    }

    /// Sends one write of an indexed model. It reads the entry that it replaces, unless the index values of the expected
    /// revision are remembered. Retries a write without an expected revision until it is applied.
    async fn send_indexed(
        &self,
        key: &Key,
        content: Content,
        expected: Option<Revision>,
        on: Option<&Precondition>,
        deadline: Deadline,
    ) -> Result<Revision> {
        if let Some(expected) = expected.filter(|revision| *revision > Revision::ZERO) {
            self.check_identity(key, expected, deadline).await?;
            let epoch = self.inner.raw.identity().connection_epoch;
            if let Some(old) = self.inner.known_values.take(key, expected, epoch) {
                let (old, content) = (Replaced::Values(old), content.clone());
                let write = IndexedWrite { old, expected, content, on, is_one_of_many: false };
                match self.write_indexed(key, write, deadline).await {
                    // The record or a claim has changed. The read below finds out which.
                    Err(error) if matches!(error.kind(), ErrorKind::Conflict { .. }) => {}
                    written => return written.map(|(revision, _)| revision),
                }
            }
        }
        let base = self.inner.raw.read(KeySpace::Records, key, ReadAt::Newest(Read::Any), deadline).await?;
        self.send_over(key, base, content, WriteOver { expected, on, is_one_of_many: false }, deadline).await
    }

    /// Sends one write of an indexed model over the entry that a server returned for its key, or over a later one.
    pub(super) async fn send_over(
        &self,
        key: &Key,
        mut base: Option<RawEntry>,
        content: Content,
        over: WriteOver<'_>,
        deadline: Deadline,
    ) -> Result<Revision> {
        let WriteOver { expected, on, is_one_of_many } = over;
        let raw = &self.inner.raw;
        let (mut retry, mut attempts) = (CasRetry::new(), CasAttempts::new(None));
        let mut is_confirmed = !self.config().may_be_behind();
        loop {
            let found = base.as_ref().map_or(Revision::ZERO, |entry| entry.revision);
            if let Some(expected) = expected.filter(|expected| *expected != found) {
                if !is_confirmed {
                    is_confirmed = true;
                    base = self.read_leader(key, deadline).await?;
                    continue;
                }
                let conflict = Error::new(ErrorKind::Conflict { expected, actual: Some(found) });
                return Err(self.explain_conflict(conflict, deadline).await);
            }
            let (old, content) = (Replaced::Entry(base.as_ref()), content.clone());
            let write = IndexedWrite { old, expected: found, content, on, is_one_of_many };
            match self.write_indexed(key, write, deadline).await {
                Ok((revision, _)) => return Ok(revision),
                Err(conflict) if matches!(conflict.kind(), ErrorKind::Conflict { .. }) => {
                    retry.observe_conflict(&conflict);
                    attempts.record_conflict(conflict, deadline)?;
                }
                Err(error) => return Err(error),
            }
            let read = retry.read(&**raw, key, deadline).await;
            base = read.map_err(|error| attempts.explain_timeout(error))?;
            is_confirmed = true;
        }
    }

    async fn send_conditional(
        &self,
        write: Write,
        expected: Revision,
        on: Option<&Precondition>,
        target: Option<Target>,
        deadline: Deadline,
    ) -> Result<Revision> {
        self.check_identity(&write.key, expected, deadline).await?;
        match self.inner.write(write, on, target, deadline).await {
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
    headers: Option<Box<RecordHeaders>>,
}

impl<T: KvModel> Put<'_, T> {
    async fn run(self) -> Result<Revision> {
        let Self { bucket, record, ttl, timeout, fence, headers } = self;
        let terms = WriteConditions { fence, timeout, ..WriteConditions::default() };
        bucket.send_record("put", record, (ttl, headers), terms).await
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
    headers: Option<Box<RecordHeaders>>,
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
        match raw.read(KeySpace::Records, key, ReadAt::Newest(Read::Any), deadline).await {
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
        let Self { bucket, record, ttl, timeout, fence, headers } = self;
        let typed = record.key();
        let key = typed.encode().map_err(|error| bucket.bad_key("create", error))?;
        let limits = CasLimits { attempts: None, deadline: bucket.deadline(timeout), fence };
        let markers = &bucket.inner.tombstones;
        let decide = |newest: Option<&RawEntry>| match newest {
            Some(entry) if !entry.is_removed() => Err(Error::new(ErrorKind::AlreadyExists).at_revision(entry.revision)),
            // No entry, or a delete marker: the TTL applies to the write in both cases.
            newest => {
                if newest.is_some() {
                    markers.saw_foreign();
                }
                let content = bucket.encode_record(record, typed.clone(), ttl, headers.as_deref())?;
                Ok(CasDecision::<()>::Write { content, result: () })
            }
        };
        let followed = bucket.follow_switch(limits.deadline).await;
        followed.map_err(|error| error.with_context("create", bucket.name(), Some(key.as_str())))?;
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
    headers: Option<Box<RecordHeaders>>,
}

impl<T: KvModel> Update<'_, T> {
    async fn run(self) -> Result<Revision> {
        let Self { bucket, record, revision, ttl, timeout, fence, headers } = self;
        let terms = WriteConditions { expected: Some(revision), fence, timeout };
        bucket.send_record("update", record, (ttl, headers), terms).await
    }
}

options!(fence: Put Create Update);
options!(headers: Put Create Update);
options!(ttl: Put Create Update);
options!(timeout: Put Create Update);

verb!(Put("put", bucket) => Revision);
verb!(Create("create", bucket) => Revision);
verb!(Update("update", bucket) => Revision);
