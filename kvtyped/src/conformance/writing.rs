//! Writing.

use bytes::Bytes;
use futures::future::join_all;

use super::subject::{BackendUnderTest, Bucket, delete, full_headers, id_of, key, purge, put};
use crate::backend::{KeySpace, Operation, Precondition, Read, ReadAt, RecordHeaders, Write, WriteKind};
use crate::config::BucketConfig;
use crate::error::{Error, ErrorKind, Outcome};
use crate::key::Pattern;
use crate::revision::Revision;

/// Asserts that a conflict has this expected revision, and that its actual revision, if it has one, is correct.
fn assert_conflict(error: &Error, expected: Revision, actual: Revision) {
    assert!(error.is_conflict(), "the error is a conflict: {error:?}");
    let ErrorKind::Conflict { expected: reported, actual: found } = error.kind() else {
        panic!("the error is a revision conflict: {error:?}");
    };
    assert_eq!(*reported, expected, "the error has the expected revision: {error:?}");
    assert!(found.is_none_or(|found| found == actual), "the actual revision is {actual}: {error:?}");
}

/// Revisions grow over the whole bucket.
pub async fn revisions_increase_across_the_bucket(subject: &BackendUnderTest) {
    let bucket = subject.bucket(|_| {}).await;
    let (a, b) = (key("a"), key("b"));
    let mut last = Revision::ZERO;
    for write in [put(&a, "1"), put(&b, "1"), put(&a, "2"), delete(&b), put(&b, "2"), purge(&a), put(&a, "3")] {
        let revision = bucket.write(write.clone()).await;
        assert!(revision > last, "{write:?} has revision {revision} after {last}");
        last = revision;
    }
    assert_eq!(bucket.counts().await.1, last, "the last revision of the bucket");
}

/// A write without a precondition succeeds whatever its key holds.
pub async fn unconditional_write_always_succeeds(subject: &BackendUnderTest) {
    let bucket = subject.bucket(|_| {}).await;
    let k = key("k");
    for (write, operation) in [
        (put(&k, "on nothing"), Operation::Put),
        (put(&k, "on a value"), Operation::Put),
        (delete(&k), Operation::Delete),
        (delete(&k), Operation::Delete),
        (put(&k, "on a delete"), Operation::Put),
        (purge(&k), Operation::Purge),
        (purge(&k), Operation::Purge),
        (put(&k, "on a purge"), Operation::Put),
    ] {
        let revision = bucket.write(write.clone()).await;
        let entry = bucket.newest(&k).await.expect("the record exists");
        assert_eq!(
            (entry.revision, &entry.operation, &*entry.value),
            (revision, &operation, write.value()),
            "{write:?}"
        );
    }
}

/// A precondition holds exactly if its revision is the revision of the newest entry of its key, which may be a marker.
pub async fn precondition_accepts_only_newest_revision(subject: &BackendUnderTest) {
    let bucket = subject.bucket(|config| config.history = Some(3)).await;
    let k = key("k");
    let mut older = Revision::ZERO;
    let mut newest = bucket.write(put(&k, "first").if_revision(older)).await;
    for write in [put(&k, "second"), delete(&k), put(&k, "third"), purge(&k), purge(&k), put(&k, "fourth")] {
        let later = Revision::new(newest.get() + 1);
        for wrong in [older, later, Revision::ZERO] {
            assert_conflict(&bucket.refusal(write.clone().if_revision(wrong)).await, wrong, newest);
        }
        (older, newest) = (newest, bucket.write(write.if_revision(newest)).await);
        // The last revision of the bucket belongs to another key, which does not affect the precondition.
        bucket.write(put(&key("other"), "v")).await;
    }
}

/// The precondition [`Revision::ZERO`] holds only if the key has no entry. A delete marker is an entry.
pub async fn zero_precondition_needs_key_without_entry(subject: &BackendUnderTest) {
    let bucket = subject.bucket(|_| {}).await;
    let k = key("k");
    // A longer key with this key as its prefix is another key.
    bucket.write(put(&key("k.more"), "v")).await;
    let mut newest = bucket.write(put(&k, "v").if_revision(Revision::ZERO)).await;
    for marker in [delete(&k), purge(&k)] {
        let refused = bucket.refusal(put(&k, "again").if_revision(Revision::ZERO)).await;
        assert_conflict(&refused, Revision::ZERO, newest);
        newest = bucket.write(marker).await;
        let refused = bucket.refusal(put(&k, "again").if_revision(Revision::ZERO)).await;
        assert_conflict(&refused, Revision::ZERO, newest);
    }
}

/// A precondition may name another key than the written one if keys can have a TTL. Otherwise it is refused.
pub async fn precondition_may_name_another_key(subject: &BackendUnderTest) {
    let bucket = subject.bucket(|_| {}).await;
    let (lock, data) = (key("lock"), key("data"));
    let guarded = |value: &str, revision| Write {
        precondition: Some(Precondition { space: KeySpace::Records, key: lock.clone(), revision }),
        ..put(&data, value)
    };
    if !subject.has_key_ttl().await {
        let refused = bucket.refusal(guarded("v", Revision::ZERO)).await;
        assert!(matches!(refused.kind(), ErrorKind::Unsupported { .. }), "{refused:?}");
        return;
    }
    bucket.write(guarded("before the lock", Revision::ZERO)).await;
    let held = bucket.write(put(&lock, "mine")).await;
    assert_conflict(&bucket.refusal(guarded("too late", Revision::ZERO)).await, Revision::ZERO, held);
    bucket.write(guarded("under the lock", held)).await;
    let last = bucket.write(guarded("and again", held)).await;
    let lost = bucket.write(delete(&lock)).await;
    assert_conflict(&bucket.refusal(guarded("no longer", held)).await, held, lost);
    assert_eq!(
        bucket.newest(&data).await.map(|entry| entry.revision),
        Some(last),
        "the last write under a valid guard"
    );
}

/// A refused write changes nothing. Its error is a conflict that states that the write was not applied.
pub async fn refused_write_changes_nothing(subject: &BackendUnderTest) {
    let bucket = subject.bucket(|config| config.history = Some(5)).await;
    let k = key("k");
    let first = bucket.write(put(&k, "first")).await;
    let second = bucket.write(put(&k, "second")).await;
    let before = (bucket.newest(&k).await, bucket.counts().await);
    for write in [put(&k, "refused"), delete(&k), purge(&k)] {
        assert_conflict(&bucket.refusal(write.if_revision(first)).await, first, second);
    }
    assert_eq!((bucket.newest(&k).await, bucket.counts().await), before);
    bucket.scan_finds(&[Pattern::all()], true, &[first, second]).await;
}

/// If many writers expect the same revision, exactly one wins, and the others get a conflict.
pub async fn exactly_one_writer_wins_each_revision(subject: &BackendUnderTest) {
    const WRITERS: usize = 8;
    const ROUNDS: usize = 50;
    let bucket = subject.bucket(|_| {}).await;
    let k = key("k");
    let mut expected = Revision::ZERO;
    for round in 0..ROUNDS {
        let race = (0..WRITERS).map(|writer| {
            let (raw, deadline) = (bucket.raw.clone(), subject.deadline());
            let write = put(&k, &format!("{writer}")).if_revision(expected);
            tokio::spawn(async move { raw.write(write, deadline).await })
        });
        let mut won = Vec::new();
        for (writer, result) in join_all(race).await.into_iter().enumerate() {
            match result.expect("no writer panics") {
                Ok(revision) => won.push((writer, revision)),
                Err(error) => {
                    let conflict = matches!(error.kind(), ErrorKind::Conflict { .. });
                    assert!(conflict && error.outcome() == Outcome::NotApplied, "round {round}, a loser: {error:?}");
                }
            }
        }
        let [(winner, revision)] = won[..] else { panic!("round {round} at revision {expected} was won by {won:?}") };
        let entry = bucket.newest(&k).await.expect("the record exists");
        let (found, wanted) = ((entry.revision, entry.value), (revision, Bytes::from(format!("{winner}"))));
        assert_eq!(found, wanted, "round {round} was won by writer {winner}");
        expected = revision;
    }
}

/// A delete leaves a marker and keeps the history.
pub async fn delete_leaves_marker_and_keeps_history(subject: &BackendUnderTest) {
    let bucket = subject.bucket(|config| config.history = Some(5)).await;
    let k = key("k");
    let revisions =
        [bucket.write(put(&k, "first")).await, bucket.write(put(&k, "second")).await, bucket.write(delete(&k)).await];
    let marker = bucket.newest(&k).await.expect("the marker is an entry");
    assert_eq!((marker.revision, marker.operation, marker.value), (revisions[2], Operation::Delete, Bytes::new()));
    let kept = bucket.scan_finds(&[Pattern::exact(&k)], true, &revisions).await;
    assert_eq!(kept.iter().map(|entry| &*entry.value).collect::<Vec<_>>(), [&b"first"[..], b"second", b""]);
}

/// A purge leaves a marker and removes everything before it.
pub async fn purge_leaves_marker_and_drops_history(subject: &BackendUnderTest) {
    let bucket = subject.bucket(|config| config.history = Some(5)).await;
    let k = key("k");
    let other = bucket.write(put(&key("other"), "stays")).await;
    for write in [put(&k, "first"), delete(&k), put(&k, "second")] {
        bucket.write(write).await;
    }
    let purged = bucket.write(purge(&k)).await;
    let marker = bucket.newest(&k).await.expect("the marker is an entry");
    assert_eq!((marker.revision, marker.operation, marker.value), (purged, Operation::Purge, Bytes::new()));
    bucket.scan_finds(&[Pattern::all()], true, &[other, purged]).await;
    assert_eq!(bucket.counts().await.0, 2, "the other key's entry, and the marker");
}

/// No key keeps more entries than the bucket's history.
pub async fn history_is_bounded(subject: &BackendUnderTest) {
    for history in [1_u8, 3, BucketConfig::MAX_HISTORY] {
        let bucket = subject.bucket(|config| config.history = Some(history)).await;
        let (k, history) = (key("k"), usize::from(history));
        let mut revisions = vec![bucket.write(put(&key("other"), "stays")).await];
        for value in 0..history + 2 {
            revisions.push(bucket.write(put(&k, &format!("{value}"))).await);
        }
        revisions.drain(1..3);
        bucket.scan_finds(&[Pattern::all()], true, &revisions).await;
        assert_eq!(bucket.counts().await.0, 1 + history as u64, "entries with a history of {history}");
    }
}

/// An entry carries the operation id of its write.
pub async fn entry_carries_its_operation_id(subject: &BackendUnderTest) {
    let bucket = subject.bucket(|config| config.history = Some(5)).await;
    let k = key("k");
    let writes = [put(&k, "v"), delete(&k), purge(&k), put(&k, "w")];
    for write in writes.clone() {
        let revision = bucket.write(write.clone()).await;
        let entry = bucket.newest(&k).await.expect("the record exists");
        assert_eq!((entry.revision, id_of(&entry)), (revision, Some(write.id.as_str())), "{write:?}");
        let at_revision = async || bucket.read(&k, ReadAt::Revision(revision)).await;
        let read = subject.eventually("the revision is read", at_revision).await;
        assert_eq!(id_of(&read), Some(write.id.as_str()), "{write:?}, read at its revision");
    }
    let last = bucket.newest(&k).await.expect("the record exists").revision;
    let nearest = bucket.read(&k, ReadAt::Newest(Read::AtLeast(last))).await;
    assert_eq!(nearest.as_ref().and_then(id_of), Some(writes[3].id.as_str()), "read at least at {last}");
    subject
        .eventually("a scan of headers gives the operation id of the newest entry", async || {
            let scanned = bucket.scan(&[Pattern::all()], false, true).await;
            scanned.first().is_some_and(|entry| id_of(entry) == Some(writes[3].id.as_str())).then_some(())
        })
        .await;
}

/// An entry carries the record headers of its write. A write without headers does not inherit them.
pub async fn entry_keeps_record_headers(subject: &BackendUnderTest) {
    let bucket = subject.bucket(|config| config.history = Some(5)).await;
    let k = key("k");
    let sets = [full_headers(), RecordHeaders::of_version(Some(1)), RecordHeaders::default()];
    for headers in &sets {
        let revision = bucket.write(put(&k, "v").with_headers(headers.clone())).await;
        let entry = bucket.newest(&k).await.expect("the record exists");
        assert_eq!((entry.revision, &entry.headers), (revision, headers));
        let read = bucket.read(&k, ReadAt::Newest(Read::Leader)).await.expect("the leader has the record");
        assert_eq!(&read.headers, headers, "read from the leader");
    }
    let history = bucket.scan(&[Pattern::all()], true, false).await;
    let kept: Vec<_> = history.iter().map(|entry| &entry.headers).collect();
    assert!(kept.len() <= sets.len() && kept.iter().all(|headers| sets.contains(headers)), "{kept:?}");
    bucket.write(delete(&k)).await;
    let marker = bucket.newest(&k).await.expect("the marker exists");
    assert_eq!(marker.headers, RecordHeaders::default());
}

/// An empty value is a value.
pub async fn empty_value_is_a_live_record(subject: &BackendUnderTest) {
    let bucket = subject.bucket(|_| {}).await;
    let k = key("k");
    let revision = bucket.write(put(&k, "").if_revision(Revision::ZERO)).await;
    let after = bucket.write(put(&key("z"), "after")).await;
    let entry = bucket.newest(&k).await.expect("the entry exists");
    assert!(entry.is_live() && entry.value.is_empty(), "{entry:?}");
    let scanned = bucket.scan_finds(&[Pattern::all()], false, &[revision, after]).await;
    assert_eq!(scanned[0], entry);
}

/// Asserts that a write is refused as too large and changes nothing.
async fn assert_too_large(bucket: &Bucket, write: Write) {
    let before = bucket.counts().await;
    let refused = bucket.refusal(write).await;
    assert!(matches!(refused.kind(), ErrorKind::TooLarge { .. }), "{refused:?}");
    assert_eq!(bucket.counts().await, before, "the number of entries and the last revision");
}

/// A value over the limit of the bucket or the server is `TooLarge`, and changes nothing.
pub async fn oversized_value_is_refused(subject: &BackendUnderTest) {
    let large = |bytes| Write::new(key("k"), WriteKind::Put(vec![b'x'; bytes].into()));
    let bucket = subject.bucket(|config| config.max_value_size = Some(2048)).await;
    bucket.write(large(1024)).await;
    assert_too_large(&bucket, large(2049)).await;
    bucket.write(large(1025)).await;
    let bucket = subject.bucket(|_| {}).await;
    // Headers count, too.
    assert_too_large(&bucket, large(subject.largest_message())).await;
    bucket.write(large(subject.largest_message() - 1024)).await;
}

/// A write to a full bucket is `BucketFull`, and changes nothing.
pub async fn full_bucket_refuses_writes(subject: &BackendUnderTest) {
    let bucket = subject.bucket(|config| config.max_bytes = Some(8192)).await;
    let name = bucket.raw.config().name.clone();
    let value = "x".repeat(1024);
    let mut written = Vec::new();
    let (refused, before) = loop {
        let before = bucket.counts().await;
        match bucket.try_write(put(&key(&format!("k{}", written.len())), &value)).await {
            Ok(revision) => written.push(revision),
            Err(error) => break (error, before),
        }
        assert!(written.len() < 8, "8192 bytes hold fewer than 8 values of 1024");
    };
    assert!(matches!(refused.kind(), ErrorKind::BucketFull), "{refused:?}");
    assert_eq!(refused.outcome(), Outcome::NotApplied, "{refused:?}");
    assert_eq!(bucket.counts().await, before, "the number of entries and the last revision");
    assert_eq!(written.len() as u64, before.0, "each acknowledged write is stored");
    bucket.scan_finds(&[Pattern::all()], false, &written).await;

    let mut larger = BucketConfig::new(name);
    larger.max_bytes = Some(65_536);
    subject.backend().update(larger, subject.deadline()).await.expect("the limit can be raised");
    bucket.write(put(&key("now"), &value)).await;
}

/// An erase removes the entries of a key up to the given revision and no later entry. It leaves no marker.
pub async fn erase_keeps_later_entries(subject: &BackendUnderTest) {
    let bucket = subject.bucket(|config| config.history = Some(5)).await;
    let k = key("k");
    let other = bucket.write(put(&key("other"), "stays")).await;
    bucket.write(put(&k, "first")).await;
    let marker = bucket.write(delete(&k)).await;
    let later = bucket.write(put(&k, "second")).await;
    assert_eq!(bucket.erase(&k, marker).await, 2);
    bucket.scan_finds(&[Pattern::all()], true, &[other, later]).await;
    assert_eq!(bucket.erase(&k, marker).await, 0, "the marker is already erased");
    assert_eq!(bucket.erase(&k, later).await, 1);
    assert_eq!(bucket.newest(&k).await, None, "no marker is left");
    bucket.write(put(&k, "third").if_revision(Revision::ZERO)).await;
}
