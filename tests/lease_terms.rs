//! The life of a lease on the memory backend in paused time: exact times of renewals and of the loss.

use kvtyped::ErrorKind;
use kvtyped::prelude::*;
use kvtyped::recipes::Locks;
use tokio::time::sleep;

use crate::support::{ForeignRecord, ForeignRecordKey, World, seen_as};

const SECOND: Duration = Duration::from_secs(1);

/// The validity of a lock, counted from the sending of a renewal.
const VALID: Duration = Duration::from_secs(27);

/// Returns locks with the latest possible renewal.
async fn locks(world: &World) -> Locks {
    world.store.locks("jobs").ttl(30 * SECOND).renew_every(26 * SECOND).await.expect("memory is there")
}

#[tokio::test(start_paused = true)]
async fn ensure_remaining_renews_only_if_needed() {
    let world = World::memory();
    let guard = locks(&world).await.lock("a").await.unwrap();
    guard.ensure_remaining(VALID).await.unwrap();
    assert_eq!(guard.remaining(), VALID);
    sleep(15 * SECOND).await;
    guard.ensure_remaining(12 * SECOND).await.unwrap();
    assert_eq!(guard.remaining(), 12 * SECOND, "there was enough");
    guard.ensure_remaining(20 * SECOND).await.unwrap();
    assert_eq!(guard.remaining(), VALID);
    let error = guard.ensure_remaining(VALID + Duration::from_nanos(1)).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error}");
    // The next renewal follows this one after the same interval as the first.
    sleep(22 * SECOND).await;
    assert_eq!(guard.remaining(), 5 * SECOND);
    sleep(4 * SECOND).await;
    assert!(guard.remaining() > 20 * SECOND);
}

/// In real time, a renewal takes some of the requested time.
#[tokio::test]
async fn failed_ensure_remaining_keeps_lock() {
    let guard = locks(&World::memory()).await.lock("a").await.unwrap();
    let error = guard.ensure_remaining(VALID).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Timeout { .. }), "{error}");
    assert!(guard.is_held());
    guard.ensure_remaining(VALID - SECOND).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn removed_lock_is_lost_at_next_renewal() {
    let world = World::memory();
    let guard = locks(&world).await.lock("a").await.unwrap();
    seen_as::<ForeignRecord>(&world, "jobs").await.purge(&ForeignRecordKey::new("lock", "a", "lease")).await.unwrap();
    sleep(5 * SECOND).await;
    assert!(guard.is_held(), "no renewal has detected the loss yet");
    let error = guard.ensure_remaining(VALID).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Lost), "{error}");
    assert!(!guard.is_held() && guard.remaining().is_zero() && guard.check().is_err());
    guard.lost().await;
    assert!(matches!(guard.release().await.unwrap_err().kind(), ErrorKind::Lost));
}

#[tokio::test(start_paused = true)]
async fn lock_is_lost_after_bucket_deletion() {
    let world = World::memory();
    let guard = locks(&world).await.lock("a").await.unwrap();
    assert!(world.store.delete_bucket("jobs").await.unwrap());
    sleep(5 * SECOND).await;
    let error = guard.ensure_remaining(VALID).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Lost), "{error}");
    assert!(!guard.is_held());
}

#[tokio::test(start_paused = true)]
async fn lock_debug_shows_name_and_fence() {
    let world = World::memory();
    let guard = locks(&world).await.lock("invoice-42").await.unwrap();
    assert_eq!(guard.fence().to_string(), guard.fence().get().to_string());
    let shown = format!("{:?}", *guard);
    assert!(shown.contains("invoice-42") && shown.contains(&guard.fence().to_string()), "{shown}");
}
