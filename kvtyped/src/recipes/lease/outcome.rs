//! The status of an attempt during a wait, for the error of a wait that times out.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::keeper::AcquireOutcome;
use crate::error::{Error, Outcome};

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
    UnderWay,
    /// Another holder has the lease.
    Refused,
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
        self.set(LastAttempt::UnderWay);
    }

    /// Records that another holder has the lease, so that no attempt is made.
    pub(crate) fn contended(&self) {
        self.set(LastAttempt::Refused);
    }

    pub(crate) fn finished(&self, attempt: &AcquireOutcome) {
        self.set(match attempt {
            AcquireOutcome::Acquired(_) => LastAttempt::Nothing,
            AcquireOutcome::Contended => LastAttempt::Refused,
            AcquireOutcome::Failed(error) => return self.fails(error),
        });
    }

    /// Records an error that does not end the wait.
    pub(crate) fn fails(&self, error: &Error) {
        self.set(LastAttempt::Failed { why: error.to_string(), outcome: error.outcome() });
    }

    /// Returns the error of a wait that has timed out.
    pub(crate) fn timeout_error(&self, longest: Duration) -> Error {
        let error = Error::timeout(longest);
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            LastAttempt::Nothing => error,
            LastAttempt::UnderWay => error
                .unknown_outcome()
                .caused_by("an attempt was in progress; if it took the lease, the lease is released"),
            // `holder`, `leader` or `members` returns the holder.
            LastAttempt::Refused => {
                error.caused_by("it is still held, by another holder or by this task; it is not reentrant")
            }
            LastAttempt::Failed { why, outcome: Outcome::Unknown } => error.unknown_outcome().caused_by(why.clone()),
            LastAttempt::Failed { why, .. } => error.caused_by(why.clone()),
        }
    }
}
