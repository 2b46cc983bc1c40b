//! The changes of a bucket by one verb.

use crate::revision::Revision;

/// The entries that one verb appended and removed, in the order of the changes.
///
/// An entry that expires at once is in both lists.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
#[must_use = "a durable backend must record every change"]
pub(crate) struct Changes {
    /// The revisions of the appended entries.
    pub(crate) stored: Vec<Revision>,
    /// The revisions of the removed entries.
    pub(crate) removed: Vec<Revision>,
}

impl Changes {
    /// Returns the revision of the last appended entry, or [`Revision::ZERO`] if no entry was appended.
    pub(crate) fn last_stored(&self) -> Revision {
        self.stored.last().copied().unwrap_or_default()
    }
}
