//! The clock of an embedded backend.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::backend::ClockReading;

/// Converts between the times of the state, instants and dates.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    started_at: Instant,
    /// The time of the state at `started_at`.
    base: Duration,
    /// The date of the time zero of the state.
    epoch: SystemTime,
}

impl Clock {
    /// Creates a clock whose time begins now, at zero.
    pub(super) fn starting_now() -> Self {
        Self { started_at: Instant::now(), base: Duration::ZERO, epoch: SystemTime::now() }
    }

    /// Creates a clock that counts from 1970. Its time is that of `wall`, or `latest` if `wall` is earlier, so that the
    /// time never goes back.
    #[cfg(feature = "file")]
    pub(crate) fn since_1970(wall: SystemTime, latest: Duration) -> Self {
        let epoch = SystemTime::UNIX_EPOCH;
        let base = wall.duration_since(epoch).unwrap_or_default().max(latest);
        Self { started_at: Instant::now(), base, epoch }
    }

    /// Returns the time of the state.
    pub(crate) fn now(&self) -> Duration {
        self.at(Instant::now())
    }

    /// Returns the time of the state at an instant.
    pub(super) fn at(&self, instant: Instant) -> Duration {
        self.base + instant.saturating_duration_since(self.started_at)
    }

    /// Returns the current date of the clock, with the instant of the reading.
    pub(super) fn reading(&self) -> ClockReading {
        let at = Instant::now();
        ClockReading { server: self.date(self.base + at.saturating_duration_since(self.started_at)), at }
    }

    /// Returns a time of the state as an instant, unless the clock cannot represent it.
    pub(super) fn instant(&self, at: Duration) -> Option<Instant> {
        self.started_at.checked_add(at.saturating_sub(self.base))
    }

    /// Returns a time of the state as a date.
    pub(super) fn date(&self, at: Duration) -> SystemTime {
        self.epoch + at
    }
}
