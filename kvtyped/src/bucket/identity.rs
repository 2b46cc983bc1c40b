//! Detects that a bucket was replaced since it was opened.
//!
//! A revision identifies a write only within its bucket. If the bucket is deleted and created again, or its server is
//! restored from an older copy of its disk, other records get the same revisions. An `update` with an old revision
//! could then overwrite a record that its caller never saw.
//!
//! A handle therefore remembers the creation time of its bucket, the highest revision that it has seen, and the writers
//! of the last revisions. The handle asks the server again if the bucket may have been replaced: after a lost
//! connection, and after a conflict with a lower revision than the expected one.
//!
//! Two cases remain undetected:
//!
//! * A new bucket replaces the old one while the connection stays up, and has the same revision under the same key.
//! * A restored bucket has grown past the highest revision that the handle has seen, and the expected revision is not
//!   among the remembered ones.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use futures::FutureExt;

use super::handle::ReadBucket;
use super::seen::SeenRevision;
use crate::backend::{Backoff, BucketStatus, Deadline, KeySpace, OperationId, RawEntry, ReadAt};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::model::KvModel;
use crate::observe::note_revision;
use crate::revision::Revision;

/// The longest time that a replicated bucket may report a lower revision than an acknowledged one and still be the same
/// bucket. A new leader may still have to apply the writes of its predecessor, and a leader that was cut off may not
/// know yet that it was replaced.
const REPLICA_CATCH_UP: Duration = Duration::from_secs(6);

/// Returns a hash that identifies a write independently of its revision.
fn writer_of(id: &OperationId) -> u64 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish()
}

/// Returns the same hash for an entry. An entry of another client has no operation id, so its time identifies it.
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
    /// Remembers a revision that this handle has written.
    pub(crate) fn record_write(&self, revision: Revision, id: &OperationId) -> Revision {
        note_revision(revision);
        let epoch = self.inner.raw.identity().connection_epoch;
        self.inner.seen.record(SeenRevision { revision, epoch, writer: writer_of(id) });
        revision
    }

    /// Remembers a revision that this handle has read.
    pub(crate) fn record_read(&self, entry: &RawEntry) {
        let epoch = self.inner.raw.identity().connection_epoch;
        self.inner.seen.record(SeenRevision { revision: entry.revision, epoch, writer: writer_of_entry(entry) });
    }

    /// Checks that the bucket was not replaced, before a write that expects a revision from an earlier read.
    pub(crate) async fn check_identity(&self, key: &Key, expected: Revision, deadline: Deadline) -> Result<()> {
        let epoch = self.inner.raw.identity().connection_epoch;
        let seen = self.inner.seen.find(expected);
        if seen.map_or(self.inner.seen.epoch, |seen| seen.epoch) == epoch {
            return Ok(());
        }
        // This case is rare. The box keeps the future of a write small.
        self.revalidate(key, expected, seen, epoch, deadline).boxed().await
    }

    async fn revalidate(
        &self,
        key: &Key,
        expected: Revision,
        seen: Option<SeenRevision>,
        epoch: u64,
        deadline: Deadline,
    ) -> Result<()> {
        if self.inner.seen.asked.load(Ordering::Acquire) != epoch {
            self.fetch_identity(deadline).await?;
            self.inner.seen.asked.store(epoch, Ordering::Release);
        }
        let Some(seen) = seen else { return Ok(()) };
        // If the revision is gone, the precondition refuses the write.
        let now = self.inner.raw.read(KeySpace::Records, key, ReadAt::Revision(expected), deadline).await?;
        if now.is_some_and(|entry| writer_of_entry(&entry) != seen.writer) {
            return Err(Error::new(ErrorKind::BucketReplaced));
        }
        self.inner.seen.record(SeenRevision { epoch, ..seen });
        Ok(())
    }

    /// After a conflict with a lower revision than the expected one, checks whether the bucket was replaced.
    pub(crate) async fn explain_conflict(&self, conflict: Error, deadline: Deadline) -> Error {
        match conflict.kind() {
            ErrorKind::Conflict { expected, actual: Some(actual) } if actual < expected => {
                self.fetch_identity(deadline).boxed().await.err().unwrap_or(conflict)
            }
            _ => conflict,
        }
    }

    /// Asks the server whether the bucket is the one that was opened.
    ///
    /// # Errors
    ///
    /// Returns `BucketReplaced` if it is another one, or an older copy.
    pub(super) async fn fetch_identity(&self, deadline: Deadline) -> Result<()> {
        let created = self.inner.raw.identity().created;
        // Load this before the request: the reply may not include concurrent writes.
        let highest = Revision::new(self.inner.seen.highest.load(Ordering::Acquire));
        let Some(status) = self.status_since(highest, deadline).await? else { return Ok(()) };
        if status.created != created || status.last_revision < highest {
            return Err(Error::new(ErrorKind::BucketReplaced));
        }
        Ok(())
    }

    /// Returns the status of the bucket. If a server of a replicated bucket is behind this revision, asks again for up
    /// to [`REPLICA_CATCH_UP`]. Returns `None` if the user may not read the status.
    pub(crate) async fn status_since(&self, revision: Revision, deadline: Deadline) -> Result<Option<BucketStatus>> {
        let (created, start) = (self.inner.raw.identity().created, Instant::now());
        let mut backoff = Backoff::outage();
        loop {
            let status = match self.inner.raw.uncounted_status(deadline).await {
                Ok(status) => status,
                // A user without this permission gets no check.
                Err(error) if error.is_denied() => return Ok(None),
                Err(error) => return Err(error),
            };
            let may_lag = status.created == created && self.config().may_be_behind();
            if status.last_revision >= revision || !may_lag || start.elapsed() > REPLICA_CATCH_UP {
                return Ok(Some(status));
            }
            if !backoff.pause(deadline).await {
                return Err(deadline.error());
            }
        }
    }
}
