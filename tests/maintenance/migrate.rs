//! Migrations of all records to one version.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kvtyped::prelude::*;
use kvtyped::{ErrorKind, Event};
use tokio::time::Instant;

use super::models::{First, FirstKey, Second, User, UserKey, deployed, first, opened_as, user};
use super::versions::RawUser;
use crate::support::{Session, SessionKey, World, on_both_backends, seen_as};

/// Records of each version: 0 to 4, 5 to 9, 10 to 14.
pub(crate) async fn mixed(old: &Bucket<First>, new: &Bucket<User>) {
    for id in 0..5 {
        old.put(&first(id)).await.unwrap();
    }
    for (version, ids) in [(2, 5..10), (3, 10..15)] {
        new.switch_version(version).await.unwrap();
        for id in ids {
            new.put(&user(id)).await.unwrap();
        }
    }
}

/// Checks that these records are complete and have a version.
pub(crate) async fn check(users: &Bucket<User>, count: u64, version: u32) {
    for id in 0..count {
        let entry = users.get(&UserKey::new(id)).await.unwrap().unwrap_or_else(|| panic!("record {id} is there"));
        assert_eq!((entry.value(), entry.schema_version()), (&user(id), version));
    }
    assert_eq!(users.schema_versions().await.unwrap().to_string(), format!("{version}: {count}"));
}

on_both_backends! {
    async fn older_records_are_written_in_the_new_version(world: World) {
        let (old, new) = deployed(&world, world.fresh()).await;
        mixed(&old, &new).await;
        let sessions = seen_as::<Session>(&world, new.name()).await;
        let kept = sessions.put(&Session::new("acme", 1)).await.unwrap();
        let newest = new.get(&UserKey::new(12)).await.unwrap().unwrap();

        let plan = new.migrate().dry_run().await.unwrap();
        assert_eq!((plan.to, plan.rewrites, plan.unreadable), (3, 10, 0));
        assert_eq!(plan.versions.to_string(), "1: 5, 2: 5, 3: 5");
        let migrated = new.migrate().await.unwrap();
        assert_eq!((migrated.to, migrated.seen, migrated.rewritten, migrated.raced), (3, 15, 10, 0));
        assert!(migrated.refused.is_empty() && migrated.complete);
        assert_eq!(migrated.oldest, Some(3));
        check(&new, 15, 3).await;
        let card = new.card().await.unwrap().unwrap();
        assert_eq!((card.version, card.writes, card.oldest), (3, 3, 3));

        assert!(new.get(&UserKey::new(1)).await.unwrap().unwrap().is_rewrite());
        let same = new.get(&UserKey::new(12)).await.unwrap().unwrap();
        assert_eq!((same.revision(), same.is_rewrite()), (newest.revision(), false));
        assert_eq!(sessions.get(&SessionKey::new("acme", 1)).await.unwrap().unwrap().revision(), kept);
        // A later write of the record is not a rewrite.
        assert!(!new.modify(&UserKey::new(1), |user| user.last = "B".into()).await.unwrap().is_rewrite());
        assert!(!new.get(&UserKey::new(1)).await.unwrap().unwrap().is_rewrite());

        let again = new.migrate().await.unwrap();
        assert_eq!((again.seen, again.rewritten, again.complete, again.oldest), (15, 0, true, Some(3)));
    }

    async fn unreadable_record_is_refused_and_the_rest_is_migrated(world: World) {
        let (old, new) = deployed(&world, world.fresh()).await;
        mixed(&old, &new).await;
        let raw = seen_as::<RawUser>(&world, new.name()).await;
        raw.put(&RawUser { id: "100".into(), bytes: b"garbage".to_vec() }).await.unwrap();
        // A record of another client, in the shape of version 1 and without a header.
        raw.put(&RawUser { id: "15".into(), bytes: br#"{"id":15,"name":"Ada L15"}"#.to_vec() }).await.unwrap();
        // A name that cannot be upgraded.
        old.put(&First { id: 101, name: "Ada".into() }).await.unwrap();
        let migrated = new.migrate().await.unwrap();
        assert_eq!((migrated.rewritten, migrated.complete, migrated.oldest), (11, true, Some(1)));
        let refused: Vec<_> = migrated.refused.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(refused, ["u.100", "u.101"]);
        for (key, error) in &migrated.refused {
            assert!(matches!(error.kind(), ErrorKind::Decode { .. }), "{error}");
            assert_eq!((error.operation(), error.key()), (Some("migrate"), Some(key.as_str())));
        }
        for id in [100, 101] {
            new.delete(&UserKey::new(id)).await.unwrap();
        }
        check(&new, 16, 3).await;
        assert_eq!(new.migrate().await.unwrap().oldest, Some(3));
    }

    async fn newer_record_is_refused(world: World) {
        let (old, new) = deployed(&world, world.fresh()).await;
        mixed(&old, &new).await;
        new.switch_version(2).force().await.unwrap();
        let second: Bucket<Second> = opened_as(&world.store, new.name()).await;
        let migrated = second.migrate().await.unwrap();
        assert_eq!((migrated.to, migrated.rewritten, migrated.refused.len()), (2, 5, 5));
        for (_, error) in &migrated.refused {
            assert!(matches!(error.kind(), ErrorKind::Newer { found: 3, knows: 2 }), "{error}");
        }
        assert_eq!(migrated.oldest, Some(1));
        assert_eq!(second.schema_versions().await.unwrap().to_string(), "2: 10, 3: 5");
    }

    async fn downgrade_writes_newer_records_only_on_request(world: World) {
        let (old, new) = deployed(&world, world.fresh()).await;
        mixed(&old, &new).await;
        new.switch_version(2).force().await.unwrap();
        let migrated = new.migrate().await.unwrap();
        assert_eq!((migrated.to, migrated.rewritten), (2, 5));
        assert_eq!(new.schema_versions().await.unwrap().to_string(), "2: 10, 3: 5");
        let plan = new.migrate().to(2).dry_run().await.unwrap();
        assert_eq!((plan.to, plan.rewrites), (2, 5));
        let migrated = new.migrate().to(2).await.unwrap();
        assert_eq!((migrated.to, migrated.rewritten, migrated.oldest), (2, 5, Some(2)));
        check(&new, 15, 2).await;
        // The program of version 2 reads and writes every record.
        let second: Bucket<Second> = opened_as(&world.store, new.name()).await;
        assert_eq!(second.list(..).await.unwrap().try_collect::<Vec<_>>().await.unwrap().len(), 15);
    }

    async fn oldest_version_is_raised_only_if_programs_write_it(world: World) {
        let (old, new) = deployed(&world, world.fresh()).await;
        old.put(&first(0)).await.unwrap();
        let migrated = new.migrate().to(3).await.unwrap();
        assert_eq!((migrated.rewritten, migrated.complete, migrated.oldest), (1, true, Some(1)));
        check(&new, 1, 3).await;
        let error = new.migrate().to(4).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error}");
    }

    async fn watcher_omits_rewrites_of_what_it_has_seen(world: World) {
        let (old, new) = deployed(&world, world.fresh()).await;
        old.put(&first(0)).await.unwrap();
        new.switch_version(3).await.unwrap();
        let mut all = new.watch(..).await.unwrap();
        let mut changes = new.watch(..).ignore_rewrites().await.unwrap();
        let cache = new.cache(..).await.unwrap();
        for events in [&mut all, &mut changes] {
            assert!(matches!(crate::support::soon(events).await.unwrap(), Event::Put(entry) if entry.id == 0));
            assert!(matches!(crate::support::soon(events).await.unwrap(), Event::Ready));
        }
        new.migrate().await.unwrap();
        let last = new.put(&user(1)).await.unwrap();
        let Event::Put(rewritten) = crate::support::soon(&mut all).await.unwrap() else { panic!("a rewrite") };
        assert!(rewritten.id == 0 && rewritten.is_rewrite() && rewritten.schema_version() == 3);
        assert!(matches!(crate::support::soon(&mut changes).await.unwrap(), Event::Put(entry) if entry.id == 1));
        cache.wait_for_revision(last).await.unwrap();
        assert_eq!(cache.get(&UserKey::new(0)).unwrap().revision(), rewritten.revision());
        // The first pass of a watch is complete.
        let mut late = new.watch(..).ignore_rewrites().await.unwrap();
        assert!(matches!(crate::support::soon(&mut late).await.unwrap(), Event::Put(entry) if entry.id == 0));
    }

    async fn history_keeps_its_older_versions(world: World) {
        let open = world.fresh::<First>().history(5);
        let old = open.await.unwrap();
        let new: Bucket<User> = world.store.bucket().name(old.name()).on_drift(Drift::Adopt).await.unwrap();
        old.put(&first(0)).await.unwrap();
        new.switch_version(3).await.unwrap();
        // This bucket cannot hold a lease, so the migration runs without one.
        let migrated = new.migrate().await.unwrap();
        assert_eq!((migrated.rewritten, migrated.oldest), (1, Some(3)));
        let history = new.history(&UserKey::new(0)).await.unwrap();
        let versions: Vec<_> = history.iter().filter_map(|step| step.entry()).map(|entry| entry.schema_version()).collect();
        assert_eq!(versions.len(), 2);
        assert!(versions.contains(&1) && versions.contains(&3));
    }
}

/// Programs of both versions change records during the migration, and no change is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_changes_are_not_lost() {
    const RECORDS: u64 = 40;
    const CHANGES: u64 = 300;
    for world in [World::memory(), World::nats().await] {
        let (old, new) = deployed(&world, world.fresh()).await;
        for id in 0..RECORDS {
            old.put(&First { id, name: "Ada 0".into() }).await.unwrap();
        }
        let running = Arc::new(AtomicBool::new(true));
        let old_writer = {
            let old = old.clone();
            tokio::spawn(async move {
                for change in 0..CHANGES {
                    let next = |user: &mut First| {
                        let number: u64 = user.name.trim_start_matches("Ada ").parse().unwrap();
                        user.name = format!("Ada {}", number + 1);
                    };
                    match old.modify(&FirstKey::new(change % (RECORDS / 2)), next).await {
                        Ok(_) => {}
                        // The record is migrated already, and nothing was written.
                        Err(error) if matches!(error.kind(), ErrorKind::Newer { .. }) => return change,
                        Err(error) => panic!("{error}"),
                    }
                }
                CHANGES
            })
        };
        let new_writer = {
            let new = new.clone();
            tokio::spawn(async move {
                for change in 0..CHANGES {
                    let next = |user: &mut User| user.last = (user.last.parse::<u64>().unwrap() + 1).to_string();
                    new.modify(&UserKey::new(RECORDS / 2 + change % (RECORDS / 2)), next).await.unwrap();
                }
            })
        };
        let mut raced = 0;
        while running.load(Ordering::Relaxed) {
            let migrated = new.migrate().to(3).await.unwrap();
            raced += migrated.raced;
            running.store(!(old_writer.is_finished() && new_writer.is_finished()), Ordering::Relaxed);
        }
        let old_changes = old_writer.await.unwrap();
        new_writer.await.unwrap();
        new.switch_version(3).await.unwrap();
        assert_eq!(new.migrate().await.unwrap().oldest, Some(3));
        let entries: Vec<_> = new.list(..).await.unwrap().try_collect().await.unwrap();
        assert_eq!(entries.len() as u64, RECORDS);
        let total: u64 = entries.iter().map(|entry| entry.last.parse::<u64>().unwrap()).sum();
        assert_eq!(total, old_changes + CHANGES, "{raced} races");
        assert!(entries.iter().all(|entry| entry.schema_version() == 3));
    }
}

#[tokio::test]
async fn large_bucket_is_migrated() {
    const RECORDS: u64 = 100_000;
    let world = World::memory();
    let (old, new) = deployed(&world, world.fresh()).await;
    old.put_many((0..RECORDS).map(first)).await.unwrap();
    new.switch_version(3).await.unwrap();
    let mut last = None;
    let migrated = new.migrate().resume().on_progress(|progress| last = Some(progress)).await.unwrap();
    assert_eq!((migrated.seen, migrated.rewritten, migrated.oldest), (RECORDS, RECORDS, Some(3)));
    let last = last.expect("progress is reported");
    assert_eq!((last.pass, last.seen, last.rewritten, last.remaining), (2, RECORDS, RECORDS, 0));
    assert_eq!(new.schema_versions().await.unwrap().to_string(), format!("3: {RECORDS}"));
}

#[tokio::test(start_paused = true)]
async fn pace_bounds_the_speed() {
    let world = World::memory();
    let (old, new) = deployed(&world, world.fresh()).await;
    old.put_many((0..100).map(first)).await.unwrap();
    let start = Instant::now();
    assert_eq!(new.migrate().to(3).pace(10).await.unwrap().rewritten, 100);
    let took = start.elapsed();
    assert!((Duration::from_millis(9_800)..Duration::from_millis(10_500)).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn second_migration_names_the_holder_or_waits() {
    let world = World::memory();
    let (old, new) = deployed(&world, world.fresh()).await;
    old.put_many((0..100).map(first)).await.unwrap();
    let other = opened_as::<User>(&world.another().await, new.name()).await;
    let slow = tokio::spawn(async move { new.migrate().to(3).pace(1).await });
    while other.schema_versions().await.unwrap().get(3) == 0 {
        tokio::time::advance(Duration::from_millis(100)).await;
        tokio::task::yield_now().await;
    }
    let error = other.migrate().to(3).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unavailable { .. }), "{error}");
    for part in ["process ", "`migrate`", ".wait(..)"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    let error = other.rewrite(.., |_| Change::Keep).wait(Duration::from_secs(5)).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unavailable { .. }), "{error}");
    let migrated = other.migrate().to(3).wait(Duration::from_secs(1_000)).await.unwrap();
    assert_eq!((migrated.seen, migrated.rewritten), (100, 0));
    assert_eq!(slow.await.unwrap().unwrap().rewritten, 100);
}
