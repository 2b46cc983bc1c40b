//! Features of servers: domains, mirrors and sources, settings of other clients, old versions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use harness::{Server, wait};
use kvtyped::backend::nats::{NatsBackend, NatsOptions};
use kvtyped::bucket::OpenBucket;
use kvtyped::config::{Placement, Republish, Source};
use kvtyped::conformance::{self, BackendUnderTest};
use kvtyped::prelude::*;
use kvtyped::{Error, ErrorKind, Read, Version};
use serde_json::{Value, json};

use crate::needs::needs;
use crate::support::{Document, DocumentKey, OLD, Session, SessionKey, World, unique};

const SECOND: Duration = Duration::from_secs(1);
/// The time limit for background work of a server.
const SOON: Duration = Duration::from_secs(10);

/// Returns the information of a bucket's stream.
async fn info(server: &Server, bucket: &str) -> Value {
    server.api(&format!("$JS.API.STREAM.INFO.KV_{bucket}"), &Value::Null).await.expect("the server answers")
}

/// Creates a stream, like another client.
async fn make_stream(server: &Server, config: &Value) {
    let name = config["name"].as_str().expect("a name");
    let answer = server.api(&format!("$JS.API.STREAM.CREATE.{name}"), config).await.expect("the server answers");
    assert!(answer["error"].is_null(), "{answer}");
}

/// Returns the stream configuration of a bucket, as old clients create it.
fn plain_stream(bucket: &str) -> Value {
    json!({
        "name": format!("KV_{bucket}"), "subjects": [format!("$KV.{bucket}.>")], "max_msgs_per_subject": 1,
        "discard": "new", "allow_rollup_hdrs": true, "deny_delete": true, "allow_direct": true,
        "retention": "limits", "storage": "memory", "num_replicas": 1, "max_msgs": -1, "max_bytes": -1,
        "max_consumers": -1, "max_msg_size": -1,
    })
}

async fn fails<T: KvModel>(open: OpenBucket<T>) -> Error {
    match open.await {
        Ok(_) => panic!("it opens"),
        Err(error) => error,
    }
}

async fn visits(sessions: &Bucket<Session>, id: u64) -> Option<u32> {
    let entry = sessions.get(&SessionKey::new("acme", id)).await.expect("it reads");
    entry.map(|session| session.visits)
}

/// Uses every basic verb in a new bucket.
async fn every_verb_works(store: &Store) {
    let name = unique("verbs");
    let sessions: Bucket<Session> = store.bucket().name(&name).must_create().await.unwrap();
    assert!(store.buckets().await.unwrap().contains(&name));
    let session = Session::new("acme", 1);
    let key = session.key();

    let first = sessions.create(&session).await.unwrap();
    let second = sessions.update(&session.clone().visited(1), first).await.unwrap();
    assert!(sessions.update(&session, first).await.unwrap_err().is_conflict());
    for read in [Read::Any, Read::Leader, Read::AtLeast(second)] {
        let entry = sessions.get(&key).read(read).await.unwrap().expect("written");
        assert_eq!((entry.visits, entry.revision()), (1, second));
    }
    assert_eq!(sessions.get(&key).at(second).await.unwrap().expect("kept").visits, 1);
    assert_eq!(sessions.modify(&key, |session| session.visits += 1).await.unwrap().visits, 2);
    sessions.put(&Session::new("acme", 2)).await.unwrap();
    sessions.put(&Session::new("beta", 3)).await.unwrap();
    let acme: Vec<_> = sessions.list(SessionKey::filter().tenant("acme")).await.unwrap().try_collect().await.unwrap();
    assert_eq!(acme.iter().map(|session| session.id).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(sessions.keys(..).await.unwrap().try_collect::<Vec<_>>().await.unwrap().len(), 3);
    sessions.delete(&key).await.unwrap();
    sessions.purge(&SessionKey::new("acme", 2)).await.unwrap();
    assert_eq!(sessions.get(&key).await.unwrap(), None);
    assert!(matches!(
        sessions.history(&key).await.unwrap().as_slice(),
        [Version::Removed { reason: Removed::Deleted, .. }]
    ));
    sessions.create(&session).await.expect("a deleted key can be created");
    assert_eq!(sessions.status().await.unwrap().values, 3);
    sessions.destroy().await.unwrap();
    assert!(!store.buckets().await.unwrap().contains(&name));
}

#[tokio::test]
async fn every_verb_works_in_jetstream_domain() {
    let server = Server::builder().jetstream("domain: hub").start().await;
    every_verb_works(&Store::connect(format!("{}?domain=hub", server.url())).await.unwrap()).await;
    every_verb_works(&Store::connect(format!("{}?prefix=$JS.hub.API", server.url())).await.unwrap()).await;
    let client = async_nats::connect(server.url()).await.unwrap();
    every_verb_works(&Store::from_client_with(client, NatsOptions::new().domain("hub")).unwrap()).await;

    let other_store = Store::connect(format!("{}?domain=nowhere", server.url())).timeout(2 * SECOND).await.unwrap();
    let error = fails(other_store.bucket::<Session>()).await;
    assert!(error.to_string().contains("$JS.nowhere.API"), "{error}");
}

#[tokio::test]
async fn mirror_reads_copies_and_writes_to_origin() {
    let World { store, .. } = World::nats().await;
    let origin: Bucket<Session> = store.bucket().name(unique("origin")).await.unwrap();
    let session = Session::new("acme", 1);
    origin.put(&session.clone().visited(1)).await.unwrap();

    let name = unique("mirror");
    let open = || store.bucket::<Session>().name(&name).mirror(Source::new(origin.name()));
    let mirror = open().await.unwrap();
    assert_eq!(mirror.config().mirror, Some(Source::new(origin.name())));
    let caught_up = async || visits(&mirror, 1).await.filter(|visits| *visits == 1);
    wait::until("the mirror has the record", SOON, caught_up).await;

    let revision = mirror.put(&session.clone().visited(2)).await.unwrap();
    // A mirror answers direct gets of its origin too, and may lag. Reads by the leader do not.
    let entry = origin.get(&session.key()).read(Read::Leader).await.unwrap().expect("written through the mirror");
    assert_eq!((entry.visits, entry.revision()), (2, revision));
    for read in [Read::Leader, Read::AtLeast(revision)] {
        let entry = mirror.get(&session.key()).read(read).await.unwrap().expect("written through the mirror");
        assert_eq!((entry.visits, entry.revision(), entry.key()), (2, revision, &session.key()));
    }
    assert_eq!(mirror.get(&session.key()).at(revision).await.unwrap().expect("kept").visits, 2);
    let newer = origin.update(&session.clone().visited(3), revision).await.unwrap();
    let error = mirror.update(&session, revision).await.unwrap_err();
    let ErrorKind::Conflict { actual, .. } = error.kind() else { panic!("{error}") };
    assert_eq!(*actual, Some(newer));
    assert_eq!(mirror.modify(&session.key(), |session| session.visits += 1).await.unwrap().visits, 4);
    let error = mirror.create(&session).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::AlreadyExists), "{error}");
    wait::until("the mirror lists it", SOON, async || {
        let all: Vec<_> = mirror.list(..).await.unwrap().try_collect().await.unwrap();
        (all.len() == 1 && all[0].visits == 4).then_some(())
    })
    .await;
    mirror.delete(&session.key()).await.unwrap();
    assert_eq!(origin.get(&session.key()).read(Read::Leader).await.unwrap(), None);

    assert!(store.buckets().await.unwrap().contains(&name));
    open().await.expect("nothing differs");
    assert_eq!(mirror.status().await.unwrap().config.mirror, Some(Source::new(origin.name())));
}

#[tokio::test]
async fn mirror_copies_only_filtered_keys() {
    let World { store, .. } = World::nats().await;
    let origin: Bucket<Session> = store.bucket().name(unique("origin")).await.unwrap();
    origin.put(&Session::new("acme", 1)).await.unwrap();
    origin.put(&Session::new("beta", 2)).await.unwrap();
    let mirror = Source::new(origin.name()).keys("beta.>");
    let mirror = store.bucket::<Session>().name(unique("mirror")).mirror(mirror).await.unwrap();
    let beta = SessionKey::new("beta", 2);
    wait::until("the mirror has the record", SOON, async || mirror.get(&beta).await.unwrap()).await;
    assert_eq!(mirror.keys(..).await.unwrap().try_collect::<Vec<_>>().await.unwrap(), [beta]);
}

#[tokio::test]
async fn bucket_collects_sources_and_accepts_writes() {
    let World { store, .. } = World::nats().await;
    let one: Bucket<Session> = store.bucket().name(unique("one")).await.unwrap();
    let two: Bucket<Session> = store.bucket().name(unique("two")).await.unwrap();
    one.put(&Session::new("acme", 1).visited(1)).await.unwrap();
    two.put(&Session::new("acme", 2).visited(2)).await.unwrap();
    two.put(&Session::new("beta", 3)).await.unwrap();

    let name = unique("all");
    let sources = || [Source::new(one.name()), Source::new(two.name()).keys("acme.*")];
    let open = || store.bucket::<Session>().name(&name).sources(sources());
    let all = open().await.unwrap();
    assert_eq!(all.config().sources, sources());
    all.put(&Session::new("own", 4)).await.unwrap();
    wait::until("the records of both are there", SOON, async || {
        let mut ids: Vec<_> = all.list(..).await.unwrap().map_ok(|entry| entry.id).try_collect().await.unwrap();
        ids.sort_unstable();
        (ids == [1, 2, 4]).then_some(())
    })
    .await;
    assert_eq!((visits(&all, 1).await, visits(&all, 2).await), (Some(1), Some(2)));

    // A copied record can be changed here, and stays unchanged in its source.
    all.modify(&SessionKey::new("acme", 1), |session| session.visits = 9).await.unwrap();
    assert_eq!((visits(&all, 1).await, visits(&one, 1).await), (Some(9), Some(1)));
    one.delete(&SessionKey::new("acme", 1)).await.unwrap();
    wait::until("the delete is there", SOON, async || visits(&all, 1).await.is_none().then_some(())).await;
    open().await.expect("nothing differs");
}

#[tokio::test]
async fn drift_update_keeps_unknown_settings() {
    let server = harness::shared().await;
    let World { store, .. } = World::nats().await;
    let name = unique("rich");
    let mut config = plain_stream(&name);
    let mut unknown = json!({
        "allow_atomic": true, "allow_batched": true, "duplicate_window": 30_000_000_000_u64,
        "consumer_limits": { "inactive_threshold": 600_000_000_000_u64, "max_ack_pending": 77 },
        "metadata": { "team": "core" }, "max_consumers": 50, "max_msgs": 5000, "first_seq": 100,
        "allow_msg_ttl": true, "subject_delete_marker_ttl": 60_000_000_000_u64,
        "republish": { "src": format!("$KV.{name}.>"), "dest": format!("out.{name}.>"), "headers_only": true },
    });
    let since = [
        ("allow_batched", [2, 14, 0]),
        ("allow_atomic", [2, 12, 0]),
        ("allow_msg_ttl", [2, 11, 0]),
        ("subject_delete_marker_ttl", [2, 11, 0]),
    ];
    for (field, _) in since.iter().filter(|(_, since)| harness::binary::version() < *since) {
        unknown.as_object_mut().expect("an object").remove(*field);
    }
    config.as_object_mut().expect("an object").extend(unknown.as_object().expect("an object").clone());
    make_stream(server, &config).await;
    let before = info(server, &name).await["config"].clone();
    for (field, value) in unknown.as_object().expect("an object").iter().filter(|(field, _)| *field != "metadata") {
        assert_eq!(&before[field], value, "the server takes {field}");
    }

    let open = || store.bucket::<Session>().name(&name).on_drift(Drift::Update);
    let sessions = open().description("changed").metadata("tier", "gold").await.unwrap();
    sessions.put(&Session::new("acme", 1)).await.unwrap();
    let after = info(server, &name).await["config"].clone();
    let mut wanted = before;
    wanted["description"] = json!("changed");
    wanted["metadata"]["tier"] = json!("gold");
    assert_eq!(after, wanted);
    open().await.unwrap();
    assert_eq!(info(server, &name).await["config"], wanted);
}

#[tokio::test]
async fn store_close_keeps_application_client_open() {
    let client = async_nats::connect(harness::shared().await.url()).await.unwrap();
    let store = Store::from_client(client.clone());
    every_verb_works(&store).await;
    store.close().await.unwrap();
    let error = fails(store.bucket::<Session>()).await;
    assert!(matches!(error.kind(), ErrorKind::Closed), "{error}");
    let mut inbox = client.subscribe("still.open").await.unwrap();
    client.publish("still.open", "yes".into()).await.unwrap();
    let message = tokio::time::timeout(SOON, inbox.next()).await.unwrap().expect("the subscription lives");
    assert_eq!(&*message.payload, b"yes");
}

#[tokio::test]
async fn republish_forwards_written_records() {
    let World { store, .. } = World::nats().await;
    let client = async_nats::connect(harness::shared().await.url()).await.unwrap();
    let name = unique("loud");
    let mut received = client.subscribe(format!("heard.{name}.>")).await.unwrap();
    client.flush().await.unwrap();
    let republish = Republish::new(format!("$KV.{name}.>"), format!("heard.{name}.>"));
    let documents = store.bucket::<Document>().name(&name).republish(republish.clone()).await.unwrap();
    assert_eq!(documents.config().republish, Some(republish));
    let revision = documents.put(&Document::new("a", "one")).await.unwrap();
    let message = tokio::time::timeout(SOON, received.next()).await.unwrap().expect("the subscription lives");
    assert_eq!(message.subject.as_str(), format!("heard.{name}.doc.a"));
    let value: Value = serde_json::from_slice(&message.payload).unwrap();
    assert_eq!(value, json!({ "name": "a", "text": "one" }));
    let sequence = message.headers.as_ref().and_then(|headers| headers.get("Nats-Sequence")).expect("its revision");
    assert_eq!(sequence.as_str(), revision.to_string());
}

#[tokio::test]
async fn unsatisfiable_placement_is_rejected() {
    // A standalone server accepts any placement.
    let World { store, .. } = World::nats().await;
    store.bucket::<Session>().name(unique("placed")).placement(Placement::tags(["ssd"])).await.unwrap();

    let cluster = Store::connect(harness::cluster::shared().await.urls()).await.unwrap();
    for place in [Placement::tags(["no-such-tag"]), Placement::cluster("nowhere")] {
        let error = fails(cluster.bucket::<Session>().name(unique("placed")).placement(place)).await;
        assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error}");
        assert!(error.to_string().contains("placement") || error.to_string().contains("peers"), "{error}");
    }
    let error = fails(store.bucket::<Session>().name(unique("placed")).replicas(3)).await;
    assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error}");
}

#[tokio::test]
async fn opening_non_bucket_stream_is_rejected() {
    let server = harness::shared().await;
    let World { store, .. } = World::nats().await;
    let endless = unique("endless");
    make_stream(server, &json!({ "name": format!("KV_{endless}"), "subjects": [format!("{endless}.>")] })).await;
    let foreign = unique("foreign");
    let subjects = json!([format!("{foreign}.>")]);
    make_stream(server, &json!({ "name": format!("KV_{foreign}"), "subjects": subjects, "max_msgs_per_subject": 1 }))
        .await;
    for name in [endless, foreign] {
        for error in [
            fails(store.bucket::<Session>().name(&name)).await,
            fails(store.bucket::<Session>().name(&name).must_exist().on_drift(Drift::Adopt)).await,
            fails(store.bucket::<Session>().name(&name).on_drift(Drift::Update)).await,
        ] {
            assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error}");
            assert!(error.to_string().contains(&format!("`KV_{name}` is not a bucket")), "{error}");
        }
    }
}

#[tokio::test]
async fn server_without_jetstream_is_unsupported() {
    let server = Server::builder().no_jetstream().start().await;
    let store = Store::connect(server.url()).await.unwrap();
    let start = Instant::now();
    for error in [fails(store.bucket::<Session>()).await, store.buckets().await.unwrap_err()] {
        assert!(matches!(error.kind(), ErrorKind::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains("JetStream") && error.to_string().contains("-js"), "{error}");
    }
    assert!(start.elapsed() < 5 * SECOND, "{:?}", start.elapsed());
}

#[tokio::test]
async fn list_deletes_its_consumer() {
    let server = harness::shared().await;
    let sessions = World::nats().await.bucket::<Session>().await;
    // One request returns up to 1,024 keys, without a consumer.
    let records: Vec<_> = (0..1_500).map(|id| Session::new("acme", id)).collect();
    let puts = records.iter().map(|session| sessions.put(session).into_future());
    futures::future::try_join_all(puts).await.unwrap();
    let consumers = async || info(server, sessions.name()).await["state"]["consumer_count"].as_u64().expect("a count");
    let none = async || {
        wait::until("no consumer is left", 3 * SECOND, async || (consumers().await == 0).then_some(())).await;
    };

    let mut list = sessions.list(..).await.unwrap();
    assert!(list.try_next().await.unwrap().is_some());
    assert_eq!(consumers().await, 1);
    drop(list);
    none().await;

    let mut list = sessions.list(..).await.unwrap();
    while list.try_next().await.unwrap().is_some() {}
    none().await;
    drop(list);

    let mut keys = sessions.keys(..).await.unwrap();
    assert!(keys.try_next().await.unwrap().is_some());
    drop(keys);
    assert_eq!(sessions.history(&SessionKey::new("acme", 1)).await.unwrap().len(), 1);
    none().await;
}

#[tokio::test]
async fn connect_tries_next_server() {
    let server = harness::shared().await;
    let store = Store::connect(format!("nats://127.0.0.1:1,{}", server.url())).await.unwrap();
    every_verb_works(&store).await;
    let error = Store::connect("nats://127.0.0.1:1,nats://127.0.0.1:2").await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unavailable { .. }), "{error}");
}

#[tokio::test]
async fn bucket_without_direct_get_is_readable() {
    let server = harness::shared().await;
    let World { store, .. } = World::nats().await;
    let name = unique("indirect");
    let mut config = plain_stream(&name);
    config["allow_direct"] = json!(false);
    config["max_msgs_per_subject"] = json!(10);
    make_stream(server, &config).await;
    let documents: Bucket<Document> = store.bucket().name(&name).on_drift(Drift::Adopt).await.unwrap();
    let key = DocumentKey::new("a");
    assert_eq!(documents.get(&key).await.unwrap(), None);
    let first = documents.put(&Document::new("a", "one")).await.unwrap();
    let second = documents.put(&Document::new("a", "two")).await.unwrap();
    for read in [Read::Any, Read::Leader, Read::AtLeast(second)] {
        assert_eq!(documents.get(&key).read(read).await.unwrap().expect("put").text, "two");
    }
    assert_eq!(documents.get(&key).at(first).await.unwrap().expect("kept").text, "one");
    assert_eq!(documents.get(&DocumentKey::new("b")).at(first).await.unwrap(), None);
    assert_eq!(documents.get(&key).at(Revision::new(99)).await.unwrap(), None);
    assert_eq!(documents.history(&key).await.unwrap().len(), 2);
    assert_eq!(info(server, &name).await["config"]["allow_direct"], json!(false), "it is as it was");
}

#[tokio::test]
async fn ttl_without_limit_markers_names_remedy() {
    needs!(RecordTtl);
    let server = harness::shared().await;
    let World { store, .. } = World::nats().await;
    let name = unique("unmarked");
    make_stream(server, &plain_stream(&name)).await;
    let open = || store.bucket::<Session>().name(&name);
    let sessions = open().await.expect("it is a bucket as it is");
    let session = Session::new("acme", 1);
    let error = sessions.create(&session).ttl(5 * SECOND).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unsupported { .. }), "{error}");
    assert!(error.to_string().contains("limit_markers"), "{error}");
    assert_eq!(error.outcome(), Outcome::NotApplied);
    assert_eq!(sessions.get(&session.key()).await.unwrap(), None);

    let marked = open().limit_markers(60 * SECOND).on_drift(Drift::Update).await.unwrap();
    marked.create(&session).ttl(5 * SECOND).await.expect("the remedy helps");
}

#[tokio::test]
async fn old_server_supports_all_verbs_without_ttl() {
    let server = Server::builder().version(OLD).start().await;
    let store = Store::connect(server.url()).await.unwrap();
    every_verb_works(&store).await;
    let sessions: Bucket<Session> = store.bucket().name(unique("old")).await.unwrap();
    assert_eq!(sessions.config().limit_markers, None, "the library requests no feature that the server lacks");
    let session = Session::new("acme", 1);
    for error in [
        sessions.create(&session).ttl(5 * SECOND).await.unwrap_err(),
        sessions.put(&session).ttl(5 * SECOND).await.unwrap_err(),
        fails(store.bucket::<Session>().name(unique("old")).limit_markers(60 * SECOND)).await,
        fails(store.bucket::<Session>().name(sessions.name()).limit_markers(60 * SECOND).on_drift(Drift::Update)).await,
    ] {
        assert!(matches!(error.kind(), ErrorKind::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains("2.11"), "{error}");
        assert_eq!(error.outcome(), Outcome::NotApplied);
    }
    assert_eq!(sessions.get(&session.key()).await.unwrap(), None, "nothing is stored without its TTL");
}

#[tokio::test]
async fn conformance_holds_on_old_server() {
    let server = Server::builder().version(OLD).start().await;
    let backend = NatsBackend::connect(&server.url(), NatsOptions::new()).await.unwrap();
    conformance::run_all(&BackendUnderTest::new(Arc::new(backend)).keep_alive(server)).await;
}
