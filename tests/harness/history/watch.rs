//! Checks of the events of a watch or a cache: order, novelty, and agreement with the final state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::violation::{Rule, Violation};
use super::{Recorder, Seen, Stored};

/// An event of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    /// A live record.
    Put {
        /// Its key, encoded.
        key: String,
        /// Its revision.
        revision: u64,
        /// Its value.
        value: u64,
    },
    /// A removal of a record.
    Removed {
        /// The key, encoded.
        key: String,
        /// The revision of the removal.
        revision: u64,
    },
    /// The listing of existing records is complete.
    Ready,
    /// Earlier events are void; a new listing follows.
    Resync,
}

/// A log of the events that the reader of a watch receives. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Log {
    recorder: Recorder,
    reported: Arc<Mutex<Vec<(Duration, Observed)>>>,
}

impl Log {
    /// Creates a log that takes its timestamps from `recorder`.
    pub fn of(recorder: &Recorder) -> Self {
        Self { recorder: recorder.clone(), reported: Arc::default() }
    }

    /// Records an event at the current time.
    pub fn note(&self, reported: Observed) {
        let mut all = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        all.push((self.recorder.now(), reported));
    }

    /// Returns a copy of all events.
    pub fn reported(&self) -> Vec<(Duration, Observed)> {
        self.reported.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the events as evidence for the check of the history.
    pub fn stored(&self) -> Vec<Stored> {
        let stored = |(at, reported)| {
            let (key, revision, value) = match reported {
                Observed::Put { key, revision, value } => (key, revision, Some(value)),
                Observed::Removed { key, revision } => (key, revision, None),
                Observed::Ready | Observed::Resync => return None,
            };
            Some(Stored { key, revision, value, at })
        };
        self.reported().into_iter().filter_map(stored).collect()
    }
}

/// The checker of the events of a watch.
#[derive(Debug, Clone, Copy)]
pub struct Watched<'a> {
    reported: &'a [(Duration, Observed)],
    since: u64,
    in_order: bool,
    last: Option<&'a [Stored]>,
}

impl<'a> Watched<'a> {
    /// Creates a checker of a watch that lists existing records and then reports changes. The bucket must not be
    /// recreated during the watch.
    pub fn of(reported: &'a [(Duration, Observed)]) -> Self {
        Self { reported, since: 0, in_order: false, last: None }
    }

    /// Forbids events at or below this revision. For example, the revision of the bucket when a watch without an
    /// initial listing started.
    #[must_use]
    pub fn since(mut self, revision: u64) -> Self {
        self.since = revision;
        self
    }

    /// Requires that revisions grow across all keys. Only valid for a watch that does not coalesce events.
    #[must_use]
    pub fn in_order(mut self) -> Self {
        self.in_order = true;
        self
    }

    /// Requires that the events add up to this final listing of the bucket.
    #[must_use]
    pub fn last(mut self, last: &'a [Stored]) -> Self {
        self.last = Some(last);
        self
    }

    /// Runs the check. A violation lists indices into the log.
    pub fn check(self) -> Vec<Violation> {
        let mut reading = Reading { since: self.since, in_order: self.in_order, ..Reading::default() };
        for (at, (_, reported)) in self.reported.iter().enumerate() {
            reading.take(at, reported);
        }
        if let Some(last) = self.last {
            if !reading.ready {
                reading.broken(Rule::Discipline, "the listing never ended", [self.reported.len()]);
            }
            reading.converges(last);
        }
        reading.violations
    }
}

/// The newest event of a key: its index in the log, its revision, and its value if the record is live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Newest {
    at: usize,
    revision: u64,
    value: Option<u64>,
}

#[derive(Debug, Default)]
struct Reading<'a> {
    since: u64,
    in_order: bool,
    ready: bool,
    /// The newest event over all keys since the last `Resync`.
    newest: Option<Newest>,
    /// The newest event of each key since the last `Resync`.
    keys: BTreeMap<&'a str, Newest>,
    /// The newest event of each key before the last `Resync`.
    before: BTreeMap<&'a str, Newest>,
    violations: Vec<Violation>,
}

impl<'a> Reading<'a> {
    fn take(&mut self, at: usize, reported: &'a Observed) {
        match reported {
            Observed::Ready => {
                if std::mem::replace(&mut self.ready, true) {
                    self.broken(Rule::Discipline, "a second Ready, with no Resync before it", [at]);
                }
            }
            Observed::Resync => {
                self.ready = false;
                self.newest = None;
                self.before.append(&mut self.keys);
            }
            Observed::Put { key, revision, value } => {
                self.event(key, Newest { at, revision: *revision, value: Some(*value) });
            }
            Observed::Removed { key, revision } => self.event(key, Newest { at, revision: *revision, value: None }),
        }
    }

    fn event(&mut self, key: &'a str, event: Newest) {
        let Newest { at, revision, value } = event;
        if revision <= self.since {
            self.broken(Rule::NothingOldIsNew, &format!("{key} at {revision}, but since {}", self.since), [at]);
        }
        if let Some(newest) = self.newest.filter(|newest| self.in_order && newest.revision >= revision) {
            let why = format!("{key} at {revision} follows an event at {}", newest.revision);
            self.broken(Rule::EventsGrow, &why, [newest.at, at]);
        }
        self.newest = Some(event);
        if let Some(newest) = self.keys.insert(key, event) {
            if newest.revision >= revision {
                let why = format!("{key} at {revision} follows {key} at {}", newest.revision);
                self.broken(Rule::EventsGrow, &why, [newest.at, at]);
            }
        } else if let Some(before) = self.before.get(key).copied() {
            // A listing may repeat the event that was reported before, but nothing older.
            let again = before.revision == revision && before.value == value;
            if before.revision > revision || (before.revision == revision && !again) {
                let why = format!("{key} at {revision} with {value:?} in a new listing, told before: {before:?}");
                self.broken(Rule::NothingOldIsNew, &why, [before.at, at]);
            }
        }
    }

    fn converges(&mut self, last: &[Stored]) {
        let live = |value: Option<u64>, revision| value.map(|value| (revision, value));
        let reported: BTreeMap<&str, Newest> = self.keys.clone();
        let there: BTreeMap<&str, &Stored> = last.iter().map(|stored| (stored.key.as_str(), stored)).collect();
        let keys: BTreeSet<&str> = reported.keys().chain(there.keys()).copied().collect();
        for key in keys {
            let reported = reported.get(key);
            let by_watch = reported.and_then(|newest| live(newest.value, newest.revision));
            let by_bucket = there.get(key).and_then(|stored| live(stored.value, stored.revision));
            if by_watch != by_bucket {
                let why = format!("{key}: the watch has {by_watch:?}, the bucket {by_bucket:?} (revision and value)");
                self.broken(Rule::Converges, &why, reported.map(|newest| newest.at));
            }
        }
    }

    fn broken(&mut self, rule: Rule, why: &str, places: impl IntoIterator<Item = usize>) {
        self.violations.push(Violation { rule, ops: places.into_iter().collect(), text: why.to_owned() });
    }
}

/// The content of a cache for a key at one point in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    /// The key, encoded.
    pub key: String,
    /// The cached record, if there was one.
    pub seen: Option<Seen>,
}

/// Checks consecutive reads of a cache: no record is older than in an earlier read. A violation lists indices into
/// `lookups`.
pub fn cached(lookups: &[Lookup]) -> Vec<Violation> {
    let mut newest: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
    let mut violations = Vec::new();
    for (at, Lookup { key, seen }) in lookups.iter().enumerate() {
        let Some(seen) = seen else { continue };
        let (before, highest) = *newest.entry(key).or_insert((at, seen.revision));
        if seen.revision < highest {
            let text = format!("{key} at {} when it had been at {highest}", seen.revision);
            violations.push(Violation { rule: Rule::NothingOldIsNew, ops: vec![before, at], text });
        } else {
            newest.insert(key, (at, seen.revision));
        }
    }
    violations
}
