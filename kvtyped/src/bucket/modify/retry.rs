//! The attempts of the compare-and-set loop, and the retry after a conflict.

use std::time::Duration;

use tokio::time::Instant;

use crate::backend::{Backoff, Deadline, KeySpace, RawBucket, RawEntry, Read, ReadAt};
use crate::error::{Error, ErrorKind, Result};
use crate::jitter;
use crate::key::Key;
use crate::observe::{note_conflict, note_retry};
use crate::revision::Revision;

/// The default limit on the attempts of an update. The other limit is the deadline.
const MAX_ATTEMPTS: u32 = 100;

/// The longest time that a winner leaves the record to the other writers.
const MAX_PAUSE: Duration = Duration::from_millis(32);

/// The shortest such time. The timer counts milliseconds.
const MIN_PAUSE: Duration = Duration::from_micros(500);

/// The attempts of a change.
pub(crate) struct CasAttempts {
    max_attempts: u32,
    failed: u32,
    started: Instant,
    last_conflict: Option<Error>,
}

impl CasAttempts {
    pub(crate) fn new(max_attempts: Option<u32>) -> Self {
        Self {
            max_attempts: max_attempts.unwrap_or(MAX_ATTEMPTS).max(1),
            failed: 0,
            started: Instant::now(),
            last_conflict: None,
        }
    }

    /// Whether an attempt lost against another writer.
    pub(crate) fn has_lost(&self) -> bool {
        self.failed > 0
    }

    /// Counts an attempt that lost against another writer.
    ///
    /// # Errors
    ///
    /// Returns `RetriesExhausted` if no attempt or no time is left.
    pub(crate) fn record_conflict(&mut self, conflict: Error, deadline: Deadline) -> Result<()> {
        self.failed += 1;
        note_conflict();
        if self.failed >= self.max_attempts || deadline.is_expired() {
            return Err(self.exhausted(conflict));
        }
        note_retry(&conflict);
        self.last_conflict = Some(conflict);
        Ok(())
    }

    /// Converts a timeout after a conflict to `RetriesExhausted`, because the conflicts used up the time.
    pub(crate) fn explain_timeout(&mut self, error: Error) -> Error {
        match self.last_conflict.take() {
            Some(conflict) if matches!(error.kind(), ErrorKind::Timeout { .. }) => self.exhausted(conflict),
            _ => error,
        }
    }

    fn exhausted(&self, conflict: Error) -> Error {
        let (attempts, elapsed) = (self.failed, self.started.elapsed());
        Error::new(ErrorKind::RetriesExhausted { attempts, elapsed }).caused_by(conflict)
    }
}

/// The retry after a conflict: a wait, and then a read from the leader that is not older than the conflict.
#[derive(Debug)]
pub(crate) struct CasRetry {
    backoff: Backoff,
    min_revision: Revision,
    /// Whether this user may not read from the leader.
    denied: bool,
    /// When the retry was created. In a group commit this is the time of the first conflict.
    since: Instant,
}

impl CasRetry {
    pub(crate) fn new() -> Self {
        Self { backoff: Backoff::contention(), min_revision: Revision::ZERO, denied: false, since: Instant::now() }
    }

    /// Returns the time that a writer that wins now leaves the record to the others: about as long as they kept it
    /// waiting. Returns `None` if the timer cannot wait so briefly.
    pub(crate) fn pause_after_win(&self) -> Option<Duration> {
        let pause = jitter::uniform_duration((2 * self.since.elapsed()).min(MAX_PAUSE));
        (pause >= MIN_PAUSE).then_some(pause)
    }

    /// Records the lowest revision that the key can have after this conflict.
    pub(crate) fn observe_conflict(&mut self, conflict: &Error) {
        if let ErrorKind::Conflict { expected, actual } = conflict.kind() {
            self.min_revision = self.min_revision.max(actual.unwrap_or(*expected));
        }
    }

    /// Waits and reads.
    ///
    /// # Errors
    ///
    /// Returns `Timeout` if no time is left for the wait, and the errors of the read.
    pub(crate) async fn read(
        &mut self,
        raw: &dyn RawBucket,
        key: &Key,
        deadline: Deadline,
    ) -> Result<Option<RawEntry>> {
        // If no server can be behind, a direct get returns the same as the leader, and costs less.
        let read = if raw.config().may_be_behind() { Read::Leader } else { Read::Any };
        self.read_with(read, raw, key, deadline).await
    }

    /// Waits and reads an entry that is not older than the conflict, from the nearest server. After a guess, the entry
    /// is usually old, so the nearest server has it.
    pub(crate) async fn read_any_replica(
        &mut self,
        raw: &dyn RawBucket,
        key: &Key,
        deadline: Deadline,
    ) -> Result<Option<RawEntry>> {
        let read = if self.min_revision > Revision::ZERO { Read::AtLeast(self.min_revision) } else { Read::Leader };
        self.read_with(read, raw, key, deadline).await
    }

    async fn read_with(
        &mut self,
        read: Read,
        raw: &dyn RawBucket,
        key: &Key,
        deadline: Deadline,
    ) -> Result<Option<RawEntry>> {
        loop {
            if !self.backoff.pause(deadline).await {
                return Err(deadline.error());
            }
            let read = if self.denied { Read::AtLeast(self.min_revision) } else { read };
            match raw.read(KeySpace::Records, key, ReadAt::Newest(read), deadline).await {
                Ok(entry) if self.is_stale_read(entry.as_ref()) => {}
                // A user who may read only single keys uses any server that has reached the revision of the conflict.
                Err(error) if !self.denied && error.is_denied() => {
                    self.denied = true;
                }
                entry => return entry,
            }
        }
    }

    /// Whether an entry is older than the conflict. Such an entry comes from a replaced leader that still leads.
    fn is_stale_read(&self, entry: Option<&RawEntry>) -> bool {
        entry.is_some_and(|entry| entry.revision < self.min_revision)
    }
}

/// Whether the leader has no newer entry than the nearest server.
pub(crate) fn is_unchanged(leader: Option<&RawEntry>, near: Option<&RawEntry>) -> bool {
    match leader {
        // An isolated leader may be behind.
        Some(entry) => near.is_some_and(|near| entry.revision <= near.revision),
        None => near.is_none(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::backend::{Operation, RecordHeaders};

    fn conflict(expected: u64, actual: Option<u64>) -> Error {
        let actual = actual.map(Revision::new);
        Error::new(ErrorKind::Conflict { expected: Revision::new(expected), actual })
    }

    #[tokio::test(start_paused = true)]
    async fn retries_end_at_attempt_limit_or_deadline() {
        let deadline = Deadline::after(Duration::from_secs(60));
        let mut attempts = CasAttempts::new(Some(2));
        assert!(!attempts.has_lost());
        attempts.record_conflict(conflict(1, None), deadline).unwrap();
        assert!(attempts.has_lost());
        tokio::time::advance(Duration::from_secs(3)).await;
        let error = attempts.record_conflict(conflict(1, None), deadline).unwrap_err();
        let ErrorKind::RetriesExhausted { attempts, elapsed } = error.kind() else { panic!("{error}") };
        assert_eq!((*attempts, elapsed.as_secs()), (2, 3));

        let mut attempts = CasAttempts::new(None);
        (1..100).for_each(|_| attempts.record_conflict(conflict(1, None), deadline).unwrap());
        assert!(attempts.record_conflict(conflict(1, None), deadline).is_err());
        assert!(CasAttempts::new(Some(0)).record_conflict(conflict(1, None), deadline).is_err());
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(CasAttempts::new(None).record_conflict(conflict(1, None), deadline).is_err());
    }

    #[test]
    fn timeout_after_conflict_is_retries_exhausted() {
        let deadline = Deadline::after(Duration::from_secs(60));
        let late = || Error::timeout(Duration::from_secs(60));
        let lost = || {
            let mut attempts = CasAttempts::new(None);
            attempts.record_conflict(conflict(1, None), deadline).unwrap();
            attempts
        };
        assert!(matches!(CasAttempts::new(None).explain_timeout(late()).kind(), ErrorKind::Timeout { .. }));
        let error = lost().explain_timeout(late());
        assert!(matches!(error.kind(), ErrorKind::RetriesExhausted { attempts: 1, .. }) && error.is_conflict());
        assert!(matches!(
            lost().explain_timeout(Error::unavailable("no leader")).kind(),
            ErrorKind::Unavailable { .. }
        ));
    }

    #[test]
    fn read_older_than_conflict_is_stale() {
        let entry = |revision| RawEntry {
            key: Key::new("a").unwrap(),
            revision: Revision::new(revision),
            created: SystemTime::UNIX_EPOCH,
            operation: Operation::Put,
            value: bytes::Bytes::new(),
            ttl: None,
            headers: RecordHeaders::default(),
            id: None,
        };
        let behind = |retry: &CasRetry| [6, 7, 8].map(|revision| retry.is_stale_read(Some(&entry(revision))));
        let mut retry = CasRetry::new();
        assert_eq!(behind(&retry), [false, false, false]);
        retry.observe_conflict(&conflict(7, None));
        assert_eq!(behind(&retry), [true, false, false]);
        retry.observe_conflict(&conflict(1, Some(8)));
        assert_eq!(behind(&retry), [true, true, false]);
        retry.observe_conflict(&conflict(2, Some(3)));
        retry.observe_conflict(&Error::unavailable("no leader"));
        assert_eq!(behind(&retry), [true, true, false]);
        assert!(!retry.is_stale_read(None), "a purged key may be gone");
    }
}
