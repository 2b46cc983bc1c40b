//! Write epochs on real servers: old writers, lost replies, tools that change the stream, mirrors, domains, versions.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use harness::{Cluster, Mode, Proxy, Server, wait};
use kvtyped::backend::nats::{NatsBackend, NatsOptions};
use kvtyped::backend::{Backend, Batch, Deadline, KeySpace, RawBucket, Read, ReadAt, Write, WriteKind};
use kvtyped::config::{BucketConfig, Republish, Source, WriteEpochs};
use kvtyped::conformance::{self, BackendUnderTest};
use kvtyped::{Error, ErrorKind, Key, Outcome, Revision};
use serde_json::{Value, json};

use crate::epoch_conformance::OWN_EPOCHS;
use crate::needs::needs;
use crate::support::unique;

const SECOND: Duration = Duration::from_secs(1);
/// The time limit for a switch, and for background work of a server.
const SOON: Duration = Duration::from_secs(10);

async fn connect(url: &str) -> NatsBackend {
    NatsBackend::connect(url, NatsOptions::new()).await.expect("the server is there")
}

fn soon() -> Deadline {
    Deadline::after(SOON)
}

fn config(name: &str, epochs: WriteEpochs) -> BucketConfig {
    let mut config = BucketConfig::new(name);
    config.write_epochs = Some(epochs);
    config
}

async fn create(backend: &NatsBackend, config: BucketConfig) -> Arc<dyn RawBucket> {
    backend.create(config, soon()).await.expect("the bucket is created")
}

async fn open(backend: &NatsBackend, name: &str) -> Arc<dyn RawBucket> {
    backend.open(name, soon()).await.expect("open answers").expect("the bucket exists")
}

async fn switch(backend: &NatsBackend, name: &str, epoch: u64) -> Result<BucketConfig, Error> {
    let mut config = BucketConfig::new(name);
    config.write_epoch = Some(epoch);
    config.metadata = [("switch".to_owned(), epoch.to_string())].into();
    Ok(backend.update(config, soon()).await?.config().clone())
}

fn put(key: &str, epoch: Option<u64>) -> Write {
    Write::new(Key::new(key).expect("a legal key"), WriteKind::Put("v".into())).in_epoch(epoch)
}

/// Returns the epochs of `EpochMoved`, the error of a write that was not applied.
fn moved(written: Result<Revision, Error>) -> (Option<u64>, Option<u64>) {
    let error = written.expect_err("the write is refused");
    assert_eq!(error.outcome(), Outcome::NotApplied, "{error:?}");
    let ErrorKind::EpochMoved { sent, current } = error.kind() else { panic!("{error:?}") };
    (*sent, *current)
}

async fn newest(bucket: &Arc<dyn RawBucket>, key: &str) -> Option<Revision> {
    let key = Key::new(key).expect("a legal key");
    let entry =
        bucket.read(KeySpace::Records, &key, ReadAt::Newest(Read::Leader), soon()).await.expect("the leader answers");
    entry.map(|entry| entry.revision)
}

async fn stream(server: &Server, bucket: &str) -> Value {
    let info = server.api(&format!("$JS.API.STREAM.INFO.KV_{bucket}"), &Value::Null).await.expect("the server answers");
    info["config"].clone()
}

/// Changes the stream of a bucket, like another program.
async fn tamper(server: &Server, bucket: &str, change: impl FnOnce(&mut Value)) {
    let mut config = stream(server, bucket).await;
    change(&mut config);
    let verb = format!("$JS.API.STREAM.UPDATE.KV_{bucket}");
    let answer = server.api(&verb, &config).await.expect("the server answers");
    assert!(answer["error"].is_null(), "{answer}");
}

fn without_transform(config: &mut Value) {
    config.as_object_mut().expect("an object").remove("subject_transform");
}

#[tokio::test]
async fn server_refuses_old_writer_after_switch() {
    needs!(WriteEpochs);
    let server = harness::shared().await;
    let client = async_nats::connect(server.url()).await.expect("the server is there");
    let backend = connect(&server.url()).await;
    let name = unique("epochs");
    let bucket = create(&backend, config(&name, WriteEpochs::Open)).await;
    bucket.write(put("k", Some(1)), soon()).await.expect("the epoch is current");
    switch(&backend, &name, 2).await.expect("the epoch is switched");
    let publish = async |subject: String| client.request(subject, "v".into()).await.map(|reply| reply.payload);
    let refused = publish(format!("$KV.=w.{name}.1.k")).await.expect_err("no stream takes the subject");
    assert_eq!(refused.kind(), async_nats::RequestErrorKind::NoResponders);
    for subject in [format!("$KV.=w.{name}.2.k"), format!("$KV.{name}.k")] {
        let ack = publish(subject).await.expect("the server answers");
        assert!(String::from_utf8_lossy(&ack).contains("\"seq\""), "{ack:?}");
    }
    assert_eq!(newest(&bucket, "k").await, Some(Revision::new(3)), "both are entries of the key");
}

#[tokio::test]
async fn epoch_rules_hold_on_each_server_version() {
    for version in ["2.11.11", "2.12.8"] {
        let server = Server::builder().version(version).start().await;
        let subject = BackendUnderTest::new(Arc::new(connect(&server.url()).await)).keep_alive(server);
        for rule in OWN_EPOCHS {
            conformance::run(&subject, rule).await;
        }
    }
}

/// A tool that drops only the transform makes the server store writes as no records. Opening reports it, a new handle
/// refuses writes of the epoch, and an update repairs the bucket with an epoch that no writer has.
#[tokio::test]
async fn dropped_transform_is_reported_and_repaired() {
    needs!(WriteEpochs);
    let server = harness::shared().await;
    let backend = connect(&server.url()).await;
    for epochs in [WriteEpochs::Open, WriteEpochs::Closed] {
        let name = unique("epochs");
        let bucket = create(&backend, config(&name, epochs)).await;
        tamper(server, &name, without_transform).await;
        bucket.write(put("lost", Some(1)), soon()).await.expect("the server acknowledges the write");
        assert_eq!(newest(&bucket, "lost").await, None, "the loss that this test is about");

        let found = open(&backend, &name).await;
        let differences: Vec<_> =
            config(&name, epochs).differences(found.config()).iter().map(ToString::to_string).collect();
        assert!(differences.iter().any(|text| text.starts_with("write_epochs: wanted")), "{differences:?}");
        assert!(differences.iter().any(|text| text.starts_with("subject_transform: wanted")), "{differences:?}");
        let refused = found.write(put("k", Some(1)), soon()).await.expect_err("the write would be lost");
        assert!(refused.to_string().contains("the subject transform of write epochs is missing"), "{refused}");
        assert_eq!(moved(Err(refused)), (Some(1), None));

        let repaired = backend.update(config(&name, epochs), soon()).await.expect("the bucket is repaired");
        let epoch = repaired.config().write_epoch;
        assert_eq!((repaired.config().write_epochs, repaired.config().irregular.len()), (Some(epochs), 0));
        assert!(epoch > Some(1), "{epoch:?}");
        assert_eq!(moved(bucket.write(put("k", Some(1)), soon()).await), (Some(1), epoch));
        let revision = repaired.write(put("k", epoch), soon()).await.expect("the epoch is current");
        assert_eq!(newest(&bucket, "k").await, Some(revision));
    }
}

#[tokio::test]
async fn dropped_epoch_subject_is_reported_and_repaired() {
    needs!(WriteEpochs);
    let server = harness::shared().await;
    let backend = connect(&server.url()).await;
    let whole = unique("epochs");
    let bucket = create(&backend, config(&whole, WriteEpochs::Open)).await;
    tamper(server, &whole, |raw| raw["subjects"] = json!([format!("$KV.{whole}.>")])).await;
    let refused = bucket.write(put("k", Some(1)), soon()).await.expect_err("the stream takes no epoch");
    assert!(refused.to_string().contains("the subject of write epochs is missing"), "{refused}");
    assert_eq!(moved(Err(refused)), (Some(1), None));
    let found = open(&backend, &whole).await;
    assert_eq!(found.config().write_epochs, None);
    bucket.write(put("k", None), soon()).await.expect("the bucket takes other writers");

    // A tool that rewrites the whole configuration drops both settings. They return with another epoch.
    tamper(server, &whole, without_transform).await;
    let refused = bucket.write(put("k", Some(1)), soon()).await;
    assert_eq!(moved(refused), (Some(1), None));
    let repaired = backend.update(config(&whole, WriteEpochs::Open), soon()).await.expect("the bucket is repaired");
    let epoch = repaired.config().write_epoch;
    assert!(epoch > Some(1), "{epoch:?}");
    repaired.write(put("k", epoch), soon()).await.expect("the epoch is current");
}

/// A mirror has no epochs. Its writer names the epoch of the origin, or no epoch.
#[tokio::test]
async fn mirror_writes_in_the_epoch_of_its_origin() {
    needs!(WriteEpochs);
    let backend = connect(&harness::shared().await.url()).await;
    for epochs in [WriteEpochs::Open, WriteEpochs::Closed] {
        let [origin, mirror] = ["origin", "mirror"].map(unique);
        create(&backend, config(&origin, epochs)).await;
        let mut mirrored = BucketConfig::new(&mirror);
        mirrored.mirror = Some(Source::new(&origin));
        let mut refused = mirrored.clone();
        refused.write_epochs = Some(epochs);
        let refused = backend.create(refused, soon()).await.expect_err("a mirror has no epochs");
        assert!(matches!(refused.kind(), ErrorKind::InvalidConfig { .. }), "{refused:?}");
        let mirror = create(&backend, mirrored).await;
        assert_eq!(mirror.config().write_epochs, None);
        let first = mirror.write(put("k", Some(1)), soon()).await.expect("the epoch is current");
        assert_eq!(newest(&mirror, "k").await, Some(first));
        let copied = async || {
            let key = Key::new("k").expect("a legal key");
            mirror.read(KeySpace::Records, &key, ReadAt::Newest(Read::Any), soon()).await.expect("the mirror answers")
        };
        wait::until("the mirror has the record", SOON, copied).await;
        let plain = mirror.write(put("k", None), soon()).await;
        match epochs {
            WriteEpochs::Open => assert!(plain.expect("an open origin takes other writers") > first),
            _ => assert_eq!(moved(plain), (None, Some(1))),
        }
        switch(&backend, &origin, 2).await.expect("the epoch is switched");
        assert_eq!(moved(mirror.write(put("k", Some(1)), soon()).await), (Some(1), Some(2)));
    }
}

/// Sources and `republish` copy stored messages, so they need no epoch.
#[tokio::test]
async fn copies_have_no_epoch() {
    needs!(WriteEpochs);
    let server = harness::shared().await;
    let backend = connect(&server.url()).await;
    let client = async_nats::connect(server.url()).await.expect("the server is there");
    let [origin, copy] = ["origin", "copy"].map(unique);
    let mut republished = config(&origin, WriteEpochs::Closed);
    republished.republish = Some(Republish::new(format!("$KV.{origin}.>"), format!("{origin}.changed.>")));
    let mut changes = client.subscribe(format!("{origin}.changed.>")).await.expect("it is subscribed");
    client.flush().await.expect("the server answers");
    let origin_bucket = create(&backend, republished).await;
    let mut sourced = config(&copy, WriteEpochs::Closed);
    sourced.sources = vec![Source::new(&origin)];
    let copy = create(&backend, sourced).await;
    assert_eq!(copy.config().irregular, []);
    origin_bucket.write(put("a.b", Some(1)), soon()).await.expect("the epoch is current");
    let change = tokio::time::timeout(SOON, changes.next()).await.expect("in time").expect("a message");
    assert_eq!(change.subject.as_str(), format!("{origin}.changed.a.b"));
    wait::until("the copy has the record", SOON, async || newest(&copy, "a.b").await).await;
    copy.write(put("a.c", Some(1)), soon()).await.expect("the epoch is current");
}

/// Through a domain, no server answers an old writer. The configuration decides instead.
#[tokio::test]
async fn old_writer_through_domain_is_refused() {
    needs!(WriteEpochs);
    let port = harness::free_port();
    let hub = Server::builder().jetstream("domain: hub");
    let hub = hub.config(&format!("leafnodes {{ listen: \"127.0.0.1:{port}\" }}")).start().await;
    let remote = format!("leafnodes {{ remotes: [ {{ url: \"nats://127.0.0.1:{port}\" }} ] }}");
    let leaf = Server::builder().jetstream("domain: leaf").config(&remote).start().await;
    let through = NatsOptions::new().domain("hub");
    let backend = NatsBackend::connect(&leaf.url(), through).await.expect("the leaf is there");
    let name = unique("epochs");
    let made = async || backend.create(config(&name, WriteEpochs::Closed), soon()).await.ok();
    let bucket = wait::until("the leaf reaches the hub", 2 * SOON, made).await;
    let first = bucket.write(put("k", Some(1)), soon()).await.expect("the epoch is current");
    switch(&connect(&hub.url()).await, &name, 2).await.expect("the epoch is switched");
    let started = std::time::Instant::now();
    assert_eq!(moved(bucket.write(put("k", Some(1)), soon()).await), (Some(1), Some(2)));
    assert_eq!(moved(bucket.write(put("new", Some(1)).if_revision(Revision::ZERO), soon()).await), (Some(1), Some(2)));
    assert_eq!(moved(bucket.write(put("k", None), soon()).await), (None, Some(2)));
    println!("an old writer through a domain is refused after {:?}", started.elapsed() / 3);
    assert_eq!(newest(&bucket, "k").await, Some(first));
    let next = bucket.write(put("k", Some(2)).if_revision(first), soon()).await.expect("the epoch is current");
    assert!(next > first);
}

/// An update whose reply is lost reads the configuration back.
#[tokio::test]
async fn switch_survives_lost_replies() {
    needs!(WriteEpochs);
    let server = harness::shared().await;
    let proxy = Proxy::start(server.addr()).await;
    let backend = connect(&proxy.url()).await;
    let name = unique("epochs");
    let bucket = create(&backend, config(&name, WriteEpochs::Closed)).await;
    for epoch in 2..10 {
        let losing = async {
            // The later epochs lose later replies of the update.
            tokio::time::sleep(Duration::from_micros(200 * (epoch - 2))).await;
            proxy.set(Mode::DropReplies);
            let switched = async || {
                (stream(server, &name).await["metadata"]["switch"].as_str() == Some(&*epoch.to_string())).then_some(())
            };
            let _ = wait::within(SECOND / 2, switched).await;
            proxy.set(Mode::Pass);
        };
        let (switched, ()) = tokio::join!(switch(&backend, &name, epoch), losing);
        let config = switched.expect("the switch succeeds");
        assert_eq!((config.write_epoch, &config.metadata["switch"]), (Some(epoch), &epoch.to_string()));
        bucket.write(put("k", Some(epoch)), soon()).await.expect("the epoch is current");
    }
    assert!(proxy.dropped_replies() > 0, "some replies were lost");
}

/// A write whose acknowledgement is lost, and a write that arrives after the switch.
#[tokio::test]
async fn lost_acknowledgement_is_recovered_after_switch() {
    needs!(WriteEpochs);
    let server = harness::shared().await;
    let direct = connect(&server.url()).await;
    let proxy = Proxy::start(server.addr()).await;
    let backend = connect(&proxy.url()).await;
    let name = unique("epochs");
    let bucket = create(&backend, config(&name, WriteEpochs::Closed)).await;
    let control = open(&direct, &name).await;
    let write = |key: &str, epoch| {
        let (bucket, write) = (Arc::clone(&bucket), put(key, Some(epoch)));
        tokio::spawn(async move { bucket.write(write, soon()).await })
    };
    let stored = async |key: &str| wait::until("the write is stored", SOON, async || newest(&control, key).await).await;

    // Stored before the switch, and acknowledged to nobody.
    proxy.set(Mode::DropReplies);
    let lost = write("stored", 1);
    let revision = stored("stored").await;
    switch(&direct, &name, 2).await.expect("the epoch is switched");
    proxy.set(Mode::Pass);
    assert_eq!(lost.await.expect("no panic").expect("the write is recovered"), revision);

    // Sent before the switch, and received after it.
    proxy.set(Mode::Stall);
    let late = write("late", 2);
    tokio::task::yield_now().await;
    switch(&direct, &name, 3).await.expect("the epoch is switched");
    proxy.set(Mode::Pass);
    assert_eq!(moved(late.await.expect("no panic")), (Some(2), Some(3)));
    assert_eq!(newest(&control, "late").await, None);
}

/// Write epochs need every replica: one that lacks the transform would store acknowledged writes as no records.
#[tokio::test]
async fn existing_bucket_needs_all_replicas_for_write_epochs() {
    needs!(WriteEpochs);
    let cluster = Cluster::start(3).await;
    let name = unique("epochs");
    let backend = connect(&cluster.urls()).await;
    let mut plain = BucketConfig::new(&name);
    plain.replicas = Some(3);
    let bucket = create(&backend, plain).await;
    bucket.write(put("k", None), soon()).await.expect("the bucket has no epochs");
    let stream_name = format!("KV_{name}");
    let leader = cluster.leader_of(&stream_name).await.expect("the stream has a leader");
    // The client may be connected to the frozen server.
    let other = connect(&cluster.node(leader).url()).await;
    let follower = (leader + 1) % 3;
    cluster.node(follower).freeze();
    // The frozen server may lead the cluster, which then elects another leader before it answers.
    let election = Deadline::after(3 * SOON);
    let refused = other.update(config(&name, WriteEpochs::Open), election).await.expect_err("a replica is frozen");
    assert!(refused.is_retryable() && refused.to_string().contains(cluster.node(follower).name()), "{refused}");
    let found = open(&other, &name).await;
    assert_eq!((found.config().write_epochs, found.config().irregular.len()), (None, 0));
    cluster.node(follower).thaw();
    let limit = Deadline::after(3 * SOON);
    let enabled = async || other.update(config(&name, WriteEpochs::Open), limit).await.ok();
    let enabled = wait::until("every replica is current", 3 * SOON, enabled).await;
    let epoch = enabled.config().write_epoch;
    let writes = (0..100).map(|n| enabled.write(put(&format!("k{n}"), epoch), soon()));
    for written in futures::future::join_all(writes).await {
        written.expect("the epoch is current");
    }
    // Every replica stores the writes as records.
    for _ in 0..3 {
        let filter = json!({ "subjects_filter": ">" });
        let info = cluster.node(leader).api(&format!("$JS.API.STREAM.INFO.{stream_name}"), &filter).await;
        let subjects = info.expect("the server answers")["state"]["subjects"].clone();
        let subjects = subjects.as_object().expect("the subjects");
        assert_eq!(subjects.keys().filter(|subject| subject.starts_with(&format!("$KV.{name}."))).count(), 101);
        assert_eq!(subjects.len(), 101, "{subjects:?}");
        cluster.step_down(&stream_name).await;
    }
}

/// A batch that is staged in the old epoch is never committed.
#[tokio::test]
async fn batch_across_a_switch_is_refused() {
    needs!(Transactions);
    let server = harness::shared().await;
    let direct = connect(&server.url()).await;
    let proxy = Proxy::start(server.addr()).await;
    let backend = connect(&proxy.url()).await;
    let name = unique("epochs");
    let bucket = create(&backend, config(&name, WriteEpochs::Closed)).await;
    let batch = |epoch| Batch { writes: vec![put("a", Some(epoch)), put("b", Some(epoch))], preconditions: Vec::new() };
    bucket.commit(batch(1), soon()).await.expect("the epoch is current");
    proxy.set(Mode::Stall);
    let late = {
        let (bucket, batch) = (Arc::clone(&bucket), batch(1));
        tokio::spawn(async move { bucket.commit(batch, soon()).await })
    };
    tokio::task::yield_now().await;
    switch(&direct, &name, 2).await.expect("the epoch is switched");
    proxy.set(Mode::Pass);
    assert_eq!(moved(late.await.expect("no panic").map(|revisions| revisions[0])), (Some(1), Some(2)));
    let revisions = bucket.commit(batch(2), soon()).await.expect("the epoch is current");
    assert_eq!(revisions, [Revision::new(3), Revision::new(4)]);
}
