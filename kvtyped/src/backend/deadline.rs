//! When an operation gives up.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Error, Result};

/// The moment at which an operation gives up, and the time that it had.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    at: Instant,
    after: Duration,
}

impl Deadline {
    /// That long from now.
    pub fn after(after: Duration) -> Self {
        // A duration that no clock can hold is as good as a year.
        let now = Instant::now();
        let at = now.checked_add(after).unwrap_or_else(|| now + Duration::from_secs(365 * 24 * 60 * 60));
        Self { at, after }
    }

    /// The moment.
    pub fn at(self) -> Instant {
        self.at
    }

    /// The time from now to then; zero when it has passed.
    pub fn remaining(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// That long from now, or the moment itself if that is earlier.
    pub fn within(self, duration: Duration) -> Instant {
        Instant::now().checked_add(duration).map_or(self.at, |at| at.min(self.at))
    }

    /// Whether it has passed.
    pub fn has_passed(self) -> bool {
        self.remaining().is_zero()
    }

    /// The error of an operation that ran into it before anything was sent.
    pub fn error(self) -> Error {
        Error::timeout(self.after)
    }

    /// Waits for `future`, or for the deadline.
    ///
    /// # Errors
    ///
    /// [`Deadline::error`] if it passes first.
    ///
    /// # Cancel safety
    ///
    /// Dropping it drops the future.
    pub async fn bound<F: Future>(self, future: F) -> Result<F::Output> {
        tokio::time::timeout_at(self.at, future).await.map_err(|_| self.error())
    }
}
