//! The one compare-and-set loop.

use std::time::Duration;

use tokio::time::Instant;

use super::standing::{self, Footing};
use super::{Bucket, ReadBucket};
use crate::backend::{At, Backoff, Deadline, Guard, OperationId, RawBucket, RawEntry, Read, Write, WriteKind};
use crate::chance;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::model::KvModel;
use crate::revision::Revision;
use crate::ttl::Ttl;

/// From what the loop starts.
pub(super) enum First {
    /// From a guess, which costs no read: there is no record, and the marker of this revision if it is not zero.
    NoRecord(Revision),
    /// From a read of wherever is nearest: a stale answer costs one attempt. Where nothing is to be written, the leader is
    /// asked before that is believed.
    Read,
    /// From a read at the leader.
    ReadAtLeader,
}

/// When the loop gives up.
pub(super) struct Limits {
    pub(super) attempts: Option<u32>,
    pub(super) deadline: Deadline,
    /// Another record on which its writes stand.
    pub(super) footing: Footing,
}

/// What to do about what was read.
pub(super) enum Decision<R> {
    Write { kind: WriteKind, ttl: Option<Ttl>, result: R },
    Stop { result: R },
}

/// What was done.
pub(super) struct Done<R> {
    /// The revision that was written; of the newest entry if nothing was.
    pub(super) revision: Revision,
    pub(super) result: R,
}

/// How often an update is tried unless its caller says otherwise; its time is the other limit.
const MAX_ATTEMPTS: u32 = 100;

/// The longest time that a winner leaves the record to the other writers.
const LONGEST_REST: Duration = Duration::from_millis(32);

/// The shortest. The timer counts milliseconds.
const SHORTEST_REST: Duration = Duration::from_micros(500);

/// How often a change was tried.
pub(crate) struct Attempts {
    most: u32,
    made: u32,
    started: Instant,
    lost: Option<Error>,
}

impl Attempts {
    pub(crate) fn new(most: Option<u32>) -> Self {
        Self { most: most.unwrap_or(MAX_ATTEMPTS).max(1), made: 0, started: Instant::now(), lost: None }
    }

    /// Whether one was made, and another came before.
    pub(crate) fn any(&self) -> bool {
        self.made > 0
    }

    /// Counts one that another came before.
    ///
    /// # Errors
    ///
    /// `RetriesExhausted`, if it was the last.
    pub(crate) fn lost(&mut self, conflict: Error, deadline: Deadline) -> Result<()> {
        self.made += 1;
        if self.made >= self.most || deadline.has_passed() {
            return Err(self.exhausted(conflict));
        }
        self.lost = Some(conflict);
        Ok(())
    }

    /// The error of whoever has no time left: behind a conflict it is that which took the time.
    pub(crate) fn explain(&mut self, error: Error) -> Error {
        match self.lost.take() {
            Some(conflict) if matches!(error.kind(), ErrorKind::Timeout { .. }) => self.exhausted(conflict),
            _ => error,
        }
    }

    fn exhausted(&self, conflict: Error) -> Error {
        let (attempts, elapsed) = (self.made, self.started.elapsed());
        Error::new(ErrorKind::RetriesExhausted { attempts, elapsed }).caused_by(conflict)
    }
}

/// The way back behind a conflict: a wait, and a read at the leader of something that is not older than the conflict.
#[derive(Debug)]
pub(super) struct Retry {
    backoff: Backoff,
    least: Revision,
    /// Whether the leader was denied to this user.
    denied: bool,
    /// When the first conflict came.
    since: Instant,
}

impl Retry {
    pub(super) fn new() -> Self {
        Self { backoff: Backoff::contention(), least: Revision::ZERO, denied: false, since: Instant::now() }
    }

    /// The time that a writer that wins now leaves the record to the others: about as long as they kept it waiting. `None`
    /// if the timer cannot wait that briefly.
    pub(super) fn rest(&self) -> Option<Duration> {
        let rest = chance::up_to((2 * self.since.elapsed()).min(LONGEST_REST));
        (rest >= SHORTEST_REST).then_some(rest)
    }

    /// Learns from a conflict what is there at the least.
    pub(super) fn learn(&mut self, conflict: &Error) {
        if let ErrorKind::Conflict { expected, actual } = conflict.kind() {
            self.least = self.least.max(actual.unwrap_or(*expected));
        }
    }

    /// Waits and reads.
    ///
    /// # Errors
    ///
    /// `Timeout`, if there is no time to wait any more; else those of the read.
    pub(super) async fn read(
        &mut self,
        raw: &dyn RawBucket,
        key: &Key,
        deadline: Deadline,
    ) -> Result<Option<RawEntry>> {
        // If no server can be behind, a direct get returns the same as the leader, and costs less.
        let read = if raw.config().may_be_behind() { Read::Leader } else { Read::Any };
        self.read_as(read, raw, key, deadline).await
    }

    /// Waits and reads what a conflict told of, or something later: where the first attempt was a guess, it is what was
    /// there all along, most of the time, and wherever is nearest knows it.
    async fn read_nearest(&mut self, raw: &dyn RawBucket, key: &Key, deadline: Deadline) -> Result<Option<RawEntry>> {
        let read = if self.least > Revision::ZERO { Read::AtLeast(self.least) } else { Read::Leader };
        self.read_as(read, raw, key, deadline).await
    }

    async fn read_as(
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
            let read = if self.denied { Read::AtLeast(self.least) } else { read };
            match raw.read(key, At::Newest(read), deadline).await {
                Ok(entry) if self.is_behind(entry.as_ref()) => {}
                // One who may read single keys only has to do with what others have heard.
                Err(error) if !self.denied && error.is_denied() => {
                    self.denied = true;
                }
                entry => return entry,
            }
        }
    }

    /// Whether it is older than the conflict: from a leader that does not know yet that it is none.
    fn is_behind(&self, entry: Option<&RawEntry>) -> bool {
        entry.is_some_and(|entry| entry.revision < self.least)
    }
}

/// Whether the leader has nothing newer than what was read of wherever was nearest.
pub(super) fn confirms(leader: Option<&RawEntry>, near: Option<&RawEntry>) -> bool {
    match leader {
        // One that is cut off may be behind.
        Some(entry) => near.is_some_and(|near| entry.revision <= near.revision),
        None => near.is_none(),
    }
}

/// One step of the loop: writes over what was read, if nothing came between.
pub(super) struct Step<'a> {
    pub(super) key: &'a Key,
    /// The newest that was read; zero if there was nothing.
    pub(super) over: Revision,
    pub(super) kind: WriteKind,
    pub(super) ttl: Option<Ttl>,
    /// Another record that must be as it was.
    pub(super) on: Option<&'a Guard>,
}

impl<T: KvModel> ReadBucket<T> {
    /// Reads where nothing newer is, for a decision that no write confirms: at the leader, if another may answer. One who
    /// may not ask the leader has to do with what is nearest.
    pub(super) async fn read_surely(&self, key: &Key, deadline: Deadline) -> Result<Option<RawEntry>> {
        let raw = &self.inner.raw;
        if self.config().may_be_behind() {
            match raw.read(key, At::Newest(Read::Leader), deadline).await {
                Err(error) if error.is_denied() => {}
                read => return read,
            }
        }
        raw.read(key, At::Newest(Read::Any), deadline).await
    }

    pub(super) async fn step(&self, step: Step<'_>, deadline: Deadline) -> Result<(Revision, OperationId)> {
        let Step { key, over, kind, ttl, on } = step;
        let write = Write::new(key.clone(), kind).expecting(over).with_ttl(ttl);
        let id = write.id.clone();
        let revision = standing::write(&*self.inner.raw, write, on, deadline).await?;
        Ok((self.wrote(revision, &id), id))
    }
}

impl<T: KvModel> Bucket<T> {
    /// The compare-and-set loop: read, decide, write if nothing came between; read at the leader, and again.
    ///
    /// A stale read is harmless: its write is refused, and a decision to write nothing is made again upon a read at the
    /// leader. A read behind a conflict comes from the leader (behind that of a guess, from whoever knows what came
    /// before), and one that is older than the conflict is not decided upon. An outcome that is unknown ends the loop: to
    /// go on could apply twice.
    pub(super) async fn compare_and_set<R, E: From<Error>>(
        &self,
        operation: &'static str,
        key: &Key,
        first: First,
        limits: Limits,
        mut decide: impl FnMut(Option<&RawEntry>) -> Result<Decision<R>, E>,
    ) -> Result<Done<R>, E> {
        let Limits { attempts, deadline, footing } = limits;
        let mut attempts = Attempts::new(attempts);
        let located = |error: Error| error.within(operation, self.name(), Some(key.as_str()));
        let on = standing::guard(footing, self).map_err(located)?;
        let raw = self.raw(operation)?;
        let mut retry = Retry::new();
        let of = |entry: &Option<RawEntry>| entry.as_ref().map_or(Revision::ZERO, |entry| entry.revision);
        let mut guessed = matches!(first, First::NoRecord(_));
        let first_is_sure = matches!(first, First::ReadAtLeader);
        let (mut newest, mut over) = match first {
            First::NoRecord(marker) => (None, marker),
            First::Read | First::ReadAtLeader => {
                let read = if matches!(first, First::Read) { Read::Any } else { Read::Leader };
                let newest = raw.read(key, At::Newest(read), deadline).await.map_err(located)?;
                let over = of(&newest);
                (newest, over)
            }
        };
        let mut sure = first_is_sure || !self.config().may_be_behind();
        loop {
            let decision = decide(newest.as_ref());
            if !sure && !matches!(decision, Ok(Decision::Write { .. })) {
                sure = true;
                let leader = self.read_surely(key, deadline).await.map_err(located)?;
                if !confirms(leader.as_ref(), newest.as_ref()) {
                    (over, newest) = (of(&leader), leader);
                    continue;
                }
            }
            let (kind, ttl, result) = match decision? {
                Decision::Stop { result } => return Ok(Done { revision: over, result }),
                Decision::Write { kind, ttl, result } => (kind, ttl, result),
            };
            match self.step(Step { key, over, kind, ttl, on: on.as_ref() }, deadline).await {
                Ok((revision, _)) => return Ok(Done { revision, result }),
                Err(error) if matches!(error.kind(), ErrorKind::Conflict { .. }) => {
                    retry.learn(&error);
                    attempts.lost(error, deadline).map_err(located)?;
                }
                Err(error) => return Err(located(error).into()),
            }
            let read = match std::mem::take(&mut guessed) {
                true => retry.read_nearest(&**raw, key, deadline).await,
                false => retry.read(&**raw, key, deadline).await,
            };
            newest = read.map_err(|error| located(attempts.explain(error)))?;
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
        let mut attempts = Attempts::new(Some(2));
        assert!(!attempts.any());
        attempts.lost(conflict(1, None), deadline).unwrap();
        assert!(attempts.any());
        tokio::time::advance(Duration::from_secs(3)).await;
        let error = attempts.lost(conflict(1, None), deadline).unwrap_err();
        let ErrorKind::RetriesExhausted { attempts, elapsed } = error.kind() else { panic!("{error}") };
        assert_eq!((*attempts, elapsed.as_secs()), (2, 3));

        let mut attempts = Attempts::new(None);
        (1..100).for_each(|_| attempts.lost(conflict(1, None), deadline).unwrap());
        assert!(attempts.lost(conflict(1, None), deadline).is_err());
        assert!(Attempts::new(Some(0)).lost(conflict(1, None), deadline).is_err());
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(Attempts::new(None).lost(conflict(1, None), deadline).is_err());
    }

    #[test]
    fn whoever_has_no_time_left_behind_a_conflict_is_told_of_that() {
        let deadline = Deadline::after(Duration::from_secs(60));
        let late = || Error::timeout(Duration::from_secs(60));
        let lost = || {
            let mut attempts = Attempts::new(None);
            attempts.lost(conflict(1, None), deadline).unwrap();
            attempts
        };
        assert!(matches!(Attempts::new(None).explain(late()).kind(), ErrorKind::Timeout { .. }));
        let error = lost().explain(late());
        assert!(matches!(error.kind(), ErrorKind::RetriesExhausted { attempts: 1, .. }) && error.is_conflict());
        assert!(matches!(lost().explain(Error::unavailable("no leader")).kind(), ErrorKind::Unavailable { .. }));
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
        let behind = |retry: &Retry| [6, 7, 8].map(|revision| retry.is_behind(Some(&entry(revision))));
        let mut retry = Retry::new();
        assert_eq!(behind(&retry), [false, false, false]);
        retry.learn(&conflict(7, None));
        assert_eq!(behind(&retry), [true, false, false]);
        retry.learn(&conflict(1, Some(8)));
        assert_eq!(behind(&retry), [true, true, false]);
        retry.learn(&conflict(2, Some(3)));
        retry.learn(&Error::unavailable("no leader"));
        assert_eq!(behind(&retry), [true, true, false]);
        assert!(!retry.is_behind(None), "a purged key may be gone");
    }
}
