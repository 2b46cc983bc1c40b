//! The index values of records that this process has read or written. An `update` over such a record needs no read.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::bucket::recent::Recent;
use crate::key::Key;
use crate::model::index::IndexValues;
use crate::revision::Revision;

/// The bound on remembered values, in bytes. It fits some thousand records.
const MAX_BYTES: usize = 4 * 1_024 * 1_024;

/// Remembered index values. The values of a revision never change, so no entry is outdated.
#[derive(Debug)]
pub(crate) struct KnownValues(Mutex<Recent<Known>>);

#[derive(Debug)]
struct Known {
    revision: Revision,
    /// The epoch of the connection. In a later epoch, the revision may belong to another record.
    epoch: u64,
    values: IndexValues,
}

impl Default for KnownValues {
    fn default() -> Self {
        Self(Mutex::new(Recent::new(MAX_BYTES)))
    }
}

impl KnownValues {
    fn all(&self) -> MutexGuard<'_, Recent<Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers the values of a revision, in place of those of another revision.
    pub(crate) fn remember(&self, key: &Key, revision: Revision, epoch: u64, values: IndexValues) {
        let heap = values.iter().map(|value| size_of_val(value) + value.text.len()).sum();
        self.all().add(key.clone(), Known { revision, epoch, values }, heap);
    }

    /// Removes the values of a key, and returns them if they are of this revision and epoch.
    pub(crate) fn take(&self, key: &Key, revision: Revision, epoch: u64) -> Option<IndexValues> {
        let known = self.all().take(key)?;
        (known.revision == revision && known.epoch == epoch).then_some(known.values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_belong_to_one_revision_and_connection() {
        let known = KnownValues::default();
        let key = Key::new("a").expect("a key");
        for (revision, epoch, is_known) in [(7, 1, true), (8, 1, false), (7, 2, false)] {
            known.remember(&key, Revision::new(7), 1, IndexValues::default());
            assert_eq!(known.take(&key, Revision::new(revision), epoch).is_some(), is_known);
            assert!(known.take(&key, Revision::new(7), 1).is_none(), "returned once");
        }
    }
}
