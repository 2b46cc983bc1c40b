//! Deadlines of operations.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Error, Result};

/// The deadline of an operation, and its initial timeout.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    at: Instant,
    after: Duration,
}

impl Deadline {
    /// Creates a deadline that is `after` from now.
    pub fn after(after: Duration) -> Self {
        // A duration that the clock cannot represent is replaced by a year.
        let now = Instant::now();
        let at = now.checked_add(after).unwrap_or_else(|| now + Duration::from_secs(365 * 24 * 60 * 60));
        Self { at, after }
    }

    /// Returns the time of the deadline.
    pub fn at(self) -> Instant {
        self.at
    }

    /// Returns the time that is left, or zero if the deadline has passed.
    pub fn remaining(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// Returns the time `duration` from now, or the deadline if it is earlier.
    pub fn within(self, duration: Duration) -> Instant {
        Instant::now().checked_add(duration).map_or(self.at, |at| at.min(self.at))
    }

    /// Whether the deadline has passed.
    pub fn is_expired(self) -> bool {
        self.remaining().is_zero()
    }

    /// Returns the error of an operation that reached its deadline before it sent anything.
    pub fn error(self) -> Error {
        Error::timeout(self.after)
    }

    /// Waits for `future` until the deadline.
    ///
    /// # Errors
    ///
    /// Returns [`Deadline::error`] if the deadline passes first.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, `future` is dropped with it.
    pub async fn timeout<F: Future>(self, future: F) -> Result<F::Output> {
        tokio::time::timeout_at(self.at, future).await.map_err(|_| self.error())
    }
}
