//! The status of an attempt during a wait, for the error of a wait that times out.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::tenure::Attempt;
use crate::error::{Error, Outcome};

/// The status of the attempts to take a lease.
#[derive(Debug, Default)]
pub(super) struct Progress(Mutex<Last>);

/// The status of the last attempt.
#[derive(Debug, Default)]
enum Last {
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

impl Progress {
    fn set(&self, last: Last) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = last;
    }

    pub(super) fn begins(&self) {
        self.set(Last::UnderWay);
    }

    /// Records that another holder has the lease, so that no attempt is made.
    pub(super) fn is_refused(&self) {
        self.set(Last::Refused);
    }

    pub(super) fn ends(&self, attempt: &Attempt) {
        self.set(match attempt {
            Attempt::Taken(_) => Last::Nothing,
            Attempt::Refused => Last::Refused,
            Attempt::Failed(error) => return self.fails(error),
        });
    }

    /// Records an error that does not end the wait.
    pub(super) fn fails(&self, error: &Error) {
        self.set(Last::Failed { why: error.to_string(), outcome: error.outcome() });
    }

    /// Returns the error of a wait that has timed out.
    pub(super) fn late(&self, longest: Duration) -> Error {
        let error = Error::timeout(longest);
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Last::Nothing => error,
            Last::UnderWay => error
                .unknown_outcome()
                .caused_by("an attempt was in progress; if it took the lease, the lease is released"),
            // `holder`, `leader` or `members` returns the holder.
            Last::Refused => {
                error.caused_by("it is still held, by another holder or by this task; it is not reentrant")
            }
            Last::Failed { why, outcome: Outcome::Unknown } => error.unknown_outcome().caused_by(why.clone()),
            Last::Failed { why, .. } => error.caused_by(why.clone()),
        }
    }
}
