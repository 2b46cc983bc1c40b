//! Batches.

use std::collections::BTreeSet;

use futures::future::join_all;

use super::subject::{BackendUnderTest, Bucket, delete, full_headers, id_of, key, purge, put};
use crate::backend::{Batch, KeySpace, Precondition, RawEntry, StartFrom, Write};
use crate::config::BucketConfig;
use crate::error::{Error, ErrorKind};
use crate::revision::Revision;

/// Creates a bucket with atomic batches. Returns `None` if the backend does not support them.
async fn with_batches(subject: &BackendUnderTest, change: impl FnOnce(&mut BucketConfig)) -> Option<Bucket> {
    if !subject.has_batches().await {
        return None;
    }
    let bucket = subject.bucket(change).await;
    assert_eq!(bucket.raw.config().atomic, Some(true), "a new bucket supports batches");
    Some(bucket)
}

fn check(on: &str, revision: Revision) -> Precondition {
    Precondition { space: KeySpace::Records, key: key(on), revision }
}

/// Asserts that a conflict, if it names a key, names this key, and that its revisions are correct.
fn assert_conflict_of(error: &Error, on: &str, expected: Revision, actual: Revision) {
    let ErrorKind::Conflict { expected: reported, actual: found } = error.kind() else {
        panic!("the error is a revision conflict: {error:?}");
    };
    assert!(error.key().is_none_or(|named| named == on && *reported == expected), "the error names `{on}`: {error:?}");
    assert!(found.is_none_or(|found| found == actual), "the actual revision is {actual}: {error:?}");
}

/// The entries of a batch carry the record headers of their writes.
pub async fn batch_keeps_record_headers(subject: &BackendUnderTest) {
    let Some(bucket) = with_batches(subject, |_| {}).await else { return };
    let writes = [put(&key("a"), "v").with_headers(full_headers()), put(&key("b"), "w")];
    bucket.commit(&writes, &[]).await;
    for write in &writes {
        let entry = bucket.newest(&write.key).await.expect("the record exists");
        assert_eq!(entry.headers, write.headers, "{write:?}");
    }
}

/// All writes of a batch are applied, at consecutive revisions in the order of the writes.
pub async fn batch_applies_every_write_in_order(subject: &BackendUnderTest) {
    let Some(bucket) = with_batches(subject, |config| config.history = Some(3)).await else { return };
    let mut there = Vec::new();
    for k in ["a", "b", "c", "d", "x", "y", "z"] {
        there.push(bucket.write(put(&key(k), "old")).await);
    }
    let [a, b, .., x, y, z] = there[..] else { panic!("seven keys") };
    for checks in
        [vec![], vec![check("x", x)], vec![check("x", x), check("y", y), check("z", z), check("none", Revision::ZERO)]]
    {
        let newest = async |k: &str| bucket.newest(&key(k)).await.map(|entry| entry.revision).unwrap_or_default();
        assert!(newest("a").await >= a && newest("b").await >= b);
        let writes = [
            put(&key("a"), "new").if_revision(newest("a").await),
            delete(&key("b")).if_revision(newest("b").await),
            purge(&key("c")).if_revision(newest("c").await),
            put(&key("d"), "without a guard"),
            put(&key("new"), "").if_revision(newest("new").await),
        ];
        let last = bucket.counts().await.1;
        let revisions = bucket.commit(&writes, &checks).await;
        let wanted: Vec<_> = (last.get() + 1..).map(Revision::new).take(writes.len()).collect();
        assert_eq!(revisions, wanted, "with {checks:?}");
        for (write, revision) in writes.iter().zip(&revisions) {
            let entry = bucket.newest(&write.key).await.expect("the entry exists");
            assert_eq!((entry.revision, &*entry.value), (*revision, write.value()), "{write:?}");
            assert_eq!(id_of(&entry), Some(write.id.as_str()), "{write:?}");
        }
    }
}

/// All preconditions and checks of a batch are evaluated at one moment.
pub async fn batch_checks_preconditions_atomically(subject: &BackendUnderTest) {
    const WRITERS: usize = 6;
    const ROUNDS: usize = 15;
    let Some(bucket) = with_batches(subject, |_| {}).await else { return };
    // A writer of one key checks the other one, so of two concurrent writers at least one loses.
    let (left, right) = (key("left"), key("right"));
    for k in [&left, &right] {
        bucket.write(put(k, "0")).await;
    }
    let writers = (0..WRITERS).map(|writer| {
        let (raw, subject, left, right) = (bucket.raw.clone(), subject.clone(), left.clone(), right.clone());
        tokio::spawn(async move {
            let mut applied = Vec::new();
            while applied.len() < ROUNDS {
                let leader = crate::backend::ReadAt::Newest(crate::backend::Read::Leader);
                let (mine, other) = if writer % 2 == 0 { (&left, &right) } else { (&right, &left) };
                let read = async |k| {
                    raw.read(KeySpace::Records, k, leader, subject.deadline())
                        .await
                        .expect("the read succeeds")
                        .expect("the record exists")
                };
                let (now, seen) = (read(mine).await, read(other).await);
                let next = number(&now).max(number(&seen)) + 1;
                let batch = Batch {
                    writes: vec![
                        put(mine, &next.to_string()).if_revision(now.revision),
                        put(&key(&format!("noise.{writer}")), "v").if_revision(noise(&applied)),
                    ],
                    preconditions: vec![Precondition {
                        space: KeySpace::Records,
                        key: other.clone(),
                        revision: seen.revision,
                    }],
                };
                match raw.commit(batch, subject.deadline()).await {
                    Ok(revisions) => applied.push((revisions, next)),
                    Err(error) => assert!(error.is_conflict(), "{error:?}"),
                }
            }
            applied
        })
    });
    let mut applied = Vec::new();
    for writer in join_all(writers).await {
        applied.extend(writer.expect("no writer panics"));
    }
    // Each writer saw the current values of both keys, so no two computed the same number.
    let numbers: BTreeSet<_> = applied.iter().map(|(_, number)| *number).collect();
    assert_eq!(numbers.len(), WRITERS * ROUNDS, "two batches were decided on the same values");
    applied.sort();
    assert!(
        applied.is_sorted_by_key(|(_, number)| *number),
        "a batch was decided on older values than the one before it"
    );
}

/// Returns the revision of the second entry of the last batch.
fn noise(applied: &[(Vec<Revision>, u64)]) -> Revision {
    applied.last().and_then(|(revisions, _)| revisions.get(1).copied()).unwrap_or_default()
}

fn number(entry: &RawEntry) -> u64 {
    std::str::from_utf8(&entry.value).ok().and_then(|text| text.parse().ok()).expect("a number")
}

/// A refused batch changes nothing. A conflict names its key if the backend knows it.
pub async fn refused_batch_changes_nothing(subject: &BackendUnderTest) {
    let Some(bucket) = with_batches(subject, |config| config.max_value_size = Some(2048)).await else { return };
    let (a, b, c) = (key("a"), key("b"), key("c"));
    let old = bucket.write(put(&a, "first")).await;
    let now = bucket.write(put(&a, "second")).await;
    let other = bucket.write(put(&b, "v")).await;
    let fine = || put(&c, "never").if_revision(Revision::ZERO);

    for wrong in [old, Revision::ZERO, Revision::new(other.get() + 10)] {
        for stale in [put(&a, "never"), delete(&a), purge(&a)] {
            let writes = [put(&b, "never"), stale.if_revision(wrong), fine()];
            assert_conflict_of(&bucket.refusal_of_batch(&writes, &[]).await, "a", wrong, now);
        }
        // One check fits on a write, the other needs a separate message.
        let riding = bucket.refusal_of_batch(&[put(&b, "never"), fine()], &[check("a", wrong)]).await;
        assert_conflict_of(&riding, "a", wrong, now);
        let alone = bucket.refusal_of_batch(&[fine(), put(&b, "never").if_revision(other)], &[check("a", wrong)]).await;
        assert_conflict_of(&alone, "a", wrong, now);
    }
    let large = bucket.refusal_of_batch(&[fine(), put(&b, &"x".repeat(2049)), put(&a, "never")], &[]).await;
    assert!(matches!(large.kind(), ErrorKind::TooLarge { .. }), "{large:?}");
    assert_eq!(bucket.newest(&c).await, None);
}

/// A watcher sees the entries of a batch consecutively, with no other entry between them.
pub async fn watch_yields_batch_contiguously(subject: &BackendUnderTest) {
    const BATCHES: usize = 10;
    let Some(bucket) = with_batches(subject, |_| {}).await else { return };
    let mut probe = bucket.watch(StartFrom::Newest).await;
    assert!(probe.until_ready().await.is_empty(), "the bucket is empty");
    let (raw, deadline) = (bucket.raw.clone(), subject.deadline());
    let between = tokio::spawn(async move {
        for round in 0..3 * BATCHES {
            raw.write(put(&key("between"), &format!("{round}")), deadline).await.expect("the write succeeds");
        }
    });
    let mut committed = Vec::new();
    for round in 0..BATCHES {
        let writes: Vec<Write> = ["a", "b", "c"].map(|k| put(&key(&format!("{k}.{round}")), "v")).into();
        committed.extend(bucket.commit(&writes, &[]).await);
    }
    between.await.expect("no task panics");
    let mut seen = Vec::new();
    let mut last = Revision::ZERO;
    while seen.len() < committed.len() {
        let entry = probe.entry().await;
        if entry.key.as_str() != "between" {
            let place = seen.len() % 3;
            assert!(entry.key.as_str().starts_with(["a.", "b.", "c."][place]), "in the order of the writes: {entry:?}");
            assert!(place == 0 || entry.revision.get() == last.get() + 1, "{entry:?} directly follows {last}");
            seen.push(entry.revision);
        }
        last = entry.revision;
    }
    assert_eq!(seen, committed);
}

/// An empty batch does nothing. A batch of one message is a plain write, and works in every bucket.
pub async fn single_message_batch_is_a_plain_write(subject: &BackendUnderTest) {
    let bucket = subject.bucket(|config| config.atomic = Some(false)).await;
    assert_eq!(bucket.commit(&[], &[]).await, []);
    assert_eq!(bucket.counts().await, (0, Revision::ZERO), "nothing is written");
    let first = bucket.commit(&[put(&key("a"), "v").if_revision(Revision::ZERO)], &[]).await;
    assert_eq!(first, [bucket.counts().await.1]);
    let again = bucket.refusal_of_batch(&[put(&key("a"), "v").if_revision(Revision::ZERO)], &[]).await;
    assert_conflict_of(&again, "a", Revision::ZERO, first[0]);
    if !subject.has_key_ttl().await {
        return;
    }
    let guarded = bucket.commit(&[put(&key("b"), "v")], &[check("a", first[0])]).await;
    assert_eq!(guarded, [bucket.counts().await.1]);
    let stale = bucket.refusal_of_batch(&[put(&key("b"), "w")], &[check("a", Revision::ZERO)]).await;
    assert_conflict_of(&stale, "a", Revision::ZERO, first[0]);
    assert_eq!(bucket.commit(&[], &[check("a", first[0])]).await, [], "a check alone");
    bucket.refusal_of_batch(&[], &[check("a", Revision::ZERO)]).await;
}

/// Two writes of one key, two expected revisions of one key, and too many messages are refused.
pub async fn invalid_batch_is_refused(subject: &BackendUnderTest) {
    let Some(bucket) = with_batches(subject, |_| {}).await else { return };
    let (a, b) = (put(&key("a"), "v"), put(&key("b"), "v"));
    let many: Vec<_> = (0..=Batch::MAX_MESSAGES).map(|n| put(&key(&format!("k{n}")), "v")).collect();
    let checks: Vec<_> = (0..Batch::MAX_MESSAGES).map(|n| check(&format!("k{n}"), Revision::ZERO)).collect();
    for (writes, checks) in [
        (vec![a.clone(), b.clone(), a.clone()], vec![]),
        (vec![a.clone().if_revision(Revision::ZERO), b.clone()], vec![check("a", Revision::new(1))]),
        (vec![a.clone(), b.clone()], vec![check("c", Revision::ZERO), check("c", Revision::new(1))]),
        (many.clone(), vec![]),
        (vec![a.if_revision(Revision::ZERO)], checks),
    ] {
        let refused = bucket.refusal_of_batch(&writes, &checks).await;
        assert!(matches!(refused.kind(), ErrorKind::InvalidBatch { .. }), "{refused:?}");
    }
    let all = bucket.commit(&many[..Batch::MAX_MESSAGES], &[]).await;
    assert_eq!(all.len() as u64, bucket.counts().await.0, "the largest batch is applied");
}

/// Without support for batches, a batch of several messages is unsupported.
pub async fn batch_needs_an_atomic_bucket(subject: &BackendUnderTest) {
    let able = subject.has_batches().await;
    let bucket = subject.bucket(|config| config.atomic = Some(false)).await;
    let writes = [put(&key("a"), "v"), put(&key("b"), "v")];
    let refused = bucket.refusal_of_batch(&writes, &[]).await;
    assert!(matches!(refused.kind(), ErrorKind::Unsupported { .. }), "{refused:?}");
    assert_eq!(refused.to_string().contains(".atomic(true)"), able, "{refused}");
    let mut wanted = BucketConfig::new(bucket.raw.config().name.clone());
    wanted.atomic = Some(true);
    let updated = subject.backend().update(wanted, subject.deadline()).await;
    if !able {
        let refused = updated.expect_err("the server does not support batches");
        assert!(matches!(refused.kind(), ErrorKind::Unsupported { .. }), "{refused:?}");
        return;
    }
    let batch = Batch { writes: writes.to_vec(), preconditions: Vec::new() };
    let revisions =
        updated.expect("the update succeeds").commit(batch, subject.deadline()).await.expect("the batch is applied");
    assert_eq!(revisions.last(), Some(&bucket.counts().await.1));
}
