//! Exactly-once work, on the memory backend and on a server: one result for all callers, and no result is stored twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures::future::join_all;
use harness::{Mode, Proxy};
use kvtyped::prelude::*;
use kvtyped::recipes::OnceError;
use kvtyped::{Error, ErrorKind};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::needs::needs;
use crate::support::{ForeignRecord, SOON, World, dropped_after, on_both_backends, seen_as, unique};

const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Receipt {
    number: u32,
}

#[derive(Debug, PartialEq)]
struct Declined;

/// A fake bank that counts its charges.
#[derive(Clone, Default)]
struct Bank {
    charges: Arc<AtomicU32>,
    at_once: Arc<AtomicU32>,
}

impl Bank {
    async fn charge(&self) -> Receipt {
        assert_eq!(self.at_once.fetch_add(1, Ordering::SeqCst), 0, "two run at once");
        let number = self.charges.fetch_add(1, Ordering::SeqCst) + 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
        self.at_once.fetch_sub(1, Ordering::SeqCst);
        Receipt { number }
    }

    fn charged(&self) -> u32 {
        self.charges.load(Ordering::SeqCst)
    }
}

on_both_backends! {
    needs Once;

    async fn later_callers_get_stored_result(world: World) {
        let (name, bank) = (unique("once"), Bank::default());
        let here = world.store.once::<Receipt>(&name);
        assert_eq!(here.get("charge.42").await.unwrap(), None);
        let first = here.run("charge.42", || bank.charge()).await.unwrap();
        let there = world.another().await.once::<Receipt>(&name);
        assert_eq!(there.run("charge.42", || bank.charge()).await.unwrap(), first);
        assert_eq!(there.get("charge.42").await.unwrap(), Some(first));
        assert_eq!(bank.charged(), 1);
        assert_eq!(there.run("charge.43", || bank.charge()).await.unwrap(), Receipt { number: 2 });
    }

    async fn concurrent_callers_share_result(world: World) {
        let (name, bank) = (unique("once"), Bank::default());
        let mut runs = Vec::new();
        for _ in 0..12 {
            let (once, bank) = (world.another().await.once::<Receipt>(&name), bank.clone());
            runs.push(tokio::spawn(async move { once.run("charge-42", || bank.charge()).await }));
        }
        for run in join_all(runs).await {
            assert_eq!(run.unwrap().unwrap(), Receipt { number: 1 });
        }
        assert_eq!(bank.charged(), 1);
    }

    async fn any_json_value_can_be_a_result(world: World) {
        let name = unique("once");
        world.store.once::<()>(&name).run("unit", || async {}).await.unwrap();
        let nothing = world.store.once::<Option<u32>>(&name);
        assert_eq!(nothing.run("none", || async { None }).await.unwrap(), None);
        assert_eq!(nothing.run("none", || async { Some(1) }).await.unwrap(), None, "`None` is a result");
        assert_eq!(nothing.get("none").await.unwrap(), Some(None));
        let numbers = world.store.once::<Vec<f64>>(&name);
        assert_eq!(numbers.run("numbers", || async { vec![0.1, 1e300] }).await.unwrap(), [0.1, 1e300]);
        assert_eq!(numbers.get("numbers").await.unwrap(), Some(vec![0.1, 1e300]));
        // The value may itself be a `Result` that is stored as such.
        let results = world.store.once::<Result<u32, String>>(&name);
        let failed = results.run("failed", || async { Ok::<_, Declined>(Err("no".to_owned())) }).await.unwrap();
        assert_eq!(failed, Err("no".to_owned()));
        assert_eq!(results.get("failed").await.unwrap(), Some(failed));
    }

    async fn failed_work_leaves_key_free(world: World) {
        let (name, bank) = (unique("once"), Bank::default());
        let once = world.store.once::<Receipt>(&name);
        let error = once.run("charge-42", || async { Err(Declined) }).await.unwrap_err();
        assert!(matches!(error, OnceError::Closure(Declined)) && error.kv().is_none());
        assert_eq!(once.get("charge-42").await.unwrap(), None);
        let receipt = once.run("charge-42", || async { Ok::<_, Declined>(bank.charge().await) }).await.unwrap();
        assert_eq!(receipt, Receipt { number: 1 });
        // If the work returns the library's own error, `?` merges both errors.
        let run = async {
            let failed = once.run("other", || async { Err::<Receipt, _>(Error::new(ErrorKind::NotFound)) }).await?;
            Ok::<_, Error>(failed)
        };
        assert!(run.await.unwrap_err().is_not_found());
    }

    async fn waiter_takes_over_failed_or_dropped_work(world: World) {
        let name = unique("once");
        for (number, end) in ["fails", "panics", "is dropped"].into_iter().enumerate() {
            let (once, bank) = (world.store.once::<Receipt>(&name), Bank::default());
            let key = format!("charge-{number}");
            let (started, has_started) = oneshot::channel();
            let (go_on, may_go_on) = oneshot::channel::<()>();
            let first = tokio::spawn({
                let (once, key) = (once.clone(), key.clone());
                async move {
                    let work = || async move {
                        started.send(()).unwrap();
                        let _ = may_go_on.await;
                        if end == "panics" {
                            panic!("the work panics");
                        }
                        Err::<Receipt, _>(Declined)
                    };
                    once.run(key, work).await.map(drop)
                }
            });
            has_started.await.unwrap();
            let mut waiters = Vec::new();
            for _ in 0..3 {
                let (once, bank, key) = (world.another().await.once::<Receipt>(&name), bank.clone(), key.clone());
                waiters.push(tokio::spawn(async move { once.run(key, || bank.charge()).await }));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert!(waiters.iter().all(|waiter| !waiter.is_finished()) && bank.charged() == 0);
            match end {
                "is dropped" => first.abort(),
                _ => go_on.send(()).unwrap(),
            }
            let ended = first.await;
            match end {
                "fails" => assert!(matches!(ended.unwrap(), Err(OnceError::Closure(Declined)))),
                "panics" => assert!(ended.unwrap_err().is_panic()),
                _ => assert!(ended.unwrap_err().is_cancelled()),
            }
            for waiter in waiters {
                let receipt = tokio::time::timeout(SOON, waiter).await.unwrap().unwrap().unwrap();
                assert_eq!(receipt, Receipt { number: 1 });
            }
            assert_eq!(bank.charged(), 1);
        }
    }

    async fn dropped_run_leaves_result_or_free_key(world: World) {
        let name = unique("once");
        let once = world.store.once::<u32>(&name);
        for steps in 0..60_u32 {
            let key = format!("key-{steps}");
            dropped_after(once.run(&key, || async move { steps }), steps).await;
            let result = once.run(&key, || async { 1_000 }).wait(SOON).await.unwrap();
            assert!(result == steps || result == 1_000, "{result}");
            assert_eq!(once.get(&key).await.unwrap(), Some(result));
        }
    }

    async fn expired_wait_is_a_timeout(world: World) {
        let name = unique("once");
        let once = world.store.once::<u32>(&name);
        let other = world.another().await.once::<u32>(&name);
        let work = || async {
            let error = other.run("a", || async { 2 }).wait(Duration::from_millis(100)).await.unwrap_err();
            let error = error.kv().expect("it is the library's");
            assert!(matches!(error.kind(), ErrorKind::Timeout { .. }), "{error}");
            assert_eq!((error.operation(), error.key()), (Some("run"), Some("a")));
            1
        };
        assert_eq!(once.run("a", work).await.unwrap(), 1);
        assert_eq!(other.run("a", || async { 2 }).await.unwrap(), 1);
    }

    async fn dead_run_is_taken_over_after_ttl(world: World) {
        let name = unique("once");
        let doomed = world.another().await;
        let (started, has_started) = oneshot::channel();
        let dead = tokio::spawn({
            let once = doomed.once::<u32>(&name).ttl(SECOND);
            async move {
                let work = || async move {
                    started.send(()).unwrap();
                    std::future::pending::<u32>().await
                };
                once.run("a", work).await
            }
        });
        has_started.await.unwrap();
        doomed.close().await.unwrap();
        let once = world.store.once::<u32>(&name).ttl(SECOND);
        assert_eq!(once.run("a", || async { 2 }).wait(SOON).await.unwrap(), 2);
        // The first caller gets `Lost`, and the outcome of its work is unknown.
        let error = dead.await.unwrap().unwrap_err();
        let error = error.kv().expect("it is the library's");
        assert!(matches!(error.kind(), ErrorKind::Lost) && error.outcome() == Outcome::Unknown, "{error}");
        assert_eq!(once.get("a").await.unwrap(), Some(2));
    }

    async fn undecodable_result_prevents_run(world: World) {
        let name = unique("once");
        let once = world.store.once::<Receipt>(&name).ttl(SECOND);
        world.store.once::<String>(&name).run("other", || async { "a text".to_owned() }).await.unwrap();
        let junk = seen_as::<ForeignRecord>(&world, &name).await;
        junk.put(&ForeignRecord::new("once", &name, "junk", "{]")).await.unwrap();
        for key in ["other", "junk"] {
            let error = once.run(key, || async { unreachable_receipt() }).await.unwrap_err();
            let error = error.kv().expect("it is the library's");
            assert!(matches!(error.kind(), ErrorKind::Decode { .. }), "{error}");
            assert!(matches!(once.get(key).await.unwrap_err().kind(), ErrorKind::Decode { .. }));
        }
    }

    async fn too_large_result_leaves_key_free(world: World) {
        let name = unique("once");
        let small = world.store.bucket::<ForeignRecord>().name(&name).max_value_size(4_096).limit_markers(SECOND);
        small.await.unwrap();
        let once = world.store.once::<String>(&name);
        let error = once.run("a", || async { "x".repeat(5_000) }).await.unwrap_err();
        let error = error.kv().expect("it is the library's");
        assert!(matches!(error.kind(), ErrorKind::TooLarge { .. }), "{error}");
        assert_eq!(once.run("a", || async { "y".to_owned() }).wait(SOON).await.unwrap(), "y");
    }

    async fn result_expires_after_retention(world: World) {
        let name = unique("once");
        let (once, bank) = (world.store.once::<Receipt>(&name).ttl(SECOND).retention(2 * SECOND), Bank::default());
        let first = once.run("a", || bank.charge()).await.unwrap();
        let began = Instant::now();
        while once.get("a").await.unwrap() == Some(first.clone()) {
            assert!(began.elapsed() < SOON);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(began.elapsed() > SECOND);
        assert_eq!(once.run("a", || bank.charge()).await.unwrap(), Receipt { number: 2 });
        let error = once.retention(Duration::from_millis(1)).run("b", || bank.charge()).await.unwrap_err();
        assert!(matches!(error.kv().expect("ours").kind(), ErrorKind::InvalidConfig { .. }));
    }

    async fn concurrent_keys_run_once_each(world: World) {
        let name = unique("once");
        let counts: Arc<Vec<AtomicU32>> = Arc::new((0..10).map(|_| AtomicU32::new(0)).collect());
        let mut workers = Vec::new();
        for worker in 0..6 {
            let (once, counts) = (world.another().await.once::<usize>(&name), Arc::clone(&counts));
            workers.push(tokio::spawn(async move {
                for step in 0..10 {
                    let key = (step * 7 + worker) % 10;
                    let work = || async {
                        counts[key].fetch_add(1, Ordering::SeqCst);
                        tokio::task::yield_now().await;
                        key
                    };
                    assert_eq!(once.run(key.to_string(), work).await.unwrap(), key);
                }
            }));
        }
        join_all(workers).await.into_iter().for_each(|worker| worker.unwrap());
        assert!(counts.iter().all(|count| count.load(Ordering::SeqCst) == 1), "{counts:?}");
    }
}

fn unreachable_receipt() -> Receipt {
    panic!("it must not run")
}

#[tokio::test(start_paused = true)]
async fn result_is_kept_forever_by_default() {
    let world = World::memory();
    let once = world.store.once::<u32>("o");
    once.run("a", || async {
        // Longer than the TTL of the lease, so the lease is renewed.
        tokio::time::sleep(100 * SECOND).await;
        1
    })
    .await
    .unwrap();
    tokio::time::sleep(1_000_000 * SECOND).await;
    assert_eq!(once.run("a", || async { 2 }).await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn dead_run_ends_before_next_starts() {
    let world = World::memory();
    let doomed = world.another().await;
    let start = Instant::now();
    let dead = tokio::spawn({
        let once = doomed.once::<Duration>("o");
        async move { once.run("a", std::future::pending::<Duration>).await.map_err(|_| start.elapsed()) }
    });
    tokio::time::sleep(SECOND).await;
    doomed.close().await.unwrap();
    let began = world.store.once::<Duration>("o").run("a", || async { start.elapsed() }).await.unwrap();
    let ended = dead.await.unwrap().unwrap_err();
    assert!(ended <= 27 * SECOND && began >= 30 * SECOND && began < 32 * SECOND, "{ended:?}, {began:?}");
}

/// Behind a cut connection, the next run starts only after the lease of the first has ended.
#[tokio::test]
async fn disconnected_run_ends_before_next_starts() {
    needs!(Once);
    let server = harness::shared().await;
    let proxy = Proxy::start(server.addr()).await;
    let name = unique("once");
    let through = World::at(&proxy.url()).await.store.once::<u32>(&name).ttl(3 * SECOND);
    let past = World::at(&server.url()).await.store.once::<u32>(&name).ttl(3 * SECOND);
    let working = Arc::new(AtomicU32::new(0));
    struct Working(Arc<AtomicU32>);
    impl Drop for Working {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let work = |number: u32| {
        let working = Arc::clone(&working);
        move || async move {
            assert_eq!(working.fetch_add(1, Ordering::SeqCst), 0, "two run at once");
            let _working = Working(working);
            if number == 1 {
                proxy.set(Mode::Refuse);
                proxy.cut();
                std::future::pending::<()>().await;
            }
            number
        }
    };
    let (first, second) = tokio::join!(through.run("a", work(1)).into_future(), async {
        harness::wait::until("the first runs", SOON, async || (working.load(Ordering::SeqCst) == 1).then_some(()))
            .await;
        past.run("a", || async { 2 }).wait(2 * SOON).await
    });
    let error = first.unwrap_err();
    assert!(matches!(error.kv().expect("ours").kind(), ErrorKind::Lost), "{error:?}");
    assert_eq!(second.unwrap(), 2);
}

/// The acknowledgement of the result is lost. The library recovers it and returns the result.
#[tokio::test]
async fn lost_ack_of_stored_result_is_recovered() {
    needs!(Once);
    let server = harness::shared().await;
    let proxy = Proxy::start(server.addr()).await;
    let name = unique("once");
    let through = World::at(&proxy.url()).await.store.once::<u32>(&name);
    let past = World::at(&server.url()).await.store.once::<u32>(&name);
    let (run, ()) = tokio::join!(
        through
            .run("a", || async {
                proxy.set(Mode::DropReplies);
                1
            })
            .into_future(),
        async {
            harness::wait::until("it is stored", SOON, async || {
                (past.get("a").await.unwrap() == Some(1)).then_some(())
            })
            .await;
            proxy.set(Mode::Pass);
        }
    );
    assert_eq!(run.unwrap(), 1);
    assert_eq!(past.run("a", || async { 2 }).await.unwrap(), 1);
}

/// The result cannot be stored before the lease ends, and its outcome is reported as unknown.
#[tokio::test]
async fn unstored_result_has_unknown_outcome() {
    needs!(Once);
    let server = harness::shared().await;
    let proxy = Proxy::start(server.addr()).await;
    let name = unique("once");
    let through = World::at(&proxy.url()).await.store.once::<u32>(&name).ttl(3 * SECOND);
    let past = World::at(&server.url()).await.store.once::<u32>(&name).ttl(3 * SECOND);
    let work = || async {
        proxy.set(Mode::Refuse);
        proxy.cut();
        1
    };
    let error = through.run("a", work).await.unwrap_err();
    assert_eq!(error.kv().expect("ours").outcome(), Outcome::Unknown, "{error:?}");
    let result = past.run("a", || async { 2 }).wait(2 * SOON).await.unwrap();
    assert_eq!(past.get("a").await.unwrap(), Some(result));
    proxy.set(Mode::Pass);
    assert_eq!(through.run("a", || async { 3 }).wait(SOON).await.unwrap(), result);
}
