//! The rate limiter: in any time window, at most the quota is allowed.

use harness::Server;
use kvtyped::ErrorKind;
use kvtyped::prelude::*;
use kvtyped::recipes::{Quota, RateLimiter};
use tokio::time::Instant;

use crate::needs::needs;
use crate::support::{ForeignRecord, ForeignRecordKey, OLD, Session, World, on_both_backends, seen_as, unique};

on_both_backends! {
    needs RateLimiters;

    async fn burst_is_allowed_but_not_exceeded(world: World) {
        let name = unique("api");
        let quota = Quota::per_hour(2).burst(3);
        let handles = [
            world.store.rate_limiter(&name, quota).await.unwrap(),
            world.store.rate_limiter(&name, quota).await.unwrap(),
        ];
        for (turn, remaining) in [(0, 2), (1, 1), (2, 0)] {
            let decision = handles[turn % 2].check("ada").await.unwrap();
            assert!(decision.is_allowed() && decision.retry_after().is_none());
            assert_eq!(decision.remaining(), remaining);
        }
        for limiter in &handles {
            let decision = limiter.check("ada").await.unwrap();
            let wait = decision.retry_after().expect("the burst is used up");
            assert!(!decision.is_allowed() && decision.remaining() == 0);
            assert!(wait > Duration::from_secs(1700) && wait < Duration::from_secs(1810), "{wait:?}");
        }
        assert!(handles[0].check("grace").await.unwrap().is_allowed(), "each key has its own");
        assert!(handles[1].check_n("alan", 3).await.unwrap().is_allowed());
        assert!(!handles[1].check_n("alan", 1).await.unwrap().is_allowed());
    }

    async fn zero_event_check_consumes_no_quota(world: World) {
        let limiter = world.store.rate_limiter(unique("api"), Quota::per_hour(2).burst(3)).await.unwrap();
        let peek = async || {
            let decision = limiter.check_n("ada", 0).await.unwrap();
            assert!(decision.is_allowed());
            decision.remaining()
        };
        assert_eq!((peek().await, peek().await), (3, 3));
        for left in [2, 1, 0] {
            assert_eq!(limiter.check("ada").await.unwrap().remaining(), left);
            assert_eq!((peek().await, peek().await), (left, left));
        }
        assert!(!limiter.check("ada").await.unwrap().is_allowed());
    }

    async fn peek_of_unused_key_writes_nothing(world: World) {
        let name = unique("api");
        let limiter = world.store.rate_limiter(&name, Quota::per_hour(2)).await.unwrap();
        let bucket = seen_as::<ForeignRecord>(&world, &name).await;
        let before = bucket.status().await.unwrap().last_revision;
        assert_eq!(limiter.check_n("ada", 0).await.unwrap().remaining(), 2);
        assert_eq!(bucket.status().await.unwrap().last_revision, before);
        assert!(limiter.check("ada").await.unwrap().is_allowed());
        assert!(bucket.status().await.unwrap().last_revision > before, "the control: a check writes");
    }

    async fn retry_after_suffices_after_quota_change(world: World) {
        let name = unique("api");
        let hourly = world.store.rate_limiter(&name, Quota::per_hour(1)).await.unwrap();
        assert!(hourly.check("ada").await.unwrap().is_allowed());
        assert!(!hourly.check("ada").await.unwrap().is_allowed());
        let fast = world.store.rate_limiter(&name, Quota::per_second(10)).await.unwrap();
        let wait = fast.check("ada").await.unwrap().retry_after().expect("a burst of the new quota is used");
        assert!(wait < Duration::from_millis(200), "{wait:?}");
        tokio::time::sleep(wait).await;
        assert!(fast.check("ada").await.unwrap().is_allowed(), "after a wait of `retry_after`");
    }

    /// Simulates a server clock that was set back: the stored state is one hour in the future.
    async fn retry_after_suffices_after_clock_rewind(world: World) {
        let name = unique("api");
        let limiter = world.store.rate_limiter(&name, Quota::per_second(10)).await.unwrap();
        assert!(limiter.check("ada").await.unwrap().is_allowed());
        let bucket = seen_as::<ForeignRecord>(&world, &name).await;
        let key = ForeignRecordKey::new("rate", &name, "ada");
        let stored = bucket.get(&key).await.unwrap().expect("it was used");
        let mut state: serde_json::Value = serde_json::from_str(&stored.text).unwrap();
        for field in ["whole_at", "since"] {
            state[field] = (state[field].as_u64().unwrap() + 3_600_000_000_000).into();
        }
        bucket.put(&ForeignRecord { text: state.to_string(), ..stored.into_value() }).await.unwrap();
        let wait = limiter.check("ada").await.unwrap().retry_after().expect("a burst counts as used");
        assert!(wait < Duration::from_secs(2), "{wait:?}");
        tokio::time::sleep(wait).await;
        assert!(limiter.check("ada").await.unwrap().is_allowed(), "after a wait of `retry_after`");
    }

    async fn unsatisfiable_checks_and_quotas_are_rejected(world: World) {
        let limiter = world.store.rate_limiter(unique("api"), Quota::per_second(1).burst(2)).await.unwrap();
        let error = limiter.check_n("ada", 3).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error}");
        for quota in [Quota::per_second(0), Quota::per_second(1).burst(0), Quota::new(1, Duration::MAX)] {
            let error = world.store.rate_limiter(unique("api"), quota).await.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error}");
        }
        let forgetful: Bucket<Session> = world.fresh().ttl(Duration::from_secs(60)).await.unwrap();
        let hourly = world.store.rate_limiter(forgetful.name(), Quota::per_hour(1)).await.unwrap_err();
        assert!(matches!(hourly.kind(), ErrorKind::Unsupported { .. }), "{hourly}");
    }

    async fn until_ready_waits_or_fails_early(world: World) {
        let limiter = world.store.rate_limiter(unique("api"), Quota::per_second(20).burst(1)).await.unwrap();
        let started = Instant::now();
        for _ in 0..5 {
            limiter.until_ready("ada").timeout(Duration::from_secs(20)).await.unwrap();
        }
        assert!(started.elapsed() >= Duration::from_millis(200), "{:?}", started.elapsed());
        let slow = world.store.rate_limiter(unique("api"), Quota::per_hour(1)).await.unwrap();
        slow.until_ready("ada").await.unwrap();
        let started = Instant::now();
        let error = slow.until_ready("ada").timeout(Duration::from_secs(30)).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Unavailable { .. }), "{error}");
        assert!(started.elapsed() < Duration::from_secs(25), "a wait that cannot succeed fails early");
    }
}

/// Calls `check` from several tasks and handles until `end`. Returns the times of the allowed calls.
async fn ask(handles: &[RateLimiter], tasks: u64, end: Instant, pause: fn(u64) -> Duration) -> Vec<Instant> {
    let asking = (0..tasks).map(|task| {
        let limiter = handles[task as usize % handles.len()].clone();
        tokio::spawn(async move {
            let mut allowed = Vec::new();
            let mut turn = task * 7919;
            while Instant::now() < end {
                match limiter.check("ada").await {
                    Ok(decision) if decision.is_allowed() => allowed.push(Instant::now()),
                    Ok(_) => {}
                    // Under high contention `check` returns an error. This caller treats it as a denial.
                    Err(error) => assert!(error.is_conflict(), "{error}"),
                }
                turn += 1;
                tokio::time::sleep(pause(turn)).await;
            }
            allowed
        })
    });
    let mut allowed = futures::future::try_join_all(asking).await.unwrap().concat();
    allowed.sort_unstable();
    allowed
}

/// Checks every window between two events. On the memory backend, only the pauses take time.
#[tokio::test(start_paused = true)]
async fn no_window_exceeds_quota() {
    for (rate, burst) in [(10, 20), (10, 1), (3, 2), (100, 5)] {
        let world = World::memory();
        let quota = Quota::per_second(rate).burst(burst);
        let mut handles = Vec::new();
        for _ in 0..3 {
            handles.push(world.store.rate_limiter("api", quota).await.unwrap());
            tokio::time::sleep(Duration::from_millis(137)).await;
        }
        let end = Instant::now() + Duration::from_secs(45);
        let pause = |turn: u64| {
            Duration::from_millis(
                turn.wrapping_mul(2_654_435_761) % 97 + if turn.is_multiple_of(50) { 3000 } else { 0 },
            )
        };
        let allowed = ask(&handles, 6, end, pause).await;
        for (from, first) in allowed.iter().enumerate() {
            for (to, last) in allowed.iter().enumerate().skip(from) {
                let most = f64::from(burst) + f64::from(rate) * (*last - *first).as_secs_f64();
                assert!((to - from + 1) as f64 <= most + 1e-6, "{} in {:?}, of {most}", to - from + 1, *last - *first);
            }
        }
        // The limiter is not much stricter than necessary.
        assert!(allowed.len() as f64 > 0.6 * 45.0 * f64::from(rate.min(30)), "{} of {rate}/s", allowed.len());
    }
}

#[tokio::test(start_paused = true)]
async fn idle_key_regains_burst_and_record_expires() {
    let world = World::memory();
    let limiter = world.store.rate_limiter("api", Quota::per_second(1).burst(2)).await.unwrap();
    for _ in 0..3 {
        assert!(limiter.check("ada").await.unwrap().is_allowed());
        assert!(limiter.check("ada").await.unwrap().is_allowed());
        let wait = limiter.check("ada").await.unwrap().retry_after().expect("used up");
        assert!(wait <= Duration::from_millis(1_001), "{wait:?}");
        tokio::time::sleep(wait).await;
        let decision = limiter.check("ada").await.unwrap();
        assert!(decision.is_allowed(), "after a wait of `retry_after`: {decision:?}");
        tokio::time::sleep(Duration::from_secs(120)).await;
        let bucket: Bucket<Session> =
            world.store.bucket().name("api").must_exist().on_drift(Drift::Adopt).await.unwrap();
        assert_eq!(bucket.status().await.unwrap().values, 0, "nothing stays of an idle key");
    }
}

/// Concurrent callers in several processes never exceed the quota together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_stores_share_quota() {
    needs!(RateLimiters);
    let url = harness::shared().await.url();
    let name = unique("api");
    let quota = Quota::per_second(20).burst(10);
    let mut handles = Vec::new();
    for _ in 0..3 {
        handles.push(World::at(&url).await.store.rate_limiter(&name, quota).await.unwrap());
    }
    let started = Instant::now();
    let allowed = ask(&handles, 6, started + Duration::from_secs(4), |turn| Duration::from_millis(turn % 13)).await;
    let took = started.elapsed();
    let most = 10.0 + 20.0 * took.as_secs_f64();
    println!("{} allowed in {took:?}, of {most:.1}", allowed.len());
    assert!(allowed.len() as f64 <= most, "{} of {most}", allowed.len());
    assert!(allowed.len() > 40, "{}", allowed.len());
}

#[tokio::test]
async fn rate_limiter_is_unsupported_on_old_server() {
    let server = Server::builder().version(OLD).start().await;
    let world = World::at(&server.url()).await;
    let error = world.store.rate_limiter("api", Quota::per_second(1)).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unsupported { .. }), "{error}");
    assert!(error.to_string().contains("2.11"), "{error}");
}

/// The caller decides how to handle an outage.
#[tokio::test]
async fn check_fails_in_time_during_outage() {
    needs!(RateLimiters);
    let server = Server::start().await;
    let world = World::at(&server.url()).await;
    let limiter = world.store.rate_limiter("api", Quota::per_second(1)).timeout(Duration::from_secs(1)).await.unwrap();
    server.kill().await;
    let started = Instant::now();
    let error = limiter.check("ada").await.unwrap_err();
    assert!(!error.is_conflict(), "{error}");
    assert!(started.elapsed() < Duration::from_secs(10));
    server.restart().await;
    let again = async || limiter.check("ada").await.ok();
    let decision = harness::wait::until("it is there again", Duration::from_secs(30), again).await;
    assert!(decision.is_allowed());
}
