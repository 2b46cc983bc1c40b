//! The connection of a store: ping, information, state, outages, health.

use harness::{Server, wait};
use kvtyped::ErrorKind;
use kvtyped::backend::{Backend, Capabilities, Deadline};
use kvtyped::prelude::*;
use tokio::time::Instant;

use crate::support::{Session, on_both_backends};

const SECOND: Duration = Duration::from_secs(1);

on_both_backends! {
    async fn store_reports_server_and_health(world: World) {
        let round_trip = world.store.ping().await.unwrap();
        assert!(round_trip < 5 * SECOND, "{round_trip:?}");
        let info = world.store.info().await.unwrap();
        assert_eq!(info.server.is_some(), world.is_on_a_server());
        if let Some(server) = &info.server {
            assert!(info.capabilities.backend.contains(&server.version), "{info:?}");
            assert_eq!((&*server.host, server.max_payload), ("127.0.0.1", 1 << 20));
        }
        let health = world.store.health().await.unwrap();
        assert!(health.is_healthy() && health.connection.reconnects == 0, "{health:?}");
        assert_eq!(health.connection.server, info.server);
    }

    async fn closed_store_has_no_health(world: World) {
        let connection = world.store.connection();
        world.store.close().await.unwrap();
        let closed = [
            world.store.ping().await.map(drop),
            world.store.info().await.map(drop),
            world.store.account().await.map(drop),
            world.store.health().await.map(drop),
        ];
        for closed in closed {
            assert!(matches!(closed.unwrap_err().kind(), ErrorKind::Closed));
        }
        if world.is_on_a_server() {
            wait::until("the state to change", 5 * SECOND, async || (!connection.borrow().connected).then_some(())).await;
        }
    }

    async fn bucket_reports_its_health(world: World) {
        let sessions: Bucket<Session> = world.fresh().max_bytes(1_000_000).await.unwrap();
        sessions.put(&Session::new("acme", 1)).await.unwrap();
        let health = sessions.health().await.unwrap();
        assert!(health.is_healthy() && health.has_leader, "{health:?}");
        assert_eq!((health.max_bytes, health.replicas_behind), (Some(1_000_000), 0));
        assert!(health.bytes > Some(0) && health.oldest_cache.is_none(), "{health:?}");
        let cache = sessions.cache(..).await.unwrap();
        assert!(sessions.health().await.unwrap().oldest_cache.is_some());
        drop(cache);
        assert_eq!(sessions.health().await.unwrap().oldest_cache, None);
        sessions.read_only().close();
        assert!(matches!(sessions.health().await.unwrap_err().kind(), ErrorKind::Closed));
    }
}

/// A server that a test stops and starts.
async fn outage(server: &Server, store: &Store) {
    let mut connection = store.connection();
    server.kill().await;
    let lost = tokio::time::timeout(10 * SECOND, connection.wait_for(|state| !state.connected)).await;
    assert!(lost.expect("the loss is reported").is_ok());
}

async fn reconnected(server: &Server, store: &Store) {
    let mut connection = store.connection();
    server.restart().await;
    let back = tokio::time::timeout(20 * SECOND, connection.wait_for(|state| state.connected)).await;
    let state = back.expect("the connection is reported").unwrap().clone();
    assert_eq!(state.reconnects, 1, "{state:?}");
    assert_eq!(state.server.as_ref().map(|server| server.port), Some(server.port()), "{state:?}");
}

#[tokio::test]
async fn connection_reports_outage_and_reconnect() {
    let server = Server::start().await;
    let store = Store::connect(server.url()).await.unwrap();
    assert!(store.connection().borrow().connected);
    outage(&server, &store).await;
    let health = store.health().await.unwrap();
    assert!(!health.is_healthy() && health.round_trip.is_none(), "{health:?}");
    assert!(health.connection.server.is_some(), "the last server is known");
    reconnected(&server, &store).await;
    assert!(store.health().await.unwrap().is_healthy());
}

#[tokio::test]
async fn state_of_application_client_is_reported() {
    let server = Server::start().await;
    let client = kvtyped::async_nats::connect(server.url()).await.unwrap();
    let store = Store::from_client(client);
    outage(&server, &store).await;
    reconnected(&server, &store).await;
}

#[tokio::test]
async fn frozen_server_has_no_round_trip() {
    let server = Server::start().await;
    let store = Store::connect(server.url()).timeout(SECOND).await.unwrap();
    server.freeze();
    let health = store.health().await.unwrap();
    assert_eq!(health.round_trip, None, "{health:?}");
    let error = store.ping().await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Timeout { .. }), "{error:?}");
    server.thaw();
    assert!(store.ping().await.unwrap() < SECOND);
}

#[tokio::test]
async fn ping_needs_no_permission() {
    let users = r#"authorization { users: [
        { user: limited, password: secret, permissions: { publish: { allow: ["$JS.API.STREAM.INFO.KV_x"] } } }
    ] }"#;
    let server = Server::builder().config(users).auth().start().await;
    let url = server.url().replace("nats://", "nats://limited:secret@");
    let store = Store::connect(url).await.unwrap();
    assert!(store.ping().await.unwrap() < 5 * SECOND);
    assert!(store.health().await.unwrap().is_healthy());
    assert!(matches!(store.info().await.unwrap_err().kind(), ErrorKind::PermissionDenied { .. }));
}

#[tokio::test]
async fn fail_fast_refuses_operations_during_an_outage() {
    let server = Server::start().await;
    let after = Duration::from_millis(100);
    let store = Store::connect(server.url()).fail_fast_after(after).await.unwrap();
    let sessions: Bucket<Session> = store.bucket().await.unwrap();
    let session = Session::new("acme", 1);
    sessions.put(&session).await.unwrap();
    let locks = store.locks("jobs").await.unwrap();
    outage(&server, &store).await;
    let connection = store.connection();
    wait::until("the outage to last", 5 * SECOND, async || {
        connection.borrow().downtime().filter(|down| *down >= after)
    })
    .await;

    let started = Instant::now();
    let key = session.key();
    let refused = [
        sessions.put(&session).await.map(drop),
        sessions.get(&key).await.map(drop),
        sessions.get_many([&key]).await.map(drop),
        sessions.modify(&key, |session| session.visits += 1).await.map(drop),
        sessions.transaction().put(&session).commit().await.map(drop),
        sessions.watch(..).await.map(drop),
        sessions.count(..).await.map(drop),
        sessions.status().await.map(drop),
        store.buckets().await.map(drop),
        store.bucket::<Session>().await.map(drop),
        locks.try_lock("nightly").await.map(drop),
        locks.lock("nightly").await.map(drop),
        store.counters("hits").add("a", 1).await.map(drop),
    ];
    let took = started.elapsed();
    assert!(took < SECOND, "refused after {took:?}");
    for (number, refused) in refused.into_iter().enumerate() {
        let error = refused.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Unavailable { .. }), "{number}: {error:?}");
        assert_eq!(error.outcome(), Outcome::NotApplied, "{number}");
        assert!(error.to_string().contains("fail_fast_after"), "{number}: {error}");
    }
    reconnected(&server, &store).await;
    sessions.put(&session).await.unwrap();
}

/// The control: without the option, an operation waits for the connection.
#[tokio::test]
async fn operations_wait_for_connection_by_default() {
    let server = Server::start().await;
    let store = Store::connect(server.url()).await.unwrap();
    let sessions: Bucket<Session> = store.bucket().await.unwrap();
    outage(&server, &store).await;
    let session = Session::new("acme", 1);
    let (put, ()) = tokio::join!(sessions.put(&session).into_future(), reconnected(&server, &store));
    put.unwrap();
}

/// A backend without its own `ping` and `connection` counts as connected.
#[tokio::test]
async fn backend_in_this_process_is_connected() {
    let backend = kvtyped::backend::memory::MemoryBackend::new();
    let state = backend.connection();
    assert!(state.borrow().connected && state.has_changed().is_err(), "the state never changes");
    let capabilities: Capabilities = backend.capabilities(Deadline::after(SECOND)).await.unwrap();
    assert!(capabilities.backend.contains("memory"));
}

#[tokio::test]
async fn account_reports_usage_and_limits() {
    assert_eq!(Store::memory().account().await.unwrap(), []);
    let limits =
        "accounts { A { jetstream { max_file: 1000000, max_streams: 3 }, users: [ { user: a, password: a } ] } }";
    let server = Server::builder().config(limits).auth().start().await;
    let url = format!("nats://a:a@127.0.0.1:{}", server.port());
    let store = Store::connect(&url).await.unwrap();
    store.bucket::<Session>().name("reserved").max_bytes(500_000).await.unwrap();
    let accounts = store.account().await.unwrap();
    assert_eq!(accounts.len(), 1, "{accounts:?}");
    let account = &accounts[0];
    assert_eq!((account.file.used, account.file.limit), (500_000, Some(1_000_000)), "{account:?}");
    assert_eq!((account.streams.used, account.streams.limit), (1, Some(3)), "{account:?}");
    assert_eq!((account.consumers.limit, &account.tier), (None, &None), "{account:?}");
    server.terminate().await;
}
