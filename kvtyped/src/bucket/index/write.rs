//! Writes of records with their index entries and claims.

use futures::FutureExt;
use futures::future::join_all;
use tokio::time::Instant;

use super::attempt::{Attempt, Effect, End, Means, Reply, Task};
use super::slot::{BaseValues, Slot, slot_changes};
use super::store::{claim_body, replaced_values, write_reply};
use crate::backend::{Batch, Deadline, OperationId, Precondition, RawEntry, Write};
use crate::bucket::content::{Content, Target};
use crate::bucket::entry::Entry;
use crate::bucket::handle::ReadBucket;
use crate::bucket::precondition::is_superseded;
use crate::config::Storage;
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::key::Key;
use crate::model::KvModel;
use crate::model::index::{IndexValues, kept_by_writers, values_of};
use crate::revision::Revision;

/// A write of a record with its index entries.
pub(crate) struct IndexedWrite<'a> {
    /// The record that the write replaces.
    pub(crate) old: Replaced<'a>,
    /// The revision of that record.
    pub(crate) expected: Revision,
    pub(crate) content: Content,
    /// The precondition on another record.
    pub(crate) on: Option<&'a Precondition>,
    /// Whether many writes are sent at once.
    pub(crate) is_one_of_many: bool,
}

/// The record that a write replaces, as far as the writer knows it.
pub(crate) enum Replaced<'a> {
    /// The entry of the key, if there is one.
    Entry(Option<&'a RawEntry>),
    /// The index values of a record whose writer has kept its entries.
    Values(IndexValues),
}

impl Replaced<'_> {
    fn into_base<T: KvModel>(self) -> BaseValues {
        match self {
            Self::Entry(entry) => replaced_values::<T>(entry),
            Self::Values(values) => BaseValues { values: Some(values), is_kept: true },
        }
    }
}

/// A write of a record over a known revision.
pub(super) struct RecordWrite<'a> {
    pub(super) write: Write,
    pub(super) expected: Revision,
    pub(super) target: Option<Target>,
    pub(super) on: Option<&'a Precondition>,
    pub(super) deadline: Deadline,
}

impl<T: KvModel> ReadBucket<T> {
    /// Writes a record by compare-and-set with its index entries.
    ///
    /// # Errors
    ///
    /// Returns `Conflict` if the record, or a claim that the write needs, has changed, and `NotUnique` if another record
    /// has a unique value.
    pub(crate) async fn write_indexed(
        &self,
        key: &Key,
        write: IndexedWrite<'_>,
        deadline: Deadline,
    ) -> Result<(Revision, OperationId)> {
        let IndexedWrite { old, expected, mut content, on, is_one_of_many } = write;
        let (index, target) = (content.index.take(), content.target);
        let schema = self.schema();
        if index.is_some() {
            content.headers = content.headers.with_indexes(kept_by_writers(T::__INDEXES));
        }
        let write = content.write(key.clone()).if_revision(expected);
        // Load the epoch of the connection before the request.
        let epoch = self.inner.raw.identity().connection_epoch;
        let changes = match &index {
            Some(new) => slot_changes::<T>(key, &old.into_base::<T>(), new)?,
            None => Default::default(),
        };
        let (revision, id) = match changes.is_empty() {
            true => {
                let id = write.id.clone();
                (self.inner.write(write, on, target, deadline).await?, id)
            }
            false => {
                let count = changes.entries.len() + changes.claims.len() + 2;
                // A server takes a limited number of batches at once, so single writes are faster in bulk.
                let is_batch = !is_one_of_many && self.has_cheap_batches(count);
                let means = if is_batch { Means::Batch } else { Means::Singly };
                let target = target.map(|target| schema.for_entries(target));
                let attempt = Attempt::new(key.clone(), expected, changes, means);
                self.drive(attempt, RecordWrite { write, expected, target, on, deadline }).boxed().await?
            }
        };
        if let Some(new) = index {
            self.inner.known_values.remember(key, revision, epoch, new);
        }
        Ok((self.record_write(revision, &id), id))
    }

    /// Remembers the index values of a record that was read, if its writer has kept its entries.
    pub(crate) fn remember_values(&self, entry: &RawEntry, record: &Entry<T>, epoch: u64) {
        if entry.headers.indexes() == kept_by_writers(T::__INDEXES) {
            self.inner.known_values.remember(&entry.key, entry.revision, epoch, values_of::<T>(record));
        }
    }

    /// Whether one batch of this many messages costs less than single writes. A server with file storage and without
    /// replicas creates a file for each batch.
    fn has_cheap_batches(&self, count: usize) -> bool {
        let config = self.config();
        config.atomic == Some(true)
            && count <= Batch::MAX_MESSAGES
            && (config.storage == Some(Storage::Memory) || config.replicas.is_some_and(|replicas| replicas > 1))
    }

    /// Performs the effects of an attempt until it ends.
    pub(super) async fn drive(
        &self,
        mut attempt: Attempt<Key, Slot>,
        mut record: RecordWrite<'_>,
    ) -> Result<(Revision, OperationId)> {
        let (mut conflict, begun) = (None, Instant::now());
        loop {
            let pending = attempt.pending();
            if pending.iter().any(|(task, _)| *task == Task::Record) {
                // A batch that was refused is another operation.
                record.write.id = OperationId::generate();
                let has_claims = attempt.claims().next().is_some();
                if let Err(error) = self.inner.confirm_entries(begun, has_claims, record.deadline).await {
                    attempt.abandon();
                    self.erase_slots(attempt.key(), attempt.erasures()).await;
                    return Err(error);
                }
            }
            let effects = pending.iter().map(|(_, effect)| self.perform(effect, &record, attempt.key()));
            let replies = join_all(effects).await;
            let mut failure = None;
            for ((task, _), reply) in pending.into_iter().zip(replies) {
                match reply {
                    Ok(reply) => attempt.apply(task, reply),
                    Err(error) if task == Task::Record && is_conflict(&error) => {
                        attempt.apply(task, Reply::Refused);
                        conflict = Some(error);
                    }
                    Err(error) => failure = failure.or(Some(error)),
                }
            }
            if let Some(error) = failure {
                // A record whose outcome is unknown may be stored, so its entries stay.
                if error.outcome() == Outcome::NotApplied {
                    attempt.abandon();
                    self.erase_slots(attempt.key(), attempt.erasures()).await;
                }
                return Err(error);
            }
            let Some(end) = attempt.end() else { continue };
            self.erase_slots(attempt.key(), attempt.erasures()).await;
            return match end {
                End::Written(revision) => Ok((*revision, record.write.id)),
                End::NotUnique { slot, owner } => {
                    let index = slot.info::<T>().map_or("", |info| info.name);
                    Err(Error::new(ErrorKind::NotUnique { index, owner: owner.to_string() }))
                }
                End::Retry { at_least } => Err(conflict.unwrap_or_else(|| {
                    let actual = (*at_least > record.expected).then_some(*at_least);
                    Error::new(ErrorKind::Conflict { expected: record.expected, actual })
                })),
                End::Stored => Ok((Revision::ZERO, record.write.id)),
                End::Unknown => Err(record.deadline.error().unknown_outcome()),
            };
        }
    }

    /// Performs one effect. The errors of the record keep their kind and outcome.
    async fn perform(&self, effect: &Effect<Key, Slot>, record: &RecordWrite<'_>, key: &Key) -> Result<Reply<Key>> {
        let RecordWrite { write, expected, target, on, deadline } = record;
        match effect {
            Effect::CreateEntry(slot) => {
                self.write_slot(slot, Default::default(), Some(Revision::ZERO), *deadline).await
            }
            Effect::PutEntry(slot) => self.write_slot(slot, Default::default(), None, *deadline).await,
            Effect::ReadClaim(slot) => self.read_claim(slot, *deadline).await,
            Effect::WriteClaim { slot, over } => {
                self.write_slot(slot, claim_body(key, *expected), Some(*over), *deadline).await
            }
            Effect::ReadOwner { owner, slot } => self.read_owner(owner, slot, *deadline).await,
            Effect::Rewrite { owner, revision } => self.rewrite_owner(owner, *revision, *target, *deadline).await,
            Effect::WriteRecord => self.inner.write(write.clone(), *on, *target, *deadline).await.map(Reply::Written),
            Effect::Commit { entries, claims } => {
                let entries = entries.iter().map(|slot| Write::index_entry(slot.key.clone(), Default::default()));
                let claim = |(slot, over): &(Slot, Revision)| {
                    Write::index_entry(slot.key.clone(), claim_body(key, *expected)).if_revision(*over)
                };
                let writes = entries.chain(claims.iter().map(claim)).chain([write.clone()]).collect();
                let batch = Batch { writes, preconditions: on.iter().map(|on| (*on).clone()).collect() };
                match self.inner.commit(batch, target.as_slice(), *deadline).await {
                    Ok(revisions) => match revisions.last() {
                        Some(revision) => Ok(Reply::Written(*revision)),
                        None => Err(Error::unavailable("the server returned no revision").unknown_outcome()),
                    },
                    Err(error) => match on {
                        Some(on)
                            if is_conflict(&error)
                                && is_superseded(&*self.inner.raw, on, &error, *deadline).await? =>
                        {
                            Err(Error::new(ErrorKind::Fenced))
                        }
                        _ if is_conflict(&error) && error.key() != Some(key.as_str()) => write_reply(Err(error)),
                        _ => Err(error),
                    },
                }
            }
        }
    }
}

fn is_conflict(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Conflict { .. })
}
