//! One call in a group commit, as a state machine without I/O.
//!
//! [`GroupCall::next`] runs the closure of the call on a locked record and returns the [`NextStep`]. The driver in
//! [`group_commit`](super::group_commit) reads, writes and waits.

use std::sync::Arc;

use super::decision::CasDecision;
use super::pending_record::{CommitGroup, GroupMember, PendingRecord};
use crate::backend::{Deadline, RawEntry};
use crate::bucket::clock::BucketClock;
use crate::bucket::content::Content;
use crate::key::Key;
use crate::revision::Revision;

/// The next step of a call that has locked its record.
#[derive(Debug)]
pub(crate) enum NextStep<R> {
    /// Load the newest entry and call [`GroupCall::next`] again.
    Load {
        /// Whether the entry must come from the leader, because the call is about to write nothing.
        from_leader: bool,
    },
    /// Return the result. Nothing is written.
    Finish { revision: Revision, result: R },
    /// Wait for the result of the group that the call is a member of.
    Wait(Box<Joined<R>>),
}

/// A call that has joined a group.
#[derive(Debug)]
pub(crate) struct Joined<R> {
    pub(crate) member: GroupMember,
    /// A group for this call alone. It is stored after the current group of the record.
    pub(crate) own: Option<CommitGroup>,
    /// Whether other callers may still join, so that the write can wait.
    pub(crate) is_open: bool,
    /// The deadline of the wait. Without it, the deadline of the write bounds the wait.
    pub(crate) deadline: Option<Deadline>,
    /// The result of the closure.
    pub(crate) result: R,
}

/// A decision to write nothing that is based on an entry which may be stale.
type Unconfirmed<R, E> = (Result<CasDecision<R>, E>, Option<RawEntry>);

/// A call to change a record.
pub(crate) struct GroupCall<R, E> {
    key: Key,
    deadline: Deadline,
    /// The number of reads of the record that had begun when the call arrived.
    arrived: u64,
    /// Whether a separate write stores the change.
    is_alone: bool,
    unconfirmed: Option<Unconfirmed<R, E>>,
    clock: Arc<BucketClock>,
}

impl<R, E> GroupCall<R, E> {
    pub(crate) fn new(key: Key, deadline: Deadline, arrived: u64, is_alone: bool, clock: &Arc<BucketClock>) -> Self {
        Self { key, deadline, arrived, is_alone, unconfirmed: None, clock: Arc::clone(clock) }
    }

    /// Makes a separate write store the change, because the write of its group was refused.
    pub(crate) fn leave_groups(&mut self) {
        self.is_alone = true;
    }

    /// Decides on the newest known entry and joins a group if the change can be part of one.
    pub(crate) fn next(
        &mut self,
        record: &mut PendingRecord,
        has_waiters: impl Fn() -> bool,
        decide: impl FnOnce(Option<&RawEntry>) -> Result<CasDecision<R>, E>,
    ) -> NextStep<Result<R, E>> {
        record.prepare(self.arrived);
        if record.group.is_none() && record.base.is_none() {
            return NextStep::Load { from_leader: false };
        }
        let decision = match self.unconfirmed.take() {
            Some((decision, near)) if record.is_unchanged(near.as_ref()) => decision,
            _ => decide(record.current()),
        };
        if !matches!(decision, Ok(CasDecision::Write { .. })) && !record.is_authoritative() {
            self.unconfirmed = Some((decision, record.current().cloned()));
            return NextStep::Load { from_leader: true };
        }
        let (change, result) = match decision {
            Ok(CasDecision::Write { content, result }) => (Some(content), Ok(result)),
            Ok(CasDecision::Stop { result }) => (None, Ok(result)),
            Err(error) => (None, Err(error)),
        };
        let (key, deadline, now) = (&self.key, self.deadline, self.clock.now());
        let may_join = !self.is_alone && change.as_ref().is_none_or(Content::is_put);
        let (member, own, limit) = match (change, &mut record.group) {
            (None, None) => return NextStep::Finish { revision: record.revision(), result },
            (None, Some(group)) => (group.subscribe(deadline), None, Some(deadline)),
            (Some(content), Some(group)) if may_join => {
                (group.add_change(content, now, deadline), None, Some(deadline))
            }
            (Some(content), None) if may_join && has_waiters() => {
                let (group, member) = record.start_group(key, content, now, deadline);
                record.group = Some(group);
                (member, None, Some(deadline))
            }
            // A separate write, directly after the current group: the members of a group get a record, and a removal
            // leaves none. Without a group, the write has its own deadline.
            (Some(content), group) => {
                let limit = group.is_some().then_some(deadline);
                let (own, member) = record.start_group(key, content, now, deadline);
                (member, Some(own), limit)
            }
        };
        let is_full = record.group.as_ref().is_some_and(CommitGroup::is_full);
        let is_open = own.is_none() && !is_full && has_waiters();
        NextStep::Wait(Box::new(Joined { member, own, is_open, deadline: limit, result }))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::super::pending_record::{BaseEntry, Freshness};
    use super::*;
    use crate::backend::{RecordHeaders, WriteKind};

    type Call = GroupCall<&'static str, &'static str>;

    fn key() -> Key {
        Key::new("a").expect("it is legal")
    }

    fn call(arrived: u64) -> Call {
        GroupCall::new(key(), Deadline::after(Duration::from_secs(5)), arrived, false, &Arc::new(BucketClock::local()))
    }

    fn content(value: &'static str) -> Content {
        Content::put(value.into(), RecordHeaders::default(), None)
    }

    fn record(freshness: Freshness) -> PendingRecord {
        let mut record = PendingRecord::new(None);
        let stored = content("v").entry(&key(), Revision::new(7), SystemTime::now());
        record.set_base(BaseEntry { entry: Some(stored), freshness });
        record
    }

    fn put(_: Option<&RawEntry>) -> Result<CasDecision<&'static str>, &'static str> {
        Ok(CasDecision::Write { content: content("w"), result: "put" })
    }

    fn delete(_: Option<&RawEntry>) -> Result<CasDecision<&'static str>, &'static str> {
        Ok(CasDecision::Write { content: Content::removal(WriteKind::Delete, None), result: "deleted" })
    }

    fn keep(_: Option<&RawEntry>) -> Result<CasDecision<&'static str>, &'static str> {
        Ok(CasDecision::Stop { result: "kept" })
    }

    fn joined(step: NextStep<Result<&'static str, &'static str>>) -> Joined<Result<&'static str, &'static str>> {
        let NextStep::Wait(joined) = step else { panic!("{step:?}") };
        *joined
    }

    #[test]
    fn unknown_record_is_loaded_before_closure() {
        let step = call(0).next(&mut PendingRecord::new(None), || true, |_| panic!("there is nothing to decide on"));
        assert!(matches!(step, NextStep::Load { from_leader: false }), "{step:?}");
    }

    #[test]
    fn leader_confirms_decision_to_write_nothing() {
        let (mut call, mut near) = (call(0), record(Freshness::AnyReplica(1)));
        assert!(matches!(call.next(&mut near, || false, keep), NextStep::Load { from_leader: true }));
        let mut same = record(Freshness::Leader(2));
        let step = call.next(&mut same, || false, |_| panic!("the entry is unchanged"));
        let NextStep::Finish { revision, result } = step else { panic!("{step:?}") };
        assert_eq!((revision.get(), result), (7, Ok("kept")));
    }

    #[test]
    fn failed_closure_leaves_group_and_record_unchanged() {
        let mut record = record(Freshness::Leader(1));
        let step = call(0).next(&mut record, || true, |_| Err("overdrawn"));
        assert!(matches!(step, NextStep::Finish { result: Err("overdrawn"), .. }), "{step:?}");
        assert!(record.group.is_none());
        assert_eq!(record.current().map(|entry| &*entry.value), Some(b"v".as_slice()));
    }

    #[test]
    fn single_caller_writes_by_its_own_deadline() {
        let mut record = record(Freshness::Cached);
        let joined = joined(call(0).next(&mut record, || false, put));
        assert!(joined.own.is_some() && !joined.is_open && joined.deadline.is_none());
        assert!(record.group.is_none());
    }

    #[test]
    fn waiting_callers_share_one_write() {
        let mut record = record(Freshness::Cached);
        let first = joined(call(0).next(&mut record, || true, put));
        assert!(first.own.is_none() && first.is_open && first.deadline.is_some());
        let second = joined(call(0).next(&mut record, || false, put));
        assert!(second.own.is_none() && !second.is_open, "no other caller waits, so the write begins");
        let group = record.group.as_ref().expect("it is not stored yet");
        assert_eq!((group.steps, group.members), (2, 2));
        assert!(group.has(&first.member) && group.has(&second.member));
    }

    #[test]
    fn unchanging_caller_waits_for_its_group() {
        let mut record = record(Freshness::Cached);
        let _first = joined(call(0).next(&mut record, || true, put));
        let reader = joined(call(0).next(&mut record, || true, keep));
        assert_eq!((reader.result, record.group.as_ref().map(|group| group.steps)), (Ok("kept"), Some(1)));
    }

    #[test]
    fn removal_and_refused_change_are_written_separately() {
        let mut record = record(Freshness::Cached);
        let _first = joined(call(0).next(&mut record, || true, put));
        let removal = joined(call(0).next(&mut record, || true, delete));
        assert!(removal.own.is_some() && !removal.is_open && removal.deadline.is_some());
        let mut refused = call(0);
        refused.leave_groups();
        assert!(joined(refused.next(&mut record, || true, put)).own.is_some());
        assert_eq!(record.group.as_ref().map(|group| group.members), Some(1));
    }

    #[test]
    fn group_without_waiting_members_is_dropped() {
        let mut record = record(Freshness::Cached);
        drop(joined(call(0).next(&mut record, || true, put)));
        let next = joined(call(0).next(
            &mut record,
            || false,
            |entry| {
                assert_eq!(entry.map(|entry| &*entry.value), Some(b"v".as_slice()));
                put(entry)
            },
        ));
        assert!(next.own.is_some());
    }
}
