//! Expiry. On a backend without TTLs of keys, the rules check that a TTL is refused.

use std::time::Duration;

use tokio::time::Instant;

use super::subject::{BackendUnderTest, Bucket, delete, key, purge, put, seconds};
use crate::backend::Operation;
use crate::config::BucketConfig;
use crate::error::ErrorKind;
use crate::key::Key;
use crate::revision::Revision;

/// Creates a bucket with TTLs of keys and this TTL of markers. Returns `None` if the backend has no TTLs of keys.
async fn with_ttls(subject: &BackendUnderTest, limit_markers: u64) -> Option<Bucket> {
    if subject.has_key_ttl().await {
        let markers = Duration::from_secs(limit_markers);
        return Some(subject.bucket(|config| config.limit_markers = Some(markers)).await);
    }
    let bucket = subject.bucket(|_| {}).await;
    let refused = bucket.refusal(put(&key("k"), "v").with_ttl(Some(seconds(1)))).await;
    assert!(matches!(refused.kind(), ErrorKind::Unsupported { .. }), "{refused:?}");
    None
}

/// Waits until a key has no value.
async fn gone(subject: &BackendUnderTest, bucket: &Bucket, on: &Key) {
    let what = format!("the value of {on:?} expires");
    let dead = async || bucket.newest(on).await.is_none_or(|entry| !entry.is_live()).then_some(());
    subject.eventually(&what, dead).await;
}

/// A TTL removes the entry, never before its time, and leaves an `Expired` marker under a new revision.
pub async fn ttl_expires_entry_and_leaves_marker(subject: &BackendUnderTest) {
    let Some(bucket) = with_ttls(subject, 4).await else { return };
    let k = key("k");
    let sent = Instant::now();
    let revision = bucket.write(put(&k, "v").with_ttl(Some(seconds(2)))).await;
    let entry = bucket.newest(&k).await.expect("the entry has not expired yet");
    gone(subject, &bucket, &k).await;
    assert!(sent.elapsed() >= Duration::from_secs(2), "the entry expired after {:?}, its TTL is 2 s", sent.elapsed());

    let marker = bucket.newest(&k).await.expect("the marker is an entry");
    assert_eq!((&marker.operation, marker.value.len()), (&Operation::Expired, 0), "{marker:?}");
    assert!(marker.revision > revision, "{marker:?} comes after {revision}");
    let lived = marker.created.duration_since(entry.created).expect("the marker is newer than the entry");
    assert!(lived >= Duration::from_secs(2), "the entry lived {lived:?} by its marker, its TTL is 2 s");
    let refused = bucket.refusal(put(&k, "again").if_revision(revision)).await;
    assert!(refused.is_conflict(), "the entry expired: {refused:?}");

    let vanished = async || bucket.newest(&k).await.is_none().then_some(());
    subject.eventually("the marker vanishes", vanished).await;
    assert_eq!(bucket.counts().await, (0, marker.revision), "the marker leaves no trace");
    bucket.write(put(&k, "again").if_revision(Revision::ZERO)).await;
}

/// An entry carries its TTL.
pub async fn entry_carries_its_ttl(subject: &BackendUnderTest) {
    let Some(bucket) = with_ttls(subject, 60).await else { return };
    let k = key("k");
    for ttl in [Some(seconds(60)), None, Some(seconds(90_000))] {
        for write in [put(&k, "v"), purge(&k)] {
            bucket.write(write.clone().with_ttl(ttl)).await;
            let entry = bucket.newest(&k).await.expect("the entry has not expired yet");
            assert_eq!(entry.ttl, ttl, "of {:?}", write.kind);
        }
    }
}

/// A purge with a TTL leaves a marker that expires without another marker.
pub async fn purge_marker_with_ttl_expires_silently(subject: &BackendUnderTest) {
    let Some(bucket) = with_ttls(subject, 60).await else { return };
    let k = key("k");
    bucket.write(put(&k, "v")).await;
    let purged = bucket.write(purge(&k).with_ttl(Some(seconds(1)))).await;
    assert_eq!(bucket.operation(&k).await, Some(Operation::Purge));
    let vanished = async || bucket.newest(&k).await.is_none().then_some(());
    subject.eventually("the marker vanishes", vanished).await;
    assert_eq!(bucket.counts().await, (0, purged), "nothing is left, and nothing was written");
}

/// A write without a TTL does not inherit the TTL of the entry that it replaces.
pub async fn later_write_without_ttl_does_not_expire(subject: &BackendUnderTest) {
    let Some(bucket) = with_ttls(subject, 60).await else { return };
    let writes = [put(&key("value"), "stays"), delete(&key("marker"))];
    let mut revisions = Vec::new();
    for write in writes.clone() {
        bucket.write(put(&write.key, "v").with_ttl(Some(seconds(1)))).await;
        revisions.push(bucket.write(write).await);
    }
    // The overwritten entries would have expired before this entry does.
    let clock = key("clock");
    bucket.write(put(&clock, "v").with_ttl(Some(seconds(2)))).await;
    gone(subject, &bucket, &clock).await;
    for (write, revision) in writes.iter().zip(revisions) {
        let found = bucket.newest(&write.key).await.map(|entry| entry.revision);
        assert_eq!(found, Some(revision), "of {:?}", write.key);
    }
}

/// The bucket's own TTL removes every value.
pub async fn bucket_ttl_removes_values(subject: &BackendUnderTest) {
    let ttl = Duration::from_secs(2);
    let bucket = subject.bucket(|config| config.ttl = Some(ttl)).await;
    let keys = [key("a"), key("b")];
    for k in &keys {
        bucket.write(put(k, "v")).await;
    }
    let sent = Instant::now();
    let last = bucket.write(put(&keys[0], "later")).await;
    gone(subject, &bucket, &keys[0]).await;
    assert!(sent.elapsed() >= ttl, "revision {last} expired after {:?}, the TTL is {ttl:?}", sent.elapsed());
    gone(subject, &bucket, &keys[1]).await;
}

/// With a history, a TTL is at least that of the limit markers, an entry carries the TTL that it has, and the previous
/// value is the newest entry again at the end of the TTL.
pub async fn ttl_in_history_is_at_least_that_of_markers(subject: &BackendUnderTest) {
    if !subject.has_key_ttl().await {
        return;
    }
    let configure = |config: &mut BucketConfig| {
        (config.history, config.limit_markers) = (Some(5), Some(Duration::from_secs(4)));
    };
    let bucket = subject.bucket(configure).await;
    for (asked, kept) in [(seconds(1), seconds(4)), (seconds(4), seconds(4)), (seconds(60), seconds(60))] {
        bucket.write(put(&key("k"), "v").with_ttl(Some(asked))).await;
        let entry = bucket.newest(&key("k")).await.expect("the entry has not expired yet");
        assert_eq!(entry.ttl, Some(kept), "asked for {asked}");
    }
    let k = key("again");
    let old = bucket.write(put(&k, "old")).await;
    let sent = Instant::now();
    bucket.write(put(&k, "new").with_ttl(Some(seconds(1)))).await;
    let reappears = async || bucket.newest(&k).await.filter(|entry| entry.revision == old);
    let found = subject.eventually("the previous value is the newest entry", reappears).await;
    assert!(sent.elapsed() >= Duration::from_secs(4), "the TTL was raised to 4 s: {:?}", sent.elapsed());
    assert_eq!((found.operation, &found.value[..]), (Operation::Put, b"old".as_slice()));
}

/// A TTL is `Unsupported` in a bucket without limit markers.
pub async fn ttl_needs_limit_markers(subject: &BackendUnderTest) {
    // With a history, a bucket gets no limit markers by default.
    let bucket = subject.bucket(|config| config.history = Some(2)).await;
    for write in [put(&key("k"), "v"), purge(&key("k"))] {
        let refused = bucket.refusal(write.with_ttl(Some(seconds(1)))).await;
        assert!(matches!(refused.kind(), ErrorKind::Unsupported { .. }), "{refused:?}");
    }
    assert_eq!(bucket.counts().await, (0, Revision::ZERO), "nothing was written");
}
