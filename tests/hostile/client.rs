//! The task of the NATS client ends while a store uses the client: async-nats 0.51 panics on a bare carriage return in
//! a header, and its task ends with its runtime. A store replaces a client that it created. Over an application's
//! client, every call fails with `Closed`. No call waits forever.

use std::future::IntoFuture;

use kvtyped::prelude::*;
use kvtyped::watch::Events;
use kvtyped::{Error, ErrorKind, Read};

use crate::foreign::{Stranger, hundred};
use crate::support::{Observed, SOON, Session, SessionKey, World, listing, reported, seen_as, soon, unique};

/// A header block that makes async-nats 0.51 panic. If a newer client parses it, these tests fail at the first read of
/// the record.
const DEADLY: &str = "NATS/1.0\r\nX: a\rb\r\n\r\n";

/// Longer than [`SOON`]: an operation that waits for its timeout fails the test.
const LONG: Duration = Duration::from_secs(120);

async fn ready(sessions: &Bucket<Session>) -> Events<Session> {
    let mut events = sessions.watch(..).await.expect("the watch begins");
    tokio::time::timeout(SOON, listing(&mut events)).await.expect("the listing ends");
    events
}

async fn in_time<T>(what: &str, future: impl IntoFuture<Output = T>) -> T {
    tokio::time::timeout(SOON, future.into_future()).await.unwrap_or_else(|_| panic!("{what} waits"))
}

#[tokio::test]
async fn store_replaces_ended_client() {
    let world = World::nats().await;
    let sessions: Bucket<Session> = world.fresh().await.unwrap();
    let mut stranger = Stranger::at(&sessions).await;
    let key = SessionKey::new("acme", 50);
    sessions.put(&Session::new("acme", 50)).await.unwrap();
    let mut events = ready(&sessions).await;
    let cache: Cache<Session> = sessions.cache(..).await.unwrap();
    let guard = world.store.locks(unique("ended")).await.unwrap().lock("job").await.unwrap();

    let planted = stranger.plant("acme.50", DEADLY, b"x").await;
    let error = sessions.get(&key).timeout(Duration::from_secs(1)).await.expect_err("no client can read it");
    assert!(matches!(error.kind(), ErrorKind::Timeout { .. } | ErrorKind::Unavailable { .. }), "{error}");

    // Other records are read and written, although the watch receives the record after each reconnect.
    let written = sessions.put(&Session::new("acme", 7)).timeout(SOON).await.expect("another record is written");
    assert!(written > planted);
    let read = sessions.get(&SessionKey::new("acme", 7)).timeout(SOON).await.expect("another record is read");
    assert_eq!(read.expect("it is there").revision(), written);

    let mended = sessions.put(&Session::new("acme", 50)).timeout(SOON).await.expect("it is written over");
    while reported(&mut events).await != Observed::Put("acme.50".into(), mended) {}
    let seen = tokio::time::timeout(SOON, async {
        while cache.get(&key).is_none_or(|entry| entry.revision() != mended) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    seen.await.expect("the cache continues");
    assert!(guard.is_held(), "the lease was renewed, or had time left");
    guard.release().await.expect("the lock is released");
}

#[tokio::test]
async fn ended_application_client_fails_with_closed() {
    let client = kvtyped::async_nats::connect(harness::shared().await.url()).await.unwrap();
    let store = Store::from_client(client).with_timeout(LONG);
    let sessions: Bucket<Session> = store.bucket().name(unique("sessions")).await.unwrap();
    let mut stranger = Stranger::at(&sessions).await;
    let session = Session::new("acme", 50);
    sessions.put(&session).await.unwrap();
    let mut events = ready(&sessions).await;
    let counters = store.counters(unique("counters")).await.unwrap();
    let locks = store.locks(unique("ended")).await.unwrap();
    let guard = locks.lock("job").await.unwrap();

    stranger.plant("acme.50", DEADLY, b"x").await;
    let watch = async {
        loop {
            if let Err(error) = soon(&mut events).await {
                return error;
            }
        }
    };
    assert!(matches!(in_time("the watch", watch).await.kind(), ErrorKind::Closed));
    let (key, filter) = (SessionKey::new("acme", 50), SessionKey::filter());
    let closed = |what: &str, error: Option<Error>| {
        let error = error.unwrap_or_else(|| panic!("{what} succeeds"));
        assert!(matches!(error.kind(), ErrorKind::Closed), "{what}: {error}");
    };
    closed("get", in_time("get", sessions.get(&key)).await.err());
    closed("get of the leader", in_time("get", sessions.get(&key).read(Read::Leader)).await.err());
    closed("get_many", in_time("get_many", sessions.get_many(&[key.clone(), SessionKey::new("b", 1)])).await.err());
    closed("put", in_time("put", sessions.put(&session)).await.err());
    closed("create", in_time("create", sessions.create(&session)).await.err());
    closed("delete", in_time("delete", sessions.delete(&key)).await.err());
    closed("modify", in_time("modify", sessions.modify(&key, |s| s.visits += 1)).await.err());
    closed("list", in_time("list", first_error(sessions.list(filter).await)).await);
    closed("watch", in_time("watch", sessions.watch(..)).await.err());
    closed("add", in_time("add", counters.add("a", 1)).await.err());
    closed("try_lock", in_time("try_lock", locks.try_lock("other")).await.err());
    closed("open", in_time("open", store.bucket::<Session>().name(unique("new"))).await.err());
    in_time("the loss of the lock", guard.lost()).await;

    // Another connection repairs the bucket without parsing the headers: the leader's reply is JSON.
    let again = seen_as::<Session>(&World::nats().await, sessions.name()).await;
    let error = again.get(&key).read(Read::Leader).await.expect_err("no client can read it");
    assert!(matches!(error.kind(), ErrorKind::Backend { .. } | ErrorKind::Decode { .. }), "{error}");
    again.put(&session).await.expect("it is written over");
    assert_eq!(again.list(..).await.unwrap().try_collect::<Vec<_>>().await.unwrap().len(), 1);
}

async fn first_error<T>(listed: Result<impl futures::Stream<Item = Result<T, Error>> + Unpin, Error>) -> Option<Error> {
    match listed {
        Ok(mut stream) => stream.next().await.and_then(Result::err),
        Err(error) => Some(error),
    }
}

/// A read that was in progress when the task ended also fails. No request stays without a result.
#[tokio::test]
async fn in_flight_reads_fail_with_closed() {
    let (sessions, mut stranger) = hundred().await;
    let client = kvtyped::async_nats::connect(harness::shared().await.url()).await.unwrap();
    let store = Store::from_client(client).with_timeout(LONG);
    let sessions: Bucket<Session> = store.bucket().name(sessions.name()).await.unwrap();
    stranger.plant("acme.50", DEADLY, b"x").await;
    let keys: Vec<_> = (0..100_u64).map(|id| SessionKey::new("acme", id)).collect();
    let reads = futures::future::join_all(keys.iter().map(|key| sessions.get(key).into_future()));
    let reads = in_time("the reads", reads).await;
    assert!(reads[50].is_err());
    for error in reads.into_iter().filter_map(Result::err) {
        assert!(matches!(error.kind(), ErrorKind::Closed), "{error}");
    }
}

#[test]
fn store_outlives_connecting_runtime() {
    let [servers, first, second] = [(); 3].map(|()| tokio::runtime::Runtime::new().unwrap());
    let server = servers.block_on(harness::Server::start());
    let url = server.url();
    let (store, sessions) = first.block_on(async {
        let store = Store::connect(url).await.unwrap();
        let sessions: Bucket<Session> = store.bucket().name(unique("sessions")).await.unwrap();
        (store, sessions)
    });
    drop(first);
    second.block_on(async {
        let revision = sessions.put(&Session::new("acme", 1)).timeout(SOON).await.expect("another client connects");
        let read = sessions.get(&SessionKey::new("acme", 1)).await.unwrap().expect("it is there");
        assert_eq!(read.revision(), revision);
        store.close().await.expect("the store closes");
        let error = sessions.get(&SessionKey::new("acme", 1)).await.expect_err("it is closed");
        assert!(matches!(error.kind(), ErrorKind::Closed), "{error}");
    });
}
