//! Linearizability check by revisions.
//!
//! A bucket numbers its writes, so the revisions already give the order that a linearizability checker has to search
//! for. Only the validity of this order remains to be checked. The check takes O(n log n) and names the operations that
//! disagree. It must not raise false alarms. [`Wgl`](super::Wgl) finds violations that this check misses when outcomes
//! are unknown.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use super::violation::{Rule, Violation, by_ops};
use super::writes::{KeyWrites, Write, Writes};
use super::{Action, Expected, Freshness, Op, Outcome, Stored};

/// The checker; see the [module](super).
#[derive(Debug, Clone, Copy)]
pub struct VersionOrder<'a> {
    ops: &'a [Op],
    reported: &'a [Stored],
    last: Option<&'a [Stored]>,
    leader_is_fresh: bool,
}

/// The result of the check.
#[derive(Debug, Clone, Default)]
pub struct Checked {
    /// The number of operations.
    pub operations: usize,
    /// The number of writes that took effect.
    pub applied: usize,
    /// The number of applied writes whose unknown outcome was resolved by an observation.
    pub settled: usize,
    /// The number of writes of unknown outcome that were not observed.
    pub unknown: usize,
    /// The violations.
    pub violations: Vec<Violation>,
    /// The staleness of plain reads.
    pub any: Staleness,
    /// The staleness of reads of at least a revision, relative to the writes acknowledged before the read. These reads
    /// may be stale.
    pub at_least: Staleness,
    /// The staleness of reads of the leader.
    pub leader: Staleness,
    /// The ids of refused writes that no other write can have conflicted with.
    pub unfounded: Vec<usize>,
    /// The duration of the check.
    pub took: Duration,
}

/// The staleness of reads of one kind, relative to the writes acknowledged before each read began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Staleness {
    /// The number of answered reads.
    pub reads: usize,
    /// The number of outdated answers.
    pub stale: usize,
    /// The longest time since an answer had become outdated.
    pub longest: Duration,
}

impl<'a> VersionOrder<'a> {
    /// Creates a checker of a history. The history must include the writes of all records that existed before; no
    /// record may expire.
    pub fn of(ops: &'a [Op]) -> Self {
        Self { ops, reported: &[], last: None, leader_is_fresh: false }
    }

    /// Adds the events of a watch as evidence.
    #[must_use]
    pub fn reported(mut self, reported: &'a [Stored]) -> Self {
        self.reported = reported;
        self
    }

    /// Adds the final content of the whole bucket as evidence: no acknowledged write may be missing.
    #[must_use]
    pub fn last(mut self, last: &'a [Stored]) -> Self {
        self.last = Some(last);
        self
    }

    /// Reports each stale read of the leader as a violation. Valid only if no leader was partitioned or frozen.
    #[must_use]
    pub fn leader_is_fresh(mut self) -> Self {
        self.leader_is_fresh = true;
        self
    }

    /// Runs the check.
    ///
    /// # Panics
    ///
    /// Panics if two writes of a key have the same value: an observation of that value would be ambiguous.
    pub fn check(self) -> Checked {
        let start = Instant::now();
        let stored = self.reported.iter().chain(self.last.unwrap_or_default());
        let mut writes = Writes::of(self.ops, stored);
        let mut checked = Checked {
            operations: self.ops.len(),
            applied: writes.keys.values().map(|key| key.applied.len()).sum(),
            settled: writes.settled,
            unknown: writes.keys.values().map(|key| key.unknown.len()).sum(),
            violations: std::mem::take(&mut writes.violations),
            ..Checked::default()
        };
        real_time(&writes, &mut checked.violations);
        let owners =
            writes.keys.values().flat_map(|key| &key.applied).map(|write| (write.revision, write.op)).collect();
        let keys: HashMap<&str, Key> =
            writes.keys.iter().map(|(key, of_key)| (*key, Key::of(of_key, &owners))).collect();
        for key in keys.values() {
            key.conditions(&mut checked.violations);
        }
        let nothing = KeyWrites::default();
        let untouched = Key::of(&nothing, &owners);
        for op in self.ops {
            let key = keys.get(op.key.as_str()).unwrap_or(&untouched);
            match op.action {
                Action::Read(freshness) => self.read(key, op, freshness, &mut checked),
                Action::Write { expected, .. } if op.outcome == Outcome::Refused => {
                    if !key.may_refuse(op, expected) {
                        checked.unfounded.push(op.id);
                    }
                }
                Action::Write { .. } => {}
            }
        }
        if let Some(last) = self.last {
            let last: HashMap<&str, &Stored> = last.iter().map(|stored| (stored.key.as_str(), stored)).collect();
            for (name, key) in &keys {
                key.is_the_last(last.get(name).copied(), &mut checked.violations);
            }
        }
        checked.violations.sort_by(|a, b| (a.rule, &a.ops).cmp(&(b.rule, &b.ops)));
        checked.took = start.elapsed();
        checked
    }

    fn read(&self, key: &Key<'_>, op: &Op, freshness: Freshness, checked: &mut Checked) {
        let Outcome::Seen(seen) = op.outcome else { return };
        let seen = seen.map(|seen| seen.revision);
        let end = op.done.unwrap_or(Duration::MAX);
        let acknowledged = key.acknowledged_before(op.call).filter(|newest| key.is_behind(seen, newest, end));
        let staleness = match freshness {
            Freshness::Any => &mut checked.any,
            Freshness::AtLeast(_) => &mut checked.at_least,
            Freshness::Leader => &mut checked.leader,
        };
        staleness.reads += 1;
        if let Some(newest) = acknowledged {
            staleness.stale += 1;
            staleness.longest = staleness.longest.max(op.call.saturating_sub(key.outdated_since(seen, newest)));
        }
        let missed = match freshness {
            Freshness::Any => None,
            Freshness::Leader => acknowledged.filter(|_| self.leader_is_fresh),
            Freshness::AtLeast(rank) => key.newest_up_to(rank).filter(|newest| key.is_behind(seen, newest, end)),
        };
        if let Some(newest) = missed {
            checked.violations.push(by_ops(Rule::Freshness, "a read is older than it may be", [op, newest.op]));
        }
    }
}

/// Checks over the whole bucket that a write that ended before another began has the lower revision.
fn real_time(writes: &Writes<'_>, violations: &mut Vec<Violation>) {
    let mut by_call: Vec<&Write<'_>> = writes.keys.values().flat_map(|key| &key.applied).collect();
    let mut by_done = by_call.clone();
    by_call.sort_by_key(|write| write.op.call);
    by_done.sort_by_key(|write| write.done);
    let mut ended = by_done.into_iter().peekable();
    let mut highest: Option<&Write<'_>> = None;
    for write in by_call {
        while let Some(before) = ended.next_if(|before| before.done < write.op.call) {
            if highest.is_none_or(|highest| highest.revision < before.revision) {
                highest = Some(before);
            }
        }
        if let Some(highest) = highest.filter(|highest| highest.revision > write.revision) {
            let why = "the first ended before the second began, and has the higher revision";
            violations.push(by_ops(Rule::RealTimeOrder, why, [highest.op, write.op]));
        }
    }
}

/// An index over the writes of a key.
struct Key<'a> {
    writes: &'a KeyWrites<'a>,
    owners: &'a HashMap<u64, &'a Op>,
    /// By index: the earliest end of this write and all later ones.
    ends: Vec<Duration>,
    /// By index: the earliest call of a removal at or after this write, if there is one.
    removals: Vec<Option<Duration>>,
    /// By end time: the index of the highest revision that was acknowledged at this time.
    acknowledged: Vec<(Duration, usize)>,
}

impl<'a> Key<'a> {
    fn of(writes: &'a KeyWrites<'a>, owners: &'a HashMap<u64, &'a Op>) -> Self {
        let applied = &writes.applied;
        let mut ends: Vec<_> = applied.iter().map(|write| write.done).collect();
        let removal = |write: &Write<'_>| write.value.is_none().then_some(write.op.call);
        let mut removals: Vec<_> = applied.iter().map(removal).collect();
        for at in (1..applied.len()).rev() {
            ends[at - 1] = ends[at - 1].min(ends[at]);
            removals[at - 1] = [removals[at - 1], removals[at]].into_iter().flatten().min();
        }
        let mut acknowledged: Vec<_> = applied.iter().enumerate().map(|(at, write)| (write.done, at)).collect();
        acknowledged.sort_unstable();
        for at in 1..acknowledged.len() {
            acknowledged[at].1 = acknowledged[at].1.max(acknowledged[at - 1].1);
        }
        Self { writes, owners, ends, removals, acknowledged }
    }

    fn newest_up_to(&self, revision: u64) -> Option<&Write<'a>> {
        let proxied = self.writes.applied.partition_point(|write| write.revision <= revision);
        proxied.checked_sub(1).map(|at| &self.writes.applied[at])
    }

    fn acknowledged_before(&self, time: Duration) -> Option<&Write<'a>> {
        let ended = self.acknowledged.partition_point(|(done, _)| *done < time);
        ended.checked_sub(1).map(|at| &self.writes.applied[self.acknowledged[at].1])
    }

    fn place(&self, revision: u64) -> usize {
        self.writes.applied.partition_point(|write| write.revision < revision)
    }

    /// Returns whether an observation is older than a write. An absent record can also be explained by a later removal.
    fn is_behind(&self, seen: Option<u64>, newest: &Write<'_>, end: Duration) -> bool {
        match seen {
            Some(revision) => revision < newest.revision,
            None if newest.value.is_none() => false,
            None => {
                let removed = self.removals[self.place(newest.revision)].is_some_and(|call| call <= end);
                !removed && !self.unknown_removals(newest, end)
            }
        }
    }

    /// Returns the time since which the observation was outdated.
    fn outdated_since(&self, seen: Option<u64>, newest: &Write<'_>) -> Duration {
        let after = seen.map_or(newest.revision, |revision| revision + 1);
        self.ends.get(self.place(after)).copied().unwrap_or(newest.done)
    }

    /// Returns whether a removal of unknown outcome may have happened after the write `proxied` and before the time
    /// `before`.
    fn unknown_removals(&self, proxied: &Write<'_>, before: Duration) -> bool {
        let removal = |op: &&&Op| matches!(op.action, Action::Write { value: None, .. });
        self.writes.unknown.iter().filter(removal).any(|op| self.may_follow(op, proxied, before))
    }

    /// Returns whether a write of unknown outcome may have happened after the write `proxied` and before the time
    /// `before`.
    fn may_follow(&self, op: &Op, proxied: &Write<'_>, before: Duration) -> bool {
        let Action::Write { expected, .. } = op.action else { return false };
        let fits = match expected {
            Expected::Anything => true,
            // After a removal; or another write of unknown outcome removed the record before.
            Expected::Nothing => true,
            Expected::Revision(revision) => revision == proxied.revision || !self.owners.contains_key(&revision),
        };
        fits && op.call <= before
    }

    /// Checks that the precondition of each applied write held.
    fn conditions(&self, violations: &mut Vec<Violation>) {
        let applied = &self.writes.applied;
        for (at, write) in applied.iter().enumerate() {
            let before = at.checked_sub(1).map(|at| &applied[at]);
            match write.expected {
                Expected::Anything => {}
                Expected::Nothing => {
                    if let Some(live) = before.filter(|before| before.value.is_some())
                        && !self.unknown_removals(live, self.ends[at])
                    {
                        let why = "the second was created over the first";
                        violations.push(by_ops(Rule::Creation, why, [live.op, write.op]));
                    }
                }
                Expected::Revision(expected) => self.compare_and_set(write, expected, at, before, violations),
            }
        }
    }

    fn compare_and_set(
        &self,
        write: &Write<'_>,
        expected: u64,
        at: usize,
        before: Option<&Write<'_>>,
        violations: &mut Vec<Violation>,
    ) {
        let newest = before.map_or(0, |before| before.revision);
        if newest == expected {
            return;
        }
        if let Some(before) = before.filter(|_| newest > expected) {
            let why = "the second skipped the first, which came after what it expected";
            violations.push(by_ops(Rule::CompareAndSet, why, [before.op, write.op]));
            return;
        }
        // The expected revision has no known owner, so it must belong to a write of unknown outcome.
        let known = self.owners.get(&expected);
        let may_be = |op: &&Op| before.is_none_or(|before| self.may_follow(op, before, self.ends[at]));
        let unknown = known.is_none() && self.writes.unknown.iter().any(|op| op.call <= self.ends[at] && may_be(op));
        if expected >= write.revision || !unknown {
            let why = "it expected what was not the newest entry of the key";
            violations.push(by_ops(Rule::CompareAndSet, why, known.copied().into_iter().chain([write.op])));
        }
    }

    /// Returns whether a refusal of the write can be explained by another write.
    fn may_refuse(&self, op: &Op, expected: Expected) -> bool {
        let end = op.done.unwrap_or(Duration::MAX);
        if self.writes.unknown.iter().any(|other| other.call <= end) {
            return true;
        }
        let after = match expected {
            // The write has no precondition: a fencing token caused the refusal.
            Expected::Anything => return true,
            Expected::Nothing => 0,
            Expected::Revision(revision) => self.place(revision + 1),
        };
        self.writes.applied[after..].iter().any(|write| write.op.call <= end)
    }

    /// Checks that the final state contains the newest write.
    fn is_the_last(&self, last: Option<&Stored>, violations: &mut Vec<Violation>) {
        let Some(newest) = self.writes.applied.last() else { return };
        let seen = last.filter(|last| last.value.is_some()).map(|last| last.revision);
        if self.is_behind(seen, newest, Duration::MAX) {
            let why = match last {
                Some(last) => format!("the stored record has revision {}, not that of this write", last.revision),
                None => "nothing is there".to_owned(),
            };
            violations.push(by_ops(Rule::NothingIsLost, &why, [newest.op]));
        }
    }
}

impl fmt::Display for Staleness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reads, stale, longest } = self;
        write!(f, "{stale} of {reads} stale (by {longest:.1?} at most)")
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { operations, applied, settled, unknown, violations, any, at_least, leader, unfounded, took } = self;
        write!(f, "{operations} operations, {applied} writes applied ({settled} resolved by observations), ")?;
        write!(f, "{unknown} unknown, {} violations; ", violations.len())?;
        write!(f, "plain reads {any}, of at least {at_least}, of the leader {leader}; ")?;
        write!(f, "{} refusals without a reason; {took:.1?}", unfounded.len())
    }
}
