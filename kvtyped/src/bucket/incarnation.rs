//! Whether a bucket is still the one that was opened.
//!
//! A revision says something only of the bucket that gave it. If the bucket is deleted and made anew, or its server is set
//! back to an older copy of its disk, the same numbers come again for other records; an `update` by a revision from before
//! could overwrite what its caller never saw. So a handle remembers when its bucket was made, the highest revision that it
//! met, and of the last ones that it met who wrote them. It asks the server again when that may have changed: after a lost
//! connection, and after a conflict in which the revision went back. What it cannot notice is a bucket that was made anew
//! while the connection stood and has, under the same key, the very same revision; and, of a bucket that was set back and
//! has grown past all that was met, a revision that is not among the last ones.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use futures::FutureExt;

use super::ReadBucket;
use crate::backend::{At, Backoff, BucketStatus, Deadline, Incarnation, OperationId, RawEntry};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::model::KvModel;
use crate::revision::Revision;

/// Of how many revisions a handle remembers who wrote them.
const REMEMBERED: usize = 256;

/// For how long a replicated bucket may be told to be behind what was acknowledged, and be the same bucket: a new leader has
/// yet to apply what the one before has decided, and one that was cut off does not know that it is none any more.
const SETTLING: Duration = Duration::from_secs(6);

/// What a handle and its clones know of their bucket.
#[derive(Debug)]
pub(super) struct Met {
    /// In which it was opened.
    epoch: u64,
    highest: AtomicU64,
    /// In which the server was last asked, and all was well.
    asked: AtomicU64,
    /// Never held across an await.
    last: Mutex<VecDeque<Meeting>>,
}

/// A revision that was met.
#[derive(Debug, Clone, Copy)]
struct Meeting {
    revision: Revision,
    /// In which it was met, or met again.
    epoch: u64,
    /// Who wrote it.
    writer: u64,
}

impl Met {
    pub(super) fn new(incarnation: Incarnation) -> Self {
        let Incarnation { epoch, .. } = incarnation;
        Self { epoch, highest: AtomicU64::new(0), asked: AtomicU64::new(epoch), last: Mutex::default() }
    }

    fn last(&self) -> MutexGuard<'_, VecDeque<Meeting>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, meeting: Meeting) {
        self.highest.fetch_max(meeting.revision.get(), Ordering::AcqRel);
        let mut last = self.last();
        if last.len() == REMEMBERED {
            last.pop_front();
        }
        last.push_back(meeting);
    }

    fn of(&self, revision: Revision) -> Option<Meeting> {
        self.last().iter().rev().find(|meeting| meeting.revision == revision).copied()
    }
}

/// What tells one writing from another, whatever its revision.
fn writer_of(id: &OperationId) -> u64 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish()
}

/// The same of an entry; one of a foreign client is told by its time.
fn writer_of_entry(entry: &RawEntry) -> u64 {
    match &entry.id {
        Some(id) => writer_of(id),
        None => {
            let mut hasher = DefaultHasher::new();
            entry.created.hash(&mut hasher);
            hasher.finish()
        }
    }
}

impl<T: KvModel> ReadBucket<T> {
    /// Remembers what this handle has written.
    pub(crate) fn wrote(&self, revision: Revision, id: &OperationId) -> Revision {
        let epoch = self.inner.raw.incarnation().epoch;
        self.inner.met.add(Meeting { revision, epoch, writer: writer_of(id) });
        revision
    }

    /// Remembers what this handle has read.
    pub(crate) fn met(&self, entry: &RawEntry) {
        let epoch = self.inner.raw.incarnation().epoch;
        self.inner.met.add(Meeting { revision: entry.revision, epoch, writer: writer_of_entry(entry) });
    }

    /// Before a write that expects a revision which was read some time ago.
    pub(crate) async fn check_incarnation(&self, key: &Key, expected: Revision, deadline: Deadline) -> Result<()> {
        let epoch = self.inner.raw.incarnation().epoch;
        let meeting = self.inner.met.of(expected);
        if meeting.map_or(self.inner.met.epoch, |meeting| meeting.epoch) == epoch {
            return Ok(());
        }
        // Rare, and in a box, so that the future of a write stays small.
        self.meet_again(key, expected, meeting, epoch, deadline).boxed().await
    }

    async fn meet_again(
        &self,
        key: &Key,
        expected: Revision,
        meeting: Option<Meeting>,
        epoch: u64,
        deadline: Deadline,
    ) -> Result<()> {
        if self.inner.met.asked.load(Ordering::Acquire) != epoch {
            self.ask_incarnation(deadline).await?;
            self.inner.met.asked.store(epoch, Ordering::Release);
        }
        let Some(meeting) = meeting else { return Ok(()) };
        // If it is not there any more, the guard refuses the write.
        let now = self.inner.raw.read(key, At::Revision(expected), deadline).await?;
        if now.is_some_and(|entry| writer_of_entry(&entry) != meeting.writer) {
            return Err(Error::new(ErrorKind::HistoryRewound));
        }
        self.inner.met.add(Meeting { epoch, ..meeting });
        Ok(())
    }

    /// After a conflict: whether the revision that is there is a step back.
    pub(crate) async fn explain(&self, conflict: Error, deadline: Deadline) -> Error {
        match conflict.kind() {
            ErrorKind::Conflict { expected, actual: Some(actual) } if actual < expected => {
                self.ask_incarnation(deadline).boxed().await.err().unwrap_or(conflict)
            }
            _ => conflict,
        }
    }

    async fn ask_incarnation(&self, deadline: Deadline) -> Result<()> {
        let created = self.inner.raw.incarnation().created;
        // As of before it is asked: what is written meanwhile need not be in the answer.
        let highest = Revision::new(self.inner.met.highest.load(Ordering::Acquire));
        let Some(status) = self.status_since(highest, deadline).await? else { return Ok(()) };
        if status.created != created || status.last_revision < highest {
            return Err(Error::new(ErrorKind::HistoryRewound));
        }
        Ok(())
    }

    /// The status of the bucket, by a server that has this revision if one is there soon; nothing for a user who may not ask.
    pub(super) async fn status_since(&self, revision: Revision, deadline: Deadline) -> Result<Option<BucketStatus>> {
        let (created, start) = (self.inner.raw.incarnation().created, Instant::now());
        let mut backoff = Backoff::outage();
        loop {
            let status = match self.inner.raw.status(deadline).await {
                Ok(status) => status,
                // One who may not ask has to do without.
                Err(error) if error.is_denied() => return Ok(None),
                Err(error) => return Err(error),
            };
            let may_lag = status.created == created && self.config().may_be_behind();
            if status.last_revision >= revision || !may_lag || start.elapsed() > SETTLING {
                return Ok(Some(status));
            }
            if !backoff.pause(deadline).await {
                return Err(deadline.error());
            }
        }
    }
}
