//! Entries that left a bucket before every attached watch read them.
//!
//! A server sends each change to an attached watch at once, also if the next write removes it. A watch of this backend
//! reads when it is polled. The backlog therefore keeps an entry that leaves the bucket until every attached watch has
//! read past it. The backlog is bounded: beyond the bound it drops the oldest entries. A server behaves the same for a
//! slow consumer, which receives only what is still stored.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::entry::{StoredEntry, first_wanted};
use crate::revision::Revision;

/// The bounds of a backlog: entries and bytes.
pub(crate) const MAX_ENTRIES: usize = 8_192;
pub(crate) const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// The removed entries of a bucket that some attached watch has not read.
#[derive(Debug, Default)]
pub(crate) struct UnreadRemovals {
    entries: BTreeMap<Revision, StoredEntry>,
    /// The size of all entries, counted as a server counts stored messages.
    bytes: u64,
    /// The revisions of the entries that have no later entry of the same key.
    last_of_key: BTreeSet<Revision>,
    /// The position of each attached watch.
    positions: BTreeSet<(Revision, u64)>,
    attached: u64,
    /// The last revision of an entry that was dropped unread and has no later entry of the same key.
    lost: Revision,
}

/// The position of an attached watch.
#[derive(Debug)]
pub(crate) struct Reader {
    id: u64,
    position: Revision,
}

impl UnreadRemovals {
    /// Attaches a watch that wants every change after this revision.
    pub(crate) fn attach(&mut self, position: Revision) -> Reader {
        self.attached += 1;
        let id = self.attached;
        self.positions.insert((position, id));
        Reader { id, position }
    }

    /// Detaches a watch.
    pub(crate) fn detach(&mut self, reader: &Reader) {
        self.positions.remove(&(reader.position, reader.id));
        self.release();
    }

    /// Records that a watch has read up to this revision.
    pub(crate) fn read(&mut self, reader: &mut Reader, position: Revision) {
        if position > reader.position {
            self.positions.remove(&(reader.position, reader.id));
            reader.position = position;
            self.positions.insert((position, reader.id));
            self.release();
        }
    }

    /// Keeps an entry that leaves the bucket if a watch has not read it yet.
    pub(crate) fn keep(&mut self, revision: Revision, stored: &StoredEntry, is_last_of_key: bool) {
        if self.positions.first().is_none_or(|(position, _)| *position >= revision) {
            return;
        }
        self.bytes += stored.size;
        self.entries.insert(revision, stored.clone());
        if is_last_of_key {
            self.last_of_key.insert(revision);
        }
        while self.entries.len() > MAX_ENTRIES || self.bytes > MAX_BYTES {
            if let Some((dropped, true)) = self.pop() {
                self.lost = self.lost.max(dropped);
            }
        }
    }

    /// Drops an entry that has returned into the bucket.
    pub(crate) fn forget(&mut self, revision: Revision) {
        if let Some(stored) = self.entries.remove(&revision) {
            self.bytes -= stored.size;
            self.last_of_key.remove(&revision);
        }
    }

    /// Whether a watch that has read up to this revision missed an entry that has no later entry of the same key.
    pub(crate) fn is_lost_after(&self, position: Revision) -> bool {
        position < self.lost
    }

    /// Returns the first wanted entry after `after` and up to `until`, or else the revision that the search reached.
    pub(crate) fn next(
        &self,
        after: Revision,
        until: Revision,
        wanted: &impl Fn(Revision, &StoredEntry) -> bool,
    ) -> (Revision, Option<&StoredEntry>) {
        first_wanted(self.entries.range((Bound::Excluded(after), Bound::Included(until))), until, wanted)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Drops the entries that every attached watch has read.
    fn release(&mut self) {
        let least = self.positions.first().map(|(position, _)| *position);
        while self.entries.first_key_value().is_some_and(|(first, _)| least.is_none_or(|least| *first <= least)) {
            self.pop();
        }
    }

    /// Drops the oldest entry. Returns its revision, and whether it has no later entry of the same key.
    fn pop(&mut self) -> Option<(Revision, bool)> {
        let (revision, stored) = self.entries.pop_first()?;
        self.bytes -= stored.size;
        Some((revision, self.last_of_key.remove(&revision)))
    }
}
