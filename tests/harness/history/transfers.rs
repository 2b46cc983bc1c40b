//! Check of transfers: the total never changes.

use super::violation::{Rule, Violation};

/// Checks that each observed total equals the initial total. A violation lists indices into `lookups`.
pub fn sums(sum: i64, lookups: &[i64]) -> Vec<Violation> {
    let wrong = lookups.iter().enumerate().filter(|(_, seen)| **seen != sum);
    wrong
        .map(|(at, seen)| Violation {
            rule: Rule::SumIsConstant,
            ops: vec![at],
            text: format!("{seen} instead of {sum}"),
        })
        .collect()
}
