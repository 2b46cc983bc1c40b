//! The writes of a run, for the message of an interrupt.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kvtyped::Outcome;
use kvtyped::observe::{Observer, OperationEnd, OperationReport};

/// The operations that write records. Leases are released at the end, so the writes of their records do not count.
const RECORDS: &[&str] = &[
    "add",
    "break_lock",
    "create",
    "delete",
    "delete_many",
    "depose",
    "forget",
    "modify",
    "purge",
    "put",
    "put_many",
    "remove",
    "reset",
    "touch",
    "transact",
    "try_modify",
    "update",
    "write_many",
];

/// The operations that change a bucket without writing a record.
const BUCKETS: &[&str] = &["compact", "copy_bucket", "delete_bucket", "destroy"];

/// Counts the writes of all stores of a run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Writes(Arc<Counted>);

#[derive(Debug, Default)]
struct Counted {
    applied: AtomicU64,
    is_unknown: AtomicBool,
    /// Whether the command opens a bucket to create it or to change its settings.
    has_settings: AtomicBool,
}

impl Writes {
    /// Returns the observer of a store.
    pub(crate) fn observer(&self) -> Arc<dyn Observer> {
        let counted: Arc<Counted> = Arc::clone(&self.0);
        counted
    }

    /// Counts the creation of a bucket or a change of its settings, too.
    pub(crate) fn count_settings(&self) {
        self.0.has_settings.store(true, Ordering::Relaxed);
    }

    /// Returns the number of acknowledged writes.
    pub(crate) fn applied(&self) -> u64 {
        self.0.applied.load(Ordering::Relaxed)
    }

    /// Whether the outcome of a write is unknown.
    pub(crate) fn is_unknown(&self) -> bool {
        self.0.is_unknown.load(Ordering::Relaxed)
    }
}

impl Observer for Counted {
    fn operation(&self, report: &OperationReport<'_>) {
        let is_bucket = BUCKETS.contains(&report.operation)
            || report.operation == "open" && self.has_settings.load(Ordering::Relaxed);
        let is_record = RECORDS.contains(&report.operation) && report.attempts > 0;
        if !is_bucket && !is_record {
            return;
        }
        match report.end {
            OperationEnd::Success => _ = self.applied.fetch_add(report.records.max(1), Ordering::Relaxed),
            OperationEnd::Cancelled => self.is_unknown.store(true, Ordering::Relaxed),
            OperationEnd::Failure(error) if error.outcome() == Outcome::Unknown => {
                self.is_unknown.store(true, Ordering::Relaxed);
            }
            _ => {}
        }
    }
}
