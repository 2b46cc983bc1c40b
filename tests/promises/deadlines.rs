//! Hanging servers and lost connections: every operation ends within its timeout, and nothing is written later.

use async_nats::connection::State;
use async_nats::jetstream::{self, kv};
use harness::{Mode, Proxy, Server, wait};
use kvtyped::prelude::*;
use kvtyped::{Error, ErrorKind, Read};
use tokio::time::Instant;

use super::{Ledger, SECOND, TestCluster, ThroughProxy, is_unknown};
use crate::support::{Document, DocumentKey, Session, World, in_time, seen_as, unique};

/// The timeout of each operation.
const TIME: Duration = SECOND;

/// Runs every verb concurrently on a server that does not answer. Returns the results of the writes.
async fn run_every_verb(world: &World, sessions: &Bucket<Session>, revision: Revision) -> Vec<Result<Revision, Error>> {
    let session = Session::new("acme", 7).visited(1);
    let key = session.key();
    let other = Session::new("acme", 8);
    let reads = async {
        let get = |read| in_time("get", TIME, sessions.get(&key).read(read).timeout(TIME));
        let list = async { sessions.list(..).timeout(TIME).await?.try_collect::<Vec<_>>().await.map(drop) };
        let keys = async { sessions.keys(..).timeout(TIME).await?.try_collect::<Vec<_>>().await.map(drop) };
        let (any, leader, at_least, at, history, list, keys, status, names, open) = tokio::join!(
            get(Read::Any),
            get(Read::Leader),
            get(Read::AtLeast(revision)),
            in_time("get", TIME, sessions.get(&key).at(revision).timeout(TIME)),
            in_time("history", TIME, sessions.history(&key).timeout(TIME)),
            in_time("list", TIME, list),
            in_time("keys", TIME, keys),
            in_time("status", TIME, sessions.status()),
            in_time("buckets", TIME, world.store.buckets()),
            in_time("bucket", TIME, world.store.bucket::<Session>().name(unique("new")).timeout(TIME)),
        );
        for (what, error) in [
            ("get any", any.err()),
            ("get leader", leader.err()),
            ("get at least", at_least.err()),
            ("get at", at.err()),
            ("history", history.err()),
            ("list", list.err()),
            ("keys", keys.err()),
            ("status", status.err()),
            ("buckets", names.err()),
            ("bucket", open.err()),
        ] {
            let error = error.unwrap_or_else(|| panic!("{what} was answered"));
            assert!(matches!(error.kind(), ErrorKind::Timeout { .. }), "{what}: {error}");
        }
    };
    let writes = async {
        let modify = sessions.modify(&key, |session| session.visits += 1).timeout(TIME);
        let transform = sessions.transform(&key, |_| Change::Delete).timeout(TIME);
        let (put, create, update, delete, purge, touch, modify, transform) = tokio::join!(
            in_time("put", TIME, sessions.put(&session).timeout(TIME)),
            in_time("create", TIME, sessions.create(&other).timeout(TIME)),
            in_time("update", TIME, sessions.update(&session, revision).timeout(TIME)),
            in_time("delete", TIME, sessions.delete(&key).timeout(TIME)),
            in_time("purge", TIME, sessions.purge(&key).timeout(TIME)),
            in_time("touch", TIME, sessions.touch(&key).timeout(TIME)),
            in_time("modify", TIME, modify),
            in_time("transform", TIME, transform),
        );
        // These operations read first, and did not reach the write.
        for error in [touch.err(), modify.map(drop).err(), transform.map(drop).err()] {
            let error = error.expect("it was not answered");
            assert!(matches!(error.kind(), ErrorKind::Timeout { .. }), "{error}");
            assert_eq!(error.outcome(), Outcome::NotApplied, "{error}");
        }
        vec![put, create, update, delete, purge]
    };
    tokio::join!(reads, writes).1
}

/// P8, P5.
#[tokio::test]
async fn every_verb_times_out_on_stalled_connection() {
    let server = harness::shared().await;
    let proxy = Proxy::start(server.addr()).await;
    let store = Store::connect(proxy.url()).timeout(TIME).await.unwrap();
    let world = World::of(store, &proxy.url());
    let sessions = world.bucket::<Session>().await;
    let revision = sessions.put(&Session::new("acme", 7)).await.unwrap();
    proxy.set(Mode::Stall);
    for result in run_every_verb(&world, &sessions, revision).await {
        assert!(is_unknown(&result), "{result:?}");
    }
    // A new connection stalls, too.
    let error = in_time("connect", TIME, Store::connect(proxy.url()).timeout(TIME)).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Timeout { .. }), "{error}");
    proxy.set(Mode::Pass);
    sessions.put(&Session::new("acme", 9)).timeout(8 * SECOND).await.unwrap();
}

/// P8, P5.
#[tokio::test]
async fn every_verb_times_out_on_frozen_server() {
    let server = Server::start().await;
    let store = Store::connect(server.url()).timeout(TIME).await.unwrap();
    let world = World::of(store, &server.url());
    let sessions = world.bucket::<Session>().await;
    let revision = sessions.put(&Session::new("acme", 7)).await.unwrap();
    server.freeze();
    for result in run_every_verb(&world, &sessions, revision).await {
        assert!(is_unknown(&result), "{result:?}");
    }
    let error = in_time("connect", TIME, Store::connect(server.url()).timeout(TIME)).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Timeout { .. }), "{error}");
    server.thaw();
    sessions.put(&Session::new("acme", 9)).timeout(8 * SECOND).await.unwrap();
}

/// P8: the client detects a hanging server and switches to the next one, even if the hanging server accepts
/// connections.
#[tokio::test]
async fn long_timeout_survives_hanging_server() {
    let time = 15 * SECOND;
    let server = harness::shared().await;
    let direct = World::at(&server.url()).await;
    let past = direct.bucket::<Document>().await;
    let first = past.put(&Document::new("a", "old")).await.unwrap();
    let proxies = [Proxy::start(server.addr()).await, Proxy::start(server.addr()).await];
    let urls = format!("{},{}", proxies[0].url(), proxies[1].url());
    let documents: Bucket<Document> = seen_as(&World::at(&urls).await, past.name()).await;
    let ours = usize::from(proxies[0].connections() == 0);
    proxies[ours].set(Mode::Stall);

    let update = Document::new("a", "new");
    let key = update.key();
    let (updated, read, connected) = tokio::join!(
        in_time("update", time, documents.update(&update, first).timeout(time)),
        in_time("get", time, documents.get(&key).timeout(time)),
        in_time("connect", 3 * SECOND, Store::connect(&urls).timeout(time)),
    );
    assert!(read.is_ok(), "{read:?}");
    assert!(connected.is_ok(), "{connected:?}");
    assert!(updated.is_ok(), "{updated:?}");
    let mut ledger = Ledger::default();
    ledger.note(update, updated);
    ledger.agrees_with(&past).await;
}

/// P8, the control: the timeout of the plain client applies to each request, and `create` makes two requests.
#[tokio::test]
async fn naive_create_exceeds_its_timeout() {
    let server = harness::shared().await;
    let proxy = Proxy::start(server.addr()).await;
    let client = async_nats::ConnectOptions::new().request_timeout(Some(SECOND)).connect(proxy.url()).await.unwrap();
    let nominal = SECOND / 2;
    let jetstream = jetstream::ContextBuilder::new().timeout(nominal).build(client);
    let config = kv::Config { bucket: unique("naive"), ..Default::default() };
    let store = jetstream.create_key_value(config).await.unwrap();
    proxy.set(Mode::Stall);
    let start = Instant::now();
    store.create("k", "v".into()).await.unwrap_err();
    assert!(start.elapsed() >= 2 * nominal, "it took {:?}", start.elapsed());
}

/// Creates a connection whose state is visible. The connection of kvtyped does not expose its state.
async fn visible(proxy: &Proxy) -> async_nats::Client {
    async_nats::ConnectOptions::new()
        .reconnect_delay_callback(|_| Duration::from_millis(50))
        .connect(proxy.url())
        .await
        .expect("the server is there")
}

async fn until_it_is(client: &async_nats::Client, state: State) {
    wait::until(&format!("the connection is {state}"), 10 * SECOND, async || {
        (client.connection_state() == state).then_some(())
    })
    .await;
}

/// P9, P4: an operation that starts and ends without a connection is never sent.
#[tokio::test]
async fn disconnected_write_fails_and_is_never_stored() {
    let proxied = ThroughProxy::<Document>::new(TestCluster::OneServer).await;
    let client = visible(&proxied.proxy).await;
    let store = Store::from_client(client.clone());
    let documents: Bucket<Document> =
        store.bucket().name(proxied.past.name()).must_exist().on_drift(Drift::Adopt).await.unwrap();
    let first = documents.put(&Document::new("there", "old")).await.unwrap();
    proxied.proxy.set(Mode::Refuse);
    until_it_is(&client, State::Disconnected).await;

    let time = SECOND / 2;
    let (put, create) = (Document::new("put", "p"), Document::new("create", "c"));
    let update = Document::new("there", "u");
    let key = update.key();
    let mut runs = 0;
    let modify = documents.modify(&key, |document| {
        runs += 1;
        document.text = "m".into();
    });
    let (put_result, create_result, update_result, deleted, modified) = tokio::join!(
        in_time("put", time, documents.put(&put).timeout(time)),
        in_time("create", time, documents.create(&create).timeout(time)),
        in_time("update", time, documents.update(&update, first).timeout(time)),
        in_time("delete", time, documents.delete(&key).timeout(time)),
        in_time("modify", time, modify.timeout(time)),
    );
    let modified = modified.map(|entry| entry.revision());
    let mut ledger = Ledger::default();
    ledger.note(Document::new("there", "m"), modified);
    ledger.note(put, put_result);
    ledger.note(create, create_result);
    ledger.note(update, update_result);
    for error in ledger.0.iter().map(|(_, result)| result).chain([&deleted]) {
        let error = error.as_ref().expect_err("there is no connection");
        assert_eq!(error.outcome(), Outcome::NotApplied, "{error}");
        assert!(error.is_retryable(), "{error}");
    }
    assert_eq!(runs, 0);

    proxied.proxy.set(Mode::Pass);
    until_it_is(&client, State::Connected).await;
    // This write is queued after everything that the client still holds.
    let last = documents.put(&Document::new("last", "l")).await.unwrap();
    assert_eq!(last.get(), first.get() + 1, "nothing else was written");
    ledger.agrees_with(&proxied.past).await;
}

/// P9, the control: the plain client keeps an abandoned write and sends it later.
#[tokio::test]
async fn naive_failed_put_is_stored_later() {
    let server = harness::shared().await;
    let proxy = Proxy::start(server.addr()).await;
    let client = visible(&proxy).await;
    let jetstream = jetstream::ContextBuilder::new().timeout(SECOND / 2).build(client.clone());
    let config = kv::Config { bucket: unique("naive"), history: 5, ..Default::default() };
    let bucket = config.bucket.clone();
    let store = jetstream.create_key_value(config).await.unwrap();
    proxy.set(Mode::Refuse);
    until_it_is(&client, State::Disconnected).await;
    store.put("k", "zombie".into()).await.unwrap_err();

    let direct = async_nats::jetstream::new(async_nats::connect(server.url()).await.unwrap());
    let direct = direct.get_key_value(bucket).await.unwrap();
    direct.put("k", "newer".into()).await.unwrap();
    proxy.set(Mode::Pass);
    wait::until("the dead write is stored over a newer one", 10 * SECOND, async || {
        let value = direct.get("k").await.ok().flatten();
        (value.as_deref() == Some(b"zombie".as_slice())).then_some(())
    })
    .await;
}

/// P9, P4: the connection closes during a write, and another writer writes before the client has reconnected.
#[tokio::test]
async fn abandoned_conditional_write_is_not_applied_late() {
    let proxied = ThroughProxy::<Document>::new(TestCluster::OneServer).await;
    let first = proxied.past.put(&Document::new("there", "old")).await.unwrap();
    let key = DocumentKey::new("there");
    proxied.proxy.set(Mode::Refuse);
    let (update, create) = (Document::new("there", "zombie"), Document::new("new", "zombie"));
    let modify = proxied.through.modify(&key, |document| document.text = "modified zombie".into());
    let (updated, created, modified) = tokio::join!(
        in_time("update", TIME, proxied.through.update(&update, first).timeout(TIME)),
        in_time("create", TIME, proxied.through.create(&create).timeout(TIME)),
        in_time("modify", TIME, modify.timeout(TIME)),
    );
    let mut ledger = Ledger::default();
    ledger.note(Document::new("there", "modified zombie"), modified.map(|entry| entry.revision()));
    ledger.note(update, updated);
    ledger.note(create, created);
    assert!(ledger.0.iter().all(|(_, result)| result.is_err()), "{ledger:?}");
    proxied.past.put(&Document::new("there", "newer")).await.unwrap();
    proxied.past.put(&Document::new("new", "newer")).await.unwrap();

    proxied.proxy.set(Mode::Pass);
    let last = proxied.through.put(&Document::new("last", "l")).timeout(8 * SECOND).await.unwrap();
    assert_eq!(last.get(), 4, "nothing else was written");
    ledger.agrees_with(&proxied.past).await;
}
