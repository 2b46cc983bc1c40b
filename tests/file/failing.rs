//! P48 and P49: disks that are full or broken.

use std::sync::Arc;

use futures::StreamExt;
use kvtyped::backend::{Backend, Delivered, KeySpace, ReadAt, StartFrom, WatchRequest, WatchSignal, Write, WriteKind};
use kvtyped::key::{Pattern, Patterns};
use kvtyped::prelude::*;
use kvtyped::{ErrorKind, Outcome, Read};

use super::child::{self, Child};
use super::folder::{Folder, bucket, create, deadline, entries, key, put};
use super::trace::is_available;
use super::writer::{Job, Writer, check, command};
use crate::support::Session;

#[tokio::test]
async fn full_disk_refuses_writes_and_loses_nothing() {
    let folder = Folder::new("full");
    let backend: Arc<dyn Backend> = Arc::new(folder.store().test_limits(64, 0, Some(60)).backend().await.unwrap());
    let full = create(&backend, |_| {}).await;
    let request = WatchRequest {
        patterns: Patterns::new(vec![Pattern::all()]),
        since: StartFrom::Newest,
        headers_only: true,
        idle_timeout: Duration::from_secs(20),
        delivered: Delivered::default(),
    };
    let mut watch = full.watch(request);
    while watch.next().await.expect("the watch begins").expect("no error") != WatchSignal::Ready {}
    let mut expected = Vec::new();
    let refused = loop {
        match put(&full, &format!("k{}", expected.len()), vec![b'v'; 2_000]).await {
            Ok(revision) => expected.push(revision),
            Err(error) => break error,
        }
        assert!(expected.len() < 500, "the disk is full at some time");
    };
    assert!(matches!(refused.kind(), ErrorKind::Unavailable { .. }) && refused.is_retryable(), "{refused}");
    assert!(refused.to_string().contains("no space left for"), "{refused}");

    // The store reads, so it is healthy.
    let store = folder.store().test_limits(64, 0, Some(60)).await.unwrap();
    assert!(store.health().await.unwrap().is_healthy());
    store.close().await.unwrap();

    // Many writers at once: no write is acknowledged.
    let puts = (0..50).map(|number| {
        let full = Arc::clone(&full);
        async move { put(&full, &format!("n{number}"), vec![b'v'; 20_000]).await }
    });
    for error in futures::future::join_all(puts).await.into_iter().map(Result::unwrap_err) {
        assert_eq!(error.outcome(), Outcome::NotApplied, "{error}");
    }
    let found: Vec<_> = entries(&full).await.into_iter().map(|entry| entry.revision).collect();
    assert_eq!(found, expected, "reads work, and show only what is stored");
    assert!(
        full.read(KeySpace::Records, &key("n1"), ReadAt::Newest(Read::Leader), deadline()).await.unwrap().is_none()
    );

    // The watch delivered only stored entries, and then ended.
    let mut delivered = Vec::new();
    while let Some(signal) = watch.next().await {
        match signal {
            Ok(WatchSignal::Entry { entry, .. }) => delivered.push(entry.revision),
            Ok(_) => {}
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::Unavailable { .. }), "{error}");
                break;
            }
        }
    }
    assert!(expected.starts_with(&delivered));

    // An erased record makes room.
    for number in 0..20 {
        let erased = key(&format!("k{number}"));
        let _ = full.purge_through(KeySpace::Records, &erased, Revision::new(u64::MAX), deadline()).await;
    }
    let left = entries(&full).await;
    let again = put(&full, "small", "v").await;
    eprintln!("{} entries before, {} after erasing 20, then a small write: {again:?}", expected.len(), left.len());
    let last = entries(&full).await;
    backend.close().await.unwrap();
    drop((full, watch));

    let backend = folder.open().await.unwrap();
    let reopened = bucket(&backend).await;
    assert_eq!(entries(&reopened).await, last);
    let next = put(&reopened, "more", vec![b'v'; 20_000]).await.unwrap();
    assert!(last.last().is_none_or(|entry| entry.revision < next), "it continues with room");
}

#[tokio::test]
async fn delete_succeeds_beside_puts_that_do_not_fit() {
    let folder = Folder::new("beside");
    let backend: Arc<dyn Backend> = Arc::new(folder.store().test_limits(64, 0, Some(60)).backend().await.unwrap());
    let full = create(&backend, |_| {}).await;
    put(&full, "small", "v").await.unwrap();
    // A value that never fits, from many writers without a pause.
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writers: Vec<_> = (0..8)
        .map(|number| {
            let (full, stop) = (Arc::clone(&full), Arc::clone(&stop));
            tokio::spawn(async move {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let error = put(&full, &format!("big{number}"), vec![b'v'; 400_000]).await.unwrap_err();
                    assert_eq!(error.outcome(), Outcome::NotApplied, "{error}");
                }
            })
        })
        .collect();
    let (mut deleted, mut tries) = (false, 0);
    while !deleted {
        tries += 1;
        deleted = full.write(Write::new(key("small"), WriteKind::Delete), deadline()).await.is_ok();
        assert!(tries < 50, "a delete finds room");
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(entries(&full).await.len(), 1);
}

/// A sync that fails once: the store answers nothing new, and a reopen has everything that was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_sync_fails_the_store_and_loses_nothing() {
    if !is_available() {
        return;
    }
    let mut failed = 0;
    for (call, count) in [("fsync,fdatasync", 14), ("pwrite64", 12)] {
        for number in 0..count {
            let at = 1 + number * number / 2 + number;
            let folder = Folder::new("failing");
            let inject = format!("inject={call}:error=EIO:when={at}");
            let wrapper = ["strace", "-f", "-o", "/dev/null", "-e", &inject];
            let job = Job { workers: 3, rounds: 15, sync: true, journal: 0 };
            let command = command(&wrapper, &folder.file(), job);
            let writer = tokio::task::spawn_blocking(move || Writer::start(command).finish());
            let printed = writer.await.unwrap();
            assert!(printed.is_done || !printed.errors.is_empty(), "{call} {at}: {printed:?}");
            failed += usize::from(!printed.errors.is_empty());
            for error in &printed.errors {
                assert!(error.contains("cannot be") || error.contains("closed"), "{call} {at}: {error}");
            }
            let backend = folder.open().await.unwrap_or_else(|error| panic!("{call} {at}: {error}"));
            check(&backend, &printed).await.unwrap_or_else(|error| panic!("{call} {at}: {error}\n{printed:?}"));
            backend.close().await.unwrap();
        }
    }
    eprintln!("26 failing calls, {failed} writers ended with an error");
    assert!(failed >= 15, "{failed}");
}

/// After a failed sync, the store answers nothing and reports its failure.
#[tokio::test]
async fn failed_store_is_unhealthy_and_answers_nothing() {
    if !is_available() {
        return;
    }
    let folder = Folder::new("unhealthy");
    let wrapper = ["strace", "-f", "-o", "/dev/null", "-e", "inject=fsync,fdatasync:error=EIO:when=40+"];
    let arguments = [folder.file().display().to_string()];
    let command = child::command(&wrapper, "file::failing::failed_store_process", &arguments);
    let said = tokio::task::spawn_blocking(move || {
        let mut process = Child::start(command);
        std::iter::from_fn(|| process.next()).collect::<Vec<_>>()
    });
    let said = said.await.unwrap();
    let [writes, first, read, write, health, close] = said.as_slice() else { panic!("{said:?}") };
    assert!(first.starts_with("Unknown Unavailable") && first.contains("app.kv` cannot be written"), "{first}");
    for later in [read, write] {
        assert!(later.starts_with("NotApplied Unavailable"), "{later}");
    }
    assert_eq!(health, "healthy: false");
    assert!(close.contains("cannot be written"), "{close}");
    let store = folder.store().await.unwrap();
    let sessions: Bucket<Session> = store.bucket().must_exist().await.unwrap();
    let stored = sessions.count(..).await.unwrap();
    let writes: u64 = writes.parse().unwrap();
    assert!(stored == writes || stored == writes + 1, "{stored} of {writes}");
}

#[tokio::test]
#[ignore = "the process that another test starts"]
async fn failed_store_process() {
    let arguments = child::arguments().expect("started by another test");
    let store = Store::file(&arguments[0]).await.unwrap();
    let sessions: Bucket<Session> = store.bucket().await.unwrap();
    let shown = |error: kvtyped::Error| {
        let kind = if matches!(error.kind(), ErrorKind::Unavailable { .. }) { "Unavailable" } else { "another kind" };
        format!("{:?} {kind} {error}", error.outcome())
    };
    let (mut writes, mut error) = (0, None);
    while error.is_none() {
        match sessions.put(&Session::new("acme", writes)).await {
            Ok(_) => writes += 1,
            Err(failed) => error = Some(failed),
        }
    }
    child::say(writes);
    child::say(error.map(shown).unwrap());
    child::say(shown(sessions.get(&Session::new("acme", 0).key()).await.unwrap_err()));
    child::say(shown(sessions.put(&Session::new("acme", 0)).await.unwrap_err()));
    child::say(format_args!("healthy: {}", store.health().await.unwrap().is_healthy()));
    child::say(store.close().await.unwrap_err());
}
