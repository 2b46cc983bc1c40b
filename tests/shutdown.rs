//! An orderly shutdown releases every lease of a store at once.
//!
//! The process of the last test is this test binary itself, running the test [`shutdown_process`].

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use kvtyped::ErrorKind;
use kvtyped::prelude::*;
use kvtyped::recipes::TryLock;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use crate::needs::needs;
use crate::support::{Session, World, on_both_backends, unique};

const SECOND: Duration = Duration::from_secs(1);
/// Longer than any test waits, so that nothing becomes free by its TTL.
const TTL: Duration = Duration::from_secs(600);
const JOB: &str = "KVTYPED_SHUTDOWN";

on_both_backends! {
    needs Locks;

    async fn shutdown_releases_every_lease(world: World) {
        let (store, other) = (&world.store, world.another().await);
        let names: Vec<_> = ["locks", "election", "semaphore", "group", "once"].map(unique).into();
        let sessions: Bucket<Session> = world.bucket().await;
        let key = Session::new("acme", 7).key();

        let lock = store.locks(&names[0]).ttl(TTL).lock("a").await.unwrap();
        let record = sessions.lock(&key).ttl(TTL).await.unwrap();
        let leader = store.election::<String>(&names[1]).ttl(TTL).campaign(&"me".to_owned()).await.unwrap();
        let permit = store.semaphore(&names[2], 1).ttl(TTL).acquire().await.unwrap();
        let member = store.group::<String>(&names[3]).ttl(TTL).join("me", &"here".to_owned()).await.unwrap();
        let (begun, running) = tokio::sync::oneshot::channel();
        let once = store.once::<u32>(&names[4]).ttl(TTL).await.unwrap();
        let run = tokio::spawn(async move {
            once.run("charge", || async move {
                begun.send(()).unwrap();
                std::future::pending::<Result<u32, kvtyped::Error>>().await
            })
            .await
        });
        running.await.unwrap();

        let started = Instant::now();
        store.shutdown(20 * SECOND).await.unwrap();
        let took = started.elapsed();
        assert!(took < 10 * SECOND, "{took:?}");
        for lease in [&*lock, &*record, &*leader, &*permit, &*member] {
            assert!(!lease.is_held(), "{lease:?}");
        }
        assert!(run.await.unwrap().is_err(), "the work lost its lease");
        assert!(matches!(lock.release().await.unwrap_err().kind(), ErrorKind::Lost));

        let sessions: Bucket<Session> =
            other.bucket().name(sessions.name()).must_exist().on_drift(Drift::Adopt).await.unwrap();
        assert!(other.locks(&names[0]).try_lock("a").await.unwrap().is_some());
        assert!(sessions.try_lock(&key).await.unwrap().is_some());
        assert_eq!(other.election::<String>(&names[1]).leader().await.unwrap().map(drop), None);
        assert!(other.semaphore(&names[2], 1).try_acquire().await.unwrap().is_some());
        assert_eq!(other.group::<String>(&names[3]).members().await.unwrap().len(), 0);
        let again = other.once::<u32>(&names[4]).run("charge", || async { Ok::<_, kvtyped::Error>(1) }).await;
        assert_eq!(again.unwrap(), 1);
    }

    async fn waiters_end_at_shutdown(world: World) {
        let name = unique("locks");
        let holder = world.another().await.locks(&name).ttl(TTL).lock("a").await.unwrap();
        let locks = world.store.locks(&name).ttl(TTL).await.unwrap();
        let waiter = tokio::spawn(locks.lock("a").into_future());
        let limited = tokio::spawn(locks.lock("a").wait(TTL).into_future());
        tokio::task::yield_now().await;
        world.store.shutdown(20 * SECOND).await.unwrap();
        for waiter in [waiter, limited] {
            let error = waiter.await.unwrap().unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Closed), "{error:?}");
        }
        assert!(holder.is_held());
        holder.release().await.unwrap();
    }

    async fn store_that_shuts_down_refuses_operations(world: World) {
        let sessions: Bucket<Session> = world.bucket().await;
        let mut events = sessions.watch(..).await.unwrap();
        let (locks, counters) = (world.store.locks(unique("locks")), world.store.counters(unique("counters")));
        let cache = sessions.cache(..).await.unwrap();
        let _guard = locks.lock("a").await.unwrap();
        counters.add("a", 1).await.unwrap();
        world.store.shutdown(20 * SECOND).await.unwrap();

        let refused = [
            sessions.put(&Session::new("acme", 1)).await.map(drop),
            sessions.list(..).await.map(drop),
            locks.try_lock("b").await.map(drop),
            counters.add("a", 1).await.map(drop),
            world.store.buckets().await.map(drop),
            world.store.bucket::<Session>().await.map(drop),
            world.store.health().await.map(drop),
            cache.wait_for_revision(Revision::new(u64::MAX)).await,
        ];
        for refused in refused {
            let error = refused.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Closed), "{error:?}");
        }
        let last = loop {
            match events.next().await {
                Some(Ok(_)) => {}
                other => break other,
            }
        };
        assert!(matches!(last, Some(Err(error)) if matches!(error.kind(), ErrorKind::Closed)));
        // A second shutdown does nothing.
        world.store.shutdown(SECOND).await.unwrap();
    }
}

/// A lease that cannot be released does not hold up the shutdown for longer than `grace`.
#[tokio::test]
async fn shutdown_ends_after_grace() {
    needs!(Locks);
    let server = harness::Server::start().await;
    let store = Store::connect(server.url()).await.unwrap();
    let guard = store.locks("jobs").lock("a").await.unwrap();
    server.freeze();
    let started = Instant::now();
    let error = store.shutdown(SECOND).await.unwrap_err();
    let took = started.elapsed();
    assert!(matches!(error.kind(), ErrorKind::Timeout { .. }), "{error:?}");
    assert!(took < 10 * SECOND, "{took:?}");
    assert!(store.buckets().await.is_err());
    server.thaw();
    drop(guard);
}

/// Runs in the child process: holds locks until SIGTERM, and then shuts down.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the process that another test of this file starts"]
async fn shutdown_process() {
    use tokio::signal::unix::{SignalKind, signal};
    let job = std::env::var(JOB).expect("started by another test");
    let (url, name) = job.split_once(' ').expect("a URL and a name");
    let mut terminated = signal(SignalKind::terminate()).unwrap();
    let store = World::at(url).await.store;
    let locks = store.locks(name).ttl(TTL).await.unwrap();
    let _guards =
        futures::future::try_join_all((0..20).map(|n| locks.lock(n.to_string()).into_future())).await.unwrap();
    println!("ready");
    terminated.recv().await;
    store.shutdown(10 * SECOND).await.unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn locks_of_terminated_process_are_free_at_once() {
    needs!(Locks);
    let world = World::nats().await;
    let name = unique("locks");
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "shutdown::shutdown_process", "--nocapture", "--test-threads=1"])
        .env(JOB, format!("{} {name}", harness::shared().await.url()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(process.stdout.take().unwrap()).lines();
    let ready = tokio::task::spawn_blocking(move || {
        assert!(output.any(|line| line.unwrap().contains("ready")), "it is ready");
        output
    });
    // The process needs its pipe until it ends.
    let output = ready.await.unwrap();
    let locks = world.store.locks(&name).await.unwrap();
    let free = |n: u32| -> TryLock { locks.try_lock(n.to_string()) };
    assert!(free(0).await.unwrap().is_none(), "the process has it");

    kill_process(Pid::from_child(&process), Signal::TERM).unwrap();
    let status = tokio::task::spawn_blocking(move || process.wait()).await.unwrap().unwrap();
    let ended = Instant::now();
    assert!(status.success(), "{status}");
    drop(output);
    for n in 0..20 {
        assert!(free(n).await.unwrap().is_some(), "lock {n} is free");
    }
    let took = ended.elapsed();
    eprintln!("20 locks are taken over {took:?} after the exit");
    assert!(took < 20 * SECOND, "{took:?} of a TTL of {TTL:?}");
}
