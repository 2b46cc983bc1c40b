//! One bucket as a synchronous state machine: the caller passes the time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;

use super::changes::{Changes, Removal};
use super::entry::{StoredEntry, first_wanted};
use super::index_entries::{IndexEntries, KeyListing, list};
use super::limits::{self, Size};
use super::notify::ChangeNotifier;
use super::unread_removals::UnreadRemovals;
use crate::backend::{Batch, KeySpace, Operation, ReadAt, Write, WriteKind};
use crate::config::BucketConfig;
use crate::error::{Error, Result};
use crate::key::{Key, Pattern};
use crate::revision::Revision;
use crate::ttl::Ttl;

/// A bucket and its entries.
///
/// Times count from the epoch of the backend. Every method except [`advance`](Self::advance) sees the bucket as the
/// last call of `advance` left it. A method that changes entries returns the changes.
#[derive(Debug)]
pub(crate) struct BucketState {
    /// The number of the bucket in its backend. Never reused.
    pub(crate) id: u64,
    pub(crate) config: BucketConfig,
    pub(crate) created: Duration,
    pub(crate) last_revision: Revision,
    /// The size of all entries, as the store of a server counts it.
    pub(crate) bytes: u64,
    /// The records.
    pub(crate) entries: BTreeMap<Revision, StoredEntry>,
    /// The revisions of each key, oldest first. No list is empty. The order of the keys serves searches by a prefix.
    pub(crate) keys: BTreeMap<Key, VecDeque<Revision>>,
    /// The entries of the other key space. No scan and no watch shows them.
    index: IndexEntries,
    /// The highest revision of a record that was ever removed.
    pub(crate) last_removed: Revision,
    /// The number of the last logged effect that no entry of the bucket shows.
    pub(crate) touched: u64,
    /// Nothing expires before this time.
    pub(crate) expiry_paused_until: Duration,
    /// The entries that were removed before every attached watch read them.
    pub(crate) backlog: UnreadRemovals,
    /// The expiry times, with the revisions that expire then.
    pub(crate) expirations: BTreeSet<(Duration, Revision)>,
    /// Notifies watches of changes. Dropped with the bucket.
    pub(crate) notifier: ChangeNotifier,
}

impl BucketState {
    /// Creates an empty bucket. The configuration must be complete.
    pub(crate) fn new(id: u64, config: BucketConfig, now: Duration) -> Self {
        Self {
            id,
            config,
            created: now,
            last_revision: Revision::ZERO,
            bytes: 0,
            entries: BTreeMap::new(),
            keys: BTreeMap::new(),
            index: IndexEntries::default(),
            last_removed: Revision::ZERO,
            touched: 0,
            expiry_paused_until: Duration::ZERO,
            backlog: UnreadRemovals::default(),
            expirations: BTreeSet::new(),
            notifier: ChangeNotifier::default(),
        }
    }

    /// Applies a write. A refused write changes nothing.
    pub(crate) fn write(&mut self, mut write: Write, now: Duration) -> Result<Changes> {
        let size = self.check(&mut write, |size| size)?;
        let record = self.check_limits(size, write.space, &write.key)?;
        let mut changes = Changes::default();
        self.apply(write, record, now, &mut changes);
        Ok(changes)
    }

    /// Applies every message of a batch: its writes in their order, and then the markers that carry checks. A refused
    /// batch changes nothing.
    pub(crate) fn commit(&mut self, batch: Batch, now: Duration) -> Result<Changes> {
        let writes_no_record = batch.writes.iter().all(Write::is_index_entry);
        let mut messages = batch.messages()?;
        if writes_no_record {
            let checks = messages.iter_mut().filter(|message| !message.is_index_entry());
            checks.for_each(|message| message.epoch = self.config.write_epoch);
        }
        let Some(id) = messages.first().map(|write| write.id.clone()) else { return Ok(Changes::default()) };
        let count = messages.len();
        if count > 1 && self.config.atomic != Some(true) {
            return Err(Error::no_batches(&self.config.name));
        }
        let mut sizes = Vec::with_capacity(count);
        for (index, write) in messages.iter_mut().enumerate() {
            let number = index + 1;
            let framed =
                |size: Size| if count == 1 { size } else { size.as_batch_message(&id, number, number == count) };
            let own = (write.space, write.key.clone());
            let checked = write.precondition.as_ref().map(|on| (on.space, on.key.clone()));
            let size = self.check(write, framed).map_err(|error| {
                let (space, key) = checked.filter(|_| error.is_conflict()).unwrap_or(own);
                space.name_key(error, &key)
            })?;
            sizes.push(size);
        }
        let mut bytes = self.bytes;
        let mut records = Vec::with_capacity(count);
        for (write, size) in messages.iter().zip(sizes) {
            let record = self.record(size, write.space, &write.key);
            let replaced = self.replaced(write.space, &write.key);
            limits::check_room(bytes, record, self.config.max_bytes, replaced)?;
            bytes = bytes + record - replaced.unwrap_or_default();
            records.push(record);
        }
        let mut changes = Changes::default();
        for (write, record) in messages.into_iter().zip(records) {
            self.apply(write, record, now, &mut changes);
        }
        Ok(changes)
    }

    /// Checks a write, except for room. Returns the size of its message, which `framed` adjusts in a batch.
    fn check(&self, write: &mut Write, framed: impl Fn(Size) -> Size) -> Result<Size> {
        write.check_space(&self.config)?;
        let size = framed(Size::of_write(write, &self.config));
        size.check(limits::MAX_PAYLOAD)?;
        if write.kind == WriteKind::Purge && self.config.takes_no_purge() {
            return Err(Error::no_rollups(&self.config.name));
        }
        if write.ttl.is_some() && self.config.takes_no_purge() {
            return Err(Error::no_rollups_for_ttl(&self.config.name));
        }
        limits::check_epoch(write, &self.config)?;
        self.check_size(size)?;
        if write.ttl.is_some() && self.config.limit_markers.is_none() {
            let found = format!("bucket `{}` without `limit_markers`", self.config.name);
            return Err(Error::unsupported(
                "`limit_markers` for the TTL of a key; open the bucket with `.limit_markers(..)`",
                found,
            ));
        }
        if let Some(precondition) = &write.precondition {
            limits::check_precondition(precondition, self.newest(precondition.space, &precondition.key))?;
        }
        write.ttl = write.ttl.map(|ttl| self.clamp_to_marker_ttl(ttl));
        Ok(framed(Size::of_write(write, &self.config)))
    }

    /// Applies a write that passed all checks.
    fn apply(&mut self, write: Write, record: u64, now: Duration, changes: &mut Changes) {
        let Write { space, key, kind, precondition: _, ttl, headers, epoch: _, id } = write;
        let (operation, value) = match kind {
            WriteKind::Put(value) => (Operation::Put, value),
            WriteKind::Delete => (Operation::Delete, Bytes::new()),
            WriteKind::Purge => (Operation::Purge, Bytes::new()),
        };
        let (ttl, id) = match space {
            KeySpace::Records => (ttl, Some(id)),
            KeySpace::Index => (self.config.ttl.map(|_| Ttl::NEVER), None),
        };
        let stored = StoredEntry { space, key, at: now, operation, value, ttl, headers, id, size: record, seq: 0 };
        self.store(stored, changes);
    }

    /// Removes the entries of a key up to a revision, inclusive.
    pub(crate) fn erase(&mut self, space: KeySpace, key: &Key, through: Revision) -> Changes {
        let revisions: Vec<_> = match space {
            KeySpace::Records => self.keys.get(key).into_iter().flatten().copied().collect(),
            KeySpace::Index => vec![self.index.newest(key)],
        };
        let old: Vec<_> = revisions.into_iter().filter(|revision| *revision <= through).collect();
        let mut changes = Changes::default();
        for revision in old {
            self.remove(revision, &mut changes);
        }
        changes
    }

    /// Returns one entry of a key.
    pub(crate) fn read(&self, space: KeySpace, key: &Key, at: ReadAt) -> Option<(Revision, &StoredEntry)> {
        let revision = match at {
            // There is one copy, so every read is fresh.
            ReadAt::Newest(_) => self.newest(space, key),
            ReadAt::Revision(revision) => revision,
        };
        let stored = match space {
            KeySpace::Records => self.entries.get(&revision)?,
            KeySpace::Index => self.index.get(revision)?,
        };
        (stored.key == *key).then_some((revision, stored))
    }

    /// Lists some keys of a space after `after`.
    pub(crate) fn list_keys(&self, space: KeySpace, pattern: &Pattern, after: Option<&Key>) -> KeyListing {
        match space {
            KeySpace::Records => list(&self.keys, pattern, after),
            KeySpace::Index => self.index.list(pattern, after),
        }
    }

    /// Returns the entry of a revision in either space, to set its number in the log.
    pub(super) fn entry_mut(&mut self, revision: Revision) -> Option<&mut StoredEntry> {
        self.entries.get_mut(&revision).or_else(|| self.index.get_mut(revision))
    }

    /// Returns the number of the last logged effect that the result of a read shows.
    pub(crate) fn shown_by(&self, at: ReadAt, found: Option<(Revision, &StoredEntry)>) -> u64 {
        match (at, found) {
            (_, Some((_, stored))) => stored.seq.max(self.touched),
            (ReadAt::Newest(_), None) => self.touched,
            // A later entry of the key may have replaced the entry.
            (ReadAt::Revision(_), None) => u64::MAX,
        }
    }

    /// Replaces the configuration with another complete one, and applies its history and TTL at once.
    pub(super) fn reconfigure(&mut self, config: BucketConfig, now: Duration, changes: &mut Changes) {
        self.config = config;
        let keys: Vec<_> = self.keys.keys().cloned().collect();
        for key in keys {
            self.enforce_history_limit(&key, self.history(), changes);
        }
        self.schedule_expiry();
        self.expire(now, changes);
        self.notifier.notify();
    }

    /// Appends an entry, and removes the entries that it replaces.
    pub(super) fn store(&mut self, stored: StoredEntry, changes: &mut Changes) {
        let revision = Revision::new(self.last_revision.get() + 1);
        self.last_revision = revision;
        if stored.space == KeySpace::Index {
            let replaced = self.index.newest(&stored.key);
            self.insert(revision, stored);
            changes.stored.push(revision);
            self.remove(replaced, changes);
            return;
        }
        let is_rollup = matches!(stored.operation, Operation::Purge | Operation::Expired);
        let key = stored.key.clone();
        self.insert(revision, stored);
        changes.stored.push(revision);
        self.enforce_history_limit(&key, if is_rollup { 1 } else { self.history() }, changes);
        self.notifier.notify();
    }

    /// Removes an entry, and keeps it for the attached watches that have not read it.
    pub(super) fn remove(&mut self, revision: Revision, changes: &mut Changes) {
        let Some(entry) = self.take(revision) else { return };
        let last_removed = self.last_removed;
        if entry.space == KeySpace::Records {
            let is_last_of_key = self.newest(entry.space, &entry.key) < revision;
            self.backlog.keep(revision, &entry, is_last_of_key);
            self.last_removed = last_removed.max(revision);
        }
        changes.removed.push(Removal { revision, entry, last_removed });
    }

    /// Skips all revisions up to this one, so that they are never assigned. No watch can resume before it.
    #[cfg(feature = "file")]
    pub(crate) fn skip_to(&mut self, revision: Revision) {
        self.last_revision = revision;
        self.last_removed = revision;
    }

    /// Adds an entry to all indexes.
    pub(crate) fn insert(&mut self, revision: Revision, stored: StoredEntry) {
        if stored.space == KeySpace::Index {
            self.bytes += stored.size;
            return self.index.insert(revision, stored);
        }
        if let Some(at) = self.expires(&stored) {
            self.expirations.insert((at, revision));
        }
        self.bytes += stored.size;
        let revisions = self.keys.entry(stored.key.clone()).or_default();
        let later = revisions.iter().rev().take_while(|other| **other > revision).count();
        revisions.insert(revisions.len() - later, revision);
        self.entries.insert(revision, stored);
    }

    /// Removes an entry from all indexes.
    pub(crate) fn take(&mut self, revision: Revision) -> Option<StoredEntry> {
        let Some(stored) = self.entries.remove(&revision) else {
            let stored = self.index.take(revision)?;
            self.bytes -= stored.size;
            return Some(stored);
        };
        self.bytes -= stored.size;
        if let Some(at) = self.expires(&stored) {
            self.expirations.remove(&(at, revision));
        }
        if let Some(revisions) = self.keys.get_mut(&stored.key) {
            revisions.retain(|other| *other != revision);
            if revisions.is_empty() {
                self.keys.remove(&stored.key);
            }
        }
        Some(stored)
    }

    /// Checks that a message of this size fits into the bucket. Returns the size of its record.
    pub(crate) fn check_limits(&self, size: Size, space: KeySpace, key: &Key) -> Result<u64> {
        self.check_size(size)?;
        let record = self.record(size, space, key);
        limits::check_room(self.bytes, record, self.config.max_bytes, self.replaced(space, key))?;
        Ok(record)
    }

    /// Returns the size of the record of a message.
    fn record(&self, size: Size, space: KeySpace, key: &Key) -> u64 {
        size.record(self.config.storage.unwrap_or_default(), &self.config.name, space, key)
    }

    fn check_size(&self, size: Size) -> Result<()> {
        size.check(self.config.max_value_size.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX)))
    }

    /// Returns the revision of the newest entry of a key.
    pub(crate) fn newest(&self, space: KeySpace, key: &Key) -> Revision {
        match space {
            KeySpace::Records => self.keys.get(key).and_then(|revisions| revisions.back().copied()).unwrap_or_default(),
            KeySpace::Index => self.index.newest(key),
        }
    }

    /// Whether an entry is the newest one of its key.
    pub(crate) fn is_newest(&self, key: &Key, revision: Revision) -> bool {
        // With one entry for each key, every entry is the newest one of its key.
        self.keys.len() == self.entries.len() || self.newest(KeySpace::Records, key) == revision
    }

    /// Whether a key has another entry after `after` and up to `until`.
    pub(crate) fn has_another(&self, key: &Key, after: Revision, until: Revision) -> bool {
        self.keys.len() < self.entries.len()
            && self
                .keys
                .get(key)
                .is_some_and(|revisions| revisions.iter().any(|other| after < *other && *other <= until))
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

    /// Returns the first wanted entry among the stored entries and the entries in the backlog.
    pub(crate) fn next_change(
        &self,
        after: Revision,
        until: Revision,
        wanted: &impl Fn(Revision, &StoredEntry) -> bool,
    ) -> (Revision, Option<&StoredEntry>) {
        let (stored, removed) = (self.next(after, until, wanted), self.backlog.next(after, until, wanted));
        std::cmp::min_by_key(stored, removed, |(reached, found)| (*reached, found.is_none()))
    }

    /// Whether the bucket keeps every write after `revision`. `false` for a revision that it has not reached.
    pub(crate) fn keeps_all_after(&self, revision: Revision) -> bool {
        self.last_removed <= revision && revision <= self.last_revision
    }

    /// Returns an upper bound of the number of entries after this revision, including the backlog.
    pub(crate) fn at_most_after(&self, revision: Revision) -> u64 {
        (self.last_revision.get() - revision.get()).min((self.entries.len() + self.backlog.len()) as u64)
    }

    /// Returns the size of the entry that the next entry of the key replaces. `None` in a replicated bucket, where no
    /// entry makes room for another.
    fn replaced(&self, space: KeySpace, key: &Key) -> Option<u64> {
        let is_single = self.config.replicas.is_none_or(|replicas| replicas == 1);
        if space == KeySpace::Index {
            // With a longer history, a server removes the old entry only after it stored the new one.
            let old = self.index.get(self.index.newest(key)).filter(|_| is_single && self.history() == 1)?;
            return Some(old.size);
        }
        let revisions = self.keys.get(key).filter(|_| is_single)?;
        let oldest = revisions.front().filter(|_| revisions.len() >= self.history())?;
        self.entries.get(oldest).map(|stored| stored.size)
    }

    fn history(&self) -> usize {
        usize::from(self.config.history.unwrap_or(1))
    }

    /// Drops the oldest entries of a key until `left` entries remain.
    fn enforce_history_limit(&mut self, key: &Key, left: usize, changes: &mut Changes) {
        while let Some(oldest) =
            self.keys.get(key).filter(|revisions| revisions.len() > left).and_then(|r| r.front().copied())
        {
            self.remove(oldest, changes);
        }
    }
}
