//! Lists of any length: pages, cursors, progress, counts, their cost, and the removal of their consumers.

use kvtyped::Filter;
use std::collections::BTreeSet;

use futures::{FutureExt, stream};
use harness::{Server, wait};
use kvtyped::ErrorKind;
use kvtyped::bucket::Cursor;
use kvtyped::prelude::*;
use serde_json::{Value, json};

use crate::support::{Document, OLD, RawSession, SOON, Session, SessionKey, World, on_both_backends, seen_as, unique};

const SECOND: Duration = Duration::from_secs(1);

/// Writes sessions with these ids in order, so that their revisions have the same order.
async fn fill(sessions: &Bucket<Session>, tenant: &str, ids: impl IntoIterator<Item = u64>) {
    for id in ids {
        sessions.put(&Session::new(tenant, id)).await.expect("it is written");
    }
}

/// Writes many sessions concurrently, in any order.
async fn fill_much(sessions: &Bucket<Session>, ids: impl IntoIterator<Item = u64>) {
    let put = |id: u64| {
        let session = Session::new("acme", id);
        async move { sessions.put(&session).await.map(drop) }
    };
    stream::iter(ids).map(put).buffer_unordered(256).try_collect::<()>().await.expect("they are written");
}

/// Asserts that `ids` contains each number below `end` exactly once.
fn assert_all(mut ids: Vec<u64>, end: u64) {
    ids.sort_unstable();
    assert!(ids.iter().copied().eq(0..end), "{} are found of {end}", ids.len());
}

async fn ids(mut list: kvtyped::bucket::Entries<Session>) -> (Vec<u64>, Cursor) {
    let mut ids = Vec::new();
    while let Some(session) = list.try_next().await.expect("it is read") {
        ids.push(session.id);
    }
    (ids, list.cursor())
}

on_both_backends! {
    async fn list_pages_resume_from_cursor(world: World) {
        let sessions: Bucket<Session> = world.bucket().await;
        fill(&sessions, "acme", 0..25).await;
        fill(&sessions, "beta", 100..110).await;
        let filter = SessionKey::filter().tenant("acme");
        let mut pages = Vec::new();
        let mut list = sessions.list(filter.clone()).limit(10).await.unwrap();
        loop {
            let (page, cursor) = ids(list).await;
            if page.is_empty() {
                break;
            }
            pages.push(page);
            // The cursor passes through text, as in a web API.
            let cursor: Cursor = cursor.to_string().parse().unwrap();
            list = sessions.list(filter.clone()).after(cursor).limit(10).await.unwrap();
        }
        assert_eq!(pages, [(0..10).collect::<Vec<_>>(), (10..20).collect(), (20..25).collect()]);

        assert_eq!(ids(sessions.list(..).limit(0).await.unwrap()).await.0, [0; 0]);
        assert_eq!(ids(sessions.list(..).limit(1_000).await.unwrap()).await.0.len(), 35);
        let keys: Vec<_> = sessions.keys(..).limit(3).await.unwrap().try_collect().await.unwrap();
        assert_eq!(keys, [0, 1, 2].map(|id| SessionKey::new("acme", id)));
    }

    async fn keys_are_unique_but_list_may_repeat(world: World) {
        // More keys than a server sends ahead of the reader.
        const COUNT: u64 = 6_000;
        let sessions: Bucket<Session> = world.bucket().await;
        fill_much(&sessions, 0..COUNT).await;
        // Some delivered keys and one pending key are written again, or removed and created.
        let rewrite = async |found: &[u64]| {
            let to_come = (0..COUNT).find(|id| !found.contains(id)).expect("not all came");
            for id in [found[0], found[1], to_come] {
                sessions.put(&Session::new("acme", id)).await.unwrap();
            }
            sessions.delete(&SessionKey::new("acme", found[2])).await.unwrap();
            sessions.create(&Session::new("acme", found[2])).await.unwrap();
        };
        let mut keys = sessions.keys(..).await.unwrap();
        let mut found: Vec<_> = keys.by_ref().take(100).map_ok(|key| key.id).try_collect().await.unwrap();
        rewrite(&found).await;
        found.extend(keys.map_ok(|key| key.id).try_collect::<Vec<_>>().await.unwrap());
        assert_all(found, COUNT);

        let mut list = sessions.list(..).await.unwrap();
        let mut found: Vec<_> = list.by_ref().take(100).map_ok(|entry| entry.id).try_collect().await.unwrap();
        rewrite(&found).await;
        found.extend(list.map_ok(|entry| entry.id).try_collect::<Vec<_>>().await.unwrap());
        assert_eq!(found.len() as u64, COUNT + 3, "three records that came were rewritten");
    }

    async fn limit_does_not_count_delete_markers(world: World) {
        let documents: Bucket<Document> = world.bucket().await;
        for number in 0..20 {
            documents.put(&Document::new(&number.to_string(), "text")).await.unwrap();
        }
        for number in (0..20).filter(|number| number % 2 == 0) {
            documents.delete(&Document::new(&number.to_string(), "").key()).await.unwrap();
        }
        let mut list = documents.list(..).limit(7).await.unwrap();
        let names: Vec<_> = list.by_ref().map_ok(|document| document.into_value().name).try_collect().await.unwrap();
        assert_eq!(names, ["1", "3", "5", "7", "9", "11", "13"]);
        let rest: Vec<_> = documents.list(..).after(list.cursor()).await.unwrap().try_collect().await.unwrap();
        assert_eq!(rest.len(), 3, "the markers behind them are passed over");
        assert_eq!(documents.count(..).await.unwrap(), 10);
    }

    async fn rewritten_record_appears_after_cursor(world: World) {
        for history in [1, 5] {
            let documents: Bucket<Document> = world.fresh().history(history).await.unwrap();
            let document = |number: u32, text: &str| Document::new(&number.to_string(), text);
            for number in 0..20 {
                documents.put(&document(number, "old")).await.unwrap();
            }
            let mut seen = Vec::new();
            let mut page = documents.list(..).limit(10).await.unwrap();
            while let Some(entry) = page.try_next().await.unwrap() {
                seen.push((entry.name.clone(), entry.text.clone()));
            }
            // Changes a listed record and a pending record, removes a pending record, and creates one.
            documents.put(&document(3, "new")).await.unwrap();
            documents.put(&document(15, "new")).await.unwrap();
            documents.delete(&document(17, "").key()).await.unwrap();
            documents.put(&document(20, "new")).await.unwrap();
            let mut rest = documents.list(..).after(page.cursor()).await.unwrap();
            while let Some(entry) = rest.try_next().await.unwrap() {
                seen.push((entry.name.clone(), entry.text.clone()));
            }
            let row = |number: u32, text: &str| (number.to_string(), text.to_owned());
            let mut wanted: Vec<_> = (0..20).filter(|n| *n != 15 && *n != 17).map(|n| row(n, "old")).collect();
            wanted.extend([row(3, "new"), row(15, "new"), row(20, "new")]);
            assert_eq!(seen, wanted, "with a history of {history}");

            // A later record appears after the end cursor.
            documents.put(&document(4, "newest")).await.unwrap();
            let later: Vec<_> = documents.list(..).after(rest.cursor()).await.unwrap().try_collect().await.unwrap();
            assert_eq!(later.len(), 1);
            assert_eq!(later[0].text, "newest");
        }
    }

    async fn undecodable_record_counts_toward_page(world: World) {
        let sessions: Bucket<Session> = world.bucket().await;
        let raw: Bucket<RawSession> = seen_as(&world, sessions.name()).await;
        fill(&sessions, "acme", 0..3).await;
        let revision = raw.put(&RawSession::new("acme", "x", b"no session")).await.unwrap();
        fill(&sessions, "acme", 4..6).await;
        let mut page = sessions.list(..).limit(4).await.unwrap();
        let found: Vec<_> = page.by_ref().collect().await;
        assert_eq!(found.len(), 4);
        assert_eq!(found[3].as_ref().unwrap_err().revision(), Some(revision));
        let (rest, _) = ids(sessions.list(..).after(page.cursor()).await.unwrap()).await;
        assert_eq!(rest, [4, 5]);
        assert_eq!(sessions.count(..).await.unwrap(), 5, "`x` is no id of a session");
        assert_eq!(raw.count(..).await.unwrap(), 6);
    }

    async fn list_reports_progress(world: World) {
        let sessions: Bucket<Session> = world.bucket().await;
        fill(&sessions, "acme", 0..300).await;
        let mut list = sessions.list(..).await.unwrap();
        assert_eq!((list.progress().seen, list.progress().remaining), (0, None));
        let mut expected = 0;
        while list.try_next().await.unwrap().is_some() {
            expected += 1;
            let progress = list.progress();
            assert_eq!((progress.seen, progress.remaining), (expected, Some(300 - expected)));
        }
        assert_eq!((list.progress().seen, list.progress().remaining), (300, Some(0)));
        let mut keys = sessions.keys(..).limit(10).await.unwrap();
        while keys.try_next().await.unwrap().is_some() {}
        assert_eq!((keys.progress().seen, keys.progress().remaining), (10, Some(290)));
    }

    async fn count_ignores_delete_markers(world: World) {
        let sessions: Bucket<Session> = world.bucket().await;
        assert_eq!(sessions.count(..).await.unwrap(), 0);
        fill(&sessions, "acme", 0..40).await;
        fill(&sessions, "beta", 0..10).await;
        for id in 0..5 {
            sessions.delete(&SessionKey::new("acme", id)).await.unwrap();
        }
        sessions.purge(&SessionKey::new("beta", 1)).await.unwrap();
        assert_eq!(sessions.count(..).await.unwrap(), 44);
        assert_eq!(sessions.count(SessionKey::filter().tenant("acme")).await.unwrap(), 35);
        assert_eq!(sessions.count(SessionKey::new("beta", 1)).await.unwrap(), 0);
        assert_eq!(sessions.count(vec![SessionKey::new("beta", 2), SessionKey::new("acme", 7)]).await.unwrap(), 2);
        assert_eq!(sessions.count(SessionKey::filter().tenant("none")).await.unwrap(), 0);
        let empty: Vec<SessionKey> = Vec::new();
        assert_eq!(sessions.count(empty).await.unwrap(), 0);
    }

    async fn cursor_of_deleted_bucket_is_rejected(world: World) {
        let name = unique("again");
        let open = || world.store.bucket::<Session>().name(&name);
        let sessions = open().await.unwrap();
        fill(&sessions, "acme", 0..10).await;
        let (_, cursor) = ids(sessions.list(..).await.unwrap()).await;
        sessions.destroy().await.unwrap();
        let sessions = open().await.unwrap();
        for count in [0, 20] {
            fill(&sessions, "acme", 0..count).await;
            let error = sessions.list(..).after(cursor).await.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::BucketReplaced), "{error}");
            assert_eq!((error.operation(), error.bucket()), (Some("list"), Some(&*name)));
        }
    }

    async fn count_is_exact_during_rewrites(world: World) {
        let sessions: Bucket<Session> = world.bucket().await;
        fill(&sessions, "acme", 0..500).await;
        let counting = async {
            for _ in 0..10 {
                assert_eq!(sessions.count(..).await.unwrap(), 500);
            }
        };
        let writing = async {
            for round in 0.. {
                sessions.put(&Session::new("acme", round * 7 % 500)).await.unwrap();
            }
        };
        tokio::select! {
            () = counting => {}
            () = writing => {}
        }
    }
}

#[test]
fn invalid_cursor_text_is_rejected() {
    for text in
        ["", "-", "1", "1-", "-1", "x-1", "1-x", "1-1-1", "+1-1", "1-+1", "01-1", "1-99999999999999999999", "1- 1"]
    {
        let error = text.parse::<Cursor>().unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{text}: {error}");
    }
    assert_eq!("18b2f-7".parse::<Cursor>().unwrap().to_string(), "18b2f-7");
}

/// Returns the consumers of a bucket: their names, and the number of messages delivered to each.
async fn consumers(server: &Server, bucket: &str) -> Vec<(String, u64)> {
    let asked = format!("$JS.API.CONSUMER.LIST.KV_{bucket}");
    let answer = server.api(&asked, &json!({})).await.expect("the server answers");
    let consumers = answer["consumers"].as_array().into_iter().flatten();
    let stream_state = |info: &Value| {
        (
            info["name"].as_str().expect("a name").to_owned(),
            info["delivered"]["consumer_seq"].as_u64().expect("a count"),
        )
    };
    consumers.map(stream_state).collect()
}

async fn no_consumers(server: &Server, bucket: &str) {
    wait::until("no consumer is left", SOON, async || consumers(server, bucket).await.is_empty().then_some(())).await;
}

#[tokio::test]
async fn list_leaves_no_consumer() {
    let server = harness::shared().await;
    let sessions: Bucket<Session> = World::nats().await.bucket().await;
    fill(&sessions, "acme", 0..500).await;

    // A list at its limit has no consumer, even if its stream is still held.
    let mut limited = sessions.list(..).limit(3).await.unwrap();
    while limited.try_next().await.unwrap().is_some() {}
    no_consumers(server, sessions.name()).await;
    assert_eq!(limited.progress().seen, 3);

    // Dropped in the middle, dropped unread, and dropped during the start.
    let mut dropped = sessions.keys(..).after(limited.cursor()).await.unwrap();
    assert!(dropped.try_next().await.unwrap().is_some());
    assert_eq!(consumers(server, sessions.name()).await.len(), 1);
    drop(dropped);
    drop(sessions.list(..).await.unwrap());
    for _ in 0..50 {
        let mut list = sessions.list(..).await.unwrap();
        let _ = tokio::time::timeout(Duration::from_micros(500), list.try_next()).await;
    }
    let _ = tokio::time::timeout(Duration::from_millis(1), sessions.count(..).into_future()).await;
    no_consumers(server, sessions.name()).await;
}

/// A limited list requests and receives only a few messages.
#[tokio::test]
async fn limited_list_receives_few_messages() {
    let server = harness::shared().await;
    let sessions: Bucket<Session> = World::nats().await.bucket().await;
    fill_much(&sessions, 0..2_000).await;
    let mut list = sessions.list(..).limit(50).await.unwrap();
    for _ in 0..49 {
        assert!(list.try_next().await.unwrap().is_some());
    }
    let sent: Vec<_> = consumers(server, sessions.name()).await.into_iter().map(|(_, sent)| sent).collect();
    assert!(sent.len() == 1 && sent[0] < 200, "{sent:?}");
}

/// A slow reader receives at most one window in advance, and all records in the end.
#[tokio::test]
async fn idle_list_reader_stops_delivery() {
    const RECORDS: u64 = 20_000;
    let server = harness::shared().await;
    for world in [World::nats().await, world_over_application_client().await] {
        let sessions: Bucket<Session> = world.bucket().await;
        fill_much(&sessions, 0..RECORDS).await;
        let mut keys = sessions.keys(..).await.unwrap();
        let mut seen = BTreeSet::new();
        for stop in [1, 10, 3_000, 9_000] {
            while seen.len() < stop {
                seen.insert(keys.try_next().await.unwrap().expect("there are more").id);
            }
            // The reader is idle, so the server must stop.
            let mut before = 0;
            let sent = wait::until("nothing more is sent", SOON, async || {
                tokio::time::sleep(Duration::from_millis(50)).await;
                let sent = consumers(server, sessions.name()).await[0].1;
                (std::mem::replace(&mut before, sent) == sent).then_some(sent)
            })
            .await;
            let ahead = sent.saturating_sub(seen.len() as u64);
            assert!(ahead <= 4_096, "{ahead} were sent to a reader that took {}", seen.len());
        }
        let rest: Vec<_> = keys.try_collect().await.unwrap();
        seen.extend(rest.iter().map(|key| key.id));
        assert_eq!(seen.len() as u64, RECORDS, "none is missed");
    }
}

async fn world_over_application_client() -> World {
    let url = harness::shared().await.url();
    World::of(Store::from_client(async_nats::connect(&url).await.unwrap()), &url)
}

/// A server that has sent everything continues to send heartbeats, which mix with the buffered messages.
#[tokio::test]
async fn paused_list_reader_misses_no_record() {
    let sessions: Bucket<Session> = World::nats().await.bucket().await;
    fill_much(&sessions, 0..7_000).await;
    let mut list = sessions.list(..).timeout(SECOND).await.unwrap();
    let mut read = 0;
    while list.try_next().await.unwrap().is_some() {
        read += 1;
        if read % 1_500 == 0 {
            // A pause of several heartbeat intervals.
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
    }
    assert_eq!(read, 7_000);
}

/// The guest has the permissions that other clients need for a list, but may not acknowledge.
#[tokio::test]
async fn list_works_without_ack_permission() {
    let config = r#"
        authorization { users: [
            { user: admin, password: admin }
            { user: guest, password: guest, permissions: { publish: { deny: ["$JS.ACK.>"] } } }
            { user: blind, password: blind, permissions: { publish: { deny: ["$JS.ACK.>", "$JS.API.CONSUMER.INFO.>"] } } }
        ] }
    "#;
    let server = Server::builder().config(config).auth().start().await;
    let url = |user: &str| format!("nats://{user}:{user}@{}", server.addr());
    let admin = Store::connect(url("admin")).timeout(SOON).await.unwrap();
    let made: Bucket<Session> = admin.bucket().name("records").await.unwrap();
    fill_much(&made, 0..10_000).await;
    let mut stores = Vec::new();
    for user in ["guest", "blind"] {
        stores.push(Store::connect(url(user)).await.unwrap());
        let client = async_nats::ConnectOptions::with_user_and_password(user.into(), user.into());
        stores.push(Store::from_client(client.connect(server.url()).await.unwrap()));
    }
    for (at, store) in stores.into_iter().enumerate() {
        let sessions: Bucket<Session> = store.bucket().name("records").on_drift(Drift::Adopt).await.unwrap();
        for _ in 0..2 {
            let keys: Vec<_> = sessions.keys(..).timeout(3 * SECOND).await.unwrap().try_collect().await.unwrap();
            println!("store {at}");
            assert_all(keys.iter().map(|key| key.id).collect(), 10_000);
        }
    }
}

#[tokio::test]
async fn list_works_with_consumer_limits() {
    let server = harness::shared().await;
    let World { store, .. } = World::nats().await;
    let name = unique("limited");
    let config = json!({
        "name": format!("KV_{name}"), "subjects": [format!("$KV.{name}.>")], "max_msgs_per_subject": 1,
        "discard": "new", "allow_rollup_hdrs": true, "deny_delete": true, "allow_direct": true, "storage": "memory",
        "num_replicas": 1, "consumer_limits": { "inactive_threshold": 600_000_000_000_u64, "max_ack_pending": 77 },
    });
    let made = server.api(&format!("$JS.API.STREAM.CREATE.KV_{name}"), &config).await.unwrap();
    assert!(made["error"].is_null(), "{made}");
    let sessions: Bucket<Session> = store.bucket().name(&name).await.unwrap();
    fill_much(&sessions, 0..1_000).await;
    assert_all(ids(sessions.list(..).await.unwrap()).await.0, 1_000);
    assert_eq!(sessions.count(..).await.unwrap(), 1_000);
}

#[tokio::test]
async fn old_server_lists_in_pages() {
    let server = Server::builder().version(OLD).start().await;
    let sessions: Bucket<Session> = World::at(&server.url()).await.bucket().await;
    fill_much(&sessions, 0..10_000).await;
    let mut found = Vec::new();
    let mut list = sessions.list(..).limit(3_000).await.unwrap();
    loop {
        let (page, cursor) = ids(list).await;
        if page.is_empty() {
            break;
        }
        found.extend(page);
        list = sessions.list(..).after(cursor).limit(3_000).await.unwrap();
    }
    assert_all(found, 10_000);
    assert_eq!(sessions.count(..).await.unwrap(), 10_000);
}

/// A list of few keys makes no consumer. One of more than 1,024 keys does, and so does a list from a cursor.
#[tokio::test]
async fn short_list_creates_no_consumer() {
    // Older servers count what is behind a message in another way.
    crate::needs::needs!(Transactions);
    let server = Server::start().await;
    let world = World::at(&server.url()).await;
    let sessions: Bucket<Session> = world.bucket().await;
    fill_much(&sessions, 0..1_024).await;
    fill(&sessions, "beta", 0..4).await;
    sessions.delete(&SessionKey::new("beta", 1)).await.unwrap();
    let raw = async_nats::connect(server.url()).await.unwrap();
    let made = format!("$JS.EVENT.ADVISORY.CONSUMER.CREATED.KV_{}.>", sessions.name());
    let mut consumers = raw.subscribe(made).await.unwrap();
    raw.flush().await.unwrap();
    let list = async |filter: Filter<Session>| ids(sessions.list(filter).await.unwrap()).await;
    let acme = || SessionKey::filter().tenant("acme").into();

    let (found, cursor) = list(acme()).await;
    assert_all(found, 1_024);
    assert_eq!(list(SessionKey::filter().tenant("beta").into()).await.0, [0, 2, 3]);
    assert!(list(SessionKey::filter().tenant("gamma").into()).await.0.is_empty());
    // The marker counts as well.
    fill(&sessions, "acme", [1_024]).await;
    let (found, _) = list(acme()).await;
    assert_all(found, 1_025);
    consumers.next().await.expect("this list made a consumer");
    assert!(consumers.next().now_or_never().is_none(), "the first ones made none");
    let later = sessions.list(acme()).after(cursor).await.unwrap();
    assert_eq!(ids(later).await.0, [1_024]);
    consumers.next().await.expect("a list from a cursor made a consumer");
}

/// A key that is written while a list of few keys is read moves to its end, as in a longer list.
#[tokio::test]
async fn short_list_misses_no_rewritten_record() {
    let world = World::nats().await;
    let sessions: Bucket<Session> = world.bucket().await;
    fill_much(&sessions, 0..500).await;
    let writes = async {
        for round in 1..=20 {
            for id in [0, 1, 250, 499] {
                sessions.put(&Session::new("acme", id).visited(round)).await.unwrap();
            }
        }
    };
    let lists = async {
        for _ in 0..40 {
            let (mut found, _) = ids(sessions.list(..).await.unwrap()).await;
            found.sort_unstable();
            found.dedup();
            assert_all(found, 500);
        }
    };
    futures::join!(writes, lists);
}
