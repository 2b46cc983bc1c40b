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
/// | `db.client.operation.duration` | histogram, seconds | `db.system.name`, `db.namespace`, `db.collection.name`, `db.operation.name`, `error.type`, `server.address`, `server.port` |
/// | `kvtyped.retries`, `kvtyped.conflicts`, `kvtyped.outcome.unknown` | counters | bucket, operation |
/// | `kvtyped.watch.resyncs` | counter | bucket |
/// | `kvtyped.watch.lag` | gauge, seconds | bucket |
/// | `kvtyped.cache.entries` | gauge: the records of all open caches | bucket |
/// | `kvtyped.cache.staleness` | gauge, seconds: that of the oldest open cache | bucket |
/// | `kvtyped.cache.stale` | counter: caches that lost their watch | bucket |
/// | `kvtyped.live.rejected` | counter: records that a live value refused | bucket |
/// | `kvtyped.lock.wait` | histogram, seconds | bucket |
/// | `kvtyped.lock.hold` | histogram, seconds | recipe, name of the set of leases |
/// | `kvtyped.lock.lost` | counter | recipe, name of the set of leases |
/// | `kvtyped.leader` | gauge: 1 while this process leads | election |
/// | `kvtyped.index.filtered` | counter: entries that lookups dropped | bucket, index |
/// | `kvtyped.index.stored`, `kvtyped.index.erased` | counters: repairs of the follower | bucket, index |
/// | `kvtyped.index.duplicates` | counter: records with the unique value of another one | bucket, index |
/// | `kvtyped.index.follower.age` | gauge, seconds: since the follower had handled all changes | bucket |
/// | `kvtyped.rate.denied` | counter | limiter |
/// | `kvtyped.connection.reconnects` | counter | – |
///
/// The name of a set of locks is its bucket. No label contains a key or the name of one lock, so the number of series does not grow with the number of records. The conventions of
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
        describe_counter!("kvtyped.retries", Unit::Count, "Requests that were repeated.");
        describe_counter!("kvtyped.conflicts", Unit::Count, "Writes that lost to another writer.");
        describe_counter!("kvtyped.outcome.unknown", Unit::Count, "Writes whose outcome is unknown.");
        describe_counter!("kvtyped.watch.resyncs", Unit::Count, "Watches that may have missed changes.");
        describe_gauge!("kvtyped.watch.lag", Unit::Seconds, "Age of the last entry when it was received.");
        describe_gauge!("kvtyped.cache.entries", Unit::Count, "Records of the open caches.");
        describe_gauge!("kvtyped.cache.staleness", Unit::Seconds, "Staleness of the oldest open cache.");
        describe_counter!("kvtyped.cache.stale", Unit::Count, "Caches that lost their watch.");
        describe_counter!("kvtyped.live.rejected", Unit::Count, "Records that a live value refused.");
        describe_histogram!("kvtyped.lock.wait", Unit::Seconds, "Time until a lock was taken.");
        describe_histogram!("kvtyped.lock.hold", Unit::Seconds, "Duration of a held lease.");
        describe_counter!("kvtyped.lock.lost", Unit::Count, "Leases that were lost rather than released.");
        describe_gauge!("kvtyped.leader", Unit::Count, "Whether this process leads.");
        describe_counter!("kvtyped.index.filtered", Unit::Count, "Index entries that lookups dropped.");
        describe_counter!("kvtyped.index.stored", Unit::Count, "Index entries that the follower stored.");
        describe_counter!("kvtyped.index.erased", Unit::Count, "Index entries that the follower erased.");
        describe_counter!("kvtyped.index.duplicates", Unit::Count, "Records with the unique value of another one.");
        describe_gauge!("kvtyped.index.follower.age", Unit::Seconds, "Time since all changes were handled.");
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
        let OperationReport { operation, system, namespace, bucket, server, duration, retries, conflicts, end, .. } =
            *report;
        let mut labels = vec![
            Label::from_static_parts("db.system.name", system),
            Label::new("db.collection.name", bucket.to_owned()),
            Label::from_static_parts("db.operation.name", operation),
        ];
        if let Some(namespace) = namespace {
            labels.push(Label::new("db.namespace", namespace.to_owned()));
        }
        if let Some(error_type) = end.error_type() {
            labels.push(Label::new("error.type", error_type));
        }
        if let Some((host, port)) = server {
            labels.push(Label::new("server.address", host.to_owned()));
            labels.push(Label::new("server.port", port.to_string()));
        }
        histogram!("db.client.operation.duration", labels).record(duration.as_secs_f64());
        let labels = || [("bucket", SharedString::from(bucket.to_owned())), ("operation", operation.into())];
        if retries > 0 {
            counter!("kvtyped.retries", &labels()).increment(u64::from(retries));
        }
        if conflicts > 0 {
            counter!("kvtyped.conflicts", &labels()).increment(u64::from(conflicts));
        }
        if operation == "lock" && end.is_success() {
            histogram!("kvtyped.lock.wait", "bucket" => bucket.to_owned()).record(duration.as_secs_f64());
        }
        if matches!(end, OperationEnd::Failure(error) if error.outcome() == Outcome::Unknown) {
            counter!("kvtyped.outcome.unknown", &labels()).increment(1);
        }
    }

    fn event(&self, event: &StoreEvent<'_>) {
        match *event {
            StoreEvent::Disconnected => {}
            StoreEvent::Reconnected { .. } => counter!("kvtyped.connection.reconnects").increment(1),
            StoreEvent::Resync { bucket } => {
                counter!("kvtyped.watch.resyncs", "bucket" => bucket.to_owned()).increment(1);
            }
            StoreEvent::WatchLag { bucket, lag } => {
                gauge!("kvtyped.watch.lag", "bucket" => bucket.to_owned()).set(lag.as_secs_f64());
            }
            StoreEvent::CacheStale { bucket } => {
                counter!("kvtyped.cache.stale", "bucket" => bucket.to_owned()).increment(1);
            }
            StoreEvent::CacheState { bucket, entries, staleness } => {
                gauge!("kvtyped.cache.entries", "bucket" => bucket.to_owned()).set(entries as f64);
                gauge!("kvtyped.cache.staleness", "bucket" => bucket.to_owned()).set(staleness.as_secs_f64());
            }
            StoreEvent::LiveRejected { bucket, .. } => {
                counter!("kvtyped.live.rejected", "bucket" => bucket.to_owned()).increment(1);
            }
            StoreEvent::LeaseAcquired { recipe: "election", name, .. } => {
                gauge!("kvtyped.leader", "election" => name.to_owned()).set(1.0);
            }
            StoreEvent::LeaseAcquired { .. } => {}
            StoreEvent::LeaseEnded { recipe, name, held, lost, .. } => {
                if recipe == "election" {
                    gauge!("kvtyped.leader", "election" => name.to_owned()).set(0.0);
                }
                let labels = [("recipe", SharedString::from(recipe.to_owned())), ("name", name.to_owned().into())];
                histogram!("kvtyped.lock.hold", &labels).record(held.as_secs_f64());
                if lost {
                    counter!("kvtyped.lock.lost", &labels).increment(1);
                }
            }
            StoreEvent::IndexFiltered { bucket, index, entries } => {
                counter!("kvtyped.index.filtered", &index_labels(bucket, index)).increment(entries);
            }
            StoreEvent::IndexRepaired { bucket, index, stored, erased } => {
                let labels = index_labels(bucket, index);
                counter!("kvtyped.index.stored", &labels).increment(stored);
                counter!("kvtyped.index.erased", &labels).increment(erased);
            }
            StoreEvent::IndexDuplicate { bucket, index } => {
                counter!("kvtyped.index.duplicates", &index_labels(bucket, index)).increment(1);
            }
            StoreEvent::IndexFollower { bucket, age } => {
                gauge!("kvtyped.index.follower.age", "bucket" => bucket.to_owned()).set(age.as_secs_f64());
            }
            StoreEvent::RateDenied { limiter, .. } => {
                counter!("kvtyped.rate.denied", "limiter" => limiter.to_owned()).increment(1);
            }
        }
    }
}

fn index_labels(bucket: &str, index: &str) -> [(&'static str, SharedString); 2] {
    [("bucket", bucket.to_owned().into()), ("index", index.to_owned().into())]
}
