//! Whether transfers kept the sum of what they move.

use super::violation::{Rule, Violation};

/// Checks that each of these sums, as they were seen one after the other, is the one that there was in the beginning. A
/// violation names looks.
pub fn sums(sum: i64, looks: &[i64]) -> Vec<Violation> {
    let wrong = looks.iter().enumerate().filter(|(_, seen)| **seen != sum);
    wrong
        .map(|(at, seen)| Violation {
            rule: Rule::SumIsConstant,
            ops: vec![at],
            text: format!("{seen} instead of {sum}"),
        })
        .collect()
}
