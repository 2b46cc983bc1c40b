//! The one compare-and-set loop.

use tokio::time::Instant;

use super::standing::{self, Footing};
use super::{Bucket, ReadBucket};
use crate::backend::{At, Backoff, Deadline, Guard, OperationId, RawBucket, RawEntry, Read, Write, WriteKind};
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
}

impl Retry {
    pub(super) fn new() -> Self {
        Self { backoff: Backoff::contention(), least: Revision::ZERO }
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
        loop {
            if !self.backoff.pause(deadline).await {
                return Err(deadline.error());
            }
            match raw.read(key, At::Newest(Read::Leader), deadline).await? {
                Some(entry) if entry.revision < self.least => {} // from a leader that does not know yet that it is none
                entry => return Ok(entry),
            }
        }
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
    /// A stale read is harmless: its write is refused, and where nothing is to be written the leader is asked. A read behind a conflict comes from the leader, and one that is
    /// older than the conflict is not decided upon. An outcome that is unknown ends the loop: to go on could apply twice.
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
        let mut is_near = matches!(first, First::Read);
        let (mut newest, mut over) = match first {
            First::NoRecord(marker) => (None, marker),
            First::Read => {
                let newest = raw.read(key, At::Newest(Read::Any), deadline).await.map_err(located)?;
                let over = of(&newest);
                (newest, over)
            }
        };
        loop {
            let decision = decide(newest.as_ref());
            if is_near && !matches!(decision, Ok(Decision::Write { .. })) {
                is_near = false;
                let leader = raw.read(key, At::Newest(Read::Leader), deadline).await.map_err(located)?;
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
            is_near = false;
            let read = retry.read(&**raw, key, deadline).await;
            newest = read.map_err(|error| located(attempts.explain(error)))?;
            over = of(&newest);
        }
    }
}
