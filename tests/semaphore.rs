//! Semaphores on the memory backend and on a server: the limit is never exceeded, and no permit is lost forever.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures::future::join_all;
use harness::{Mode, Proxy};
use kvtyped::ErrorKind;
use kvtyped::prelude::*;
use kvtyped::recipes::Lease;
use tokio::time::Instant;

use crate::needs::needs;
use crate::support::{ForeignRecord, SOON, World, dropped_after, on_both_backends, seen_as, unique};

const SECOND: Duration = Duration::from_secs(1);

/// Tracks the number of permit holders and its maximum.
#[derive(Default)]
struct ExclusionCheck {
    inside: AtomicU32,
    most: AtomicU32,
    visits: AtomicU32,
}

impl ExclusionCheck {
    async fn visit(&self, lease: &Lease) {
        let inside = self.inside.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(inside, Ordering::SeqCst);
        self.visits.fetch_add(1, Ordering::SeqCst);
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        assert!(lease.is_held());
        self.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

on_both_backends! {
    needs Semaphores;

    async fn semaphore_grants_at_most_its_permits(world: World) {
        let name = unique("semaphore");
        let here = world.store.semaphore(&name, 3);
        let there = world.another().await.semaphore(&name, 3);
        assert_eq!((here.permits(), there.available().await.unwrap()), (3, 3));
        let mut permits = Vec::new();
        for free in (0..3).rev() {
            permits.push(if free % 2 == 0 { here.acquire().await } else { there.acquire().await }.unwrap());
            assert_eq!(here.available().await.unwrap(), free);
        }
        let slots: BTreeSet<_> = permits.iter().map(kvtyped::recipes::Permit::slot).collect();
        assert_eq!(slots, BTreeSet::from([0, 1, 2]));
        assert!(here.try_acquire().await.unwrap().is_none());
        let error = there.acquire().wait(Duration::from_millis(100)).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Timeout { .. }), "{error}");
        assert_eq!(error.operation(), Some("acquire"));
        let (slot, fence) = (permits[1].slot(), permits[1].fence());
        permits.remove(1).release().await.unwrap();
        let next = there.try_acquire().await.unwrap().expect("one is free");
        assert_eq!(next.slot(), slot);
        assert!(next.fence() > fence);
        for permit in permits.into_iter().chain([next]) {
            permit.release().await.unwrap();
        }
        assert_eq!(here.available().await.unwrap(), 3);
    }

    async fn waiter_acquires_any_released_permit(world: World) {
        let name = unique("semaphore");
        let semaphore = world.store.semaphore(&name, 2);
        for slot in [0, 1] {
            let mut permits = [semaphore.acquire().await.unwrap(), semaphore.acquire().await.unwrap()];
            permits.sort_by_key(kvtyped::recipes::Permit::slot);
            let waiter = tokio::spawn(world.another().await.semaphore(&name, 2).acquire().into_future());
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert!(!waiter.is_finished());
            let [low, high] = permits;
            let (given, kept) = if slot == 0 { (low, high) } else { (high, low) };
            // Dropped or released.
            if slot == 0 { drop(given) } else { given.release().await.unwrap() }
            let taken = waiter.await.unwrap().unwrap();
            assert_eq!(taken.slot(), slot);
            taken.release().await.unwrap();
            kept.release().await.unwrap();
        }
    }

    async fn concurrent_workers_never_exceed_permits(world: World) {
        let name = unique("semaphore");
        let check = Arc::new(ExclusionCheck::default());
        let mut workers = Vec::new();
        for _ in 0..8 {
            let semaphore = world.another().await.semaphore(&name, 3);
            let check = Arc::clone(&check);
            workers.push(tokio::spawn(async move {
                for _ in 0..6 {
                    let permit = semaphore.acquire().await.unwrap();
                    check.visit(&permit).await;
                    permit.release().await.unwrap();
                }
            }));
        }
        join_all(workers).await.into_iter().for_each(|worker| worker.unwrap());
        assert_eq!(check.visits.load(Ordering::SeqCst), 48);
        let most = check.most.load(Ordering::SeqCst);
        assert!((2..=3).contains(&most), "{most} at once");
    }

    async fn dropped_acquire_holds_no_permit(world: World) {
        let name = unique("semaphore");
        let semaphore = world.store.semaphore(&name, 2);
        for steps in 0..60 {
            dropped_after(semaphore.acquire(), steps).await;
        }
        let both = [semaphore.acquire().wait(SOON).await.unwrap(), semaphore.acquire().wait(SOON).await.unwrap()];
        assert!(semaphore.try_acquire().await.unwrap().is_none());
        drop(both);
    }

    async fn aborted_task_releases_permit(world: World) {
        let name = unique("semaphore");
        let semaphore = world.store.semaphore(&name, 1);
        let (taken, is_taken) = tokio::sync::oneshot::channel();
        let doomed = semaphore.clone();
        let task = tokio::spawn(async move {
            let permit = doomed.acquire().await.unwrap();
            taken.send(()).unwrap();
            permit.run(std::future::pending::<()>()).await
        });
        is_taken.await.unwrap();
        assert_eq!(semaphore.available().await.unwrap(), 0);
        task.abort();
        semaphore.acquire().wait(SOON).await.unwrap().release().await.unwrap();
    }

    async fn permit_of_dead_holder_expires(world: World) {
        let name = unique("semaphore");
        let doomed = world.another().await;
        let semaphore = world.store.semaphore(&name, 2).ttl(SECOND);
        let kept = semaphore.acquire().await.unwrap();
        let _dead = doomed.semaphore(&name, 2).ttl(SECOND).acquire().await.unwrap();
        doomed.close().await.unwrap();
        let returned = semaphore.acquire().wait(SOON).await.unwrap();
        assert_ne!(returned.slot(), kept.slot());
        kept.check().unwrap();
    }

    async fn largest_of_conflicting_permit_counts_applies(world: World) {
        let name = unique("semaphore");
        let (few, many) = (world.store.semaphore(&name, 1), world.store.semaphore(&name, 3));
        let mut permits = Vec::new();
        while let Some(permit) = many.try_acquire().await.unwrap() {
            permits.push(permit);
        }
        assert_eq!(permits.len(), 3);
        assert!(few.try_acquire().await.unwrap().is_none());
        assert_eq!(few.available().await.unwrap(), 0);
        permits.retain(|permit| permit.slot() != 0);
        let permit = few.acquire().wait(SOON).await.unwrap();
        assert!(many.try_acquire().await.unwrap().is_none());
        permit.release().await.unwrap();
    }

    async fn undecodable_slot_counts_as_taken(world: World) {
        let name = unique("semaphore");
        let semaphore = world.store.semaphore(&name, 2).ttl(SECOND);
        semaphore.acquire().await.unwrap().release().await.unwrap();
        let junk = seen_as::<ForeignRecord>(&world, &name).await;
        junk.put(&ForeignRecord::new("semaphore", &name, "1", "junk")).await.unwrap();
        for part in ["7", "x", "-1", "99999999999999999999"] {
            junk.put(&ForeignRecord::new("semaphore", &name, part, "junk")).await.unwrap();
        }
        assert_eq!(semaphore.available().await.unwrap(), 1);
        let permit = semaphore.acquire().wait(SOON).await.unwrap();
        assert_eq!(permit.slot(), 0);
        let waiter = tokio::spawn(semaphore.acquire().wait(SOON).into_future());
        tokio::time::sleep(Duration::from_millis(50)).await;
        permit.release().await.unwrap();
        assert_eq!(waiter.await.unwrap().unwrap().slot(), 0);
    }

    async fn invalid_permit_counts_are_rejected(world: World) {
        for permits in [0, 4_097, u32::MAX] {
            let semaphore = world.store.semaphore(unique("semaphore"), permits);
            for error in [
                semaphore.acquire().await.unwrap_err(),
                semaphore.try_acquire().await.unwrap_err(),
                semaphore.available().await.unwrap_err(),
            ] {
                assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn permit_is_lost_before_it_is_granted_again() {
    let world = World::memory();
    let doomed = world.another().await;
    let permit = doomed.semaphore("s", 1).acquire().await.unwrap();
    let start = Instant::now();
    doomed.close().await.unwrap();
    let semaphore = world.store.semaphore("s", 1);
    let (lost, taken) = tokio::join!(
        async {
            permit.lost().await;
            start.elapsed()
        },
        async {
            let taken = semaphore.acquire().await.unwrap();
            (start.elapsed(), taken)
        }
    );
    assert!(lost <= 27 * SECOND && taken.0 >= 30 * SECOND && taken.0 < 32 * SECOND, "{lost:?}, {taken:?}");
}

#[tokio::test]
async fn disconnected_permit_is_lost_before_next_grant() {
    needs!(Semaphores);
    let server = harness::shared().await;
    let proxy = Proxy::start(server.addr()).await;
    let name = unique("semaphore");
    let through = World::at(&proxy.url()).await.store.semaphore(&name, 2).ttl(3 * SECOND);
    let past = World::at(&server.url()).await.store.semaphore(&name, 2).ttl(3 * SECOND);
    let held = past.acquire().await.unwrap();
    let permit = through.acquire().await.unwrap();
    proxy.set(Mode::Refuse);
    proxy.cut();
    let other = tokio::spawn(past.acquire().wait(2 * SOON).into_future());
    assert!(permit.run(std::future::pending::<()>()).await.is_err());
    assert!(!other.is_finished(), "another had it before it was lost here");
    assert_eq!(other.await.unwrap().unwrap().slot(), permit.slot());
    held.check().unwrap();
}
