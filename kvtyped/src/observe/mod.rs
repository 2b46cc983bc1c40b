//! Observation of operations: spans, and an observer for metrics.
//!
//! # Spans
//!
//! Each operation has one span of `tracing`: level `DEBUG`, target `kvtyped::operation`. The span begins when the
//! future of the operation is first polled. Its fields follow the conventions of OpenTelemetry for clients of
//! databases, so `tracing-opentelemetry` exports it without further settings.
//!
//! | field | content |
//! |---|---|
//! | `otel.name` | `put sessions`; `BATCH put sessions` for many records |
//! | `otel.kind` | `client`, or `internal` without a server |
//! | `otel.status_code` | `ERROR` after a failure |
//! | `db.system.name` | `nats`, `memory`, `file`, or `custom` for another backend |
//! | `db.namespace` | the JetStream domain, if the store has one |
//! | `db.collection.name` | the bucket |
//! | `db.operation.name` | the operation: `put`, `modify`, `lock`, `transaction` |
//! | `db.operation.batch.size` | the number of writes, if there are two or more |
//! | `db.response.status_code` | the error code of the server, if it returned one |
//! | `error.type` | the kind of the error in snake case: `already_exists` |
//! | `server.address`, `server.port` | the server of the URL; the port only if it is not 4222 |
//! | `network.peer.address` | the server that answered |
//! | `kvtyped.attempts` | the number of writes that were sent |
//! | `kvtyped.revision` | the revision of the last write |
//! | `kvtyped.outcome` | `not_applied` or `unknown`, after a failure |
//! | `kvtyped.cancelled` | `true` if the future was dropped before its end |
//! | `kvtyped.key` | the key, only with [`trace_keys`](crate::connect::Connect::trace_keys) |
//!
//! A span contains no value, no credentials and, by default, no key. Watches, caches and held locks have no span, but
//! their opening has one.
//!
//! Each repeated request is an event `retry` in the span. Its field `reason` is the kind of the error, or
//! `acknowledgement_lost`.
//!
//! Concurrent calls of [`modify`](crate::Bucket::modify) and its relatives share a write. That write has its own span
//! `group_commit`: a child of the first call's span, with links to the spans of the other calls (`follows_from`). Its
//! field `kvtyped.group.size` is the number of calls.
//!
//! # Metrics
//!
//! An [`Observer`] receives one [`OperationReport`] for each operation after its end, and the [`StoreEvent`]s of
//! background work. The feature `metrics-0_24` contains an observer for the crate `metrics`.
//!
//! ```
//! use std::sync::Arc;
//! use std::sync::atomic::{AtomicU64, Ordering};
//! use kvtyped::observe::{Observer, OperationReport};
//! use kvtyped::prelude::*;
//!
//! #[derive(Default)]
//! struct Writes(AtomicU64);
//!
//! impl Observer for Writes {
//!     fn operation(&self, report: &OperationReport<'_>) {
//!         if report.operation == "put" && report.end.is_success() {
//!             self.0.fetch_add(1, Ordering::Relaxed);
//!         }
//!     }
//! }
//!
//! # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
//! # #[kv(bucket = "config", key = "app")]
//! # struct AppConfig { limit: u32 }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), kvtyped::Error> {
//! let writes = Arc::new(Writes::default());
//! let store = Store::memory().with_observer(writes.clone());
//! let configs: Bucket<AppConfig> = store.bucket().await?;
//! configs.put(&AppConfig { limit: 1 }).await?;
//! assert_eq!(writes.0.load(Ordering::Relaxed), 1);
//! # Ok(())
//! # }
//! ```

// Each module imports only from modules above it.
mod report;
mod span;
mod operation;
mod instruments;
#[cfg(feature = "metrics-0_24")]
mod metrics_0_24;

pub(crate) use self::instruments::{Failure, Instruments, Origin, report_event};
#[cfg(feature = "metrics-0_24")]
pub use self::metrics_0_24::MetricsObserver;
pub(crate) use self::operation::{
    SharedWrite, note_conflict, note_read, note_retry, note_revision, note_write, part_of_operation,
};
#[cfg(feature = "nats")]
pub(crate) use self::operation::{note_lost_acknowledgement, note_resend};
pub use self::report::{Observer, OperationEnd, OperationReport, StoreEvent};
