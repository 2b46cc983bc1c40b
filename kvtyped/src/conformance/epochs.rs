//! Write epochs.

use std::collections::BTreeMap;

use super::subject::{BackendUnderTest, Bucket, delete, key, purge, put, seconds};
use crate::backend::{KeySpace, Operation, Precondition, RawEntry, StartFrom, Write};
use crate::config::{BucketConfig, WriteEpochs};
use crate::error::{Error, ErrorKind};
use crate::key::Pattern;
use crate::revision::Revision;

/// Creates a bucket with write epochs. Returns `None` if the backend does not support them, and then refuses the bucket.
async fn with_epochs(
    subject: &BackendUnderTest,
    epochs: WriteEpochs,
    change: impl FnOnce(&mut BucketConfig),
) -> Option<Bucket> {
    let capabilities = subject.backend().capabilities(subject.deadline()).await;
    if capabilities.expect("the backend returns its capabilities").write_epochs {
        let with_epochs = |config: &mut BucketConfig| {
            config.write_epochs = Some(epochs);
            change(config);
        };
        return Some(subject.bucket(with_epochs).await);
    }
    let config = subject.config(|config| config.write_epochs = Some(epochs));
    let refused = subject.backend().create(config, subject.deadline()).await.expect_err("the backend has no epochs");
    assert!(matches!(refused.kind(), ErrorKind::Unsupported { .. }), "{refused:?}");
    None
}

/// Requests an update of a bucket.
async fn update(
    subject: &BackendUnderTest,
    bucket: &Bucket,
    change: impl FnOnce(&mut BucketConfig),
) -> Result<BucketConfig, Error> {
    let mut wanted = BucketConfig::new(&bucket.raw.config().name);
    change(&mut wanted);
    let updated = subject.backend().update(wanted, subject.deadline()).await?;
    let status = bucket.raw.status(subject.deadline()).await.expect("the bucket has a status");
    assert_eq!(updated.config(), &status.config, "the update returns the configuration");
    Ok(status.config)
}

fn note(text: &str) -> BTreeMap<String, String> {
    [("note".to_owned(), text.to_owned())].into()
}

fn at(epoch: u64, write: Write) -> Write {
    write.in_epoch(Some(epoch))
}

fn assert_moved(error: &Error, sent: Option<u64>, current: Option<u64>) {
    let ErrorKind::EpochMoved { sent: reported, current: found } = error.kind() else {
        panic!("the error is a moved epoch: {error:?}");
    };
    assert_eq!((*reported, *found), (sent, current), "{error:?}");
}

/// A new bucket with write epochs has the epoch 1. A bucket without them has no epoch.
pub async fn new_bucket_has_first_epoch(subject: &BackendUnderTest) {
    for epochs in [WriteEpochs::Open, WriteEpochs::Closed] {
        let Some(bucket) = with_epochs(subject, epochs, |_| {}).await else { return };
        let name = &bucket.raw.config().name;
        let opened = subject.backend().open(name, subject.deadline()).await.expect("open answers");
        let opened = opened.expect("the bucket exists");
        let status = bucket.raw.status(subject.deadline()).await.expect("the bucket has a status");
        for config in [bucket.raw.config(), opened.config(), &status.config] {
            assert_eq!((config.write_epochs, config.write_epoch), (Some(epochs), Some(1)));
            assert_eq!(config.irregular, []);
        }
        assert!(subject.backend().names(subject.deadline()).await.expect("names answers").contains(name));
        bucket.write(at(1, put(&key("k"), "v"))).await;
    }
    let plain = subject.bucket(|_| {}).await;
    assert_eq!((plain.raw.config().write_epochs, plain.raw.config().write_epoch), (None, None));
}

/// A bucket refuses a write of another epoch, also if it has no epochs.
pub async fn write_of_other_epoch_is_refused(subject: &BackendUnderTest) {
    let Some(bucket) = with_epochs(subject, WriteEpochs::Open, |_| {}).await else { return };
    let k = key("k");
    update(subject, &bucket, |config| config.write_epoch = Some(4)).await.expect("the epoch is switched");
    let revision = bucket.write(at(4, put(&k, "v"))).await;
    for sent in [3, 5] {
        for write in [put(&k, "never"), delete(&k), purge(&k), put(&k, "never").if_revision(revision)] {
            assert_moved(&bucket.refusal(at(sent, write)).await, Some(sent), Some(4));
        }
    }
    assert_eq!(bucket.newest(&k).await.map(|entry| entry.revision), Some(revision), "the record is unchanged");
    assert_eq!(bucket.counts().await, (1, revision));
    let plain = subject.bucket(|_| {}).await;
    assert_moved(&plain.refusal(at(1, put(&k, "never"))).await, Some(1), None);
    assert_eq!(plain.counts().await, (0, Revision::ZERO));
}

/// A write without an epoch is accepted by an open bucket and refused by a closed one.
pub async fn write_without_epoch_needs_open_bucket(subject: &BackendUnderTest) {
    let Some(open) = with_epochs(subject, WriteEpochs::Open, |_| {}).await else { return };
    let Some(closed) = with_epochs(subject, WriteEpochs::Closed, |_| {}).await else { return };
    let k = key("k");
    let first = open.write(put(&k, "foreign")).await;
    let second = open.write(at(1, put(&k, "ours").if_revision(first))).await;
    open.write(put(&k, "foreign").if_revision(second)).await;
    for write in [put(&k, "never"), delete(&k), purge(&k), put(&k, "never").if_revision(Revision::ZERO)] {
        assert_moved(&closed.refusal(write).await, None, Some(1));
    }
    assert_eq!(closed.counts().await, (0, Revision::ZERO));
    closed.write(at(1, put(&k, "ours"))).await;
}

/// An update switches the epoch together with the metadata. Handles that are open use the new epoch at once.
pub async fn update_switches_epoch_and_metadata(subject: &BackendUnderTest) {
    for epochs in [WriteEpochs::Open, WriteEpochs::Closed] {
        let Some(bucket) = with_epochs(subject, epochs, |config| config.metadata = note("first")).await else { return };
        let k = key("k");
        for epoch in 2..5 {
            let old = bucket.write(at(epoch - 1, put(&k, "old"))).await;
            let text = format!("switch to {epoch}");
            let switched = update(subject, &bucket, |config| {
                config.write_epoch = Some(epoch);
                config.metadata = note(&text);
            });
            let config = switched.await.expect("the epoch is switched");
            assert_eq!((config.write_epochs, config.write_epoch), (Some(epochs), Some(epoch)));
            assert_eq!(config.metadata, note(&text));
            assert_eq!(config.irregular, []);
            assert_moved(&bucket.refusal(at(epoch - 1, put(&k, "late"))).await, Some(epoch - 1), Some(epoch));
            let new = bucket.write(at(epoch, put(&k, "new").if_revision(old))).await;
            assert!(new > old, "revisions grow over a switch");
        }
        let other = update(subject, &bucket, |config| config.description = Some("text".into())).await;
        let other = other.expect("the configuration is valid");
        assert_eq!((other.write_epochs, other.write_epoch), (Some(epochs), Some(4)), "an update keeps the epoch");
        assert_eq!(bucket.raw.config().write_epoch, Some(1), "a handle keeps the configuration of its opening");
    }
}

/// An epoch never decreases. A switch to the current epoch changes neither the epoch nor the metadata, because another
/// caller made that switch.
pub async fn epoch_never_decreases(subject: &BackendUnderTest) {
    let Some(bucket) = with_epochs(subject, WriteEpochs::Closed, |_| {}).await else { return };
    let switch = async |epoch: u64, text: &str| {
        let change = |config: &mut BucketConfig| {
            config.write_epoch = Some(epoch);
            config.metadata = note(text);
        };
        update(subject, &bucket, change).await
    };
    switch(7, "ours").await.expect("the epoch is switched");
    for epoch in [0, 1, 6] {
        let refused = switch(epoch, "never").await.expect_err("the epoch does not decrease");
        assert!(matches!(refused.kind(), ErrorKind::InvalidConfig { .. }), "{refused:?}");
    }
    let same = switch(7, "never").await.expect("a switch to the current epoch is no error");
    assert_eq!((same.write_epoch, same.metadata), (Some(7), note("ours")));
    let plain = subject.bucket(|_| {}).await;
    let refused = update(subject, &plain, |config| config.write_epoch = Some(2)).await.expect_err("it has no epochs");
    assert!(matches!(refused.kind(), ErrorKind::InvalidConfig { .. }), "{refused:?}");
    let created = subject.config(|config| config.write_epoch = Some(2));
    let refused = subject.backend().create(created, subject.deadline()).await.expect_err("it has no epochs");
    assert!(matches!(refused.kind(), ErrorKind::InvalidConfig { .. }), "{refused:?}");
}

/// An update gives an existing bucket write epochs, and opens and closes it. It keeps the records.
pub async fn existing_bucket_gets_write_epochs(subject: &BackendUnderTest) {
    if with_epochs(subject, WriteEpochs::Open, |_| {}).await.is_none() {
        return;
    }
    let bucket = subject.bucket(|config| config.history = Some(3)).await;
    let k = key("k");
    let mut last = bucket.write(put(&k, "before")).await;
    let mut epoch = None;
    for epochs in [WriteEpochs::Open, WriteEpochs::Closed, WriteEpochs::Open] {
        let config = update(subject, &bucket, |config| config.write_epochs = Some(epochs)).await;
        let config = config.expect("the bucket gets write epochs");
        assert_eq!((config.write_epochs, config.history), (Some(epochs), Some(3)));
        assert!(config.write_epoch.is_some() && epoch.is_none_or(|epoch| config.write_epoch == epoch), "{config:?}");
        epoch = Some(config.write_epoch);
        last = bucket.write(put(&k, "ours").if_revision(last).in_epoch(config.write_epoch)).await;
        let foreign = bucket.try_write(put(&k, "foreign").if_revision(last)).await;
        match epochs {
            WriteEpochs::Open => last = foreign.expect("an open bucket accepts other writers"),
            WriteEpochs::Closed => {
                assert_moved(&foreign.expect_err("a closed bucket refuses other writers"), None, config.write_epoch);
            }
        }
    }
    assert_eq!(bucket.scan(&[Pattern::all()], true, false).await.len(), 3, "the history is kept");
}

/// Preconditions, deletes, purges and TTLs work in epochs as everywhere. Readers see records under their keys.
pub async fn verbs_work_in_epochs(subject: &BackendUnderTest) {
    let change = |config: &mut BucketConfig| config.max_value_size = None;
    let Some(bucket) = with_epochs(subject, WriteEpochs::Closed, change).await else { return };
    let mut probe = bucket.watch(StartFrom::Newest).await;
    assert!(probe.until_ready().await.is_empty(), "the bucket is empty");
    let (a, b) = (key("a"), key("b.c"));
    let write = async |write: Write| bucket.write(at(1, write)).await;
    let refusal = async |write: Write| bucket.refusal(at(1, write)).await;

    let first = write(put(&a, "1").if_revision(Revision::ZERO)).await;
    assert!(refusal(put(&a, "never").if_revision(Revision::ZERO)).await.is_conflict(), "the key has an entry");
    let second = write(put(&a, "2").if_revision(first)).await;
    assert!(refusal(put(&a, "never").if_revision(first)).await.is_conflict(), "the revision is stale");
    if subject.has_key_ttl().await {
        let on = |revision| Some(Precondition { space: KeySpace::Records, key: a.clone(), revision });
        write(Write { precondition: on(second), ..put(&b, "1") }).await;
        let stale = Write { precondition: on(first), ..put(&b, "never") };
        assert!(refusal(stale).await.is_conflict(), "the other key has another revision");
        write(put(&b, "2").with_ttl(Some(seconds(1)))).await;
        let expired = async || (bucket.operation(&b).await == Some(Operation::Expired)).then_some(());
        bucket.eventually("the entry expires", expired).await;
    }
    let deleted = write(delete(&a).if_revision(second)).await;
    write(purge(&a).if_revision(deleted)).await;
    let last = write(put(&a, "3")).await;
    assert_eq!(bucket.newest(&a).await.map(|entry| (entry.revision, entry.value)), Some((last, "3".into())));
    let of_a = |entries: &[RawEntry]| entries.iter().filter(|entry| entry.key == a).count();
    assert_eq!(of_a(&bucket.scan(&[Pattern::exact(&a)], false, false).await), 1);
    let mut seen = 0;
    while seen < 5 {
        seen += usize::from(probe.entry().await.key == a);
    }
    assert_eq!(bucket.erase(&a, last).await, 1, "an erase needs no epoch");
}

/// All writes of a batch have one epoch, which decides about the whole batch.
pub async fn batch_has_one_epoch(subject: &BackendUnderTest) {
    if !subject.has_batches().await {
        return;
    }
    for epochs in [WriteEpochs::Open, WriteEpochs::Closed] {
        let Some(bucket) = with_epochs(subject, epochs, |_| {}).await else { return };
        let (a, b) = (key("a"), key("b"));
        let check = |on: &str, revision| Precondition { space: KeySpace::Records, key: key(on), revision };
        let mixed = bucket.refusal_of_batch(&[at(1, put(&a, "v")), put(&b, "v")], &[]).await;
        assert!(matches!(mixed.kind(), ErrorKind::InvalidBatch { .. }), "{mixed:?}");
        let writes = |epoch| [at(epoch, put(&a, "v").if_revision(Revision::ZERO)), at(epoch, put(&b, "v"))];
        assert_moved(&bucket.refusal_of_batch(&writes(2), &[]).await, Some(2), Some(1));
        let checks = [check("x", Revision::ZERO), check("y", Revision::ZERO)];
        let revisions = bucket.commit(&writes(1), &checks).await;
        assert!(bucket.refusal_of_batch(&writes(1), &[]).await.is_conflict(), "the key has an entry");
        let stale = [at(1, put(&b, "never")), at(1, put(&key("c"), "never"))];
        assert!(bucket.refusal_of_batch(&stale, &[check("a", Revision::ZERO)]).await.is_conflict(), "a stale check");
        let next = writes(1).map(|write| Write { precondition: None, ..write });
        let [first, second] = next;
        let next = [first.if_revision(revisions[0]), second.if_revision(revisions[1])];
        let next = bucket.commit(&next, &[]).await;
        bucket.commit(&[], &[check("a", next[0]), check("b", next[1])]).await;

        update(subject, &bucket, |config| config.write_epoch = Some(2)).await.expect("the epoch is switched");
        assert_moved(&bucket.refusal_of_batch(&[at(1, delete(&a)), at(1, delete(&b))], &[]).await, Some(1), Some(2));
        bucket.commit(&[], &[check("a", next[0]), check("b", next[1])]).await;
        let plain = bucket.try_commit(&[delete(&a), delete(&b)], &[]).await;
        match epochs {
            WriteEpochs::Open => assert_eq!(plain.expect("an open bucket accepts other writers").len(), 2),
            WriteEpochs::Closed => {
                assert_moved(&plain.expect_err("a closed bucket refuses other writers"), None, Some(2));
            }
        }
    }
}
