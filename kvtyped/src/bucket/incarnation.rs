//! Whether a bucket is still the one that was opened.
//!
//! A revision says something only of the bucket that gave it. If the bucket is deleted and made anew, or its server is set
//! back to an older copy of its disk, the same numbers come again for other records; an `update` by a revision from before
//! could overwrite what its caller never saw. So a handle remembers when its bucket was made and the highest revision that
//! it met, and asks the server again when it may have changed: after a lost connection, and after a conflict in which the
//! revision went back. What it cannot notice is a bucket that was set back and has grown past that revision since, or one
//! that was made anew while the connection stood and has, under the same key, the very same revision.

use std::sync::atomic::{AtomicU64, Ordering};

use super::ReadBucket;
use crate::backend::{Deadline, Incarnation};
use crate::error::{Error, ErrorKind, Result};
use crate::model::KvModel;
use crate::revision::Revision;

/// What a handle and its clones know of their bucket.
#[derive(Debug)]
pub(super) struct Met {
    /// In which it was the one that was opened.
    epoch: AtomicU64,
    highest: AtomicU64,
}

impl Met {
    pub(super) fn new(incarnation: Incarnation) -> Self {
        Self { epoch: AtomicU64::new(incarnation.epoch), highest: AtomicU64::new(0) }
    }
}

impl<T: KvModel> ReadBucket<T> {
    /// Remembers a revision that the bucket gave.
    pub(super) fn met(&self, revision: Revision) -> Revision {
        self.inner.met.highest.fetch_max(revision.get(), Ordering::AcqRel);
        revision
    }

    /// Before a write that expects a revision which was read some time ago.
    pub(super) async fn check_incarnation(&self, deadline: Deadline) -> Result<()> {
        if self.inner.raw.incarnation().epoch == self.inner.met.epoch.load(Ordering::Acquire) {
            return Ok(());
        }
        self.ask_incarnation(deadline).await
    }

    /// After a conflict: whether the revision that is there is a step back.
    pub(super) async fn explain(&self, conflict: Error, deadline: Deadline) -> Error {
        match conflict.kind() {
            ErrorKind::Conflict { expected, actual: Some(actual) } if actual < expected => {
                self.ask_incarnation(deadline).await.err().unwrap_or(conflict)
            }
            _ => conflict,
        }
    }

    async fn ask_incarnation(&self, deadline: Deadline) -> Result<()> {
        let Incarnation { created, epoch } = self.inner.raw.incarnation();
        let status = match self.inner.raw.status(deadline).await {
            Ok(status) => status,
            // One who may not ask has to do without.
            Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let highest = self.inner.met.highest.load(Ordering::Acquire);
        if status.created != created || status.last_revision.get() < highest {
            return Err(Error::new(ErrorKind::HistoryRewound));
        }
        self.inner.met.epoch.store(epoch, Ordering::Release);
        Ok(())
    }
}
