//! The known state of a record, and the group of changes that one write stores. No I/O.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;
use tokio::time::Instant;

use super::retry::{CasRetry, is_unchanged};
use crate::backend::{Deadline, RawEntry};
use crate::bucket::content::Content;
use crate::error::{Error, Outcome};
use crate::key::Key;
use crate::observe::SharedWrite;
use crate::revision::Revision;

/// The largest value that is remembered, in bytes.
const MAX_CACHED_VALUE: usize = 16 * 1_024;

/// The largest number of members of a group.
const MAX_GROUP_SIZE: u32 = 1_000;

/// The known state of a record, and the changes that are to be written.
#[derive(Debug, Default)]
pub(crate) struct PendingRecord {
    pub(crate) base: Option<BaseEntry>,
    pub(crate) group: Option<CommitGroup>,
    /// The last conflict, if nothing was stored since.
    pub(crate) conflict: Option<CasRetry>,
    /// The last revision that this handle stored. Zero if it stored none.
    last_own: Revision,
    /// Whether another writer has stored a later revision, as far as this handle has seen.
    is_shared: bool,
    /// Until when other writers go first.
    pause: Option<Instant>,
}

/// The memory of a record without current changes.
#[derive(Debug)]
pub(crate) enum RememberedRecord {
    /// The newest known entry.
    Entry(RawEntry),
    /// For a record that other writers change too: the last revision of this handle, and until when the others go
    /// first.
    Shared(Revision, Option<Instant>),
}

impl RememberedRecord {
    /// The number of bytes on the heap.
    pub(crate) fn heap(&self) -> usize {
        match self {
            Self::Entry(entry) => entry.value.len(),
            Self::Shared(..) => 0,
        }
    }
}

/// The newest entry of a key.
#[derive(Debug)]
pub(crate) struct BaseEntry {
    pub(crate) entry: Option<RawEntry>,
    pub(crate) freshness: Freshness,
}

impl BaseEntry {
    fn revision(&self) -> Revision {
        self.entry.as_ref().map_or(Revision::ZERO, |entry| entry.revision)
    }
}

/// The source of the newest known entry of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// It was stored or read before the call that decides on it.
    Cached,
    /// The read with this number returned it, from the nearest server.
    AnyReplica(u64),
    /// The read with this number returned it, and no newer entry existed.
    Leader(u64),
}

impl PendingRecord {
    pub(crate) fn new(memory: Option<RememberedRecord>) -> Self {
        match memory {
            Some(RememberedRecord::Entry(entry)) => {
                let base = BaseEntry { entry: Some(entry), freshness: Freshness::Cached };
                Self { base: Some(base), ..Self::default() }
            }
            Some(RememberedRecord::Shared(last_own, pause)) => {
                Self { last_own, pause, is_shared: true, ..Self::default() }
            }
            None => Self::default(),
        }
    }

    /// Takes the state to remember.
    pub(crate) fn take_memory(&mut self) -> Option<RememberedRecord> {
        if self.is_shared {
            return (self.last_own > Revision::ZERO).then_some(RememberedRecord::Shared(self.last_own, self.pause));
        }
        self.base.take()?.entry.map(RememberedRecord::Entry)
    }

    pub(crate) fn current(&self) -> Option<&RawEntry> {
        match &self.group {
            Some(group) => Some(&group.entry),
            None => self.base.as_ref().and_then(|base| base.entry.as_ref()),
        }
    }

    /// The current revision, or the one that the group is based on.
    pub(crate) fn revision(&self) -> Revision {
        self.current().map_or(Revision::ZERO, |entry| entry.revision)
    }

    /// Prepares the record for the decision of a call that arrived after this many reads.
    pub(crate) fn prepare(&mut self, arrived: u64) {
        if self.group.as_ref().is_some_and(|group| group.result.receiver_count() == 0) {
            // No caller waits for the group any longer.
            self.group = None;
        }
        if let Some(base) = &mut self.base
            && let Freshness::AnyReplica(number) | Freshness::Leader(number) = base.freshness
            && number <= arrived
        {
            base.freshness = Freshness::Cached;
        }
    }

    /// Whether a decision to write nothing may be based on the record: it was just read from the leader, or the write of
    /// a group will confirm it.
    pub(crate) fn is_authoritative(&self) -> bool {
        self.group.is_some() || self.base.as_ref().is_some_and(|base| matches!(base.freshness, Freshness::Leader(_)))
    }

    /// Whether a read from the leader confirms the entry that a decision to write nothing was based on.
    pub(crate) fn is_unchanged(&self, near: Option<&RawEntry>) -> bool {
        self.group.is_none()
            && self.base.as_ref().is_some_and(|BaseEntry { entry, freshness }| {
                matches!(freshness, Freshness::Leader(_)) && is_unchanged(entry.as_ref(), near)
            })
    }

    /// Bases the record on the result of a read.
    pub(crate) fn set_base(&mut self, base: BaseEntry) {
        if self.last_own > Revision::ZERO {
            self.is_shared = base.revision() != self.last_own;
        }
        self.base = Some(base);
    }

    /// Whether an entry is older than what this handle stored, which only a server that is behind returns.
    pub(crate) fn is_stale(&self, entry: Option<&RawEntry>) -> bool {
        entry.is_some_and(|entry| entry.revision < self.last_own)
    }

    /// Until when the next change waits for other writers. It waits once.
    pub(crate) fn take_pause(&mut self) -> Option<Instant> {
        self.pause.take()
    }

    /// Bases the record on the stored entry.
    pub(crate) fn set_stored(&mut self, entry: RawEntry) {
        self.pause = self.conflict.take().and_then(|retry| retry.pause_after_win()).map(|pause| Instant::now() + pause);
        self.last_own = entry.revision;
        self.base = Some(BaseEntry { entry: Some(entry), freshness: Freshness::Cached });
    }

    /// Forgets the stored entry if it is large, or if other writers change the record too. The next change then begins
    /// with a read. Without that read, this writer would win again, and the others would starve.
    pub(crate) fn forget_if_shared_or_large(&mut self) {
        let is_large =
            |base: &mut BaseEntry| base.entry.as_ref().is_some_and(|entry| entry.value.len() > MAX_CACHED_VALUE);
        let is_shared = self.is_shared;
        drop(self.base.take_if(|base| is_shared || is_large(base)));
    }

    /// Remembers a conflict with another writer.
    pub(crate) fn set_conflict(&mut self, conflict: &Error) {
        self.conflict.get_or_insert_with(CasRetry::new).observe_conflict(conflict);
        self.is_shared = true;
        self.base = None;
    }

    /// Begins a group with a change of the known entry.
    pub(crate) fn start_group(
        &self,
        key: &Key,
        content: Content,
        now: SystemTime,
        deadline: Deadline,
    ) -> (CommitGroup, GroupMember) {
        let (entry, result) = (content.entry(key, self.revision(), now), watch::Sender::new(None));
        let write = SharedWrite::start();
        let group = CommitGroup { content, entry, steps: 1, members: 1, deadline, result, write };
        let member = group.member();
        (group, member)
    }
}

/// Changes that one write will store.
#[derive(Debug)]
pub(crate) struct CommitGroup {
    pub(crate) content: Content,
    /// The record after the changes so far.
    pub(crate) entry: RawEntry,
    /// The number of changes so far.
    pub(crate) steps: u32,
    pub(crate) members: u32,
    pub(crate) deadline: Deadline,
    pub(crate) result: watch::Sender<Option<GroupResult>>,
    /// The span of the write, which the calls share.
    pub(crate) write: SharedWrite,
}

/// A call that waits for the outcome of a group.
#[derive(Debug)]
pub(crate) struct GroupMember {
    /// The number of changes in the group, its own included, when the call joined.
    pub(crate) change_number: u32,
    /// The number of members when the call joined.
    pub(crate) members: u32,
    pub(crate) result: watch::Receiver<Option<GroupResult>>,
}

impl CommitGroup {
    /// Adds a change to the group.
    pub(crate) fn add_change(&mut self, content: Content, now: SystemTime, deadline: Deadline) -> GroupMember {
        self.entry = content.entry(&self.entry.key, self.entry.revision, now);
        self.content = content;
        self.steps += 1;
        self.subscribe(deadline)
    }

    /// Adds a member that changes nothing. Its decision is based on a record that is not stored yet, so it waits for
    /// the write.
    pub(crate) fn subscribe(&mut self, deadline: Deadline) -> GroupMember {
        self.members += 1;
        self.write.join();
        if deadline.at() > self.deadline.at() {
            self.deadline = deadline;
        }
        self.member()
    }

    fn member(&self) -> GroupMember {
        GroupMember { change_number: self.steps, members: self.members, result: self.result.subscribe() }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.members >= MAX_GROUP_SIZE
    }

    /// Whether the member belongs to this group.
    pub(crate) fn has(&self, member: &GroupMember) -> bool {
        self.result.subscribe().same_channel(&member.result)
    }
}

/// The outcome of a group.
#[derive(Debug, Clone)]
pub(crate) enum GroupResult {
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
    pub(crate) fn failed(error: Error, members: u32) -> Self {
        if members > 1 && error.outcome() == Outcome::NotApplied && !error.is_retryable() {
            Self::Refused
        } else {
            Self::Failed(Arc::new(error))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::backend::{RecordHeaders, WriteKind};
    use crate::error::ErrorKind;

    fn key() -> Key {
        Key::new("0").expect("a key")
    }

    fn put(bytes: usize) -> Content {
        Content::put(vec![0; bytes].into(), RecordHeaders::default(), None)
    }

    fn delete() -> Content {
        Content::removal(WriteKind::Delete, None)
    }

    fn stored(bytes: usize) -> RawEntry {
        put(bytes).entry(&key(), Revision::new(7), SystemTime::now())
    }

    #[test]
    fn small_stored_entry_is_remembered() {
        let mut record = PendingRecord::default();
        record.set_conflict(&Error::new(ErrorKind::Conflict { expected: Revision::ZERO, actual: None }));
        assert!(record.conflict.is_some() && record.current().is_none());
        record.set_stored(stored(16_384));
        record.set_base(BaseEntry { entry: Some(stored(16_384)), freshness: Freshness::Cached });
        record.forget_if_shared_or_large();
        assert!(record.conflict.is_none() && record.current().is_some_and(|entry| entry.value.len() == 16_384));
        assert!(!record.is_authoritative(), "it may be stale");
        record.set_stored(stored(16_385));
        record.forget_if_shared_or_large();
        assert!(record.current().is_none());
        record.set_stored(stored(1));
        record.set_conflict(&Error::new(ErrorKind::Conflict { expected: Revision::ZERO, actual: None }));
        assert!(record.current().is_none());
    }

    fn conflict() -> Error {
        Error::new(ErrorKind::Conflict { expected: Revision::ZERO, actual: None })
    }

    /// Bases the record on a read that returned this revision.
    fn found(record: &mut PendingRecord, revision: u64) {
        let entry = RawEntry { revision: Revision::new(revision), ..stored(1) };
        record.set_base(BaseEntry { entry: Some(entry), freshness: Freshness::Leader(1) });
    }

    #[tokio::test(start_paused = true)]
    async fn contended_record_is_read_before_next_change() {
        let mut record = PendingRecord::default();
        found(&mut record, 3);
        record.set_stored(stored(1));
        record.forget_if_shared_or_large();
        assert!(record.current().is_some(), "an older entry is no sign of another writer");
        record.set_conflict(&conflict());
        for (read, is_remembered) in [(9, false), (8, false), (7, true), (7, true), (8, false)] {
            found(&mut record, read);
            record.set_stored(stored(1));
            record.forget_if_shared_or_large();
            assert_eq!(record.current().is_some(), is_remembered, "after a read of revision {read}");
            // The memory gives the same result.
            let memory = record.take_memory();
            assert_eq!(matches!(memory, Some(RememberedRecord::Entry(_))), is_remembered);
            record = match memory {
                Some(RememberedRecord::Entry(entry)) => {
                    let mut record = PendingRecord::default();
                    record.set_stored(entry);
                    record
                }
                memory => PendingRecord::new(memory),
            };
        }
        assert!(record.is_stale(Some(&delete().entry(&key(), Revision::new(6), SystemTime::now()))));
        assert!(!record.is_stale(Some(&stored(1))) && !record.is_stale(None));
    }

    #[tokio::test(start_paused = true)]
    async fn winner_pauses_about_as_long_as_it_waited() {
        let rest_after = async |milliseconds| {
            let mut record = PendingRecord::default();
            record.set_conflict(&conflict());
            tokio::time::advance(Duration::from_millis(milliseconds)).await;
            record.set_conflict(&conflict());
            record.set_stored(stored(1));
            record.forget_if_shared_or_large();
            let rest = PendingRecord::new(record.take_memory()).take_pause();
            assert_eq!(record.take_pause(), rest);
            assert_eq!(record.take_pause(), None, "it rests once");
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
    fn leader_read_is_authoritative_for_earlier_calls() {
        let mut record = PendingRecord {
            base: Some(BaseEntry { entry: None, freshness: Freshness::Leader(3) }),
            ..PendingRecord::default()
        };
        record.prepare(2);
        assert!(record.is_authoritative() && record.is_unchanged(None) && !record.is_unchanged(Some(&stored(1))));
        record.prepare(3);
        assert!(!record.is_authoritative() && !record.is_unchanged(None));
    }

    #[test]
    fn changes_of_refused_group_retry_alone() {
        let refused = || Error::invalid_config("it is too large");
        let alone = |error, members| matches!(GroupResult::failed(error, members), GroupResult::Refused);
        assert!(alone(refused(), 2));
        assert!(!alone(refused(), 1));
        assert!(!alone(refused().unknown_outcome(), 2));
        assert!(!alone(Error::unavailable("no leader"), 2));
        assert!(!alone(Error::unavailable("no leader").unknown_outcome(), 2));
    }

    #[test]
    fn group_uses_latest_deadline_of_its_members() {
        let after = |seconds| Deadline::after(Duration::from_secs(seconds));
        let (soon, late, latest) = (after(1), after(2), after(3));
        let (mut group, first) = PendingRecord::default().start_group(&key(), delete(), SystemTime::now(), late);
        assert_eq!((first.change_number, group.members, group.deadline.at()), (1, 1, late.at()));
        let mut join = |deadline: Deadline| {
            let member = group.add_change(delete(), SystemTime::now(), deadline);
            (member.change_number, group.members, group.deadline.at())
        };
        assert_eq!(join(soon), (2, 2, late.at()));
        assert_eq!(join(latest), (3, 3, latest.at()));
    }
}
