//! Whether a counter is what was added to it.
//!
//! What the single additions returned can be checked by [`VersionOrder`](super::VersionOrder), if each adds one: the total
//! then is the revision.

use super::violation::{Rule, Violation};

/// What was added to a counter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// The sum of what was acknowledged.
    pub acknowledged: i64,
    /// The sum of the increments whose outcome is not known.
    pub unknown_up: i64,
    /// The sum of the decrements whose outcome is not known, not above zero.
    pub unknown_down: i64,
}

impl Tally {
    /// Takes in that a number was added.
    pub fn acknowledged(&mut self, delta: i64) {
        self.acknowledged += delta;
    }

    /// Takes in that a number may have been added.
    pub fn unknown(&mut self, delta: i64) {
        *if delta < 0 { &mut self.unknown_down } else { &mut self.unknown_up } += delta;
    }

    /// With what another client added.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            acknowledged: self.acknowledged + other.acknowledged,
            unknown_up: self.unknown_up + other.unknown_up,
            unknown_down: self.unknown_down + other.unknown_down,
        }
    }

    /// Checks the value of a counter that began at zero.
    pub fn check(self, value: i64) -> Vec<Violation> {
        let range = self.acknowledged + self.unknown_down..=self.acknowledged + self.unknown_up;
        let text = format!("the counter is {value}, which is not in {range:?}");
        let wrong = Violation { rule: Rule::Counted, ops: Vec::new(), text };
        if range.contains(&value) { Vec::new() } else { vec![wrong] }
    }
}
