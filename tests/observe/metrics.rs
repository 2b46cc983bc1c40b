//! The metrics of the feature `metrics-0_24`.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use kvtyped::observe::MetricsObserver;
use kvtyped::prelude::*;
use kvtyped::recipes::Quota;
use regex::Regex;

use crate::layering::root;
use crate::support::Session;

/// Counts the series of metrics.
#[derive(Debug, Default, Clone)]
struct Series(Arc<Mutex<BTreeSet<String>>>, Arc<AtomicU64>);

impl Series {
    fn note(&self, key: &metrics::Key) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_string());
        self.1.fetch_add(1, Ordering::Relaxed);
    }

    fn all(&self) -> BTreeSet<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl metrics::Recorder for Series {
    fn describe_counter(&self, _: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {}

    fn describe_gauge(&self, _: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {}

    fn describe_histogram(&self, _: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {}

    fn register_counter(&self, key: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Counter {
        self.note(key);
        metrics::Counter::noop()
    }

    fn register_gauge(&self, key: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Gauge {
        self.note(key);
        metrics::Gauge::noop()
    }

    fn register_histogram(&self, key: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Histogram {
        self.note(key);
        metrics::Histogram::noop()
    }
}

#[tokio::test]
async fn number_of_series_is_independent_of_keys() {
    let series = Series::default();
    let _recorder = metrics::set_default_local_recorder(&series);
    let store = Store::memory().with_observer(Arc::new(MetricsObserver::new()));
    let sessions: Bucket<Session> = store.bucket().await.unwrap();
    sessions.put(&Session::new("acme", 0)).await.unwrap();
    sessions.create(&Session::new("acme", 0)).await.unwrap_err();
    let before = series.all();
    for id in 0..10_000 {
        sessions.put(&Session::new("acme", id)).await.unwrap();
        sessions.create(&Session::new("acme", id)).await.unwrap_err();
    }
    assert_eq!(series.all(), before);
    assert!(before.iter().any(|series| series.contains("db.client.operation.duration")), "{before:?}");
    assert!(before.iter().any(|series| series.contains("kvtyped.conflicts")), "{before:?}");
    assert!(series.1.load(Ordering::Relaxed) > 20_000);
}

/// Every metric of the table in the docs appears, and no other.
#[tokio::test]
async fn metrics_are_those_of_the_table() {
    let text = std::fs::read_to_string(root().join("observe/metrics_0_24.rs")).expect("it is text");
    let table: String = text.lines().filter(|line| line.starts_with("/// | `")).collect();
    let name = Regex::new(r"`((?:db\.client|kvtyped)\.[a-z.]+)`").unwrap();
    let documented: BTreeSet<_> = name.captures_iter(&table).map(|name| name[1].to_owned()).collect();
    let macros = Regex::new(r#"\b(?:counter|gauge|histogram)!\("([a-z.]+)""#).unwrap();
    let recorded: BTreeSet<_> = macros.captures_iter(&text).map(|name| name[1].to_owned()).collect();
    let described = Regex::new(r#"describe_\w+!\("([a-z.]+)""#).unwrap();
    let described: BTreeSet<_> = described.captures_iter(&text).map(|name| name[1].to_owned()).collect();
    assert!(documented.len() >= 16, "{documented:?}");
    assert_eq!(recorded, documented);
    assert_eq!(described, documented);

    let series = Series::default();
    let _recorder = metrics::set_default_local_recorder(&series);
    let store = Store::memory().with_observer(Arc::new(MetricsObserver::new()));
    let sessions: Bucket<Session> = store.bucket().await.unwrap();
    let session = Session::new("acme", 1);
    let key = session.key();
    sessions.put(&session).await.unwrap();
    sessions.create(&session).await.unwrap_err();
    let check = |session: &Session| if session.visits < 9 { Ok(()) } else { Err("too many") };
    let live = sessions.live(&key).validate(check).await.unwrap();
    let cache = sessions.cache(..).await.unwrap();
    sessions.put(&session.visited(99)).await.unwrap();
    live.errors().wait_for(Option::is_some).await.unwrap();
    let leadership = store.election::<String>("scheduler").bucket("cluster").campaign(&"me".to_owned()).await.unwrap();
    leadership.resign().await.unwrap();
    let guard = store.locks("jobs").lock("invoice-42").await.unwrap();
    guard.release().await.unwrap();
    let limiter = store.rate_limiter("api", Quota::per_minute(1));
    let _ = limiter.check("client").await.unwrap();
    assert!(!limiter.check("client").await.unwrap().is_allowed());
    drop(cache);
    let all = series.all();
    let has = |name: &str, label: &str| all.iter().any(|series| series.contains(name) && series.contains(label));
    for (name, label) in [
        ("db.client.operation.duration", "db.operation.name = put"),
        ("kvtyped.conflicts", "operation = create"),
        ("kvtyped.watch.lag", "bucket = session"),
        ("kvtyped.cache.entries", "bucket = session"),
        ("kvtyped.cache.staleness", "bucket = session"),
        ("kvtyped.live.rejected", "bucket = session"),
        ("kvtyped.lock.wait", "bucket = jobs"),
        ("kvtyped.lock.hold", "name = jobs"),
        ("kvtyped.leader", "election = scheduler"),
        ("kvtyped.rate.denied", "limiter = api"),
    ] {
        assert!(has(name, label), "{name} with {label} in {all:#?}");
    }
    assert!(!has("", "invoice-42") && !has("", "= client"), "no label is a key: {all:#?}");
}
