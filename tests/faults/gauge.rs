//! What a worker was told, counted, and for how long it was told nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use harness::history::Outcome as Recorded;
use kvtyped::ErrorKind;
use kvtyped::prelude::*;

/// How operations ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Done.
    pub(crate) ok: usize,
    /// Another came first.
    pub(crate) refused: usize,
    /// Not applied, for another reason.
    pub(crate) failed: usize,
    /// Perhaps applied.
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

/// What kind of work a worker does.
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
    /// Whether it knows all servers, and so needs not wait for the one that it was connected to.
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

    /// Something was done.
    pub(crate) fn done(&self) {
        let mut shown = self.lock();
        shown.counts.ok += 1;
        shown.answered();
    }

    /// Something failed: what it was, as the history has it.
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

    /// What became of a write, as the history has it.
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

    /// Forgets for how long there was no answer: what comes before the first fault is no outage.
    pub(crate) fn begin(&self) {
        let mut shown = self.lock();
        shown.last = Instant::now();
        shown.outage = Duration::ZERO;
    }

    /// The longest time without an answer, the one that lasts included.
    pub(crate) fn outage(&self) -> Duration {
        let shown = self.lock();
        shown.outage.max(shown.last.elapsed())
    }

    /// Errors that nobody may be told in these scenarios, since they are not so.
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

/// An error that says what is not so, in words: the buckets are there all the time, and nobody sets them back.
fn odd(error: &Error) -> Option<String> {
    let is_odd = matches!(
        error.kind(),
        ErrorKind::HistoryRewound
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
    is_odd.then(|| format!("{:?} was told: {error}", error.operation().unwrap_or("an operation")))
}
