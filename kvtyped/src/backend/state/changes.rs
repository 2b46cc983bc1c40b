//! The changes of a bucket by one verb.

use super::entry::StoredEntry;
use crate::revision::Revision;

/// The entries that one verb appended and removed, in the order of the changes.
///
/// An entry that expires at once is in both lists.
#[derive(Debug, Default)]
#[must_use = "a durable backend must record every change"]
pub(crate) struct Changes {
    /// The revisions of the appended entries.
    pub(crate) stored: Vec<Revision>,
    /// The removed entries.
    pub(crate) removed: Vec<Removal>,
}

/// A removed entry, with everything that its return needs.
#[derive(Debug)]
pub(crate) struct Removal {
    pub(crate) revision: Revision,
    pub(crate) entry: StoredEntry,
    /// The highest removed revision before this removal.
    pub(crate) last_removed: Revision,
}

impl Changes {
    /// Whether nothing was changed.
    pub(crate) fn is_empty(&self) -> bool {
        self.stored.is_empty() && self.removed.is_empty()
    }
}
