//! The entries of the index key space: one for each key, without a history and without expiry.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::entry::{STEP_SIZE, StoredEntry};
use crate::key::{Key, Pattern};
use crate::revision::Revision;

/// The index entries of a bucket.
#[derive(Debug, Default)]
pub(crate) struct IndexEntries {
    entries: BTreeMap<Revision, StoredEntry>,
    /// The newest revision of each key.
    keys: BTreeMap<Key, Revision>,
    /// The other revision of a key whose entry is being replaced, or whose replacement is being reverted.
    replaced: BTreeMap<Key, Revision>,
}

/// One step of a listing of keys.
#[derive(Debug, Default)]
pub(crate) struct KeyListing {
    /// The keys that match.
    pub(crate) found: Vec<Key>,
    /// The last examined key, or `None` if all keys were examined.
    pub(crate) last: Option<Key>,
}

impl IndexEntries {
    /// Adds an entry. If its key has another entry, the caller then removes one of them.
    pub(super) fn insert(&mut self, revision: Revision, stored: StoredEntry) {
        if let Some(other) = self.keys.insert(stored.key.clone(), revision) {
            self.keys.insert(stored.key.clone(), revision.max(other));
            self.replaced.insert(stored.key.clone(), revision.min(other));
        }
        self.entries.insert(revision, stored);
    }

    /// Removes an entry.
    pub(super) fn take(&mut self, revision: Revision) -> Option<StoredEntry> {
        let stored = self.entries.remove(&revision)?;
        let other = self.replaced.remove(&stored.key);
        if self.newest(&stored.key) == revision {
            match other {
                Some(other) => self.keys.insert(stored.key.clone(), other),
                None => self.keys.remove(&stored.key),
            };
        }
        Some(stored)
    }

    /// Returns the revision of the entry of a key.
    pub(super) fn newest(&self, key: &Key) -> Revision {
        self.keys.get(key).copied().unwrap_or_default()
    }

    /// Returns the entry of a revision.
    pub(super) fn get(&self, revision: Revision) -> Option<&StoredEntry> {
        self.entries.get(&revision)
    }

    /// Returns the entry of a revision.
    pub(super) fn get_mut(&mut self, revision: Revision) -> Option<&mut StoredEntry> {
        self.entries.get_mut(&revision)
    }

    /// Lists some keys after `after`.
    pub(super) fn list(&self, pattern: &Pattern, after: Option<&Key>) -> KeyListing {
        list(&self.keys, pattern, after)
    }
}

/// Examines some keys of a map after `after`.
pub(super) fn list<V>(keys: &BTreeMap<Key, V>, pattern: &Pattern, after: Option<&Key>) -> KeyListing {
    let prefix = pattern.literal_prefix();
    let begin = Key::new(prefix.trim_end_matches('.')).ok();
    let start = match (after, &begin) {
        (Some(after), _) => Bound::Excluded(after),
        (None, Some(begin)) => Bound::Included(begin),
        (None, None) => Bound::Unbounded,
    };
    let mut listing = KeyListing::default();
    let is_below = |key: &Key| key.as_str() < prefix.as_str() || key.as_str().starts_with(&prefix);
    for (examined, (key, _)) in (1..).zip(keys.range((start, Bound::Unbounded)).take_while(|(key, _)| is_below(key))) {
        if pattern.matches(key.as_str()) {
            listing.found.push(key.clone());
        }
        if examined == STEP_SIZE {
            listing.last = Some(key.clone());
            break;
        }
    }
    listing
}
