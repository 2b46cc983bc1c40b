//! Locks on the memory backend and on a server: mutual exclusion, notification, handover and loss.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::future::join_all;
use kvtyped::config::LimitMarkers;
use kvtyped::prelude::*;
use kvtyped::recipes::Locks;
use kvtyped::{ErrorKind, Read};

use crate::needs::needs;
use crate::support::{
    Document, ExclusionCheck, ForeignRecord, ForeignRecordKey, Session, SessionKey, World, on_both_backends, seen_as,
    unique,
};

const SECOND: Duration = Duration::from_secs(1);

/// Waits until `many` waiters are queued for the lock `a` of a bucket.
async fn until_so_many_wait(world: &World, bucket: &str, many: usize) {
    let records: Bucket<ForeignRecord> =
        world.store.bucket().name(bucket).must_exist().on_drift(Drift::Adopt).await.unwrap();
    harness::wait::until("the waiters are queued", 20 * SECOND, async || {
        let keys = records.keys(ForeignRecordKey::filter().recipe("lock").name("a")).await.unwrap();
        let tickets = keys.try_fold(0, async |count, key| Ok(count + usize::from(key.part.starts_with("ticket-"))));
        (tickets.await.unwrap() == many).then_some(())
    })
    .await;
}

/// Returns a handle to locks in a bucket that no other test uses.
fn fresh(world: &World) -> Locks {
    world.store.locks(unique("locks"))
}

on_both_backends! {
    needs Locks;

    async fn lock_has_a_single_holder(world: World) {
        let locks = fresh(&world).await.unwrap();
        let guard = locks.lock("invoice-42").await.unwrap();
        assert!(guard.is_held());
        assert_eq!(guard.name(), "invoice-42");
        assert!(locks.try_lock("invoice-42").await.unwrap().is_none());
        let other = locks.try_lock("invoice-43").await.unwrap().expect("another name is another lock");
        other.release().await.unwrap();
        let fence = guard.fence();
        guard.release().await.unwrap();
        let again = locks.try_lock("invoice-42").await.unwrap().expect("it was given back");
        assert!(again.fence() > fence);
    }

    async fn lease_handed_to_a_served_ticket_goes_on_at_once(world: World) {
        // A watch may skip states. So a holder can miss the term of a ticket, and hand the lease over to it again.
        let name = unique("locks");
        let [first, second, third] = [(); 3].map(|()| world.store.locks(&name).ttl(30 * SECOND));
        let wait = async |locks: Locks, guard: LockGuard| {
            let waiting = tokio::spawn(async move { locks.lock("a").await.map(|guard| (guard, locks)) });
            until_so_many_wait(&world, &name, 1).await;
            guard.release().await.unwrap();
            waiting.await.unwrap().unwrap()
        };
        // Only a holder that has waited knows the waiters, and hands the lease over.
        let guard = third.lock("a").await.unwrap();
        let (guard, _first) = wait(first, guard).await;
        until_so_many_wait(&world, &name, 0).await;
        let (guard, _second) = wait(second, guard).await;
        let records: Bucket<ForeignRecord> = seen_as(&world, &name).await;
        let lease = ForeignRecordKey::new("lock", "a", "lease");
        let served = records.get(&lease).read(Read::Leader).await.unwrap().expect("it is held").into_value();
        assert!(served.text.contains("\"ticket\":"), "it was handed over: {}", served.text);
        guard.release().await.unwrap();
        records.put(&served).ttl(30 * SECOND).await.unwrap();
        let guard = third.lock("a").wait(10 * SECOND).await.expect("the served ticket passes the lease on");
        guard.release().await.unwrap();
    }

    async fn lock_handles_share_locks_by_name(world: World) {
        let name = unique("locks");
        let here = world.store.locks(&name).await.unwrap();
        let there = world.store.locks(&name).await.unwrap();
        let guard = here.lock("a").await.unwrap();
        assert!(there.try_lock("a").await.unwrap().is_none());
        guard.release().await.unwrap();
        let guard = there.try_lock("a").await.unwrap().expect("free");
        assert!(here.try_lock("a").await.unwrap().is_none());
        guard.release().await.unwrap();
        // The state that this handle remembers of the lock is outdated.
        assert!(here.try_lock("a").await.unwrap().is_some());
    }

    async fn waiter_acquires_released_lock(world: World) {
        let name = unique("locks");
        let here = world.store.locks(&name).await.unwrap();
        let there = world.store.locks(&name).await.unwrap();
        for locks in [&here, &there] {
            let guard = here.lock("a").await.unwrap();
            let waiter = tokio::spawn(locks.lock("a").into_future());
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert!(!waiter.is_finished());
            guard.release().await.unwrap();
            waiter.await.unwrap().unwrap().release().await.unwrap();
        }
    }

    async fn expired_wait_is_a_timeout(world: World) {
        let locks = fresh(&world).await.unwrap();
        let guard = locks.lock("a").await.unwrap();
        let error = locks.lock("a").wait(Duration::from_millis(50)).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Timeout { .. }), "{error}");
        assert_eq!((error.operation(), error.key()), (Some("lock"), Some("a")));
        guard.release().await.unwrap();
        locks.lock("a").wait(20 * SECOND).await.unwrap().release().await.unwrap();
    }

    async fn dropped_guard_releases_lock(world: World) {
        let name = unique("locks");
        let here = world.store.locks(&name).await.unwrap();
        drop(here.lock("a").await.unwrap());
        let there = world.store.locks(&name).await.unwrap();
        there.lock("a").wait(20 * SECOND).await.unwrap().release().await.unwrap();
    }

    async fn lock_holder_is_readable(world: World) {
        let locks = fresh(&world).owner("worker-7").await.unwrap();
        assert_eq!(locks.holder("a.*").await.unwrap(), None);
        let guard = locks.lock("a.*").note("monthly run").await.unwrap();
        let holder = locks.holder("a.*").await.unwrap().expect("it is held");
        assert_eq!((holder.owner.as_str(), holder.note.as_deref()), ("worker-7", Some("monthly run")));
        assert_eq!(holder.fence, guard.fence());
        assert!(holder.since.elapsed().unwrap_or_default() < 60 * SECOND);
        guard.release().await.unwrap();
        assert_eq!(locks.holder("a.*").await.unwrap(), None);
    }

    async fn renewal_keeps_fence_and_extends_lease(world: World) {
        let locks = fresh(&world).ttl(2 * SECOND).await.unwrap();
        let guard = locks.lock("a").await.unwrap();
        tokio::time::sleep(3 * SECOND).await;
        guard.check().unwrap();
        assert_eq!(locks.holder("a").await.unwrap().expect("it is held").fence, guard.fence());
        guard.ensure_remaining(SECOND).await.unwrap();
        assert!(guard.remaining() > SECOND - Duration::from_millis(300));
        assert!(matches!(guard.ensure_remaining(2 * SECOND).await.unwrap_err().kind(), ErrorKind::InvalidConfig { .. }));
        guard.release().await.unwrap();
    }

    async fn guard_run_completes_work(world: World) {
        let locks = fresh(&world).await.unwrap();
        let guard = locks.lock("a").await.unwrap();
        assert_eq!(guard.run(async { 7 }).await.unwrap(), 7);
        guard.release().await.unwrap();
    }

    async fn lock_excludes_concurrent_workers(world: World) {
        let name = unique("locks");
        let check = Arc::new(ExclusionCheck::default());
        let mut workers = Vec::new();
        for worker in 0..8 {
            let locks = world.store.locks(&name).owner(format!("worker-{worker}")).await.unwrap();
            let check = Arc::clone(&check);
            workers.push(tokio::spawn(async move {
                for _ in 0..10 {
                    let guard = locks.lock("room").await.unwrap();
                    check.visit(&guard).await;
                    guard.release().await.unwrap();
                }
            }));
        }
        for worker in workers {
            worker.await.unwrap();
        }
        assert_eq!(check.visits.load(Ordering::SeqCst), 80);
    }

    async fn fair_waiters_acquire_in_order(world: World) {
        let name = unique("locks");
        let first = world.store.locks(&name).fair().await.unwrap();
        let guard = first.lock("a").await.unwrap();
        let order = Arc::new(std::sync::Mutex::new(Vec::new()));
        let mut waiters = Vec::new();
        for number in 0..5 {
            let locks = world.store.locks(&name).fair().await.unwrap();
            let order = Arc::clone(&order);
            waiters.push(tokio::spawn(async move {
                let guard = locks.lock("a").await.unwrap();
                order.lock().unwrap().push(number);
                guard.release().await.unwrap();
            }));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(first.try_lock("a").await.unwrap().is_none());
        guard.release().await.unwrap();
        join_all(waiters).await.into_iter().for_each(|waiter| waiter.unwrap());
        assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4]);
    }

    async fn fair_try_lock_yields_to_waiters(world: World) {
        let name = unique("locks");
        let fair = world.store.locks(&name).fair().await.unwrap();
        let guard = fair.try_lock("a").await.unwrap().expect("the lock is free and has no waiters");
        guard.release().await.unwrap();
        let records: Bucket<ForeignRecord> = world.store.bucket().name(&name).must_exist().on_drift(Drift::Adopt).await.unwrap();
        let ticket = r#"{"v":1,"id":"of-another","owner":"another","since":0}"#;
        records.put(&ForeignRecord::new("lock", "a", "ticket-of-another", ticket)).ttl(30 * SECOND).await.unwrap();
        assert!(fair.try_lock("a").await.unwrap().is_none(), "a fair attempt yields to a waiter");
        let others = world.another().await.locks(&name).await.unwrap();
        let guard = others.try_lock("a").await.unwrap().expect("an attempt that is not fair ignores waiters");
        guard.release().await.unwrap();
        assert!(fair.try_lock("b").await.unwrap().is_some(), "waiters for another lock do not count");
    }

    async fn lock_is_handed_over_with_growing_fences(world: World) {
        let name = unique("locks");
        let locks = async |owner: &str| world.another().await.locks(&name).fair().owner(owner).await.unwrap();
        let guard = locks("one").await.lock("a").await.unwrap();
        let mut waiters = Vec::new();
        until_so_many_wait(&world, &name, 0).await;
        for (owner, many) in [("two", 1), ("three", 2)] {
            let locks = locks(owner).await;
            waiters.push(tokio::spawn(async move { (locks.lock("a").await.unwrap(), locks) }));
            until_so_many_wait(&world, &name, many).await;
        }
        let mut guard = guard;
        let mut fences = vec![guard.fence()];
        for (waiter, owner) in waiters.into_iter().zip(["two", "three"]) {
            guard.release().await.unwrap();
            let (next, locks) = waiter.await.unwrap();
            let holder = locks.holder("a").await.unwrap().expect("it is held");
            assert_eq!((holder.owner.as_str(), holder.fence), (owner, next.fence()));
            next.ensure_remaining(20 * SECOND).await.unwrap();
            fences.push(next.fence());
            guard = next;
        }
        assert!(fences.is_sorted_by(|one, other| one < other), "{fences:?}");
        guard.release().await.unwrap();
    }

    async fn abandoned_waiter_does_not_block_queue(world: World) {
        let name = unique("locks");
        let locks = async || world.another().await.locks(&name).fair().await.unwrap();
        let guard = locks().await.lock("a").await.unwrap();
        let error = locks().await.lock("a").wait(200 * SECOND / 1_000).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Timeout { .. }), "{error}");
        until_so_many_wait(&world, &name, 0).await;
        let next = locks().await;
        let next = tokio::spawn(async move { next.lock("a").wait(20 * SECOND).await.map(drop) });
        until_so_many_wait(&world, &name, 1).await;
        guard.release().await.unwrap();
        next.await.unwrap().unwrap();
        until_so_many_wait(&world, &name, 0).await;
    }

    async fn dead_waiter_unblocks_queue_after_ttl(world: World) {
        let (name, ttl) = (unique("locks"), 2 * SECOND);
        let open = async |store: &Store| store.locks(&name).fair().ttl(ttl).await.unwrap();
        let guard = open(&world.another().await).await.lock("a").await.unwrap();
        until_so_many_wait(&world, &name, 0).await;
        let (dies, lives) = (world.another().await, world.another().await);
        let mut waiters = Vec::new();
        for (store, many) in [(&dies, 1), (&lives, 2)] {
            let locks = open(store).await;
            waiters.push(tokio::spawn(async move { locks.lock("a").await.map(|guard| guard.fence()) }));
            until_so_many_wait(&world, &name, many).await;
        }
        dies.close().await.unwrap();
        guard.release().await.unwrap();
        let released = tokio::time::Instant::now();
        waiters.remove(1).await.unwrap().unwrap();
        assert!(released.elapsed() < ttl + 4 * SECOND, "{:?}", released.elapsed());
    }

    async fn waiters_report_deleted_bucket(world: World) {
        let name = unique("locks");
        let locks = world.store.locks(&name).await.unwrap();
        let _guard = locks.lock("a").await.unwrap();
        let waiters: Vec<_> = [locks.clone(), world.another().await.locks(&name).fair().await.unwrap()]
            .into_iter()
            .map(|locks| tokio::spawn(async move { locks.lock("a").await.map(drop) }))
            .collect();
        until_so_many_wait(&world, &name, 2).await;
        assert!(world.store.delete_bucket(&name).await.unwrap());
        for waiter in waiters {
            let error = waiter.await.unwrap().unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::BucketNotFound), "{error}");
        }
    }

    async fn record_lock_fences_writes(world: World) {
        let sessions = world.bucket::<Session>().await;
        let session = Session::new("acme", 7);
        let guard = sessions.lock(&session.key()).ttl(SECOND).await.unwrap();
        let revision = sessions.put(&session).fenced_by(&guard).await.unwrap();
        assert_eq!(sessions.get(&session.key()).await.unwrap().unwrap().revision(), revision);

        // Prepared while the lock is held, and sent when another client holds it.
        let late = session.clone().visited(9);
        let late = sessions.put(&late).fenced_by(&guard);
        guard.release().await.unwrap();
        let next = sessions.lock(&session.key()).await.unwrap();
        let error = late.await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Fenced), "{error}");
        assert_eq!(error.outcome(), Outcome::NotApplied);
        assert_eq!(sessions.get(&session.key()).await.unwrap().unwrap().visits, 0);
        sessions.put(&session.clone().visited(1)).fenced_by(&next).await.unwrap();
        next.release().await.unwrap();
    }

    async fn every_write_can_be_fenced(world: World) {
        needs!(world, FencedUpdates);
        let sessions = world.bucket::<Session>().await;
        let session = |visits| Session::new("acme", 7).visited(visits);
        let key = session(0).key();
        let guard = sessions.lock(&key).await.unwrap();
        let revision = sessions.create(&session(1)).fenced_by(&guard).await.unwrap();
        let error = sessions.create(&session(1)).fenced_by(&guard).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::AlreadyExists), "{error}");
        let updated = sessions.update(&session(2), revision).fenced_by(&guard).await.unwrap();
        let error = sessions.update(&session(2), revision).fenced_by(&guard).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Conflict { .. }), "{error}");
        assert_eq!(sessions.modify(&key, |it| it.visits += 1).fenced_by(&guard).await.unwrap().visits, 3);
        let refuse = sessions.try_modify(&key, |_| Err::<(), _>("no")).fenced_by(&guard).await.unwrap_err();
        assert!(matches!(refuse, ModifyError::Closure("no")));
        sessions.touch(&key).ttl(60 * SECOND).fenced_by(&guard).await.unwrap();
        sessions.delete(&key).fenced_by(&guard).await.unwrap();
        sessions.transform(&key, |_| Change::Put(session(4))).fenced_by(&guard).await.unwrap();
        let latest = sessions.get(&key).read(Read::Leader).await.unwrap().expect("written").revision();
        assert!(latest > updated);
        let error = sessions.purge(&key).if_revision(updated).fenced_by(&guard).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Conflict { .. }), "{error}");
        sessions.purge(&key).if_revision(latest).fenced_by(&guard).await.unwrap();
        let latest = sessions.put(&session(5)).fenced_by(&guard).await.unwrap();
        let held = sessions.transaction().update(&session(5), latest).put(&Session::new("acme", 9)).fenced_by(&guard);
        let latest = held.commit().await.unwrap().revisions()[0];

        // Prepared while the lock is held, and sent when another client holds it.
        let (five, six) = (session(5), session(6));
        let put = sessions.put(&six).fenced_by(&guard);
        let create = sessions.create(&six).fenced_by(&guard);
        let update = sessions.update(&six, latest).fenced_by(&guard);
        let modify = sessions.modify(&key, |it| it.visits += 1).fenced_by(&guard);
        let transform = sessions.transform(&key, |_| Change::Delete).fenced_by(&guard);
        let touch = sessions.touch(&key).ttl(60 * SECOND).fenced_by(&guard);
        let delete = sessions.delete(&key).fenced_by(&guard);
        let purge = sessions.purge(&key).if_revision(latest).fenced_by(&guard);
        let transaction = sessions.transaction().put(&six).create(&Session::new("acme", 8)).fenced_by(&guard);
        guard.release().await.unwrap();
        let next = sessions.lock(&key).await.unwrap();
        for error in [
            transaction.commit().await.unwrap_err(),
            put.await.unwrap_err(),
            update.await.unwrap_err(),
            modify.await.unwrap_err(),
            transform.await.unwrap_err(),
            touch.await.unwrap_err(),
            delete.await.unwrap_err(),
            purge.await.unwrap_err(),
        ] {
            assert!(matches!(error.kind(), ErrorKind::Fenced), "{error}");
            assert_eq!(error.outcome(), Outcome::NotApplied);
        }
        assert!(create.await.is_err());
        let entry = sessions.get(&key).read(Read::Leader).await.unwrap().expect("untouched");
        assert_eq!((entry.revision(), entry.value()), (latest, &five));
        next.release().await.unwrap();
    }

    async fn renewals_do_not_disturb_fenced_writes(world: World) {
        let sessions = world.bucket::<Session>().await;
        let session = Session::new("acme", 7);
        let lock = sessions.lock(&session.key()).ttl(2 * SECOND).renew_every(Duration::from_millis(50));
        let guard = lock.await.unwrap();
        let end = tokio::time::Instant::now() + SECOND;
        let mut writes = 0;
        while tokio::time::Instant::now() < end {
            sessions.put(&session).fenced_by(&guard).await.unwrap();
            writes += 1;
        }
        assert!(writes > 10);
        guard.release().await.unwrap();
    }

    async fn lists_and_caches_hide_locks(world: World) {
        let sessions = world.bucket::<Session>().await;
        let session = Session::new("acme", 7);
        sessions.put(&session).await.unwrap();
        let cache = sessions.cache(..).await.unwrap();
        let guard = sessions.lock(&session.key()).await.unwrap();
        let keys: Vec<SessionKey> = sessions.keys(..).await.unwrap().try_collect().await.unwrap();
        assert_eq!(keys, [session.key()]);
        assert_eq!(sessions.list(..).await.unwrap().count().await, 1);
        let revision = sessions.put(&session.clone().visited(1)).fenced_by(&guard).await.unwrap();
        cache.wait_for_revision(revision).await.unwrap();
        assert_eq!(cache.len(), 1);
        assert!(cache.last_error().is_none());
        assert_eq!(sessions.lock_holder(&session.key()).await.unwrap().expect("held").fence, guard.fence());
        guard.release().await.unwrap();
    }

    async fn fence_of_other_bucket_is_rejected(world: World) {
        let (here, there) = (world.bucket::<Session>().await, world.bucket::<Session>().await);
        let session = Session::new("acme", 7);
        let other_store = there.lock(&session.key()).await.unwrap();
        let by_name = fresh(&world).await.unwrap().lock("acme.7").await.unwrap();
        for guard in [&other_store, &by_name] {
            let error = here.put(&session).fenced_by(guard).await.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error}");
        }
        assert_eq!(here.get(&session.key()).await.unwrap(), None);
    }

    async fn locks_reject_unsuitable_bucket(world: World) {
        let history = world.fresh::<Document>().history(5).limit_markers(60 * SECOND).await.unwrap();
        let short = world.fresh::<Session>().ttl(10 * SECOND).await.unwrap();
        let small = world.fresh::<Session>().max_value_size(200).limit_markers(60 * SECOND).await.unwrap();
        for name in [history.name(), short.name(), small.name()] {
            let error = world.store.locks(name).await.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Unsupported { .. }), "{name}: {error}");
        }
    }

    async fn missing_limit_markers_error_names_remedy(world: World) {
        let open = world.fresh::<Session>().limit_markers(LimitMarkers::Off).await.unwrap();
        let error = world.store.locks(open.name()).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Unsupported { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(".limit_markers(..)") && text.contains("Drift::Update"), "{text}");
        let marked = world.store.bucket::<Session>().name(open.name()).limit_markers(60 * SECOND);
        marked.on_drift(Drift::Update).await.unwrap();
        world.store.locks(open.name()).await.expect("the remedy helps").lock("a").await.unwrap().release().await.unwrap();
    }

    async fn record_bucket_can_hold_named_locks(world: World) {
        let sessions = world.bucket::<Session>().await;
        let locks = world.store.locks(sessions.name()).await.unwrap();
        let guard = locks.lock("acme.7").await.unwrap();
        assert_eq!(sessions.list(..).await.unwrap().count().await, 0);
        guard.release().await.unwrap();
    }

    async fn invalid_lease_times_are_rejected(world: World) {
        for locks in [
            fresh(&world).ttl(Duration::from_millis(999)),
            fresh(&world).ttl(3 * SECOND).safety_margin(3 * SECOND),
            fresh(&world).ttl(3 * SECOND).renew_every(3 * SECOND),
        ] {
            let error = locks.await.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error}");
        }
    }
}
