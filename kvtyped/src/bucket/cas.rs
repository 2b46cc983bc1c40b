//! The compare-and-set loop that all updates of one record share.

use std::time::Duration;

use tokio::time::Instant;

use super::standing::{self, FenceResult};
use super::{Bucket, ReadBucket};
use crate::backend::{
    Backoff, Deadline, OperationId, Precondition, RawBucket, RawEntry, Read, ReadAt, Write, WriteKind,
};
use crate::chance;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::model::KvModel;
use crate::revision::Revision;
use crate::ttl::Ttl;

/// The entry that the loop starts from.
pub(super) enum CasStart {
    /// A guess, which costs no read: the key has no record. If the revision is not zero, the key has a delete marker of
    /// this revision.
    NoRecord(Revision),
    /// A read from the nearest server. A stale reply costs one attempt. A decision to write nothing is confirmed with a
    /// read from the leader.
    Read,
    /// A read from the leader.
    LeaderRead,
}

/// The limits of the loop.
pub(super) struct CasLimits {
    pub(super) attempts: Option<u32>,
    pub(super) deadline: Deadline,
    /// The precondition of every write on another record.
    pub(super) fence: FenceResult,
}

/// A decision about the entry that was read.
pub(super) enum CasDecision<R> {
    Write { kind: WriteKind, ttl: Option<Ttl>, result: R },
    Stop { result: R },
}

/// The outcome of the loop.
pub(super) struct CasOutcome<R> {
    /// The revision of the write. If nothing was written, the revision of the newest entry.
    pub(super) revision: Revision,
    pub(super) result: R,
}

/// The default limit on the attempts of an update. The other limit is the deadline.
const MAX_ATTEMPTS: u32 = 100;

/// The longest time that a winner leaves the record to the other writers.
const LONGEST_REST: Duration = Duration::from_millis(32);

/// The shortest such time. The timer counts milliseconds.
const SHORTEST_REST: Duration = Duration::from_micros(500);

/// The attempts of a change.
pub(crate) struct CasAttempts {
    max_attempts: u32,
    made: u32,
    started: Instant,
    unknown_outcome: Option<Error>,
}

impl CasAttempts {
    pub(crate) fn new(most: Option<u32>) -> Self {
        Self {
            max_attempts: most.unwrap_or(MAX_ATTEMPTS).max(1),
            made: 0,
            started: Instant::now(),
            unknown_outcome: None,
        }
    }

    /// Whether an attempt lost against another writer.
    pub(crate) fn any(&self) -> bool {
        self.made > 0
    }

    /// Counts an attempt that lost against another writer.
    ///
    /// # Errors
    ///
    /// Returns `RetriesExhausted` if no attempt or no time is left.
    pub(crate) fn unknown_outcome(&mut self, conflict: Error, deadline: Deadline) -> Result<()> {
        self.made += 1;
        if self.made >= self.max_attempts || deadline.is_expired() {
            return Err(self.exhausted(conflict));
        }
        self.unknown_outcome = Some(conflict);
        Ok(())
    }

    /// Converts a timeout after a conflict to `RetriesExhausted`, because the conflicts used up the time.
    pub(crate) fn conflict_error(&mut self, error: Error) -> Error {
        match self.unknown_outcome.take() {
            Some(conflict) if matches!(error.kind(), ErrorKind::Timeout { .. }) => self.exhausted(conflict),
            _ => error,
        }
    }

    fn exhausted(&self, conflict: Error) -> Error {
        let (attempts, elapsed) = (self.made, self.started.elapsed());
        Error::new(ErrorKind::RetriesExhausted { attempts, elapsed }).caused_by(conflict)
    }
}

/// The retry after a conflict: a wait, and then a read from the leader that is not older than the conflict.
#[derive(Debug)]
pub(super) struct CasRetry {
    backoff: Backoff,
    min_revision: Revision,
    /// Whether this user may not read from the leader.
    denied: bool,
    /// When the retry was created. In a group commit this is the time of the first conflict.
    since: Instant,
}

impl CasRetry {
    pub(super) fn new() -> Self {
        Self { backoff: Backoff::contention(), min_revision: Revision::ZERO, denied: false, since: Instant::now() }
    }

    /// Returns the time that a writer that wins now leaves the record to the others: about as long as they kept it
    /// waiting. Returns `None` if the timer cannot wait so briefly.
    pub(super) fn rest(&self) -> Option<Duration> {
        let rest = chance::uniform_duration((2 * self.since.elapsed()).min(LONGEST_REST));
        (rest >= SHORTEST_REST).then_some(rest)
    }

    /// Records the lowest revision that the key can have after this conflict.
    pub(super) fn observe_conflict(&mut self, conflict: &Error) {
        if let ErrorKind::Conflict { expected, actual } = conflict.kind() {
            self.min_revision = self.min_revision.max(actual.unwrap_or(*expected));
        }
    }

    /// Waits and reads.
    ///
    /// # Errors
    ///
    /// Returns `Timeout` if no time is left for the wait, and the errors of the read.
    pub(super) async fn read(
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
    async fn read_any_replica(
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
            match raw.read(key, ReadAt::Newest(read), deadline).await {
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
pub(super) fn is_unchanged(leader: Option<&RawEntry>, near: Option<&RawEntry>) -> bool {
    match leader {
        // An isolated leader may be behind.
        Some(entry) => near.is_some_and(|near| entry.revision <= near.revision),
        None => near.is_none(),
    }
}

/// One write of the loop. It replaces the entry that was read, unless another write came between.
pub(super) struct ConditionalWrite<'a> {
    pub(super) key: &'a Key,
    /// The revision of the entry that was read. Zero if the key had no entry.
    pub(super) expected: Revision,
    pub(super) kind: WriteKind,
    pub(super) ttl: Option<Ttl>,
    /// The precondition on another record.
    pub(super) on: Option<&'a Precondition>,
}

impl<T: KvModel> ReadBucket<T> {
    /// Reads the newest entry for a decision that no write confirms. Reads from the leader if another server may be
    /// stale. Reads from the nearest server if the user may not read from the leader.
    pub(super) async fn read_leader(&self, key: &Key, deadline: Deadline) -> Result<Option<RawEntry>> {
        let raw = &self.inner.raw;
        if self.config().may_be_behind() {
            match raw.read(key, ReadAt::Newest(Read::Leader), deadline).await {
                Err(error) if error.is_denied() => {}
                read => return read,
            }
        }
        raw.read(key, ReadAt::Newest(Read::Any), deadline).await
    }

    pub(super) async fn step(&self, step: ConditionalWrite<'_>, deadline: Deadline) -> Result<(Revision, OperationId)> {
        let ConditionalWrite { key, expected: over, kind, ttl, on } = step;
        let write = Write::new(key.clone(), kind).if_revision(over).with_ttl(ttl);
        let id = write.id.clone();
        let revision = standing::write(&*self.inner.raw, write, on, deadline).await?;
        Ok((self.record_write(revision, &id), id))
    }
}

impl<T: KvModel> Bucket<T> {
    /// The compare-and-set loop: reads, decides, and writes unless another write came between. After a conflict, it
    /// reads from the leader and starts over.
    ///
    /// A stale read is harmless. The server refuses its write, and a decision to write nothing is checked with a read
    /// from the leader. The read after a conflict comes from the leader. After the conflict of a guess, it comes from
    /// any server that has reached the revision of the conflict. No decision is based on an entry that is older than
    /// the conflict. An unknown outcome ends the loop, because another attempt could apply the change twice.
    pub(super) async fn compare_and_set<R, E: From<Error>>(
        &self,
        operation: &'static str,
        key: &Key,
        first: CasStart,
        limits: CasLimits,
        mut decide: impl FnMut(Option<&RawEntry>) -> Result<CasDecision<R>, E>,
    ) -> Result<CasOutcome<R>, E> {
        let CasLimits { attempts, deadline, fence } = limits;
        let mut attempts = CasAttempts::new(attempts);
        let located = |error: Error| error.with_context(operation, self.name(), Some(key.as_str()));
        let on = standing::guard(fence, self).map_err(located)?;
        let raw = self.raw(operation)?;
        let mut retry = CasRetry::new();
        let of = |entry: &Option<RawEntry>| entry.as_ref().map_or(Revision::ZERO, |entry| entry.revision);
        let mut guessed = matches!(first, CasStart::NoRecord(_));
        let first_is_sure = matches!(first, CasStart::LeaderRead);
        let (mut newest, mut over) = match first {
            CasStart::NoRecord(marker) => (None, marker),
            CasStart::Read | CasStart::LeaderRead => {
                let read = if matches!(first, CasStart::Read) { Read::Any } else { Read::Leader };
                let newest = raw.read(key, ReadAt::Newest(read), deadline).await.map_err(located)?;
                let over = of(&newest);
                (newest, over)
            }
        };
        let mut sure = first_is_sure || !self.config().may_be_behind();
        loop {
            let decision = decide(newest.as_ref());
            if !sure && !matches!(decision, Ok(CasDecision::Write { .. })) {
                sure = true;
                let leader = self.read_leader(key, deadline).await.map_err(located)?;
                if !is_unchanged(leader.as_ref(), newest.as_ref()) {
                    (over, newest) = (of(&leader), leader);
                    continue;
                }
            }
            let (kind, ttl, result) = match decision? {
                CasDecision::Stop { result } => return Ok(CasOutcome { revision: over, result }),
                CasDecision::Write { kind, ttl, result } => (kind, ttl, result),
            };
            match self.step(ConditionalWrite { key, expected: over, kind, ttl, on: on.as_ref() }, deadline).await {
                Ok((revision, _)) => return Ok(CasOutcome { revision, result }),
                Err(error) if matches!(error.kind(), ErrorKind::Conflict { .. }) => {
                    retry.observe_conflict(&error);
                    attempts.unknown_outcome(error, deadline).map_err(located)?;
                }
                Err(error) => return Err(located(error).into()),
            }
            let read = match std::mem::take(&mut guessed) {
                true => retry.read_any_replica(&**raw, key, deadline).await,
                false => retry.read(&**raw, key, deadline).await,
            };
            newest = read.map_err(|error| located(attempts.conflict_error(error)))?;
            over = of(&newest);
            sure = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::backend::Operation;

    fn conflict(expected: u64, actual: Option<u64>) -> Error {
        let actual = actual.map(Revision::new);
        Error::new(ErrorKind::Conflict { expected: Revision::new(expected), actual })
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_are_counted_until_there_were_enough_or_their_time_is_over() {
        let deadline = Deadline::after(Duration::from_secs(60));
        let mut attempts = CasAttempts::new(Some(2));
        assert!(!attempts.any());
        attempts.unknown_outcome(conflict(1, None), deadline).unwrap();
        assert!(attempts.any());
        tokio::time::advance(Duration::from_secs(3)).await;
        let error = attempts.unknown_outcome(conflict(1, None), deadline).unwrap_err();
        let ErrorKind::RetriesExhausted { attempts, elapsed } = error.kind() else { panic!("{error}") };
        assert_eq!((*attempts, elapsed.as_secs()), (2, 3));

        let mut attempts = CasAttempts::new(None);
        (1..100).for_each(|_| attempts.unknown_outcome(conflict(1, None), deadline).unwrap());
        assert!(attempts.unknown_outcome(conflict(1, None), deadline).is_err());
        assert!(CasAttempts::new(Some(0)).unknown_outcome(conflict(1, None), deadline).is_err());
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(CasAttempts::new(None).unknown_outcome(conflict(1, None), deadline).is_err());
    }

    #[test]
    fn whoever_has_no_time_left_behind_a_conflict_is_told_of_that() {
        let deadline = Deadline::after(Duration::from_secs(60));
        let late = || Error::timeout(Duration::from_secs(60));
        let lost = || {
            let mut attempts = CasAttempts::new(None);
            attempts.unknown_outcome(conflict(1, None), deadline).unwrap();
            attempts
        };
        assert!(matches!(CasAttempts::new(None).conflict_error(late()).kind(), ErrorKind::Timeout { .. }));
        let error = lost().conflict_error(late());
        assert!(matches!(error.kind(), ErrorKind::RetriesExhausted { attempts: 1, .. }) && error.is_conflict());
        assert!(matches!(lost().conflict_error(Error::unavailable("no leader")).kind(), ErrorKind::Unavailable { .. }));
    }

    #[test]
    fn what_is_older_than_a_conflict_is_not_decided_upon() {
        let entry = |revision| RawEntry {
            key: Key::new("a").unwrap(),
            revision: Revision::new(revision),
            created: SystemTime::UNIX_EPOCH,
            operation: Operation::Put,
            value: bytes::Bytes::new(),
            ttl: None,
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
