//! Every operation has one span and one report, and neither contains a secret.

mod events;
mod metrics;
mod recorder;
mod shared_writes;
mod table;
mod verbs;

use std::sync::Arc;

use futures::FutureExt;
use kvtyped::observe::{Observer, OperationEnd, OperationReport};
use kvtyped::prelude::*;

use self::recorder::{Recorder, Seen, Spans};
use crate::support::sentinels::{PASSWORD, VALUE};
use crate::support::{Document, Session, on_both_backends, unique};

on_both_backends! {
    async fn failure_is_described(world: World) {
        let (spans, recorder) = (Spans::default(), Arc::new(Recorder::default()));
        let store = world.store.clone().with_observer(recorder.clone());
        let sessions: Bucket<Session> = store.bucket().name(unique("session")).await.unwrap();
        let session = Session::new("acme", 1);
        sessions.put(&session).await.unwrap();
        let subscriber = tracing::subscriber::set_default(spans.clone());
        sessions.create(&session).await.unwrap_err();
        drop(subscriber);
        let report = &recorder.of("create")[0];
        assert_eq!((report.error.as_deref(), report.conflicts), (Some("already_exists"), 1), "{report:?}");
        let span = &spans.of("create")[0].fields;
        assert_eq!(span["error.type"], "already_exists");
        assert_eq!(span["otel.status_code"], "ERROR");
        assert_eq!(span["kvtyped.outcome"], "not_applied");
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
        for span in traced.iter().filter(|span| span.name == "operation") {
            assert_eq!(span.fields.get("kvtyped.key").map(|key| &**key), Some("doc.key-sentinel"), "{span:?}");
        }
        for text in [quiet, format!("{traced:?}")] {
            assert!(!text.contains(VALUE) && !text.contains(PASSWORD), "{text}");
        }
    }
}

mod cancelled {
    use super::*;

    on_both_backends! {
        needs Locks;

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
            assert_eq!(cancelled[0].fields["kvtyped.cancelled"], "true");
            assert!(cancelled[0].is_closed(), "work in other tasks does not keep the span open");
        }
    }
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

/// A report of an operation can be matched without its fields.
#[test]
fn end_of_operation_has_a_name() {
    let error = kvtyped::Error::new(kvtyped::ErrorKind::BucketNotFound);
    assert_eq!(OperationEnd::Failure(&error).error_type().as_deref(), Some("bucket_not_found"));
    assert_eq!(OperationEnd::Success.error_type(), None);
}

/// The span of a store in a JetStream domain names the domain, and the server of a URL with a port.
#[tokio::test]
async fn span_names_domain_and_server() {
    let server = harness::Server::builder().jetstream("domain: hub").start().await;
    let (spans, recorder) = (Spans::default(), Arc::new(Recorder::default()));
    let subscriber = tracing::subscriber::set_default(spans.clone());
    let url = format!("{}?domain=hub", server.url());
    let store = Store::connect(url).observer(recorder.clone()).await.unwrap();
    let sessions: Bucket<Session> = store.bucket().await.unwrap();
    sessions.put(&Session::new("acme", 1)).await.unwrap();
    drop(subscriber);
    assert_eq!(recorder.of("put")[0].namespace.as_deref(), Some("hub"));
    let span = &spans.of("put")[0].fields;
    assert_eq!((&*span["db.namespace"], &*span["network.peer.address"]), ("hub", "127.0.0.1"));
    let port = store.connection().borrow().server.as_ref().expect("a server").port;
    assert_eq!((&*span["server.address"], &*span["server.port"]), ("127.0.0.1", &*port.to_string()));
    let connect = &spans.of("connect")[0].fields;
    assert_eq!((&*connect["otel.kind"], &*connect["server.address"]), ("client", "127.0.0.1"));
}

#[tokio::test]
async fn failed_connection_is_reported() {
    let recorder = Arc::new(Recorder::default());
    let connect = Store::connect("nats://127.0.0.1:1").observer(recorder.clone()).timeout(Duration::from_secs(1));
    connect.await.unwrap_err();
    assert_eq!(recorder.reports().len(), 1);
    assert!(recorder.of("connect")[0].error.is_some());
}
