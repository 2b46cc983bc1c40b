//! Watching.

use bytes::Bytes;
use futures::future::join_all;
use futures::stream::{self, StreamExt};

use super::subject::{BackendUnderTest, delete, key, overlapping_patterns, purge, put, seconds};
use crate::backend::{Operation, RawEntry, ReadAt, StartFrom};
use crate::config::BucketConfig;
use crate::error::{Error, ErrorKind};
use crate::key::Pattern;
use crate::revision::Revision;

/// A watch first returns a description of the bucket, then the existing entries, then `Ready`, then new entries, in the
/// order of revisions, each once. [`StartFrom::Newest`] starts with the newest entry of each key, which may be a delete
/// marker.
pub async fn a_watch_tells_what_is_there_then_ready_then_news(subject: &BackendUnderTest) {
    let bucket = subject.bucket(|config| config.history = Some(3)).await;
    let (a, b, c) = (key("a"), key("b"), key("c"));
    let mut revisions = Vec::new();
    for write in [put(&a, "old"), put(&b, "old"), put(&c, "old"), delete(&b), put(&a, ""), purge(&c)] {
        revisions.push(bucket.write(write).await);
    }
    let all = [Pattern::all()];
    let (mut probe, listed) = bucket.watch_finds(&all, StartFrom::Newest, false, &revisions[3..]).await;
    let status = bucket.raw.status(subject.deadline()).await.expect("the bucket has a status");
    let started = probe.started;
    assert_eq!(
        (started.created, started.last_revision, started.contiguous),
        (status.created, status.last_revision, true),
        "the start of the session shows the state of the bucket"
    );
    let mut written = Vec::new();
    for write in [put(&b, "new"), put(&b, "newer"), delete(&a), put(&key("d"), "new")] {
        written.push(bucket.write(write).await);
    }
    for entry in listed.into_iter().chain(probe.expect_entries(&written).await) {
        let read = bucket.read(&entry.key, ReadAt::Revision(entry.revision)).await;
        assert_eq!(Some(entry), read, "the watch delivers the entry that a read returns");
    }
    probe.expect_idle().await;
}

/// A watch is ready at once if nothing matches.
pub async fn a_watch_of_nothing_is_ready_at_once(subject: &BackendUnderTest) {
    let bucket = subject.bucket(|_| {}).await;
    let nothing = [Pattern::new().literal("nothing")];
    let sinces = [StartFrom::Newest, StartFrom::History, StartFrom::Now, StartFrom::After(Revision::ZERO)];
    for since in sinces {
        bucket.watch_finds(&[Pattern::all()], since, false, &[]).await;
    }
    bucket.write(put(&key("something"), "v")).await;
    for since in sinces {
        bucket.watch_finds(&nothing, since, false, &[]).await;
    }
    let (mut something, _) = bucket.watch_finds(&nothing, StartFrom::Newest, false, &[]).await;
    let (mut none, _) = bucket.watch_finds(&[], StartFrom::Newest, false, &[]).await;
    bucket.write(put(&key("something"), "v")).await;
    let revision = bucket.write(put(&key("nothing"), "v")).await;
    something.expect_entries(&[revision]).await;
    none.expect_idle().await;
}

/// A watch of the history returns every kept entry.
pub async fn a_watch_of_history_tells_every_entry(subject: &BackendUnderTest) {
    let bucket = subject.bucket(|config| config.history = Some(3)).await;
    let (a, b, c) = (key("a"), key("b"), key("c"));
    let mut kept = Vec::new();
    for write in
        [put(&a, "dropped"), put(&c, "purged"), put(&a, "1"), put(&b, "1"), delete(&a), purge(&c), put(&a, "2")]
    {
        kept.push(bucket.write(write).await);
    }
    kept.drain(..2);
    let (mut probe, _) = bucket.watch_finds(&[Pattern::all()], StartFrom::History, false, &kept).await;
    assert!(probe.started.contiguous, "a session without a start revision is complete");
    let written = [bucket.write(put(&a, "3")).await, bucket.write(put(&a, "4")).await];
    probe.expect_entries(&written).await;
    let of_b = kept[1];
    bucket.watch_finds(&[Pattern::exact(&b)], StartFrom::History, false, &[of_b]).await;
}

/// A watch [`StartFrom::Now`] returns only later writes.
pub async fn a_watch_since_now_tells_nothing_old(subject: &BackendUnderTest) {
    let bucket = subject.bucket(|config| config.history = Some(3)).await;
    let (a, b) = (key("a"), key("b"));
    for write in [put(&a, "1"), put(&b, "1"), put(&a, "2")] {
        bucket.write(write).await;
    }
    let last = bucket.counts().await.1;
    // Starts only once: no server may be stale enough to return an old entry.
    let mut probe = bucket.watch(StartFrom::Now).await;
    assert_eq!((probe.started.last_revision, probe.started.contiguous), (last, true));
    assert_eq!(probe.until_ready().await, [], "the session is ready at once");
    let written = [bucket.write(put(&b, "2")).await, bucket.write(delete(&a)).await];
    probe.expect_entries(&written).await;
    probe.expect_idle().await;
}

/// A watch after a revision returns the kept entries of later revisions.
pub async fn a_watch_after_a_revision_tells_what_came_later(subject: &BackendUnderTest) {
    let bucket = subject.bucket(|config| config.history = Some(2)).await;
    let (a, b) = (key("a"), key("b"));
    let mut revisions = Vec::new();
    for write in [put(&a, "1"), put(&b, "1"), put(&a, "2"), delete(&b), put(&a, "3")] {
        revisions.push(bucket.write(write).await);
    }
    let all = [Pattern::all()];
    bucket.watch_finds(&all, StartFrom::After(Revision::ZERO), false, &revisions[1..]).await;
    for after in 1..revisions.len() {
        bucket.watch_finds(&all, StartFrom::After(revisions[after - 1]), false, &revisions[after..]).await;
    }
    bucket.watch_finds(&[Pattern::exact(&b)], StartFrom::After(revisions[1]), false, &revisions[3..4]).await;
    let (mut probe, _) = bucket.watch_finds(&all, StartFrom::After(revisions[4]), false, &[]).await;
    let written = [bucket.write(put(&b, "2")).await, bucket.write(put(&a, "4")).await];
    probe.expect_entries(&written).await;
}

/// A watch after a revision reports whether every later write is kept. It reports `false` for a revision that the
/// bucket has not reached.
pub async fn a_watch_after_a_revision_tells_whether_something_is_missing(subject: &BackendUnderTest) {
    let bucket = subject.bucket(|config| config.history = Some(2)).await;
    let (a, b) = (key("a"), key("b"));
    let complete = async |patterns: &[Pattern], after| {
        bucket.watch_some(patterns, StartFrom::After(after), false).await.started.contiguous
    };
    let all = [Pattern::all()];
    assert!(complete(&all, Revision::ZERO).await, "nothing is missing in an empty bucket");
    let mut revisions = vec![Revision::ZERO];
    for write in [put(&a, "1"), put(&b, "1"), put(&b, "2"), delete(&a)] {
        revisions.push(bucket.write(write).await);
    }
    let to_come = |last: Revision| Revision::new(last.get() + 5);
    for revision in &revisions {
        assert!(complete(&all, *revision).await, "nothing is missing after {revision} of {revisions:?}");
        assert!(complete(&[Pattern::exact(&b)], *revision).await, "nothing is missing for a watch of one key");
    }
    assert!(!complete(&all, to_come(revisions[4])).await, "the revision does not exist yet");

    // One entry is removed, and the entries before and after it remain.
    revisions.push(bucket.write(put(&key("c"), "v")).await);
    let purged = bucket.write(purge(&key("c"))).await;
    let hole = revisions[5];
    for revision in &revisions[..5] {
        assert!(!complete(&all, *revision).await, "{hole} is missing after {revision}");
    }
    assert!(complete(&all, hole).await, "nothing is missing after the missing revision");
    assert!(complete(&all, purged).await, "nothing is missing after the last revision");
    assert!(!complete(&all, to_come(purged)).await, "the revision does not exist yet");
}

/// A watch reports deletes and purges when they happen, and expiries if keys can have a TTL.
pub async fn a_watch_tells_every_kind_of_removal(subject: &BackendUnderTest) {
    let bucket = subject.bucket(|_| {}).await;
    let (a, b, c) = (key("a"), key("b"), key("c"));
    let (mut probe, _) = bucket.watch_finds(&[Pattern::all()], StartFrom::Newest, false, &[]).await;
    for (write, operation) in [
        (put(&a, "v"), Operation::Put),
        (put(&b, "v"), Operation::Put),
        (delete(&a), Operation::Delete),
        (purge(&b), Operation::Purge),
    ] {
        let revision = bucket.write(write.clone()).await;
        let entry = probe.entry().await;
        assert_eq!((&entry.key, entry.revision, &entry.operation), (&write.key, revision, &operation), "{entry:?}");
    }
    if subject.has_key_ttl().await {
        let revision = bucket.write(put(&c, "v").with_ttl(Some(seconds(1)))).await;
        let written = probe.entry().await;
        assert_eq!((written.revision, written.ttl), (revision, Some(seconds(1))), "{written:?}");
        let expired = probe.entry().await;
        assert_eq!((&expired.key, &expired.operation), (&c, &Operation::Expired), "{expired:?}");
        assert_eq!(Some(expired), bucket.newest(&c).await, "the watch delivers the entry that a read returns");
    }
}

/// An attached watch delivers every change in order, also one that the next write removes before the watch is read. A
/// server may be slower than its writers, so one successful round of several is enough.
pub async fn an_attached_watch_tells_every_change(subject: &BackendUnderTest) {
    const ROUNDS: usize = 10;
    let bucket = subject.bucket(|_| {}).await;
    let k = key("k");
    let (mut probe, _) = bucket.watch_finds(&[Pattern::all()], StartFrom::Newest, false, &[]).await;
    for round in 1..=ROUNDS {
        let mut written = Vec::new();
        for write in [put(&k, "1"), delete(&k), put(&k, "2"), purge(&k), put(&k, "3"), put(&k, "4")] {
            written.push(bucket.write(write).await);
        }
        let mut delivered = Vec::new();
        while delivered.last() != written.last() {
            delivered.push(probe.entry().await.revision);
        }
        assert!(delivered.is_sorted_by(|a, b| a < b), "the revisions are in order: {delivered:?}");
        if delivered == written {
            return;
        }
        assert!(round < ROUNDS, "{written:?} was written, {delivered:?} was delivered");
    }
}

/// A watch returns each entry that matches at least one pattern once, even if patterns overlap.
pub async fn a_watch_keeps_to_its_patterns(subject: &BackendUnderTest) {
    let bucket = subject.bucket(|_| {}).await;
    let (names, cases) = overlapping_patterns();
    let write_all = async || {
        let mut written = Vec::new();
        for name in names {
            written.push((*name, bucket.write(put(&key(name), "v")).await));
        }
        written
    };
    let of = |written: &[(_, Revision)], wanted: &[&str]| -> Vec<_> {
        written.iter().filter(|(name, _)| wanted.contains(name)).map(|(_, revision)| *revision).collect()
    };
    let there = write_all().await;
    let mut probes = Vec::new();
    for (patterns, wanted) in cases {
        let (probe, _) = bucket.watch_finds(&patterns, StartFrom::Newest, false, &of(&there, wanted)).await;
        probes.push((probe, wanted));
    }
    let written = write_all().await;
    let reads = probes.into_iter().map(|(mut probe, wanted)| {
        let written = of(&written, wanted);
        async move {
            probe.expect_entries(&written).await;
            // Next is a heartbeat, unless the watch returns an unwanted entry.
            probe.expect_idle().await;
        }
    });
    join_all(reads).await;
}

/// A watch of headers omits the values.
pub async fn a_watch_of_headers_leaves_the_values_out(subject: &BackendUnderTest) {
    let bucket = subject.bucket(|config| config.history = Some(3)).await;
    let (a, b) = (key("a"), key("b"));
    let there = [
        bucket.write(put(&a, "a value")).await,
        bucket.write(put(&b, "a value")).await,
        bucket.write(delete(&a)).await,
    ];
    let (mut probe, mut delivered) = bucket.watch_finds(&[Pattern::all()], StartFrom::History, true, &there).await;
    let written = [bucket.write(put(&b, "another value")).await, bucket.write(purge(&a)).await];
    delivered.extend(probe.expect_entries(&written).await);
    for entry in delivered {
        assert_eq!(entry.value, Bytes::new(), "{entry:?}");
        // A purged entry cannot be read.
        if let Some(read) = bucket.read(&entry.key, ReadAt::Revision(entry.revision)).await {
            assert_eq!(entry, RawEntry { value: Bytes::new(), ..read }, "the metadata equals that of a read");
        }
    }
}

/// A watch without new entries sends heartbeats with its position.
pub async fn a_watch_tells_that_it_is_alive(subject: &BackendUnderTest) {
    let bucket = subject.bucket(|_| {}).await;
    let k = key("k");
    let there = bucket.write(put(&k, "v")).await;
    let (mut probe, _) = bucket.watch_finds(&[Pattern::all()], StartFrom::Newest, false, &[there]).await;
    for _ in 0..2 {
        assert_eq!(
            probe.expect_idle().await,
            there,
            "the watch delivered all entries, and its position is the last revision"
        );
    }
    let written = bucket.write(put(&k, "w")).await;
    probe.expect_entries(&[written]).await;
    assert_eq!(
        probe.expect_idle().await,
        written,
        "the watch delivered all entries, and its position is the last revision"
    );
}

/// If its bucket is deleted, a watch ends within seconds with `BucketNotFound`, also if a new bucket has the same name.
pub async fn a_watch_ends_with_its_bucket(subject: &BackendUnderTest) {
    let bucket = subject.bucket(|_| {}).await;
    let (backend, name) = (subject.backend(), bucket.raw.config().name.clone());
    let not_found = |error: Error| assert!(matches!(error.kind(), ErrorKind::BucketNotFound), "{error:?}");
    let revision = bucket.write(put(&key("k"), "v")).await;
    let (waiting, _) = bucket.watch_finds(&[Pattern::all()], StartFrom::Newest, false, &[revision]).await;
    let (of_nothing, _) = bucket.watch_finds(&[], StartFrom::Newest, false, &[]).await;
    assert!(backend.delete(&name, subject.deadline()).await.expect("delete answers"), "the bucket existed");
    not_found(waiting.expect_end().await);
    not_found(of_nothing.expect_end().await);
    not_found(bucket.watch_error(StartFrom::Newest).await);

    let mut again = BucketConfig::new(&name);
    (again.replicas, again.storage) = (bucket.raw.config().replicas, bucket.raw.config().storage);
    backend.create(again.clone(), subject.deadline()).await.expect("the name is free");
    let (replaced, _) = bucket.watch_finds(&[Pattern::all()], StartFrom::Newest, false, &[]).await;
    assert!(backend.delete(&name, subject.deadline()).await.expect("delete answers"), "the bucket existed");
    backend.create(again, subject.deadline()).await.expect("the name is free");
    not_found(replaced.expect_end().await);
}

/// A watch that is read late returns the newest entry of each key, in order, or its session has ended. (This test
/// cannot observe the memory.)
pub async fn a_watch_that_is_not_read_costs_little(subject: &BackendUnderTest) {
    const WRITES: usize = 3_000;
    const KEYS: usize = 4;
    let bucket = subject.bucket(|_| {}).await;
    let keys: Vec<_> = (0..KEYS).map(|number| key(&format!("{number}"))).collect();
    let (mut probe, _) = bucket.watch_finds(&[Pattern::all()], StartFrom::Newest, false, &[]).await;
    let value = "v".repeat(1024);
    let writes = stream::iter((0..WRITES).map(|number| put(&keys[number % KEYS], &value)));
    writes.map(|write| bucket.write(write)).buffer_unordered(64).for_each(|_| async {}).await;
    let mut newest = Vec::new();
    for k in &keys {
        newest.push(bucket.newest(k).await.expect("it was written").revision);
    }
    if let Err(error) = probe.read_until_delivered(&newest).await {
        assert!(matches!(error.kind(), ErrorKind::Unavailable { .. }), "{error:?}");
    }
}

/// A dropped watch leaves nothing on the server, if there is a server.
pub async fn a_dropped_watch_leaves_nothing(subject: &BackendUnderTest) {
    let bucket = subject.bucket(|_| {}).await;
    let there = bucket.write(put(&key("k"), "v")).await;
    let consumers = async || bucket.consumers().await;
    let unread = bucket.watch(StartFrom::History).await;
    let (mut waiting, _) = bucket.watch_finds(&[Pattern::all()], StartFrom::Newest, false, &[there]).await;
    waiting.expect_idle().await;
    let counted = consumers().await;
    assert!(counted.is_none_or(|count| count >= 1), "the server counts the consumer of the watch: {counted:?}");
    drop(unread);
    drop(waiting);
    let none = async || consumers().await.is_none_or(|count| count == 0).then_some(());
    subject.eventually("no consumer is left", none).await;
}
