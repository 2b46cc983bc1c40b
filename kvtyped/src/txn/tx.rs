//! The handle that the closure of a transaction reads and writes with.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::declared_model::DeclaredModel;
use crate::backend::{Batch, Deadline, KeySpace, Precondition, RawBucket, RawEntry, Read, ReadAt, WriteKind};
use crate::bucket::content::{Content, Target};
use crate::bucket::index::batch::{BatchRecord, ModelIndexes};
use crate::bucket::{BucketSchema, IndexBuild, check_ttl, decode, read_claim};
use crate::error::{Error, ErrorKind, Result};
use crate::key::{Key, ModelKey};
use crate::model::index::{Claim, IndexInfo, UniqueLookup};
use crate::model::{Indexed, KvModel, SingleRevision};
use crate::revision::Revision;

pub(super) const OPERATION: &str = "transact";

/// The handle that the closure of a [`transact`](crate::Bucket::transact) reads and writes with.
///
/// A key is read once. Later reads of the key return the same record, or the record that the closure has written. The
/// writes are sent when the closure succeeds, and dropped if it fails. [`get`](Self::get) reads records of the model
/// `T`. [`model`](Self::model) returns the same transaction for another model of the bucket.
pub struct Tx<T> {
    run: Arc<TxAttempt>,
    model: PhantomData<fn() -> T>,
}

/// One run of a closure.
pub(super) struct TxAttempt {
    raw: Arc<dyn RawBucket>,
    schema: Arc<BucketSchema>,
    declared: DeclaredModel,
    read: Read,
    deadline: Deadline,
    /// Never held across an await.
    set: Mutex<ReadWriteSet>,
}

/// The reads and writes of one run.
#[derive(Debug, Default)]
pub(super) struct ReadWriteSet {
    /// The newest entry of each key that was read, including delete markers.
    pub(super) read: BTreeMap<Key, Option<RawEntry>>,
    /// The claim of each unique value that was read, with its revision.
    claims: BTreeMap<Key, (Revision, Option<Claim>)>,
    written: BTreeMap<Key, Content>,
    /// The indexes of the written records whose models have any.
    indexes: BTreeMap<Key, ModelIndexes>,
    is_over: bool,
}

impl ReadWriteSet {
    /// Returns the revision of each key that was read, as a precondition.
    pub(super) fn read_preconditions(&self) -> Vec<Precondition> {
        let revision = |entry: &Option<RawEntry>| entry.as_ref().map_or(Revision::ZERO, |entry| entry.revision);
        let on = |space, key: &Key, revision| Precondition { space, key: key.clone(), revision };
        let records = self.read.iter().map(|(key, entry)| on(KeySpace::Records, key, revision(entry)));
        let claims = self.claims.iter().map(|(key, (revision, _))| on(KeySpace::Index, key, *revision));
        records.chain(claims).collect()
    }

    /// Returns the number of reads.
    pub(super) fn reads(&self) -> usize {
        self.read.len() + self.claims.len()
    }

    /// Returns the schema versions that the bucket must take.
    pub(super) fn targets(&self) -> Vec<Target> {
        self.written.values().filter_map(|content| content.target).collect()
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.written.is_empty()
    }

    /// Whether a written record has index entries.
    pub(super) fn is_indexed(&self) -> bool {
        !self.indexes.is_empty()
    }

    /// Returns the written keys that were not read, and whose records have index entries.
    pub(super) fn unread(&self) -> Vec<Key> {
        self.indexes.keys().filter(|key| !self.read.contains_key(*key)).cloned().collect()
    }

    /// Returns the writes with what their index entries need. `unread` are the entries of the keys that were not read.
    pub(super) fn records(&self, unread: &BTreeMap<Key, Option<RawEntry>>) -> Vec<BatchRecord> {
        let record = |(key, content): (&Key, &Content)| {
            let mut content = content.clone();
            let index = content.index.take();
            let mut write = content.write(key.clone());
            let base = self.read.get(key).or_else(|| unread.get(key)).cloned().flatten();
            let indexes = self.indexes.get(key).copied();
            if indexes.is_some() {
                write = write.if_revision(base.as_ref().map_or(Revision::ZERO, |entry| entry.revision));
            }
            BatchRecord { write, indexed: indexes.zip(index).map(|(indexes, new)| (base, new, indexes)) }
        };
        self.written.iter().map(record).collect()
    }

    /// Returns the writes, with the reads as preconditions.
    pub(super) fn batch(&self) -> Batch {
        let write = |(key, content): (&Key, &Content)| content.clone().write(key.clone());
        Batch { writes: self.written.iter().map(write).collect(), preconditions: self.read_preconditions() }
    }
}

impl TxAttempt {
    pub(super) fn new(
        raw: Arc<dyn RawBucket>,
        schema: Arc<BucketSchema>,
        declared: DeclaredModel,
        read: Read,
        deadline: Deadline,
    ) -> Arc<Self> {
        Arc::new(Self { raw, schema, declared, read, deadline, set: Mutex::default() })
    }

    fn set(&self) -> MutexGuard<'_, ReadWriteSet> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the run and returns its reads and writes. Later calls fail.
    pub(super) fn read_write_set(&self) -> ReadWriteSet {
        std::mem::replace(&mut *self.set(), ReadWriteSet { is_over: true, ..ReadWriteSet::default() })
    }

    async fn read(&self, key: &Key) -> Result<Option<RawEntry>> {
        if let Some(entry) = self.set().read.get(key) {
            return Ok(entry.clone());
        }
        let entry = self.raw.read(KeySpace::Records, key, ReadAt::Newest(self.read), self.deadline).await?;
        // If two futures read the key at once, both receive the result of the first.
        Ok(self.set().read.entry(key.clone()).or_insert(entry).clone())
    }
}

impl TxAttempt {
    /// Reads the claim of a unique value once.
    async fn read_claim(&self, key: &Key) -> Result<Option<Claim>> {
        if let Some((_, claim)) = self.set().claims.get(key) {
            return Ok(claim.clone());
        }
        let found = read_claim(&*self.raw, key, self.read, self.deadline).await?;
        // If two futures read the claim at once, both receive the result of the first.
        Ok(self.set().claims.entry(key.clone()).or_insert(found).1.clone())
    }

    /// Reads the card, and returns the build of a readable index.
    async fn current_build<T: KvModel>(&self, info: &IndexInfo) -> Result<IndexBuild> {
        let asked = Instant::now();
        let status = self.raw.status(self.deadline).await?;
        BucketSchema::new(&status.config, asked).readable_build::<T>(info)
    }
}

impl<T: KvModel> Tx<T> {
    pub(super) fn new(run: &Arc<TxAttempt>) -> Self {
        Self { run: Arc::clone(run), model: PhantomData }
    }

    fn located(&self, error: Error, key: Option<&Key>) -> Error {
        error.with_context(OPERATION, &self.run.raw.config().name, key.map(Key::as_str))
    }

    /// Encodes a key, if records of this handle's model live in the bucket.
    fn encode<K: ModelKey>(&self, key: &K) -> Result<Key> {
        self.check::<T>()?;
        let checked = self.run.declared.check_key::<K>(&self.run.raw.config().name);
        checked.map_err(|error| self.located(error, None))?;
        key.encode().map_err(|error| self.located(error.into(), None))
    }

    fn check<M: KvModel>(&self) -> Result<()> {
        let checked = self.run.declared.check::<M>(&self.run.raw.config().name);
        checked.map_err(|error| self.located(error, None))
    }

    fn set(&self) -> Result<MutexGuard<'_, ReadWriteSet>> {
        let set = self.run.set();
        if set.is_over {
            let reason = "this `Tx` was used after its closure returned; use it only inside the closure".to_owned();
            return Err(self.located(Error::new(ErrorKind::InvalidBatch { reason }), None));
        }
        Ok(set)
    }

    fn stage(&self, key: Key, content: Content, indexes: Option<ModelIndexes>) -> Result<()> {
        let mut set = self.set()?;
        if let Some(indexes) = indexes {
            set.indexes.insert(key.clone(), indexes);
        }
        set.written.insert(key, content);
        if set.written.len() > Batch::MAX_MESSAGES {
            let reason = format!("a transaction has at most {} writes and checks; split it", Batch::MAX_MESSAGES);
            return Err(self.located(Error::new(ErrorKind::InvalidBatch { reason }), None));
        }
        Ok(())
    }

    fn stage_record<M: KvModel>(&self, record: &M, ttl: Option<Duration>) -> Result<()> {
        self.check::<M>()?;
        let typed = record.key();
        let key = self.encode(&typed)?;
        let content = self.found_version::<M>(&key).and_then(|found| {
            let mut content = decode::encode(record, typed, &self.run.schema, found)?;
            if let Some(headers) = decode::kept_headers::<M>(self.set()?.read.get(&key).and_then(Option::as_ref)) {
                content.headers = headers;
            }
            Ok(content.with_ttl(check_ttl(self.run.raw.config(), ttl)?))
        });
        let content = content.map_err(|error| self.located(error, Some(&key)))?;
        self.stage(key, content, ModelIndexes::of::<M>())
    }

    /// Returns the schema version of a record that this transaction has read.
    fn found_version<M: KvModel>(&self, key: &Key) -> Result<Option<u32>> {
        let set = self.set()?;
        let found = set.read.get(key).and_then(Option::as_ref).filter(|entry| entry.is_live());
        found.map(decode::stored_version::<M>).transpose()
    }

    fn stage_removal<K: ModelKey>(&self, key: &K, kind: WriteKind) -> Result<()> {
        let key = self.encode(key)?;
        // The handle knows only its own model. Index entries of a record of another model stay until a repair.
        let indexes = ModelIndexes::of::<T>().filter(|_| TypeId::of::<K>() == TypeId::of::<T::Key>());
        let target = self.run.schema.target::<T>().map_err(|error| self.located(error, Some(&key)))?;
        self.stage(key, Content::removal(kind, target), indexes)
    }

    /// Returns the newest entry of a key, as this transaction sees it.
    async fn newest(&self, key: &Key) -> Result<Option<RawEntry>> {
        if let Some(content) = self.set()?.written.get(key) {
            return Ok(Some(content.entry(key, Revision::ZERO, SystemTime::UNIX_EPOCH)));
        }
        self.run.read(key).await.map_err(|error| self.located(error, Some(key)))
    }

    /// Writes a record, whether its key has a record or not.
    ///
    /// # Errors
    ///
    /// Returns an error if the record cannot be encoded or if there are too many writes. Returns `InvalidBatch` if its
    /// model declares another bucket.
    pub fn put<M: KvModel>(&self, record: &M) -> Result<()> {
        self.stage_record(record, None)
    }

    /// Writes a record with a TTL: at least one second, rounded up to whole seconds.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`put`](Self::put). Also fails if the bucket does not keep one revision of each key, or
    /// has a shorter `ttl`.
    pub fn put_for<M: SingleRevision>(&self, record: &M, ttl: Duration) -> Result<()> {
        self.stage_record(record, Some(ttl))
    }

    /// Writes a record if its key has no live record.
    ///
    /// # Errors
    ///
    /// Returns `AlreadyExists` if the key has a live record. Also returns the errors of a read and of
    /// [`put`](Self::put).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the record is not written.
    pub async fn create<M: KvModel>(&self, record: &M) -> Result<()> {
        self.check::<M>()?;
        let key = self.encode(&record.key())?;
        match self.newest(&key).await? {
            Some(entry) if !entry.is_removed() => {
                let error = Error::new(ErrorKind::AlreadyExists);
                // A record that this run wrote has no revision yet.
                let error = if entry.revision > Revision::ZERO { error.at_revision(entry.revision) } else { error };
                Err(self.located(error, Some(&key)))
            }
            _ => self.stage_record(record, None),
        }
    }

    /// Removes the record of a key, whether it exists or not. The history and a delete marker remain.
    ///
    /// If the record is of another model with indexes, call this method of [`model`](Self::model). Otherwise its index
    /// entries stay until [`verify_indexes`](crate::Bucket::verify_indexes) repairs them. Lookups skip such entries.
    ///
    /// # Errors
    ///
    /// Returns an error if the key cannot be encoded, or if there are too many writes.
    pub fn delete<K: ModelKey>(&self, key: &K) -> Result<()> {
        self.stage_removal(key, WriteKind::Delete)
    }

    /// Removes the record of a key with its history. A delete marker remains. See [`delete`](Self::delete) for a record of
    /// another model with indexes.
    ///
    /// # Errors
    ///
    /// Returns an error if the key cannot be encoded, or if there are too many writes.
    pub fn purge<K: ModelKey>(&self, key: &K) -> Result<()> {
        self.stage_removal(key, WriteKind::Purge)
    }

    /// Returns the same transaction for the records of another model in the same bucket.
    ///
    /// If `M` declares another bucket, every method of the result returns `InvalidBatch`.
    pub fn model<M: KvModel>(&self) -> Tx<M> {
        Tx::new(&self.run)
    }
}

impl<T: KvModel> Tx<T> {
    /// Reads the record of a key. Returns `None` if the key has no live record.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`get`](crate::ReadBucket::get).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the read does not become a precondition of the transaction.
    pub async fn get(&self, key: &T::Key) -> Result<Option<T>> {
        let key = self.encode(key)?;
        let Some(entry) = self.newest(&key).await? else { return Ok(None) };
        decode::value::<T>(&entry).map_err(|error| self.located(error, Some(&key)))
    }
}

impl<T: KvModel> Tx<T> {
    /// Reads the record with a unique value, as this transaction sees it. Returns `None` if no record has the value.
    ///
    /// The claim of the value and the record become preconditions of the transaction. So the result also holds when the
    /// writes are applied, and no other record gets the value before.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`get_by`](crate::ReadBucket::get_by).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the value may become a precondition of the transaction.
    pub async fn get_by(&self, lookup: impl UniqueLookup<T>) -> Result<Option<T>>
    where
        T: Indexed,
    {
        self.check::<T>()?;
        let lookup = lookup.into_unique();
        let staged = |set: &ReadWriteSet| {
            let mut entries =
                set.written.iter().map(|(key, content)| content.entry(key, Revision::ZERO, SystemTime::UNIX_EPOCH));
            // A record of another model is not found.
            entries.find_map(|entry| decode::value::<T>(&entry).ok().flatten().filter(|record| lookup.matches(record)))
        };
        let claims = lookup.claims().map_err(|error| self.located(error.into(), None))?;
        let Some(info) = lookup.info() else { return Ok(None) };
        let mut build = self.run.schema.readable_build::<T>(info).ok();
        loop {
            for claim in &claims {
                let claim = self.run.read_claim(claim).await.map_err(|error| self.located(error, None))?;
                let Some(Claim { owner, .. }) = claim else { continue };
                let Some(entry) = self.newest(&owner).await? else { continue };
                let record = decode::value::<T>(&entry).map_err(|error| self.located(error, Some(&owner)))?;
                if let Some(record) = record.filter(|record| lookup.matches(record)) {
                    return Ok(Some(record));
                }
            }
            if let Some(record) = staged(&*self.set()?) {
                return Ok(Some(record));
            }
            let current = self.run.current_build::<T>(info).await.map_err(|error| self.located(error, None))?;
            if build.as_ref() == Some(&current) {
                return Ok(None);
            }
            // The index was dropped and built again, perhaps after the claims were read.
            build = Some(current);
            let mut set = self.set()?;
            claims.iter().for_each(|claim| _ = set.claims.remove(claim));
        }
    }
}

/// Shows keys, and no values.
impl<T> fmt::Debug for Tx<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = self.run.set();
        let keys = |keys: Vec<&Key>| keys.into_iter().map(ToString::to_string).collect::<Vec<_>>();
        f.debug_struct("Tx")
            .field("bucket", &self.run.raw.config().name)
            .field("read", &keys(set.read.keys().collect()))
            .field("written", &keys(set.written.keys().collect()))
            .finish()
    }
}
