//! Whether terms grew, and whether each leadership stopped before the next one of its candidate.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::violation::{Rule, Violation};

/// What happened to a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It leads, in this term.
    Started(u64),
    /// It does not lead any more.
    Stopped(u64),
}

/// Where candidates note their turns. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Turns(Arc<Mutex<Vec<(usize, Turn)>>>);

impl Turns {
    /// Notes that a candidate leads, unless its leadership is over by the time it is noted: only a leadership that is valid
    /// has its place among the others. Says whether it was noted.
    pub fn started(&self, candidate: usize, term: u64, is_valid: impl FnOnce() -> bool) -> bool {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock: nobody else starts between the look and the note.
        let valid = is_valid();
        if valid {
            turns.push((candidate, Turn::Started(term)));
        }
        valid
    }

    /// Notes that a candidate does not lead any more.
    pub fn stopped(&self, candidate: usize, term: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((candidate, Turn::Stopped(term)));
    }

    /// What was noted so far.
    pub fn noted(&self) -> Vec<(usize, Turn)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Checks the turns of all candidates of an election. A violation names places in the log.
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
                    let text = format!("candidate {candidate} stops in term {term}, in which it does not lead");
                    broken(Rule::StopsBeforeStart, None, text);
                }
            }
        }
    }
    violations
}
