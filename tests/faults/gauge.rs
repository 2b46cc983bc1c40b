//! Counts of a worker's results, and its longest time without an answer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use harness::history::Outcome as Recorded;
use kvtyped::prelude::*;
use kvtyped::{Error, ErrorKind, Read};

/// The numbers of operations by result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Succeeded.
    pub(crate) ok: usize,
    /// Refused because another write came first.
    pub(crate) refused: usize,
    /// Not applied for another reason.
    pub(crate) failed: usize,
    /// Unknown outcome.
    pub(crate) unknown: usize,
}

impl Counts {
    pub(crate) fn sum(self) -> usize {
        self.ok + self.refused + self.failed + self.unknown
    }

    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            ok: self.ok + other.ok,
            refused: self.refused + other.refused,
            failed: self.failed + other.failed,
            unknown: self.unknown + other.unknown,
        }
    }
}

/// The kind of work of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Work {
    Write,
    Touch,
    Modify,
    Read,
    Watch,
    Lock,
    Elect,
    Transact,
    Count,
}

/// The figures of one worker. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Gauge {
    pub(crate) work: Work,
    /// Whether the worker has the addresses of all servers, and can therefore reconnect to another server.
    pub(crate) roams: bool,
    shown: Arc<Mutex<Shown>>,
}

#[derive(Debug)]
struct Shown {
    counts: Counts,
    last: Instant,
    outage: Duration,
    odd: BTreeMap<String, usize>,
}

impl Gauge {
    pub(crate) fn new(work: Work, roams: bool) -> Self {
        let shown =
            Shown { counts: Counts::default(), last: Instant::now(), outage: Duration::ZERO, odd: BTreeMap::new() };
        Self { work, roams, shown: Arc::new(Mutex::new(shown)) }
    }

    fn lock(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a success.
    pub(crate) fn done(&self) {
        let mut shown = self.lock();
        shown.counts.ok += 1;
        shown.answered();
    }

    /// Records a failure and returns the outcome for the history.
    pub(crate) fn failed(&self, error: &Error) -> Recorded {
        let mut shown = self.lock();
        if let Some(odd) = odd(error) {
            *shown.odd.entry(odd).or_default() += 1;
        }
        if error.outcome() == Outcome::Unknown {
            shown.counts.unknown += 1;
            Recorded::Unknown
        } else if error.is_conflict() {
            shown.counts.refused += 1;
            shown.answered();
            Recorded::Refused
        } else {
            shown.counts.failed += 1;
            if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Fenced) {
                shown.answered();
            }
            Recorded::Failed
        }
    }

    /// Records the result of a write and returns the outcome for the history.
    pub(crate) fn wrote(&self, result: &Result<Revision, Error>) -> Recorded {
        match result {
            Ok(revision) => {
                self.done();
                Recorded::Written(revision.get())
            }
            Err(error) => self.failed(error),
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.lock().counts
    }

    /// Resets the outage measurement. Time before the first fault does not count.
    pub(crate) fn begin(&self) {
        let mut shown = self.lock();
        shown.last = Instant::now();
        shown.outage = Duration::ZERO;
    }

    /// Returns the longest time without an answer, including the current one.
    pub(crate) fn outage(&self) -> Duration {
        let shown = self.lock();
        shown.outage.max(shown.last.elapsed())
    }

    /// Returns the errors that must not occur in these scenarios.
    pub(crate) fn odd(&self) -> Vec<String> {
        self.lock().odd.iter().map(|(what, times)| format!("{times} times: {what}")).collect()
    }
}

impl Shown {
    fn answered(&mut self) {
        self.outage = self.outage.max(self.last.elapsed());
        self.last = Instant::now();
    }
}

/// Returns a description of an error that must not occur: the buckets exist throughout a run, and their history is
/// never rewound.
fn odd(error: &Error) -> Option<String> {
    let is_odd = matches!(
        error.kind(),
        ErrorKind::BucketReplaced
            | ErrorKind::BucketNotFound
            | ErrorKind::BucketExists
            | ErrorKind::BucketFull
            | ErrorKind::Decode { .. }
            | ErrorKind::Encode { .. }
            | ErrorKind::InvalidKey
            | ErrorKind::InvalidConfig { .. }
            | ErrorKind::InvalidBatch { .. }
            | ErrorKind::KeyChanged
            | ErrorKind::Drift { .. }
            | ErrorKind::TooLarge { .. }
            | ErrorKind::Unsupported { .. }
            | ErrorKind::PermissionDenied { .. }
            | ErrorKind::Unauthorized
            | ErrorKind::OutOfRange { .. }
            | ErrorKind::Closed
    );
    is_odd.then(|| format!("{:?} returned: {error}", error.operation().unwrap_or("an operation")))
}
