//! Each checker accepts valid histories, and reports planted violations with the right rule and operations.

mod agreement;
mod logs;
mod planted;
mod synthetic;

use std::time::Duration;

use crate::history::{Action, Expected, Freshness, Op, Outcome, Rule, Seen, Violation};

pub(super) const ANYTHING: Expected = Expected::Anything;
pub(super) const NOTHING: Expected = Expected::Nothing;

pub(super) fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

/// A builder for a history on one key, with one client per operation.
#[derive(Default)]
pub(super) struct History(pub(super) Vec<Op>);

impl History {
    pub(super) fn op(mut self, time: std::ops::Range<u64>, action: Action, outcome: Outcome) -> Self {
        let id = self.0.len();
        let done = (outcome != Outcome::Unknown).then(|| ms(time.end));
        self.0.push(Op { id, client: id, key: "k".into(), action, call: ms(time.start), done, outcome });
        self
    }

    /// Appends an acknowledged write. Its value is the index of the operation.
    pub(super) fn written(self, time: std::ops::Range<u64>, expected: Expected, revision: u64) -> Self {
        self.write(time, expected, Outcome::Written(revision))
    }

    pub(super) fn write(self, time: std::ops::Range<u64>, expected: Expected, outcome: Outcome) -> Self {
        let value = Some(self.0.len() as u64);
        self.op(time, Action::Write { value, expected }, outcome)
    }

    pub(super) fn remove(self, time: std::ops::Range<u64>, expected: Expected, outcome: Outcome) -> Self {
        self.op(time, Action::Write { value: None, expected }, outcome)
    }

    /// Appends a read. `seen` is the value and the revision that it returned.
    pub(super) fn read(self, time: std::ops::Range<u64>, freshness: Freshness, seen: Option<(u64, u64)>) -> Self {
        let seen = seen.map(|(value, revision)| Seen { revision, value });
        self.op(time, Action::Read(freshness), Outcome::Seen(seen))
    }
}

/// Returns the broken rules and the operations that broke them.
pub(super) fn broken(violations: &[Violation]) -> Vec<(Rule, Vec<usize>)> {
    violations.iter().map(|violation| (violation.rule, violation.ops.clone())).collect()
}
