//! One stored entry.

use std::time::Duration;

use bytes::Bytes;

use crate::backend::{KeySpace, Operation, OperationId, RecordHeaders};
use crate::key::Key;
use crate::revision::Revision;
use crate::ttl::Ttl;

/// The number of entries that one step of a search examines. The caller releases its lock between steps.
pub(crate) const STEP_SIZE: usize = 256;

/// One entry. Its time counts from the epoch of the backend.
#[derive(Debug, Clone)]
pub(crate) struct StoredEntry {
    pub(crate) space: KeySpace,
    pub(crate) key: Key,
    pub(crate) at: Duration,
    pub(crate) operation: Operation,
    pub(crate) value: Bytes,
    pub(crate) ttl: Option<Ttl>,
    pub(crate) headers: RecordHeaders,
    pub(crate) id: Option<OperationId>,
    /// The size of the entry, as the store of a server counts it.
    pub(crate) size: u64,
    /// The number of the entry in the log of a durable backend. Zero without a log.
    pub(crate) seq: u64,
}

/// Returns the first wanted entry of a range, or else the revision that the search reached.
pub(crate) fn first_wanted<'a>(
    range: impl Iterator<Item = (&'a Revision, &'a StoredEntry)>,
    until: Revision,
    wanted: &impl Fn(Revision, &StoredEntry) -> bool,
) -> (Revision, Option<&'a StoredEntry>) {
    for (examined, (revision, stored)) in (1..).zip(range) {
        if wanted(*revision, stored) {
            return (*revision, Some(stored));
        }
        if examined == STEP_SIZE {
            return (*revision, None);
        }
    }
    (until, None)
}
