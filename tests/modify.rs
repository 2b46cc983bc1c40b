//! `modify try_modify transform`, on the memory backend and on a server.

use std::sync::atomic::{AtomicU32, Ordering};

use futures::FutureExt;
use kvtyped::prelude::*;
use kvtyped::{ErrorKind, Read, Ttl};

use crate::needs::{Feature, needs};
use crate::support::{Document, DocumentKey, Session, SessionKey, World, on_both_backends};

fn key() -> SessionKey {
    SessionKey::new("acme", 7)
}

fn session() -> Session {
    Session::new("acme", 7)
}

on_both_backends! {
    async fn modify_returns_changed_record(world: World) {
        let sessions = world.bucket::<Session>().await;
        sessions.put(&session()).await.unwrap();
        let changed = sessions.modify(&key(), |session| session.visits += 1).await.unwrap();
        assert_eq!(changed.visits, 1);
        let read = sessions.get(&key()).read(Read::Leader).await.unwrap().expect("there");
        assert_eq!(read, changed);
    }

    async fn modify_of_missing_record_is_not_found(world: World) {
        let sessions = world.bucket::<Session>().await;
        let error = sessions.modify(&key(), |session| session.visits += 1).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::NotFound) && error.is_not_found());
        sessions.put(&session()).await.unwrap();
        sessions.delete(&key()).await.unwrap();
        let error = sessions.modify(&key(), |session| session.visits += 1).await.unwrap_err();
        assert!(error.is_not_found());
    }

    async fn modify_or_insert_with_inserts_missing_record(world: World) {
        let sessions = world.bucket::<Session>().await;
        let entry = sessions.modify(&key(), |session| session.visits += 1).or_insert_with(session).await.unwrap();
        assert_eq!(entry.visits, 0, "the record that is inserted is not changed");
        sessions.delete(&key()).await.unwrap();
        sessions.modify(&key(), |session| session.visits += 1).or_insert_with(session).await.unwrap();
        let entry = sessions.modify(&key(), |session| session.visits += 1).or_insert_with(session).await.unwrap();
        assert_eq!(entry.visits, 1);
    }

    async fn closure_changing_key_is_rejected(world: World) {
        let sessions = world.bucket::<Session>().await;
        sessions.put(&session()).await.unwrap();
        let error = sessions.modify(&key(), |session| session.id = 8).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::KeyChanged), "{error}");
        let other = || Session::new("acme", 9);
        let error = sessions.modify(&SessionKey::new("acme", 1), |_| {}).or_insert_with(other).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::KeyChanged), "{error}");
        let error = sessions.transform(&key(), |_| Change::Put(other())).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::KeyChanged), "{error}");
        assert_eq!(sessions.keys(..).await.unwrap().try_collect::<Vec<_>>().await.unwrap(), [key()]);
    }

    async fn unchanged_record_is_not_written(world: World) {
        let sessions = world.bucket::<Session>().await;
        let revision = sessions.put(&session()).await.unwrap();
        let entry = sessions.modify(&key(), |session| session.visits += 0).await.unwrap();
        assert_eq!((entry.revision(), entry.value()), (revision, &session()));
        let read = sessions.get(&key()).read(Read::Leader).await.unwrap().expect("there");
        assert_eq!(entry.created(), read.created());
        let entry = sessions.transform(&key(), |session| session.map_or(Change::Keep, Change::Put)).await.unwrap();
        assert_eq!(entry.expect("kept").revision(), revision);
        let entry = sessions.transform(&key(), |_| Change::Keep).await.unwrap();
        assert_eq!(entry.expect("kept").revision(), revision);
        assert_eq!(sessions.status().await.unwrap().last_revision, revision);
    }

    async fn closure_error_is_returned_without_write(world: World) {
        #[derive(Debug, PartialEq)]
        struct Refused(u32);

        let sessions = world.bucket::<Session>().await;
        let revision = sessions.put(&session()).await.unwrap();
        let refuse = |session: &mut Session| {
            session.visits = 100;
            Err(Refused(session.visits))
        };
        let error = sessions.try_modify(&key(), refuse).await.unwrap_err();
        assert!(matches!(error, ModifyError::Closure(Refused(100))));
        assert_eq!(sessions.status().await.unwrap().last_revision, revision);
        let error = sessions.try_modify(&SessionKey::new("acme", 8), refuse).await.unwrap_err();
        assert!(error.kv().expect("the bucket's").is_not_found());
        let charge = |session: &mut Session| {
            session.visits += 1;
            Ok::<_, Refused>(())
        };
        assert_eq!(sessions.try_modify(&key(), charge).await.unwrap().visits, 1);
    }

    async fn panicking_closure_leaves_record_unchanged(world: World) {
        let sessions = world.bucket::<Session>().await;
        let revision = sessions.put(&session()).await.unwrap();
        let mut panics = std::panic::AssertUnwindSafe(async {
            sessions.modify(&key(), |_| std::panic::resume_unwind(Box::new("the closure's"))).await
        })
        .catch_unwind()
        .boxed();
        assert!(panics.as_mut().await.is_err());
        drop(panics);
        assert_eq!(sessions.status().await.unwrap().last_revision, revision);
        assert_eq!(sessions.modify(&key(), |session| session.visits += 1).await.unwrap().visits, 1);
    }

    async fn transform_puts_deletes_purges_and_keeps(world: World) {
        let documents = world.bucket::<Document>().await;
        let key = DocumentKey::new("a");
        let kept = documents.transform(&key, |current| { assert!(current.is_none()); Change::Keep }).await.unwrap();
        assert_eq!(kept, None);
        let put = documents.transform(&key, |_| Change::Put(Document::new("a", "one"))).await.unwrap().expect("put");
        assert_eq!(put.text, "one");
        let next = |current: Option<Document>| Change::Put(Document { text: current.expect("there").text + "!", name: "a".into() });
        assert_eq!(documents.transform(&key, next).await.unwrap().expect("put").text, "one!");
        assert_eq!(documents.transform(&key, |_| Change::Delete).await.unwrap(), None);
        assert_eq!(documents.history(&key).await.unwrap().len(), 3);
        documents.put(&Document::new("a", "two")).await.unwrap();
        assert_eq!(documents.transform(&key, |_| Change::Purge).await.unwrap(), None);
        assert_eq!(documents.history(&key).await.unwrap().len(), 1);
        let before = documents.status().await.unwrap().last_revision;
        documents.transform(&key, |_| Change::Delete).await.unwrap();
        assert_eq!(documents.status().await.unwrap().last_revision, before, "nothing was there to delete");
    }

    async fn modify_keeps_ttl_unless_overridden(world: World) {
        needs!(world, RecordTtl);
        let sessions = world.bucket::<Session>().await;
        let minute = Duration::from_secs(60);
        sessions.create(&session()).ttl(minute).await.unwrap();
        sessions.modify(&key(), |session| session.visits += 1).await.unwrap();
        let entry = sessions.get(&key()).read(Read::Leader).await.unwrap().expect("there");
        assert_eq!(entry.ttl(), Ttl::new(minute));
        assert_eq!(sessions.modify(&key(), |_| {}).await.unwrap().ttl(), Ttl::new(minute));
        sessions.modify(&key(), |_| {}).ttl(2 * minute).await.unwrap();
        let entry = sessions.get(&key()).read(Read::Leader).await.unwrap().expect("there");
        assert_eq!((entry.ttl(), entry.visits), (Ttl::new(2 * minute), 1));
        let kept = sessions.transform(&key(), |_| Change::Keep).ttl(3 * minute).await.unwrap().expect("there");
        assert_eq!((kept.ttl(), kept.visits), (Ttl::new(3 * minute), 1));
        assert!(kept.created() >= entry.created(), "the record is written again");
        let entry = sessions.get(&key()).read(Read::Leader).await.unwrap().expect("there");
        assert_eq!((entry.ttl(), entry.revision()), (Ttl::new(3 * minute), kept.revision()));
    }

    async fn concurrent_increments_are_not_lost(world: World) {
        let sessions = world.bucket::<Session>().await;
        sessions.put(&session()).await.unwrap();
        let tasks = (0..64).map(|_| {
            let sessions = sessions.clone();
            tokio::spawn(async move {
                let key = key();
                for _ in 0..50 {
                    let increment = sessions.modify(&key, |session| session.visits += 1);
                    increment.timeout(Duration::from_secs(60)).await.expect("it succeeds in the end");
                }
            })
        });
        futures::future::try_join_all(tasks).await.unwrap();
        assert_eq!(sessions.get(&key()).read(Read::Leader).await.unwrap().expect("there").visits, 64 * 50);
    }

    async fn group_commit_returns_stored_record(world: World) {
        let sessions = world.bucket::<Session>().await;
        sessions.put(&session()).await.unwrap();
        let before = sessions.status().await.unwrap().last_revision;
        let key = key();
        let changes = (0..200).map(async |_| {
            let mut own = 0;
            let change = sessions.modify(&key, |session| {
                session.visits += 1;
                own = session.visits;
            });
            let entry = change.await.unwrap();
            (own, entry)
        });
        let mut results = futures::future::join_all(changes).await;
        results.sort_by_key(|(own, _)| *own);
        assert_eq!(results.iter().map(|(own, _)| *own).collect::<Vec<_>>(), (1..=200).collect::<Vec<_>>());
        assert!(results.is_sorted_by_key(|(_, entry)| entry.revision()), "the order of the changes is that of the writes");
        let writes = sessions.status().await.unwrap().last_revision.get() - before.get();
        assert!(writes < 100, "{writes} writes for 200 changes");
        let stored = sessions.get(&key).read(Read::Leader).await.unwrap().expect("there");
        for (own, entry) in &results {
            // Each revision identifies one record, which is not older than the caller's own change.
            let same = results.iter().filter(|(_, other)| other.revision() == entry.revision());
            let last = same.map(|(own, _)| *own).max().expect("itself");
            assert_eq!(entry.visits, last, "change {own} of {}", entry.revision());
            if entry.revision() == stored.revision() {
                assert_eq!(entry, &stored);
            }
        }
    }

    async fn group_commit_revision_round_trips_as_number(world: World) {
        let sessions = world.bucket::<Session>().await;
        sessions.put(&session()).await.unwrap();
        let key = key();
        let changes = (0..5).map(|_| sessions.modify(&key, |session| session.visits += 1).into_future());
        let entries = futures::future::try_join_all(changes).await.unwrap();
        let stored = sessions.get(&key).read(Read::Leader).await.unwrap().expect("there");
        let current = entries.iter().filter(|entry| entry.revision() == stored.revision()).count();
        // The memory backend answers at once, so no caller waits.
        assert!(current >= 4 || !world.is_on_a_server(), "{current} changes of waiting callers were stored by one write");
        for entry in entries {
            let again = Revision::new(entry.revision().get());
            assert!(again == entry.revision() && again.cmp(&entry.revision()).is_eq());
            let probe = sessions.transaction().check(&key, entry.revision()).put(&Session::new("acme", 8)).commit().await;
            let copied = sessions.transaction().check(&key, again).put(&Session::new("acme", 8)).commit().await;
            assert_eq!(probe.is_ok(), copied.is_ok(), "{probe:?} {copied:?}");
            assert_eq!(probe.is_ok(), entry.revision() == stored.revision(), "{probe:?}");
        }
        // Each caller got the stored record, so an update with its revision loses nothing. A second update with that
        // revision conflicts.
        sessions.update(&stored.value().clone().visited(9), Revision::new(stored.revision().get())).await.unwrap();
        assert!(sessions.update(stored.value(), stored.revision()).await.unwrap_err().is_conflict());
    }

    async fn concurrent_modifies_and_deletes_succeed(world: World) {
        let sessions = world.bucket::<Session>().await;
        sessions.put(&session()).await.unwrap();
        let key = key();
        for round in 0..20 {
            let change = |n: usize| {
                let (sessions, key) = (&sessions, &key);
                async move {
                    if n % 5 == round % 5 {
                        return sessions.transform(key, |_| Change::Delete).await.map(|entry| assert_eq!(entry, None));
                    }
                    // Every change finds a record, at least its own.
                    let changed = sessions.modify(key, |session| session.visits += 1).or_insert_with(session).await;
                    changed.map(|entry| assert_eq!(entry.key(), key))
                }
            };
            futures::future::try_join_all((0..10).map(change)).await.unwrap();
        }
        // No draft is left over: the next change is based on the stored record.
        let read = sessions.get(&key).read(Read::Leader).await.unwrap().map(|entry| entry.visits + 1);
        let next = sessions.modify(&key, |session| session.visits += 1).or_insert_with(session).await.unwrap();
        assert_eq!(next.visits, read.unwrap_or(0));
    }

    async fn modify_polled_once_does_not_block(world: World) {
        let sessions = world.bucket::<Session>().await;
        sessions.put(&session()).await.unwrap();
        let key = key();
        let increment = || sessions.modify(&key, |session| session.visits += 1).timeout(Duration::from_secs(5)).into_future();
        let mut left = Vec::new();
        let mut made = 0;
        for round in 0..20 {
            // Some futures are left during a read, during a write, or while they wait for others.
            for _ in 0..5 {
                let mut change = increment();
                match futures::poll!(change.as_mut()) {
                    std::task::Poll::Ready(entry) => {
                        entry.expect("it is written");
                        made += 1;
                    }
                    std::task::Poll::Pending => left.push(change),
                }
            }
            for _ in 0..round % 4 {
                tokio::task::yield_now().await;
            }
            increment().await.expect("no other call blocks it");
            let both = futures::future::try_join_all([increment(), increment()]).await;
            both.expect("no other call blocks it");
            made += 3;
        }
        // Futures that are polled again succeed, and no change is lost or applied twice.
        made += left.len() as u32;
        futures::future::try_join_all(left).await.expect("they end well");
        assert_eq!(sessions.get(&key).read(Read::Leader).await.unwrap().expect("there").visits, made);
    }

    async fn buffer_unordered_modifies_complete(world: World) {
        let sessions = world.bucket::<Session>().await;
        sessions.put(&session()).await.unwrap();
        let key = key();
        let increment = || sessions.modify(&key, |session| session.visits += 1).timeout(Duration::from_secs(5));
        let changes = futures::stream::iter(0..30).map(|_| increment().into_future()).buffer_unordered(5);
        let mut changes = std::pin::pin!(changes);
        let mut done = 0;
        while let Some(entry) = changes.next().await {
            entry.expect("it is written");
            // The consumer changes the same key. During its change, the other futures are not polled.
            increment().await.expect("no other call blocks it");
            done += 2;
        }
        assert_eq!(sessions.get(&key).read(Read::Leader).await.unwrap().expect("there").visits, done);
    }

    async fn unpolled_modify_with_history_does_not_block(world: World) {
        let documents = world.bucket::<Document>().await;
        documents.put(&Document::new("a", "")).await.unwrap();
        let key = DocumentKey::new("a");
        let push = || documents.modify(&key, |document| document.text.push('x')).timeout(Duration::from_secs(10)).into_future();
        let mut left = Vec::new();
        for _ in 0..8 {
            let mut change = push();
            if futures::poll!(change.as_mut()).is_pending() {
                left.push(change);
            }
        }
        futures::future::try_join_all((0..8).map(|_| push())).await.expect("no other call blocks it");
        futures::future::try_join_all(left).await.expect("they end well");
        assert_eq!(documents.get(&key).read(Read::Leader).await.unwrap().expect("there").text.len(), 16);
    }

    async fn failing_closure_does_not_affect_group_commit(world: World) {
        let sessions = world.bucket::<Session>().await;
        sessions.put(&session()).await.unwrap();
        let key = key();
        let changes = (0..120).map(|n| {
            let (sessions, key) = (sessions.clone(), key.clone());
            let change = async move {
                let change = sessions.try_modify(&key, |session| match n % 4 {
                    0 => std::panic::resume_unwind(Box::new("the closure's")),
                    1 => Err(n),
                    _ => {
                        session.visits += 1;
                        Ok(())
                    }
                });
                change.await.map(|entry| entry.visits)
            };
            std::panic::AssertUnwindSafe(change).catch_unwind()
        });
        let results = futures::future::join_all(changes).await;
        for (n, result) in results.iter().enumerate() {
            match n % 4 {
                0 => assert!(result.is_err()),
                1 => assert!(matches!(result, Ok(Err(ModifyError::Closure(own))) if *own == n)),
                _ => assert!(matches!(result, Ok(Ok(_)))),
            }
        }
        assert_eq!(sessions.get(&key).read(Read::Leader).await.unwrap().expect("there").visits, 60);
    }

    async fn dropped_modify_does_not_block_later_calls(world: World) {
        let sessions = world.bucket::<Session>().await;
        sessions.put(&session()).await.unwrap();
        let key = key();
        for steps in 0..12 {
            let mut changes: Vec<_> =
                (0..16).map(|_| sessions.modify(&key, |session| session.visits += 1).into_future()).collect();
            // Some futures are polled a few times and dropped, the others continue.
            for _ in 0..steps {
                let mut going = Vec::new();
                for mut change in changes {
                    if futures::poll!(change.as_mut()).is_pending() {
                        going.push(change);
                    }
                }
                changes = going;
                tokio::task::yield_now().await;
            }
            drop(changes);
            let next = sessions.modify(&key, |session| session.visits += 1).timeout(Duration::from_secs(20));
            next.await.expect("no other call blocks it");
        }
    }

    async fn too_large_value_fails_only_its_change(world: World) {
        let open = world.fresh::<crate::support::RawSession>().max_value_size(1_000);
        let has_markers = world.has(Feature::LimitMarkers);
        let open = if has_markers { open.limit_markers(Duration::from_secs(60)) } else { open };
        let sessions = open.await.unwrap();
        let record = |bytes: usize| crate::support::RawSession::new("acme", "7", &vec![7; bytes]);
        sessions.put(&record(1)).await.unwrap();
        let key = record(1).key();
        let changes = (0..40).map(|n| {
            let grow = if n % 10 == 0 { 5_000 } else { 1 };
            sessions.modify(&key, move |record| record.bytes.resize(record.bytes.len() + grow, 7)).into_future()
        });
        let results = futures::future::join_all(changes).await;
        for (n, result) in results.iter().enumerate() {
            match result {
                Ok(_) => assert!(n % 10 != 0),
                Err(error) => {
                    assert!(n % 10 == 0, "{error}");
                    assert!(matches!(error.kind(), ErrorKind::TooLarge { .. }), "{error}");
                }
            }
        }
        assert_eq!(sessions.get(&key).read(Read::Leader).await.unwrap().expect("there").bytes.len(), 37);
    }

    async fn modify_does_not_trust_stale_cached_entry(world: World) {
        let here = world.bucket::<Session>().await;
        let there: Bucket<Session> = world.store.bucket().name(here.name()).await.unwrap();
        here.put(&session()).await.unwrap();
        here.modify(&key(), |session| session.visits = 1).await.unwrap();
        let theirs = there.put(&session().visited(50)).await.unwrap();
        let kept = here.transform(&key(), |session| session.map_or(Change::Keep, Change::Put)).await.unwrap().unwrap();
        assert_eq!((kept.visits, kept.revision()), (50, theirs));
        here.modify(&key(), |session| session.visits = 1).await.unwrap();
        there.delete(&key()).await.unwrap();
        assert!(here.modify(&key(), |session| session.visits += 0).await.unwrap_err().is_not_found());
        there.put(&session().visited(7)).await.unwrap();
        assert_eq!(here.modify(&key(), |session| session.visits += 1).await.unwrap().visits, 8);
    }

    async fn alternating_writers_do_not_conflict(world: World) {
        let here = world.bucket::<Session>().await;
        let there: Bucket<Session> = world.store.bucket().name(here.name()).await.unwrap();
        here.put(&session().visited(0)).await.unwrap();
        let runs = AtomicU32::new(0);
        let change = async |sessions: &Bucket<Session>| {
            let key = key();
            let change = sessions.modify(&key, |session| {
                runs.fetch_add(1, Ordering::Relaxed);
                session.visits += 1;
            });
            change.await.unwrap();
            runs.swap(0, Ordering::Relaxed)
        };
        assert_eq!((change(&here).await, change(&there).await), (1, 1));
        assert_eq!((change(&here).await, change(&there).await), (2, 2), "they did not know of each other");
        for _ in 0..10 {
            assert_eq!((change(&here).await, change(&there).await), (1, 1));
        }
        assert_eq!(here.get(&key()).await.unwrap().expect("there").visits, 24);
    }

    async fn increments_of_separate_handles_are_not_lost(world: World) {
        const WRITERS: u32 = 24;
        const EACH: u32 = 10;
        let sessions = world.bucket::<Session>().await;
        sessions.put(&session().visited(0)).await.unwrap();
        let (mut writers, mut runs) = (Vec::new(), 0);
        for _ in 0..WRITERS {
            let own: Bucket<Session> = world.store.bucket().name(sessions.name()).await.unwrap();
            writers.push(tokio::spawn(async move {
                let mut runs = 0;
                for _ in 0..EACH {
                    let change = |session: &mut Session| {
                        runs += 1;
                        session.visits += 1;
                    };
                    own.modify(&key(), change).await.expect("it wins within the default number of attempts");
                }
                runs
            }));
        }
        for writer in writers {
            runs += writer.await.unwrap();
        }
        println!("{runs} attempts for {} changes", WRITERS * EACH);
        assert_eq!(sessions.get(&key()).await.unwrap().expect("there").visits, WRITERS * EACH);
    }

    async fn with_history_each_change_is_a_revision(world: World) {
        let documents = world.bucket::<crate::support::Document>().await;
        documents.put(&crate::support::Document::new("a", "")).await.unwrap();
        let key = crate::support::DocumentKey::new("a");
        let changes = (0..8).map(|_| documents.modify(&key, |document| document.text.push('x')).into_future());
        let entries = futures::future::try_join_all(changes).await.unwrap();
        let past = documents.history(&key).await.unwrap();
        assert_eq!(past.len(), 9);
        for entry in entries {
            let kept = documents.get(&key).at(entry.revision()).await.unwrap().expect("it is kept");
            assert_eq!(kept.text, entry.text);
        }
    }
}

/// The memory backend answers at once, so another writer can write within the closure.
#[tokio::test(start_paused = true)]
async fn modify_gives_up_after_max_attempts() {
    let sessions: Bucket<Session> = Store::memory().bucket().await.unwrap();
    sessions.put(&session()).await.unwrap();
    let mut runs = 0;
    let error = sessions
        .modify(&key(), |mine| {
            runs += 1;
            let theirs = session().visited(1_000 + runs);
            let other = sessions.put(&theirs).into_future().now_or_never().expect("memory answers at once");
            other.expect("it is written");
            mine.visits = runs;
        })
        .max_attempts(5)
        .await
        .unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::RetriesExhausted { attempts: 5, .. }), "{error}");
    assert!(error.is_conflict() && error.is_retryable());
    assert_eq!(error.outcome(), Outcome::NotApplied);
    assert_eq!(runs, 5);
    assert_eq!(sessions.get(&key()).await.unwrap().expect("theirs").visits, 1_005);
}

/// Returns the time of an update that loses this many times, and the time of the next update on the same handle.
async fn times_of_losing_update(times: u32) -> [Duration; 2] {
    let sessions: Bucket<Session> = Store::memory().bucket().await.unwrap();
    sessions.put(&session()).await.unwrap();
    let (key, start, mut runs) = (key(), tokio::time::Instant::now(), 0);
    let change = sessions.modify(&key, |mine| {
        runs += 1;
        if runs <= times {
            let other = sessions.put(&session().visited(1_000)).into_future().now_or_never();
            other.expect("memory answers at once").expect("it is written");
        }
        mine.visits += 1;
    });
    change.await.expect("it wins in the end");
    let next = tokio::time::Instant::now();
    sessions.modify(&key, |session| session.visits += 1).await.expect("there is no other writer");
    [next - start, next.elapsed()]
}

#[tokio::test(start_paused = true)]
async fn modify_retries_first_conflicts_without_delay() {
    assert_eq!(times_of_losing_update(16).await, [Duration::ZERO; 2]);
}

#[tokio::test(start_paused = true)]
async fn modify_backs_off_and_pauses_after_conflicts() {
    let mut rested = false;
    for _ in 0..50 {
        let [lost, rest] = times_of_losing_update(40).await;
        assert!(lost <= Duration::from_millis(24 * 17), "{lost:?}");
        // One millisecond more, because the timer rounds up.
        assert!(rest <= Duration::from_millis(33), "{rest:?}");
        rested |= rest >= Duration::from_millis(8);
    }
    assert!(rested, "a writer that others kept waiting leaves the record to them for a while");
}

#[tokio::test(start_paused = true)]
async fn unpolled_modify_after_conflict_does_not_block() {
    let sessions: Bucket<Session> = Store::memory().bucket().await.unwrap();
    sessions.put(&session()).await.unwrap();
    let (sessions, key, mut left) = (&sessions, key(), Vec::new());
    for round in 0..10 {
        // The winner of the last round has rested.
        tokio::time::advance(Duration::from_millis(40)).await;
        let mut runs = 0;
        let change = sessions.modify(&key, move |mine| {
            runs += 1;
            // The first conflicts cause no wait.
            if runs <= 17 {
                let other = sessions.put(&session().visited(100 * (round + 1))).into_future().now_or_never();
                other.expect("memory answers at once").expect("it is written");
            }
            mine.visits += 1;
        });
        let mut change = change.into_future();
        assert!(futures::poll!(change.as_mut()).is_pending(), "it waits behind the conflict");
        left.push(change);
        let start = tokio::time::Instant::now();
        let next = sessions.modify(&key, |session| session.visits += 1).await.expect("no other call blocks it");
        assert_eq!(next.visits, 100 * (round + 1) + 1);
        assert!(start.elapsed() < Duration::from_secs(1), "it waited {:?}", start.elapsed());
    }
    futures::future::try_join_all(left).await.expect("they end well");
    assert_eq!(sessions.get(&key).await.unwrap().expect("there").visits, 1_011);
}

#[tokio::test(start_paused = true)]
async fn contended_modify_ends_at_timeout() {
    let sessions: Bucket<Session> = Store::memory().bucket().await.unwrap();
    sessions.put(&session()).await.unwrap();
    let start = tokio::time::Instant::now();
    let mut runs = 0;
    let time = Duration::from_secs(2);
    let error = sessions
        .modify(&key(), |mine| {
            runs += 1;
            let other = sessions.put(&session().visited(1_000 + runs)).into_future().now_or_never();
            other.expect("memory answers at once").expect("it is written");
            mine.visits = runs;
        })
        .max_attempts(u32::MAX)
        .timeout(time)
        .await
        .unwrap_err();
    let ErrorKind::RetriesExhausted { attempts, elapsed } = error.kind() else { panic!("{error}") };
    assert_eq!(*attempts, runs);
    assert!(*elapsed <= time && start.elapsed() <= time + Duration::from_millis(100), "{:?}", start.elapsed());
}

/// The memory backend distinguishes a recreated bucket. Over an uninterrupted connection to a server, a recreated
/// bucket with the same revision cannot be detected.
#[tokio::test]
async fn cached_entry_is_ignored_in_recreated_bucket() {
    let world = World::memory();
    let here = world.bucket::<Session>().await;
    here.put(&session()).await.unwrap();
    here.modify(&key(), |session| session.visits = 1).await.unwrap();
    assert!(world.store.delete_bucket(here.name()).await.unwrap());
    let there: Bucket<Session> = world.store.bucket().name(here.name()).await.unwrap();
    there.put(&session()).await.unwrap();
    // This write has the same revision as the remembered entry.
    there.put(&session().visited(50)).await.unwrap();
    let changed = here.modify(&key(), |session| session.visits += 1).await.unwrap();
    assert_eq!(changed.visits, 51);
    assert_eq!(there.get(&key()).read(Read::Leader).await.unwrap().expect("there").visits, 51);
}
