//! Clocks, expiry while the store is closed, watches and locks over a reopen.

use std::sync::Arc;
use std::time::SystemTime;

use futures::StreamExt;
use kvtyped::backend::{
    Backend, Delivered, KeySpace, Operation, RawBucket, StartFrom, WatchRequest, WatchSignal, Write, WriteKind,
};
use kvtyped::config::BucketConfig;
use kvtyped::key::{Pattern, Patterns};
use kvtyped::prelude::*;
use kvtyped::{Storage, Ttl};

use super::folder::{Folder, bucket, create, deadline, entries, key, put};
use crate::support::Session;

const SECOND: Duration = Duration::from_secs(1);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

async fn open_at(folder: &Folder, now: SystemTime) -> Arc<dyn Backend> {
    Arc::new(folder.store().test_clock(now).backend().await.expect("the file opens"))
}

async fn put_for(bucket: &Arc<dyn RawBucket>, name: &str, ttl: Duration) -> Revision {
    let write = Write::new(key(name), WriteKind::Put("v".into())).with_ttl(Ttl::new(ttl));
    bucket.write(write, deadline()).await.expect("the write is stored")
}

fn with_markers(config: &mut BucketConfig) {
    config.limit_markers = Some(60 * SECOND);
}

/// Returns the signals of a watch up to `Ready`.
async fn listing(bucket: &Arc<dyn RawBucket>, since: StartFrom) -> (bool, Vec<(Revision, Operation)>) {
    let request = WatchRequest {
        patterns: Patterns::new(vec![Pattern::all()]),
        since,
        headers_only: false,
        idle_timeout: 20 * SECOND,
        delivered: Delivered::default(),
    };
    let mut signals = bucket.watch(request);
    let (mut contiguous, mut found) = (false, Vec::new());
    loop {
        match signals.next().await.expect("the watch continues").expect("no error") {
            WatchSignal::Started(started) => contiguous = started.contiguous,
            WatchSignal::Entry { entry, .. } => found.push((entry.revision, entry.operation)),
            WatchSignal::Ready => return (contiguous, found),
            _ => {}
        }
    }
}

#[tokio::test]
async fn record_that_expired_while_closed_leaves_its_marker() {
    let folder = Folder::new("expired");
    let start = SystemTime::now();
    let backend = open_at(&folder, start).await;
    let first = create(&backend, with_markers).await;
    put_for(&first, "later", 30 * SECOND).await;
    put_for(&first, "sooner", 10 * SECOND).await;
    let last = put(&first, "stays", "v").await.unwrap();
    backend.close().await.unwrap();

    let backend = open_at(&folder, start + 50 * SECOND).await;
    let again = bucket(&backend).await;
    let found = entries(&again).await;
    let brief: Vec<_> = found.iter().map(|entry| (entry.key.as_str(), entry.operation.clone())).collect();
    assert_eq!(brief, [("stays", Operation::Put), ("sooner", Operation::Expired), ("later", Operation::Expired)]);
    let due = found[1].created.duration_since(start).unwrap();
    assert!((10 * SECOND..11 * SECOND).contains(&due), "the marker has the due time of the record: {due:?}");
    let (contiguous, resumed) = listing(&again, StartFrom::After(last)).await;
    assert!(contiguous, "nothing was missed");
    assert_eq!(resumed, [(Revision::new(4), Operation::Expired), (Revision::new(5), Operation::Expired)]);
    backend.close().await.unwrap();

    // The markers expire in turn, so a watch from before them cannot resume.
    let backend = open_at(&folder, start + 200 * SECOND).await;
    let again = bucket(&backend).await;
    assert_eq!(entries(&again).await.len(), 1);
    assert!(!listing(&again, StartFrom::After(last)).await.0);
    assert!(listing(&again, StartFrom::After(Revision::new(5))).await.0);
}

#[tokio::test]
async fn clock_that_was_set_back_expires_nothing_early_and_never_goes_back() {
    let folder = Folder::new("clock");
    let start = SystemTime::now();
    let backend = open_at(&folder, start).await;
    let first = create(&backend, with_markers).await;
    put_for(&first, "k", 100 * SECOND).await;
    let written = entries(&first).await[0].created;
    backend.close().await.unwrap();
    for wall in [start - YEAR, SystemTime::UNIX_EPOCH, start + 50 * SECOND] {
        let backend = open_at(&folder, wall).await;
        let again = bucket(&backend).await;
        assert_eq!(entries(&again).await.len(), 1, "{wall:?}: nothing expires early");
        assert!(again.status(deadline()).await.unwrap().now >= written, "{wall:?}: time never goes back");
        let stored = put(&again, "other", "v").await.unwrap();
        let entry = entries(&again).await.into_iter().find(|entry| entry.revision == stored).unwrap();
        assert!(entry.created >= written, "{wall:?}");
        again.purge_through(KeySpace::Records, &key("other"), stored, deadline()).await.unwrap();
        backend.close().await.unwrap();
    }
    // A jump forward is a long pause.
    let backend = open_at(&folder, start + YEAR).await;
    assert_eq!(entries(&bucket(&backend).await).await.len(), 0, "the record and its marker expired");
    backend.close().await.unwrap();
    let backend = open_at(&folder, start).await;
    let now = bucket(&backend).await.status(deadline()).await.unwrap().now;
    assert!(now >= start + YEAR, "time does not go back after the jump");
}

#[tokio::test]
async fn watch_resumes_over_a_reopen() {
    let folder = Folder::new("resume");
    let backend = folder.open().await.unwrap();
    let first = create(&backend, |config| config.history = Some(2)).await;
    let created = first.identity().created;
    for name in ["a", "b", "c"] {
        put(&first, name, "v").await.unwrap();
    }
    let seen = put(&first, "a", "w").await.unwrap();
    first.write(Write::new(key("b"), WriteKind::Delete), deadline()).await.unwrap();
    backend.close().await.unwrap();
    let backend = folder.open().await.unwrap();
    let again = bucket(&backend).await;
    assert_eq!(again.identity().created, created);
    assert_ne!(again.identity(), first.identity(), "the connection is another one");
    assert_eq!(listing(&again, StartFrom::After(seen)).await, (true, vec![(Revision::new(5), Operation::Delete)]));
    assert_eq!(put(&again, "d", "v").await.unwrap().get(), 6, "revisions continue");
}

#[tokio::test]
async fn bucket_in_memory_is_empty_after_a_reopen_and_skips_revisions() {
    let folder = Folder::new("memory");
    let backend = folder.open().await.unwrap();
    let first = create(&backend, |config| config.storage = Some(Storage::Memory)).await;
    let last = put(&first, "k", "v").await.unwrap();
    assert_eq!(entries(&first).await.len(), 1);
    backend.close().await.unwrap();
    let backend = folder.open().await.unwrap();
    let again = bucket(&backend).await;
    assert_eq!(entries(&again).await, []);
    assert!(!listing(&again, StartFrom::After(last)).await.0, "a watch cannot resume");
    assert!(put(&again, "k", "v").await.unwrap().get() > 1 << 32);
}

#[tokio::test]
async fn lock_of_an_ended_process_is_free_after_its_ttl() {
    let folder = Folder::new("lock");
    let store = folder.store().await.unwrap();
    let sessions: Bucket<Session> = store.bucket().await.unwrap();
    let session = Session::new("acme", 7);
    let guard = sessions.lock(&session.key()).ttl(3 * SECOND).await.unwrap();
    let fence = guard.fence();
    // The holder can no longer renew or release.
    store.close().await.unwrap();
    drop(guard);

    let store = folder.store().await.unwrap();
    let sessions: Bucket<Session> = store.bucket().await.unwrap();
    assert!(sessions.try_lock(&session.key()).await.unwrap().is_none(), "the lock is still held");
    let guard = sessions.lock(&session.key()).wait(30 * SECOND).await.unwrap();
    assert!(guard.fence() > fence, "the fencing token grows over the reopen");
    sessions.put(&session).fenced_by(&guard).await.unwrap();
    guard.release().await.unwrap();
}
