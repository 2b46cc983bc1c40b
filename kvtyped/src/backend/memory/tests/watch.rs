//! Watches.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use tokio::time::Instant;

use super::super::MemoryBackend;
use super::{SECOND, TICK, bucket, entry, key, put, seconds, soon, write};
use crate::backend::state::unread_removals::{MAX_BYTES, MAX_ENTRIES};
use crate::backend::{
    Backend, Delivered, Operation, RawBucket, StartFrom, WatchRequest, WatchSignal, WatchStarted, Write, WriteKind,
};
use crate::config::BucketConfig;
use crate::error::{ErrorKind, Result};
use crate::key::Pattern;
use crate::revision::Revision;

type Watching = BoxStream<'static, Result<WatchSignal>>;

fn watch(bucket: &Arc<dyn RawBucket>, since: StartFrom) -> Watching {
    watch_some(bucket, since, vec![Pattern::all()])
}

fn watch_some(bucket: &Arc<dyn RawBucket>, since: StartFrom, patterns: Vec<Pattern>) -> Watching {
    let delivered = Delivered::default();
    bucket.watch(WatchRequest {
        patterns: patterns.into(),
        since,
        headers_only: false,
        idle_timeout: SECOND,
        delivered,
    })
}

async fn next(watching: &mut Watching) -> WatchSignal {
    watching.next().await.unwrap().unwrap()
}

async fn started(watching: &mut Watching) -> WatchStarted {
    let WatchSignal::Started(started) = next(watching).await else { unreachable!("a watch starts with `Started`") };
    started
}

/// Returns the revision, the key and the operation of the next entry.
async fn next_entry(watching: &mut Watching) -> (u64, String, Operation) {
    for _ in 0..100 {
        if let WatchSignal::Entry { entry: found, .. } = next(watching).await {
            return entry(found.revision.get(), found.key.as_str(), found.operation);
        }
    }
    unreachable!("the watch delivers no entry")
}

/// Reads a watch without initial entries until it is ready.
async fn ready(watching: &mut Watching) {
    started(watching).await;
    assert_eq!(next(watching).await, WatchSignal::Ready);
}

async fn expect_not_found(watching: &mut Watching) {
    let error = watching.next().await.unwrap().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::BucketNotFound), "{error}");
    assert!(watching.next().await.is_none());
}

fn heartbeat(through: u64) -> WatchSignal {
    WatchSignal::Heartbeat { through: Revision::new(through) }
}

#[tokio::test(start_paused = true)]
async fn expiry_is_delivered_to_idle_watch() {
    let bucket = bucket(|_| {}).await;
    let mut watching = watch(&bucket, StartFrom::Now);
    ready(&mut watching).await;
    let written = Instant::now();
    write(&bucket, put("late", "v").with_ttl(seconds(4))).await.unwrap();
    write(&bucket, put("early", "v").with_ttl(seconds(2))).await.unwrap();
    // The next heartbeat is not due together with an entry.
    tokio::time::advance(SECOND / 4).await;
    assert_eq!(next_entry(&mut watching).await, entry(1, "late", Operation::Put));
    assert_eq!(next_entry(&mut watching).await, entry(2, "early", Operation::Put));
    for (revision, key, after) in [(3, "early", 2 * SECOND), (4, "late", 4 * SECOND)] {
        assert_eq!(next_entry(&mut watching).await, entry(revision, key, Operation::Expired));
        assert_eq!(written.elapsed(), after);
    }
}

#[tokio::test(start_paused = true)]
async fn shortened_ttl_advances_expiry_delivery() {
    let backend = MemoryBackend::new();
    let bucket = backend.create(BucketConfig::new("b"), soon()).await.unwrap();
    write(&bucket, put("k", "v")).await.unwrap();
    let written = Instant::now();
    let mut watching = watch(&bucket, StartFrom::Now);
    ready(&mut watching).await;
    let mut expired = Box::pin(next_entry(&mut watching));
    assert!((&mut expired).now_or_never().is_none());
    let mut change = BucketConfig::new("b");
    change.ttl = Some(SECOND / 2);
    backend.update(change, soon()).await.unwrap();
    assert_eq!(expired.await, entry(2, "k", Operation::Expired));
    assert_eq!(written.elapsed(), SECOND / 2);
}

#[tokio::test(start_paused = true)]
async fn idle_watch_sends_heartbeat_each_second() {
    let bucket = bucket(|_| {}).await;
    write(&bucket, put("k", "v")).await.unwrap();
    let mut watching = watch(&bucket, StartFrom::Now);
    ready(&mut watching).await;
    let start = Instant::now();
    for round in 1..=3 {
        assert_eq!(next(&mut watching).await, heartbeat(1));
        assert_eq!(start.elapsed(), round * SECOND);
    }
    tokio::time::advance(SECOND / 2).await;
    write(&bucket, put("k", "w")).await.unwrap();
    assert_eq!(next_entry(&mut watching).await, entry(2, "k", Operation::Put));
    let start = Instant::now();
    assert_eq!(next(&mut watching).await, heartbeat(2));
    assert_eq!(start.elapsed(), SECOND);
    // A late reader gets one heartbeat.
    tokio::time::advance(10 * SECOND).await;
    assert_eq!(next(&mut watching).await, heartbeat(2));
    assert!(next(&mut watching).now_or_never().is_none());
}

#[tokio::test(start_paused = true)]
async fn heartbeat_skips_unmatched_entries() {
    let bucket = bucket(|_| {}).await;
    for patterns in [vec![], vec![Pattern::exact(&key("other"))]] {
        let before = bucket.status(soon()).await.unwrap().last_revision.get();
        let mut watching = watch_some(&bucket, StartFrom::Newest, patterns);
        ready(&mut watching).await;
        let start = Instant::now();
        // Continuous changes do not delay the heartbeat.
        let writes = async {
            for _ in 0..20 {
                tokio::time::sleep(SECOND / 10).await;
                write(&bucket, put("k", "v")).await.unwrap();
            }
        };
        let (heartbeat_at, ()) = tokio::join!(
            async {
                let signal = next(&mut watching).await;
                assert!(signal == heartbeat(before + 9) || signal == heartbeat(before + 10), "{signal:?}");
                start.elapsed()
            },
            writes
        );
        assert_eq!(heartbeat_at, SECOND);
    }
}

#[tokio::test(start_paused = true)]
async fn deleted_bucket_ends_watches_at_once() {
    let backend = MemoryBackend::new();
    let bucket = backend.create(BucketConfig::new("b"), soon()).await.unwrap();
    let mut waiting = watch(&bucket, StartFrom::Now);
    ready(&mut waiting).await;
    write(&bucket, put("k", "v")).await.unwrap();
    let mut unread = watch(&bucket, StartFrom::Newest);
    started(&mut unread).await;
    assert_eq!(next_entry(&mut waiting).await, entry(1, "k", Operation::Put));

    let start = Instant::now();
    let mut end = Box::pin(expect_not_found(&mut waiting));
    assert!((&mut end).now_or_never().is_none());
    assert!(backend.delete("b", soon()).await.unwrap());
    end.await;
    expect_not_found(&mut unread).await;
    expect_not_found(&mut watch(&bucket, StartFrom::Newest)).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn recreated_bucket_ends_watch() {
    let backend = MemoryBackend::new();
    let bucket = backend.create(BucketConfig::new("b"), soon()).await.unwrap();
    let mut watching = watch(&bucket, StartFrom::Now);
    ready(&mut watching).await;
    let start = Instant::now();
    let mut end = Box::pin(expect_not_found(&mut watching));
    assert!((&mut end).now_or_never().is_none());
    backend.delete("b", soon()).await.unwrap();
    // The new bucket has the same creation time on the clock, so that nothing else distinguishes them.
    backend.create(BucketConfig::new("b"), soon()).await.unwrap();
    write(&bucket, put("k", "v")).await.unwrap();
    end.await;
    assert_eq!(start.elapsed(), Duration::ZERO);

    let mut watching = watch(&bucket, StartFrom::After(Revision::new(7)));
    let WatchStarted { contiguous, last_revision, created: _ } = started(&mut watching).await;
    assert_eq!((contiguous, last_revision.get()), (false, 1));
    assert_eq!(next(&mut watching).await, WatchSignal::Ready);
    write(&bucket, put("k", "w")).await.unwrap();
    assert_eq!(next_entry(&mut watching).await, entry(2, "k", Operation::Put));
}

#[tokio::test(start_paused = true)]
async fn entry_overwritten_during_listing_is_a_change() {
    let bucket = bucket(|config| config.history = Some(2)).await;
    for number in 0..4 {
        write(&bucket, put(&format!("k{number}"), "old")).await.unwrap();
    }
    let mut watching = watch(&bucket, StartFrom::Newest);
    assert_eq!(started(&mut watching).await.last_revision.get(), 4);
    assert_eq!(next_entry(&mut watching).await, entry(1, "k0", Operation::Put));
    write(&bucket, put("k0", "new")).await.unwrap();
    write(&bucket, put("k1", "new")).await.unwrap();
    write(&bucket, Write::new(key("k2"), WriteKind::Purge)).await.unwrap();
    let mut signals = Vec::new();
    for _ in 0..6 {
        signals.push(match next(&mut watching).await {
            WatchSignal::Entry { entry, pending } => (entry.revision.get(), pending),
            _ => (0, 0),
        });
    }
    // The watch returns `k1` as it was at the start, because the history keeps it. The purge removed `k2`.
    assert_eq!(signals, [(2, 5), (4, 3), (0, 0), (5, 2), (6, 1), (7, 0)]);
}

#[tokio::test(start_paused = true)]
async fn only_history_watch_delivers_older_entries() {
    let bucket = bucket(|config| config.history = Some(3)).await;
    for on in ["a", "b", "a", "a", "a"] {
        write(&bucket, put(on, "v")).await.unwrap();
    }
    for (since, wanted) in [
        (StartFrom::Newest, &[2, 5][..]),
        (StartFrom::History, &[2, 3, 4, 5]),
        (StartFrom::Now, &[]),
        (StartFrom::After(Revision::new(3)), &[4, 5]),
        (StartFrom::After(Revision::ZERO), &[2, 3, 4, 5]),
    ] {
        let mut watching = watch(&bucket, since);
        let complete = started(&mut watching).await.contiguous;
        assert_eq!(complete, since != StartFrom::After(Revision::ZERO), "{since:?}");
        let mut revisions = Vec::new();
        while let WatchSignal::Entry { entry, .. } = next(&mut watching).await {
            revisions.push(entry.revision.get());
        }
        assert_eq!(revisions, wanted, "{since:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn many_entries_are_examined_in_steps() {
    let backend = MemoryBackend::new();
    let bucket = backend.create(BucketConfig::new("b"), soon()).await.unwrap();
    for number in 0..1000 {
        write(&bucket, put(&format!("k{number}"), "v")).await.unwrap();
    }
    write(&bucket, put("last", "v")).await.unwrap();
    {
        let mut state = backend.0.shared().lock();
        let (state, ..) = state.bucket("b", Duration::ZERO).unwrap();
        let reached = |after| state.next(Revision::new(after), state.last_revision, &|_, _| false).0.get();
        assert_eq!([reached(0), reached(256), reached(512), reached(768)], [256, 512, 768, 1001]);
    }
    let any = Pattern::new().segment::<String>(None, "la", "");
    for patterns in [vec![Pattern::exact(&key("last"))], vec![any, Pattern::exact(&key("last"))]] {
        let mut watching = watch_some(&bucket, StartFrom::Newest, patterns);
        started(&mut watching).await;
        assert_eq!(next_entry(&mut watching).await, entry(1001, "last", Operation::Put));
        assert_eq!(next(&mut watching).await, WatchSignal::Ready);
    }
}

/// The number of entries in the backlog of bucket `b`, and the number of its attached watches.
fn kept(backend: &MemoryBackend) -> (usize, usize) {
    let mut state = backend.0.shared().lock();
    let (state, ..) = state.bucket("b", Duration::ZERO).unwrap();
    (state.backlog.len(), state.notifier.listeners())
}

#[tokio::test(start_paused = true)]
async fn attached_watch_read_late_receives_every_change() {
    let backend = MemoryBackend::new();
    let bucket = backend.create(BucketConfig { limit_markers: Some(SECOND), ..BucketConfig::new("b") }, soon()).await;
    let bucket = bucket.unwrap();
    write(&bucket, put("k", "old")).await.unwrap();
    let mut early = watch(&bucket, StartFrom::Newest);
    let mut late = watch(&bucket, StartFrom::Now);
    let mut other = watch_some(&bucket, StartFrom::Now, vec![Pattern::exact(&key("other"))]);
    started(&mut early).await;
    ready(&mut late).await;
    ready(&mut other).await;
    write(&bucket, put("k", "1")).await.unwrap();
    write(&bucket, Write::new(key("k"), WriteKind::Delete)).await.unwrap();
    write(&bucket, put("k", "2")).await.unwrap();
    write(&bucket, Write::new(key("k"), WriteKind::Purge)).await.unwrap();
    write(&bucket, put("k", "3").with_ttl(seconds(1))).await.unwrap();
    write(&bucket, put("other", "1")).await.unwrap();
    // The record expires, and later its limit marker.
    tokio::time::advance(3 * SECOND).await;
    assert_eq!(next_entry(&mut other).await, entry(7, "other", Operation::Put));
    // The old record expired before it was listed. The late watch starts after it.
    for (watching, number) in [(&mut late, 1), (&mut early, 2)] {
        let mut changes = Vec::new();
        for _ in 2..=8 {
            changes.push(next_entry(watching).await);
        }
        let put = |revision| entry(revision, "k", Operation::Put);
        let wanted = [
            put(2),
            entry(3, "k", Operation::Delete),
            put(4),
            entry(5, "k", Operation::Purge),
            put(6),
            entry(7, "other", Operation::Put),
            entry(8, "k", Operation::Expired),
        ];
        assert_eq!(changes, wanted, "watch {number}");
    }
    assert_eq!(kept(&backend), (1, 3), "only the watch of another key has not passed the marker");
    assert_eq!(next(&mut other).await, heartbeat(8));
    assert_eq!(kept(&backend), (0, 3), "an entry that every watch has read is released");
}

#[tokio::test(start_paused = true)]
async fn unread_watch_has_a_bounded_backlog() {
    let backend = MemoryBackend::new();
    let bucket = backend.create(BucketConfig::new("b"), soon()).await.unwrap();
    let mut watching = watch(&bucket, StartFrom::Now);
    ready(&mut watching).await;
    let writes = MAX_ENTRIES as u64 + 1_000;
    for number in 0..writes {
        write(&bucket, put(&format!("k{}", number % 3), "v")).await.unwrap();
    }
    assert_eq!(kept(&backend).0, MAX_ENTRIES);
    let first = writes - 3 - MAX_ENTRIES as u64 + 1;
    for revision in first..=writes {
        assert_eq!(
            next_entry(&mut watching).await,
            entry(revision, &format!("k{}", (revision - 1) % 3), Operation::Put)
        );
    }
    assert_eq!(kept(&backend), (0, 1));
    tokio::time::advance(SECOND - TICK).await;
    assert!(next(&mut watching).now_or_never().is_none());

    let large = "v".repeat(1_000_000);
    for _ in 0..20 {
        write(&bucket, put("k0", &large)).await.unwrap();
    }
    assert_eq!(kept(&backend).0, (MAX_BYTES / 1_000_000) as usize);
    drop(watching);
    assert_eq!(kept(&backend), (0, 0), "entries that no watch waits for are released");
    write(&bucket, put("k0", "v")).await.unwrap();
    assert_eq!(kept(&backend), (0, 0), "nothing is kept without a watch");
}

#[tokio::test(start_paused = true)]
async fn unread_removal_dropped_from_backlog_ends_watch() {
    let bucket = bucket(|config| config.limit_markers = Some(SECOND)).await;
    let mut watching = watch(&bucket, StartFrom::Now);
    let mut keeps_up = watch(&bucket, StartFrom::Now);
    ready(&mut watching).await;
    ready(&mut keeps_up).await;
    write(&bucket, put("k", "v").with_ttl(seconds(1))).await.unwrap();
    tokio::time::advance(5 * SECOND).await;
    assert_eq!(next_entry(&mut keeps_up).await, entry(1, "k", Operation::Put));
    assert_eq!(next_entry(&mut keeps_up).await, entry(2, "k", Operation::Expired));
    for _ in 0..MAX_ENTRIES + 2 {
        write(&bucket, put("other", "v")).await.unwrap();
    }
    let error = watching.next().await.unwrap().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unavailable { .. }), "{error}");
    assert!(watching.next().await.is_none());
    assert_eq!(next_entry(&mut keeps_up).await.1, "other");
}
