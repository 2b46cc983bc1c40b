//! Many writes at once, and the removal of old markers.

use kvtyped::ErrorKind;
use kvtyped::prelude::*;

use crate::support::{Session, on_both_backends};

fn rows(count: u64) -> Vec<Session> {
    (0..count).map(|id| Session::new("acme", id)).collect()
}

on_both_backends! {
    async fn many_records_are_written_and_told_in_their_order(world: World) {
        let sessions = world.bucket::<Session>().await;
        let rows = rows(3_000);
        let mut told = Vec::new();
        let revisions = sessions.put_many(&rows).on_progress(|written| told.push((written.done, written.total))).await;
        let revisions = revisions.unwrap();
        assert_eq!(told.first(), Some(&(1, 3_000)));
        assert_eq!(told.last(), Some(&(3_000, 3_000)));
        let keys: Vec<_> = rows.iter().map(KvModel::key).collect();
        let read = sessions.get_many(&keys).read(Read::Leader).await.unwrap();
        for ((row, revision), entry) in rows.iter().zip(revisions).zip(read) {
            let entry = entry.expect("it was written");
            assert_eq!((entry.value(), entry.revision()), (row, revision));
        }
    }

    async fn nothing_is_written_of_nothing(world: World) {
        let sessions = world.bucket::<Session>().await;
        assert_eq!(sessions.put_many(rows(0)).await.unwrap(), []);
        assert_eq!(sessions.delete_many(Vec::<crate::support::SessionKey>::new()).await.unwrap(), []);
        assert_eq!(sessions.status().await.unwrap().last_revision, Revision::ZERO);
    }

    async fn of_records_of_one_key_the_last_stays(world: World) {
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

    async fn each_has_a_result_of_its_own(world: World) {
        let sessions = world.bucket::<Session>().await;
        let long = "x".repeat(2_000);
        let rows = [Session::new("acme", 1), Session::new(&long, 2), Session::new("acme", 3)];
        let results = sessions.put_many(&rows).each().await.unwrap();
        assert!(results[0].is_ok() && results[2].is_ok());
        let error = results[1].as_ref().unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidKey), "{error}");
        assert_eq!(error.operation(), Some("put_many"));
        assert!(sessions.put_many(&rows).await.is_err());
        assert_eq!(sessions.count(..).await.unwrap(), 2);
    }

    async fn many_are_removed(world: World) {
        let sessions = world.bucket::<Session>().await;
        let rows = rows(500);
        sessions.put_many(&rows).await.unwrap();
        let keys: Vec<_> = rows.iter().map(KvModel::key).filter(|key| key.id % 2 == 0).collect();
        sessions.delete_many(&keys).await.unwrap();
        assert_eq!(sessions.count(..).await.unwrap(), 250);
    }

    async fn what_cannot_be_sent_any_more_is_not(world: World) {
        let sessions = world.bucket::<Session>().await;
        world.store.delete_bucket(sessions.name()).await.unwrap();
        let results = sessions.put_many(rows(5_000)).window(4).timeout(Duration::from_secs(5)).each().await.unwrap();
        assert_eq!(results.len(), 5_000);
        assert!(results.iter().all(Result::is_err));
    }

    async fn old_markers_are_removed_and_nothing_else(world: World) {
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
        // A key that was compacted is as new.
        sessions.create(&rows[0]).await.unwrap();
    }

    async fn the_history_before_an_old_marker_goes_with_it(world: World) {
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
}
