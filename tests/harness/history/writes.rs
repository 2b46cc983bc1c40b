//! Determines which writes took effect, from all results and observations.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::violation::{Rule, Violation, by_ops};
use super::{Action, Expected, Op, Outcome, Stored};

/// A write that took effect.
#[derive(Debug, Clone, Copy)]
pub(super) struct Write<'a> {
    pub(super) op: &'a Op,
    pub(super) revision: u64,
    /// The value; `None` for a removal.
    pub(super) value: Option<u64>,
    pub(super) expected: Expected,
    /// An upper bound of the time when the write took effect: its acknowledgement or its first observation.
    pub(super) done: Duration,
}

/// The writes of one key.
#[derive(Debug, Default)]
pub(super) struct KeyWrites<'a> {
    /// The writes that took effect, by revision.
    pub(super) applied: Vec<Write<'a>>,
    /// The writes of unknown outcome that were not observed.
    pub(super) unknown: Vec<&'a Op>,
}

/// The writes of a history.
#[derive(Debug, Default)]
pub(super) struct Writes<'a> {
    pub(super) keys: BTreeMap<&'a str, KeyWrites<'a>>,
    /// Violations found while the writes were collected, such as values without a writer and revisions shared by two
    /// writes.
    pub(super) violations: Vec<Violation>,
    /// The number of writes of unknown outcome that an observation proved to have taken effect.
    pub(super) settled: usize,
}

/// An observation of a value in the bucket.
struct Sight<'a> {
    key: &'a str,
    revision: u64,
    value: u64,
    /// An upper bound of the time of the observation.
    at: Duration,
    /// The read that made the observation; `None` for a watch or a listing.
    by: Option<&'a Op>,
}

impl<'a> Writes<'a> {
    /// Collects the writes from a history and from further observations of the bucket.
    ///
    /// # Panics
    ///
    /// Panics if two writes of a key have the same value: an observation of that value would be ambiguous.
    pub(super) fn of(ops: &'a [Op], stored: impl Iterator<Item = &'a Stored> + Clone) -> Self {
        let mut settling = Settling::default();
        for op in ops {
            settling.begin(op);
        }
        let read = ops.iter().filter_map(|op| match op.outcome {
            Outcome::Seen(Some(seen)) => {
                let at = op.done.unwrap_or(Duration::MAX);
                Some(Sight { key: &op.key, revision: seen.revision, value: seen.value, at, by: Some(op) })
            }
            _ => None,
        });
        let reported = stored.clone().filter_map(|stored| {
            let Stored { key, revision, value, at } = stored;
            value.map(|value| Sight { key, revision: *revision, value, at: *at, by: None })
        });
        for sight in read.chain(reported) {
            settling.see(&sight);
        }
        settling.see_removals(stored);
        settling.finish()
    }
}

#[derive(Default)]
struct Settling<'a> {
    /// All writes of values.
    writers: HashMap<(&'a str, u64), &'a Op>,
    /// The writes that took effect, by operation id.
    applied: BTreeMap<usize, Write<'a>>,
    /// The write that owns each revision.
    owners: HashMap<u64, &'a Op>,
    unknown: BTreeMap<usize, &'a Op>,
    violations: Vec<Violation>,
    settled: usize,
}

impl<'a> Settling<'a> {
    fn begin(&mut self, op: &'a Op) {
        let Action::Write { value, .. } = op.action else { return };
        if let Some(value) = value
            && let Some(other) = self.writers.insert((&op.key, value), op)
        {
            panic!("two writes of one value: {other}; {op}");
        }
        match op.outcome {
            Outcome::Written(revision) => self.apply(op, revision, op.done.unwrap_or(Duration::MAX)),
            Outcome::Unknown => drop(self.unknown.insert(op.id, op)),
            Outcome::Refused | Outcome::Failed => {}
            Outcome::Seen(_) => panic!("a write that saw something: {op}"),
        }
    }

    fn apply(&mut self, op: &'a Op, revision: u64, done: Duration) {
        let Action::Write { value, expected } = op.action else { return };
        if let Some(owner) = self.owners.insert(revision, op) {
            self.broken(Rule::OneWriteARevision, &format!("both have revision {revision}"), [owner, op]);
        }
        self.applied.insert(op.id, Write { op, revision, value, expected, done });
    }

    fn see(&mut self, sight: &Sight<'a>) {
        let Sight { key, revision, value, at, by } = *sight;
        let what = || format!("{value} was seen at {revision} under {key}");
        let Some(&writer) = self.writers.get(&(key, value)) else {
            return self.broken(Rule::SeenWasWritten, &format!("{}, but was never written", what()), by);
        };
        if writer.call > at {
            self.broken(
                Rule::SeenWasWritten,
                &format!("{} before it was written", what()),
                by.into_iter().chain([writer]),
            );
        }
        match writer.outcome {
            Outcome::Refused | Outcome::Failed => {
                let why = format!("{}, but was reported as not applied", what());
                return self.broken(Rule::RefusedIsNeverSeen, &why, by.into_iter().chain([writer]));
            }
            Outcome::Unknown if self.unknown.remove(&writer.id).is_some() => {
                self.settled += 1;
                return self.apply(writer, revision, at);
            }
            _ => {}
        }
        let Some(write) = self.applied.get_mut(&writer.id) else { return };
        write.done = write.done.min(at);
        if write.revision != revision {
            let (rule, other) = match writer.outcome {
                Outcome::Unknown => (Rule::AppliedOnce, "it was seen at"),
                _ => (Rule::SeenWasWritten, "its writer received"),
            };
            let why = format!("{}, but {other} {}", what(), write.revision);
            self.broken(rule, &why, by.into_iter().chain([writer]));
        }
    }

    /// Matches observed removals with writes. Removals carry no value that identifies their writer. Each observed
    /// removal must therefore be an acknowledged removal or a removal of unknown outcome.
    fn see_removals(&mut self, stored: impl Iterator<Item = &'a Stored>) {
        let mut reported: BTreeMap<&str, BTreeSet<(u64, Duration)>> = BTreeMap::new();
        for Stored { key, revision, value, at } in stored {
            match self.owners.get(revision) {
                _ if value.is_some() => {}
                None => {
                    let of_key = reported.entry(key).or_default();
                    if !of_key.iter().any(|(other, _)| other == revision) {
                        of_key.insert((*revision, *at));
                    }
                }
                Some(owner) if owner.key == *key && matches!(owner.action, Action::Write { value: None, .. }) => {}
                Some(owner) => {
                    let why = format!("a removal of {key} was seen at {revision}, which is another write's");
                    let owner = *owner;
                    self.broken(Rule::SeenWasWritten, &why, [owner]);
                }
            }
        }
        for (key, reported) in reported {
            let removals = |op: &&Op| op.key == key && matches!(op.action, Action::Write { value: None, .. });
            let candidates: Vec<&'a Op> = self.unknown.values().copied().filter(removals).collect();
            if reported.len() > candidates.len() {
                let why = format!(
                    "{} removals of {key} were seen but never written, among {reported:?}",
                    reported.len() - candidates.len()
                );
                self.broken(Rule::SeenWasWritten, &why, candidates);
            } else if let ([one], Some((revision, at))) = (&candidates[..], reported.first()) {
                self.unknown.remove(&one.id);
                self.settled += 1;
                self.apply(one, *revision, *at);
            }
        }
    }

    fn broken(&mut self, rule: Rule, why: &str, ops: impl IntoIterator<Item = &'a Op>) {
        self.violations.push(by_ops(rule, why, ops));
    }

    fn finish(self) -> Writes<'a> {
        let Self { applied, unknown, violations, settled, writers: _, owners: _ } = self;
        let mut writes = Writes { keys: BTreeMap::new(), violations, settled };
        for write in applied.into_values() {
            writes.keys.entry(&write.op.key).or_default().applied.push(write);
        }
        for op in unknown.into_values() {
            writes.keys.entry(&op.key).or_default().unknown.push(op);
        }
        for of_key in writes.keys.values_mut() {
            of_key.applied.sort_by_key(|write| write.revision);
        }
        writes
    }
}
