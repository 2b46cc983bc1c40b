//! The draft of a record, and the group of changes that one write stores.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;
use tokio::time::Instant;

use super::cas::{CasRetry, is_unchanged};
use crate::backend::{Deadline, Operation, RawEntry, WriteKind};
use crate::error::{Error, Outcome};
use crate::key::Key;
use crate::revision::Revision;
use crate::ttl::Ttl;

/// The largest value that a lane remembers, in bytes.
const MAX_CACHED_VALUE: usize = 16 * 1_024;

/// The largest number of members of a group.
const MAX_GROUP_SIZE: u32 = 1_000;

/// The known state of a record, and the changes that are to be written.
#[derive(Debug, Default)]
pub(super) struct PendingRecord {
    pub(super) base: Option<BaseEntry>,
    pub(super) group: Option<CommitGroup>,
    /// The last conflict, if nothing was stored since.
    pub(super) conflict: Option<CasRetry>,
    /// The last revision that this handle stored. Zero if it stored none.
    last_own: Revision,
    /// Whether another writer has stored a later revision, as far as this handle has seen.
    is_shared: bool,
    /// Until when other writers go first.
    pause: Option<Instant>,
}

/// The memory of a record without current changes.
#[derive(Debug)]
pub(super) enum RememberedRecord {
    /// The newest known entry.
    Entry(RawEntry),
    /// For a record that other writers change too: the last revision of this handle, and until when the others go
    /// first.
    Shared(Revision, Option<Instant>),
}

impl RememberedRecord {
    /// The number of bytes on the heap.
    pub(super) fn heap(&self) -> usize {
        match self {
            Self::Entry(entry) => entry.value.len(),
            Self::Shared(..) => 0,
        }
    }
}

/// The newest entry of a key.
#[derive(Debug)]
pub(super) struct BaseEntry {
    pub(super) entry: Option<RawEntry>,
    pub(super) known: Freshness,
}

impl BaseEntry {
    fn revision(&self) -> Revision {
        self.entry.as_ref().map_or(Revision::ZERO, |entry| entry.revision)
    }
}

/// The source of the newest known entry of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freshness {
    /// It was stored or read before the call that decides on it.
    Cached,
    /// The read with this number returned it, from the nearest server.
    AnyReplica(u64),
    /// The read with this number returned it, and no newer entry existed.
    Leader(u64),
}

impl PendingRecord {
    pub(super) fn new(memory: Option<RememberedRecord>) -> Self {
        match memory {
            Some(RememberedRecord::Entry(entry)) => {
                let base = BaseEntry { entry: Some(entry), known: Freshness::Cached };
                Self { base: Some(base), ..Self::default() }
            }
            Some(RememberedRecord::Shared(own, rest)) => {
                Self { last_own: own, pause: rest, is_shared: true, ..Self::default() }
            }
            None => Self::default(),
        }
    }

    /// Takes the state to remember.
    pub(super) fn memory(&mut self) -> Option<RememberedRecord> {
        if self.is_shared {
            return (self.last_own > Revision::ZERO).then_some(RememberedRecord::Shared(self.last_own, self.pause));
        }
        self.base.take()?.entry.map(RememberedRecord::Entry)
    }

    pub(super) fn current(&self) -> Option<&RawEntry> {
        match &self.group {
            Some(group) => Some(&group.entry),
            None => self.base.as_ref().and_then(|base| base.entry.as_ref()),
        }
    }

    /// The current revision, or the one that the group is based on.
    pub(super) fn revision(&self) -> Revision {
        self.current().map_or(Revision::ZERO, |entry| entry.revision)
    }

    /// Prepares the draft for the decision of a call that arrived after this many reads.
    pub(super) fn prepare(&mut self, arrived: u64) {
        if self.group.as_ref().is_some_and(|group| group.result.receiver_count() == 0) {
            // No caller waits for the group any longer.
            self.group = None;
        }
        if let Some(base) = &mut self.base
            && let Freshness::AnyReplica(number) | Freshness::Leader(number) = base.known
            && number <= arrived
        {
            base.known = Freshness::Cached;
        }
    }

    /// Whether a decision to write nothing may be based on the draft: it was just read from the leader, or the write of
    /// a group will confirm it.
    pub(super) fn is_authoritative(&self) -> bool {
        self.group.is_some() || self.base.as_ref().is_some_and(|base| matches!(base.known, Freshness::Leader(_)))
    }

    /// Whether a sure read confirms the entry that a decision to write nothing was based on.
    pub(super) fn is_unchanged(&self, near: Option<&RawEntry>) -> bool {
        self.group.is_none()
            && self.base.as_ref().is_some_and(|BaseEntry { entry, known }| {
                matches!(known, Freshness::Leader(_)) && is_unchanged(entry.as_ref(), near)
            })
    }

    /// Bases the draft on the result of a read.
    pub(super) fn set_base(&mut self, base: BaseEntry) {
        if self.last_own > Revision::ZERO {
            self.is_shared = base.revision() != self.last_own;
        }
        self.base = Some(base);
    }

    /// Whether an entry is older than what this handle stored, which only a server that is behind returns.
    pub(super) fn is_stale(&self, entry: Option<&RawEntry>) -> bool {
        entry.is_some_and(|entry| entry.revision < self.last_own)
    }

    /// Until when the next change waits for other writers. It waits once.
    pub(super) fn take_pause(&mut self) -> Option<Instant> {
        self.pause.take()
    }

    /// Bases the draft on the stored entry.
    pub(super) fn set_stored(&mut self, entry: RawEntry) {
        self.pause = self.conflict.take().and_then(|retry| retry.rest()).map(|rest| Instant::now() + rest);
        self.last_own = entry.revision;
        self.base = Some(BaseEntry { entry: Some(entry), known: Freshness::Cached });
    }

    /// Forgets the stored entry if it is large, or if other writers change the record too. The next change then begins
    /// with a read. Without that read, this writer would win again, and the others would starve.
    pub(super) fn pause_for_others(&mut self) {
        let is_large =
            |base: &mut BaseEntry| base.entry.as_ref().is_some_and(|entry| entry.value.len() > MAX_CACHED_VALUE);
        let is_shared = self.is_shared;
        drop(self.base.take_if(|base| is_shared || is_large(base)));
    }

    /// Remembers a conflict with another writer.
    pub(super) fn set_conflict(&mut self, conflict: &Error) {
        self.conflict.get_or_insert_with(CasRetry::new).observe_conflict(conflict);
        self.is_shared = true;
        self.base = None;
    }

    /// Begins a group with a change of the known entry.
    pub(super) fn start_group(
        &self,
        key: &Key,
        kind: WriteKind,
        ttl: Option<Ttl>,
        deadline: Deadline,
    ) -> (CommitGroup, GroupMember) {
        let (entry, fate) = (entry(key, self.revision(), &kind, ttl), watch::Sender::new(None));
        let mut group = CommitGroup { kind, ttl, entry, steps: 1, members: 0, deadline, result: fate };
        let member = group.subscribe(deadline);
        (group, member)
    }
}

/// Changes that one write will store.
#[derive(Debug)]
pub(super) struct CommitGroup {
    pub(super) kind: WriteKind,
    pub(super) ttl: Option<Ttl>,
    /// The record after the changes so far.
    pub(super) entry: RawEntry,
    /// The number of changes so far.
    pub(super) steps: u32,
    pub(super) members: u32,
    pub(super) deadline: Deadline,
    pub(super) result: watch::Sender<Option<GroupResult>>,
}

/// A call that waits for the outcome of a group.
#[derive(Debug)]
pub(super) struct GroupMember {
    /// The number of changes in the group, its own included, when the call joined.
    pub(super) step: u32,
    /// The number of members when the call joined.
    pub(super) members: u32,
    pub(super) fate: watch::Receiver<Option<GroupResult>>,
}

impl CommitGroup {
    /// Adds a change to the group.
    pub(super) fn add_change(&mut self, kind: WriteKind, ttl: Option<Ttl>, deadline: Deadline) -> GroupMember {
        self.entry = entry(&self.entry.key, self.entry.revision, &kind, ttl);
        (self.kind, self.ttl) = (kind, ttl);
        self.steps += 1;
        self.subscribe(deadline)
    }

    /// Adds a member that changes nothing. Its decision is based on a record that is not stored yet, so it waits for
    /// the write.
    pub(super) fn subscribe(&mut self, deadline: Deadline) -> GroupMember {
        self.members += 1;
        if deadline.at() > self.deadline.at() {
            self.deadline = deadline;
        }
        GroupMember { step: self.steps, members: self.members, fate: self.result.subscribe() }
    }

    pub(super) fn is_full(&self) -> bool {
        self.members >= MAX_GROUP_SIZE
    }

    /// Whether the member belongs to this group.
    pub(super) fn has(&self, member: &GroupMember) -> bool {
        self.result.subscribe().same_channel(&member.fate)
    }
}

/// The outcome of a group.
#[derive(Debug, Clone)]
pub(super) enum GroupResult {
    Stored {
        entry: Arc<RawEntry>,
        steps: u32,
    },
    /// Another process wrote the record first. All members start over.
    Conflict(Arc<Error>),
    /// Nothing was stored, because one change was refused or an earlier group failed. Each member retries alone.
    Refused,
    Failed(Arc<Error>),
}

impl GroupResult {
    /// If one of several changes may have caused the refusal, each member retries alone. A write that may be stored is
    /// not retried.
    pub(super) fn failed(error: Error, members: u32) -> Self {
        if members > 1 && error.outcome() == Outcome::NotApplied && !error.is_retryable() {
            Self::Refused
        } else {
            Self::Failed(Arc::new(error))
        }
    }
}

/// The entry of a key after this write.
pub(super) fn entry(key: &Key, revision: Revision, kind: &WriteKind, ttl: Option<Ttl>) -> RawEntry {
    let (operation, value) = match kind {
        WriteKind::Put(value) => (Operation::Put, value.clone()),
        WriteKind::Delete => (Operation::Delete, bytes::Bytes::new()),
        WriteKind::Purge => (Operation::Purge, bytes::Bytes::new()),
    };
    RawEntry { key: key.clone(), revision, created: SystemTime::now(), operation, value, ttl, id: None }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::ErrorKind;

    fn key() -> Key {
        Key::new("0").expect("a key")
    }

    fn stored(bytes: usize) -> RawEntry {
        entry(&key(), Revision::new(7), &WriteKind::Put(vec![0; bytes].into()), None)
    }

    #[test]
    fn a_lane_remembers_a_small_stored_entry() {
        let mut draft = PendingRecord::default();
        draft.set_conflict(&Error::new(ErrorKind::Conflict { expected: Revision::ZERO, actual: None }));
        assert!(draft.conflict.is_some() && draft.current().is_none());
        draft.set_stored(stored(16_384));
        draft.set_base(BaseEntry { entry: Some(stored(16_384)), known: Freshness::Cached });
        draft.pause_for_others();
        assert!(draft.conflict.is_none() && draft.current().is_some_and(|entry| entry.value.len() == 16_384));
        assert!(!draft.is_authoritative(), "it may be stale");
        draft.set_stored(stored(16_385));
        draft.pause_for_others();
        assert!(draft.current().is_none());
        draft.set_stored(stored(1));
        draft.set_conflict(&Error::new(ErrorKind::Conflict { expected: Revision::ZERO, actual: None }));
        assert!(draft.current().is_none());
    }

    fn conflict() -> Error {
        Error::new(ErrorKind::Conflict { expected: Revision::ZERO, actual: None })
    }

    /// Bases the draft on a read that returned this revision.
    fn found(draft: &mut PendingRecord, revision: u64) {
        let entry = RawEntry { revision: Revision::new(revision), ..stored(1) };
        draft.set_base(BaseEntry { entry: Some(entry), known: Freshness::Leader(1) });
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_that_others_write_too_is_read_before_the_next_change() {
        let mut draft = PendingRecord::default();
        found(&mut draft, 3);
        draft.set_stored(stored(1));
        draft.pause_for_others();
        assert!(draft.current().is_some(), "an older entry is no sign of another writer");
        draft.set_conflict(&conflict());
        for (read, is_remembered) in [(9, false), (8, false), (7, true), (7, true), (8, false)] {
            found(&mut draft, read);
            draft.set_stored(stored(1));
            draft.pause_for_others();
            assert_eq!(draft.current().is_some(), is_remembered, "after a read of revision {read}");
            // The memory gives the same result.
            let memory = draft.memory();
            assert_eq!(matches!(memory, Some(RememberedRecord::Entry(_))), is_remembered);
            draft = match memory {
                Some(RememberedRecord::Entry(entry)) => {
                    let mut draft = PendingRecord::default();
                    draft.set_stored(entry);
                    draft
                }
                memory => PendingRecord::new(memory),
            };
        }
        assert!(draft.is_stale(Some(&entry(&key(), Revision::new(6), &WriteKind::Delete, None))));
        assert!(!draft.is_stale(Some(&stored(1))) && !draft.is_stale(None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_writer_that_won_rests_about_as_long_as_it_had_to_wait() {
        let rest_after = async |milliseconds| {
            let mut draft = PendingRecord::default();
            draft.set_conflict(&conflict());
            tokio::time::advance(Duration::from_millis(milliseconds)).await;
            draft.set_conflict(&conflict());
            draft.set_stored(stored(1));
            draft.pause_for_others();
            let rest = PendingRecord::new(draft.memory()).take_pause();
            assert_eq!(draft.take_pause(), rest);
            assert_eq!(draft.take_pause(), None, "it rests once");
            rest.map_or(Duration::ZERO, |rest| rest - Instant::now())
        };
        let (mut longest, mut total) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..1_000 {
            assert_eq!(rest_after(0).await, Duration::ZERO);
            let rest = rest_after(10).await;
            (longest, total) = (longest.max(rest), total + rest);
            assert!(rest_after(60_000).await <= Duration::from_millis(32));
        }
        let milliseconds = [longest, total / 1_000].map(|rest| rest.as_millis());
        assert!((18..=20).contains(&milliseconds[0]) && (8..=12).contains(&milliseconds[1]), "{milliseconds:?}");
    }

    #[test]
    fn a_read_is_sure_for_the_calls_that_arrived_before_it() {
        let mut draft = PendingRecord {
            base: Some(BaseEntry { entry: None, known: Freshness::Leader(3) }),
            ..PendingRecord::default()
        };
        draft.prepare(2);
        assert!(draft.is_authoritative() && draft.is_unchanged(None) && !draft.is_unchanged(Some(&stored(1))));
        draft.prepare(3);
        assert!(!draft.is_authoritative() && !draft.is_unchanged(None));
    }

    #[test]
    fn changes_retry_alone_if_a_group_is_refused_and_not_stored() {
        let refused = || Error::invalid_config("it is too large");
        let alone = |error, members| matches!(GroupResult::failed(error, members), GroupResult::Refused);
        assert!(alone(refused(), 2));
        assert!(!alone(refused(), 1));
        assert!(!alone(refused().unknown_outcome(), 2));
        assert!(!alone(Error::unavailable("no leader"), 2));
        assert!(!alone(Error::unavailable("no leader").unknown_outcome(), 2));
    }

    #[test]
    fn a_group_has_the_latest_deadline_of_its_members() {
        let after = |seconds| Deadline::after(Duration::from_secs(seconds));
        let (soon, late, latest) = (after(1), after(2), after(3));
        let (mut group, first) = PendingRecord::default().start_group(&key(), WriteKind::Delete, None, late);
        assert_eq!((first.step, group.members, group.deadline.at()), (1, 1, late.at()));
        let mut join = |deadline: Deadline| {
            let member = group.add_change(WriteKind::Delete, None, deadline);
            (member.step, group.members, group.deadline.at())
        };
        assert_eq!(join(soon), (2, 2, late.at()));
        assert_eq!(join(latest), (3, 3, latest.at()));
    }
}
