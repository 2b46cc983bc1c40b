//! Expiry in buckets whose server writes no markers: watches, caches and live values evict expired records.

use async_nats::HeaderMap;
use async_nats::jetstream::{self, kv, stream};
use harness::{Server, wait};
use kvtyped::prelude::*;
use kvtyped::{ErrorKind, Read};

use crate::needs::needs;
use crate::support::{OLD, Observed, SOON, Session, SessionKey, World, on_both_backends, reported, soon, unique};

const SECOND: Duration = Duration::from_secs(1);

/// The tolerance for an eviction on a loaded machine.
const LATE: Duration = Duration::from_secs(5);

fn key(id: u64) -> SessionKey {
    SessionKey::new("acme", id)
}

/// Waits until the cache evicts a record. Asserts that the TTL of the record has passed, and that the bucket then
/// removes it.
async fn is_evicted(cache: &Cache<Session>, sessions: &Bucket<Session>, entry: &Entry<Session>, lives: Duration) {
    let key = entry.key();
    let evicted = async || (!cache.contains(key)).then_some(());
    wait::until("the cache evicts the record", lives + LATE, evicted).await;
    let lived = entry.created().elapsed().expect("the clocks are the same");
    assert!(lived >= lives, "evicted early, after {lived:?}");
    let expires =
        async || sessions.get(key).read(Read::Leader).await.expect("the leader answers").is_none().then_some(());
    wait::until("the bucket removes the record", LATE, expires).await;
}

/// Checks a record in every handle until it expires after about two seconds.
async fn expires_everywhere(sessions: &Bucket<Session>) {
    let mut events = sessions.watch(..).await.unwrap();
    assert_eq!(reported(&mut events).await, Observed::Ready);
    let cache = sessions.cache(..).await.unwrap();
    let live = sessions.live(&key(1)).or_else(|| Session::new("none", 0)).await.unwrap();
    let mut changes = cache.changes();

    let first = sessions.put(&Session::new("acme", 1)).await.unwrap();
    assert_eq!(reported(&mut events).await, Observed::Put("acme.1".into(), first));
    assert!(soon(&mut changes).await.unwrap().new.is_some());
    // A cache that is opened later also knows when the record expires.
    tokio::time::sleep(SECOND).await;
    let later = sessions.cache(..).await.unwrap();
    assert!(later.contains(&key(1)));
    // A second write extends the life of the record.
    let second = sessions.put(&Session::new("acme", 1).visited(1)).await.unwrap();
    assert_eq!(reported(&mut events).await, Observed::Put("acme.1".into(), second));
    assert!(soon(&mut changes).await.unwrap().new.is_some());

    let entry = cache.get(&key(1)).expect("the event of a cached record");
    is_evicted(&cache, sessions, &entry, 2 * SECOND).await;
    is_evicted(&later, sessions, &entry, 2 * SECOND).await;
    assert_eq!(reported(&mut events).await, Observed::Removed("acme.1".into(), second, Removed::Expired));
    let change = soon(&mut changes).await.unwrap();
    assert_eq!((change.old.map(|old| old.revision()), change.new), (Some(second), None));
    wait::until("the default comes back", LATE, async || (live.load().tenant == "none").then_some(())).await;

    // The handles continue, and no event was delivered twice.
    let third = sessions.put(&Session::new("acme", 2)).await.unwrap();
    assert_eq!(reported(&mut events).await, Observed::Put("acme.2".into(), third));
    cache.wait_for_revision(third).await.unwrap();
    assert!(cache.contains(&key(2)) && cache.revision() >= third);
}

on_both_backends! {
    async fn expired_records_under_size_limit_are_evicted(world: World) {
        let sessions: Bucket<Session> = world.fresh().max_bytes(1 << 20).ttl(2 * SECOND).await.unwrap();
        assert!(sessions.config().limit_markers.is_none(), "the server writes no markers there");
        expires_everywhere(&sessions).await;
    }

    async fn expiry_with_marker_is_delivered_once(world: World) {
        needs!(world, LimitMarkers);
        let sessions: Bucket<Session> = world.fresh().ttl(2 * SECOND).await.unwrap();
        assert!(sessions.config().limit_markers.is_some(), "the server writes markers there");
        let mut events = sessions.watch(..).await.unwrap();
        assert_eq!(reported(&mut events).await, Observed::Ready);
        let put = sessions.put(&Session::new("acme", 1)).await.unwrap();
        assert_eq!(reported(&mut events).await, Observed::Put("acme.1".into(), put));
        let Observed::Removed(_, marker, Removed::Expired) = reported(&mut events).await else { panic!("it expires") };
        assert!(marker > put, "the marker is a separate write");
        let next = sessions.put(&Session::new("acme", 2)).await.unwrap();
        assert_eq!(reported(&mut events).await, Observed::Put("acme.2".into(), next));
    }

    /// The record is rewritten repeatedly before it expires, and the reader polls only occasionally.
    async fn slow_reader_receives_no_false_expiry(world: World) {
        let sessions: Bucket<Session> = world.fresh().max_bytes(1 << 20).ttl(2 * SECOND).await.unwrap();
        let mut events = sessions.watch(..).await.unwrap();
        assert_eq!(reported(&mut events).await, Observed::Ready);
        let mut last = sessions.put(&Session::new("acme", 1)).await.unwrap();
        assert_eq!(reported(&mut events).await, Observed::Put("acme.1".into(), last));
        for visits in 1..=6 {
            tokio::time::sleep(SECOND / 2).await;
            last = sessions.put(&Session::new("acme", 1).visited(visits)).await.unwrap();
        }
        let mut seen = Revision::ZERO;
        while seen < last {
            match reported(&mut events).await {
                Observed::Put(_, revision) => seen = revision,
                other => panic!("{other:?} after {seen:?} of {last:?}"),
            }
        }
        assert_eq!(reported(&mut events).await, Observed::Removed("acme.1".into(), last, Removed::Expired));
    }

    async fn waiter_does_not_see_expired_record(world: World) {
        let sessions: Bucket<Session> = world.fresh().max_bytes(1 << 20).ttl(SECOND).await.unwrap();
        sessions.put(&Session::new("acme", 1)).await.unwrap();
        let mut seen = 0;
        let sees = |_: &Entry<Session>| {
            seen += 1;
            false
        };
        let error = sessions.wait_for(&key(1), sees).timeout(2 * SECOND).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Timeout { .. }), "{error}");
        assert_eq!(seen, 1);
    }
}

async fn jetstream(url: &str) -> jetstream::Context {
    jetstream::new(async_nats::connect(url).await.expect("the server is there"))
}

async fn adopted(store: &Store, name: &str) -> Bucket<Session> {
    store.bucket().name(name).must_exist().on_drift(Drift::Adopt).await.expect("the bucket is there")
}

#[tokio::test]
async fn expired_records_of_foreign_bucket_are_evicted() {
    let world = World::nats().await;
    let name = unique("foreign");
    let config = kv::Config { bucket: name.clone(), max_age: 2 * SECOND, history: 1, ..Default::default() };
    jetstream(&harness::shared().await.url()).await.create_key_value(config).await.unwrap();
    expires_everywhere(&adopted(&world.store, &name).await).await;
}

#[tokio::test]
async fn expired_records_on_old_server_are_evicted() {
    let server = Server::builder().version(OLD).start().await;
    let world = World::at(&server.url()).await;
    let sessions: Bucket<Session> = world.fresh().ttl(2 * SECOND).await.unwrap();
    expires_everywhere(&sessions).await;
}

/// A stream that allows the TTL of single messages and has no limit markers.
#[tokio::test]
async fn ttl_of_foreign_record_takes_effect() {
    needs!(RecordTtl);
    let world = World::nats().await;
    let name = unique("foreign");
    let jetstream = jetstream(&harness::shared().await.url()).await;
    let config = stream::Config {
        name: format!("KV_{name}"),
        subjects: vec![format!("$KV.{name}.>")],
        max_age: 4 * SECOND,
        max_messages_per_subject: 1,
        allow_message_ttl: true,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        discard: stream::DiscardPolicy::New,
        ..Default::default()
    };
    jetstream.create_stream(config).await.unwrap();
    let sessions = adopted(&world.store, &name).await;
    let stored = jetstream.get_stream(format!("KV_{name}")).await.unwrap();
    for (id, ttl) in [(1, Some("1s")), (2, Some("never")), (3, None)] {
        let revision = sessions.put(&Session::new("acme", id)).await.unwrap();
        let Some(ttl) = ttl else { continue };
        // The same bytes again, as another client writes them.
        let bytes = stored.get_raw_message(revision.get()).await.unwrap().payload;
        let mut headers = HeaderMap::new();
        headers.insert("Nats-TTL", ttl);
        let subject = format!("$KV.{name}.acme.{id}");
        jetstream.publish_with_headers(subject, headers, bytes).await.unwrap().await.unwrap();
    }
    let cache = sessions.cache(..).await.unwrap();
    let [short, never, bounded] = [1, 2, 3].map(|id| cache.get(&key(id)).expect("it is cached"));
    is_evicted(&cache, &sessions, &short, SECOND).await;
    assert!(cache.contains(bounded.key()), "its bucket lets it live for longer");
    is_evicted(&cache, &sessions, &bounded, 4 * SECOND).await;
    assert!(cache.contains(never.key()), "it never expires");
    let stored = sessions.get(never.key()).read(Read::Leader).await.unwrap();
    assert!(stored.is_some(), "it is still stored");
}

/// The negative control: the plain client receives no event.
#[tokio::test]
async fn naive_watch_receives_no_expiry_without_markers() {
    use futures::StreamExt;
    let jetstream = jetstream(&harness::shared().await.url()).await;
    let config = kv::Config { bucket: unique("naive"), max_age: SECOND, history: 1, ..Default::default() };
    let bucket = jetstream.create_key_value(config).await.unwrap();
    let mut events = bucket.watch(">").await.unwrap();
    bucket.put("a", "x".into()).await.unwrap();
    assert_eq!(events.next().await.unwrap().unwrap().operation, kv::Operation::Put);
    wait::until("the record expires", SOON, async || bucket.get("a").await.unwrap().is_none().then_some(())).await;
    let reported = tokio::time::timeout(SECOND, events.next()).await;
    assert!(reported.is_err(), "{reported:?}");
}
