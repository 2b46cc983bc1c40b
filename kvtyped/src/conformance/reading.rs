//! Reading.

use std::collections::{BTreeMap, BTreeSet};

use futures::stream::{self, StreamExt};

use super::subject::{BackendUnderTest, delete, full_headers, key, overlapping_patterns, purge, put};
use crate::backend::{Operation, Read, ReadAt, RecordHeaders, ScanRequest, StartFrom};
use crate::key::{Key, Pattern};
use crate::revision::Revision;

/// A read returns the newest entry of a key, which may be a delete marker, or `None` if the key has no entry.
pub async fn read_returns_newest_entry(subject: &BackendUnderTest) {
    let bucket = subject.bucket(|config| config.history = Some(3)).await;
    let k = key("a.b");
    // Neither a prefix of the key nor an extension of it is the key.
    for other in ["a", "a.b.c", "a.bb"] {
        bucket.write(put(&key(other), "other")).await;
    }
    for read in [Read::Any, Read::Leader] {
        assert_eq!(bucket.read(&k, ReadAt::Newest(read)).await, None, "{read:?}");
    }
    let mut created = None;
    for (write, operation) in [
        (put(&k, "first"), Operation::Put),
        (put(&k, "second"), Operation::Put),
        (delete(&k), Operation::Delete),
        (put(&k, "third"), Operation::Put),
        (purge(&k), Operation::Purge),
    ] {
        let revision = bucket.write(write.clone()).await;
        let entry = bucket.newest(&k).await.expect("the record exists");
        let found = (&entry.key, entry.revision, &entry.operation, &*entry.value);
        assert_eq!(found, (&k, revision, &operation, write.value()), "{write:?}");
        assert!(created <= Some(entry.created), "{entry:?} was created after {created:?}");
        created = Some(entry.created);
        let nearest = async || bucket.read(&k, ReadAt::Newest(Read::Any)).await.filter(|any| any.revision == revision);
        assert_eq!(
            subject.eventually("any server returns the entry", nearest).await,
            entry,
            "every read returns the same entry"
        );
    }
}

/// A read at a revision returns the entry with that revision, if it is kept and belongs to the key.
pub async fn read_at_revision_ignores_other_keys(subject: &BackendUnderTest) {
    let bucket = subject.bucket(|config| config.history = Some(2)).await;
    let (k, other) = (key("k"), key("k.other"));
    let dropped = bucket.write(put(&k, "dropped")).await;
    let first = bucket.write(put(&k, "first")).await;
    let foreign = bucket.write(put(&other, "foreign")).await;
    let last = bucket.write(delete(&k)).await;
    for (on, revision, operation) in
        [(&k, first, Operation::Put), (&k, last, Operation::Delete), (&other, foreign, Operation::Put)]
    {
        let what = format!("revision {revision} of {on:?} is read");
        let entry = subject.eventually(&what, async || bucket.read(on, ReadAt::Revision(revision)).await).await;
        assert_eq!((&entry.key, entry.revision, entry.operation), (on, revision, operation));
    }
    // Now every server that was asked has all entries. A revision of another key is never found.
    let unwritten = Revision::new(last.get() + 1);
    for (on, revision) in [(&k, foreign), (&other, first), (&k, unwritten), (&k, Revision::ZERO)] {
        assert_eq!(bucket.read(on, ReadAt::Revision(revision)).await, None, "revision {revision} of {on:?}");
    }
    let forgotten = async || bucket.read(&k, ReadAt::Revision(dropped)).await.is_none().then_some(());
    subject.eventually("a read does not find a trimmed revision", forgotten).await;
}

/// A leader read, and a read of at least the revision that a write returned, see that write.
pub async fn leader_read_sees_acknowledged_writes(subject: &BackendUnderTest) {
    let bucket = subject.bucket(|_| {}).await;
    for number in 0..100 {
        let k = key(&format!("k{}", number % 3));
        let write = if number % 10 == 9 { delete(&k) } else { put(&k, &format!("{number}")) };
        let revision = bucket.write(write).await;
        for read in [Read::Leader, Read::AtLeast(revision)] {
            let found = bucket.read(&k, ReadAt::Newest(read)).await.map(|entry| entry.revision);
            assert_eq!(found, Some(revision), "{read:?} of {k:?} after write {number}");
        }
    }
    // `None` is a fresh answer, too: the revision belongs to another key.
    let last = bucket.write(put(&key("other"), "v")).await;
    assert_eq!(bucket.read(&key("never"), ReadAt::Newest(Read::AtLeast(last))).await, None);
}

/// A read of many keys returns for each key the result of a single read, in the order of the keys, repeated keys
/// included.
pub async fn read_many_matches_single_reads(subject: &BackendUnderTest) {
    let bucket = subject.bucket(|config| config.history = Some(3)).await;
    let keys = ["full", "empty", "deleted", "purged", "missing", "a", "a.b", "again"].map(key);
    let [full, empty, deleted, purged, _, a, _, again] = &keys;
    for write in [put(full, "1"), put(deleted, "1"), put(empty, ""), put(purged, "1"), delete(deleted), put(a, "1")] {
        bucket.write(write).await;
    }
    bucket.write(purge(purged)).await;
    bucket.write(put(again, "2")).await;
    let last = bucket.write(put(full, "2")).await;
    for asked in
        [vec![], vec![4], vec![4, 4, 4, 6, 6], vec![0, 1], vec![0, 1, 2, 3, 4, 5, 6, 7], vec![7, 4, 0, 2, 0, 7, 1, 4]]
    {
        let asked: Vec<_> = asked.into_iter().map(|at: usize| keys[at].clone()).collect();
        let mut single = Vec::new();
        for k in &asked {
            single.push(bucket.newest(k).await);
        }
        for read in [Read::Leader, Read::AtLeast(last)] {
            assert_eq!(bucket.read_many(&asked, read).await, single, "{read:?} of {asked:?}");
        }
        let nearest = async || (bucket.read_many(&asked, Read::Any).await == single).then_some(());
        subject.eventually(&format!("any server returns {asked:?}"), nearest).await;
    }
}

/// A read of many keys has no limit on the number of keys or bytes.
pub async fn read_many_has_no_size_limit(subject: &BackendUnderTest) {
    const KEYS: usize = 3_300;
    let bucket = subject.bucket(|_| {}).await;
    // The names are long, so that one request holds few of them. Every third key has no entry.
    let long = "x".repeat(700);
    let keys: Vec<_> = (0..KEYS).map(|number| key(&format!("{number}.{long}"))).collect();
    let write = |number: usize| bucket.write(put(&keys[number], &format!("{number}")));
    let written: Vec<_> =
        stream::iter((0..KEYS).filter(|number| number % 3 > 0)).map(write).buffered(64).collect().await;
    let last = *written.last().expect("at least one entry was written");
    let found = bucket.read_many(&keys, Read::AtLeast(last)).await;
    let mut written = written.into_iter();
    for (number, entry) in found.into_iter().enumerate() {
        let wanted = (number % 3 > 0).then(|| (keys[number].clone(), written.next().expect("written")));
        assert_eq!(entry.map(|entry| (entry.key, entry.revision)), wanted, "key {number}");
    }

    // More bytes than a server sends at once.
    let value = "v".repeat(512 * 1024);
    let large: Vec<_> = (0..40).map(|number| key(&format!("large.{number}"))).collect();
    for k in &large {
        bucket.write(put(k, &value)).await;
    }
    let found = bucket.read_many(&large, Read::Leader).await;
    assert!(found.iter().flatten().all(|entry| entry.value.len() == value.len()), "each value is complete");
    let found: Vec<_> = found.into_iter().flatten().map(|entry| entry.key).collect();
    assert_eq!(found, large);
}

/// A leader read of many keys, and a read of at least a revision, see every acknowledged write.
pub async fn leader_read_many_sees_acknowledged_writes(subject: &BackendUnderTest) {
    const KEYS: usize = 12;
    let bucket = subject.bucket(|_| {}).await;
    let keys: Vec<_> = (0..KEYS).map(|number| key(&format!("k{number}"))).collect();
    let mut newest = vec![None; KEYS];
    for number in 0..100 {
        let at = number * 7 % KEYS;
        let write = if number % 10 == 9 { delete(&keys[at]) } else { put(&keys[at], &format!("{number}")) };
        let revision = bucket.write(write).await;
        newest[at] = Some(revision);
        for read in [Read::Leader, Read::AtLeast(revision)] {
            let found = bucket.read_many(&keys, read).await;
            let found: Vec<_> = found.into_iter().map(|entry| entry.map(|entry| entry.revision)).collect();
            assert_eq!(found, newest, "{read:?} after write {number}");
        }
    }
    // `None` is a fresh answer, too: the revision belongs to another key.
    let last = bucket.write(put(&key("other"), "v")).await;
    let never: Vec<_> = (0..KEYS).map(|number| key(&format!("never{number}"))).collect();
    for read in [Read::Leader, Read::AtLeast(last)] {
        assert_eq!(bucket.read_many(&never, read).await, vec![None; KEYS], "{read:?}");
    }
}

/// Without concurrent writes, a scan returns each key once, with its value or marker, in the order of revisions.
pub async fn scan_yields_each_key_once(subject: &BackendUnderTest) {
    let bucket = subject.bucket(|config| config.history = Some(3)).await;
    let keys = ["d", "c", "b", "a", "e.f"].map(key);
    for k in &keys {
        bucket.write(put(k, "first")).await;
    }
    let mut newest = Vec::new();
    for (number, k) in keys.iter().enumerate() {
        newest.push(bucket.write(if number % 2 == 0 { put(k, "") } else { delete(k) }).await);
    }
    newest.push(bucket.write(purge(&key("never"))).await);
    let scanned = bucket.scan_finds(&[Pattern::all()], false, &newest).await;
    for entry in scanned {
        let read = bucket.newest(&entry.key).await;
        assert_eq!(read, Some(entry), "a scan and a read return the same entry");
    }
}

/// A key that is written during a scan moves to its new revision. It may be returned twice, and is never missed.
pub async fn scan_misses_no_key_during_writes(subject: &BackendUnderTest) {
    const KEYS: usize = 600;
    for history in [1, 3] {
        let bucket = subject.bucket(|config| config.history = Some(history)).await;
        let keys: Vec<_> = (0..KEYS).map(|number| key(&format!("k.{number}"))).collect();
        let write = |number: usize, value: &'static str| bucket.write(put(&keys[number], value));
        let first = stream::iter(0..KEYS).map(|number| write(number, "old")).buffer_unordered(64);
        let first: BTreeSet<_> = first.collect().await;
        bucket.scan_finds(&[Pattern::all()], false, &first.into_iter().collect::<Vec<_>>()).await;
        let mut scan = bucket.raw.scan(bucket.scan_of(&[Pattern::all()]));
        let mut given = BTreeMap::new();
        let mut last = Revision::ZERO;
        let mut taken = 0;
        while let Some(scanned) = scan.next().await {
            let entry = scanned.expect("the scan has no error").entry;
            assert!(entry.revision > last, "{} comes after {last}", entry.revision);
            last = entry.revision;
            given.insert(entry.key.clone(), entry.revision);
            taken += 1;
            if taken == 10 {
                // Some keys that were returned, some that were not yet, and a new one.
                for number in [0, 1, 2, KEYS / 2, KEYS - 2, KEYS - 1] {
                    write(number, "new").await;
                }
                bucket.write(delete(&keys[KEYS - 3])).await;
                bucket.write(put(&key("k.late"), "new")).await;
            }
        }
        let missing: Vec<_> = keys.iter().filter(|key| !given.contains_key(key)).collect();
        assert_eq!(missing, Vec::<&Key>::new(), "with a history of {history}, of {taken}");
    }
}

/// A scan after a revision returns the entries with later revisions.
pub async fn scan_after_revision_yields_later_entries(subject: &BackendUnderTest) {
    for history in [1, 3] {
        let bucket = subject.bucket(|config| config.history = Some(history)).await;
        let (a, b, c) = (key("a"), key("b"), key("x.c"));
        let mut revisions = Vec::new();
        for write in [put(&a, "1"), put(&b, "1"), put(&c, "1"), put(&a, "2"), delete(&b), put(&a, "3")] {
            revisions.push(bucket.write(write).await);
        }
        let newest = [revisions[2], revisions[4], revisions[5]];
        let kept = if history == 1 { &newest[..] } else { &revisions[..] };
        bucket.scan_finds(&[Pattern::all()], true, kept).await;
        for after in [Revision::ZERO].into_iter().chain(revisions.clone()) {
            for (is_history, there) in [(false, &newest[..]), (true, kept)] {
                let wanted: Vec<_> = there.iter().copied().filter(|revision| *revision > after).collect();
                let what = format!("after {after} there are {wanted:?} (history: {is_history})");
                let scan = || ScanRequest { after, history: is_history, ..bucket.scan_of(&[Pattern::all()]) };
                let found = async || {
                    let entries = bucket.scan_as(scan()).await;
                    entries.iter().map(|entry| entry.revision).eq(wanted.iter().copied()).then_some(())
                };
                subject.eventually(&what, found).await;
            }
        }
    }
}

/// Each entry of a scan carries the number of entries that follow it.
pub async fn scan_reports_pending_count(subject: &BackendUnderTest) {
    const KEYS: u64 = 300;
    let bucket = subject.bucket(|_| {}).await;
    let mut revisions = Vec::new();
    for number in 0..KEYS {
        revisions.push(bucket.write(put(&key(&format!("k.{number}")), "v")).await);
    }
    bucket.scan_finds(&[Pattern::all()], false, &revisions).await;
    let found: Vec<_> = bucket.raw.scan(bucket.scan_of(&[Pattern::all()])).collect().await;
    let pending = found.into_iter().map(|scanned| scanned.expect("the scan has no error").pending);
    assert!(pending.eq((0..KEYS).rev()), "the pending count reaches zero");
}

/// A dropped scan leaves nothing on the server, if there is a server.
pub async fn dropped_scan_leaves_no_consumer(subject: &BackendUnderTest) {
    let bucket = subject.bucket(|_| {}).await;
    for number in 0..50 {
        bucket.write(put(&key(&format!("k.{number}")), "v")).await;
    }
    for wanted in [None, Some(1)] {
        let mut scan = bucket.raw.scan(ScanRequest { limit: wanted, ..bucket.scan_of(&[Pattern::all()]) });
        assert!(scan.next().await.is_some_and(|scanned| scanned.is_ok()));
        let unread = bucket.raw.scan(bucket.scan_of(&[Pattern::all()]));
        drop((scan, unread));
        let none = async || bucket.consumers().await.is_none_or(|count| count == 0).then_some(());
        subject.eventually("no consumer is left", none).await;
    }
}

/// A scan ends, also if nothing matches.
pub async fn scan_without_matches_ends(subject: &BackendUnderTest) {
    let bucket = subject.bucket(|config| config.history = Some(3)).await;
    let nothing = Pattern::new().literal("nothing");
    for history in [false, true] {
        assert_eq!(bucket.scan(&[Pattern::all()], history, false).await, [], "a scan of an empty bucket");
    }
    bucket.write(put(&key("something"), "v")).await;
    for history in [false, true] {
        assert_eq!(bucket.scan(std::slice::from_ref(&nothing), history, false).await, [], "a scan without matches");
        assert_eq!(bucket.scan(&[], history, false).await, [], "a scan without patterns");
    }
    bucket.write(purge(&key("nothing"))).await;
    subject
        .eventually("a scan includes markers", async || {
            (!bucket.scan(std::slice::from_ref(&nothing), true, false).await.is_empty()).then_some(())
        })
        .await;
}

/// A scan of the history returns every kept entry.
pub async fn scan_of_history_yields_every_entry(subject: &BackendUnderTest) {
    let bucket = subject.bucket(|config| config.history = Some(3)).await;
    let (a, b) = (key("a"), key("b"));
    let mut kept = Vec::new();
    for write in [put(&a, "dropped"), put(&a, "1"), put(&b, "1"), delete(&a), put(&b, ""), put(&a, "2")] {
        kept.push((write.key.clone(), bucket.write(write).await));
    }
    kept.remove(0);
    let revisions = |of: &[_]| -> Vec<_> {
        kept.iter().filter(|(key, _)| of.contains(key)).map(|(_, revision)| *revision).collect()
    };
    bucket.scan_finds(&[Pattern::all()], true, &revisions(&[a.clone(), b.clone()])).await;
    bucket.scan_finds(&[Pattern::exact(&a)], true, &revisions(&[a])).await;
}

/// A scan returns each entry that matches at least one pattern once, even if patterns overlap.
pub async fn scan_yields_only_matching_entries(subject: &BackendUnderTest) {
    let bucket = subject.bucket(|_| {}).await;
    let (names, cases) = overlapping_patterns();
    let mut written = Vec::new();
    for name in names {
        written.push((*name, bucket.write(put(&key(name), "v")).await));
    }
    for (patterns, wanted) in cases {
        let wanted: Vec<_> = written.iter().filter(|(name, _)| wanted.contains(name)).map(|(_, at)| *at).collect();
        bucket.scan_finds(&patterns, false, &wanted).await;
        bucket.scan_finds(&patterns, true, &wanted).await;
    }
}

/// A scan of headers omits the values.
pub async fn scan_of_headers_omits_values(subject: &BackendUnderTest) {
    let bucket = subject.bucket(|config| config.history = Some(2)).await;
    let (a, b) = (key("a"), key("b"));
    let revisions = [
        bucket.write(put(&a, "a value")).await,
        bucket.write(put(&b, "a value")).await,
        bucket.write(delete(&a)).await,
    ];
    for (history, wanted) in [(true, &revisions[..]), (false, &revisions[1..])] {
        let full = bucket.scan_finds(&[Pattern::all()], history, wanted).await;
        let expected: Vec<_> =
            full.into_iter().map(|entry| crate::backend::RawEntry { value: bytes::Bytes::new(), ..entry }).collect();
        subject
            .eventually(&format!("a scan of headers gives {expected:?}"), async || {
                (bucket.scan(&[Pattern::all()], history, true).await == expected).then_some(())
            })
            .await;
    }
}

/// A scan of headers returns the record headers, and so does a watch of headers.
pub async fn header_scan_returns_record_headers(subject: &BackendUnderTest) {
    let bucket = subject.bucket(|_| {}).await;
    let (versioned, plain) = (key("versioned"), key("plain"));
    let there =
        [bucket.write(put(&versioned, "v").with_headers(full_headers())).await, bucket.write(put(&plain, "v")).await];
    let wanted = [full_headers(), RecordHeaders::default()];
    subject
        .eventually("a scan of headers returns the record headers", async || {
            let scanned = bucket.scan(&[Pattern::all()], false, true).await;
            (scanned.iter().map(|entry| &entry.headers).eq(&wanted)).then_some(())
        })
        .await;
    let (_, watched) = bucket.watch_finds(&[Pattern::all()], StartFrom::Newest, true, &there).await;
    assert!(watched.iter().map(|entry| &entry.headers).eq(&wanted), "{watched:?}");
}

/// A scan has no limit on the number of keys: it returns more than a server sends in one response (1,024).
pub async fn scan_of_many_keys_is_complete(subject: &BackendUnderTest) {
    const KEYS: usize = 1_300;
    let bucket = subject.bucket(|_| {}).await;
    let write = |number: usize| bucket.write(put(&key(&format!("{}.{number}", number % 2)), "v"));
    let revisions: BTreeSet<_> = stream::iter(0..KEYS).map(write).buffer_unordered(64).collect().await;
    let revisions: Vec<_> = revisions.into_iter().collect();
    assert_eq!(revisions.len(), KEYS, "each write has a unique revision");
    bucket.scan_finds(&[Pattern::all()], false, &revisions).await;
    let exact: Vec<_> = (0..KEYS).map(|number| Pattern::exact(&key(&format!("{}.{number}", number % 2)))).collect();
    bucket.scan_finds(&exact, false, &revisions).await;
}
