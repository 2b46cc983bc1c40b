//! Indexed writes on a real server under faults: denied entries, a full bucket, lost acknowledgements, writers that die.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use harness::{Mode, Proxy, Server};
use kvtyped::key::ModelKey;
use kvtyped::prelude::*;
use kvtyped::{ErrorKind, RawRecord};

use crate::index_probe::{IndexProbe, User, UserKey, dies_after, user};
use crate::support::{World, unique};

const PATIENT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn denied_entries_fail_before_anything_is_written() {
    let config = r#"
        authorization { users: [
            { user: admin, password: admin }
            { user: guest, password: guest, permissions: { publish: { deny: ["$KV.=i.users.>"] } } }
            { user: clerk, password: clerk, permissions: { publish: { deny: ["$JS.API.STREAM.PURGE.KV_users"] } } }
        ] }
    "#;
    let server = Server::builder().config(config).auth().start().await;
    let connect = async |user: &str| {
        let url = format!("nats://{user}:{user}@{}", server.addr());
        (Store::connect(&url).timeout(PATIENT).await.unwrap(), url)
    };
    let (admin, url) = connect("admin").await;
    let probe = IndexProbe::of(&World::of(admin.clone(), &url), admin.bucket().await.unwrap()).await;
    probe.users.put(&user(1, "ada")).await.unwrap();
    let (guest, _) = connect("guest").await;
    let users: Bucket<User> = guest.bucket().must_exist().await.unwrap();
    let timeout = Duration::from_secs(3);
    for error in [
        users.put(&user(2, "eve")).timeout(timeout).await.unwrap_err(),
        users.create(&user(3, "bob")).timeout(timeout).await.unwrap_err(),
        users.put(&user(1, "new")).timeout(timeout).await.unwrap_err(),
    ] {
        // The subject to allow, without the indexed value.
        let ErrorKind::PermissionDenied { subject } = error.kind() else { panic!("{error:?}") };
        assert_eq!(subject, "$KV.=i.users.>");
        assert_eq!(error.outcome(), kvtyped::Outcome::NotApplied);
    }
    assert_eq!(probe.users.count(..).await.unwrap(), 1);
    probe.check_quiet(3).await;
    // A user who may not purge leaves the entries, and the values stay usable.
    let (clerk, _) = connect("clerk").await;
    let users: Bucket<User> = clerk.bucket().must_exist().await.unwrap();
    users.put(&user(1, "new")).await.unwrap();
    users.put(&user(2, "ada")).await.unwrap();
    probe.check_violations().await;
    let report = probe.users.verify_indexes().repair().await.unwrap();
    assert_eq!(report.indexes[0].stale, 0, "the dead claim was taken over: {report:?}");
    probe.check_quiet(6).await;
}

#[tokio::test]
async fn full_bucket_keeps_the_index() {
    let world = World::nats().await;
    let open = world.store.bucket::<User>().name(unique("users")).max_bytes(20_000);
    let probe = IndexProbe::of(&world, open.await.unwrap()).await;
    let mut written = 0;
    let full = loop {
        match probe.users.put(&user(written, &format!("mail{written}"))).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full.kind(), ErrorKind::BucketFull) && written > 10, "{full:?} after {written}");
    probe.check_violations().await;
    // Wherever the bucket is full, in the entries or in the record, nothing is half done.
    for id in 0..written {
        let _ =
            probe.users.put(&User { email: format!("other{id}"), team: Some("x".repeat(50)), ..user(id, "") }).await;
        let _ = probe.users.modify(&UserKey::new(id), |user| user.tags.push("y".repeat(200))).await;
    }
    probe.check_violations().await;
}

#[tokio::test]
async fn lost_acknowledgements_keep_the_index() {
    let server = harness::shared().await;
    let proxy = Proxy::start(server.addr()).await;
    let world = World::nats().await;
    let probe = IndexProbe::new(&world).await;
    let through = Store::connect(proxy.url()).await.unwrap();
    let users: Bucket<User> = through.bucket().name(probe.users.name()).must_exist().await.unwrap();
    for round in 0..6_u64 {
        let mail = format!("mail{round}");
        users.put(&user(1, &mail)).await.unwrap();
        let before = proxy.dropped_replies();
        proxy.set(Mode::DropReplies);
        let restore = async {
            // The replies of one to three requests are lost.
            proxy.await_dropped(before + 1 + round % 3).await;
            proxy.set(Mode::Pass);
        };
        let changed = user(1, &format!("{mail}b"));
        let (result, ()) = futures::join!(users.put(&changed).timeout(PATIENT).into_future(), restore);
        result.unwrap();
        probe.check_violations().await;
        // The value that the record lost is free, and the one that it gained is taken.
        probe.users.put(&user(2, &mail)).await.unwrap();
        let taken = probe.users.put(&user(3, &changed.email)).await.unwrap_err();
        assert!(matches!(taken.kind(), ErrorKind::NotUnique { .. }), "{taken:?}");
        probe.check_violations().await;
        probe.users.delete(&UserKey::new(2)).await.unwrap();
    }
    probe.users.verify_indexes().repair().await.unwrap();
    probe.check_quiet(3).await;
}

/// The totals of a run of [`contend`].
#[derive(Debug, Default)]
struct Totals {
    done: AtomicU64,
    taken: AtomicU64,
    died: AtomicU64,
    observed: AtomicU64,
    violations: AtomicU64,
}

/// Lets eight writers change twelve records to eight values, while an observer checks the invariants.
async fn contend(probe: &IndexProbe, world: &World, blind: Option<&Bucket<RawRecord>>, rounds: u64) -> Totals {
    let totals = Totals::default();
    let has_ended = AtomicBool::new(false);
    let writer = async |number: u64| {
        let store = world.another().await;
        let users: Bucket<User> = store.bucket().name(probe.users.name()).must_exist().await.unwrap();
        let mut random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = move |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        for _ in 0..rounds {
            let record = User { team: Some(format!("t{}", next(3))), ..user(next(12), &format!("mail{}", next(8))) };
            if let Some(raw) = blind {
                let bytes = serde_json::to_vec(&record).unwrap();
                raw.put(&RawRecord::new(record.key().encode().unwrap(), bytes)).await.unwrap();
                totals.done.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            // One write in six dies at a random point.
            let polls = if next(6) == 0 { 1 + next(12) } else { u64::MAX };
            let work = match next(8) {
                0 => dies_after(Box::pin(users.delete(&record.key()).into_future()), polls).await,
                _ => dies_after(Box::pin(users.put(&record).into_future()), polls).await,
            };
            let counter = match work {
                None => &totals.died,
                Some(Ok(_)) => &totals.done,
                Some(Err(error)) => match error.kind() {
                    ErrorKind::NotUnique { .. } | ErrorKind::RetriesExhausted { .. } => &totals.taken,
                    _ => panic!("{error:?}"),
                },
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    };
    let writers = async {
        futures::future::join_all((1..=8).map(&writer)).await;
        has_ended.store(true, Ordering::Release);
    };
    let observer = async {
        while !has_ended.load(Ordering::Acquire) {
            let violations = probe.violations().await;
            totals.observed.fetch_add(1, Ordering::Relaxed);
            totals.violations.fetch_add(violations.len() as u64, Ordering::Relaxed);
        }
    };
    futures::join!(writers, observer);
    totals
}

#[tokio::test]
async fn index_survives_writers_that_die() {
    let world = World::nats().await;
    let probe = IndexProbe::new(&world).await;
    let totals = contend(&probe, &world, None, 150).await;
    println!("writers that die: {totals:?}");
    assert_eq!(totals.violations.into_inner(), 0);
    assert!(totals.done.into_inner() > 200 && totals.died.into_inner() > 20 && totals.observed.into_inner() > 3);
    probe.check_violations().await;
    probe.users.verify_indexes().repair().await.unwrap();
    let report = probe.users.verify_indexes().await.unwrap();
    assert!(report.is_clean(), "{report:?}");
}

/// The negative control: the observer finds the violations of writers that ignore the index.
#[tokio::test]
async fn observer_finds_writers_without_the_index() {
    let world = World::nats().await;
    let probe = IndexProbe::new(&world).await;
    let raw = probe.foreign(&world).await;
    let totals = contend(&probe, &world, Some(&raw), 50).await;
    println!("writers without the index: {totals:?}");
    assert!(!probe.violations().await.is_empty());
}
