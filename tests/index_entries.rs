//! Index entries on real servers: other clients, long listings, restarts, lost acknowledgements, mirrors, permissions.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use harness::{Cluster, Mode, Proxy, Server};
use kvtyped::backend::nats::{NatsBackend, NatsOptions};
use kvtyped::backend::{
    Backend, Batch, Deadline, KeySpace, ListKeysRequest, RawBucket, RawEntry, Read, ReadAt, Write, WriteKind,
};
use kvtyped::bucket::copy_bucket;
use kvtyped::config::{BucketConfig, Source, WriteEpochs};
use kvtyped::key::Pattern;
use kvtyped::prelude::*;
use kvtyped::{ErrorKind, Key, Outcome};
use serde_json::{Value, json};

use crate::needs::{Feature, needs};
use crate::support::unique;

const SOON: Duration = Duration::from_secs(20);

async fn connect(url: &str) -> NatsBackend {
    NatsBackend::connect(url, NatsOptions::new()).await.expect("the server is there")
}

fn soon() -> Deadline {
    Deadline::after(SOON)
}

fn key(text: &str) -> Key {
    Key::new(text).expect("a legal key")
}

fn put(on: &str) -> Write {
    Write::new(key(on), WriteKind::Put("v".into()))
}

fn entry(on: &str) -> Write {
    Write::index_entry(key(on), "".into())
}

async fn create(backend: &NatsBackend, change: impl FnOnce(&mut BucketConfig)) -> Arc<dyn RawBucket> {
    let mut config = BucketConfig::new(unique("entries"));
    config.index_entries = Some(true);
    change(&mut config);
    backend.create(config, soon()).await.expect("the bucket is created")
}

async fn write(bucket: &Arc<dyn RawBucket>, write: Write) -> Revision {
    bucket.write(write, soon()).await.expect("it is written")
}

async fn newest(bucket: &Arc<dyn RawBucket>, on: &str) -> Option<RawEntry> {
    let read = bucket.read(KeySpace::Index, &key(on), ReadAt::Newest(Read::Leader), soon()).await;
    read.expect("the leader answers")
}

async fn erase(bucket: &Arc<dyn RawBucket>, on: &str) -> u64 {
    let erased = bucket.purge_through(KeySpace::Index, &key(on), Revision::new(u64::MAX), soon()).await;
    erased.expect("it is erased")
}

fn index_of(pattern: Pattern) -> ListKeysRequest {
    ListKeysRequest { space: KeySpace::Index, pattern, idle_timeout: SOON }
}

async fn list(bucket: &Arc<dyn RawBucket>) -> Vec<Key> {
    let pages = bucket.list_keys(index_of(Pattern::all()));
    pages.try_concat().await.expect("the keys are listed")
}

async fn stream_config(server: &Server, bucket: &str) -> Value {
    let info = server.api(&format!("$JS.API.STREAM.INFO.KV_{bucket}"), &Value::Null).await.expect("the server answers");
    info["config"].clone()
}

/// Writes many entries with a raw client, without waiting for each one.
async fn fill(server: &Server, bucket: &str, numbers: std::ops::Range<usize>) {
    let client = async_nats::connect(server.url()).await.expect("the server is there");
    let js = async_nats::jetstream::new(client);
    let publish = |number: usize| {
        let (js, subject) = (js.clone(), format!("$KV.=i.{bucket}.user.team.core.{number:07}"));
        async move { js.publish(subject, "".into()).await.expect("it is sent").await.expect("it is stored") }
    };
    let mut stored = stream::iter(numbers).map(publish).buffer_unordered(512);
    while stored.next().await.is_some() {}
}

#[tokio::test]
async fn other_clients_see_records_alone() {
    let server = harness::shared().await;
    let backend = connect(&server.url()).await;
    let bucket = create(&backend, |config| config.history = Some(2)).await;
    let name = bucket.config().name.clone();
    for number in 0..20 {
        write(&bucket, entry(&format!("user.team.core.{number}"))).await;
        write(&bucket, put(&format!("u.{number}"))).await;
    }
    let client = async_nats::connect(server.url()).await.expect("the server is there");
    let theirs = async_nats::jetstream::new(client).get_key_value(&name).await.expect("it is a bucket");
    let keys: BTreeSet<String> = theirs.keys().await.expect("keys").try_collect().await.expect("no error");
    let wanted: BTreeSet<_> = (0..20).map(|number| format!("u.{number}")).collect();
    assert_eq!(keys, wanted);
    let mut watch = theirs.watch_all().await.expect("a watch");
    write(&bucket, entry("user.team.web.1")).await;
    let later = write(&bucket, put("u.1")).await;
    let seen = tokio::time::timeout(SOON, watch.next()).await.expect("an event").expect("open").expect("no error");
    assert_eq!((seen.key.as_str(), seen.revision), ("u.1", later.get()), "the watch skips the entry");
    let history: Vec<_> = theirs.history("u.1").await.expect("a history").try_collect().await.expect("no error");
    assert_eq!(history.len(), 2);
    // Their count of values is the number of messages. Ours is the number of records.
    assert_eq!(theirs.status().await.expect("a status").values(), 40, "all messages, when the bucket was opened");
    let status = bucket.status(soon()).await.expect("a status");
    assert_eq!((status.values, status.last_revision), (21, later));
}

#[tokio::test]
async fn update_adds_entries_and_keeps_the_epochs() {
    needs!(WriteEpochs);
    let server = harness::shared().await;
    let backend = connect(&server.url()).await;
    for epochs in [WriteEpochs::Open, WriteEpochs::Closed] {
        let mut config = BucketConfig::new(unique("entries"));
        config.write_epochs = Some(epochs);
        let name = config.name.clone();
        let bucket = backend.create(config, soon()).await.expect("the bucket is created");
        write(&bucket, put("a").in_epoch(Some(1))).await;
        let mut update = BucketConfig::new(&name);
        update.index_entries = Some(true);
        let bucket = backend.update(update, soon()).await.expect("the subject is added");
        assert_eq!((bucket.config().index_entries, bucket.config().write_epoch), (Some(true), Some(1)));
        assert_eq!(bucket.config().irregular, []);
        write(&bucket, entry("i.a")).await;
        let mut update = BucketConfig::new(&name);
        update.write_epoch = Some(2);
        backend.update(update, soon()).await.expect("the epoch is switched");
        // An entry has no epoch, so it is not fenced. The record of the same batch is.
        write(&bucket, entry("i.b")).await;
        if !Feature::Transactions.is_missing_and_reported().await {
            let batch = |epoch| Batch {
                writes: vec![entry("i.c").if_revision(Revision::ZERO), put("c").in_epoch(Some(epoch))],
                preconditions: vec![],
            };
            let refused = bucket.commit(batch(1), soon()).await.expect_err("the epoch has moved");
            assert!(matches!(refused.kind(), ErrorKind::EpochMoved { .. }), "{refused:?}");
            assert_eq!(newest(&bucket, "i.c").await, None, "nothing is written");
            bucket.commit(batch(2), soon()).await.expect("the batch is applied");
        }
        let subjects = stream_config(server, &name).await["subjects"].clone();
        let own = json!(format!("$KV.=i.{name}.>"));
        assert!(subjects.as_array().expect("subjects").contains(&own), "{subjects}");
    }
}

/// Lists more entries than a server returns at once, while entries of both halves are erased and added.
async fn long_listing(server: &Server, backend: &NatsBackend, replicas: u8) {
    const COUNT: usize = 120_000;
    let bucket = create(backend, |config| config.replicas = Some(replicas)).await;
    fill(server, &bucket.config().name, 0..COUNT).await;
    let name = |number: usize| format!("user.team.core.{number:07}");
    let mut pages = bucket.list_keys(index_of(Pattern::all()));
    let mut found: Vec<Key> = pages.next().await.expect("a page").expect("no error");
    assert!(found.len() < COUNT, "a server returns a part");
    // More than the pages have in common is erased before the second page, and other entries are added.
    let erased: Vec<usize> = (10_000..11_500).collect();
    let erasures = erased.iter().map(|number| {
        let bucket = Arc::clone(&bucket);
        let on = name(*number);
        async move { erase(&bucket, &on).await }
    });
    let erased: Vec<u64> = stream::iter(erasures).buffer_unordered(64).collect().await;
    assert!(erased.iter().all(|count| *count == 1));
    for number in 0..20 {
        write(&bucket, entry(&format!("user.team.core.{number:07}.more"))).await;
    }
    while let Some(page) = pages.next().await {
        found.extend(page.expect("no error"));
    }
    assert!(found.is_sorted_by(|a, b| a < b), "in order, each once");
    let found: BTreeSet<_> = found.iter().map(Key::as_str).collect();
    let missed: Vec<_> = (0..COUNT).map(name).filter(|on| !found.contains(on.as_str())).collect();
    assert!(missed.is_empty(), "{} are missed, such as {:?}", missed.len(), missed.first());
    let count = bucket.count_keys(KeySpace::Index, &Pattern::all(), soon()).await.expect("they are counted");
    assert_eq!(count as usize, COUNT - 1_500 + 20);
    assert_eq!(list(&bucket).await.len(), COUNT - 1_500 + 20);
    backend.delete(&bucket.config().name, soon()).await.expect("the bucket is deleted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listing_of_many_pages_misses_nothing() {
    let server = Server::start().await;
    long_listing(&server, &connect(&server.url()).await, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicated_listing_of_many_pages_misses_nothing() {
    let cluster = Cluster::start(3).await;
    long_listing(cluster.node(0), &connect(&cluster.urls()).await, 3).await;
}

#[tokio::test]
async fn entries_outlive_the_ttl_and_a_restart() {
    needs!(RecordTtl);
    let server = Server::start().await;
    let backend = connect(&server.url()).await;
    let ttl = Duration::from_secs(2);
    let bucket = create(&backend, |config| {
        config.ttl = Some(ttl);
        config.limit_markers = Some(Duration::from_secs(1));
    })
    .await;
    let mut revisions = Vec::new();
    for number in 0..20 {
        revisions.push(write(&bucket, entry(&format!("user.team.core.{number}"))).await);
    }
    write(&bucket, put("u.1")).await;
    let gone = async || {
        let read = bucket.read(KeySpace::Records, &key("u.1"), ReadAt::Newest(Read::Leader), soon()).await;
        read.expect("the leader answers").is_none()
    };
    harness::wait::until("the record expires", SOON, async || gone().await.then_some(())).await;
    server.kill().await;
    server.restart().await;
    for (number, revision) in revisions.into_iter().enumerate() {
        let on = format!("user.team.core.{number}");
        let found = newest(&bucket, &on).await;
        assert_eq!(found.map(|found| found.revision), Some(revision), "{on} survives the restart");
    }
}

#[tokio::test]
async fn lost_acknowledgement_of_a_claim_is_unknown() {
    let server = harness::shared().await;
    let proxy = Proxy::start(server.addr()).await;
    let direct = create(&connect(&server.url()).await, |_| {}).await;
    let name = direct.config().name.clone();
    let backend = connect(&proxy.url()).await;
    let bucket = backend.open(&name, soon()).await.expect("open answers").expect("it exists");
    let first = write(&bucket, Write::index_entry(key("claim"), "a".into()).if_revision(Revision::ZERO)).await;
    proxy.set(Mode::DropReplies);
    let blind = {
        let bucket = Arc::clone(&bucket);
        tokio::spawn(async move { bucket.write(entry("i.a"), soon()).await })
    };
    let claimed = {
        let bucket = Arc::clone(&bucket);
        let claim = Write::index_entry(key("claim"), "b".into()).if_revision(first);
        tokio::spawn(async move { bucket.write(claim, soon()).await })
    };
    harness::wait::until("the server stores both", SOON, async || {
        newest(&direct, "i.a").await?;
        newest(&direct, "claim").await.filter(|found| found.revision > first)
    })
    .await;
    proxy.set(Mode::Pass);
    // An equal claim may be that of another writer.
    let outcome = claimed.await.expect("no panic").expect_err("the owner of the claim is unknown").outcome();
    assert_eq!(outcome, Outcome::Unknown);
    blind.await.expect("no panic").expect("it is applied");
    assert!(newest(&direct, "i.a").await.is_some());
}

#[tokio::test]
async fn mirror_reads_entries_at_its_origin() {
    let server = harness::shared().await;
    let backend = connect(&server.url()).await;
    let origin = create(&backend, |_| {}).await;
    write(&origin, put("u.1")).await;
    let stored = write(&origin, entry("user.team.core.1")).await;
    let mut config = BucketConfig::new(unique("mirror"));
    config.mirror = Some(Source::new(&origin.config().name));
    let mirror = backend.create(config, soon()).await.expect("the mirror is created");
    harness::wait::until("the mirror has the record and the entry", SOON, async || {
        (mirror.status(soon()).await.expect("a status").last_revision == stored).then_some(())
    })
    .await;
    assert_eq!(mirror.status(soon()).await.expect("a status").values, 1, "entries are not counted");
    assert_eq!(list(&mirror).await, [key("user.team.core.1")]);
    for read in [Read::Any, Read::Leader, Read::AtLeast(stored)] {
        let found = mirror.read(KeySpace::Index, &key("user.team.core.1"), ReadAt::Newest(read), soon()).await;
        assert_eq!(found.expect("it is read").map(|found| found.revision), Some(stored), "{read:?}");
    }
    let second = write(&mirror, entry("user.team.core.2")).await;
    assert!(second > stored, "a write through the mirror");
    assert_eq!(erase(&mirror, "user.team.core.1").await, 1);
    assert_eq!(list(&origin).await, [key("user.team.core.2")]);
    let mut on_mirror = BucketConfig::new(&mirror.config().name);
    on_mirror.index_entries = Some(true);
    backend.update(on_mirror, soon()).await.expect_err("the setting is not for a mirror");
}

#[tokio::test]
async fn copy_and_compact_leave_entries_alone() {
    let server = harness::shared().await;
    let store = Store::connect(server.url()).await.expect("the server is there");
    let backend = connect(&server.url()).await;
    let bucket = create(&backend, |_| {}).await;
    let name = bucket.config().name.clone();
    for number in 0..10 {
        write(&bucket, entry(&format!("user.team.core.{number}"))).await;
        write(&bucket, put(&format!("u.{number}"))).await;
    }
    write(&bucket, Write::new(key("u.3"), WriteKind::Delete)).await;
    let raw = store.raw(&name).await.expect("the bucket opens");
    let copy = unique("copy");
    let copied = copy_bucket(&raw, &store).name(&copy).await.expect("it is copied");
    assert_eq!((copied.records, copied.unreadable), (9, 0));
    let copy = backend.open(&copy, soon()).await.expect("open answers").expect("it exists");
    assert_eq!(list(&copy).await, [], "entries are not copied");
    raw.compact(Duration::ZERO).await.expect("it is compacted");
    assert_eq!(list(&bucket).await.len(), 10);
    let values = bucket.status(soon()).await.expect("a status").values;
    assert!((9..=10).contains(&values), "{values} records, and a marker that may be too young");
}
