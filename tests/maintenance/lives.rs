//! A rewritten record keeps the rest of its life.

use std::time::SystemTime;

use kvtyped::prelude::*;
use kvtyped::{ErrorKind, Ttl};

use super::models::{First, FirstKey, User, UserKey, deployed, first, user};
use crate::needs::needs;
use crate::support::{World, on_both_backends};

const SECOND: Duration = Duration::from_secs(1);

async fn exists(users: &Bucket<User>, id: u64) -> bool {
    users.get(&UserKey::new(id)).await.unwrap().is_some()
}

on_both_backends! {
    async fn rest_of_a_ttl_is_written(world: World) {
        needs!(world, RecordTtl);
        let (old, new) = deployed(&world, world.fresh()).await;
        old.put(&first(0)).ttl(100 * SECOND).await.unwrap();
        old.put(&first(1)).await.unwrap();
        let before = old.get(&FirstKey::new(0)).await.unwrap().unwrap();
        new.switch_version(3).await.unwrap();
        assert_eq!(new.migrate().await.unwrap().rewritten, 2);
        let after = new.get(&UserKey::new(0)).await.unwrap().unwrap();
        let end = |created: SystemTime, ttl: Option<Ttl>| created + ttl.expect("a TTL").as_duration();
        let (first, second) = (end(before.created(), before.ttl()), end(after.created(), after.ttl()));
        assert!(second >= first, "no record expires early");
        assert!(second <= first + 2 * SECOND, "a second of rounding, and the time of the write");
        assert_eq!(new.get(&UserKey::new(1)).await.unwrap().unwrap().ttl(), None);
    }

    async fn rest_of_the_life_in_a_bucket_with_ttl_is_written(world: World) {
        needs!(world, RecordTtl);
        let (old, new) = deployed(&world, world.fresh::<First>().ttl(1_000 * SECOND).limit_markers(SECOND)).await;
        old.put(&first(0)).await.unwrap();
        new.switch_version(3).await.unwrap();
        assert_eq!(new.migrate().await.unwrap().rewritten, 1);
        let ttl = new.get(&UserKey::new(0)).await.unwrap().unwrap().ttl().expect("a TTL").as_secs();
        assert!((900..=1_000).contains(&ttl), "{ttl}");
    }

    async fn bucket_without_record_ttls_needs_a_restart(world: World) {
        let open = world.fresh::<First>().ttl(1_000 * SECOND).history(2);
        let old = open.await.unwrap();
        let new: Bucket<User> = world.store.bucket().name(old.name()).on_drift(Drift::Adopt).await.unwrap();
        old.put(&first(0)).await.unwrap();
        new.switch_version(3).await.unwrap();
        let error = new.migrate().await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains(".restart_ttl()"), "{error}");
        assert_eq!(new.schema_versions().await.unwrap().to_string(), "1: 1");
        assert_eq!(new.migrate().restart_ttl().await.unwrap().rewritten, 1);
        let entry = new.get(&UserKey::new(0)).await.unwrap().unwrap();
        assert_eq!((entry.value(), entry.ttl()), (&user(0), None));
    }
}

#[tokio::test(start_paused = true)]
async fn rewritten_record_expires_when_the_old_one_would() {
    for age in [Duration::ZERO, Duration::from_millis(300), Duration::from_millis(40_700), 88 * SECOND] {
        let world = World::memory();
        let (old, new) = deployed(&world, world.fresh()).await;
        old.put(&first(0)).ttl(100 * SECOND).await.unwrap();
        new.switch_version(3).await.unwrap();
        tokio::time::advance(age).await;
        assert_eq!(new.migrate().await.unwrap().rewritten, 1);
        tokio::time::advance(100 * SECOND - age - Duration::from_millis(20)).await;
        assert!(exists(&new, 0).await, "{age:?}: no record expires early");
        tokio::time::advance(SECOND + Duration::from_millis(40)).await;
        assert!(!exists(&new, 0).await, "{age:?}: no record lives longer than a second of rounding");
    }
}

#[tokio::test(start_paused = true)]
async fn record_that_expires_soon_is_not_written() {
    let world = World::memory();
    let (old, new) = deployed(&world, world.fresh()).await;
    old.put(&first(0)).ttl(10 * SECOND).await.unwrap();
    old.put(&first(1)).await.unwrap();
    new.switch_version(3).await.unwrap();
    tokio::time::advance(Duration::from_millis(9_500)).await;
    let migrated = new.migrate().await.unwrap();
    // The card states the oldest version only after the record is gone.
    assert_eq!((migrated.rewritten, migrated.complete, migrated.oldest), (1, true, Some(3)));
    assert!(!exists(&new, 0).await);
}

#[tokio::test(start_paused = true)]
async fn restart_gives_the_full_ttl_again() {
    let world = World::memory();
    let (old, new) = deployed(&world, world.fresh()).await;
    old.put(&first(0)).ttl(100 * SECOND).await.unwrap();
    tokio::time::advance(60 * SECOND).await;
    new.switch_version(3).await.unwrap();
    new.migrate().restart_ttl().await.unwrap();
    let ttl = new.get(&UserKey::new(0)).await.unwrap().unwrap().ttl();
    assert_eq!(ttl, Ttl::new(100 * SECOND));
}
