//! What must not be shown.

use std::error::Error as StdError;
use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use harness::{Mode, Proxy, Server};
use kvtyped::ErrorKind;
use kvtyped::prelude::*;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::support::{Document, DocumentKey, RawSession, World, seen_as};

const SECOND: Duration = Duration::from_secs(1);
const PASSWORD: &str = "pa55word-sentinel";
const TOKEN: &str = "t0ken-sentinel";
const VALUE: &str = "va1ue-sentinel";

/// Every event and span of this thread, and everything that was shown: one line each, with its origin in front.
#[derive(Debug, Clone, Default)]
struct Everything(Arc<Mutex<Vec<String>>>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {field}={value:?}").expect("a string takes all");
    }
}

impl Everything {
    fn push(&self, line: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    fn note(&self, metadata: &Metadata<'_>, record: impl FnOnce(&mut Line)) {
        let mut line = Line(format!("{} {}", metadata.target(), metadata.name()));
        record(&mut line);
        self.push(line.0);
    }

    fn shown(&self, what: &impl Debug) {
        self.push(format!("shown {what:?} {what:#?}"));
    }

    /// An error in every way to see it, its causes too.
    fn error(&self, error: &Error) {
        self.shown(error);
        let mut next: Option<&dyn StdError> = Some(error);
        while let Some(error) = next {
            self.push(format!("shown {error} {error:?}"));
            next = error.source();
        }
        self.push(format!("shown {} {:?}", error.kind(), error.kind()));
    }

    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Subscriber for Everything {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        self.note(span.metadata(), |line| span.record(line));
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        let mut line = Line("span".into());
        values.record(&mut line);
        self.push(line.0);
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        self.note(event.metadata(), |line| event.record(line));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The verbs, and each way in which they fail, on a store that says nothing of its credentials.
async fn exercise(everything: &Everything, store: &Store, proxy: &Proxy) {
    let world = World::of(store.clone(), &proxy.url());
    let open = world.fresh::<Document>();
    everything.shown(&open);
    let documents = open.await.unwrap();
    everything.shown(store);
    everything.shown(&documents);
    let document = Document::new("a", VALUE);
    let key = document.key();
    let first = documents.put(&document).await.unwrap();
    documents.update(&document, first).await.unwrap();
    everything.error(&documents.update(&document, first).await.unwrap_err());
    everything.error(&documents.create(&document).await.unwrap_err());
    documents.modify(&key, |document| document.text += VALUE).await.unwrap();
    let lost = documents.modify(&key, |document| document.name += VALUE).await;
    let lost = lost.unwrap_err();
    assert!(matches!(lost.kind(), ErrorKind::KeyChanged));
    everything.error(&lost);
    everything.error(&documents.put(&Document::new("b", &VALUE.repeat(200_000))).await.unwrap_err());
    documents.get(&key).await.unwrap().expect("there");
    assert_eq!(documents.list(..).await.unwrap().count().await, 1);
    everything.shown(&documents.status().await.unwrap());

    // What is no record of the model.
    let raw = seen_as::<RawSession>(&world, documents.name()).await;
    let other =
        RawSession::new("doc", "c", format!("{{\"name\":\"c\",\"text\":7,\"{VALUE}\":\"{VALUE}\"}}").as_bytes());
    raw.put(&other).await.unwrap();
    let text = RawSession::new("doc", "d", VALUE.as_bytes());
    raw.put(&text).await.unwrap();
    for name in ["c", "d"] {
        let error = documents.get(&DocumentKey::new(name)).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Decode { .. }), "{error}");
        everything.error(&error);
        everything.shown(&documents.history(&DocumentKey::new(name)).await.unwrap());
    }

    // No answer, then no connection.
    proxy.set(Mode::DropReplies);
    let time = SECOND / 2;
    everything.error(&documents.put(&document).timeout(time).await.unwrap_err());
    everything.error(&documents.get(&key).timeout(time).await.unwrap_err());
    proxy.set(Mode::Refuse);
    everything.error(&documents.update(&document, first).timeout(time).await.unwrap_err());
    proxy.set(Mode::Pass);
    documents.delete(&key).timeout(10 * SECOND).await.unwrap();
    documents.purge(&key).await.unwrap();
}

/// What fails before there is a store.
async fn refused(everything: &Everything, url: &str) {
    let connect = Store::connect(url).timeout(2 * SECOND);
    everything.shown(&connect);
    everything.error(&connect.await.unwrap_err());
}

/// P40.
#[tokio::test]
async fn no_secret_is_shown_in_logs_errors_and_debug() {
    let everything = Everything::default();
    // Beside another, `tracing` asks this one about every event, and not only about those that this thread saw first.
    let _other = tracing::Dispatch::new(Everything::default());
    let _guard = tracing::subscriber::set_default(everything.clone());
    let users = format!(
        "authorization {{ users: [ {{ user: app, password: \"{PASSWORD}\" }}, {{ user: guest, password: \"{PASSWORD}\", \
         permissions: {{ publish: {{ deny: \"$KV.>\" }} }} }} ] }}"
    );
    let users = Server::builder().config(&users).auth().start().await;
    let token = Server::builder().config(&format!("authorization {{ token: \"{TOKEN}\" }}")).auth().start().await;

    for (server, credentials) in [(&users, format!("app:{PASSWORD}")), (&token, TOKEN.to_owned())] {
        let proxy = Proxy::start(server.addr()).await;
        let store = Store::connect(format!("nats://{credentials}@{}", proxy.addr())).await.unwrap();
        exercise(&everything, &store, &proxy).await;
        store.close().await.unwrap();
        proxy.set(Mode::Refuse);
        refused(&everything, &format!("nats://{credentials}@{}", proxy.addr())).await;
        refused(&everything, &format!("nats://{credentials}@{}?unknown={TOKEN}", proxy.addr())).await;
        refused(&everything, &format!("http://{credentials}@{}", proxy.addr())).await;
        refused(&everything, &format!("nats://{credentials}@not a host")).await;
    }
    let wrong = format!("nats://app:{PASSWORD}-wrong@{},nats://app:{PASSWORD}-wrong@localhost:1", users.addr());
    refused(&everything, &wrong).await;
    let guest = Store::connect(format!("nats://guest:{PASSWORD}@{}", users.addr())).await.unwrap();
    let documents: Bucket<Document> = guest.bucket().await.unwrap();
    let denied = documents.put(&Document::new("a", VALUE)).await.unwrap_err();
    assert!(matches!(denied.kind(), ErrorKind::PermissionDenied { .. }), "{denied}");
    everything.error(&denied);

    let lines = everything.lines();
    let of_kvtyped = lines.iter().filter(|line| line.starts_with("kvtyped")).count();
    assert!(of_kvtyped > 5, "the logs of kvtyped were not seen: {of_kvtyped} lines");
    // The client itself traces each message that it reads, with its content (`async_nats::connection`, at TRACE).
    let is_read = |line: &str| line.starts_with("async_nats::connection") && line.contains("read operation completed");
    assert!(lines.iter().any(|line| is_read(line) && line.contains(VALUE)), "a value that is shown is seen here");
    for line in &lines {
        assert!(!line.contains(PASSWORD) && !line.contains(TOKEN), "a credential is shown: {line}");
        assert!(is_read(line) || !line.contains(VALUE), "a value is shown: {line}");
    }
}
