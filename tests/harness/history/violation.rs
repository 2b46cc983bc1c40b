//! Violations that the checkers report.

use std::fmt;

use super::{Action, Expected, Freshness, Op, Outcome};

/// An observation that the rules forbid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The rule that was broken.
    pub rule: Rule,
    /// The evidence: ids of operations, or indices into the checked log.
    pub ops: Vec<usize>,
    /// A description of the violation.
    pub text: String,
}

/// The rules of all checkers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// A revision belongs to one write.
    OneWriteARevision,
    /// A write that ended before another began has the lower revision.
    RealTimeOrder,
    /// A compare-and-set write directly follows the write that it expected, and the expected revision is that of a
    /// write.
    CompareAndSet,
    /// A create succeeds only if the key has no live record.
    Creation,
    /// A write is applied once.
    AppliedOnce,
    /// A write that was reported as not applied is never observed.
    RefusedIsNeverSeen,
    /// Each observed value was written, with that revision and key, and before the observation.
    SeenWasWritten,
    /// A read is as fresh as requested.
    Freshness,
    /// Each acknowledged write is in the final state, unless a later write replaced it.
    NothingIsLost,
    /// Some order of the operations on a key explains all their results.
    Linearizable,
    /// Each event of a key has a higher revision than the one before.
    EventsGrow,
    /// An event reports no state older than the start of the watch, nor older than an event before the current listing.
    NothingOldIsNew,
    /// A listing ends with exactly one `Ready`. A new listing begins only after a `Resync`.
    Discipline,
    /// The events add up to the final state of the bucket.
    Converges,
    /// A lock has at most one holder at a time.
    OneHolder,
    /// Fencing tokens and election terms grow from one holder to the next.
    FencesGrow,
    /// A write with an older fencing token is refused.
    StaleIsFenced,
    /// A candidate's leadership stops before its next leadership starts.
    StopsBeforeStart,
    /// The value of a counter is the sum of its increments.
    Counted,
    /// Transfers do not change the total.
    SumIsConstant,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}: {}", self.rule, self.ops, self.text)
    }
}

/// The maximum number of violations in a panic message.
const OBSERVED: usize = 20;

/// Asserts that there are no violations.
///
/// # Panics
///
/// Panics with a description of the first violations if there are any.
pub fn assert_none(what: &str, violations: &[Violation]) {
    let reported: Vec<_> = violations.iter().take(OBSERVED).map(ToString::to_string).collect();
    assert!(violations.is_empty(), "{what}: {} violations, among them\n{}", violations.len(), reported.join("\n"));
}

/// Builds a violation whose evidence is a set of operations.
pub(super) fn by_ops<'a>(rule: Rule, why: &str, ops: impl IntoIterator<Item = &'a Op>) -> Violation {
    let ops: Vec<_> = ops.into_iter().collect();
    let reported: Vec<_> = ops.iter().map(|op| op.to_string()).collect();
    Violation { rule, ops: ops.iter().map(|op| op.id).collect(), text: format!("{why}: {}", reported.join("; ")) }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, client, key, action, call, done, outcome } = self;
        write!(f, "op {id} of client {client}, ")?;
        match action {
            Action::Write { value: Some(value), .. } => write!(f, "write {value} to {key}")?,
            Action::Write { value: None, .. } => write!(f, "remove {key}")?,
            Action::Read(Freshness::Any) => write!(f, "read {key}")?,
            Action::Read(Freshness::Leader) => write!(f, "read {key} of the leader")?,
            Action::Read(Freshness::AtLeast(revision)) => write!(f, "read {key} at {revision} or later")?,
        }
        match action {
            Action::Write { expected: Expected::Nothing, .. } => write!(f, " expecting nothing")?,
            Action::Write { expected: Expected::Revision(revision), .. } => write!(f, " expecting {revision}")?,
            Action::Write { expected: Expected::Anything, .. } | Action::Read(_) => {}
        }
        write!(f, ", from {call:?}")?;
        if let Some(done) = done {
            write!(f, " to {done:?}")?;
        }
        match outcome {
            Outcome::Written(revision) => write!(f, ": written as {revision}"),
            Outcome::Seen(Some(seen)) => write!(f, ": {} at {}", seen.value, seen.revision),
            Outcome::Seen(None) => write!(f, ": nothing there"),
            Outcome::Refused => write!(f, ": refused"),
            Outcome::Failed => write!(f, ": not applied"),
            Outcome::Unknown => write!(f, ": unknown"),
        }
    }
}
