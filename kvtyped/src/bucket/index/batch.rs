//! Batches of records with their index entries and claims.

use std::collections::{HashMap, HashSet};

use futures::future::join_all;
use tokio::time::Instant;

use super::attempt::{Attempt, Effect, End, Means, Reply, SlotChanges, Task};
use super::slot::{BaseValues, Slot, slot_changes};
use super::store::{claim_body, replaced_values, stored_values};
use crate::backend::{Batch, Deadline, KeySpace, OperationId, Precondition, RawEntry, Write};
use crate::bucket::content::Target;
use crate::bucket::handle::ReadBucket;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::model::KvModel;
use crate::model::index::{IndexInfo, IndexValues, kept_by_writers};
use crate::revision::Revision;

/// The indexes of one of the models that take part in a batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ModelIndexes {
    indexes: &'static [IndexInfo],
    values: fn(Option<&RawEntry>) -> Option<IndexValues>,
    replaced: fn(Option<&RawEntry>) -> BaseValues,
    changes: fn(&Key, &BaseValues, &IndexValues) -> Result<SlotChanges<Slot>>,
}

impl ModelIndexes {
    /// Returns the indexes of a model. `None` for a model without indexes.
    pub(crate) fn of<T: KvModel>() -> Option<Self> {
        if const { T::__INDEXES.is_empty() } {
            return None;
        }
        Some(Self {
            indexes: T::__INDEXES,
            values: stored_values::<T>,
            replaced: replaced_values::<T>,
            changes: slot_changes::<T>,
        })
    }
}

/// The write of a record in a batch.
#[derive(Debug)]
pub(crate) struct BatchRecord {
    /// The write, with the precondition on its key if the record has indexes.
    pub(crate) write: Write,
    /// The entry that the write replaces, the index values of the new record, and the indexes of its model.
    pub(crate) indexed: Option<(Option<RawEntry>, IndexValues, ModelIndexes)>,
}

impl BatchRecord {
    /// Returns the write with an operation id, and with the mark of its indexes.
    fn write_as(&self, id: OperationId) -> Write {
        let mut write = Write { id, ..self.write.clone() };
        if let Some((_, _, indexes)) = &self.indexed {
            write.headers = write.headers.with_indexes(kept_by_writers(indexes.indexes));
        }
        write
    }
}

struct Member {
    attempt: Attempt<Key, Slot>,
    indexes: ModelIndexes,
    /// The position of the record in the batch.
    position: usize,
}

/// Returns the conflict of a claim over another revision than the transaction has read.
fn contradiction(claim: &Write, preconditions: &[Precondition]) -> Option<Error> {
    let over = claim.precondition.as_ref()?;
    let same_claim = |read: &&Precondition| (read.space, &read.key) == (over.space, &over.key);
    let expected = preconditions.iter().find(same_claim)?.revision;
    let kind = ErrorKind::Conflict { expected, actual: Some(over.revision) };
    (expected != over.revision).then(|| Error::new(kind))
}

impl<T: KvModel> ReadBucket<T> {
    /// Commits records with their entries and claims. Returns the revisions and operations of the records, in their order.
    ///
    /// # Errors
    ///
    /// Returns `Conflict` if a record, a check or a claim has changed, and `NotUnique` if a record outside the batch has
    /// a unique value.
    pub(crate) async fn commit_indexed(
        &self,
        records: Vec<BatchRecord>,
        preconditions: Vec<Precondition>,
        targets: &[Target],
        deadline: Deadline,
    ) -> Result<Vec<(Revision, OperationId)>> {
        let (mut members, values) = members(&records)?;
        let checked = |slot: &Slot| {
            let is_of_slot = |check: &&Precondition| check.space == KeySpace::Index && check.key == slot.key;
            preconditions.iter().find(is_of_slot).map(|check| check.revision)
        };
        for Member { attempt, .. } in &mut members {
            // The transaction has read a claim that it writes.
            if attempt.claims().any(|slot| checked(slot).is_some_and(|revision| revision > Revision::ZERO)) {
                attempt.apply(Task::Record, Reply::Refused);
            }
        }
        let (schema, begun) = (self.schema(), Instant::now());
        let targets: Vec<_> = targets.iter().map(|target| schema.for_entries(*target)).collect();
        let target = targets.first().copied();
        loop {
            self.settle_claims(&mut members, &values, target, deadline).await?;
            let (mut entries, mut claims) = (Vec::new(), Vec::new());
            for Member { attempt, .. } in &members {
                for (_, effect) in attempt.pending() {
                    let Effect::Commit { entries: slots, claims: planned } = effect else { continue };
                    if let Some((slot, _)) =
                        planned.iter().find(|(slot, over)| checked(slot).is_some_and(|at| at != *over))
                    {
                        let expected = checked(slot).unwrap_or_default();
                        let conflict = Error::new(ErrorKind::Conflict { expected, actual: None });
                        return Err(conflict.with_key(attempt.key().as_str()));
                    }
                    entries.extend(slots.into_iter().map(|slot| Write::index_entry(slot.key, Default::default())));
                    claims.extend(planned.into_iter().map(|(slot, over)| {
                        Write::index_entry(slot.key, claim_body(attempt.key(), attempt.expected())).if_revision(over)
                    }));
                }
            }
            // A batch that was refused is another operation.
            let ids: Vec<_> = records.iter().map(|_| OperationId::generate()).collect();
            let own = records.iter().zip(&ids).map(|(record, id)| record.write_as(id.clone()));
            self.inner.confirm_entries(begun, !claims.is_empty(), deadline).await?;
            let contradiction = claims.iter().find_map(|claim| contradiction(claim, &preconditions));
            let writes = entries.into_iter().chain(claims).chain(own).collect();
            let batch = Batch { writes, preconditions: preconditions.clone() };
            let committed = match contradiction {
                Some(conflict) => Err(conflict),
                None => self.commit_batch(batch, &targets, deadline).await,
            };
            match committed {
                Ok(revisions) => {
                    let revisions = revisions[revisions.len().saturating_sub(records.len())..].to_vec();
                    for Member { attempt, position, .. } in &mut members {
                        let revision = revisions.get(*position).copied().unwrap_or_default();
                        attempt.apply(Task::Record, Reply::Written(revision));
                        self.erase_slots(attempt.key(), attempt.erasures()).await;
                    }
                    return Ok(revisions.into_iter().zip(ids).collect());
                }
                Err(error) if matches!(error.kind(), ErrorKind::Conflict { .. }) => {
                    // A claim that was expected not to exist may exist.
                    let mut guesses = members.iter_mut().filter(|member| member.attempt.has_guess()).peekable();
                    if guesses.peek().is_none() {
                        return Err(error);
                    }
                    guesses.for_each(|member| member.attempt.apply(Task::Record, Reply::Refused));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads the claims that a batch has met, and makes pending writers of their owners fail.
    async fn settle_claims(
        &self,
        members: &mut [Member],
        values: &HashMap<Key, IndexValues>,
        target: Option<Target>,
        deadline: Deadline,
    ) -> Result<()> {
        loop {
            let mut pending = Vec::new();
            for (index, member) in members.iter().enumerate() {
                let tasks = member.attempt.pending().into_iter().filter(|(task, _)| *task != Task::Record);
                pending.extend(tasks.map(|(task, effect)| (index, member.indexes.values, task, effect)));
            }
            if pending.is_empty() {
                return Ok(());
            }
            let replies = join_all(pending.iter().map(|(_, values_of, _, effect)| async move {
                match effect {
                    Effect::ReadClaim(slot) => self.read_claim(slot, deadline).await,
                    Effect::ReadOwner { owner, slot } => match values.get(owner) {
                        // The batch itself takes the value from its owner.
                        Some(new) => {
                            let has_value = slot.is_value_of(new);
                            Ok(Reply::Owner { revision: Revision::new(u64::MAX), has_value })
                        }
                        None => self.read_owner_as(owner, slot, *values_of, deadline).await,
                    },
                    Effect::Rewrite { owner, revision } => self.rewrite_owner(owner, *revision, target, deadline).await,
                    _ => Ok(Reply::Refused),
                }
            }));
            for ((index, _, task, _), reply) in pending.iter().zip(replies.await) {
                let Some(member) = members.get_mut(*index) else { continue };
                member.attempt.apply(*task, reply?);
            }
            for Member { attempt, indexes, .. } in members.iter() {
                match attempt.end() {
                    Some(End::NotUnique { slot, owner }) => return Err(not_unique(*indexes, slot, owner)),
                    Some(_) => {
                        let kind = ErrorKind::Conflict { expected: attempt.expected(), actual: None };
                        return Err(Error::new(kind).with_key(attempt.key().as_str()));
                    }
                    None => {}
                }
            }
        }
    }
}

/// Returns the attempts of the indexed records, and the new index values of each.
fn members(records: &[BatchRecord]) -> Result<(Vec<Member>, HashMap<Key, IndexValues>)> {
    let (mut all, mut values) = (Vec::new(), HashMap::new());
    let mut gained: HashMap<Slot, Key> = HashMap::new();
    for (position, BatchRecord { write, indexed }) in records.iter().enumerate() {
        let Some((base, new, indexes)) = indexed else { continue };
        let changes = (indexes.changes)(&write.key, &(indexes.replaced)(base.as_ref()), new)?;
        for slot in &changes.claims {
            if let Some(other) = gained.insert(slot.clone(), write.key.clone()) {
                return Err(not_unique(*indexes, slot, &other));
            }
        }
        values.insert(write.key.clone(), new.clone());
        let expected = write.precondition.as_ref().map_or(Revision::ZERO, |precondition| precondition.revision);
        all.push((write.key.clone(), expected, changes, *indexes, position));
    }
    let gained: HashSet<&Slot> = gained.keys().collect();
    let member = |(key, expected, mut changes, indexes, position): (_, _, SlotChanges<Slot>, _, _)| {
        // Another record of the batch takes the value.
        changes.lost.retain(|slot| !gained.contains(slot));
        Member { attempt: Attempt::new(key, expected, changes, Means::Batch), indexes, position }
    };
    Ok((all.into_iter().map(member).collect(), values))
}

fn not_unique(indexes: ModelIndexes, slot: &Slot, owner: &Key) -> Error {
    let index = indexes.indexes.get(slot.index).map_or("", |info| info.name);
    Error::new(ErrorKind::NotUnique { index, owner: owner.to_string() })
}
