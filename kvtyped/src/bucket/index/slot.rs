//! The addresses of the index entries and claims of a model.

use std::fmt;

use super::attempt::SlotChanges;
use crate::error::Result;
use crate::key::Key;
use crate::model::KvModel;
use crate::model::index::{IndexInfo, IndexValue, IndexValues, claim_key, entry_key};

/// The address of an index entry, or of the claim of a unique value. Its `Debug` output does not contain the value.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Slot {
    /// The position of the index in the list of the model.
    pub(crate) index: usize,
    /// The text of the value.
    pub(crate) text: String,
    /// The key in the index key space.
    pub(crate) key: Key,
}

impl Slot {
    /// Returns the address of a value of a record. `None` for an eventual index, whose entries the follower writes.
    ///
    /// # Errors
    ///
    /// Returns `InvalidKey` if the value and the key are too long together.
    pub(crate) fn new<T: KvModel>(value: &IndexValue, record: &Key) -> Result<Option<Self>> {
        match T::__INDEXES.get(value.index) {
            Some(info) if info.is_eventual => Ok(None),
            _ => Self::of_any::<T>(value, record),
        }
    }

    /// Returns the address of a value of a record, also in an eventual index.
    ///
    /// # Errors
    ///
    /// Returns `InvalidKey` if the value and the key are too long together.
    pub(crate) fn of_any<T: KvModel>(value: &IndexValue, record: &Key) -> Result<Option<Self>> {
        let IndexValue { index, text } = value;
        let Some(info) = T::__INDEXES.get(*index) else { return Ok(None) };
        let key = match info.is_unique() {
            true => claim_key(T::SCHEMA.name, info, text)?,
            false => entry_key(T::SCHEMA.name, info, text, record)?,
        };
        Ok(Some(Self { index: *index, text: text.clone(), key }))
    }

    pub(crate) fn info<T: KvModel>(&self) -> Option<&'static IndexInfo> {
        T::__INDEXES.get(self.index)
    }

    /// Whether a record with these values has the value of this slot.
    pub(crate) fn is_value_of(&self, values: &IndexValues) -> bool {
        values.of_index(self.index).any(|value| value.text == self.text)
    }
}

/// The record that a write replaces.
#[derive(Debug, Clone)]
pub(crate) struct BaseValues {
    /// The index values. `None` if the record does not decode: its entries then stay.
    pub(super) values: Option<IndexValues>,
    /// Whether the writer of the record has kept its entries. Otherwise they may be missing, or may be about to be erased
    /// by an earlier writer.
    pub(super) is_kept: bool,
}

/// Returns what a write changes.
pub(crate) fn slot_changes<T: KvModel>(record: &Key, old: &BaseValues, new: &IndexValues) -> Result<SlotChanges<Slot>> {
    let nothing = IndexValues::default();
    let known = old.values.as_ref().unwrap_or(&nothing);
    let stored = if old.is_kept { known } else { &nothing };
    let mut changes = SlotChanges { entries: Vec::new(), claims: Vec::new(), lost: Vec::new() };
    for value in new.without(stored) {
        let Some(slot) = Slot::new::<T>(value, record)? else { continue };
        match slot.info::<T>().is_some_and(IndexInfo::is_unique) {
            true => changes.claims.push(slot),
            false => changes.entries.push(slot),
        }
    }
    for value in known.without(new) {
        // A value that is too long for an entry has none.
        changes.lost.extend(Slot::new::<T>(value, record).ok().flatten());
    }
    Ok(changes)
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("index", &self.index).finish_non_exhaustive()
    }
}
