//! Writes of other clients and expiry.

use kvtyped::maintenance::IndexReport;
use kvtyped::{ErrorKind, Event};

use super::*;
use crate::file::folder::Folder;
use crate::index_probe::{IndexProbe, user};
use crate::support::{World, on_both_backends, unique};

fn missing(report: &IndexReport) -> u64 {
    report.indexes.iter().map(|index| index.missing).sum()
}

/// Another client stores, changes and removes records before and after a follower starts.
async fn follow_foreign_writes(users: &Bucket<User>, raw: &Bucket<RawRecord>) {
    users.put_many((0..30).map(|id| user(id, &format!("mail{id}")))).await.unwrap();
    let write = async |from: u64| {
        for id in from..from + 5 {
            put_foreign(raw, &user(id + 100, &format!("foreign{id}"))).await;
            put_foreign(raw, &User { team: Some("ops".into()), ..user(id, &format!("changed{id}")) }).await;
            raw.delete(&key(id + 10)).await.unwrap();
        }
        raw.purge(&key(from + 15)).await.unwrap();
    };
    write(0).await;
    // The negative control: without a follower, lookups do not find the records.
    let error = users.count_by(User::by_team("ops")).at_least(Revision::new(1)).timeout(SECOND / 10).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Timeout { .. }), "{error:?}");
    assert_eq!((count(users, "core").await, count(users, "ops").await), (19, 0));
    assert!(users.get_by(User::by_email("foreign3")).await.unwrap().is_none());
    assert!(missing(&users.verify_indexes().await.unwrap()) >= 15);

    let follower = Follower::start(users);
    synced(users).await;
    assert_eq!((count(users, "core").await, count(users, "ops").await), (24, 5));
    assert_eq!(users.get_by(User::by_email("foreign3")).await.unwrap().map(|user| user.id), Some(103));
    // The first pass searches for stale entries as well.
    until_clean(users).await;
    write(5).await;
    put_foreign(raw, &user(200, "mail29")).await;
    synced(users).await;
    assert_eq!((count(users, "core").await, count(users, "ops").await), (20, 10));
    // An upper bound is exact now: the follower has erased the entries of removed and changed records.
    assert_eq!(users.count_by(User::by_team("core")).await.unwrap(), 20);
    assert_eq!(users.get_by(User::by_email("changed7")).await.unwrap().map(|user| user.id), Some(7));
    let duplicates: Vec<_> =
        follower.duplicates().into_iter().map(|found| (found.index, found.owner, found.other)).collect();
    assert_eq!(duplicates, [("email", "29".to_owned(), "200".to_owned())]);
    users.delete(&UserKey::new(200)).await.unwrap();
    assert_eq!(missing(&users.verify_indexes().await.unwrap()), 0);
    assert!(users.health().await.unwrap().index_follower.is_some_and(|age| age < PATIENT));
    follower.stop().await;
    assert_eq!(users.health().await.unwrap().index_follower, None);
    // The claims of values that other clients took away are erased from time to time.
    let follower = Follower::sweeping(users, Duration::ZERO);
    until_clean(users).await;
    follower.stop().await;
}

on_both_backends! {
    needs Locks;

    async fn foreign_writes_are_followed(world: World) {
        let probe = IndexProbe::new(&world).await;
        follow_foreign_writes(&probe.users, &probe.foreign(&world).await).await;
    }

    async fn expired_records_lose_their_entries(world: World) {
        let probe = IndexProbe::new(&world).await;
        let users = &probe.users;
        let follower = Follower::start(users);
        users.put(&user(1, "ada")).await.unwrap();
        synced(users).await;
        let mut events = users.watch(..).updates_only().await.unwrap();
        users.create(&user(2, "eve")).ttl(SECOND).await.unwrap();
        let revision = loop {
            if let Some(Event::Removed { revision, .. }) = events.try_next().await.unwrap() {
                break revision;
            }
        };
        assert_eq!(users.count_by(User::by_team("core")).at_least(revision).await.unwrap(), 1);
        let keys = probe.entries().await;
        assert!(!keys.contains("user.team.core.2") && keys.contains("user.email.eve"), "{keys:?}");
        follower.stop().await;
    }

    async fn follower_beside_writers_leaves_nothing_to_repair(world: World) {
        let probe = IndexProbe::new(&world).await;
        let users = &probe.users;
        let follower = Follower::start(users);
        let writers = (0..4_u64).map(|number| {
            let (users, store) = (users.clone(), world.another());
            async move {
                let raw = store.await.raw(users.name()).await.unwrap();
                for round in 0..60 {
                    let id = (round * 7 + number * 5) % 20;
                    let mail = format!("mail{number}.{round}");
                    let team = Some(format!("t{}", round % 4));
                    let record = User { team, ..user(id, &mail) };
                    match (round + number) % 4 {
                        0 => drop(put_foreign(&raw, &record).await),
                        1 => drop(users.put(&record).await.unwrap()),
                        2 => drop(users.delete(&UserKey::new(id)).await.unwrap()),
                        _ => drop(raw.delete(&key(id)).await.unwrap()),
                    }
                }
            }
        });
        futures::future::join_all(writers).await;
        synced(users).await;
        let report = users.verify_indexes().await.unwrap();
        assert_eq!(missing(&report), 0, "{report:?}");
        follower.stop().await;
        let follower = Follower::sweeping(users, Duration::ZERO);
        until_clean(users).await;
        follower.stop().await;
    }

    async fn follower_resumes_at_its_position(world: World) {
        let probe = IndexProbe::new(&world).await;
        let (users, raw) = (&probe.users, probe.foreign(&world).await);
        users.put_many((0..10).map(|id| user(id, &format!("mail{id}")))).await.unwrap();
        assert_eq!(users.synced_revision("team").await.unwrap(), None);
        let follower = Follower::start(users);
        synced(users).await;
        follower.stop().await;
        let before = users.synced_revision("team").await.unwrap().expect("it ran");
        // A defect that no event shows: only a pass over all records finds it.
        let entry = kvtyped::Key::new("user.team.core.3").unwrap();
        let deadline = kvtyped::backend::Deadline::after(PATIENT);
        let index = kvtyped::backend::KeySpace::Index;
        probe.raw().purge_through(index, &entry, Revision::new(u64::MAX), deadline).await.unwrap();
        let written = put_foreign(&raw, &user(50, "foreign")).await;
        let follower = Follower::start(users);
        assert_eq!(users.count_by(User::by_team("core")).at_least(written).timeout(PATIENT).await.unwrap(), 10);
        follower.stop().await;
        assert!(users.synced_revision("team").await.unwrap() > Some(before));
        assert_eq!(missing(&users.verify_indexes().await.unwrap()), 1);
        // Without the position, it compares all records.
        let position = kvtyped::Key::new("=kvtyped.maintenance.user.follower").unwrap();
        let delete = kvtyped::backend::Write::new(position, kvtyped::backend::WriteKind::Delete);
        probe.raw().write(delete, deadline).await.unwrap();
        let follower = Follower::start(users);
        synced(users).await;
        assert_eq!(missing(&users.verify_indexes().await.unwrap()), 0);
        follower.stop().await;
    }

    async fn typed_write_over_a_foreign_record_stores_its_entries(world: World) {
        let probe = IndexProbe::new(&world).await;
        let (users, raw) = (&probe.users, probe.foreign(&world).await);
        put_foreign(&raw, &user(1, "ada")).await;
        // No indexed field changes.
        users.put(&user(1, "ada")).await.unwrap();
        probe.check_quiet(3).await;
        let entry = raw.get(&key(1)).await.unwrap().expect("it is stored");
        assert!(!format!("{:?}", entry.headers()).contains("Indexes"), "a copy does not keep the entries");
    }

    async fn shutdown_ends_the_follower(world: World) {
        let probe = IndexProbe::new(&world).await;
        let store = world.another().await;
        let users: Bucket<User> = store.bucket().name(probe.users.name()).await.unwrap();
        let follower = Follower::start(&users);
        synced(&probe.users).await;
        store.shutdown(5 * SECOND).await.unwrap();
        let error = follower.task.await.unwrap().unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Closed), "{error:?}");
    }
}

#[tokio::test]
async fn foreign_writes_to_a_file_are_followed() {
    let folder = Folder::new("follower");
    let store = folder.store().await.unwrap();
    let users: Bucket<User> = store.bucket().await.unwrap();
    follow_foreign_writes(&users, &store.raw("users").await.unwrap()).await;
    store.shutdown(5 * SECOND).await.unwrap();
}

/// The plain client knows neither the indexes nor this crate.
#[tokio::test]
async fn writes_of_the_plain_client_are_followed() {
    crate::needs::needs!(Locks);
    let world = World::nats().await;
    let probe = IndexProbe::new(&world).await;
    let users = &probe.users;
    let client = async_nats::connect(harness::shared().await.url()).await.unwrap();
    let plain = async_nats::jetstream::new(client).get_key_value(users.name()).await.unwrap();
    users.put(&user(1, "ada")).await.unwrap();
    let written = plain.put("2", bytes(&user(2, "eve")).into()).await.unwrap();
    assert!(users.get_by(User::by_email("eve")).await.unwrap().is_none(), "no follower has run");
    let follower = Follower::start(users);
    let eve = users.get_by(User::by_email("eve")).at_least(Revision::new(written)).timeout(PATIENT).await.unwrap();
    assert_eq!(eve.map(|user| user.id), Some(2));
    plain.put("1", bytes(&User { team: Some("ops".into()), ..user(1, "ada") }).into()).await.unwrap();
    plain.delete("2").await.unwrap();
    synced(users).await;
    let counts = (User::by_team("core"), User::by_team("ops"));
    assert_eq!(users.count_by(counts.0).await.unwrap(), 0);
    assert_eq!(users.count_by(counts.1).await.unwrap(), 1);
    follower.stop().await;
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "many", key = "{id}")]
struct Item {
    id: u64,
    #[kv(index)]
    group: u64,
}

/// Returns how long a follower needs for the first pass over foreign records.
async fn follow_many(store: &Store, records: u64) -> Duration {
    let items: Bucket<Item> = store.bucket().name(unique("many")).await.unwrap();
    let raw = store.raw(items.name()).await.unwrap();
    let record = |id: u64| {
        let bytes = serde_json::to_vec(&Item { id, group: id % 100 }).unwrap();
        RawRecord::new(ItemKey::new(id).encode().unwrap(), bytes)
    };
    raw.put_many((0..records).map(record)).await.unwrap();
    let last = items.status().await.unwrap().last_revision;
    let began = std::time::Instant::now();
    let found = {
        let follower = std::pin::pin!(items.maintain_indexes().into_future());
        let lookup = items.count_by(Item::by_group(7_u64)).at_least(last).timeout(20 * PATIENT).into_future();
        match futures::future::select(follower, lookup).await {
            futures::future::Either::Left((ended, _)) => panic!("the follower ended: {ended:?}"),
            futures::future::Either::Right((count, _)) => count.unwrap(),
        }
    };
    let took = began.elapsed();
    eprintln!("{records} records followed in {took:?}");
    assert_eq!(found, records / 100);
    let report = items.verify_indexes().await.unwrap();
    assert!(report.is_clean() && report.records == records, "{report:?}");
    took
}

#[tokio::test]
async fn hundred_thousand_records_in_memory_are_followed() {
    follow_many(&Store::memory(), 100_000).await;
}

#[tokio::test]
async fn ten_thousand_records_on_a_server_are_followed() {
    crate::needs::needs!(Locks);
    follow_many(&World::nats().await.store, 10_000).await;
}

#[tokio::test]
#[ignore = "it takes a minute or more"]
async fn hundred_thousand_records_on_a_server_are_followed() {
    follow_many(&World::nats().await.store, 100_000).await;
}
