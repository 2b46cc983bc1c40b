//! The observer of a store, its reports and its events.

use std::time::Duration;

use crate::error::Error;
use crate::revision::Revision;

/// Receives a report of each operation of a store; see [`Connect::observer`](crate::connect::Connect::observer).
///
/// The methods are called by the task of the operation and must not block. A panic in them is caught and ignored.
pub trait Observer: Send + Sync + 'static {
    /// Receives the report of an operation that has ended. Called once for each operation, also if its future is
    /// dropped.
    fn operation(&self, report: &OperationReport<'_>);

    /// Receives an event of background work.
    fn event(&self, event: &StoreEvent<'_>) {
        let _ = event;
    }
}

/// The report of one operation.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct OperationReport<'a> {
    /// The name of the operation: `put`, `modify`, `lock`.
    pub operation: &'static str,
    /// The kind of the backend: `nats`, `memory`, `file`, or `custom` for another backend.
    pub system: &'static str,
    /// The JetStream domain, if the store has one.
    pub namespace: Option<&'a str>,
    /// The bucket. Empty for an operation on all buckets.
    pub bucket: &'a str,
    /// The host and the port of the server, if there is one.
    pub server: Option<(&'a str, u16)>,
    /// The time from the first poll of the future to its end.
    pub duration: Duration,
    /// The number of writes that the operation sent, alone or together with other operations.
    pub attempts: u32,
    /// The number of requests that the operation repeated.
    pub retries: u32,
    /// How often the operation lost to another writer.
    pub conflicts: u32,
    /// The number of records that the operation sent. If it sent none, the number of records that it received.
    pub records: u64,
    /// The size of the values of these records in bytes.
    pub bytes: u64,
    /// How the operation ended.
    pub end: OperationEnd<'a>,
}

/// How an operation ended.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum OperationEnd<'a> {
    /// The operation succeeded.
    Success,
    /// The operation failed with this error.
    Failure(&'a Error),
    /// A closure of the caller failed, for example that of `try_modify`.
    Aborted,
    /// The future was dropped before its end.
    Cancelled,
}

impl OperationEnd<'_> {
    /// Whether the operation succeeded.
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Success)
    }

    /// Whether the operation failed because of another writer.
    pub(super) fn is_conflict(&self) -> bool {
        matches!(self, Self::Failure(error) if error.is_conflict())
    }

    /// Returns the name of the failure, as the attribute `error.type` of OpenTelemetry. `None` after a success.
    pub fn error_type(&self) -> Option<String> {
        match self {
            Self::Success => None,
            Self::Failure(error) => Some(error.kind().name()),
            Self::Aborted => Some("aborted".to_owned()),
            Self::Cancelled => Some("cancelled".to_owned()),
        }
    }
}

/// An event of background work.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum StoreEvent<'a> {
    /// The connection was lost.
    Disconnected,
    /// The store is connected again.
    Reconnected {
        /// How long the connection was lost.
        outage: Duration,
    },
    /// A watch, a cache or a live value may have missed changes and reads its records again.
    Resync {
        /// The bucket.
        bucket: &'a str,
    },
    /// The delay of a watch, a cache or a live value: the age of an entry when it was received, or zero after all
    /// entries were received. Reported once a second at most, and not for the entries that existed at the start.
    WatchLag {
        /// The bucket.
        bucket: &'a str,
        /// The delay, by the server's clock.
        lag: Duration,
    },
    /// A cache lost its watch, so it may be stale until the watch is back.
    CacheStale {
        /// The bucket.
        bucket: &'a str,
    },
    /// The open caches of a handle to a bucket and its clones. Reported every five seconds, and when a cache is ready
    /// or closed.
    CacheState {
        /// The bucket.
        bucket: &'a str,
        /// The number of records in all caches.
        entries: usize,
        /// The [staleness](crate::Cache::staleness) of the oldest cache.
        staleness: Duration,
    },
    /// A live value refused a record, and keeps the last valid value. Reported once for each revision.
    LiveRejected {
        /// The bucket.
        bucket: &'a str,
        /// The revision of the record.
        revision: Revision,
        /// Why the record is invalid.
        error: &'a Error,
    },
    /// A lease was taken: a lock, a leadership, a permit or a membership.
    LeaseAcquired {
        /// The recipe: `lock`, `election`.
        recipe: &'a str,
        /// The bucket of the lease.
        bucket: &'a str,
        /// The name of the set of leases: the bucket of a lock, and the name of any other recipe.
        name: &'a str,
    },
    /// A lease ended.
    LeaseEnded {
        /// The recipe: `lock`, `election`.
        recipe: &'a str,
        /// The bucket of the lease.
        bucket: &'a str,
        /// The name of the set of leases: the bucket of a lock, and the name of any other recipe.
        name: &'a str,
        /// How long it was held.
        held: Duration,
        /// Whether the lease was lost, and not released.
        lost: bool,
    },
    /// A lookup dropped index entries whose records do not match: records that expired, or that another client changed.
    IndexFiltered {
        /// The bucket.
        bucket: &'a str,
        /// The index.
        index: &'a str,
        /// The number of entries.
        entries: u64,
    },
    /// The follower of the indexes repaired an index; see [`maintain_indexes`](crate::Bucket::maintain_indexes).
    IndexRepaired {
        /// The bucket.
        bucket: &'a str,
        /// The index.
        index: &'a str,
        /// The number of entries and claims that were stored.
        stored: u64,
        /// The number of entries and claims that were erased.
        erased: u64,
    },
    /// The follower of the indexes found two records with one unique value.
    IndexDuplicate {
        /// The bucket.
        bucket: &'a str,
        /// The index.
        index: &'a str,
    },
    /// The age of the follower of the indexes: how long ago it had handled all changes. Reported every five seconds by the
    /// process that leads.
    IndexFollower {
        /// The bucket.
        bucket: &'a str,
        /// The age.
        age: Duration,
    },
    /// A rate limiter denied an event.
    RateDenied {
        /// The bucket of the limiter.
        bucket: &'a str,
        /// The name of the limiter.
        limiter: &'a str,
    },
}
