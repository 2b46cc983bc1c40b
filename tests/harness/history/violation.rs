//! What a checker finds.

use std::fmt;

use super::{Action, Expected, Freshness, Op, Outcome};

/// Something that must not have happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which rule was broken.
    pub rule: Rule,
    /// Who shows it: ids of operations, or places in the log that was checked.
    pub ops: Vec<usize>,
    /// The same in words.
    pub text: String,
}

/// The rules of all checkers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// A revision belongs to one write.
    OneWriteARevision,
    /// A write that ended before another began has the lower revision.
    RealTimeOrder,
    /// Nothing was written between what a compare-and-set expected and what it wrote, and it expected what was written.
    CompareAndSet,
    /// A record is created only where nothing live is.
    Creation,
    /// A write is applied once.
    AppliedOnce,
    /// Nobody sees a write that was said to be not applied.
    RefusedIsNeverSeen,
    /// What is seen was written, under that revision and key, and not later than it was seen.
    SeenWasWritten,
    /// A read is as fresh as it was asked to be.
    Freshness,
    /// What was acknowledged is there in the end, unless it was written over.
    NothingIsLost,
    /// The operations on a key have an order that explains all that they returned.
    Linearizable,
    /// Each event of a key has a higher revision than the one before.
    EventsGrow,
    /// Nothing that was there before the watch began, or before its listing ended, is told as new.
    NothingOldIsNew,
    /// A listing ends with one `Ready`, and begins anew only after a `Resync`.
    Discipline,
    /// What was told adds up to what is there.
    Converges,
    /// No two holders at once.
    OneHolder,
    /// Fences, and terms, grow from one holder to the next.
    FencesGrow,
    /// A write under an older fence is refused.
    StaleIsFenced,
    /// A candidate's leadership stops before its next one starts.
    StopsBeforeStart,
    /// A counter is what was added to it.
    Counted,
    /// A sum that nothing changes is always the same.
    SumIsConstant,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}: {}", self.rule, self.ops, self.text)
    }
}

/// How many violations are told.
const TOLD: usize = 20;

/// # Panics
///
/// If there is a violation: with the first of them in words.
pub fn assert_none(what: &str, violations: &[Violation]) {
    let told: Vec<_> = violations.iter().take(TOLD).map(ToString::to_string).collect();
    assert!(violations.is_empty(), "{what}: {} violations, among them\n{}", violations.len(), told.join("\n"));
}

/// A violation that operations show.
pub(super) fn by_ops<'a>(rule: Rule, why: &str, ops: impl IntoIterator<Item = &'a Op>) -> Violation {
    let ops: Vec<_> = ops.into_iter().collect();
    let told: Vec<_> = ops.iter().map(|op| op.to_string()).collect();
    Violation { rule, ops: ops.iter().map(|op| op.id).collect(), text: format!("{why}: {}", told.join("; ")) }
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
