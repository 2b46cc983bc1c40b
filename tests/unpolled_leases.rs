//! Futures that are polled once and then left, as `select!` and `buffer_unordered` do. They block no other caller.

use std::pin::Pin;

use kvtyped::prelude::*;
use kvtyped::recipes::Quota;

use crate::support::{SOON, on_both_backends, unique};

/// The minimum TTL.
const TTL: Duration = Duration::from_secs(1);

/// Polls a future once.
async fn polled_once<F: IntoFuture>(future: F) -> Pin<Box<F::IntoFuture>> {
    let mut future = Box::pin(future.into_future());
    let _ = futures::poll!(&mut future);
    future
}

on_both_backends! {
    needs Locks;

    async fn unreceived_lock_expires_after_ttl(world: World) {
        let name = unique("locks");
        let locks = world.store.locks(&name).ttl(TTL).await.unwrap();
        let other_store = world.another().await.locks(&name).ttl(TTL).await.unwrap();
        for others in [&locks, &other_store] {
            let left = polled_once(locks.lock("a")).await;
            harness::wait::until("it has the lock", SOON, async || locks.holder("a").await.unwrap()).await;
            others.lock("a").wait(SOON).await.expect("the lease expired").release().await.unwrap();
            // A guard that is received late is valid.
            let guard = left.await.unwrap();
            assert!(guard.is_held());
            // A guard that its caller has is renewed.
            tokio::time::sleep(TTL * 3 / 2).await;
            assert!(guard.is_held());
            guard.release().await.unwrap();
        }
    }

    async fn lock_of_unpolled_waiter_expires_after_ttl(world: World) {
        let name = unique("locks");
        for fair in [false, true] {
            let open = async |store: &Store| {
                let open = store.locks(&name).ttl(TTL);
                if fair { open.fair().await } else { open.await }.unwrap()
            };
            let (locks, other_store) = (open(&world.store).await, open(&world.another().await).await);
            let guard = locks.lock("a").await.unwrap();
            let left = polled_once(locks.lock("a").owner("left")).await;
            tokio::time::sleep(TTL / 5).await;
            guard.release().await.unwrap();
            let is_left = async || locks.holder("a").await.unwrap().filter(|holder| holder.owner == "left");
            harness::wait::until("it has the lock", SOON, is_left).await;
            for others in [&locks, &other_store] {
                others.lock("a").wait(SOON).await.expect("the lease expired").release().await.unwrap();
            }
            assert!(left.await.unwrap().is_held());
        }
    }

    async fn unreceived_try_lock_expires_after_ttl(world: World) {
        let locks = world.store.locks(unique("locks")).ttl(TTL).await.unwrap();
        let left = polled_once(locks.try_lock("a")).await;
        harness::wait::until("it has the lock", SOON, async || locks.holder("a").await.unwrap()).await;
        locks.lock("a").wait(SOON).await.expect("the lease expired").release().await.unwrap();
        assert!(left.await.unwrap().expect("it is free").is_held());
    }

    async fn unreceived_recipe_leases_expire_after_ttl(world: World) {
        let election = world.store.election::<String>(unique("boss")).ttl(TTL);
        let _left = polled_once(election.campaign(&"left".to_owned())).await;
        harness::wait::until("it leads", SOON, async || election.leader().await.unwrap()).await;
        let next = election.campaign(&"next".to_owned()).wait(SOON).await.expect("the lease expired");
        next.resign().await.unwrap();

        let semaphore = world.store.semaphore(unique("gpu"), 1).ttl(TTL);
        let _left = polled_once(semaphore.acquire()).await;
        let taken = async || (semaphore.available().await.unwrap() == 0).then_some(());
        harness::wait::until("it has the permit", SOON, taken).await;
        semaphore.acquire().wait(SOON).await.expect("the lease expired").release().await.unwrap();

        let group = world.store.group::<String>(unique("nodes")).ttl(TTL);
        for patient in [false, true] {
            let join = group.join("a", &"left".to_owned());
            let _left = polled_once(if patient { join.wait(SOON) } else { join }).await;
            harness::wait::until("it is there", SOON, async || group.get("a").await.unwrap()).await;
            let next = group.join("a", &"next".to_owned()).wait(SOON).await.expect("the lease expired");
            next.leave().await.unwrap();
        }
    }

    async fn unpolled_once_run_expires_after_ttl(world: World) {
        let once = world.store.once::<u32>(unique("jobs")).ttl(TTL);
        let left = polled_once(once.run("a", || async { 1 })).await;
        // The run may have the lease already.
        tokio::time::sleep(TTL / 5).await;
        assert_eq!(once.run("a", || async { 2 }).wait(SOON).await.unwrap(), 2);
        assert_eq!(left.await.unwrap(), 2, "the first result stays");
    }

    async fn dropped_future_releases_lease_at_once(world: World) {
        let locks = world.store.locks(unique("locks")).await.unwrap();
        for after in [Duration::ZERO, Duration::from_millis(100)] {
            let left = polled_once(locks.lock("a")).await;
            tokio::time::sleep(after).await;
            drop(left);
            locks.lock("a").wait(SOON / 2).await.expect("long before the 30 s of its time to live").release().await.unwrap();
        }
    }

    async fn unpolled_call_does_not_block_handle(world: World) {
        let election = world.store.election::<String>(unique("boss"));
        let _left = polled_once(election.leader()).await;
        assert!(election.leader().await.unwrap().is_none());

        let ids = world.store.ids(unique("orders")).block(2).await.unwrap();
        let _left = polled_once(ids.next()).await;
        for _ in 0..5 {
            ids.next().await.unwrap();
        }

        let limiter = world.store.rate_limiter(unique("api"), Quota::per_hour(100)).await.unwrap();
        let _left = polled_once(limiter.check("ada")).await;
        assert!(limiter.check("grace").await.unwrap().is_allowed());
    }
}
