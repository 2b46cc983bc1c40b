//! Check of elections: terms grow, and a candidate's leadership stops before its next leadership starts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::violation::{Rule, Violation};

/// A transition of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The candidate became the leader of this term.
    Started(u64),
    /// The candidate is no longer the leader of this term.
    Stopped(u64),
}

/// A log of the transitions of all candidates. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Turns(Arc<Mutex<Vec<(usize, Turn)>>>);

impl Turns {
    /// Records that a candidate became the leader, unless its leadership has already ended: only a valid leadership can
    /// be ordered relative to the others. Returns whether the transition was recorded.
    pub fn started(&self, candidate: usize, term: u64, is_valid: impl FnOnce() -> bool) -> bool {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The lock is held, so no other start is recorded between the check and the push.
        let valid = is_valid();
        if valid {
            turns.push((candidate, Turn::Started(term)));
        }
        valid
    }

    /// Records that a candidate is no longer the leader.
    pub fn stopped(&self, candidate: usize, term: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((candidate, Turn::Stopped(term)));
    }

    /// Returns a copy of all transitions.
    pub fn noted(&self) -> Vec<(usize, Turn)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Checks the transitions of all candidates of an election. A violation lists indices into the log.
pub fn turns(turns: &[(usize, Turn)]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut leading: BTreeMap<usize, (usize, u64)> = BTreeMap::new();
    let mut newest: Option<(usize, u64)> = None;
    for (at, (candidate, turn)) in turns.iter().enumerate() {
        let mut broken = |rule, other: Option<usize>, text| {
            violations.push(Violation { rule, ops: other.into_iter().chain([at]).collect(), text });
        };
        match *turn {
            Turn::Started(term) => {
                if let Some((before, running)) = leading.insert(*candidate, (at, term)) {
                    let text = format!("candidate {candidate} starts term {term} while it leads in {running}");
                    broken(Rule::StopsBeforeStart, Some(before), text);
                }
                match newest {
                    Some((before, highest)) if highest >= term => {
                        broken(Rule::FencesGrow, Some(before), format!("term {term} of {candidate} behind {highest}"));
                    }
                    _ => newest = Some((at, term)),
                }
            }
            Turn::Stopped(term) => {
                if leading.remove(candidate).is_none_or(|(_, running)| running != term) {
                    let text = format!("candidate {candidate} stops in term {term} without leading in it");
                    broken(Rule::StopsBeforeStart, None, text);
                }
            }
        }
    }
    violations
}
