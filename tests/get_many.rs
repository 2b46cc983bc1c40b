//! Reads of many records at once: `get_many`.

use std::sync::atomic::{AtomicBool, Ordering};

use futures::stream;
use harness::{Mode, Proxy, Server};
use kvtyped::config::Source;
use kvtyped::prelude::*;
use kvtyped::{ErrorKind, Read};

use crate::support::{OLD, RawSession, SOON, Session, SessionKey, World, on_both_backends, seen_as, unique};

const SECOND: Duration = Duration::from_secs(1);

fn key(id: u64) -> SessionKey {
    SessionKey::new("acme", id)
}

/// Writes sessions with these ids concurrently, each with its id as the number of visits.
async fn fill(sessions: &Bucket<Session>, ids: impl IntoIterator<Item = u64>) {
    let put = |id: u64| {
        let session = Session::new("acme", id).visited(u32::try_from(id).expect("small"));
        async move { sessions.put(&session).await.map(drop) }
    };
    stream::iter(ids).map(put).buffer_unordered(64).try_collect::<()>().await.expect("they are written");
}

/// Returns the visits of the entries.
fn visits(many: &[Option<Entry<Session>>]) -> Vec<Option<u32>> {
    many.iter().map(|entry| entry.as_ref().map(|session| session.visits)).collect()
}

on_both_backends! {
    async fn get_many_keeps_request_order(world: World) {
        let sessions: Bucket<Session> = world.bucket().await;
        fill(&sessions, 0..8).await;
        sessions.delete(&key(1)).await.unwrap();
        sessions.purge(&key(2)).await.unwrap();
        let asked = [7, 1, 3, 99, 3, 2, 0, 7].map(key);
        let wanted = [Some(7), None, Some(3), None, Some(3), None, Some(0), Some(7)];
        for read in [Read::Any, Read::Leader, Read::AtLeast(Revision::new(8))] {
            let many = sessions.get_many(&asked).read(read).await.unwrap();
            assert_eq!(visits(&many), wanted, "{read:?}");
            for (entry, key) in many.iter().zip(&asked) {
                assert!(entry.as_ref().is_none_or(|entry| entry.key() == key));
            }
        }
        let as_vec: Vec<_> = asked.to_vec();
        assert_eq!(visits(&sessions.get_many(&as_vec).await.unwrap()), wanted);
        assert_eq!(visits(&sessions.get_many(as_vec).await.unwrap()), wanted);
        assert_eq!(sessions.get_many::<SessionKey>([]).await.unwrap(), []);
        assert_eq!(visits(&sessions.get_many(&asked[..1]).await.unwrap()), [Some(7)]);
    }

    async fn get_many_equals_single_gets(world: World) {
        let sessions: Bucket<Session> = world.bucket().await;
        fill(&sessions, 0..20).await;
        let keys: Vec<_> = (0..20).map(key).collect();
        let many = sessions.get_many(&keys).await.unwrap();
        for (key, entry) in keys.iter().zip(many) {
            assert_eq!(sessions.get(key).await.unwrap(), entry);
        }
        // `update` accepts the revision of the entry.
        let entry = sessions.get_many(&keys).await.unwrap().swap_remove(7).expect("there");
        sessions.update(&entry.value().clone().visited(1), entry.revision()).await.unwrap();
    }

    async fn empty_value_is_not_missing(world: World) {
        let raw: Bucket<RawSession> = world.bucket().await;
        for id in ["a", "b", "c", "d", "e"] {
            raw.put(&RawSession::new("acme", id, b"")).await.unwrap();
        }
        raw.delete(&RawSession::new("acme", "b", b"").key()).await.unwrap();
        let keys: Vec<_> = ["a", "b", "c", "d", "e", "f"].map(|id| RawSession::new("acme", id, b"").key()).into();
        let found = raw.get_many(&keys).await.unwrap();
        let found: Vec<_> = found.into_iter().map(|entry| entry.map(|entry| entry.bytes.len())).collect();
        assert_eq!(found, [Some(0), None, Some(0), Some(0), Some(0), None]);
    }

    async fn undecodable_record_error_names_key(world: World) {
        let sessions: Bucket<Session> = world.bucket().await;
        fill(&sessions, 0..6).await;
        let raw: Bucket<RawSession> = seen_as(&world, sessions.name()).await;
        let revision = raw.put(&RawSession::new("acme", "3", b"not a session")).await.unwrap();
        let keys: Vec<_> = (0..6).map(key).collect();
        let error = sessions.get_many(&keys).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Decode { .. }), "{error}");
        let reported = (error.operation(), error.bucket(), error.key(), error.revision());
        assert_eq!(reported, (Some("get_many"), Some(sessions.name()), Some("acme.3"), Some(revision)));

        let each = sessions.get_many(&keys).results().await.unwrap();
        let each: Vec<_> = each.into_iter().map(|one| one.map(|entry| entry.expect("there").visits)).collect();
        for (id, one) in each.iter().enumerate() {
            match one {
                Ok(visits) => assert!(id != 3 && *visits as usize == id),
                Err(error) => assert_eq!((id, error.key(), error.revision()), (3, Some("acme.3"), Some(revision))),
            }
        }
    }

    async fn get_many_accepts_10_000_keys(world: World) {
        let sessions: Bucket<Session> = world.bucket().await;
        fill(&sessions, (0..5_000).filter(|id| id % 2 == 0)).await;
        let keys: Vec<_> = (0..10_000).map(|n| key(n * 7 % 10_000)).collect();
        let many = sessions.get_many(&keys).await.unwrap();
        for (key, entry) in keys.iter().zip(&many) {
            let wanted = (key.id < 5_000 && key.id % 2 == 0).then_some(key.id);
            assert_eq!(entry.as_ref().map(|session| session.id), wanted);
        }
    }

    async fn closed_handle_rejects_get_many(world: World) {
        let sessions: Bucket<Session> = world.bucket().await;
        sessions.close();
        let error = sessions.get_many([key(1)]).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Closed), "{error}");
    }
}

/// An existing record is always found, no matter how often it is rewritten. With one revision kept, the message that a
/// server starts to look for may be gone when the server reaches it.
async fn assert_finds_rewritten_records(server: &Server) {
    let sessions: Bucket<Session> = World::at(&server.url()).await.bucket().await;
    fill(&sessions, 0..40).await;
    let keys: Vec<_> = (0..40).map(key).collect();
    let stop = AtomicBool::new(false);
    let write = async {
        let mut visits = 100;
        while !stop.load(Ordering::Relaxed) {
            visits += 1;
            let puts = (0..40).map(|id| Session::new("acme", id).visited(visits));
            stream::iter(puts)
                .map(|put| async { sessions.put(&{ put }).await.map(drop) })
                .buffer_unordered(40)
                .try_collect::<()>()
                .await
                .unwrap();
        }
    };
    let read = async {
        for _ in 0..400 {
            let many = sessions.get_many(&keys).await.unwrap();
            let missing: Vec<_> = (0..40).filter(|at| many[*at].is_none()).collect();
            assert_eq!(missing, [0; 0], "they were there all the time");
        }
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(write, read);
}

#[tokio::test]
async fn get_many_finds_rewritten_records() {
    assert_finds_rewritten_records(harness::shared().await).await;
}

#[tokio::test]
async fn get_many_finds_rewritten_records_in_cluster() {
    let cluster = harness::cluster::shared().await;
    assert_finds_rewritten_records(cluster.node(0)).await;
}

/// P29.
#[tokio::test]
async fn get_many_at_least_revision_is_never_stale() {
    const KEYS: u64 = 12;
    let cluster = harness::cluster::shared().await;
    let writer = World::at(&cluster.node(0).url()).await;
    let written: Bucket<Session> = writer.fresh().replicas(3).await.unwrap();
    let keys: Vec<_> = (0..KEYS).map(key).collect();
    let mut readers = Vec::new();
    for node in cluster.nodes() {
        readers.push(seen_as::<Session>(&World::at(&node.url()).await, written.name()).await);
    }
    let (mut stale, mut plain) = (0, 0);
    for round in 0..300 {
        let mut last = Revision::ZERO;
        for id in 0..KEYS {
            last = written.put(&Session::new("acme", id).visited(round)).await.unwrap();
        }
        let reads = readers.iter().flat_map(|sessions| {
            [Read::AtLeast(last), Read::Leader, Read::Any].map(|read| {
                let many = sessions.get_many(&keys).read(read).into_future();
                async move { (read, many.await.unwrap()) }
            })
        });
        for (read, many) in futures::future::join_all(reads).await {
            let old = visits(&many).iter().filter(|visits| **visits != Some(round)).count();
            *(if read == Read::Any { &mut plain } else { &mut stale }) += old;
        }
    }
    println!("{plain} records of plain reads were stale");
    assert_eq!(stale, 0);
}

#[tokio::test]
async fn mirror_does_not_make_get_many_stale() {
    let server = Server::start().await;
    let World { store, .. } = World::at(&server.url()).await;
    let origin: Bucket<Session> = store.bucket().name(unique("origin")).await.unwrap();
    let mirror = store.bucket::<Session>().name(unique("mirror")).mirror(Source::new(origin.name())).await.unwrap();
    let keys: Vec<_> = (0..8).map(key).collect();
    for round in 0..200 {
        let mut last = Revision::ZERO;
        for id in 0..8 {
            last = origin.put(&Session::new("acme", id).visited(round)).await.unwrap();
        }
        for sessions in [&origin, &mirror] {
            for read in [Read::Leader, Read::AtLeast(last)] {
                let many = sessions.get_many(&keys).read(read).await.unwrap();
                assert_eq!(visits(&many), [Some(round); 8], "{read:?} of {}", sessions.name());
            }
        }
    }
}

async fn finds_everything(sessions: &ReadBucket<Session>) {
    let keys: Vec<_> = (0..200).map(key).collect();
    for read in [Read::Any, Read::Leader] {
        let many = sessions.get_many(&keys).read(read).await.unwrap();
        let wanted: Vec<_> = (0..200).map(|id| (id < 100).then_some(id)).collect();
        assert_eq!(visits(&many), wanted, "{read:?}");
    }
}

#[tokio::test]
async fn get_many_works_on_old_server() {
    let server = Server::builder().version(OLD).start().await;
    let sessions: Bucket<Session> = World::at(&server.url()).await.bucket().await;
    fill(&sessions, 0..100).await;
    finds_everything(&sessions).await;
}

/// The guest may read single records of one bucket, with per-key permissions, and nothing else.
#[tokio::test]
async fn get_many_works_with_single_get_permission() {
    let config = r#"
        authorization { users: [
            { user: admin, password: admin }
            { user: guest, password: guest, permissions: {
                publish: { allow: ["$JS.API.INFO", "$JS.API.STREAM.INFO.KV_records",
                    "$JS.API.DIRECT.GET.KV_records.$KV.records.acme.*", "$JS.API.STREAM.MSG.GET.KV_records"] }
                subscribe: { allow: ["_INBOX.>"] }
            } }
        ] }
    "#;
    let server = Server::builder().config(config).auth().start().await;
    let url = |user: &str| format!("nats://{user}:{user}@{}", server.addr());
    let admin = Store::connect(url("admin")).timeout(SOON).await.unwrap();
    let made: Bucket<Session> = admin.bucket().name("records").await.unwrap();
    fill(&made, 0..100).await;
    let open = |store: Store| async move {
        store.bucket::<Session>().name("records").on_drift(Drift::Adopt).read_only().await.unwrap()
    };

    let sessions = open(Store::connect(url("guest")).await.unwrap()).await;
    let start = tokio::time::Instant::now();
    finds_everything(&sessions).await;
    assert!(start.elapsed() < SECOND, "the denial is not waited for: {:?}", start.elapsed());
    finds_everything(&sessions).await;

    // On an application's connection, a denial is not reported: the first request times out. The client then remembers
    // the denial.
    let client = async_nats::ConnectOptions::with_user_and_password("guest".into(), "guest".into());
    let sessions = open(Store::from_client(client.connect(server.url()).await.unwrap())).await;
    finds_everything(&sessions).await;
    let start = tokio::time::Instant::now();
    finds_everything(&sessions).await;
    assert!(start.elapsed() < SECOND, "it is remembered: {:?}", start.elapsed());

    let denied = sessions.get_many([SessionKey::new("beta", 1)]).timeout(SECOND).await.unwrap_err();
    assert!(matches!(denied.kind(), ErrorKind::Timeout { .. }), "{denied}");
}

#[tokio::test]
async fn get_many_retries_lost_replies() {
    let server = harness::shared().await;
    let direct: Bucket<Session> = World::at(&server.url()).await.bucket().await;
    fill(&direct, 0..100).await;
    let proxy = Proxy::start(server.addr()).await;
    let through: Bucket<Session> = seen_as(&World::at(&proxy.url()).await, direct.name()).await;
    let dropped = proxy.dropped_replies();
    proxy.set(Mode::DropReplies);
    let keys: Vec<_> = (0..100).map(key).collect();
    let (many, ()) = tokio::join!(through.get_many(&keys).timeout(SOON).into_future(), async {
        proxy.await_dropped(dropped + 101).await;
        proxy.set(Mode::Pass);
    });
    assert_eq!(visits(&many.unwrap()), (0..100).map(Some).collect::<Vec<_>>());

    // The connection is cut during the reads.
    let reads = futures::future::join_all((0..20).map(|_| through.get_many(&keys).timeout(SOON).into_future()));
    let (reads, ()) = tokio::join!(reads, async { proxy.cut() });
    for many in reads {
        assert_eq!(visits(&many.unwrap()), (0..100).map(Some).collect::<Vec<_>>());
    }

    // The call ends in time if no reply arrives.
    proxy.set(Mode::DropReplies);
    let start = tokio::time::Instant::now();
    let error = through.get_many(&keys).timeout(2 * SECOND).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Timeout { .. }), "{error}");
    assert!(start.elapsed() < 4 * SECOND, "{:?}", start.elapsed());
}

#[tokio::test]
async fn get_many_reports_deleted_bucket() {
    let world = World::nats().await;
    let sessions: Bucket<Session> = world.bucket().await;
    fill(&sessions, 0..10).await;
    let other: Bucket<Session> = seen_as(&world, sessions.name()).await;
    sessions.destroy().await.unwrap();
    let keys: Vec<_> = (0..10).map(key).collect();
    for read in [Read::Any, Read::Leader] {
        let error = other.get_many(&keys).read(read).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::BucketNotFound), "{error}");
    }
}
