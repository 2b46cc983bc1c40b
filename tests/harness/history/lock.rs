//! Checks of locks: mutual exclusion, growing fencing tokens, and refusal of stale writes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::violation::{Rule, Violation, by_ops};
use super::{Op, Outcome, Recorder};

/// One acquisition of a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TermRecord {
    /// The client that held the lock.
    pub client: usize,
    /// The name of the lock.
    pub lock: String,
    /// The fencing token of the guard.
    pub fence: u64,
    /// An upper bound of the time when the client received the guard.
    pub taken: Duration,
    /// The end of the first check that found the guard valid, and the start of the last such check. The guard reported
    /// itself valid at both times, and therefore was valid during the whole interval.
    pub valid: Option<(Duration, Duration)>,
}

/// A write with a fencing token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fenced {
    /// The index of the acquisition whose fencing token the write used.
    pub term_record: usize,
    /// The id of the operation in the history.
    pub op: usize,
}

/// A log of the acquisitions of all lock holders. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TermLog {
    recorder: Recorder,
    noted: Arc<Mutex<(Vec<TermRecord>, Vec<Fenced>)>>,
}

impl TermLog {
    /// Creates a log that takes its timestamps from `recorder`.
    pub fn of(recorder: &Recorder) -> Self {
        Self { recorder: recorder.clone(), noted: Arc::default() }
    }

    /// Records that a client received a guard. Returns the id of the acquisition.
    pub fn taken(&self, client: usize, lock: impl Into<String>, fence: u64) -> usize {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = self.recorder.now();
        noted.0.push(TermRecord { client, lock: lock.into(), fence, taken, valid: None });
        noted.0.len() - 1
    }

    /// Checks a guard, records the time if the guard is valid, and returns the result.
    pub fn look_up(&self, term_record: usize, is_valid: impl FnOnce() -> bool) -> bool {
        let before = self.recorder.now();
        let found = is_valid();
        let after = self.recorder.now();
        if found {
            let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
            let valid = &mut noted.0[term_record].valid;
            *valid = Some((valid.map_or(after, |(first, _)| first), before));
        }
        found
    }

    /// Records that an operation used the fencing token of an acquisition.
    pub fn fenced(&self, term_record: usize, op: usize) {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).1.push(Fenced { term_record, op });
    }

    /// Returns a copy of all records.
    pub fn noted(&self) -> (Vec<TermRecord>, Vec<Fenced>) {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Checks that no two guards of a lock were valid at once, and that their fencing tokens grow. A violation lists ids of
/// acquisitions.
pub fn term_log(term_log: &[TermRecord]) -> Vec<Violation> {
    let mut locks: BTreeMap<&str, Vec<(usize, &TermRecord)>> = BTreeMap::new();
    for (id, term_record) in term_log.iter().enumerate() {
        locks.entry(&term_record.lock).or_default().push((id, term_record));
    }
    locks.into_values().flat_map(|of_lock| one_lock(&of_lock)).collect()
}

fn one_lock(term_log: &[(usize, &TermRecord)]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut broken = |rule, first: (usize, &TermRecord), second: (usize, &TermRecord)| {
        let text = format!("{:?} and {:?}", first.1, second.1);
        violations.push(Violation { rule, ops: vec![first.0, second.0], text });
    };
    let mut fences: BTreeMap<u64, (usize, &TermRecord)> = BTreeMap::new();
    for &(id, term_record) in term_log {
        if let Some(other) = fences.insert(term_record.fence, (id, term_record)) {
            broken(Rule::FencesGrow, other, (id, term_record));
        }
    }
    let mut held: Vec<_> = term_log
        .iter()
        .filter_map(|&(id, term_record)| Some((term_record.valid.filter(|(from, to)| from <= to)?, (id, term_record))))
        .collect();
    held.sort_by_key(|(valid, _)| *valid);
    // Of the earlier acquisitions, the one that stayed valid for longest.
    let mut longest = None;
    for pair in held.windows(2) {
        let [((_, to), first), ((from, _), second)] = pair else { continue };
        if first.1.fence > second.1.fence {
            broken(Rule::FencesGrow, *first, *second);
        }
        let (until, holder) = longest.filter(|(until, _)| until > to).unwrap_or((*to, *first));
        if until > *from {
            broken(Rule::OneHolder, holder, *second);
        }
        longest = Some((until, holder));
    }
    violations
}

/// Checks that no write was accepted with a fencing token when the bucket knew a newer token. The bucket knows a token
/// if it accepted a write with it earlier, or if its guard was granted before the write began. A violation lists
/// operations.
pub fn fenced(ops: &[Op], term_log: &[TermRecord], writes: &[Fenced]) -> Vec<Violation> {
    let mut locks: BTreeMap<&str, Vec<(u64, u64, &Op)>> = BTreeMap::new();
    for Fenced { term_record, op } in writes {
        let (term_record, op) = (&term_log[*term_record], &ops[*op]);
        if let Outcome::Written(revision) = op.outcome {
            locks.entry(&term_record.lock).or_default().push((revision, term_record.fence, op));
        }
    }
    let mut violations = Vec::new();
    for (lock, mut accepted) in locks {
        let mut taken: Vec<_> = term_log.iter().filter(|term_record| term_record.lock == lock).collect();
        taken.sort_by_key(|term_record| term_record.taken);
        // By time: the highest fencing token granted so far.
        let mut given: Vec<(Duration, u64)> =
            taken.iter().map(|term_record| (term_record.taken, term_record.fence)).collect();
        for at in 1..given.len() {
            given[at].1 = given[at].1.max(given[at - 1].1);
        }
        accepted.sort_unstable_by_key(|(revision, ..)| *revision);
        let mut newest: Option<(u64, &Op)> = None;
        for (_, fence, op) in accepted {
            if let Some((_, newer)) = newest.filter(|(newest, _)| *newest > fence) {
                let why = format!("a write under the fence {fence} of {lock} behind one under a newer fence");
                violations.push(by_ops(Rule::StaleIsFenced, &why, [newer, op]));
            } else {
                newest = Some((fence, op));
            }
            let before = given.partition_point(|(taken, _)| *taken < op.call);
            if let Some((at, newer)) = before.checked_sub(1).map(|at| given[at]).filter(|(_, newer)| *newer > fence) {
                let why = format!("a write under the fence {fence} of {lock} when {newer} had been given by {at:?}");
                violations.push(by_ops(Rule::StaleIsFenced, &why, [op]));
            }
        }
    }
    violations
}
