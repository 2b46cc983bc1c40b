//! Recipes, write epochs and typed watches on a file, over a kill or a reopen.

use std::time::Instant;

use kvtyped::backend::{Write, WriteKind};
use kvtyped::config::{BucketConfig, WriteEpochs};
use kvtyped::prelude::*;
use kvtyped::{ErrorKind, Event, Outcome};

use super::child::{self, Child};
use super::folder::{Folder, bucket, create, deadline, entries, key};
use crate::support::Session;

const TTL: Duration = Duration::from_secs(4);

#[tokio::test]
async fn lock_of_a_killed_process_is_free_after_its_ttl() {
    let folder = Folder::new("lock-killed");
    let path = folder.file().display().to_string();
    let command = child::command(&[], "file::recipes::lock_holder_process", &[path]);
    let started = tokio::task::spawn_blocking(move || {
        let mut process = Child::start(command);
        let fence: u64 = process.next().expect("the process has the lock").parse().expect("a number");
        process.kill();
        (fence, Instant::now())
    });
    let (fence, killed) = started.await.unwrap();
    let store = folder.store().await.unwrap();
    let locks = store.locks("jobs").ttl(TTL).await.unwrap();
    assert!(locks.try_lock("nightly").await.unwrap().is_none(), "the TTL of the dead holder continues");
    let guard = locks.lock("nightly").wait(Duration::from_secs(30)).await.unwrap();
    // The holder renewed the lease at most a third of the TTL before the kill.
    assert!(killed.elapsed() > TTL / 2, "{:?}", killed.elapsed());
    assert!(killed.elapsed() < TTL + Duration::from_secs(10), "{:?}", killed.elapsed());
    assert!(guard.fence().get() > fence, "the fencing token grows");
    guard.release().await.unwrap();
    store.close().await.unwrap();
}

#[tokio::test]
#[ignore = "the process that another test starts"]
async fn lock_holder_process() {
    let arguments = child::arguments().expect("started by another test");
    let store = Store::file(&arguments[0]).await.unwrap();
    let locks = store.locks("jobs").ttl(TTL).await.unwrap();
    let guard = locks.lock("nightly").await.unwrap();
    child::say(guard.fence().get());
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn write_epoch_persists_over_a_reopen() {
    for closes in [true, false] {
        let folder = Folder::new("epochs");
        let backend = folder.open().await.unwrap();
        let first = create(&backend, |config| config.write_epochs = Some(WriteEpochs::Closed)).await;
        let put = |epoch| Write::new(key("k"), WriteKind::Put("v".into())).in_epoch(epoch);
        first.write(put(Some(1)), deadline()).await.unwrap();
        let mut switch = BucketConfig::new("b");
        switch.write_epoch = Some(2);
        backend.update(switch, deadline()).await.unwrap();
        let written = first.write(put(Some(2)), deadline()).await.unwrap();
        let folder = match closes {
            true => {
                backend.close().await.unwrap();
                folder
            }
            // As after a kill.
            false => folder.copy("epochs"),
        };
        let backend = folder.open().await.unwrap();
        let again = bucket(&backend).await;
        assert_eq!(again.config().write_epoch, Some(2));
        for old in [None, Some(1), Some(3)] {
            let error = again.write(put(old), deadline()).await.unwrap_err();
            assert_eq!(error.outcome(), Outcome::NotApplied);
            let ErrorKind::EpochMoved { sent, current } = error.kind() else { panic!("{error}") };
            assert_eq!((*sent, *current), (old, Some(2)));
        }
        assert_eq!(entries(&again).await[0].revision, written);
        assert!(again.write(put(Some(2)), deadline()).await.unwrap() > written);
        backend.close().await.unwrap();
    }
}

#[tokio::test]
async fn typed_watch_resumes_over_a_restart() {
    let folder = Folder::new("typed-watch");
    let store = folder.store().await.unwrap();
    let sessions: Bucket<Session> = store.bucket().await.unwrap();
    let seen = sessions.put(&Session::new("acme", 1)).await.unwrap();
    sessions.put(&Session::new("acme", 2)).await.unwrap();
    sessions.delete(&Session::new("acme", 1).key()).await.unwrap();
    store.close().await.unwrap();

    let store = folder.store().await.unwrap();
    let sessions: Bucket<Session> = store.bucket().await.unwrap();
    let mut events = sessions.watch(..).from_revision(Revision::new(seen.get() + 1)).await.unwrap();
    let mut found = Vec::new();
    loop {
        match events.try_next().await.unwrap().expect("the watch continues") {
            Event::Put(entry) => found.push(format!("put {}", entry.id)),
            Event::Removed { key, .. } => found.push(format!("removed {}", key.id)),
            Event::Ready => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(found, ["put 2", "removed 1"]);
    store.close().await.unwrap();
}

#[tokio::test]
async fn other_recipes_continue_over_a_reopen() {
    let folder = Folder::new("recipes");
    for round in 0..3_u64 {
        let store = folder.store().await.unwrap();
        let ids = store.ids("orders");
        assert_eq!(ids.next().await.unwrap() % 100, 1, "an id is assigned once");
        let counter = store.counters("visits");
        counter.add("home", 2).await.unwrap();
        assert_eq!(counter.get("home").await.unwrap(), i64::try_from(round).unwrap() * 2 + 2);
        store.close().await.unwrap();
    }
}
