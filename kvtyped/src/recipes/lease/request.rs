//! A request for a lease, and the parties of a handover.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::outcome::AcquireStatus;
use super::record::LeaseRecord;
use super::timing::LeaseTiming;
use crate::backend::Deadline;
use crate::bucket::Bucket;
use crate::recipes::record::{RecipeKey, RecipeRecord};
use crate::revision::Revision;

/// A request for a lease.
#[derive(Debug, Clone)]
pub(crate) struct AcquireRequest {
    pub(crate) bucket: Bucket<RecipeRecord<LeaseRecord>>,
    pub(crate) key: RecipeKey,
    pub(crate) name: String,
    pub(crate) record: LeaseRecord,
    pub(crate) timing: LeaseTiming,
    /// Whether a fence is written with the lease, for fenced writes of this bucket.
    pub(crate) fenced: bool,
    /// The TTL of the delete marker that notifies waiters of the release.
    pub(crate) tombstone_ttl: Duration,
    /// Selects the next holder on release. `None` if the lease is never handed over.
    pub(crate) handover: Option<Arc<dyn Handover>>,
    /// The id of the ticket of this request in the wait queue.
    pub(crate) ticket: Option<String>,
    /// The status of the attempts so far.
    pub(crate) status: Arc<AcquireStatus>,
    /// Whether the user bounds the wait. If so, the wait continues after errors that an administrator may undo.
    pub(crate) retry_transient: bool,
}

impl AcquireRequest {
    /// Creates a request without a fence and without a handover.
    pub(crate) fn new(
        bucket: Bucket<RecipeRecord<LeaseRecord>>,
        key: RecipeKey,
        name: String,
        record: LeaseRecord,
        timing: LeaseTiming,
    ) -> Self {
        Self {
            bucket,
            key,
            name,
            record,
            timing,
            fenced: false,
            tombstone_ttl: timing.ttl,
            handover: None,
            ticket: None,
            status: Arc::default(),
            retry_transient: false,
        }
    }

    /// Returns the deadline of an attempt. A reply is useless after the lease has ended.
    pub(crate) fn deadline(&self) -> Deadline {
        Deadline::after(self.bucket.timeout().min(self.timing.validity()))
    }
}

/// The expected state of the record that a lease replaces.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ExpectedTombstone {
    /// The state is unknown: a live record refuses the attempt, and a delete marker does not.
    Unknown,
    /// The delete marker with this revision, if it still exists. Costs one write.
    Cached(Revision),
    /// The delete marker with this revision, which a watch has just delivered. If another process is faster, the watch
    /// reports it soon enough.
    Observed(Revision),
}

/// A lease that was just written, or handed over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LeaseWrite {
    pub(crate) revision: Revision,
    /// No later than the start of the TTL on the server.
    pub(crate) sent_at: Instant,
}

/// The next holder: the record to write, and its TTL.
#[derive(Debug)]
pub(crate) struct NextHolder {
    pub(crate) record: LeaseRecord,
    pub(crate) ttl: Duration,
}

/// Selects the next holder of a lease. Implemented by the wait queue of a lock.
///
/// A term is identified by the revision of its first write.
pub(crate) trait Handover: fmt::Debug + Send + Sync {
    /// Records that this process acquired the lease with the write `term`.
    fn acquired(&self, term: Revision);

    /// Returns the next holder, or `None` if no waiter is queued.
    fn next_holder(&self, term: Revision) -> Option<NextHolder>;

    /// Records that the lease passed to `next` with `write`. `request` is the request of the previous holder.
    fn handed_over(self: Arc<Self>, request: &AcquireRequest, next: &NextHolder, write: LeaseWrite);

    /// Records that the lease of `term` ended. `tombstone` is the delete marker of the release, if one was written.
    fn ended(&self, term: Revision, tombstone: Option<Revision>);
}
