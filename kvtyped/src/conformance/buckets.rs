//! Buckets.

use std::time::{Duration, SystemTime};

use super::subject::{BackendUnderTest, delete, key, purge, put};
use crate::backend::{ClockReading, KeySpace, ReadAt};
use crate::config::{BucketConfig, Storage};
use crate::error::{ErrorKind, Outcome};
use crate::revision::Revision;

/// Asserts that `found` has every setting of `wanted`.
fn assert_config(wanted: &BucketConfig, found: &BucketConfig, whose: &str) {
    assert_eq!(found.name, wanted.name, "{whose}");
    assert_eq!(wanted.differences(found), [], "{whose}: {found:?}");
}

/// Returns a configuration with as many settings as any backend supports.
async fn rich(subject: &BackendUnderTest) -> BucketConfig {
    let key_ttl = subject.has_key_ttl().await;
    subject.config(|config| {
        config.history = Some(5);
        config.ttl = Some(Duration::from_millis(3_600_500));
        config.max_value_size = Some(4096);
        config.max_bytes = Some(100_000);
        config.compression = Some(true);
        config.description = Some("what it is for: \"a test\"".into());
        config.metadata = [("owner".into(), "ada".into()), ("stage".into(), "test".into())].into();
        config.limit_markers = key_ttl.then_some(Duration::from_secs(60));
    })
}

/// `create` refuses a name that is taken.
pub async fn create_of_existing_bucket_is_refused(subject: &BackendUnderTest) {
    let bucket = subject.bucket(|config| config.history = Some(2)).await;
    let revision = bucket.write(put(&key("k"), "v")).await;
    let same = bucket.raw.config().clone();
    let mut other = same.clone();
    other.history = Some(3);
    let mut short = BucketConfig::new(&same.name);
    short.replicas = same.replicas;
    for again in [same.clone(), other, short] {
        let refused = match subject.backend().create(again.clone(), subject.deadline()).await {
            Ok(_) => panic!("{again:?} is created again"),
            Err(error) => error,
        };
        assert!(matches!(refused.kind(), ErrorKind::BucketExists), "{refused:?}");
    }
    assert_eq!(bucket.newest(&key("k")).await.map(|entry| entry.revision), Some(revision), "the record is unchanged");
    let found = subject.backend().open(&same.name, subject.deadline()).await.expect("open answers");
    assert_config(&same, found.expect("the bucket exists").config(), "the bucket is unchanged");
}

/// `open` returns `None` if the bucket does not exist.
pub async fn missing_bucket_is_not_found(subject: &BackendUnderTest) {
    let config = subject.config(|_| {});
    let (backend, name) = (subject.backend(), config.name.clone());
    assert!(backend.open(&name, subject.deadline()).await.expect("open answers").is_none());
    assert!(!backend.delete(&name, subject.deadline()).await.expect("delete answers"), "the bucket did not exist");
    assert!(!backend.names(subject.deadline()).await.expect("names answers").contains(&name));
    match backend.update(config, subject.deadline()).await {
        Ok(bucket) => panic!("{bucket:?} did not exist"),
        Err(error) => assert!(matches!(error.kind(), ErrorKind::BucketNotFound), "{error:?}"),
    }
    assert!(
        backend.open(&name, subject.deadline()).await.expect("open answers").is_none(),
        "an update creates no bucket"
    );
}

/// `delete` returns whether the bucket existed. A deleted bucket refuses writes and has no status.
pub async fn deleted_bucket_is_gone(subject: &BackendUnderTest) {
    let bucket = subject.bucket(|_| {}).await;
    let backend = subject.backend();
    let config = bucket.raw.config().clone();
    let first = bucket.write(put(&key("k"), "v")).await;
    assert!(backend.delete(&config.name, subject.deadline()).await.expect("delete answers"), "the bucket existed");
    assert!(
        !backend.delete(&config.name, subject.deadline()).await.expect("delete answers"),
        "the bucket did not exist"
    );
    assert!(backend.open(&config.name, subject.deadline()).await.expect("open answers").is_none());
    // The servers of a cluster may learn of the deletion a moment later.
    let refused = async || bucket.try_write(put(&key("k"), "too late")).await.err();
    let error = subject.eventually("a write is refused", refused).await;
    assert_eq!(error.outcome(), Outcome::NotApplied, "{error:?}");
    let error = bucket.raw.status(subject.deadline()).await.expect_err("a deleted bucket has no status");
    assert!(matches!(error.kind(), ErrorKind::BucketNotFound), "{error:?}");

    // A new bucket of the same name has no entry of the first one.
    let mut again = BucketConfig::new(&config.name);
    (again.replicas, again.storage) = (config.replicas, config.storage);
    backend.create(again, subject.deadline()).await.expect("the name is free");
    let found = backend.open(&config.name, subject.deadline()).await.expect("open answers").expect("the bucket exists");
    let status = found.status(subject.deadline()).await.expect("the bucket has a status");
    assert_eq!((status.values, status.last_revision), (0, Revision::ZERO));
    let revision = found.write(put(&key("k"), "v").if_revision(Revision::ZERO), subject.deadline()).await;
    assert_eq!(revision.expect("there is no entry"), first, "revisions start again");
}

/// A handle returns the creation time of its bucket, also after another bucket has taken the name.
pub async fn handle_keeps_identity_of_its_bucket(subject: &BackendUnderTest) {
    let bucket = subject.bucket(|_| {}).await;
    let backend = subject.backend();
    let name = bucket.raw.config().name.clone();
    let first = bucket.raw.identity();
    let status = bucket.raw.status(subject.deadline()).await.expect("the bucket has a status");
    assert_eq!(first.created, status.created);
    let again = backend.open(&name, subject.deadline()).await.expect("open answers").expect("the bucket exists");
    assert_eq!(again.identity().created, first.created, "the same bucket");

    assert!(backend.delete(&name, subject.deadline()).await.expect("delete answers"), "the bucket existed");
    let mut config = BucketConfig::new(&name);
    config.replicas = bucket.raw.config().replicas;
    let other = backend.create(config, subject.deadline()).await.expect("the name is free");
    assert_ne!(other.identity().created, first.created, "another bucket");
    assert_eq!(bucket.raw.identity().created, first.created, "a handle keeps the identity of its bucket");
}

/// A configuration that no server accepts fails with `InvalidConfig`, and creates or changes nothing.
pub async fn invalid_setting_is_refused(subject: &BackendUnderTest) {
    let wrongs: [fn(&mut BucketConfig); 4] = [
        |config| config.history = Some(65),
        |config| config.ttl = Some(Duration::from_millis(1)),
        |config| config.max_value_size = Some(0),
        |config| config.name = "not.a.name".into(),
    ];
    for wrong in wrongs {
        let config = subject.config(wrong);
        match subject.backend().create(config.clone(), subject.deadline()).await {
            Ok(_) => panic!("{config:?} is created"),
            Err(error) => assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error:?}"),
        }
        assert!(!subject.backend().names(subject.deadline()).await.expect("names answers").contains(&config.name));
    }
    let bucket = subject.bucket(|_| {}).await;
    let config = bucket.raw.config();
    let mut change = BucketConfig::new(&config.name);
    change.storage = Some(if config.storage == Some(Storage::File) { Storage::Memory } else { Storage::File });
    match subject.backend().update(change, subject.deadline()).await {
        Ok(bucket) => panic!("the storage changed: {bucket:?}"),
        Err(error) => assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error:?}"),
    }
}

/// A handle returns the complete configuration of its bucket with the requested settings.
pub async fn handle_returns_complete_configuration(subject: &BackendUnderTest) {
    let key_ttl = subject.has_key_ttl().await;
    for wanted in [rich(subject).await, subject.config(|_| {})] {
        let created =
            subject.backend().create(wanted.clone(), subject.deadline()).await.expect("the configuration is valid");
        let opened = subject.backend().open(&wanted.name, subject.deadline()).await.expect("open answers");
        let opened = opened.expect("the bucket exists");
        let status = created.status(subject.deadline()).await.expect("the bucket has a status");
        let complete = wanted.clone().with_defaults(key_ttl, subject.has_batches().await);
        for (found, whose) in
            [(created.config(), "as created"), (opened.config(), "as opened"), (&status.config, "in its status")]
        {
            assert_config(&complete, found, whose);
            assert_eq!(
                (found.ttl, found.max_bytes),
                (wanted.ttl, wanted.max_bytes),
                "{whose}: other settings are unset"
            );
            assert_eq!(found.description, wanted.description, "{whose}: other settings are unset");
            assert_eq!(found.metadata, wanted.metadata, "{whose}: other settings are unset");
        }
    }
}

/// An update changes the settings that are set and no others.
pub async fn update_keeps_unset_settings(subject: &BackendUnderTest) {
    let wanted = rich(subject).await;
    let created =
        subject.backend().create(wanted.clone(), subject.deadline()).await.expect("the configuration is valid");
    let before = created.config().clone();
    let k = key("k");
    for number in 0..5 {
        created.write(put(&k, &format!("{number}")), subject.deadline()).await.expect("the write succeeds");
    }

    let mut change = BucketConfig::new(&wanted.name);
    change.history = Some(2);
    change.ttl = Some(Duration::from_secs(60));
    change.metadata = [("stage".into(), "live".into())].into();
    let mut after = before.clone();
    (after.history, after.ttl) = (change.history, change.ttl);
    after.metadata.insert("stage".into(), "live".into());
    let updated = subject.backend().update(change, subject.deadline()).await.expect("the configuration is valid");
    assert_eq!(updated.config(), &after, "the handle of the update");
    let status = created.status(subject.deadline()).await.expect("the bucket has a status");
    assert_eq!(status.config, after, "the status of the old handle");
    assert_eq!(status.values, 2, "the history is cut");
    assert_eq!(created.config(), &before, "a handle keeps the configuration of its opening");

    let nothing = BucketConfig::new(&wanted.name);
    let updated = subject.backend().update(nothing, subject.deadline()).await.expect("the configuration is valid");
    assert_eq!(updated.config(), &after, "an update without settings");
}

/// `names` lists every bucket, in order.
pub async fn names_list_every_bucket(subject: &BackendUnderTest) {
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(subject.bucket(|_| {}).await.raw.config().name.clone());
    }
    let listed = async || {
        let names = subject.backend().names(subject.deadline()).await.expect("names answers");
        assert!(names.is_sorted_by(|a, b| a < b), "the names are sorted and unique: {names:?}");
        made.iter().all(|name| names.contains(name)).then_some(())
    };
    subject.eventually(&format!("the names of {made:?} are listed"), listed).await;
}

/// The status counts the current entries.
pub async fn status_counts_current_entries(subject: &BackendUnderTest) {
    let bucket = subject.bucket(|config| config.history = Some(2)).await;
    assert_eq!(bucket.counts().await, (0, Revision::ZERO), "an empty bucket");
    let (a, b) = (key("a"), key("b"));
    for (write, values) in [
        (put(&a, "1"), 1),
        (put(&b, "1"), 2),
        (put(&a, "2"), 3),
        (put(&a, "3"), 3),
        (delete(&a), 3),
        (purge(&a), 2),
        (purge(&b), 2),
    ] {
        let revision = bucket.write(write.clone()).await;
        assert_eq!(bucket.counts().await, (values, revision), "after {write:?}");
    }
    let bytes = async || bucket.raw.status(subject.deadline()).await.expect("the bucket has a status").bytes;
    let before = bytes().await;
    bucket.write(put(&a, &"x".repeat(10_000))).await;
    let grown = bytes().await - before;
    assert!((10_000..11_000).contains(&grown), "a value of 10,000 bytes makes it larger by {grown}");
}

/// The clock of the bucket, continued by the local monotonic clock, and the clock of its status date its entries.
pub async fn clock_dates_entries(subject: &BackendUnderTest) {
    const TOLERANCE: Duration = Duration::from_secs(5);
    let bucket = subject.bucket(|_| {}).await;
    let key = key("a");
    let revision = bucket.write(put(&key, "1")).await;
    let read = bucket.raw.read(KeySpace::Records, &key, ReadAt::Revision(revision), subject.deadline()).await;
    let created = read.expect("it reads").expect("the entry exists").created;
    let apart = |time: SystemTime| time.duration_since(created).unwrap_or_else(|before| before.duration());
    let status = bucket.raw.status(subject.deadline()).await.expect("the bucket has a status");
    assert!(apart(status.now) < TOLERANCE, "the status is {:?} away", apart(status.now));
    if let Some(ClockReading { server, at }) = bucket.raw.clock() {
        let now = server + at.elapsed();
        assert!(apart(now) < TOLERANCE, "the clock is {:?} away", apart(now));
    }
}

/// A purge is `Unsupported` in a bucket without rollups. A delete works. An update of the bucket enables purges again.
pub async fn purge_needs_rollups(subject: &BackendUnderTest) {
    let bucket = subject.bucket(|config| config.rollups = Some(false)).await;
    assert_eq!((bucket.raw.config().rollups, bucket.raw.config().limit_markers), (Some(false), None));
    let revision = bucket.write(put(&key("a"), "v")).await;
    bucket.write(put(&key("b"), "v")).await;
    let refused = bucket.refusal(purge(&key("a"))).await;
    assert!(matches!(refused.kind(), ErrorKind::Unsupported { .. }), "{refused:?}");
    assert_eq!(refused.outcome(), Outcome::NotApplied);
    assert_eq!(bucket.newest(&key("a")).await.map(|entry| entry.revision), Some(revision), "the record is unchanged");
    bucket.write(delete(&key("a"))).await;

    let mut allowed = BucketConfig::new(&bucket.raw.config().name);
    allowed.rollups = Some(true);
    let changed = subject.backend().update(allowed, subject.deadline()).await.expect("the update succeeds");
    assert_eq!(changed.config().rollups, Some(true));
    changed.write(purge(&key("b")), subject.deadline()).await.expect("the purge succeeds");

    let mut both = subject.config(|config| config.rollups = Some(false));
    both.limit_markers = Some(Duration::from_secs(60));
    let refused =
        subject.backend().create(both, subject.deadline()).await.expect_err("the backend refuses both settings");
    assert!(matches!(refused.kind(), ErrorKind::InvalidConfig { .. }), "{refused:?}");
}
