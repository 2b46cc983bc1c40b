//! Repair of the entries and claims of stored records.

use std::collections::HashMap;

use futures::FutureExt;

use super::attempt::{Attempt, Effect, Means, SlotChanges};
use super::clean::{CleanEnd, Cleaning};
use super::slot::Slot;
use super::store::stored_values;
use super::write::RecordWrite;
use crate::backend::{Backoff, Deadline, KeySpace, RawEntry, Read, Write, WriteKind};
use crate::bucket::handle::ReadBucket;
use crate::bucket::indexes::stored_claim;
use crate::error::{ErrorKind, Result};
use crate::key::Key;
use crate::model::KvModel;
use crate::model::index::{IndexInfo, IndexValues};
use crate::revision::Revision;

impl<T: KvModel> ReadBucket<T> {
    /// Returns the addresses of a record in some indexes. Empty for a record that does not decode.
    pub(crate) fn slots_of(&self, entry: &RawEntry, is_selected: impl Fn(&IndexInfo) -> bool) -> Vec<Slot> {
        let values: IndexValues = stored_values::<T>(Some(entry)).unwrap_or_default();
        // A value that is too long has no entry: it was stored before the index existed.
        let slot = |value| Slot::new::<T>(value, &entry.key).ok().flatten();
        values.iter().filter_map(slot).filter(|slot| slot.info::<T>().is_some_and(&is_selected)).collect()
    }

    /// Returns the slots of each record that do not exist, or that name another record.
    pub(crate) async fn missing_slots(
        &self,
        records: Vec<(&Key, Vec<Slot>)>,
        deadline: Deadline,
    ) -> Result<Vec<Vec<Slot>>> {
        let keys: Vec<Key> = records.iter().flat_map(|(_, slots)| slots).map(|slot| slot.key.clone()).collect();
        let mut found = self.inner.raw.read_many(KeySpace::Index, &keys, Read::Leader, deadline).await?.into_iter();
        let mut missing = |(key, slots): (&Key, Vec<Slot>)| {
            let is_missing = |slot: &Slot| {
                let found = found.next().flatten();
                !found.is_some_and(|entry| match slot.info::<T>().is_some_and(IndexInfo::is_unique) {
                    true => stored_claim(&entry).is_ok_and(|claim| claim.is_some_and(|claim| claim.owner == *key)),
                    false => true,
                })
            };
            slots.into_iter().filter(is_missing).collect()
        };
        Ok(records.into_iter().map(&mut missing).collect())
    }

    /// Stores entries and claims of a record that was read, whether they exist or not.
    ///
    /// # Errors
    ///
    /// Returns `NotUnique` if another record has a value, and `Conflict` if another writer came first.
    pub(crate) async fn store_slots(&self, entry: &RawEntry, slots: Vec<Slot>, deadline: Deadline) -> Result<()> {
        let (claims, entries) = slots.into_iter().partition(|slot| slot.info::<T>().is_some_and(IndexInfo::is_unique));
        let changes = SlotChanges { entries, claims, lost: Vec::new() };
        let attempt = Attempt::new(entry.key.clone(), entry.revision, changes, Means::SlotsOnly);
        let write = Write::new(entry.key.clone(), WriteKind::Delete);
        let target = self.schema().target::<T>()?;
        let record = RecordWrite { write, expected: entry.revision, target, on: None, deadline };
        match self.drive(attempt, record).boxed().await {
            // The value is too long for the limits of the server now.
            Err(error) if matches!(error.kind(), ErrorKind::TooLarge { .. }) => Ok(()),
            stored => stored.map(drop),
        }
    }

    /// Stores the entries and claims of a record. A record that has changed since was stored by a program that knows the
    /// index, so only its claims are tried again.
    ///
    /// # Errors
    ///
    /// Returns `NotUnique`, with the key of the record, if another record has a value.
    pub(crate) async fn index_record(
        &self,
        mut entry: RawEntry,
        mut slots: Vec<Slot>,
        deadline: Deadline,
    ) -> Result<()> {
        let mut backoff = Backoff::contention();
        while !slots.is_empty() {
            match self.store_slots(&entry, slots.clone(), deadline).await {
                Err(error) if matches!(error.kind(), ErrorKind::Conflict { .. }) => {
                    if !backoff.pause(deadline).await {
                        return Err(deadline.error());
                    }
                }
                stored => return stored.map_err(|error| error.with_key(entry.key.as_str())),
            }
            let mut now = self.newest_of(std::slice::from_ref(&entry.key), deadline).await?;
            let Some(newest) = now.remove(&entry.key) else { return Ok(()) };
            slots.retain(|slot| Self::has_slot(Some(&newest), slot));
            entry = newest;
        }
        Ok(())
    }

    /// Returns the owner of each claim that exists.
    pub(crate) async fn claim_owners(&self, claims: &[Key], deadline: Deadline) -> Result<Vec<Option<Key>>> {
        let found = self.inner.raw.read_many(KeySpace::Index, claims, Read::Leader, deadline).await?;
        found
            .iter()
            .map(|entry| Ok(entry.as_ref().map(stored_claim).transpose()?.flatten().map(|claim| claim.owner)))
            .collect()
    }

    /// Removes an entry or a claim that no record matches. `owner` is the record of an entry, and `None` for a claim.
    pub(crate) async fn clean_slot(&self, slot: Slot, owner: Option<Key>, deadline: Deadline) -> Result<CleanEnd> {
        let target = self.schema().target::<T>()?;
        let mut cleaning = match owner {
            Some(owner) => Cleaning::of_entry(slot.clone(), owner),
            None => Cleaning::of_claim(slot.clone()),
        };
        loop {
            let reply = match cleaning.next() {
                Ok(Effect::ReadClaim(slot)) => self.read_claim(&slot, deadline).await?,
                Ok(Effect::ReadOwner { owner, slot }) => self.read_owner(&owner, &slot, deadline).await?,
                Ok(Effect::Rewrite { owner, revision }) => {
                    self.rewrite_owner(&owner, revision, target, deadline).await?
                }
                // No other effect belongs to a removal.
                Ok(_) => return Ok(CleanEnd::Raced),
                Err(end) => {
                    if let CleanEnd::Erase(through) = end {
                        self.inner.raw.purge_through(KeySpace::Index, &slot.key, through, deadline).await?;
                    }
                    return Ok(end);
                }
            };
            cleaning.apply(reply);
        }
    }

    /// Returns the newest entries of some records at the leader, by their keys.
    pub(crate) async fn newest_of(&self, keys: &[Key], deadline: Deadline) -> Result<HashMap<Key, RawEntry>> {
        let found = self.inner.raw.read_many(KeySpace::Records, keys, Read::Leader, deadline).await?;
        Ok(found.into_iter().flatten().map(|entry| (entry.key.clone(), entry)).collect())
    }

    /// Returns whether a record has the value of a slot at this moment.
    pub(crate) fn has_slot(entry: Option<&RawEntry>, slot: &Slot) -> bool {
        stored_values::<T>(entry).is_none_or(|values| slot.is_value_of(&values))
    }
}

/// Returns whether a revision is that of a stored entry.
pub(crate) fn is_same(before: &RawEntry, now: Option<&RawEntry>) -> bool {
    now.map_or(Revision::ZERO, |now| now.revision) == before.revision
}
