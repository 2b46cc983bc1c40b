//! Migrations that are killed, fail, or lose replies.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kvtyped::ErrorKind;
use kvtyped::prelude::*;
use tokio::sync::Notify;

use super::faulty::{Fate, Faulty, Refusal};
use super::migrate::check;
use super::models::{First, User, first, opened_as};

const RECORDS: u64 = 20;

/// Returns a bucket of version 1 with a faulty backend, and the healthy view of the newest program.
async fn prepared(faulty: &Faulty) -> (Bucket<User>, Bucket<User>) {
    let healthy = faulty.healthy_store();
    let old: Bucket<First> = healthy.bucket().await.unwrap();
    old.put_many((0..RECORDS).map(first)).await.unwrap();
    let new: Bucket<User> = opened_as(&healthy, old.name()).await;
    new.switch_version(3).await.unwrap();
    (opened_as(&faulty.store(), old.name()).await, new)
}

const MINUTE: Duration = Duration::from_secs(60);

/// The migration is dropped after each of its writes, and continued.
#[tokio::test(start_paused = true)]
async fn killed_migration_is_continued() {
    for killed_after in 1..RECORDS {
        for pace in [None, Some(1)] {
            let faulty = Faulty::default();
            let (users, healthy) = prepared(&faulty).await;
            let reached = Arc::new(Notify::new());
            let told = Arc::clone(&reached);
            let migrate = users.migrate().resume().on_progress(move |progress| {
                if progress.rewritten >= killed_after {
                    told.notify_one();
                }
            });
            let migrate = if let Some(pace) = pace { migrate.pace(pace) } else { migrate };
            tokio::select! {
                biased;
                () = reached.notified() => {}
                migrated = migrate.into_future() => assert!(migrated.unwrap().complete),
            }
            let versions = healthy.schema_versions().await.unwrap();
            assert!(versions.get(3) >= killed_after && versions.total() == RECORDS, "{versions}");
            if pace.is_some() {
                assert_eq!(versions.get(3), killed_after);
            }
            let migrated = healthy.migrate().resume().wait(MINUTE).await.unwrap();
            assert_eq!(migrated.rewritten, versions.get(1), "only the rest is written");
            assert_eq!(migrated.oldest, Some(3));
            check(&healthy, RECORDS, 3).await;
        }
    }
}

/// One write in each position has another fate.
#[tokio::test(start_paused = true)]
async fn failed_write_is_repeated() {
    for fate in [Fate::Lost, Fate::LostReply, Fate::Refused(Refusal::Unavailable)] {
        for position in 0..RECORDS {
            let faulty = Faulty::default();
            let (users, healthy) = prepared(&faulty).await;
            let (count, failing) = (AtomicU64::new(0), fate.clone());
            faulty.on_write(move |_| match count.fetch_add(1, Ordering::Relaxed) == position {
                true => failing.clone(),
                false => Fate::Applied,
            });
            let migrated = users.migrate().await.unwrap();
            let known = if fate == Fate::LostReply { RECORDS - 1 } else { RECORDS };
            assert_eq!((migrated.rewritten, migrated.oldest), (known, Some(3)), "{fate:?} at {position}");
            check(&healthy, RECORDS, 3).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn outage_ends_the_migration_and_loses_nothing() {
    let faulty = Faulty::default();
    let (users, healthy) = prepared(&faulty).await;
    faulty.on_write(|_| Fate::Refused(Refusal::Unavailable));
    let error = users.migrate().await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unavailable { .. }), "{error}");
    assert_eq!(healthy.schema_versions().await.unwrap().to_string(), format!("1: {RECORDS}"));
    assert_eq!(healthy.card().await.unwrap().unwrap().oldest, 1);
    faulty.on_write(|_| Fate::Applied);
    assert_eq!(users.migrate().await.unwrap().rewritten, RECORDS);
    check(&healthy, RECORDS, 3).await;
}

#[tokio::test(start_paused = true)]
async fn full_bucket_ends_the_migration_and_loses_nothing() {
    for position in [0, 7, RECORDS - 1] {
        let faulty = Faulty::default();
        let (users, healthy) = prepared(&faulty).await;
        let count = AtomicU64::new(0);
        faulty.on_write(move |_| match count.fetch_add(1, Ordering::Relaxed) >= position {
            true => Fate::Refused(Refusal::BucketFull),
            false => Fate::Applied,
        });
        let error = users.migrate().resume().await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::BucketFull), "{error}");
        assert_eq!((error.operation(), error.outcome()), (Some("migrate"), Outcome::NotApplied));
        let versions = healthy.schema_versions().await.unwrap();
        assert_eq!((versions.get(3), versions.get(1)), (position, RECORDS - position));
        faulty.on_write(|_| Fate::Applied);
        let migrated = users.migrate().resume().await.unwrap();
        assert_eq!((migrated.rewritten, migrated.oldest), (RECORDS - position, Some(3)));
        check(&healthy, RECORDS, 3).await;
    }
}

/// A checkpoint never passes a record that is not written.
#[tokio::test(start_paused = true)]
async fn checkpoint_waits_for_earlier_records() {
    let faulty = Faulty::default();
    let (users, healthy) = prepared(&faulty).await;
    // The first record fails until the job gives up, and the others are written.
    faulty.on_write(|write| match write.key.as_str() == "u.0" {
        true => Fate::Refused(Refusal::Unavailable),
        false => Fate::Applied,
    });
    users.migrate().resume().pace(5).await.unwrap_err();
    let versions = healthy.schema_versions().await.unwrap();
    assert!(versions.get(1) >= 1 && versions.get(3) >= 1, "{versions}");
    faulty.on_write(|_| Fate::Applied);
    assert_eq!(users.migrate().resume().await.unwrap().rewritten, versions.get(1));
    check(&healthy, RECORDS, 3).await;
}
