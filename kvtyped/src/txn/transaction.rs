//! `transaction`: a builder for writes that are applied all or nothing.

use std::any::TypeId;
use std::fmt;
use std::time::Duration;

use super::declared_model::DeclaredModel;
use super::required;
use crate::backend::{Backoff, Batch, Deadline, KeySpace, Precondition, Read, Write, WriteKind};
use crate::bucket::content::{Content, Target};
use crate::bucket::index::batch::{BatchRecord, ModelIndexes};
use crate::bucket::{Bucket, FenceResult, check_ttl, decode, precondition};
use crate::error::{Error, ErrorKind, Result};
use crate::key::{Key, ModelKey};
use crate::model::{Indexable, KvModel, Ref};
use crate::revision::Revision;

const OPERATION: &str = "transaction";

impl<T: KvModel> Bucket<T> {
    /// Returns a builder for several writes that are applied all or nothing.
    ///
    /// The records may belong to any models of this bucket, each with its own key template. A model belongs to the
    /// bucket if it declares the same bucket as `T`, or the name that this bucket was opened with. Each key is written
    /// once. A transaction takes up to [`Batch::MAX_MESSAGES`](crate::backend::Batch::MAX_MESSAGES) writes and checks.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// #[kv(bucket = "bank", key = "account.{name}")]
    /// struct Account { name: String, balance: u64 }
    ///
    /// #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// #[kv(bucket = "bank", key = "transfer.{id}")]
    /// struct Transfer { id: u64, amount: u64 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let accounts: Bucket<Account> = Store::memory().bucket().await?;
    /// # let (mut ada, mut bob) = (Account { name: "ada".into(), balance: 9 }, Account { name: "bob".into(), balance: 0 });
    /// # let (read_ada, read_bob) = (accounts.put(&ada).await?, accounts.put(&bob).await?);
    ///
    /// (ada.balance, bob.balance) = (4, 5);
    /// let transfer = Transfer { id: 1, amount: 5 };
    /// let both = accounts.transaction().update(&ada, read_ada).update(&bob, read_bob);
    /// let both = both.create(&transfer);
    /// let committed = both.commit().await?;
    /// assert_eq!(committed.revisions().len(), 3);
    ///
    /// let error = accounts.transaction().update(&ada, read_ada).put(&bob).commit().await.unwrap_err();
    /// assert!(error.is_conflict() && error.key() == Some("account.ada"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn transaction(&self) -> Transaction<'_, T> {
        let (steps, checks, required) = (Vec::new(), Vec::new(), Vec::new());
        Transaction { bucket: self, steps, checks, required, fence: None, deferred_error: None, timeout: None }
    }
}

/// Writes that are applied all or nothing; see [`Bucket::transaction`].
#[must_use = "nothing is written until it is committed"]
pub struct Transaction<'a, T> {
    bucket: &'a Bucket<T>,
    steps: Vec<StagedWrite>,
    checks: Vec<Precondition>,
    /// The keys whose records must exist.
    required: Vec<Key>,
    /// The precondition of a fenced transaction.
    fence: Option<Precondition>,
    /// The first error of the builder.
    deferred_error: Option<Error>,
    timeout: Option<Duration>,
}

/// One write.
struct StagedWrite {
    key: Key,
    content: Content,
    expected: ExpectedRevision,
    /// The indexes of the model, if it has any.
    indexes: Option<ModelIndexes>,
}

/// The expected state of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ExpectedRevision {
    Anything,
    This(Revision),
    /// No live record: no entry, or the delete marker with this revision.
    NoRecord(Revision),
}

/// The result of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    revisions: Vec<Revision>,
}

impl Committed {
    /// Returns the revisions of the writes, in their order. The revisions are consecutive.
    pub fn revisions(&self) -> &[Revision] {
        &self.revisions
    }

    /// Returns the revision of the last write, if there was a write. A read at this revision or later sees all writes.
    pub fn last(&self) -> Option<Revision> {
        self.revisions.last().copied()
    }
}

impl<T: KvModel> Transaction<'_, T> {
    /// Writes a record, whether its key has a record or not.
    pub fn put<M: KvModel>(self, record: &M) -> Self {
        self.record(record, ExpectedRevision::Anything)
    }

    /// Writes a record if its key has no live record.
    pub fn create<M: KvModel>(self, record: &M) -> Self {
        self.record(record, ExpectedRevision::NoRecord(Revision::ZERO))
    }

    /// Writes a record if the current revision of its key is `revision`.
    pub fn update<M: KvModel>(self, record: &M, revision: Revision) -> Self {
        self.record(record, ExpectedRevision::This(revision))
    }

    /// Removes the record of a key, whether it exists or not. The history and a delete marker remain.
    ///
    /// If the record is of another model with indexes, its index entries stay until
    /// [`verify_indexes`](crate::Bucket::verify_indexes) repairs them. [`transact`](crate::Bucket::transact) with
    /// [`Tx::model`](super::Tx::model) erases them.
    pub fn delete<K: ModelKey>(self, key: &K) -> Self {
        self.removal(key, WriteKind::Delete)
    }

    /// Removes the record of a key with its history. A delete marker remains, without a limit or for its TTL. See
    /// [`delete`](Self::delete) for a record of another model with indexes.
    pub fn purge<K: ModelKey>(self, key: &K) -> Self {
        self.removal(key, WriteKind::Purge)
    }

    /// Applies the last write only if the current revision of its key is `revision`. This is for `delete` and `purge`;
    /// a `put` with this option is an `update`.
    pub fn if_revision(mut self, revision: Revision) -> Self {
        match self.steps.last_mut() {
            Some(last) => last.expected = ExpectedRevision::This(revision),
            None => self.fail(option_without_write("if_revision")),
        }
        self
    }

    /// Sets the TTL of the last write, for a record or for the delete marker of a purge: at least one second, rounded
    /// up to whole seconds. A record can have a TTL if the bucket keeps one revision of each key. The TTL must not be
    /// longer than the bucket's `ttl`.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        let ttl = match self.steps.last() {
            // A purge removes the history, so no earlier revision can reappear.
            Some(StagedWrite { content: Content { kind: WriteKind::Purge, .. }, .. }) => {
                crate::bucket::parse_marker_ttl::<T>(ttl).map(Some)
            }
            Some(_) => check_ttl(self.bucket.config(), Some(ttl)),
            None => Err(option_without_write("ttl")),
        };
        match (ttl, self.steps.last_mut()) {
            (Ok(ttl), Some(last)) => last.content.ttl = ttl,
            (Err(error), Some(last)) => {
                let error = error.with_key(last.key.as_str());
                self.fail(error);
            }
            (Err(error), None) => self.fail(error),
            (Ok(_), None) => {}
        }
        self
    }

    /// Applies the transaction only if the current revision of a key is `revision`, whether the key is written or not.
    /// [`Revision::ZERO`] means that the key must have no entry, not even a delete marker.
    pub fn check<K: ModelKey>(mut self, key: &K, revision: Revision) -> Self {
        match self.encode(key) {
            Ok(key) => self.checks.push(Precondition { space: KeySpace::Records, key, revision }),
            Err(error) => self.fail(error),
        }
        self
    }

    /// Applies the transaction only if the record of each reference in a field exists: of a
    /// [`Ref`](crate::model::Ref), or of an `Option` or a list of references.
    ///
    /// The commit reads the records, and checks that they are unchanged when it writes. A record that changes in between
    /// is read again. A record that the transaction itself writes exists. Each record counts as a check.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// use kvtyped::model::Ref;
    ///
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(bucket = "app", key = "team.{name}")]
    /// # struct Team { name: String }
    /// #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// #[kv(bucket = "app", key = "user.{id}")]
    /// struct User { id: u64, team: Ref<Team> }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let users: Bucket<User> = Store::memory().bucket().await?;
    /// # let ada = User { id: 1, team: Ref::new(TeamKey::new("core")) };
    ///
    /// let error = users.transaction().put(&ada).exists(&ada.team).commit().await.unwrap_err();
    /// assert!(error.is_not_found() && error.key() == Some("team.core"));
    ///
    /// let team = Team { name: "core".into() };
    /// users.transaction().put(&team).put(&ada).exists(&ada.team).commit().await?;
    /// users.transaction().put(&ada).exists(&ada.team).commit().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn exists<M: KvModel, F: Indexable<Value = Ref<M>>>(mut self, field: &F) -> Self {
        field.each_value(&mut |reference| {
            let member = DeclaredModel::new::<T>().check::<M>(self.bucket.name());
            match member.and_then(|()| Ok(reference.key().encode()?)) {
                Ok(key) if self.required.contains(&key) => {}
                Ok(key) => self.required.push(key),
                Err(error) => self.fail(error),
            }
        });
        self
    }

    /// Applies the transaction only while another record is unchanged.
    pub(crate) fn with_fence(mut self, fence: FenceResult) -> Self {
        match self.bucket.resolve_fence(fence) {
            Ok(fence) => {
                self.checks.extend(fence.clone());
                self.fence = fence;
            }
            Err(error) => self.fail(error),
        }
        self
    }

    /// Sets the total time limit; the bucket's timeout by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Applies all writes, or none.
    ///
    /// # Errors
    ///
    /// Returns `Conflict` if an expected revision is not the current one, and `AlreadyExists` if a record to be created
    /// exists. Both errors name the key if the client can determine it. Returns `InvalidBatch` if a key is written
    /// twice, if there are too many writes, or if a record's model declares another bucket. Returns `Unsupported` if
    /// several writes need a newer server (nats-server 2.12.1), or a bucket with
    /// [`atomic`](crate::config::BucketConfig::atomic). The outcome is `Unknown` if the acknowledgement is lost and
    /// cannot be recovered. In that case either all writes were applied, or none.
    ///
    /// The records are encoded when they are added. If the bucket is switched to another schema version before the
    /// commit, it returns `SchemaMoved`. If the program can write that version, the error [is
    /// retryable](crate::Error::is_retryable) with a new transaction.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, either all writes are applied, or none.
    pub async fn commit(self) -> Result<Committed> {
        let bucket = self.bucket;
        let commit = async { self.run().await.map_err(|error| error.with_context(OPERATION, bucket.name(), None)) };
        bucket.observe(OPERATION, Box::pin(commit)).await
    }

    async fn run(self) -> Result<Committed> {
        let Self { bucket, mut steps, checks, mut required, fence, deferred_error: wrong, timeout } = self;
        if let Some(error) = wrong {
            return Err(error);
        }
        let raw = bucket.raw(OPERATION)?;
        let deadline = bucket.deadline(timeout);
        let expected = steps.iter().filter_map(StagedWrite::precondition).chain(checks.clone());
        let seen: Vec<_> = expected.filter(|precondition| precondition.revision > Revision::ZERO).collect();
        for Precondition { key, revision, .. } in &seen {
            let same = bucket.check_identity(key, *revision, deadline).await;
            same.map_err(|error| error.with_key(key.as_str()))?;
        }
        for step in &steps {
            if required.contains(&step.key) && !matches!(step.content.kind, WriteKind::Put(_)) {
                return Err(required::is_removed(&step.key));
            }
        }
        required.retain(|key| !steps.iter().any(|step| step.key == *key));
        let mut existing = required::read(&**raw, &required, deadline).await?;
        let targets: Vec<_> = steps.iter().filter_map(|step| step.content.target).collect();
        if steps.iter().any(|step| step.indexes.is_some()) {
            return bucket.commit_steps(&steps, (&checks, &required), fence.as_ref(), &targets, deadline).await;
        }
        let mut backoff = Backoff::contention_of_batches();
        loop {
            let is_checked = |key: &Key| checks.iter().any(|check| check.key == *key);
            let existing_only = existing.iter().filter(|existing| !is_checked(&existing.key));
            let preconditions = checks.iter().chain(existing_only).cloned().collect();
            let batch = Batch { writes: steps.iter().map(StagedWrite::write).collect(), preconditions };
            let ids: Vec<_> = batch.writes.iter().map(|write| write.id.clone()).collect();
            let conflict = match bucket.commit_batch(batch, &targets, deadline).await {
                Ok(revisions) => {
                    let revisions =
                        revisions.into_iter().zip(&ids).map(|(revision, id)| bucket.record_write(revision, id));
                    return Ok(Committed { revisions: revisions.collect() });
                }
                Err(error) if error.is_conflict() => match &fence {
                    Some(fence) if precondition::is_superseded(&**raw, fence, &error, deadline).await? => {
                        return Err(Error::new(ErrorKind::Fenced));
                    }
                    _ => bucket.explain_conflict(error, deadline).await,
                },
                Err(error) => return Err(error),
            };
            // A key to create may have a delete marker, which the write must then replace.
            let created: Vec<_> = steps.iter().filter(|step| step.is_create()).map(|step| step.key.clone()).collect();
            let found = raw.read_many(KeySpace::Records, &created, Read::Leader, deadline).await?;
            let now = required::read(&**raw, &required, deadline).await?;
            let mut is_updated = std::mem::replace(&mut existing, now) != existing;
            for (step, entry) in steps.iter_mut().filter(|step| step.is_create()).zip(found) {
                let revision = entry.as_ref().map_or(Revision::ZERO, |entry| entry.revision);
                if entry.is_some_and(|entry| !entry.is_removed()) {
                    let error = Error::new(ErrorKind::AlreadyExists).at_revision(revision);
                    return Err(error.with_key(step.key.as_str()));
                }
                is_updated |= step.expected != ExpectedRevision::NoRecord(revision);
                step.expected = ExpectedRevision::NoRecord(revision);
            }
            if !is_updated || !backoff.pause(deadline).await {
                return Err(conflict);
            }
        }
    }

    fn record<M: KvModel>(mut self, record: &M, expected: ExpectedRevision) -> Self {
        let member = DeclaredModel::new::<T>().check::<M>(self.bucket.name());
        let typed = record.key();
        let parts = member.and_then(|()| typed.encode().map_err(Error::from)).and_then(|key| {
            let content = decode::encode(record, typed, &self.bucket.schema(), None);
            let content = content.map_err(|error| error.with_key(key.as_str()))?;
            Ok(StagedWrite { content, key, expected, indexes: ModelIndexes::of::<M>() })
        });
        match parts {
            Ok(step) => self.steps.push(step),
            Err(error) => self.fail(error),
        }
        self
    }

    fn removal<K: ModelKey>(mut self, key: &K, kind: WriteKind) -> Self {
        // The key may belong to any model of the bucket. The model of the bucket decides whether the program may write.
        let staged = self.encode(key).and_then(|key| Ok((key, self.bucket.schema().target::<T>()?)));
        match staged {
            Ok((key, target)) => {
                let content = Content::removal(kind, target);
                // The handle knows only its own model. Index entries of a record of another model stay until a repair.
                let indexes = ModelIndexes::of::<T>().filter(|_| TypeId::of::<K>() == TypeId::of::<T::Key>());
                self.steps.push(StagedWrite { key, content, expected: ExpectedRevision::Anything, indexes });
            }
            Err(error) => self.fail(error),
        }
        self
    }

    /// Encodes a key, if it belongs to a model of this bucket.
    fn encode<K: ModelKey>(&self, key: &K) -> Result<Key> {
        DeclaredModel::new::<T>().check_key::<K>(self.bucket.name())?;
        Ok(key.encode()?)
    }

    /// Keeps the first error.
    fn fail(&mut self, error: Error) {
        self.deferred_error.get_or_insert(error);
    }
}

impl<T: KvModel> Bucket<T> {
    /// Commits the writes with the index entries of their records. Reads the records that the writes replace.
    async fn commit_steps(
        &self,
        steps: &[StagedWrite],
        (checks, required): (&[Precondition], &[Key]),
        fence: Option<&Precondition>,
        targets: &[Target],
        deadline: Deadline,
    ) -> Result<Committed> {
        let raw = self.raw(OPERATION)?;
        let keys: Vec<_> = steps.iter().map(|step| step.key.clone()).collect();
        let mut backoff = Backoff::contention_of_batches();
        loop {
            let existing = required::read(&**raw, required, deadline).await?;
            let is_checked = |key: &Key| checks.iter().any(|check| check.key == *key);
            let existing = existing.into_iter().filter(|existing| !is_checked(&existing.key));
            let preconditions = checks.iter().cloned().chain(existing).collect();
            let found = raw.read_many(KeySpace::Records, &keys, Read::Leader, deadline).await?;
            let mut records = Vec::with_capacity(steps.len());
            for (step, base) in steps.iter().zip(found) {
                let actual = base.as_ref().map_or(Revision::ZERO, |entry| entry.revision);
                match step.expected {
                    ExpectedRevision::NoRecord(_) if base.as_ref().is_some_and(|entry| !entry.is_removed()) => {
                        let error = Error::new(ErrorKind::AlreadyExists).at_revision(actual);
                        return Err(error.with_key(step.key.as_str()));
                    }
                    ExpectedRevision::This(expected) if expected != actual => {
                        let conflict = Error::new(ErrorKind::Conflict { expected, actual: Some(actual) });
                        return Err(self.explain_conflict(conflict.with_key(step.key.as_str()), deadline).await);
                    }
                    _ => {}
                }
                let mut content = step.content.clone();
                let index = content.index.take();
                let mut write = content.write(step.key.clone());
                if step.indexes.is_some() || step.expected != ExpectedRevision::Anything {
                    write = write.if_revision(actual);
                }
                let indexed = step.indexes.zip(index).map(|(indexes, new)| (base, new, indexes));
                records.push(BatchRecord { write, indexed });
            }
            let conflict = match self.commit_indexed(records, preconditions, targets, deadline).await {
                Ok(written) => {
                    let revisions = written.iter().map(|(revision, id)| self.record_write(*revision, id));
                    return Ok(Committed { revisions: revisions.collect() });
                }
                Err(error) if matches!(error.kind(), ErrorKind::Conflict { .. }) => error,
                Err(error) => return Err(error),
            };
            if let Some(fence) = fence
                && precondition::is_superseded(&**raw, fence, &conflict, deadline).await?
            {
                return Err(Error::new(ErrorKind::Fenced));
            }
            let checked: Vec<_> = checks.iter().map(|check| check.key.clone()).collect();
            for (check, entry) in
                checks.iter().zip(raw.read_many(KeySpace::Records, &checked, Read::Leader, deadline).await?)
            {
                let (expected, actual) = (check.revision, entry.map_or(Revision::ZERO, |entry| entry.revision));
                if expected != actual {
                    let conflict = Error::new(ErrorKind::Conflict { expected, actual: Some(actual) });
                    return Err(conflict.with_key(check.key.as_str()));
                }
            }
            if !backoff.pause(deadline).await {
                return Err(conflict);
            }
        }
    }
}

fn option_without_write(option: &str) -> Error {
    Error::new(ErrorKind::InvalidBatch {
        reason: format!("`.{option}` has no write to apply to; call it after a write"),
    })
}

impl StagedWrite {
    fn is_create(&self) -> bool {
        matches!(self.expected, ExpectedRevision::NoRecord(_))
    }

    fn precondition(&self) -> Option<Precondition> {
        match self.expected {
            ExpectedRevision::Anything => None,
            ExpectedRevision::This(revision) | ExpectedRevision::NoRecord(revision) => {
                Some(Precondition { space: KeySpace::Records, key: self.key.clone(), revision })
            }
        }
    }

    /// The write, under a fresh operation id.
    fn write(&self) -> Write {
        Write { precondition: self.precondition(), ..self.content.clone().write(self.key.clone()) }
    }
}

/// Shows keys, and no values.
impl<T: KvModel> fmt::Debug for Transaction<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bucket, steps, checks, required, fence: _, deferred_error: _, timeout } = self;
        let keys: Vec<_> = steps.iter().map(|step| step.key.as_str()).collect();
        f.debug_struct("Transaction")
            .field("bucket", bucket)
            .field("writes", &keys)
            .field("checks", checks)
            .field("required", required)
            .field("timeout", timeout)
            .finish_non_exhaustive()
    }
}
