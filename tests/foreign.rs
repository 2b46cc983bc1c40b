//! Foreign records under the keys of recipes: garbage, tickets that never expire, newer formats, unknown fields.

use kvtyped::prelude::*;
use kvtyped::recipes::{Locks, OnceError, Quota};
use kvtyped::{Error, ErrorKind};
use serde_json::{Value, json};

use crate::support::{ForeignRecord, ForeignRecordKey, SOON, Session, World, on_both_backends, seen_as, unique};

const SECOND: Duration = Duration::from_secs(1);
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// A record of format 2 with any content.
const NEWER: &str = r#"{"v":2,"holder":["somebody"]}"#;

/// Awaits a future that must not hang.
async fn soon<F: IntoFuture>(future: F) -> F::Output {
    tokio::time::timeout(SOON, future.into_future()).await.expect("it does not hang")
}

/// Asserts that the error has the name that the user gave, and that its remedy names the key of the record.
fn assert_names_the_remedy(error: &Error, own: &str, key: &str) {
    assert!(matches!(error.kind(), ErrorKind::Decode { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("nats kv purge") && text.contains(key), "{text}");
    assert_eq!(error.key(), Some(own));
    assert!(error.revision().is_some());
}

fn assert_newer(error: &Error) {
    assert!(matches!(error.kind(), ErrorKind::Unsupported { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("format 2") && text.contains("knows 1"), "{text}");
}

fn kv<E: std::fmt::Debug>(error: OnceError<E>) -> Error {
    match error {
        OnceError::Kv(error) => error,
        OnceError::Closure(error) => panic!("{error:?}"),
    }
}

/// Writes a ticket for the lock `a`, first in the queue.
async fn ticket(junk: &Bucket<ForeignRecord>, wants: Option<Duration>, ttl: Option<Duration>) {
    let mut ticket = json!({ "id": "00000000", "owner": "stranger", "since": 0 });
    if let Some(wants) = wants {
        ticket["wants"] = json!(wants.as_millis());
    }
    let ticket = ForeignRecord::new("lock", "a", "ticket-00000000", &ticket.to_string());
    let put = junk.put(&ticket);
    match ttl {
        Some(ttl) => put.ttl(ttl).await.unwrap(),
        None => put.await.unwrap(),
    };
}

async fn opened(world: &World) -> (Locks, Bucket<ForeignRecord>) {
    let name = unique("locks");
    let locks = world.store.locks(&name).await.unwrap();
    let junk = seen_as(world, &name).await;
    (locks, junk)
}

/// A stored record as JSON.
async fn stored(junk: &Bucket<ForeignRecord>, recipe: &str, name: &str, part: &str) -> Value {
    let key = ForeignRecordKey::new(recipe, name, part);
    let record = junk.get(&key).await.unwrap().expect("it is stored");
    serde_json::from_str(&record.text).expect("JSON")
}

on_both_backends! {
    needs Locks;

    async fn garbage_lock_record_is_an_immediate_error(world: World) {
        let (locks, junk) = opened(&world).await;
        let key = "=kvtyped.lock.a.lease";
        junk.put(&ForeignRecord::new("lock", "a", "lease", "junk")).await.unwrap();
        for _ in 0..2 {
            assert_names_the_remedy(&soon(locks.lock("a")).await.unwrap_err(), "a", key);
            assert_names_the_remedy(&soon(locks.lock("a").fair()).await.unwrap_err(), "a", key);
            assert_names_the_remedy(&soon(locks.lock("a").wait(2 * SOON)).await.unwrap_err(), "a", key);
        }
        assert!(matches!(locks.holder("a").await.unwrap_err().kind(), ErrorKind::Decode { .. }));
        // The remedy works.
        junk.purge(&ForeignRecordKey::new("lock", "a", "lease")).await.unwrap();
        soon(locks.lock("a")).await.unwrap().release().await.unwrap();
    }

    async fn garbage_during_lock_wait_is_an_error(world: World) {
        let (locks, junk) = opened(&world).await;
        let _guard = locks.lock("a").await.unwrap();
        let waiter = tokio::spawn(locks.lock("a").into_future());
        tokio::time::sleep(Duration::from_millis(200)).await;
        junk.put(&ForeignRecord::new("lock", "a", "lease", "junk")).await.unwrap();
        let error = soon(waiter).await.unwrap().unwrap_err();
        assert_names_the_remedy(&error, "a", "=kvtyped.lock.a.lease");
    }

    async fn garbage_leader_or_member_is_an_immediate_error(world: World) {
        let name = unique("boss");
        let election = world.store.election::<String>(&name);
        assert!(election.leader().await.unwrap().is_none());
        let junk = seen_as::<ForeignRecord>(&world, &name).await;
        junk.put(&ForeignRecord::new("election", &name, "lease", "junk")).await.unwrap();
        let me = "me".to_owned();
        for campaign in [election.campaign(&me), election.campaign(&me).wait(2 * SOON)] {
            assert_names_the_remedy(&soon(campaign).await.unwrap_err(), &name, &format!("=kvtyped.election.{name}.lease"));
        }
        let group = world.store.group::<String>(&name);
        junk.put(&ForeignRecord::new("group", &name, "me", "junk")).await.unwrap();
        for join in [group.join("me", &me), group.join("me", &me).wait(2 * SOON)] {
            assert_names_the_remedy(&soon(join).await.unwrap_err(), "me", &format!("=kvtyped.group.{name}.me"));
        }
        junk.purge(&ForeignRecordKey::new("group", &name, "me")).await.unwrap();
        group.join("me", &me).await.unwrap().leave().await.unwrap();
    }

    /// A ticket that does not expire soon is ignored.
    async fn long_lived_foreign_ticket_is_ignored(world: World) {
        for (wants, ttl) in [
            (None, None),
            (Some(99 * YEAR), None),
            (Some(30 * SECOND), None),
            (None, Some(99 * YEAR)),
            (Some(99 * YEAR), Some(99 * YEAR)),
        ] {
            let (locks, junk) = opened(&world).await;
            ticket(&junk, wants, ttl).await;
            let fair = world.store.locks(junk.name()).fair().await.unwrap();
            let guard = soon(fair.try_lock("a")).await.unwrap();
            let guard = guard.unwrap_or_else(|| panic!("a foreign ticket counts: {wants:?} {ttl:?}"));
            let waiters = [&locks, &fair].map(|locks| {
                let lock = locks.lock("a").into_future();
                tokio::spawn(async move { lock.await.unwrap().release().await.unwrap() })
            });
            tokio::time::sleep(Duration::from_millis(200)).await;
            guard.release().await.unwrap();
            for waiter in waiters {
                tokio::time::timeout(7 * SECOND, waiter).await.expect("before anybody looks").unwrap();
            }
        }
    }

    async fn newer_format_is_unsupported(world: World) {
        let name = unique("newer");
        let locks = world.store.locks(&name).await.unwrap();
        let junk = seen_as::<ForeignRecord>(&world, &name).await;
        let me = "me".to_owned();
        for (recipe, of, part) in [
            ("lock", "a", "lease"), ("election", &*name, "lease"), ("group", &name, "me"), ("once", &name, "job"),
            ("ids", &name, "next"), ("rate", &name, "ada"), ("counters", &name, "home"),
        ] {
            junk.put(&ForeignRecord::new(recipe, of, part, NEWER)).await.unwrap();
        }
        assert_newer(&soon(locks.lock("a")).await.unwrap_err());
        assert_newer(&locks.holder("a").await.unwrap_err());
        let election = world.store.election::<String>(&name);
        assert_newer(&soon(election.campaign(&me).wait(2 * SOON)).await.unwrap_err());
        assert_newer(&election.leader().await.unwrap_err());
        assert_newer(&soon(world.store.group::<String>(&name).join("me", &me)).await.unwrap_err());
        let once = world.store.once::<u32>(&name);
        assert_newer(&kv(soon(once.run("job", || async { 1 })).await.unwrap_err()));
        assert_newer(&world.store.ids(&name).await.unwrap().next().await.unwrap_err());
        let limiter = world.store.rate_limiter(&name, Quota::per_hour(1)).await.unwrap();
        assert_newer(&limiter.check("ada").await.unwrap_err());
        assert_newer(&limiter.check_n("ada", 0).await.unwrap_err());
        let counters = world.store.counters(&name).await.unwrap();
        assert!(!counters.is_server_side().await.unwrap());
        assert_newer(&counters.add("home", 1).await.unwrap_err());
        for (recipe, of, part) in [("lock", "a", "lease"), ("ids", &*name, "next"), ("counters", &name, "home")] {
            assert_eq!(stored(&junk, recipe, of, part).await["v"], 2, "nothing is written over it");
        }
    }

    async fn rewrite_keeps_unknown_fields_of_recipes(world: World) {
        let name = unique("later");
        let locks = world.store.locks(&name).await.unwrap();
        let junk = seen_as::<ForeignRecord>(&world, &name).await;
        let annotate = async |recipe: &str, of: &str, part: &str| {
            let mut record = stored(&junk, recipe, of, part).await;
            assert_eq!(record["v"], 1);
            record["later"] = json!({ "n": 5 });
            junk.put(&ForeignRecord::new(recipe, of, part, &record.to_string())).ttl(60 * SECOND).await.unwrap();
        };
        let guard = locks.lock("a").await.unwrap();
        annotate("lock", "a", "lease").await;
        guard.ensure_remaining(26 * SECOND).await.unwrap();
        let ids = world.store.ids(&name).block(1).await.unwrap();
        let limiter = world.store.rate_limiter(&name, Quota::per_hour(9)).await.unwrap();
        let counters = world.store.counters(&name).await.unwrap();
        for later in [false, true] {
            ids.next().await.unwrap();
            assert!(limiter.check("ada").await.unwrap().is_allowed());
            counters.add("home", 1).await.unwrap();
            if !later {
                annotate("ids", &name, "next").await;
                annotate("rate", &name, "ada").await;
                annotate("counters", &name, "home").await;
            }
        }
        for (recipe, of, part, field, value) in [
            ("lock", "a", "lease", "note", Value::Null),
            ("ids", &name, "next", "next", json!(3)),
            ("rate", &name, "ada", "burst", json!(9)),
            ("counters", &name, "home", "val", json!("2")),
        ] {
            let record = stored(&junk, recipe, of, part).await;
            assert_eq!((&record["later"]["n"], &record["v"], &record[field]), (&json!(5), &json!(1), &value), "{record}");
        }
        guard.release().await.unwrap();
    }

    async fn fence_ttl_is_capped_by_bucket_ttl(world: World) {
        let sessions: Bucket<Session> = world.bucket().await;
        let brief: Bucket<Session> = world.fresh().ttl(3_600 * SECOND).await.unwrap();
        for (bucket, life) in [(sessions, 30 * 86_400), (brief, 3_600)] {
            let session = Session::new("acme", 7);
            let guard = bucket.lock(&session.key()).await.unwrap();
            let junk = seen_as::<ForeignRecord>(&world, bucket.name()).await;
            let fence = junk.get(&ForeignRecordKey::new("lock", "acme.7", "fence")).await.unwrap().expect("it is stored");
            assert_eq!(fence.ttl().map(|ttl| ttl.as_secs()), Some(life));
            bucket.put(&session).fenced_by(&guard).await.unwrap();
            guard.release().await.unwrap();
        }
    }
}

/// A valid ticket holds the lock for as long as a usual lease, whatever TTL it asks for.
#[tokio::test(start_paused = true)]
async fn foreign_ticket_holds_lock_for_bounded_time() {
    let world = World::memory();
    let (locks, junk) = opened(&world).await;
    let guard = locks.lock("a").await.unwrap();
    ticket(&junk, Some(99 * YEAR), Some(30 * SECOND)).await;
    let waiter = tokio::spawn(locks.lock("a").into_future());
    tokio::time::sleep(SECOND).await;
    guard.release().await.unwrap();
    assert_eq!(locks.holder("a").await.unwrap().expect("it is handed over").owner, "stranger");
    let guard = tokio::time::timeout(31 * SECOND, waiter).await.expect("it expires").unwrap().unwrap();
    assert!(guard.is_held());
}

/// The fence of a dead holder expires, and no guard outlives its fence.
#[tokio::test(start_paused = true)]
async fn fence_outlives_its_guard_and_expires() {
    let world = World::memory();
    let sessions: Bucket<Session> = world.bucket().await;
    let junk = seen_as::<ForeignRecord>(&world, sessions.name()).await;
    let session = Session::new("acme", 7);
    let day = 86_400 * SECOND;
    let guard = sessions.lock(&session.key()).ttl(10 * day).await.unwrap();
    tokio::time::sleep(29 * day).await;
    sessions.put(&session).fenced_by(&guard).await.unwrap();
    tokio::time::timeout(day, guard.lost()).await.expect("before its fence is gone");
    assert!(junk.get(&ForeignRecordKey::new("lock", "acme.7", "fence")).await.unwrap().is_some());
    let error = sessions.put(&session).fenced_by(&guard).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Lost), "{error}");
    tokio::time::sleep(11 * day).await;
    let left: Vec<ForeignRecordKey> = junk.keys(..).await.unwrap().try_collect().await.unwrap();
    assert_eq!(left, []);
    sessions.lock(&session.key()).await.unwrap().release().await.unwrap();
}
