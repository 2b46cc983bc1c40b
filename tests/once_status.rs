//! Fingerprints of requests, and the status of results, in `once`.

use std::time::SystemTime;

use kvtyped::recipes::{Once, OnceError};
use kvtyped::{Error, ErrorKind};

use crate::support::*;

use kvtyped::prelude::*;

const ONE: [u8; 32] = [1; 32];
const TWO: [u8; 32] = [2; 32];

async fn five() -> u32 {
    5
}

async fn never() -> u32 {
    panic!("the work must not run")
}

fn is_mismatch<E>(result: &Result<u32, OnceError<E>>) -> bool {
    let error = result.as_ref().err().and_then(OnceError::kv);
    error.is_some_and(|error| matches!(error.kind(), ErrorKind::FingerprintMismatch))
}

/// Starts a run that ends when the returned channel is used.
async fn started(
    charges: &Once<u32>,
) -> (tokio::task::JoinHandle<Result<u32, Error>>, tokio::sync::oneshot::Sender<u32>) {
    let (began, running) = tokio::sync::oneshot::channel();
    let (finish, result) = tokio::sync::oneshot::channel::<u32>();
    let charges = charges.clone();
    let run = tokio::spawn(async move {
        let work = || async move {
            began.send(()).unwrap();
            result.await.unwrap()
        };
        charges.run("k", work).fingerprint(ONE).await.map_err(Error::from)
    });
    running.await.unwrap();
    (run, finish)
}

on_both_backends! {
    needs Once;

    async fn another_fingerprint_is_a_mismatch(world: World) {
        let charges = world.store.once::<u32>(unique("charges"));
        assert_eq!(charges.run("k", five).fingerprint(ONE).await.unwrap(), 5);
        assert_eq!(charges.run("k", never).fingerprint(&ONE).await.unwrap(), 5);
        let other = charges.run("k", never).fingerprint(TWO).await;
        assert!(is_mismatch(&other), "{other:?}");
        let error = other.unwrap_err();
        assert_eq!(error.kv().map(|error| (error.outcome(), error.key())), Some((Outcome::NotApplied, Some("k"))));
        assert_eq!(charges.run("k", never).await.unwrap(), 5, "a call without a fingerprint compares nothing");
        assert_eq!(charges.run("k2", five).await.unwrap(), 5);
        assert_eq!(charges.run("k2", never).fingerprint(TWO).await.unwrap(), 5);
    }

    async fn running_request_is_compared_too(world: World) {
        let name = unique("running");
        let charges = world.store.once::<u32>(&*name).await.unwrap();
        let (run, finish) = started(&charges).await;
        let elsewhere = world.another().await.once::<u32>(&*name);
        let other = elsewhere.run("k", never).fingerprint(TWO).await;
        assert!(is_mismatch(&other), "{other:?}");
        let waiter = tokio::spawn(async move { elsewhere.run("k", never).fingerprint(ONE).with_status().await.unwrap() });
        finish.send(9).unwrap();
        assert_eq!(run.await.unwrap().unwrap(), 9);
        let replayed = waiter.await.unwrap();
        assert_eq!((replayed.value, replayed.replayed), (9, true));
    }

    async fn failed_run_leaves_no_fingerprint(world: World) {
        let charges = world.store.once::<u32>(unique("failed"));
        let failed = charges.run("k", || async { Err::<u32, _>("declined") }).fingerprint(ONE).await;
        assert!(matches!(failed, Err(OnceError::Closure("declined"))));
        assert_eq!(charges.run("k", five).fingerprint(TWO).await.unwrap(), 5);
    }

    async fn status_tells_a_replay_from_a_run(world: World) {
        let charges = world.store.once::<u32>(unique("status"));
        let first = charges.run("k", five).with_status().await.unwrap();
        let second = charges.run("k", never).with_status().await.unwrap();
        assert_eq!((first.value, first.replayed, second.value, second.replayed), (5, false, 5, true));
        let apart = |time: SystemTime| time.duration_since(second.stored_at).unwrap_or_else(|before| before.duration());
        assert!(apart(first.stored_at) < Duration::from_secs(5) && apart(SystemTime::now()) < SOON);
        let third = charges.run("k", never).with_status().await.unwrap();
        assert_eq!(third.stored_at, second.stored_at);
    }

    async fn invalid_fingerprints_are_refused(world: World) {
        let charges = world.store.once::<u32>(unique("invalid"));
        for invalid in [vec![], vec![0; 129]] {
            let error = charges.run("k", never).fingerprint(invalid).await.unwrap_err();
            assert!(matches!(error.kv().unwrap().kind(), ErrorKind::InvalidConfig { .. }), "{error}");
        }
        assert_eq!(charges.run("k", five).fingerprint(vec![0; 128]).await.unwrap(), 5);
    }
}

#[tokio::test]
async fn report_contains_all_causes() {
    let store = Store::memory();
    let error = store.raw("sessions").await.unwrap_err();
    assert_eq!(error.report(), error.to_string());
    let locks = store.locks("jobs").await.unwrap();
    let guard = locks.lock("a").await.unwrap();
    let late = locks.lock("a").wait(Duration::from_millis(20)).await.unwrap_err();
    let mut causes = Vec::new();
    let mut cause = std::error::Error::source(&late);
    while let Some(error) = cause {
        causes.push(error.to_string());
        cause = error.source();
    }
    let report = late.report();
    assert!(report.starts_with(&late.to_string()) && causes.iter().all(|cause| report.contains(cause)), "{report}");
    assert!(!report.contains('\n'));
    drop(guard);
}
