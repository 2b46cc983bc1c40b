//! Locks during failures of servers and connections.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_nats::jetstream;
use harness::{Cluster, Mode, Proxy, Server};
use kvtyped::ErrorKind;
use kvtyped::prelude::*;
use tokio::time::Instant;

use super::SECOND;
use crate::needs::needs;
use crate::support::{ExclusionCheck, ForeignRecord, ForeignRecordKey, OLD, Session, World, in_time, seen_as, unique};

/// P13: without a network, the guard reports the loss before the server can grant the lock to another client.
async fn lost_before_another_has_it(server: &Server, fault: impl AsyncFnOnce(&Proxy)) {
    let proxy = Proxy::start(server.addr()).await;
    let ttl = 3 * SECOND;
    let name = unique("locks");
    let through = World::at(&proxy.url()).await.store.locks(&name).ttl(ttl).await.unwrap();
    let past = World::at(&server.url()).await.store.locks(&name).ttl(ttl).await.unwrap();
    let guard = through.lock("a").await.unwrap();
    let other = tokio::spawn(past.lock("a").wait(60 * SECOND).into_future());
    fault(&proxy).await;
    // The lease may have been renewed at this moment.
    let latest = Instant::now() + ttl - SECOND;
    let work = guard.run(std::future::pending::<()>()).await;
    assert!(matches!(work.unwrap_err().kind(), ErrorKind::Lost));
    let late = Instant::now().saturating_duration_since(latest);
    assert!(late < SECOND, "it was lost {late:?} after its end");
    assert!(!other.is_finished(), "another had it before it was lost here");
    assert!(guard.remaining().is_zero() && !guard.is_held());
    let taken = other.await.unwrap().unwrap();
    assert!(taken.fence() > guard.fence());

    // P19: the former holder does not modify the lease of the new holder.
    proxy.set(Mode::Pass);
    assert!(matches!(guard.release().await.unwrap_err().kind(), ErrorKind::Lost));
    assert_eq!(past.holder("a").await.unwrap().expect("it is held").fence, taken.fence());
    taken.check().unwrap();
    taken.release().await.unwrap();
}

#[tokio::test]
async fn lock_on_refused_connection_is_lost_in_time() {
    needs!(Locks);
    lost_before_another_has_it(harness::shared().await, async |proxy| {
        proxy.set(Mode::Refuse);
        proxy.cut();
    })
    .await;
}

#[tokio::test]
async fn lock_on_stalled_connection_is_lost_in_time() {
    needs!(Locks);
    lost_before_another_has_it(harness::shared().await, async |proxy| proxy.set(Mode::Stall)).await;
}

#[tokio::test]
async fn lock_without_renewal_acks_is_lost() {
    needs!(Locks);
    // The renewals arrive, so no other client can acquire the lock. The guard must still rely only on acknowledged
    // renewals.
    let server = harness::shared().await;
    let proxy = Proxy::start(server.addr()).await;
    let name = unique("locks");
    let through = World::at(&proxy.url()).await.store.locks(&name).ttl(3 * SECOND).await.unwrap();
    let guard = through.lock("a").await.unwrap();
    proxy.set(Mode::DropReplies);
    guard.lost().await;
    assert!(guard.check().is_err());
    proxy.set(Mode::Pass);
    through.lock("a").wait(60 * SECOND).await.unwrap().release().await.unwrap();
}

/// The acknowledgement of a renewal is recovered. The renewal counts if it was applied.
#[tokio::test]
async fn lock_survives_short_loss_of_acks() {
    needs!(Locks);
    let server = harness::shared().await;
    let proxy = Proxy::start(server.addr()).await;
    let through = World::at(&proxy.url()).await.store.locks(unique("locks")).renew_every(SECOND).await.unwrap();
    let guard = through.lock("a").await.unwrap();
    for _ in 0..3 {
        let dropped = proxy.dropped_replies();
        proxy.set(Mode::DropReplies);
        proxy.await_dropped(dropped + 1).await;
        proxy.set(Mode::Pass);
        let held = through.holder("a").await.unwrap().expect("it is held");
        assert_eq!(held.fence, guard.fence());
        guard.check().unwrap();
    }
    guard.release().await.unwrap();
}

/// P13: the only server is frozen.
#[tokio::test]
async fn lock_on_frozen_server_is_lost_before_ttl() {
    needs!(Locks);
    let server = Server::start().await;
    let locks = World::at(&server.url()).await.store.locks("locks").ttl(3 * SECOND).await.unwrap();
    let guard = locks.lock("a").await.unwrap();
    let end = Instant::now() + 3 * SECOND;
    server.freeze();
    guard.lost().await;
    assert!(Instant::now() < end, "lost after its time to live");
    server.thaw();
    locks.lock("a").wait(60 * SECOND).await.unwrap().release().await.unwrap();
}

/// P15 on one server: the lock and its fencing token survive a restart that is shorter than the lease.
#[tokio::test]
async fn lock_survives_server_restart() {
    needs!(Locks);
    let server = Server::start().await;
    let sessions: Bucket<Session> = World::at(&server.url()).await.bucket().await;
    let session = Session::new("acme", 7);
    let guard = sessions.lock(&session.key()).ttl(15 * SECOND).renew_every(SECOND).await.unwrap();
    sessions.put(&session).fenced_by(&guard).await.unwrap();
    server.kill().await;
    server.restart().await;
    guard.ensure_remaining(13 * SECOND).await.unwrap();
    sessions.put(&session.clone().visited(1)).fenced_by(&guard).await.unwrap();
    assert_eq!(sessions.lock_holder(&session.key()).await.unwrap().expect("held").fence, guard.fence());
    guard.release().await.unwrap();
}

/// P4, P8: an acquisition on a hanging server ends within its timeout with an unknown outcome. If the acquisition is
/// applied later, the lease is released instead of remaining held until it expires.
#[tokio::test]
async fn abandoned_acquisition_is_released() {
    needs!(Locks);
    let server = Server::start().await;
    let store = World::at(&server.url()).await.store.with_timeout(2 * SECOND);
    let (locks, pool) = (store.locks("locks").await.unwrap(), store.semaphore("pool", 1));
    drop(pool.acquire().await.unwrap().release().await);
    server.freeze();
    let late = in_time("lock", SECOND, locks.lock("a").wait(SECOND)).await.unwrap_err();
    assert!(matches!(late.kind(), ErrorKind::Timeout { .. }), "{late:?}");
    let (lock, permit, election) = tokio::join!(
        in_time("try_lock", 2 * SECOND, locks.try_lock("b")),
        in_time("try_acquire", 2 * SECOND, pool.try_acquire()),
        in_time("campaign", SECOND, store.election::<String>("locks").campaign(&"me".to_owned()).wait(SECOND)),
    );
    let errors = [late, lock.unwrap_err(), permit.unwrap_err(), election.unwrap_err()];
    server.thaw();
    assert_eq!(errors[0].outcome(), Outcome::Unknown, "{:?}", errors[0]);
    assert!(!format!("{:?}", errors[0]).contains("held"), "the error names a holder without a read: {:?}", errors[0]);
    for error in &errors[1..3] {
        assert_eq!(error.outcome(), Outcome::Unknown, "{error:?}");
    }
    let started = Instant::now();
    for name in ["a", "b"] {
        locks.lock(name).wait(20 * SECOND).await.unwrap().release().await.unwrap();
    }
    pool.acquire().wait(20 * SECOND).await.unwrap().release().await.unwrap();
    assert!(started.elapsed() < 10 * SECOND, "acquiring the abandoned leases took {:?}", started.elapsed());
}

/// P8: a release also ends within its timeout. It continues in the background.
#[tokio::test]
async fn release_on_hanging_server_ends_in_time() {
    needs!(Locks);
    let server = Server::start().await;
    let store = World::at(&server.url()).await.store.with_timeout(2 * SECOND);
    let locks = store.locks("locks").await.unwrap();
    let group = store.group::<String>("nodes");
    let (guard, permit) = (locks.lock("a").await.unwrap(), store.semaphore("pool", 1).acquire().await.unwrap());
    let member = group.join("one", &"here".to_owned()).await.unwrap();
    let leadership = store.election::<String>("boss").campaign(&"me".to_owned()).await.unwrap();
    server.freeze();
    let (lock, permit, member, leadership) = tokio::join!(
        in_time("release of a lock", 2 * SECOND, guard.release()),
        in_time("release of a permit", 2 * SECOND, permit.release()),
        in_time("leave", 2 * SECOND, member.leave()),
        in_time("resign", 2 * SECOND, leadership.resign()),
    );
    for error in [lock, permit, member, leadership] {
        assert_eq!(error.unwrap_err().outcome(), Outcome::Unknown);
    }
    server.thaw();
    let started = Instant::now();
    locks.lock("a").wait(20 * SECOND).await.unwrap().release().await.unwrap();
    store.semaphore("pool", 1).acquire().wait(20 * SECOND).await.unwrap().release().await.unwrap();
    assert!(started.elapsed() < 10 * SECOND, "they were kept for {:?}", started.elapsed());
}

/// An acquisition with a wait time also waits for a hanging server, beginning with the first attempt.
#[tokio::test]
async fn acquisition_waits_for_hanging_server() {
    needs!(Locks);
    let server = Server::start().await;
    let store = World::at(&server.url()).await.store.with_timeout(SECOND);
    let locks = store.locks("locks").await.unwrap();
    let (fair, pool) = (store.locks("locks").fair().await.unwrap(), store.semaphore("pool", 1));
    drop(pool.acquire().await.unwrap().release().await);
    let elections = store.election::<String>("boss");
    drop(elections.campaign(&"me".to_owned()).await.unwrap().resign().await);
    server.freeze();
    let thaw = async {
        tokio::time::sleep(3 * SECOND).await;
        server.thaw();
    };
    let (lock, fair, permit, leadership, ()) = tokio::join!(
        locks.lock("a").wait(30 * SECOND).into_future(),
        fair.lock("b").wait(30 * SECOND).into_future(),
        pool.acquire().wait(30 * SECOND).into_future(),
        elections.campaign(&"me".to_owned()).wait(30 * SECOND).into_future(),
        thaw
    );
    for guard in [lock.unwrap(), fair.unwrap()] {
        guard.release().await.unwrap();
    }
    permit.unwrap().release().await.unwrap();
    leadership.unwrap().resign().await.unwrap();
}

/// P15, P12: a lease with the default TTL survives the loss of the leader, and fencing tokens grow across it.
#[tokio::test]
async fn lock_survives_loss_of_leader() {
    needs!(Locks);
    let cluster = Cluster::start(3).await;
    cluster.ready().await;
    let store = World::at(&cluster.urls()).await.store;
    let locks = store.locks("locks").replicas(3).renew_every(SECOND).await.unwrap();
    let mut fence = None;
    for round in 0..2 {
        let guard = locks.lock("a").wait(60 * SECOND).await.unwrap();
        assert!(fence.replace(guard.fence()) < Some(guard.fence()));
        let leader = cluster.leader_of("KV_locks").await.expect("there is one");
        if round == 0 {
            cluster.node(leader).kill().await;
        } else {
            cluster.node(leader).freeze();
        }
        // At least two renewals after the fault: each moves the end of the lease.
        for _ in 0..2 {
            let end = || Instant::now() + guard.remaining();
            let before = end();
            while end() < before + SECOND / 2 && guard.is_held() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        guard.check().unwrap();
        if round == 0 {
            cluster.node(leader).restart().await;
        } else {
            cluster.node(leader).thaw();
        }
        cluster.ready().await;
        guard.release().await.unwrap();
    }
}

/// P10 for guards that are checked immediately before the work: many workers, while their server is killed repeatedly.
#[tokio::test]
async fn lock_excludes_workers_during_server_kills() {
    needs!(Locks);
    let server = Arc::new(Server::start().await);
    let check = Arc::new(ExclusionCheck::default());
    let over = Arc::new(AtomicBool::new(false));
    let mut workers = Vec::new();
    for worker in 0..8 {
        // A margin of one second: a loaded machine may pause that long between the check of the guard and the work.
        let open = World::at(&server.url()).await.store.locks("locks").ttl(6 * SECOND);
        let locks = if worker % 2 == 0 { open.await } else { open.fair().await };
        let locks = locks.unwrap();
        let (check, over) = (Arc::clone(&check), Arc::clone(&over));
        workers.push(tokio::spawn(async move {
            while !over.load(Ordering::SeqCst) {
                // An unreachable server causes an error, and the worker retries.
                if let Ok(guard) = locks.lock("room").wait(5 * SECOND).await {
                    check.visit(&guard).await;
                    let _ = guard.release().await;
                }
            }
        }));
    }
    for _ in 0..3 {
        let before = check.visits.load(Ordering::SeqCst);
        harness::wait::until("the workers go on", 60 * SECOND, async || {
            (check.visits.load(Ordering::SeqCst) > before + 20).then_some(())
        })
        .await;
        server.kill().await;
        server.restart().await;
    }
    over.store(true, Ordering::SeqCst);
    for worker in workers {
        worker.await.unwrap();
    }
    eprintln!("{} visits, one at a time", check.visits.load(Ordering::SeqCst));
}

/// P16: after any operation, every record and every delete marker of a lock has a TTL.
#[tokio::test]
async fn every_lock_message_has_a_ttl() {
    needs!(Locks);
    let server = Server::start().await;
    let locks = World::at(&server.url()).await.store.locks("locks").ttl(2 * SECOND).await.unwrap();
    let client = async_nats::connect(server.url()).await.unwrap();
    let stream = jetstream::new(client).get_stream("KV_locks").await.unwrap();
    let mut seen = BTreeMap::new();
    let mut last = 0;
    for round in 0..100_u32 {
        let guard = locks.lock(format!("lock-{}", round % 7)).await.unwrap();
        if round % 3 == 0 {
            guard.ensure_remaining(Duration::from_millis(1_300)).await.unwrap();
        }
        if round % 20 == 19 {
            // This lease expires without renewal, and the next rounds overwrite its delete marker.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let url = server.url();
            let name = format!("lock-{}", (round + 1) % 7);
            std::thread::spawn(move || {
                let _ = runtime.block_on(async {
                    let locks = World::at(&url).await.store.locks("locks").ttl(SECOND).await.unwrap();
                    locks.try_lock(name).await.unwrap().map(std::mem::forget)
                });
                drop(runtime);
            })
            .join()
            .unwrap();
        }
        guard.release().await.unwrap();
        let info = stream.get_info().await.unwrap();
        for sequence in last + 1..=info.state.last_sequence {
            let Ok(message) = stream.get_raw_message(sequence).await else { continue };
            let ttl = message.headers.get("Nats-TTL").map(ToString::to_string);
            let Some(ttl) = ttl else { panic!("{} at {sequence} has no time to live", message.subject) };
            *seen.entry(ttl).or_insert(0) += 1;
        }
        last = info.state.last_sequence;
    }
    eprintln!("TTLs of the stored messages: {seen:?}");
    assert!(seen.values().sum::<u32>() > 100);
}

/// P18: a server that does not support per-record TTLs.
#[tokio::test]
async fn locks_are_unsupported_on_old_server() {
    let server = Server::builder().version(OLD).start().await;
    let world = World::at(&server.url()).await;
    let error = world.store.locks("locks").await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unsupported { .. }), "{error}");
    let sessions: Bucket<Session> = world.bucket().await;
    let error = sessions.lock(&Session::new("acme", 7).key()).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unsupported { .. }), "{error}");
}

/// P22: a waiter whose watch consumer is deleted still notices the release, through a new watch session or its
/// fallback.
#[tokio::test]
async fn waiter_with_deleted_consumer_acquires_lock() {
    needs!(Locks);
    let server = Server::start().await;
    let store = World::at(&server.url()).await.store;
    let locks = store.locks("locks").await.unwrap();
    let there = store.locks("locks").await.unwrap();
    let guard = locks.lock("a").await.unwrap();
    let waiter = tokio::spawn(there.lock("a").wait(60 * SECOND).into_future());
    let client = async_nats::connect(server.url()).await.unwrap();
    let stream = jetstream::new(client).get_stream("KV_locks").await.unwrap();
    let names = harness::wait::until("the waiter watches", 20 * SECOND, async || {
        let names: Vec<String> = stream.consumer_names().try_collect().await.ok()?;
        (!names.is_empty()).then_some(names)
    })
    .await;
    for name in names {
        stream.delete_consumer(&name).await.unwrap();
    }
    guard.release().await.unwrap();
    let released = Instant::now();
    waiter.await.unwrap().unwrap().release().await.unwrap();
    eprintln!("a blind waiter has the lock after {:?}", released.elapsed());
}

/// P12: fencing tokens grow over many acquisitions.
#[tokio::test]
async fn fences_grow_over_200_acquisitions() {
    needs!(Locks);
    let locks = World::nats().await.store.locks(unique("locks")).await.unwrap();
    let mut last = None;
    for _ in 0..200 {
        let guard = locks.lock("a").await.unwrap();
        assert!(last.replace(guard.fence()) < Some(guard.fence()));
        guard.release().await.unwrap();
    }
}

/// Returns the number of messages that the clients have sent.
fn sent(clients: &[async_nats::Client]) -> u64 {
    clients.iter().map(|client| client.statistics().out_messages.load(Ordering::SeqCst)).sum()
}

/// The cost is independent of the number of waiters: a ticket, a handover, and the removal of the ticket.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contended_lock_costs_few_requests() {
    needs!(Locks);
    const WORKERS: usize = 8;
    const TIMES: usize = 40;
    for fair in [false, true] {
        let server = Server::start().await;
        let (mut clients, mut workers) = (Vec::new(), Vec::new());
        for _ in 0..WORKERS {
            let client = async_nats::connect(server.url()).await.unwrap();
            let open = Store::from_client(client.clone()).locks("locks");
            workers.push(if fair { open.fair().await } else { open.await }.unwrap());
            clients.push(client);
        }
        let started = Arc::new(tokio::sync::Barrier::new(WORKERS + 1));
        let ended = Arc::new(tokio::sync::Barrier::new(WORKERS + 1));
        let workers: Vec<_> = workers
            .into_iter()
            .map(|locks| {
                let (started, ended) = (Arc::clone(&started), Arc::clone(&ended));
                tokio::spawn(async move {
                    // After this first acquisition, the lock always has waiters.
                    locks.lock("a").await.unwrap().release().await.unwrap();
                    started.wait().await;
                    for _ in 0..TIMES {
                        let guard = locks.lock("a").await.unwrap();
                        tokio::time::sleep(Duration::from_millis(2)).await;
                        guard.release().await.unwrap();
                    }
                    ended.wait().await;
                })
            })
            .collect();
        started.wait().await;
        let before = sent(&clients);
        ended.wait().await;
        let each = (sent(&clients) - before) as f64 / (WORKERS * TIMES) as f64;
        eprintln!("{each:.2} requests a lock with {WORKERS} who want it, fair: {fair}");
        assert!(each <= 4.0, "{each}");
        for worker in workers {
            worker.await.unwrap();
        }
    }
}

/// A waiter continues to wait, even if an outage is longer than the TTL of its ticket.
#[tokio::test]
async fn waiter_survives_outage_longer_than_ticket_ttl() {
    needs!(Locks);
    for fair in [false, true] {
        let server = Server::start().await;
        let open = async || {
            let open = World::at(&server.url()).await.store.locks("locks").ttl(2 * SECOND);
            if fair { open.fair().await.unwrap() } else { open.await.unwrap() }
        };
        let (holder, waiter) = (open().await, open().await);
        let guard = holder.lock("a").await.unwrap();
        let waiting = tokio::spawn(async move { waiter.lock("a").await });
        let junk: Bucket<ForeignRecord> = seen_as(&World::at(&server.url()).await, "locks").await;
        harness::wait::until("it has drawn a ticket", 20 * SECOND, async || {
            let keys: Vec<_> = junk.keys(..).await.unwrap().try_collect().await.unwrap();
            keys.iter().any(|key: &ForeignRecordKey| key.part.starts_with("ticket-")).then_some(())
        })
        .await;
        server.kill().await;
        guard.lost().await;
        // Longer than the TTL of the ticket.
        tokio::time::sleep(3 * SECOND).await;
        assert!(!waiting.is_finished(), "it waits");
        server.restart().await;
        let taken = tokio::time::timeout(30 * SECOND, waiting).await.expect("it gets the lock").unwrap();
        taken.unwrap().release().await.unwrap();
    }
}
