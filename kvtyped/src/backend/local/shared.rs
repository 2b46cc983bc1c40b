//! The state machine with its lock and its clock.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::time::Instant;

use crate::backend::state::bucket::BucketState;
use crate::backend::state::entry::StoredEntry;
use crate::backend::state::machine::StateMachine;
use crate::backend::{ClockReading, RawEntry};
use crate::error::{Error, ErrorKind, Result};
use crate::revision::Revision;

/// The state of a backend. All its handles, scans and watches share it.
pub(crate) struct LocalShared {
    state: Mutex<StateMachine>,
    started_at: Instant,
    started_date: SystemTime,
}

impl LocalShared {
    /// Creates a state without buckets, for a backend of this name.
    pub(super) fn new(name: &'static str) -> Self {
        let state = Mutex::new(StateMachine::new(name));
        Self { state, started_at: Instant::now(), started_date: SystemTime::now() }
    }

    /// Returns the time since the epoch of the backend.
    pub(super) fn now(&self) -> Duration {
        Instant::now().saturating_duration_since(self.started_at)
    }

    /// Returns a time of the state as a time of the clock, unless the clock cannot represent it.
    pub(super) fn instant(&self, at: Duration) -> Option<Instant> {
        self.started_at.checked_add(at)
    }

    /// Returns a time of the state as a date.
    pub(super) fn date(&self, at: Duration) -> SystemTime {
        self.started_date + at
    }

    /// Returns the current reading of the clock that dates entries.
    pub(super) fn clock(&self) -> ClockReading {
        let at = Instant::now();
        ClockReading { server: self.date(at.saturating_duration_since(self.started_at)), at }
    }

    /// Locks the state. The lock is never held across an await point. A panic cannot leave the state half changed, so a
    /// poisoned lock is usable.
    pub(crate) fn lock(&self) -> MutexGuard<'_, StateMachine> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds the current bucket of a name, and returns it with the current time. Reads the clock under the lock, so that
    /// timestamps have the order of the writes.
    pub(super) fn bucket<'a>(
        &self,
        state: &'a mut StateMachine,
        name: &str,
    ) -> Result<(&'a mut BucketState, Duration)> {
        let (bucket, now, _) = state.bucket(name, self.now()).ok_or_else(|| Error::new(ErrorKind::BucketNotFound))?;
        Ok((bucket, now))
    }

    /// Returns a stored entry as the backend interface defines it.
    pub(super) fn entry(&self, revision: Revision, stored: &StoredEntry, with_value: bool) -> RawEntry {
        let StoredEntry { key, at, operation, value, ttl, headers, id, size: _ } = stored;
        RawEntry {
            key: key.clone(),
            revision,
            created: self.date(*at),
            operation: operation.clone(),
            value: if with_value { value.clone() } else { Bytes::new() },
            ttl: *ttl,
            headers: headers.clone(),
            id: id.clone(),
        }
    }
}
