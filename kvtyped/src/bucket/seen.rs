//! The revisions that a handle has seen.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::backend::BucketIdentity;
use crate::revision::Revision;

/// The number of revisions whose writer a handle remembers.
const MAX_SEEN: usize = 256;

/// The knowledge of a handle and its clones about their bucket.
#[derive(Debug)]
pub(crate) struct SeenRevisions {
    /// The epoch of the connection when the bucket was opened.
    pub(super) epoch: u64,
    pub(super) highest: AtomicU64,
    /// The epoch of the last successful check of the bucket's identity.
    pub(super) asked: AtomicU64,
    /// Never held across an await.
    last: Mutex<VecDeque<SeenRevision>>,
}

/// A revision that this handle has read or written.
#[derive(Debug, Clone, Copy)]
pub(super) struct SeenRevision {
    pub(super) revision: Revision,
    /// The epoch of the read, the write or the last check of the revision.
    pub(super) epoch: u64,
    /// A hash that identifies the writer.
    pub(super) writer: u64,
}

impl SeenRevisions {
    pub(crate) fn new(identity: BucketIdentity) -> Self {
        let BucketIdentity { connection_epoch: epoch, .. } = identity;
        Self { epoch, highest: AtomicU64::new(0), asked: AtomicU64::new(epoch), last: Mutex::default() }
    }

    fn last(&self) -> MutexGuard<'_, VecDeque<SeenRevision>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn record(&self, seen: SeenRevision) {
        self.highest.fetch_max(seen.revision.get(), Ordering::AcqRel);
        let mut last = self.last();
        if last.len() == MAX_SEEN {
            last.pop_front();
        }
        last.push_back(seen);
    }

    pub(super) fn find(&self, revision: Revision) -> Option<SeenRevision> {
        self.last().iter().rev().find(|seen| seen.revision == revision).copied()
    }
}
