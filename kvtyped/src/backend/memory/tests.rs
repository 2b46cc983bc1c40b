//! Behavior that only this backend guarantees or makes observable: exact times and sizes. The tests of the common
//! contract are in [`conformance`](crate::conformance).

#![allow(clippy::unwrap_used, reason = "a test")]

mod search;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};

use super::MemoryBackend;
use crate::backend::state::limits::Size;
use crate::backend::{
    Backend, Deadline, KeySpace, Operation, OperationId, Precondition, RawBucket, RawEntry, Read, ReadAt, ScanItem,
    ScanRequest, Write, WriteKind,
};
use crate::config::{BucketConfig, Source, Storage};
use crate::error::{Error, ErrorKind};
use crate::key::{Key, Pattern};
use crate::revision::Revision;
use crate::ttl::Ttl;

const SECOND: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(1);

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(5))
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn put(on: &str, value: &str) -> Write {
    Write::new(key(on), WriteKind::Put(value.to_owned().into()))
}

fn seconds(seconds: u64) -> Option<Ttl> {
    Ttl::new(Duration::from_secs(seconds))
}

async fn bucket(change: impl FnOnce(&mut BucketConfig)) -> Arc<dyn RawBucket> {
    let mut config = BucketConfig::new("b");
    change(&mut config);
    MemoryBackend::new().create(config, soon()).await.unwrap()
}

async fn write(bucket: &Arc<dyn RawBucket>, write: Write) -> Result<u64, Error> {
    bucket.write(write, soon()).await.map(Revision::get)
}

async fn newest(bucket: &Arc<dyn RawBucket>, on: &str) -> Option<RawEntry> {
    bucket.read(KeySpace::Records, &key(on), ReadAt::Newest(Read::Any), soon()).await.unwrap()
}

/// Returns the revision, the key and the operation of every entry.
async fn history(bucket: &Arc<dyn RawBucket>) -> Vec<(u64, String, Operation)> {
    let scan = ScanRequest {
        patterns: vec![Pattern::all()].into(),
        history: true,
        headers_only: false,
        after: Revision::ZERO,
        limit: None,
        idle_timeout: SECOND,
    };
    let brief = |entry: Result<ScanItem, Error>| {
        let entry = entry.unwrap().entry;
        (entry.revision.get(), entry.key.to_string(), entry.operation)
    };
    bucket.scan(scan).map(brief).collect().await
}

fn entry(revision: u64, key: &str, operation: Operation) -> (u64, String, Operation) {
    (revision, key.to_owned(), operation)
}

#[tokio::test(start_paused = true)]
async fn entry_expires_exactly_at_its_ttl() {
    let bucket = bucket(|_| {}).await;
    write(&bucket, put("k", "v").with_ttl(seconds(2))).await.unwrap();
    let written = newest(&bucket, "k").await.unwrap();

    tokio::time::advance(2 * SECOND - TICK).await;
    assert_eq!(newest(&bucket, "k").await.unwrap(), written);
    tokio::time::advance(10 * SECOND).await;
    let marker = newest(&bucket, "k").await.unwrap();
    assert_eq!((marker.revision.get(), &marker.operation), (2, &Operation::Expired));
    // No read for ten seconds, but the entry expired on time.
    assert_eq!(marker.created, written.created + 2 * SECOND);
    assert_eq!((marker.ttl, marker.id), (Ttl::new(BucketConfig::LIMIT_MARKERS), None));
}

#[tokio::test(start_paused = true)]
async fn expiry_marker_expires_without_trace() {
    let bucket = bucket(|config| config.limit_markers = Some(3 * SECOND)).await;
    write(&bucket, put("k", "v").with_ttl(seconds(1))).await.unwrap();
    tokio::time::advance(4 * SECOND - TICK).await;
    assert_eq!(newest(&bucket, "k").await.unwrap().operation, Operation::Expired);
    tokio::time::advance(TICK).await;
    assert_eq!(newest(&bucket, "k").await, None);
    let status = bucket.status(soon()).await.unwrap();
    assert_eq!((status.values, status.bytes, status.last_revision.get()), (0, 0, 2));
    assert_eq!(write(&bucket, put("k", "again").if_revision(Revision::ZERO)).await.unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn entries_expire_in_order_of_due_time() {
    let bucket = bucket(|_| {}).await;
    write(&bucket, put("late", "v").with_ttl(seconds(3))).await.unwrap();
    write(&bucket, put("early", "v").with_ttl(seconds(1))).await.unwrap();
    tokio::time::advance(5 * SECOND).await;
    let markers = [entry(3, "early", Operation::Expired), entry(4, "late", Operation::Expired)];
    assert_eq!(history(&bucket).await, markers);
}

#[tokio::test(start_paused = true)]
async fn expired_delete_leaves_marker_but_purge_does_not() {
    let bucket = bucket(|_| {}).await;
    write(&bucket, Write::new(key("purged"), WriteKind::Purge).with_ttl(seconds(1))).await.unwrap();
    write(&bucket, Write::new(key("deleted"), WriteKind::Delete).with_ttl(seconds(1))).await.unwrap();
    tokio::time::advance(SECOND).await;
    assert_eq!(history(&bucket).await, [entry(3, "deleted", Operation::Expired)]);
}

#[tokio::test(start_paused = true)]
async fn value_expires_only_with_room_for_its_marker() {
    let backend = MemoryBackend::new();
    let mut config = BucketConfig::new("b");
    config.max_bytes = Some(600);
    config.limit_markers = Some(BucketConfig::LIMIT_MARKERS);
    let bucket = backend.create(config, soon()).await.unwrap();
    write(&bucket, put("k", "").with_ttl(seconds(1))).await.unwrap();
    write(&bucket, put("full", &"x".repeat(300))).await.unwrap();
    tokio::time::advance(60 * SECOND).await;
    assert_eq!(newest(&bucket, "k").await.unwrap().operation, Operation::Put);
    let mut change = BucketConfig::new("b");
    change.max_bytes = Some(1000);
    backend.update(change, soon()).await.unwrap();
    assert_eq!(newest(&bucket, "k").await.unwrap().operation, Operation::Expired);
}

#[tokio::test(start_paused = true)]
async fn bucket_ttl_leaves_one_marker_per_key() {
    let bucket = bucket(|config| {
        config.history = Some(3);
        config.ttl = Some(10 * SECOND);
    })
    .await;
    write(&bucket, put("k", "1")).await.unwrap();
    tokio::time::advance(SECOND).await;
    write(&bucket, put("k", "2")).await.unwrap();
    tokio::time::advance(9 * SECOND).await;
    assert_eq!(history(&bucket).await, [entry(2, "k", Operation::Put)]);
    tokio::time::advance(SECOND).await;
    assert_eq!(history(&bucket).await, [entry(3, "k", Operation::Expired)]);
    // The bucket's TTL limits the marker, too, and is shorter than its own TTL.
    tokio::time::advance(10 * SECOND).await;
    assert_eq!(history(&bucket).await, []);
}

#[tokio::test(start_paused = true)]
async fn bucket_ttl_without_limit_markers_leaves_nothing() {
    let backend = MemoryBackend::new();
    let bucket = backend.create(BucketConfig::new("b"), soon()).await.unwrap();
    {
        // A bucket of an old server. No setting creates one here.
        let mut state = backend.0.shared().lock();
        let (state, ..) = state.bucket("b", Duration::ZERO).unwrap();
        state.config.limit_markers = None;
        state.config.ttl = Some(SECOND);
    }
    write(&bucket, put("k", "v")).await.unwrap();
    tokio::time::advance(SECOND).await;
    assert_eq!(history(&bucket).await, []);
}

#[tokio::test(start_paused = true)]
async fn history_raises_ttl_and_expiry_restores_value() {
    let bucket = bucket(|config| {
        config.history = Some(5);
        config.limit_markers = Some(10 * SECOND);
    })
    .await;
    write(&bucket, put("k", "before")).await.unwrap();
    write(&bucket, put("k", "v").with_ttl(seconds(2))).await.unwrap();
    assert_eq!(newest(&bucket, "k").await.unwrap().ttl, seconds(10));
    tokio::time::advance(10 * SECOND).await;
    assert_eq!(history(&bucket).await, [entry(1, "k", Operation::Put)]);
}

#[tokio::test(start_paused = true)]
async fn stopped_clock_expires_nothing() {
    let bucket = bucket(|_| {}).await;
    for number in 1..=100 {
        assert_eq!(write(&bucket, put("k", "v").with_ttl(seconds(1))).await.unwrap(), number);
    }
    assert_eq!(history(&bucket).await, [entry(100, "k", Operation::Put)]);
}

#[tokio::test(start_paused = true)]
async fn lower_ttl_and_history_apply_immediately() {
    let backend = MemoryBackend::new();
    let mut config = BucketConfig::new("b");
    config.history = Some(3);
    config.ttl = Some(60 * SECOND);
    let bucket = backend.create(config, soon()).await.unwrap();
    for value in ["1", "2", "3"] {
        write(&bucket, put("k", value)).await.unwrap();
        tokio::time::advance(SECOND).await;
    }
    let mut change = BucketConfig::new("b");
    change.history = Some(2);
    backend.update(change, soon()).await.unwrap();
    assert_eq!(history(&bucket).await, [entry(2, "k", Operation::Put), entry(3, "k", Operation::Put)]);
    let mut change = BucketConfig::new("b");
    change.ttl = Some(2 * SECOND);
    backend.update(change, soon()).await.unwrap();
    assert_eq!(history(&bucket).await, [entry(3, "k", Operation::Put)]);
    tokio::time::advance(SECOND).await;
    assert_eq!(history(&bucket).await, [entry(4, "k", Operation::Expired)]);
}

#[test]
fn size_equals_message_size() {
    let mut write = put("k", "value");
    write.id = OperationId::from_stored("id");
    let mut config = BucketConfig::new("b").with_defaults(true, true);
    let size = |write: &Write| Size::of_write(write, &config).message();
    assert_eq!(size(&write), b"NATS/1.0\r\nNats-Msg-Id: id\r\n\r\nvalue".len());
    write.kind = WriteKind::Purge;
    write.ttl = seconds(60);
    write.precondition = Some(Precondition { space: KeySpace::Records, key: key("g"), revision: Revision::new(10) });
    let wire = "NATS/1.0\r\nNats-Msg-Id: id\r\nKV-Operation: PURGE\r\nNats-Rollup: sub\r\n\
        Nats-Expected-Last-Subject-Sequence: 10\r\nNats-Expected-Last-Subject-Sequence-Subject: $KV.b.g\r\n\
        Nats-TTL: 60\r\n\r\n";
    assert_eq!(size(&write), wire.len());
    let record = |storage| {
        let size = Size::of_write(&write, &config);
        size.record(storage, "b", KeySpace::Records, &write.key) as usize - wire.len()
    };
    assert_eq!((record(Storage::Memory), record(Storage::File)), ("$KV.b.k".len() + 16, "$KV.b.k".len() + 34));
    let entry = Write::index_entry(key("k"), "owner".into()).if_revision(Revision::new(10));
    let wire = "NATS/1.0\r\nNats-Expected-Last-Subject-Sequence: 10\r\n\r\nowner";
    assert_eq!(size(&entry), wire.len());
    let in_store = Size::of_write(&entry, &config).record(Storage::Memory, "b", KeySpace::Index, &entry.key);
    assert_eq!(in_store as usize - wire.len(), "$KV.=i.b.k".len() + 16);
    (config.history, config.ttl) = (Some(2), Some(SECOND));
    let wire = "NATS/1.0\r\nNats-Rollup: sub\r\nNats-TTL: never\r\n\r\n";
    assert_eq!(Size::of_write(&Write::index_entry(key("k"), "".into()), &config).message(), wire.len());
    let marker = |seconds| Size::expired_marker(Ttl::new(Duration::from_secs(seconds)).unwrap()).message();
    let wire = "NATS/1.0\r\nNats-Marker-Reason: MaxAge\r\nNats-TTL: 5m0s\r\nNats-Rollup: sub\r\n\r\n";
    assert_eq!((marker(300), marker(9), marker(3600)), (wire.len(), wire.len() - 2, wire.len() + 2));
}

#[tokio::test]
async fn full_bucket_accepts_replacement_of_same_size() {
    let bucket = bucket(|config| config.max_bytes = Some(500)).await;
    let small = || put("k", "v");
    write(&bucket, small()).await.unwrap();
    write(&bucket, put("full", &"x".repeat(250))).await.unwrap();
    let before = bucket.status(soon()).await.unwrap();
    write(&bucket, small()).await.unwrap();
    assert_eq!(bucket.status(soon()).await.unwrap().bytes, before.bytes);
    for refused in [
        put("other", "v"),
        put("k", &"x".repeat(250)),
        small().if_revision(Revision::new(3)),
        Write::new(key("k"), WriteKind::Delete),
        Write::new(key("k"), WriteKind::Purge),
    ] {
        let error = write(&bucket, refused.clone()).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::BucketFull), "{refused:?}: {error}");
    }
}

#[tokio::test]
async fn full_replicated_bucket_refuses_replacement() {
    let bucket = bucket(|config| {
        config.max_bytes = Some(500);
        config.replicas = Some(3);
    })
    .await;
    write(&bucket, put("k", "v")).await.unwrap();
    write(&bucket, put("full", &"x".repeat(250))).await.unwrap();
    let error = write(&bucket, put("k", "v")).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::BucketFull), "{error}");
}

#[tokio::test]
async fn server_only_settings_are_refused() {
    let backend = MemoryBackend::new();
    let mut config = BucketConfig::new("copy");
    config.mirror = Some(Source::new("origin"));
    let error = backend.create(config, soon()).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unsupported { .. }), "{error}");
    assert_eq!(backend.names(soon()).await.unwrap(), <[String; 0]>::default());
}

#[tokio::test]
async fn handle_uses_bucket_of_its_name() {
    let backend = MemoryBackend::new();
    let bucket = backend.create(BucketConfig::new("b"), soon()).await.unwrap();
    write(&bucket, put("k", "v")).await.unwrap();
    assert!(backend.delete("b", soon()).await.unwrap());
    let error = write(&bucket, put("k", "v")).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::BucketNotFound), "{error}");
    backend.create(BucketConfig::new("b"), soon()).await.unwrap();
    assert_eq!(newest(&bucket, "k").await, None);
    assert_eq!(write(&bucket, put("k", "v")).await.unwrap(), 1);
}

#[test]
fn memory_backend_needs_no_runtime() {
    let backend = MemoryBackend::new();
    let bucket = backend.create(BucketConfig::new("b"), soon()).now_or_never().unwrap().unwrap();
    assert_eq!(write(&bucket, put("k", "v")).now_or_never().unwrap().unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn operation_after_deadline_changes_nothing() {
    let bucket = bucket(|_| {}).await;
    let deadline = Deadline::after(SECOND);
    tokio::time::advance(SECOND).await;
    let error = bucket.write(put("k", "v"), deadline).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    assert_eq!(newest(&bucket, "k").await, None);
}
