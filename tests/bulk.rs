//! Bulk writes, and the removal of old delete markers.

use kvtyped::prelude::*;
use kvtyped::{ErrorKind, Read};

use crate::support::{Session, on_both_backends};

fn rows(count: u64) -> Vec<Session> {
    (0..count).map(|id| Session::new("acme", id)).collect()
}

on_both_backends! {
    async fn put_many_returns_revisions_in_input_order(world: World) {
        let sessions = world.bucket::<Session>().await;
        let rows = rows(3_000);
        let mut reported = Vec::new();
        let revisions = sessions.put_many(&rows).on_progress(|written| reported.push((written.done, written.total))).await;
        let revisions = revisions.unwrap();
        assert_eq!(reported.first(), Some(&(1, 3_000)));
        assert_eq!(reported.last(), Some(&(3_000, 3_000)));
        let keys: Vec<_> = rows.iter().map(KvModel::key).collect();
        let read = sessions.get_many(&keys).read(Read::Leader).await.unwrap();
        for ((row, revision), entry) in rows.iter().zip(revisions).zip(read) {
            let entry = entry.expect("it was written");
            assert_eq!((entry.value(), entry.revision()), (row, revision));
        }
    }

    async fn bulk_revisions_stay_close_to_input_order(world: World) {
        let sessions = world.bucket::<Session>().await;
        let count = if world.is_on_a_server() { 20_000 } else { 100_000 };
        let rows = rows(count);
        let keys: Vec<_> = rows.iter().map(KvModel::key).collect();
        let written = sessions.put_many(&rows).await.unwrap();
        let deleted = sessions.delete_many(&keys).await.unwrap();
        for (first, revisions) in [(1, written), (count + 1, deleted)] {
            let shift = |(index, revision): (u64, &Revision)| revision.get().abs_diff(first + index);
            let largest = (0..).zip(&revisions).map(shift).max();
            assert!(largest < Some(2 * 1_024), "a revision differs from the input order by {largest:?}");
        }
        assert!(sessions.get_many(&keys).await.unwrap().iter().all(Option::is_none));
    }

    async fn empty_bulk_write_writes_nothing(world: World) {
        let sessions = world.bucket::<Session>().await;
        assert_eq!(sessions.put_many(rows(0)).await.unwrap(), []);
        assert_eq!(sessions.delete_many(Vec::<crate::support::SessionKey>::new()).await.unwrap(), []);
        assert_eq!(sessions.status().await.unwrap().last_revision, Revision::ZERO);
    }

    async fn put_many_keeps_last_record_of_a_key(world: World) {
        let sessions = world.bucket::<Session>().await;
        let mut rows = Vec::new();
        for visits in 0..5 {
            rows.extend((0..200).map(|id| Session::new("acme", id).visited(visits)));
        }
        let revisions = sessions.put_many(rows).window(0).await.unwrap();
        assert_eq!(revisions.len(), 1_000);
        let mut all = sessions.list(..).await.unwrap();
        while let Some(session) = all.try_next().await.unwrap() {
            assert_eq!(session.visits, 4);
        }
    }

    async fn put_many_returns_a_result_per_record(world: World) {
        let sessions = world.bucket::<Session>().await;
        let long = "x".repeat(2_000);
        let rows = [Session::new("acme", 1), Session::new(&long, 2), Session::new("acme", 3)];
        let results = sessions.put_many(&rows).results().await.unwrap();
        assert!(results[0].is_ok() && results[2].is_ok());
        let error = results[1].as_ref().unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidKey), "{error}");
        assert_eq!(error.operation(), Some("put_many"));
        assert!(sessions.put_many(&rows).await.is_err());
        assert_eq!(sessions.count(..).await.unwrap(), 2);
    }

    async fn delete_many_removes_the_given_keys(world: World) {
        let sessions = world.bucket::<Session>().await;
        let rows = rows(500);
        sessions.put_many(&rows).await.unwrap();
        let keys: Vec<_> = rows.iter().map(KvModel::key).filter(|key| key.id % 2 == 0).collect();
        sessions.delete_many(&keys).await.unwrap();
        assert_eq!(sessions.count(..).await.unwrap(), 250);
    }

    async fn put_many_to_deleted_bucket_fails_every_record(world: World) {
        let sessions = world.bucket::<Session>().await;
        world.store.delete_bucket(sessions.name()).await.unwrap();
        let results = sessions.put_many(rows(5_000)).window(4).timeout(Duration::from_secs(5)).results().await.unwrap();
        assert_eq!(results.len(), 5_000);
        assert!(results.iter().all(Result::is_err));
    }

    async fn compaction_removes_only_old_markers(world: World) {
        let sessions = world.bucket::<Session>().await;
        let rows = rows(300);
        sessions.put_many(&rows).await.unwrap();
        let keys: Vec<_> = rows.iter().map(KvModel::key).collect();
        sessions.delete_many(&keys[..100]).await.unwrap();
        for key in &keys[100..120] {
            sessions.purge(key).await.unwrap();
        }
        assert_eq!(sessions.compact(Duration::from_secs(3_600)).await.unwrap().markers, 0);
        let compacted = sessions.compact(Duration::ZERO).await.unwrap();
        assert_eq!((compacted.markers, compacted.entries), (120, 120));
        assert!(compacted.bytes > 120 * 20, "{compacted:?}");
        let status = sessions.status().await.unwrap();
        assert_eq!(status.values, 180);
        assert_eq!(sessions.count(..).await.unwrap(), 180);
        // A compacted key behaves like a new key.
        sessions.create(&rows[0]).await.unwrap();
    }

    async fn compaction_removes_history_before_marker(world: World) {
        let documents = world.bucket::<crate::support::Document>().await;
        for text in ["one", "two"] {
            documents.put(&crate::support::Document::new("a", text)).await.unwrap();
            documents.put(&crate::support::Document::new("b", text)).await.unwrap();
        }
        documents.delete(&crate::support::DocumentKey::new("a")).await.unwrap();
        let compacted = documents.compact(Duration::ZERO).await.unwrap();
        assert_eq!((compacted.markers, compacted.entries), (1, 3));
        assert_eq!(documents.history(&crate::support::DocumentKey::new("b")).await.unwrap().len(), 2);
    }

    async fn no_record_is_lost_during_compaction(world: World) {
        let sessions = world.bucket::<Session>().await;
        let rows = rows(3_000);
        let keys: Vec<_> = rows.iter().map(KvModel::key).collect();
        sessions.delete_many(&keys).await.unwrap();
        let cache = sessions.cache(..).await.unwrap();
        let writes = async {
            let mut revisions = Vec::new();
            for row in rows.iter().step_by(10) {
                revisions.push((row.key(), sessions.put(row).await.unwrap()));
            }
            revisions
        };
        let (compacted, written) = tokio::join!(sessions.compact(Duration::ZERO), writes);
        let compacted = compacted.unwrap();
        for (key, revision) in &written {
            let entry = sessions.get(key).read(Read::Leader).await.unwrap().expect("it was written");
            assert_eq!(entry.revision(), *revision);
        }
        let again = sessions.compact(Duration::ZERO).await.unwrap();
        assert_eq!(again.markers, 0, "nothing was left: {compacted:?}");
        assert_eq!(sessions.status().await.unwrap().values, written.len() as u64);
        cache.wait_for_revision(written[written.len() - 1].1).await.unwrap();
        assert_eq!(cache.len(), written.len());
    }
}

#[tokio::test(start_paused = true)]
async fn backend_clock_measures_the_age_of_markers() {
    let sessions: Bucket<Session> = Store::memory().bucket().await.unwrap();
    sessions.delete(&Session::new("acme", 1).key()).await.unwrap();
    // Only the clock of the backend advances, by two hours.
    tokio::time::advance(Duration::from_secs(7_200)).await;
    sessions.delete(&Session::new("acme", 2).key()).await.unwrap();
    assert_eq!(sessions.compact(Duration::from_secs(10_000)).await.unwrap().markers, 0);
    assert_eq!(sessions.compact(Duration::from_secs(3_600)).await.unwrap().markers, 1);
    assert_eq!(sessions.status().await.unwrap().values, 1);
}

#[tokio::test]
async fn compaction_spans_several_rounds() {
    let sessions: Bucket<Session> = Store::memory().bucket().await.unwrap();
    let keys: Vec<_> = rows(100_500).iter().map(KvModel::key).collect();
    for keys in keys.chunks(5_000) {
        sessions.delete_many(keys).await.unwrap();
    }
    sessions.put(&Session::new("acme", 100_500)).await.unwrap();
    assert_eq!(sessions.compact(Duration::ZERO).await.unwrap().markers, 100_500);
    assert_eq!(sessions.status().await.unwrap().values, 1);
}
