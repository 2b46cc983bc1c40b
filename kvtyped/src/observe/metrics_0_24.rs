//! An observer that records metrics with the crate `metrics` 0.24.

use metrics::{
    Label, SharedString, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

use super::report::{Observer, OperationEnd, OperationReport, StoreEvent};
use crate::error::Outcome;

/// Records the operations and events of a store as metrics of the crate `metrics`.
///
/// | metric | kind | labels |
/// |---|---|---|
/// | `db.client.operation.duration` | histogram, seconds | `db.system.name`, `db.collection.name`, `db.operation.name`, `error.type`, `server.address`, `server.port` |
/// | `kvtyped.retries`, `kvtyped.conflicts`, `kvtyped.outcome.unknown` | counters | bucket, operation |
/// | `kvtyped.watch.resyncs` | counter | bucket |
/// | `kvtyped.lock.wait` | histogram, seconds | bucket |
/// | `kvtyped.lock.hold` | histogram, seconds | bucket, recipe |
/// | `kvtyped.lock.lost` | counter | bucket, recipe |
/// | `kvtyped.leader` | gauge: 1 while this process leads | bucket |
/// | `kvtyped.rate.denied` | counter | bucket |
/// | `kvtyped.connection.reconnects` | counter | – |
///
/// No label contains a key, so the number of series does not grow with the number of records. The conventions of
/// OpenTelemetry recommend the bounds [`DURATION_BOUNDS`](Self::DURATION_BOUNDS) for the first histogram.
///
/// ```
/// # use kvtyped::prelude::*;
/// use std::sync::Arc;
/// use kvtyped::observe::MetricsObserver;
///
/// let store = Store::memory().with_observer(Arc::new(MetricsObserver::new()));
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct MetricsObserver {}

impl MetricsObserver {
    /// The bounds of `db.client.operation.duration` in seconds.
    pub const DURATION_BOUNDS: [f64; 9] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0];

    /// Creates an observer, and describes the metrics to the recorder of the process.
    pub fn new() -> Self {
        describe_histogram!("db.client.operation.duration", Unit::Seconds, "Duration of operations.");
        describe_counter!("kvtyped.retries", Unit::Count, "Writes that were sent again.");
        describe_counter!("kvtyped.conflicts", Unit::Count, "Operations that lost to another writer.");
        describe_counter!("kvtyped.outcome.unknown", Unit::Count, "Writes whose outcome is unknown.");
        describe_counter!("kvtyped.watch.resyncs", Unit::Count, "Watches that may have missed changes.");
        describe_histogram!("kvtyped.lock.wait", Unit::Seconds, "Time until a lock was taken.");
        describe_histogram!("kvtyped.lock.hold", Unit::Seconds, "Duration of a held lease.");
        describe_counter!("kvtyped.lock.lost", Unit::Count, "Leases that were lost rather than released.");
        describe_gauge!("kvtyped.leader", Unit::Count, "Whether this process leads.");
        describe_counter!("kvtyped.rate.denied", Unit::Count, "Events that a rate limiter denied.");
        describe_counter!("kvtyped.connection.reconnects", Unit::Count, "Connections after the first one.");
        Self {}
    }
}

impl Default for MetricsObserver {
    fn default() -> Self {
        Self::new()
    }
}

impl Observer for MetricsObserver {
    fn operation(&self, report: &OperationReport<'_>) {
        let OperationReport { operation, system, bucket, server, duration, attempts, end, .. } = *report;
        let mut labels = vec![
            Label::from_static_parts("db.system.name", system),
            Label::new("db.collection.name", bucket.to_owned()),
            Label::from_static_parts("db.operation.name", operation),
        ];
        if let Some(error_type) = end.error_type() {
            labels.push(Label::new("error.type", error_type));
        }
        if let Some((host, port)) = server {
            labels.push(Label::new("server.address", host.to_owned()));
            labels.push(Label::new("server.port", port.to_string()));
        }
        histogram!("db.client.operation.duration", labels).record(duration.as_secs_f64());
        let labels = || [("bucket", SharedString::from(bucket.to_owned())), ("operation", operation.into())];
        // Each of many records has its own attempt.
        if attempts > 1 && !operation.ends_with("_many") {
            counter!("kvtyped.retries", &labels()).increment(u64::from(attempts - 1));
        }
        if operation == "lock" && end.is_success() {
            histogram!("kvtyped.lock.wait", "bucket" => bucket.to_owned()).record(duration.as_secs_f64());
        }
        if let OperationEnd::Failure(error) = end {
            if error.is_conflict() {
                counter!("kvtyped.conflicts", &labels()).increment(1);
            }
            if error.outcome() == Outcome::Unknown {
                counter!("kvtyped.outcome.unknown", &labels()).increment(1);
            }
        }
    }

    fn event(&self, event: &StoreEvent<'_>) {
        match *event {
            StoreEvent::Disconnected => {}
            StoreEvent::Reconnected { .. } => counter!("kvtyped.connection.reconnects").increment(1),
            StoreEvent::Resync { bucket } => {
                counter!("kvtyped.watch.resyncs", "bucket" => bucket.to_owned()).increment(1);
            }
            StoreEvent::LeaseAcquired { recipe: "election", bucket } => {
                gauge!("kvtyped.leader", "bucket" => bucket.to_owned()).set(1.0);
            }
            StoreEvent::LeaseAcquired { .. } => {}
            StoreEvent::LeaseEnded { recipe, bucket, held, lost } => {
                if recipe == "election" {
                    gauge!("kvtyped.leader", "bucket" => bucket.to_owned()).set(0.0);
                }
                let labels = [("bucket", SharedString::from(bucket.to_owned())), ("recipe", recipe.to_owned().into())];
                histogram!("kvtyped.lock.hold", &labels).record(held.as_secs_f64());
                if lost {
                    counter!("kvtyped.lock.lost", &labels).increment(1);
                }
            }
            StoreEvent::RateDenied { bucket } => {
                counter!("kvtyped.rate.denied", "bucket" => bucket.to_owned()).increment(1);
            }
        }
    }
}
