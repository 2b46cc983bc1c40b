//! What is known of an attempt while somebody waits for it: for the error of whoever has no more time.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::tenure::Attempt;
use crate::error::{Error, Outcome};

/// What came of the attempts to take a lease, so far.
#[derive(Debug, Default)]
pub(super) struct Progress(Mutex<Last>);

/// What came of the last.
#[derive(Debug, Default)]
enum Last {
    /// There was none.
    #[default]
    Nothing,
    /// It goes on.
    UnderWay,
    /// Another has it.
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

    /// Another has it, so that none is made.
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

    /// The error of whoever has waited for so long.
    pub(super) fn late(&self, longest: Duration) -> Error {
        let error = Error::timeout(longest);
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Last::Nothing => error,
            Last::UnderWay => {
                error.unknown_outcome().caused_by("an attempt was under way; what it may have taken is given back")
            }
            // Whoever has it is told by `holder`, `leader` or `members`.
            Last::Refused => error.caused_by("it is held still, by another or by this very task: none is reentrant"),
            Last::Failed { why, outcome: Outcome::Unknown } => error.unknown_outcome().caused_by(why.clone()),
            Last::Failed { why, .. } => error.caused_by(why.clone()),
        }
    }
}
