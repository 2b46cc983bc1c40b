//! The outcome of an attempt to take a lease, and the status of the attempts during a wait.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::handle::Lease;
use crate::error::{Error, Outcome};

/// The outcome of an attempt to take a lease.
#[derive(Debug)]
pub(crate) enum AcquireOutcome {
    Acquired(Lease),
    /// Another holder has the lease.
    Contended,
    Failed(Error),
}

/// The status of the attempts to take a lease.
#[derive(Debug, Default)]
pub(crate) struct AcquireStatus(Mutex<LastAttempt>);

/// The status of the last attempt.
#[derive(Debug, Default)]
enum LastAttempt {
    /// There is nothing to report.
    #[default]
    Nothing,
    /// The attempt is in progress.
    InProgress,
    /// Another holder has the lease.
    Contended,
    Failed {
        why: String,
        outcome: Outcome,
    },
}

impl AcquireStatus {
    fn set(&self, last: LastAttempt) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = last;
    }

    pub(crate) fn started(&self) {
        self.set(LastAttempt::InProgress);
    }

    /// Records that another holder has the lease, so that no attempt is made.
    pub(crate) fn contended(&self) {
        self.set(LastAttempt::Contended);
    }

    pub(crate) fn finished(&self, outcome: &AcquireOutcome) {
        self.set(match outcome {
            AcquireOutcome::Acquired(_) => LastAttempt::Nothing,
            AcquireOutcome::Contended => LastAttempt::Contended,
            AcquireOutcome::Failed(error) => return self.failed(error),
        });
    }

    /// Records an error that does not end the wait.
    pub(crate) fn failed(&self, error: &Error) {
        self.set(LastAttempt::Failed { why: error.to_string(), outcome: error.outcome() });
    }

    /// Returns the error of a wait that has timed out.
    pub(crate) fn timeout_error(&self, limit: Duration) -> Error {
        let error = Error::timeout(limit);
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            LastAttempt::Nothing => error,
            LastAttempt::InProgress => error
                .unknown_outcome()
                .caused_by("an attempt was in progress; if it took the lease, the lease is released"),
            // `holder`, `leader` or `members` returns the holder.
            LastAttempt::Contended => error.caused_by("another holder or this task still has it; it is not reentrant"),
            LastAttempt::Failed { why, outcome: Outcome::Unknown } => error.unknown_outcome().caused_by(why.clone()),
            LastAttempt::Failed { why, .. } => error.caused_by(why.clone()),
        }
    }
}
