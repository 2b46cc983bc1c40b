//! Check of counters: the value is the sum of the increments.
//!
//! If each increment adds one, the total is the revision. [`VersionOrder`](super::VersionOrder) can then check the
//! results of the single increments, too.

use super::violation::{Rule, Violation};

/// The increments of a counter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// The sum of the acknowledged increments.
    pub acknowledged: i64,
    /// The sum of the positive increments of unknown outcome.
    pub unknown_up: i64,
    /// The sum of the negative increments of unknown outcome; at most zero.
    pub unknown_down: i64,
}

impl Tally {
    /// Records an acknowledged increment.
    pub fn acknowledged(&mut self, delta: i64) {
        self.acknowledged += delta;
    }

    /// Records an increment of unknown outcome.
    pub fn unknown(&mut self, delta: i64) {
        *if delta < 0 { &mut self.unknown_down } else { &mut self.unknown_up } += delta;
    }

    /// Adds the tally of another client.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            acknowledged: self.acknowledged + other.acknowledged,
            unknown_up: self.unknown_up + other.unknown_up,
            unknown_down: self.unknown_down + other.unknown_down,
        }
    }

    /// Checks the value of a counter that started at zero.
    pub fn check(self, value: i64) -> Vec<Violation> {
        let range = self.acknowledged + self.unknown_down..=self.acknowledged + self.unknown_up;
        let text = format!("the counter is {value}, which is not in {range:?}");
        let wrong = Violation { rule: Rule::Counted, ops: Vec::new(), text };
        if range.contains(&value) { Vec::new() } else { vec![wrong] }
    }
}
