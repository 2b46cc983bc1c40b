//! Every operation has one span and one report, and neither contains a secret.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Write as _};
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use kvtyped::Change;
use kvtyped::bucket::copy_bucket;
use kvtyped::observe::{MetricsObserver, Observer, OperationEnd, OperationReport, StoreEvent};
use kvtyped::prelude::*;
use kvtyped::recipes::Quota;
use regex::Regex;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Metadata, Subscriber};

use crate::layering::files;
use crate::support::sentinels::{PASSWORD, VALUE};
use crate::support::{Document, DocumentKey, Session, on_both_backends, unique};

/// The builders of operations and the names of their operations. A new builder needs a line, and a call in
/// [`every_operation`].
const BUILDERS: &[(&str, &str)] = &[
    ("Acquire", "acquire"),
    ("Campaign", "campaign"),
    ("CheckSchema", "check_schema"),
    ("Compact", "compact"),
    ("CopyBucket", "copy"),
    ("Count", "count"),
    ("CountVersions", "schema_versions"),
    ("Create", "create"),
    ("Delete", "delete"),
    ("DeleteMany", "delete_many"),
    ("DryRun", "migrate_dry_run"),
    ("Get", "get"),
    ("GetMany", "get_many"),
    ("GetManyResults", "get_many"),
    ("History", "history"),
    ("Join", "join"),
    ("Keys", "keys"),
    ("List", "list"),
    ("Lock", "lock"),
    ("Migrate", "migrate"),
    ("Modify", "modify"),
    ("OnceRun", "once"),
    ("OnceRunStatus", "once"),
    ("OpenBucket", "open"),
    ("OpenCache", "cache"),
    ("OpenDerived", "live"),
    ("OpenLive", "live"),
    ("OpenRawBucket", "open"),
    ("OpenReadBucket", "open"),
    ("Purge", "purge"),
    ("Put", "put"),
    ("PutMany", "put_many"),
    ("Rewrite", "rewrite"),
    ("SwitchVersion", "switch_version"),
    ("Touch", "touch"),
    ("Transact", "transact"),
    ("Transform", "transform"),
    ("TryAcquire", "try_acquire"),
    ("TryLock", "try_lock"),
    ("TryModify", "try_modify"),
    ("UntilReady", "until_ready"),
    ("Update", "update"),
    ("WaitFor", "wait_for"),
    ("Watch", "watch"),
    ("WriteManyResults", "write_many"),
];

/// Builders of a store, and loops whose campaigns are observed.
const NOT_OBSERVED: &[&str] = &["Connect", "OpenFile", "RunForever", "RunUntil"];

/// The operations of async methods.
const METHODS: &[&str] = &[
    "add",
    "all",
    "available",
    "buckets",
    "check",
    "delete_bucket",
    "depose",
    "leader",
    "members",
    "next",
    "observe",
    "remove",
    "status",
    "transaction",
    "view",
];

/// A span with all its fields.
#[derive(Debug, Default, Clone)]
struct Seen {
    fields: BTreeMap<String, String>,
    closed: bool,
}

impl Visit for Seen {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = String::new();
        write!(text, "{value:?}").expect("a string takes all");
        self.fields.insert(field.name().to_owned(), text.trim_matches('"').to_owned());
    }
}

/// Collects the spans of operations of this thread.
#[derive(Debug, Default, Clone)]
struct Spans(Arc<Mutex<Vec<Seen>>>);

impl Spans {
    fn change<R>(&self, change: impl FnOnce(&mut Vec<Seen>) -> R) -> R {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn all(&self) -> Vec<Seen> {
        self.change(|spans| spans.clone())
    }

    fn of(&self, operation: &str) -> Vec<BTreeMap<String, String>> {
        let is = |span: &Seen| span.fields.get("db.operation.name").is_some_and(|name| name == operation);
        self.all().into_iter().filter(is).map(|span| span.fields).collect()
    }
}

impl Subscriber for Spans {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && metadata.target() == "kvtyped::operation"
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut seen = Seen::default();
        span.record(&mut seen);
        self.change(|spans| {
            spans.push(seen);
            Id::from_u64(spans.len() as u64)
        })
    }

    fn record(&self, id: &Id, values: &Record<'_>) {
        self.change(|spans| values.record(&mut spans[id.into_u64() as usize - 1]));
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &tracing::Event<'_>) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}

    fn try_close(&self, id: Id) -> bool {
        self.change(|spans| spans[id.into_u64() as usize - 1].closed = true);
        true
    }
}

/// A report without its references.
#[derive(Debug, Clone)]
struct Kept {
    operation: &'static str,
    bucket: String,
    attempts: u32,
    records: u64,
    bytes: u64,
    error: Option<String>,
}

/// Keeps every report and the names of all events.
#[derive(Debug, Default)]
struct Recorder {
    reports: Mutex<Vec<Kept>>,
    events: Mutex<Vec<String>>,
}

impl Recorder {
    fn reports(&self) -> Vec<Kept> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn of(&self, operation: &str) -> Vec<Kept> {
        self.reports().into_iter().filter(|report| report.operation == operation).collect()
    }

    fn events(&self) -> Vec<String> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Observer for Recorder {
    fn operation(&self, report: &OperationReport<'_>) {
        let OperationReport { operation, bucket, attempts, records, bytes, end, .. } = *report;
        let kept = Kept { operation, bucket: bucket.to_owned(), attempts, records, bytes, error: end.error_type() };
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).push(kept);
    }

    fn event(&self, event: &StoreEvent<'_>) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{event:?}"));
    }
}

/// Calls every operation once at least.
async fn every_operation(store: &Store) {
    let sessions: Bucket<Session> = store.bucket().name(unique("session")).await.unwrap();
    let documents: Bucket<Document> = store.bucket().name(unique("document")).await.unwrap();
    let read: ReadBucket<Session> = store.bucket().name(sessions.name()).read_only().await.unwrap();
    let all: Vec<_> = (0..3).map(|id| Session::new("acme", id)).collect();
    let keys: Vec<_> = all.iter().map(Session::key).collect();
    let key = &keys[0];

    let first = sessions.put(&all[0]).await.unwrap();
    sessions.update(&all[0], first).await.unwrap();
    sessions.create(&all[1]).await.unwrap();
    sessions.get(key).await.unwrap();
    read.get_many(&keys).await.unwrap();
    read.get_many(&keys).results().await.unwrap();
    sessions.touch(key).ttl(Duration::from_secs(60)).await.unwrap();
    sessions.modify(key, |session| session.visits += 1).await.unwrap();
    sessions.try_modify(key, |_| Err::<(), _>("no")).await.unwrap_err();
    sessions.transform(key, |_| Change::Keep).await.unwrap();
    sessions.transaction().put(&all[0]).put(&all[1]).commit().await.map(drop).or_else(unsupported).unwrap();
    sessions.transact(|tx| async move { tx.get(key).await.map(drop).map_err(Into::into) }).await.unwrap();
    let list: Vec<_> = sessions.list(..).await.unwrap().try_collect().await.unwrap();
    assert_eq!(list.len(), 2);
    let _keys: Vec<_> = sessions.keys(..).await.unwrap().try_collect().await.unwrap();
    sessions.count(..).await.unwrap();
    sessions.status().await.unwrap();
    sessions.wait_for(key, |_| true).await.unwrap();
    drop(sessions.watch(..).await.unwrap());
    drop(sessions.cache(..).await.unwrap());
    drop(sessions.live(key).await.unwrap());
    drop(sessions.live(key).derive(|session| Ok::<_, std::fmt::Error>(session.visits)).await.unwrap());
    sessions.check_schema().await.unwrap();
    sessions.schema_versions().await.unwrap();
    // A model without versions refuses some of these.
    let _ = sessions.switch_version(1).await;
    let _ = sessions.migrate().await;
    let _ = sessions.migrate().dry_run().await;
    let _ = sessions.rewrite(.., |_| Change::Keep).await;
    let raw = store.raw(sessions.name()).await.unwrap();
    copy_bucket(&raw, store).name(unique("copy")).await.unwrap();
    sessions.put_many(&all).await.unwrap();
    sessions.put_many(&all).results().await.unwrap();
    sessions.delete_many(&keys).await.unwrap();
    documents.put(&Document::new("a", VALUE)).await.unwrap();
    documents.history(&DocumentKey::new("a")).await.unwrap();
    documents.delete(&DocumentKey::new("a")).await.unwrap();
    documents.purge(&DocumentKey::new("a")).await.unwrap();
    documents.compact(Duration::ZERO).await.unwrap();

    let locks = store.locks(unique("locks")).await.unwrap();
    let guard = locks.lock("nightly").await.unwrap();
    assert!(locks.try_lock("nightly").await.unwrap().is_none());
    guard.release().await.unwrap();
    drop(sessions.lock(key).await.unwrap());
    let election = store.election::<String>(unique("election"));
    let leadership = election.campaign(&"me".to_owned()).await.unwrap();
    election.leader().await.unwrap();
    drop(election.observe().await.unwrap());
    let fence = leadership.fence();
    leadership.resign().await.unwrap();
    election.depose(fence).await.unwrap();
    let semaphore = store.semaphore(unique("semaphore"), 1);
    let permit = semaphore.acquire().await.unwrap();
    semaphore.try_acquire().await.unwrap();
    semaphore.available().await.unwrap();
    permit.release().await.unwrap();
    let group = store.group::<String>(unique("group"));
    let member = group.join("me", &"here".to_owned()).await.unwrap();
    group.members().await.unwrap();
    drop(group.view().await.unwrap());
    member.leave().await.unwrap();
    let once = store.once::<u32>(unique("once"));
    once.run("charge", || async { Ok::<_, kvtyped::Error>(1) }).await.unwrap();
    once.run("charge", || async { Ok::<_, kvtyped::Error>(1) }).with_status().await.unwrap();
    let limiter = store.rate_limiter(unique("rate"), Quota::per_minute(1));
    limiter.until_ready("client").await.unwrap();
    assert!(!limiter.check("client").await.unwrap().is_allowed());
    let counters = store.counters(unique("hits"));
    counters.add("home", 1).await.unwrap();
    counters.get("home").await.unwrap();
    counters.all().await.unwrap();
    counters.remove("home").await.unwrap();
    store.ids(unique("ids")).next().await.unwrap();
    store.buckets().await.unwrap();
    store.delete_bucket(documents.name()).await.unwrap();
}

/// A server without batches refuses a transaction of two writes.
fn unsupported(error: kvtyped::Error) -> Result<(), kvtyped::Error> {
    if matches!(error.kind(), kvtyped::ErrorKind::Unsupported { .. }) { Ok(()) } else { Err(error) }
}

on_both_backends! {
    needs Locks;

    async fn every_operation_has_one_span_and_one_report(world: World) {
        let (spans, recorder) = (Spans::default(), Arc::new(Recorder::default()));
        let store = world.store.clone().with_observer(recorder.clone());
        let subscriber = tracing::subscriber::set_default(spans.clone());
        every_operation(&store).await;
        drop(subscriber);

        let expected: BTreeSet<_> = BUILDERS.iter().map(|(_, name)| *name).chain(METHODS.iter().copied()).collect();
        let reported: BTreeSet<_> = recorder.reports().iter().map(|report| report.operation).collect();
        assert_eq!(reported, expected);
        for operation in expected {
            let of_spans = spans.of(operation);
            assert_eq!(of_spans.len(), recorder.of(operation).len(), "{operation}: a span for each report");
            for span in of_spans {
                let attributes = fs::read_to_string("golden/span_attributes.txt").expect("the file is there");
                for field in span.keys() {
                    assert!(attributes.lines().any(|line| line.split(' ').next() == Some(field)), "{field}");
                }
                let kind = if world.is_on_a_server() { ("nats", "client") } else { ("custom", "internal") };
                assert_eq!((&*span["db.system.name"], &*span["otel.kind"]), kind, "{operation}");
                assert_eq!(span.get("server.address").map(|host| &**host), world.is_on_a_server().then_some("127.0.0.1"));
            }
        }
        assert!(spans.all().iter().all(|span| span.closed), "every span is closed");

        let put = &recorder.of("put")[0];
        assert_eq!((put.attempts, put.records), (1, 1), "{put:?}");
        assert!(put.bytes > 0 && put.error.is_none(), "{put:?}");
        assert_eq!(spans.of("put")[0]["otel.name"], format!("put {}", put.bucket));
        let many = &recorder.of("put_many")[0];
        assert_eq!((many.attempts, many.records), (3, 3), "{many:?}");
        assert_eq!(spans.of("put_many")[0]["otel.name"], format!("BATCH put {}", many.bucket));
        assert_eq!(spans.of("put_many")[0]["db.operation.batch.size"], "3");
        assert!(!spans.of("get_many")[0].contains_key("db.operation.batch.size"), "several keys of a read are no batch");
        assert_eq!(recorder.of("get_many")[0].records, 2);
        assert_eq!(recorder.of("try_modify")[0].error.as_deref(), Some("aborted"));
        let events = recorder.events().join("\n");
        for event in ["LeaseAcquired { recipe: \"lock\"", "LeaseEnded { recipe: \"election\"", "RateDenied"] {
            assert!(events.contains(event), "{event} in {events}");
        }
    }

    async fn failure_is_described(world: World) {
        let (spans, recorder) = (Spans::default(), Arc::new(Recorder::default()));
        let store = world.store.clone().with_observer(recorder.clone());
        let sessions: Bucket<Session> = store.bucket().name(unique("session")).await.unwrap();
        let session = Session::new("acme", 1);
        sessions.put(&session).await.unwrap();
        let subscriber = tracing::subscriber::set_default(spans.clone());
        sessions.create(&session).await.unwrap_err();
        drop(subscriber);
        assert_eq!(recorder.of("create")[0].error.as_deref(), Some("already_exists"));
        let span = &spans.of("create")[0];
        assert_eq!(span["error.type"], "already_exists");
        assert_eq!(span["otel.status_code"], "ERROR");
        assert_eq!(span["kvtyped.outcome"], "not_applied");
    }

    async fn cancelled_operation_is_reported_once(world: World) {
        let (spans, recorder) = (Spans::default(), Arc::new(Recorder::default()));
        let store = world.store.clone().with_observer(recorder.clone());
        let locks = store.locks(unique("locks")).await.unwrap();
        let _guard = locks.lock("a").await.unwrap();
        let subscriber = tracing::subscriber::set_default(spans.clone());
        // A future that is never polled is not an operation.
        drop(locks.lock("a").into_future());
        let mut waiting = locks.lock("a").into_future();
        assert!((&mut waiting).now_or_never().is_none());
        drop(waiting);
        drop(subscriber);
        let errors: Vec<_> = recorder.of("lock").into_iter().map(|report| report.error).collect();
        assert_eq!(errors, [None, Some("cancelled".to_owned())]);
        let cancelled = spans.of("lock");
        assert_eq!(cancelled.len(), 1);
        assert_eq!(cancelled[0]["kvtyped.cancelled"], "true");
    }

    async fn spans_contain_no_secrets(world: World) {
        let spans = Spans::default();
        let quiet: Bucket<Document> = world.bucket().await;
        let traced = world.store.clone().with_traced_keys(true);
        let traced: Bucket<Document> = traced.bucket().name(unique("document")).await.unwrap();
        let document = Document::new("key-sentinel", VALUE);
        let subscriber = tracing::subscriber::set_default(spans.clone());
        for bucket in [&quiet, &traced] {
            bucket.put(&document).await.unwrap();
            bucket.create(&document).await.unwrap_err();
            bucket.get(&document.key()).await.unwrap();
            bucket.modify(&document.key(), |document| document.text.push('.')).await.unwrap();
        }
        drop(subscriber);
        let of = |bucket: &Bucket<Document>| {
            let of_bucket = |span: &Seen| span.fields.get("db.collection.name").is_some_and(|name| name == bucket.name());
            spans.all().into_iter().filter(of_bucket).collect::<Vec<_>>()
        };
        let (quiet, traced) = (format!("{:?}", of(&quiet)), of(&traced));
        assert!(!quiet.contains("key-sentinel") && quiet.contains("modify"), "{quiet}");
        for span in &traced {
            assert_eq!(span.fields.get("kvtyped.key").map(|key| &**key), Some("doc.key-sentinel"), "{span:?}");
        }
        for text in [quiet, format!("{traced:?}")] {
            assert!(!text.contains(VALUE) && !text.contains(PASSWORD), "{text}");
        }
    }
}

/// The names of builders with an `IntoFuture`, read from the sources.
fn public_builders() -> BTreeSet<String> {
    let verb = Regex::new(r#"(?m)^\s*(?:verb!\((\w+)\(|many!\((.*)\);|impl.* IntoFuture for (\w+))"#).unwrap();
    let name = Regex::new(r#"(\w+)\(""#).unwrap();
    let mut builders = BTreeSet::new();
    for path in files() {
        let text = fs::read_to_string(path).expect("it is text");
        for found in verb.captures_iter(&text) {
            if let Some(single) = found.get(1).or(found.get(3)) {
                builders.insert(single.as_str().to_owned());
            }
            if let Some(many) = found.get(2) {
                builders.extend(name.captures_iter(many.as_str()).map(|name| name[1].to_owned()));
            }
        }
    }
    builders
}

#[test]
fn every_builder_is_in_the_table() {
    let known: BTreeSet<_> =
        BUILDERS.iter().map(|(builder, _)| *builder).chain(NOT_OBSERVED.iter().copied()).map(str::to_owned).collect();
    assert_eq!(public_builders(), known);
}

struct Panics;

impl Observer for Panics {
    fn operation(&self, _: &OperationReport<'_>) {
        panic!("an observer that panics");
    }
}

#[tokio::test]
async fn panic_of_observer_is_ignored() {
    let store = Store::memory().with_observer(Arc::new(Panics));
    let sessions: Bucket<Session> = store.bucket().await.unwrap();
    sessions.put(&Session::new("acme", 1)).await.unwrap();
}

#[tokio::test]
async fn observer_learns_of_outage() {
    let server = harness::Server::start().await;
    let recorder = Arc::new(Recorder::default());
    let store = Store::connect(server.url()).observer(recorder.clone()).await.unwrap();
    let mut connection = store.connection();
    server.kill().await;
    connection.wait_for(|state| !state.connected).await.unwrap();
    server.restart().await;
    let limit = Duration::from_secs(20);
    harness::wait::until("the event", limit, async || {
        recorder.events().iter().any(|event| event.starts_with("Reconnected")).then_some(())
    })
    .await;
    assert_eq!(recorder.events()[0], "Disconnected");
}

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

/// A report of an operation can be matched without its fields.
#[test]
fn end_of_operation_has_a_name() {
    let error = kvtyped::Error::new(kvtyped::ErrorKind::BucketNotFound);
    assert_eq!(OperationEnd::Failure(&error).error_type().as_deref(), Some("bucket_not_found"));
    assert_eq!(OperationEnd::Success.error_type(), None);
}
