//! Recipes in buckets of a limited size, as some accounts require them.

use harness::{Cluster, Server};
use kvtyped::config::Storage;
use kvtyped::prelude::*;
use kvtyped::{ErrorKind, OpenLocks, Quota};

use crate::needs::needs;
use crate::support::{SOON, World, on_both_backends, unique};

const SECOND: Duration = Duration::from_secs(1);

/// Acquires locks until the bucket is full, and lets their holder die. The leases must expire, so that locks can be
/// acquired again.
async fn locks_of_a_full_bucket_expire(world: &World, open: impl Fn(&Store) -> OpenLocks) {
    let doomed = world.another().await;
    let theirs = open(&doomed).ttl(2 * SECOND).await.unwrap();
    let mut guards = Vec::new();
    let error = loop {
        match theirs.try_lock(format!("lock-{}", guards.len())).await {
            Ok(guard) => guards.push(guard.expect("it is free")),
            Err(error) => break error,
        }
        assert!(guards.len() < 1_000);
    };
    assert!(matches!(error.kind(), ErrorKind::BucketFull), "{error}");
    assert!(guards.len() > 10, "{}", guards.len());
    let ours = open(&world.store).await.unwrap();
    assert!(matches!(ours.lock("another").wait(SOON).await.unwrap_err().kind(), ErrorKind::BucketFull));
    // A full bucket still accepts renewals.
    let guard = guards.pop().expect("there are some");
    guard.ensure(1_200 * Duration::from_millis(1)).await.unwrap();
    doomed.close().await.unwrap();
    for name in ["another", "lock-0"] {
        let again = async || ours.try_lock(name).await.ok().flatten();
        harness::wait::until("the leases expire", SOON, again).await.release().await.unwrap();
    }
}

on_both_backends! {
    needs Locks;

    async fn the_locks_of_a_full_bucket_expire(world: World) {
        for storage in [Storage::File, Storage::Memory] {
            let name = unique("locks");
            locks_of_a_full_bucket_expire(&world, |store| store.locks(&name).max_bytes(16_384).storage(storage)).await;
            let bucket: Bucket<crate::support::Junk> = crate::support::seen_as(&world, &name).await;
            assert_eq!((bucket.config().max_bytes, bucket.config().storage), (Some(16_384), Some(storage)));
        }
    }
}

/// On a cluster, each server must have room before it replaces a record.
#[tokio::test]
async fn the_locks_of_a_full_replicated_bucket_expire() {
    needs!(Locks);
    let cluster = Cluster::start(3).await;
    let world = World::at(&cluster.urls()).await;
    locks_of_a_full_bucket_expire(&world, |store| store.locks("jobs").max_bytes(16_384).replicas(3)).await;
}

#[tokio::test]
async fn an_account_that_requires_max_bytes_can_have_each_recipe() {
    needs!(Locks);
    let config = r#"
        accounts { A { jetstream { max_mem: 64MB, max_store: 64MB, max_bytes_required: true }, users [{ user: a, password: a }] } }
        no_auth_user: a
    "#;
    let server = Server::builder().config(config).start().await;
    let store = World::at(&server.url()).await.store;
    store.locks("control").await.expect_err("the account requires a limit");
    let (size, me) = (1 << 20, "me".to_owned());
    let locks = store.locks("locks").max_bytes(size).await.unwrap();
    locks.lock("a").await.unwrap().release().await.unwrap();
    store.election::<String>("boss").max_bytes(size).campaign(&me).await.unwrap().resign().await.unwrap();
    store.semaphore("gpu", 2).max_bytes(size).acquire().await.unwrap().release().await.unwrap();
    store.group::<String>("nodes").max_bytes(size).join("me", &me).await.unwrap().leave().await.unwrap();
    assert_eq!(store.once::<u32>("jobs").max_bytes(size).run("a", || async { 1 }).await.unwrap(), 1);
    assert_eq!(store.ids("orders").max_bytes(size).await.unwrap().next().await.unwrap(), 1);
    let counters = store.counters("hits").max_bytes(size).await.unwrap();
    assert_eq!((counters.add("home", 3).await.unwrap(), counters.is_server_side()), (3, false));
    let limiter = store.rate_limiter("api", Quota::per_hour(2)).max_bytes(size).await.unwrap();
    assert!(limiter.check("ada").await.unwrap().is_allowed());
}
