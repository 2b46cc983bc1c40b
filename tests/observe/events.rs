//! The events of background work, and the retries within spans.

use std::sync::Arc;

use harness::proxy::{Mode, Proxy};
use kvtyped::prelude::*;

use super::recorder::{Recorder, Spans};
use crate::support::sentinels::{Everything, VALUE};
use crate::support::{Document, Session, unique};

const SOON: Duration = Duration::from_secs(20);

/// Waits for an event that begins with this text.
async fn event(recorder: &Recorder, start: &str) -> String {
    let found = async || recorder.events().into_iter().find(|event| event.starts_with(start));
    harness::wait::until(start, SOON, found).await
}

#[tokio::test]
async fn observer_learns_of_outage() {
    let server = harness::Server::start().await;
    let recorder = Arc::new(Recorder::default());
    let store = Store::connect(server.url()).observer(recorder.clone()).await.unwrap();
    // Another handle with the same observer reports nothing twice.
    let store = store.with_traced_keys(true);
    let sessions: Bucket<Session> = store.bucket().await.unwrap();
    let cache = sessions.cache(..).await.unwrap();
    let mut connection = store.connection();
    server.kill().await;
    connection.wait_for(|state| !state.connected).await.unwrap();
    event(&recorder, "CacheStale").await;
    server.restart().await;
    event(&recorder, "Reconnected").await;
    let count = |start: &str| recorder.events().iter().filter(|event| event.starts_with(start)).count();
    assert_eq!((count("Disconnected"), count("CacheStale")), (1, 1), "{:?}", recorder.events());
    drop(cache);
}

#[tokio::test(start_paused = true)]
async fn cache_reports_its_size_and_staleness() {
    let recorder = Arc::new(Recorder::default());
    let sessions: Bucket<Session> = Store::memory().with_observer(recorder.clone()).bucket().await.unwrap();
    sessions.put(&Session::new("acme", 1)).await.unwrap();
    let (first, second) = (sessions.cache(..).await.unwrap(), sessions.cache(..).await.unwrap());
    let state = |entries: usize| format!("CacheState {{ bucket: \"session\", entries: {entries}, ");
    event(&recorder, &state(1)).await;
    event(&recorder, &state(2)).await;
    let revision = sessions.put(&Session::new("acme", 2)).await.unwrap();
    first.wait_for_revision(revision).await.unwrap();
    second.wait_for_revision(revision).await.unwrap();
    tokio::time::advance(Duration::from_secs(6)).await;
    event(&recorder, &state(4)).await;
    drop((first, second));
    tokio::time::advance(Duration::from_secs(6)).await;
    event(&recorder, &state(0)).await;
}

#[tokio::test(start_paused = true)]
async fn watch_reports_its_delay() {
    let recorder = Arc::new(Recorder::default());
    let sessions: Bucket<Session> = Store::memory().with_observer(recorder.clone()).bucket().await.unwrap();
    let mut events = sessions.watch(..).await.unwrap();
    assert!(matches!(events.try_next().await.unwrap(), Some(kvtyped::Event::Ready)));
    assert_eq!(recorder.events(), ["WatchLag { bucket: \"session\", lag: 0ns }"]);
    sessions.put(&Session::new("acme", 1)).await.unwrap();
    // The reader is late.
    tokio::time::advance(Duration::from_millis(1_100)).await;
    events.try_next().await.unwrap();
    let lag = recorder.events().pop().expect("a report");
    assert!(lag.starts_with("WatchLag { bucket: \"session\", lag: 1."), "{lag}");
}

#[tokio::test]
async fn rejected_live_value_is_reported_once_without_value() {
    let recorder = Arc::new(Recorder::default());
    let documents: Bucket<Document> = Store::memory().with_observer(recorder.clone()).bucket().await.unwrap();
    let good = Document::new("a", "good");
    documents.put(&good).await.unwrap();
    let key = good.key();
    let check = |document: &Document| if document.text == VALUE { Err("it is refused") } else { Ok(()) };
    let live = documents.live(&key).validate(check).await.unwrap();
    let mut errors = live.errors();
    let everything = Everything::default();
    let subscriber = tracing::subscriber::set_default(everything.clone());
    let revision = documents.put(&Document::new("a", VALUE)).await.unwrap();
    errors.wait_for(Option::is_some).await.unwrap();
    drop(subscriber);
    let lines = everything.lines();
    let warned: Vec<_> = lines.iter().filter(|line| line.contains("skips an invalid record")).collect();
    assert!(warned.len() == 1 && warned[0].contains(&format!("revision={}", revision.get())), "{warned:?}");
    assert!(lines.iter().all(|line| !line.contains(VALUE)), "{lines:?}");
    let rejected = event(&recorder, "LiveRejected").await;
    assert!(rejected.contains(&format!("revision: Revision({revision})")) && !rejected.contains(VALUE), "{rejected}");
    documents.put(&good).await.unwrap();
    live.changed().await.unwrap();
    let count = recorder.events().iter().filter(|event| event.starts_with("LiveRejected")).count();
    assert_eq!(count, 1);
}

/// The conflict of a transaction is an event in its span, with the reason.
#[tokio::test]
async fn conflict_is_an_event_of_the_span() {
    let (spans, recorder) = (Spans::default(), Arc::new(Recorder::default()));
    let sessions: Bucket<Session> = Store::memory().with_observer(recorder.clone()).bucket().await.unwrap();
    let session = Session::new("acme", 1);
    sessions.put(&session).await.unwrap();
    let key = session.key();
    let subscriber = tracing::subscriber::set_default(spans.clone());
    let mut runs = 0;
    let transact = sessions.transact(|tx| {
        runs += 1;
        let (key, sessions, run) = (key.clone(), sessions.clone(), runs);
        async move {
            let mut session = tx.get(&key).await?.expect("it is there");
            if run == 1 {
                sessions.put(&session).await?;
            }
            session.visits += 1;
            tx.put(&session)?;
            Ok(())
        }
    });
    transact.await.unwrap();
    drop(subscriber);
    let report = &recorder.of("transact")[0];
    assert_eq!((report.attempts, report.retries, report.conflicts), (2, 1, 1), "{report:?}");
    let span = &spans.of("transact")[0];
    assert_eq!(span.events.iter().filter_map(|event| event.get("reason")).collect::<Vec<_>>(), ["conflict"]);
    assert_eq!(span.fields["kvtyped.attempts"], "2");
    let inner = &spans.of("put")[0];
    assert_eq!(inner.parent, Some(span.id), "an operation of the closure has its own span");
}

/// A write is sent again after a lost acknowledgement.
#[tokio::test]
async fn resend_is_an_event_of_the_span() {
    let server = harness::Server::start().await;
    let proxy = Proxy::start(server.addr()).await;
    let (spans, recorder) = (Spans::default(), Arc::new(Recorder::default()));
    let store = Store::connect(proxy.url()).observer(recorder.clone()).await.unwrap();
    let documents: Bucket<Document> = store.bucket().name(unique("document")).await.unwrap();
    let document = Document::new("a", "text");
    let revision = documents.put(&document).await.unwrap();
    let subscriber = tracing::subscriber::set_default(spans.clone());
    // The message and its acknowledgement are lost with the connection.
    proxy.set(Mode::Stall);
    let changed = Document::new("a", "new");
    let update = async { documents.update(&changed, revision).timeout(SOON).await.unwrap() };
    let heal = async {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        proxy.cut();
        proxy.set(Mode::Pass);
    };
    tokio::join!(update, heal);
    drop(subscriber);
    let report = &recorder.of("update")[0];
    assert!(report.attempts >= 2 && report.retries >= 1, "{report:?}");
    let span = &spans.of("update")[0];
    let reasons: Vec<_> = span.events.iter().filter_map(|event| event.get("reason")).collect();
    assert!(!reasons.is_empty(), "{span:?}");
}
