//! The state machine with its lock, its clock and its queue.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::time::Instant;

use super::clock::Clock;
use super::durable::{self, Queue};
use crate::backend::state::bucket::BucketState;
use crate::backend::state::changes::Changes;
use crate::backend::state::entry::StoredEntry;
use crate::backend::state::log::{Applied, Ticket};
use crate::backend::state::machine::StateMachine;
use crate::backend::{ClockReading, Deadline, RawEntry};
use crate::error::{Error, ErrorKind, Result};
use crate::revision::Revision;

/// The state of a backend. All its handles, scans and watches share it.
pub(crate) struct LocalShared {
    state: Arc<Mutex<StateMachine>>,
    clock: Clock,
    /// The queue of effects that are not durable. `None` without a log.
    queue: Option<Arc<Queue>>,
    /// A part of the epoch of bucket identities.
    opens: u64,
    /// Returns the raw status of the storage.
    describe: Option<Describe>,
}

/// A function that returns the raw status of a storage.
type Describe = Box<dyn Fn() -> serde_json::Value + Send + Sync>;

impl LocalShared {
    /// Creates a state without buckets and without a log, for a backend of this name.
    pub(super) fn new(name: &'static str) -> Self {
        let state = Arc::new(Mutex::new(StateMachine::new(name)));
        Self { state, clock: Clock::starting_now(), queue: None, opens: 0, describe: None }
    }

    /// Creates the shared part of a durable backend. `opens` counts how often the store was opened.
    #[cfg(feature = "file")]
    pub(crate) fn durable(state: Arc<Mutex<StateMachine>>, clock: Clock, queue: Arc<Queue>, opens: u64) -> Self {
        Self { state, clock, queue: Some(queue), opens, describe: None }
    }

    /// Sets the raw status of the storage.
    #[cfg(feature = "file")]
    pub(crate) fn describe_by(mut self, describe: impl Fn() -> serde_json::Value + Send + Sync + 'static) -> Self {
        self.describe = Some(Box::new(describe));
        self
    }

    /// Returns the raw status of the storage.
    pub(super) fn raw_status(&self) -> Option<serde_json::Value> {
        self.describe.as_ref().map(|describe| describe())
    }

    /// Returns the time of the state.
    pub(super) fn now(&self) -> Duration {
        self.clock.now()
    }

    /// Returns a time of the state as an instant, unless the clock cannot represent it.
    pub(super) fn instant(&self, at: Duration) -> Option<Instant> {
        self.clock.instant(at)
    }

    /// Returns a time of the state as a date.
    pub(super) fn date(&self, at: Duration) -> SystemTime {
        self.clock.date(at)
    }

    /// Returns how often the store was opened.
    pub(super) fn opens(&self) -> u64 {
        self.opens
    }

    /// Returns the current reading of the clock that dates entries.
    pub(super) fn clock(&self) -> ClockReading {
        self.clock.reading()
    }

    /// Locks the state. The lock is never held across an await point. A panic cannot leave the state half changed, so a
    /// poisoned lock is usable.
    pub(crate) fn lock(&self) -> MutexGuard<'_, StateMachine> {
        lock(&self.state)
    }

    /// Finds the current bucket of a name, and returns it with the current time. Reads the clock under the lock, so that
    /// timestamps have the order of the writes.
    pub(super) fn bucket<'a>(
        &self,
        state: &'a mut StateMachine,
        name: &str,
    ) -> Result<(&'a mut BucketState, Duration)> {
        state.check()?;
        state.bucket(name, self.now()).ok_or_else(|| Error::new(ErrorKind::BucketNotFound))
    }

    /// Applies a verb to a bucket, and waits until its changes are durable. `size` is the size of the written data, and
    /// `visible` as in [`StateMachine::change`].
    pub(super) async fn change(
        &self,
        name: &str,
        size: usize,
        visible: bool,
        deadline: Deadline,
        verb: impl FnOnce(&mut BucketState, Duration) -> Result<Changes>,
    ) -> Result<Applied> {
        let permit = match &self.queue {
            Some(queue) => Some(queue.admit(size, deadline).await?),
            None => None,
        };
        let (result, ticket) = {
            let mut state = self.lock();
            state.check()?;
            let result = state.change(name, self.now(), visible, permit, verb);
            let ticket = match &result {
                Ok(applied) => state.ticket(applied.seq),
                // An error names what the state contains.
                Err(_) => state.full_ticket(),
            };
            (result, ticket)
        };
        durable::settle(result, ticket, deadline).await
    }

    /// Calls `read` with a bucket until its result is durable. `read` returns its result and the number of the last
    /// effect that the result shows.
    pub(super) async fn read<R>(
        &self,
        name: &str,
        deadline: Deadline,
        mut read: impl FnMut(&BucketState, Duration) -> (R, u64),
    ) -> Result<R> {
        loop {
            let (result, ticket) = {
                let mut state = self.lock();
                match self.bucket(&mut state, name) {
                    Ok((bucket, now)) => {
                        let (result, seq) = read(bucket, now);
                        (Ok(result), state.ticket(seq))
                    }
                    Err(error) => (Err(error), state.full_ticket()),
                }
            };
            if durable::is_shown(ticket, deadline).await? {
                return result;
            }
        }
    }

    /// Calls `read` with the state until its result is durable.
    pub(super) async fn read_all<R>(
        &self,
        deadline: Deadline,
        mut read: impl FnMut(&mut StateMachine) -> R,
    ) -> Result<R> {
        loop {
            let (result, ticket) = {
                let mut state = self.lock();
                state.check()?;
                (read(&mut state), state.full_ticket())
            };
            if durable::is_shown(ticket, deadline).await? {
                return Ok(result);
            }
        }
    }

    /// Applies a verb to the state, and waits until its changes are durable.
    pub(super) async fn change_all<R>(
        &self,
        deadline: Deadline,
        verb: impl FnOnce(&mut StateMachine) -> Result<R>,
    ) -> Result<R> {
        const SETTINGS: usize = 4096;
        // The space is held until the end: a change of a bucket is rare.
        let _permit = match &self.queue {
            Some(queue) => Some(queue.admit(SETTINGS, deadline).await?),
            None => None,
        };
        let (result, ticket): (_, Ticket) = {
            let mut state = self.lock();
            let result = verb(&mut state);
            (result, state.full_ticket())
        };
        durable::settle(result, ticket, deadline).await
    }

    /// Returns a stored entry as the backend interface defines it.
    pub(super) fn entry(&self, revision: Revision, stored: &StoredEntry, with_value: bool) -> RawEntry {
        let StoredEntry { space: _, key, at, operation, value, ttl, headers, id, size: _, seq: _ } = stored;
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

/// Closes the log with the last handle.
impl Drop for LocalShared {
    fn drop(&mut self) {
        if let Some(log) = self.lock().log() {
            log.close();
        }
    }
}

/// Locks a state.
pub(super) fn lock(state: &Mutex<StateMachine>) -> MutexGuard<'_, StateMachine> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
