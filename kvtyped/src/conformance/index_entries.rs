//! Index entries.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::TryStreamExt;

use super::subject::{BackendUnderTest, Bucket, delete, full_headers, key, put, seconds};
use crate::backend::{
    Deadline, KeySpace, ListKeysRequest, Operation, Precondition, RawEntry, Read, ReadAt, StartFrom, Write,
};
use crate::config::BucketConfig;
use crate::error::{Error, ErrorKind};
use crate::key::{Key, Pattern};
use crate::revision::Revision;

const SPACES: [KeySpace; 2] = [KeySpace::Records, KeySpace::Index];

/// Creates a bucket with index entries.
async fn with_entries(subject: &BackendUnderTest, change: impl FnOnce(&mut BucketConfig)) -> Bucket {
    let bucket = subject.bucket(|config| {
        config.index_entries = Some(true);
        change(config);
    });
    let bucket = bucket.await;
    assert_eq!(bucket.raw.config().index_entries, Some(true), "the bucket stores index entries");
    assert_eq!(bucket.raw.config().irregular, []);
    bucket
}

fn entry(on: &str, value: &str) -> Write {
    Write::index_entry(key(on), value.to_owned().into())
}

fn pattern(text: &str) -> Pattern {
    Pattern::parse(text).expect("a legal filter")
}

impl Bucket {
    async fn entry(&self, on: &str) -> Option<RawEntry> {
        self.entry_at(on, ReadAt::Newest(Read::Leader)).await
    }

    async fn entry_at(&self, on: &str, at: ReadAt) -> Option<RawEntry> {
        let read = self.raw.read(KeySpace::Index, &key(on), at, Deadline::after(self.idle_timeout())).await;
        read.expect("the entry can be read")
    }

    async fn erase_entry(&self, on: &str, through: Revision) -> u64 {
        let erased =
            self.raw.purge_through(KeySpace::Index, &key(on), through, Deadline::after(self.idle_timeout())).await;
        erased.expect("the entry can be erased")
    }

    /// Lists the keys, and compares them with their count.
    async fn list(&self, space: KeySpace, pattern: &Pattern) -> Vec<Key> {
        let idle_timeout = self.idle_timeout();
        let pages = self.raw.list_keys(ListKeysRequest { space, pattern: pattern.clone(), idle_timeout });
        let pages: Vec<Vec<Key>> = pages.try_collect().await.expect("the keys are listed");
        assert!(pages.iter().all(|page| !page.is_empty()), "a page has keys");
        let keys = pages.concat();
        assert!(keys.is_sorted_by(|a, b| a < b), "in order, each once: {keys:?}");
        keys
    }
}

fn texts(keys: &[Key]) -> Vec<&str> {
    keys.iter().map(Key::as_str).collect()
}

/// The same key in two spaces names two entries, and both spaces share one sequence of revisions.
pub async fn key_spaces_are_independent(subject: &BackendUnderTest) {
    let bucket = with_entries(subject, |_| {}).await;
    let record = bucket.write(put(&key("a.b"), "record")).await;
    let first = bucket.write(entry("a.b", "")).await;
    let second = bucket.write(entry("a.b", "claim")).await;
    let deleted = bucket.write(delete(&key("a.b"))).await;
    assert!(record < first && first < second && second < deleted);
    let keys = ["a.b", "c", "a.b", "d", "e"].map(key);
    for read in [Read::Leader, Read::AtLeast(deleted)] {
        let entries = bucket.read_many_of(KeySpace::Index, &keys, read).await;
        let revisions: Vec<_> = entries.iter().map(|entry| entry.as_ref().map(|entry| entry.revision)).collect();
        assert_eq!(revisions, [Some(second), None, Some(second), None, None], "many at once, {read:?}");
        let records = bucket.read_many(&keys, read).await;
        assert!(records[0].as_ref().is_some_and(RawEntry::is_removed), "{read:?}");
    }
    for read in [ReadAt::Newest(Read::Leader), ReadAt::Newest(Read::AtLeast(second)), ReadAt::Revision(second)] {
        let found = bucket.entry_at("a.b", read).await.expect("the entry exists");
        assert_eq!((found.key.as_str(), found.revision, &*found.value), ("a.b", second, &b"claim"[..]), "{read:?}");
        assert_eq!((found.operation, found.id), (Operation::Put, None), "an entry carries no operation id");
    }
    let nearest = async || bucket.entry_at("a.b", ReadAt::Newest(Read::Any)).await.filter(|any| any.revision == second);
    subject.eventually("any server returns the entry", nearest).await;
    assert_eq!(bucket.operation(&key("a.b")).await, Some(Operation::Delete));
    assert_eq!(bucket.entry_at("a.b", ReadAt::Revision(deleted)).await, None, "the revision of a record");
    assert_eq!(bucket.read(&key("a.b"), ReadAt::Revision(second)).await, None, "the revision of an entry");
    assert_eq!(bucket.entry("a").await, None);
}

/// Scans, watches and the status show records only.
pub async fn index_entries_are_no_records(subject: &BackendUnderTest) {
    let bucket = with_entries(subject, |config| config.history = Some(3)).await;
    assert_eq!(bucket.counts().await, (0, Revision::ZERO));
    let first = bucket.write(entry("user.team.core.1", "")).await;
    assert_eq!(bucket.counts().await, (0, first), "the last revision counts entries, the number does not");
    let mut revisions = Vec::new();
    for number in 0..5 {
        revisions.push(bucket.write(put(&key("1"), &number.to_string())).await);
        bucket.write(entry(&format!("user.team.core.{number}"), "")).await;
    }
    revisions.push(bucket.write(put(&key("user.team.core.1"), "a record")).await);
    let last = bucket.write(entry("user.team.core.1", "")).await;
    let kept = revisions.split_off(2);
    let counted = async || (bucket.counts().await == (4, last)).then_some(());
    subject.eventually("the status counts the records", counted).await;
    bucket.scan_finds(&[Pattern::all()], true, &kept).await;
    bucket.scan_finds(&[Pattern::all()], false, &kept[2..]).await;
    bucket.watch_finds(&[Pattern::all()], StartFrom::History, false, &kept).await;
    let (mut watch, _) = bucket.watch_finds(&[Pattern::all()], StartFrom::Newest, false, &kept[2..]).await;
    bucket.write(entry("user.team.core.9", "")).await;
    bucket.erase_entry("user.team.core.1", Revision::new(u64::MAX)).await;
    let next = bucket.write(put(&key("2"), "v")).await;
    assert_eq!(watch.entry().await.revision, next, "a watch shows no entry");
}

/// A watch resumes across index entries, and finds every later record.
pub async fn watch_resumes_across_index_entries(subject: &BackendUnderTest) {
    let bucket = with_entries(subject, |_| {}).await;
    let first = bucket.write(put(&key("a"), "v")).await;
    bucket.write(entry("x", "")).await;
    bucket.write(entry("x", "again")).await;
    bucket.write(entry("y", "")).await;
    let second = bucket.write(put(&key("b"), "v")).await;
    bucket.write(entry("z", "")).await;
    let (watch, _) = bucket.watch_finds(&[Pattern::all()], StartFrom::After(first), false, &[second]).await;
    drop(watch);
    bucket.scan_finds(&[Pattern::all()], false, &[first, second]).await;
}

/// A key of the index has one entry, whatever the history of the bucket.
pub async fn index_entry_has_no_history(subject: &BackendUnderTest) {
    for history in [1, 5] {
        let bucket = with_entries(subject, |config| config.history = Some(history)).await;
        let old = bucket.write(entry("k", "")).await;
        let new = bucket.write(entry("k", "")).await;
        let forgotten = async || bucket.entry_at("k", ReadAt::Revision(old)).await.is_none().then_some(());
        subject.eventually("the old entry is gone", forgotten).await;
        assert_eq!(bucket.erase_entry("k", old).await, 0, "a later entry stays");
        assert_eq!(bucket.entry("k").await.map(|found| found.revision), Some(new));
        assert_eq!(bucket.erase_entry("k", new).await, 1, "the only entry, with a history of {history}");
    }
}

/// An entry does not expire with the records of its bucket.
pub async fn index_entry_outlives_the_ttl(subject: &BackendUnderTest) {
    if !subject.has_key_ttl().await {
        let config = subject.config(|config| {
            config.index_entries = Some(true);
            config.ttl = Some(Duration::from_secs(2));
        });
        let refused = subject.backend().create(config, subject.deadline()).await.expect_err("entries would expire");
        assert!(matches!(refused.kind(), ErrorKind::Unsupported { .. }), "{refused:?}");
        return;
    }
    let bucket = with_entries(subject, |config| {
        config.ttl = Some(Duration::from_secs(2));
        config.limit_markers = Some(Duration::from_secs(1));
    });
    let bucket = bucket.await;
    let plain = bucket.write(entry("user.team.core.1", "")).await;
    let claim = bucket.write(entry("user.email.a", "claim").if_revision(Revision::ZERO)).await;
    bucket.write(put(&key("1"), "v")).await;
    let gone = async || bucket.newest(&key("1")).await.is_none().then_some(());
    subject.eventually("the record and its marker expire", gone).await;
    for (on, revision) in [("user.team.core.1", plain), ("user.email.a", claim)] {
        assert_eq!(bucket.entry(on).await.map(|found| found.revision), Some(revision), "{on} does not expire");
    }
}

/// An entry has no TTL, no record headers and no write epoch, and is never a delete marker.
pub async fn index_entry_is_a_plain_value(subject: &BackendUnderTest) {
    let bucket = with_entries(subject, |_| {}).await;
    let before = bucket.counts().await;
    let marker = Write { space: KeySpace::Index, ..delete(&key("k")) };
    let with_ttl = entry("k", "").with_ttl(Some(seconds(60)));
    let with_headers = entry("k", "").with_headers(full_headers());
    for write in [marker, with_ttl, with_headers, entry("k", "").in_epoch(Some(1))] {
        let refused = bucket.refusal(write).await;
        assert!(matches!(refused.kind(), ErrorKind::InvalidConfig { .. }), "{refused:?}");
    }
    assert_eq!(bucket.counts().await, before);
    assert_eq!(bucket.entry("k").await, None);
}

/// A precondition works on the entry itself and, if the server is new enough, across the spaces.
pub async fn precondition_may_name_another_space(subject: &BackendUnderTest) {
    let bucket = with_entries(subject, |_| {}).await;
    let first = bucket.write(entry("c", "1").if_revision(Revision::ZERO)).await;
    for expected in [Revision::ZERO, Revision::new(first.get() + 7)] {
        let refused = bucket.refusal(entry("c", "2").if_revision(expected)).await;
        assert!(refused.is_conflict(), "{refused:?}");
    }
    let second = bucket.write(entry("c", "2").if_revision(first)).await;
    let record = bucket.write(put(&key("r"), "v")).await;
    let on = |space, on: &str, revision| Some(Precondition { space, key: key(on), revision });
    let guarded = Write { precondition: on(KeySpace::Index, "c", second), ..put(&key("r"), "w") };
    if !subject.has_key_ttl().await {
        assert!(matches!(bucket.refusal(guarded).await.kind(), ErrorKind::Unsupported { .. }));
        return;
    }
    let stale = Write { precondition: on(KeySpace::Index, "c", first), ..put(&key("r"), "never") };
    assert!(bucket.refusal(stale).await.is_conflict());
    let other_space = Write { precondition: on(KeySpace::Index, "r", record), ..put(&key("r"), "never") };
    assert!(bucket.refusal(other_space).await.is_conflict(), "the key `r` has no entry in the index");
    let now = bucket.write(guarded).await;
    let by_record = Write { precondition: on(KeySpace::Records, "r", now), ..entry("d", "") };
    bucket.write(by_record).await;
    let stale = Write { precondition: on(KeySpace::Records, "r", record), ..entry("d", "never") };
    assert!(bucket.refusal(stale).await.is_conflict());
    assert_eq!(bucket.entry("d").await.map(|found| found.value), Some("".into()));
}

/// A batch writes entries and then records. Its preconditions may be on either.
pub async fn batch_writes_both_spaces(subject: &BackendUnderTest) {
    if !subject.has_batches().await {
        return;
    }
    for history in [1, 4] {
        let bucket = with_entries(subject, |config| config.history = Some(history)).await;
        let a = key("a");
        let writes = [
            entry("i.x.a", ""),
            entry("claim", "a").if_revision(Revision::ZERO),
            put(&a, "v").if_revision(Revision::ZERO),
        ];
        let revisions = bucket.commit(&writes, &[]).await;
        let [first, claim, record] = revisions[..] else { panic!("three revisions: {revisions:?}") };
        assert_eq!((claim.get(), record.get()), (first.get() + 1, first.get() + 2), "in the order of the writes");
        for (on, revision) in [("i.x.a", first), ("claim", claim)] {
            assert_eq!(bucket.entry(on).await.map(|found| (found.revision, found.id)), Some((revision, None)));
        }
        assert_eq!(bucket.newest(&a).await.map(|found| found.revision), Some(record));
        // One stale precondition refuses everything, in either space.
        let of_claim = |revision| {
            [entry("i.y.a", ""), entry("claim", "b").if_revision(revision), put(&a, "w").if_revision(record)]
        };
        bucket.refusal_of_batch(&of_claim(first), &[]).await;
        let stale = [entry("i.y.a", ""), put(&a, "w").if_revision(first)];
        assert!(bucket.refusal_of_batch(&stale, &[]).await.is_conflict());
        let check = |space, on: &str, revision| Precondition { space, key: key(on), revision };
        let checks = [check(KeySpace::Index, "claim", first), check(KeySpace::Records, "b", Revision::ZERO)];
        assert!(bucket.refusal_of_batch(&[entry("i.y.a", ""), put(&a, "w")], &checks).await.is_conflict());
        assert_eq!(bucket.entry("i.y.a").await, None);
        let checks = [check(KeySpace::Index, "claim", claim), check(KeySpace::Records, "b", Revision::ZERO)];
        bucket.commit(&[entry("i.y.a", ""), put(&a, "w")], &checks).await;
        let last = bucket
            .commit(
                &of_claim(claim).map(|write| match write.is_index_entry() {
                    true => write,
                    false => put(&a, "x"),
                }),
                &[],
            )
            .await[2];
        assert_eq!(bucket.newest(&a).await.map(|found| found.revision), Some(last));
        bucket.commit(&[], &checks[1..]).await;
        for writes in [vec![put(&a, "v"), entry("z", "")], vec![entry("y", ""), entry("z", "")]] {
            let refused = bucket.refusal_of_batch(&writes, &[]).await;
            assert!(matches!(refused.kind(), ErrorKind::InvalidBatch { .. }), "{refused:?}");
        }
    }
}

/// An erase removes an entry up to a revision, and leaves no marker.
pub async fn erased_index_entry_leaves_nothing(subject: &BackendUnderTest) {
    let bucket = with_entries(subject, |_| {}).await;
    let record = bucket.write(put(&key("k"), "v")).await;
    let old = bucket.write(entry("k", "")).await;
    let new = bucket.write(entry("k", "")).await;
    assert_eq!(bucket.erase_entry("k", old).await, 0, "a later entry replaced it");
    assert_eq!(bucket.entry("k").await.map(|found| found.revision), Some(new));
    assert_eq!(bucket.erase_entry("k", new).await, 1);
    assert_eq!(bucket.entry("k").await, None);
    assert_eq!(bucket.list(KeySpace::Index, &Pattern::all()).await, []);
    assert_eq!(bucket.erase_entry("k", new).await, 0, "a repeated erase");
    assert_eq!(bucket.newest(&key("k")).await.map(|found| found.revision), Some(record), "the record stays");
    let again = bucket.write(entry("k", "").if_revision(Revision::ZERO)).await;
    assert_eq!(bucket.erase(&key("k"), again).await, 1, "an erase of the record");
    assert_eq!(bucket.entry("k").await.map(|found| found.revision), Some(again), "the entry stays");
}

/// A listing returns the keys that match, in the order of their bytes.
pub async fn listing_returns_keys_in_order(subject: &BackendUnderTest) {
    let bucket = with_entries(subject, |_| {}).await;
    for space in SPACES {
        assert_eq!(bucket.list(space, &Pattern::all()).await, []);
        for on in ["t.red.1", "t.red.0", "t.red-x.1", "t.blue.1", "t.red", "u.red.1", "t.red.1.x", "=w", "t.red.10"] {
            bucket.write(Write { space, ..put(&key(on), "v") }).await;
        }
    }
    bucket.write(delete(&key("t.red.0"))).await;
    let all = ["=w", "t.blue.1", "t.red", "t.red-x.1", "t.red.0", "t.red.1", "t.red.1.x", "t.red.10", "u.red.1"];
    let cases: [(Pattern, Vec<&str>); 7] = [
        (Pattern::all(), all.to_vec()),
        (pattern("t.red.*"), vec!["t.red.0", "t.red.1", "t.red.10"]),
        (pattern("t.red.>"), vec!["t.red.0", "t.red.1", "t.red.1.x", "t.red.10"]),
        (pattern("t.*.1"), vec!["t.blue.1", "t.red-x.1", "t.red.1"]),
        (pattern("t.red"), vec!["t.red"]),
        (Pattern::new().literal("t").literal("red").segment::<String>(None, "1", ""), vec!["t.red.10"]),
        (pattern("none.>"), vec![]),
    ];
    for space in SPACES {
        for (pattern, wanted) in &cases {
            assert_eq!(texts(&bucket.list(space, pattern).await), *wanted, "{pattern} in {space:?}");
        }
    }
}

/// A listing during writes returns each key once that exists throughout.
pub async fn listing_survives_changes(subject: &BackendUnderTest) {
    const KEYS: usize = 700;
    let bucket = with_entries(subject, |_| {}).await;
    let names: Vec<_> = (0..KEYS).map(|number| format!("i.{number:04}")).collect();
    for name in &names {
        bucket.write(entry(name, "")).await;
    }
    let changes = async {
        for number in (0..KEYS).step_by(7) {
            bucket.erase_entry(&names[number], Revision::new(u64::MAX)).await;
            bucket.write(entry(&format!("{}.more", names[number]), "")).await;
        }
    };
    let listings = async {
        for _ in 0..10 {
            let found: BTreeSet<_> = bucket.list(KeySpace::Index, &pattern("i.>")).await.into_iter().collect();
            for stays in (0..KEYS).filter(|number| !number.is_multiple_of(7)) {
                assert!(found.contains(&key(&names[stays])), "{} is listed", names[stays]);
            }
        }
    };
    futures::join!(changes, listings);
    assert_eq!(bucket.list(KeySpace::Index, &pattern("i.*.more")).await.len(), KEYS / 7);
}

/// A count is the number of listed keys.
pub async fn count_matches_the_listing(subject: &BackendUnderTest) {
    let bucket = with_entries(subject, |_| {}).await;
    for number in 0..30 {
        for space in SPACES {
            bucket.write(Write { space, ..put(&key(&format!("t.{}.{number}", number % 3)), "v") }).await;
        }
    }
    bucket.erase_entry("t.0.0", Revision::new(u64::MAX)).await;
    for (space, text, wanted) in [
        (KeySpace::Index, ">", 29),
        (KeySpace::Index, "t.0.>", 9),
        (KeySpace::Index, "t.*.7", 1),
        (KeySpace::Index, "t.9.>", 0),
        (KeySpace::Records, "t.0.*", 10),
    ] {
        let pattern = pattern(text);
        let count = bucket.raw.count_keys(space, &pattern, subject.deadline()).await.expect("the keys are counted");
        assert_eq!((count, bucket.list(space, &pattern).await.len()), (wanted, wanted as usize), "{text} in {space:?}");
    }
}

async fn update(
    subject: &BackendUnderTest,
    bucket: &Bucket,
    change: impl FnOnce(&mut BucketConfig),
) -> Result<BucketConfig, Error> {
    let mut wanted = BucketConfig::new(&bucket.raw.config().name);
    change(&mut wanted);
    Ok(subject.backend().update(wanted, subject.deadline()).await?.config().clone())
}

/// An entry needs the setting of the bucket. An update adds the setting and does not remove it.
pub async fn index_entries_need_the_setting(subject: &BackendUnderTest) {
    let plain = subject.bucket(|_| {}).await;
    assert_eq!(plain.raw.config().index_entries, Some(false));
    let refused = plain.refusal(entry("k", "")).await;
    assert!(matches!(refused.kind(), ErrorKind::Unsupported { .. }), "{refused:?}");
    let record = plain.write(put(&key("k"), "v")).await;
    let updated =
        update(subject, &plain, |config| config.index_entries = Some(true)).await.expect("the setting is added");
    assert_eq!((updated.index_entries, updated.irregular), (Some(true), vec![]));
    let name = &plain.raw.config().name;
    let opened = subject.backend().open(name, subject.deadline()).await.expect("open answers").expect("it exists");
    assert_eq!(opened.config().index_entries, Some(true));
    opened.write(entry("k", ""), subject.deadline()).await.expect("an entry is written");
    assert_eq!(plain.newest(&key("k")).await.map(|found| found.revision), Some(record), "the record stays");
    let refused = update(subject, &plain, |config| config.index_entries = Some(false)).await.expect_err("it stays on");
    assert!(matches!(refused.kind(), ErrorKind::InvalidConfig { .. }), "{refused:?}");
    let kept = update(subject, &plain, |config| config.description = Some("x".into())).await.expect("another setting");
    assert_eq!(kept.index_entries, Some(true));
}

/// A bucket with a TTL needs limit markers for its entries, and no TTL is added to a bucket with entries.
pub async fn ttl_of_bucket_with_index_needs_limit_markers(subject: &BackendUnderTest) {
    let ttl = Some(Duration::from_secs(3_600));
    let config = subject.config(|config| {
        (config.index_entries, config.ttl) = (Some(true), ttl);
        config.limit_markers = Some(Duration::ZERO);
    });
    subject.backend().create(config, subject.deadline()).await.expect_err("entries would expire");
    let entries = with_entries(subject, |_| {}).await;
    let refused = update(subject, &entries, |config| config.ttl = ttl).await.expect_err("entries would expire");
    assert!(matches!(refused.kind(), ErrorKind::InvalidConfig { .. }), "{refused:?}");
    if !subject.has_key_ttl().await {
        return;
    }
    let both = with_entries(subject, |config| config.ttl = ttl).await;
    assert!(both.raw.config().limit_markers.is_some(), "markers by default");
    let off = update(subject, &both, |config| config.limit_markers = Some(Duration::ZERO)).await;
    assert!(matches!(off.expect_err("entries would expire").kind(), ErrorKind::InvalidConfig { .. }));
}
