//! Streams that other clients and administrators create. Settings that a bucket must not have are reported and
//! repaired. A stream that is not a bucket is left alone. Limits of the server have their own error kinds.

use harness::Server;
use kvtyped::bucket::OpenBucket;
use kvtyped::codec::Bytes;
use kvtyped::config::{LimitMarkers, Source};
use kvtyped::prelude::*;
use kvtyped::{Error, ErrorKind, Storage};
use serde_json::{Value, json};

use crate::needs::needs;
use crate::support::{SOON, Session, SessionKey, World, unique};

async fn api(server: &Server, verb: &str, body: &Value) -> Value {
    let answer = server.api(&format!("$JS.API.{verb}"), body).await.expect("the server answers");
    assert!(answer["error"].is_null(), "{verb}: {answer}");
    answer
}

async fn config(server: &Server, bucket: &str) -> Value {
    api(server, &format!("STREAM.INFO.KV_{bucket}"), &Value::Null).await["config"].clone()
}

/// Creates the stream of a bucket with some other settings.
async fn make(server: &Server, bucket: &str, settings: &Value) {
    let mut config = json!({
        "name": format!("KV_{bucket}"), "subjects": [format!("$KV.{bucket}.>")], "max_msgs_per_subject": 1,
        "discard": "new", "allow_rollup_hdrs": true, "deny_delete": true, "allow_direct": true, "storage": "memory",
    });
    config.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    api(server, &format!("STREAM.CREATE.KV_{bucket}"), &config).await;
}

async fn fails(open: OpenBucket<Session>) -> Error {
    open.await.expect_err("it does not open")
}

fn differences(error: &Error) -> Vec<String> {
    let ErrorKind::Drift { differences } = error.kind() else { panic!("{error}") };
    differences.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn discard_old_is_drift_and_is_repaired() {
    let (server, World { store, .. }) = (harness::shared().await, World::nats().await);
    let name = unique("discards");
    make(server, &name, &json!({ "discard": "old", "max_msgs": 3 })).await;
    let open = || store.bucket::<Session>().name(&name);
    assert_eq!(differences(&fails(open()).await), ["discard: wanted new, found old"]);

    // An adopted stream keeps its behavior: ten acknowledged writes leave three records.
    let adopted = open().on_drift(Drift::Adopt).await.unwrap();
    for id in 0..10 {
        adopted.put(&Session::new("acme", id)).await.unwrap();
    }
    assert_eq!(adopted.keys(..).await.unwrap().try_collect::<Vec<_>>().await.unwrap().len(), 3);
    assert_eq!(adopted.status().await.unwrap().config.irregular.len(), 1);

    let repaired = open().on_drift(Drift::Update).await.unwrap();
    assert_eq!(repaired.config().irregular, []);
    let error = repaired.put(&Session::new("acme", 10)).await.expect_err("no record makes room for another");
    assert!(matches!(error.kind(), ErrorKind::BucketFull), "{error}");
    assert_eq!(repaired.keys(..).await.unwrap().try_collect::<Vec<_>>().await.unwrap().len(), 3);
    open().await.expect("nothing differs now");
}

#[tokio::test]
async fn drift_update_repairs_irregular_settings() {
    let (server, World { store, .. }) = (harness::shared().await, World::nats().await);
    let cases = |name: &str| {
        [
            (json!({ "retention": "interest" }), "retention: wanted limits, found interest".to_owned()),
            (
                json!({ "discard_new_per_subject": true }),
                "discard_new_per_subject: wanted false, found true".to_owned(),
            ),
            (json!({ "allow_rollup_hdrs": false }), "allow_rollup_hdrs: wanted true, found false".to_owned()),
            (json!({ "deny_delete": false }), "deny_delete: wanted true, found false".to_owned()),
            (json!({ "allow_direct": false }), "allow_direct: wanted true, found false".to_owned()),
            (json!({ "no_ack": true }), "no_ack: wanted false, found true".to_owned()),
            (
                json!({ "subject_transform": { "src": format!("$KV.{name}.>"), "dest": format!("moved.{name}.>") } }),
                format!("subject_transform: wanted none, found {{dest:moved.{name}.>,src:$KV.{name}.>}}"),
            ),
            (
                json!({ "subjects": [format!("$KV.{name}.eu.>")] }),
                format!("subjects: wanted [$KV.{name}.>], found [$KV.{name}.eu.>]"),
            ),
            (
                json!({ "subjects": [format!("$KV.{name}.>"), format!("more.{name}")] }),
                format!("subjects: wanted [$KV.{name}.>], found [$KV.{name}.>,more.{name}]"),
            ),
        ]
    };
    for case in 0..cases("").len() {
        let name = unique("irregular");
        let (settings, wanted) = cases(&name)[case].clone();
        make(server, &name, &settings).await;
        let open = || store.bucket::<Session>().name(&name);
        assert_eq!(differences(&fails(open()).await), std::slice::from_ref(&wanted));
        open().on_drift(Drift::Adopt).await.expect("it is adopted");
        assert_eq!(differences(&fails(open()).await), std::slice::from_ref(&wanted), "adopting changes nothing");
        let repaired = open().on_drift(Drift::Update).await.unwrap_or_else(|error| panic!("{wanted}: {error}"));
        let revision = repaired.put(&Session::new("acme", 1)).await.expect("it is written");
        let read = repaired.get(&SessionKey::new("acme", 1)).await.expect("it is read").expect("it is there");
        assert_eq!(read.revision(), revision, "{wanted}");
        repaired.purge(&SessionKey::new("acme", 1)).await.expect("it is purged");
        open().await.expect("nothing differs now");
    }
}

#[tokio::test]
async fn rejected_drift_update_changes_nothing() {
    let (server, World { store, .. }) = (harness::shared().await, World::nats().await);
    let cases = [
        json!({ "deny_purge": true, "allow_rollup_hdrs": false }),
        json!({ "retention": "workqueue" }),
        json!({ "sealed": true }),
    ];
    for settings in cases {
        let name = unique("stubborn");
        let sealed = settings["sealed"] == json!(true);
        make(server, &name, &if sealed { json!({}) } else { settings.clone() }).await;
        if sealed {
            let mut sealed = config(server, &name).await;
            sealed["sealed"] = json!(true);
            api(server, &format!("STREAM.UPDATE.KV_{name}"), &sealed).await;
        }
        let before = config(server, &name).await;
        let open = || store.bucket::<Session>().name(&name);
        assert!(!differences(&fails(open()).await).is_empty(), "{settings}");
        let error = fails(open().on_drift(Drift::Update)).await;
        let refused = matches!(error.kind(), ErrorKind::InvalidConfig { .. } | ErrorKind::Unsupported { .. });
        assert!(refused && error.outcome() == Outcome::NotApplied, "{settings}: {error}");
        assert_eq!(config(server, &name).await, before);
    }
}

/// A sealed bucket, or a bucket without purges, refuses with a definite outcome.
#[tokio::test]
async fn stream_refusals_have_definite_outcome() {
    let (server, World { store, .. }) = (harness::shared().await, World::nats().await);
    let name = unique("no_rollup");
    make(server, &name, &json!({ "allow_rollup_hdrs": false })).await;
    let sessions = store.bucket::<Session>().name(&name).on_drift(Drift::Adopt).await.unwrap();
    let key = SessionKey::new("acme", 1);
    sessions.put(&Session::new("acme", 1)).await.unwrap();
    let definite = |what: &str, error: Error| {
        let unsupported = matches!(error.kind(), ErrorKind::Unsupported { .. });
        assert!(unsupported && error.outcome() == Outcome::NotApplied, "{what}: {error:?}");
    };
    definite("purge", sessions.purge(&key).await.expect_err("no rollup is allowed"));

    let mut sealed = config(server, &name).await;
    sealed["sealed"] = json!(true);
    api(server, &format!("STREAM.UPDATE.KV_{name}"), &sealed).await;
    let current = sessions.get(&key).await.unwrap().expect("a sealed bucket is read");
    definite("put", sessions.put(&Session::new("acme", 2)).await.expect_err("it is sealed"));
    definite("update", sessions.update(&current, current.revision()).await.expect_err("it is sealed"));
    definite("delete", sessions.delete(&key).await.expect_err("it is sealed"));
}

#[tokio::test]
async fn source_without_mapping_is_drift_and_repaired() {
    let (server, World { store, .. }) = (harness::shared().await, World::nats().await);
    let one: Bucket<Session> = store.bucket().name(unique("one")).await.unwrap();
    one.put(&Session::new("acme", 1)).await.unwrap();
    let name = unique("collects");
    make(server, &name, &json!({ "sources": [{ "name": format!("KV_{}", one.name()) }] })).await;
    let open = || store.bucket::<Session>().name(&name);
    assert!(differences(&fails(open()).await)[0].starts_with("sources: "));
    let all = open().on_drift(Drift::Update).await.unwrap();
    one.put(&Session::new("acme", 2)).await.unwrap();
    harness::wait::until("the record arrives", SOON, async || {
        all.get(&SessionKey::new("acme", 2)).await.unwrap().map(drop)
    })
    .await;
    open().sources([Source::new(one.name())]).await.expect("nothing differs now");
}

#[tokio::test]
async fn non_bucket_streams_are_not_listed_or_deleted() {
    let (server, World { store, .. }) = (harness::shared().await, World::nats().await);
    let [endless, foreign, regular] = [unique("endless"), unique("foreign"), unique("regular")];
    make(server, &endless, &json!({ "max_msgs_per_subject": -1, "discard_new_per_subject": false })).await;
    make(server, &foreign, &json!({ "subjects": [format!("{foreign}.>")] })).await;
    make(server, &regular, &json!({})).await;
    let mirror = store.bucket::<Session>().name(unique("mirror")).mirror(Source::new(&regular)).await.unwrap();
    let listed = store.buckets().await.unwrap();
    for (name, wanted) in [(&*endless, false), (&*foreign, false), (&*regular, true), (mirror.name(), true)] {
        assert_eq!(listed.iter().any(|listed| listed == name), wanted, "{name}");
    }
    for name in [&endless, &foreign] {
        let error = store.delete_bucket(name).await.expect_err("it is not a bucket");
        assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error}");
        config(server, name).await;
    }
}

#[tokio::test]
async fn account_limits_are_reported_as_limit_reached() {
    let account = "accounts { A { users: [{ user: a, password: a }]
        jetstream { max_mem: 64KB, max_file: 64KB, max_streams: 1, max_consumers: 1 } } }";
    let server = Server::builder().config(account).auth().start().await;
    let url = format!("nats://a:a@{}", server.addr());
    let store = harness::wait::until("JetStream answers", SOON, async || {
        let store = Store::connect(&url).await.ok()?;
        store.buckets().await.ok().map(|_| store)
    })
    .await;
    let reached = |what: &str, error: Error| {
        let is_limit = matches!(error.kind(), ErrorKind::LimitReached { .. });
        assert!(is_limit && error.outcome() == Outcome::NotApplied, "{what}: {error:?}");
    };
    let documents: Bucket<Blob> = store.bucket().storage(Storage::Memory).await.unwrap();
    reached("a second bucket", fails(store.bucket::<Session>().storage(Storage::Memory)).await);

    let full = async {
        for id in 0.. {
            if let Err(error) = documents.put(&Blob { id, bytes: vec![7; 4_000] }).await {
                return error;
            }
        }
        unreachable!()
    };
    reached("a write", tokio::time::timeout(SOON, full).await.expect("64 KB are full soon"));

    let mut first = documents.watch(..).await.unwrap();
    first.next().await.expect("an event").unwrap();
    reached("a second watch", documents.watch(..).await.expect_err("one consumer is allowed"));
    drop(first);
}

/// A value of any size.
#[derive(Clone, Debug, PartialEq, KvModel)]
#[kv(key = "{id}", codec = Bytes)]
struct Blob {
    id: u64,
    #[kv(value)]
    bytes: Vec<u8>,
}

#[tokio::test]
async fn listings_respect_consumer_limits() {
    // The limits of a stream.
    let shared = harness::shared().await;
    let name = unique("narrow");
    make(
        shared,
        &name,
        &json!({ "consumer_limits": { "inactive_threshold": 2_000_000_000_u64, "max_ack_pending": 3 } }),
    )
    .await;
    lists_all(&World::nats().await.store, &name).await;

    // The limits of an account, which the stream does not show.
    let account = "accounts { A { users: [{ user: a, password: a }], jetstream { max_ack_pending: 5 } } }";
    let server = Server::builder().config(account).auth().start().await;
    let url = format!("nats://a:a@{}", server.addr());
    let store = harness::wait::until("JetStream answers", SOON, async || {
        let store = Store::connect(&url).await.ok()?;
        store.buckets().await.ok().map(|_| store)
    })
    .await;
    lists_all(&store, "narrow").await;
}

async fn lists_all(store: &Store, name: &str) {
    let sessions: Bucket<Session> = store.bucket().name(name).await.unwrap();
    let all: Vec<_> = (0..100).map(|id| Session::new("acme", id)).collect();
    sessions.put_many(&all).await.unwrap();
    let listed = async { sessions.list(..).await?.try_collect::<Vec<_>>().await };
    assert_eq!(tokio::time::timeout(SOON, listed).await.expect("the listing ends").unwrap().len(), 100);
    assert_eq!(sessions.count(..).await.unwrap(), 100);
    let counted = sessions.count(SessionKey::filter().tenant("acme")).await.unwrap();
    assert_eq!(counted, 100);
    let mut events = sessions.watch(..).await.unwrap();
    let seen = tokio::time::timeout(SOON, crate::support::listing(&mut events)).await.expect("the watch is ready");
    assert_eq!(seen.len(), 100);
}

/// One revision of each key and no markers, like the defaults of other clients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", history = 1, limit_markers = "off")]
struct Plain {
    id: u64,
}

#[tokio::test]
async fn model_and_builder_disable_limit_markers() {
    needs!(LimitMarkers);
    for world in [World::memory(), World::nats().await] {
        assert_eq!(Plain::settings().limit_markers, Some(Duration::ZERO));
        let plain: Bucket<Plain> = world.fresh().await.unwrap();
        assert_eq!(plain.config().limit_markers, None);
        let error = plain.put(&Plain { id: 1 }).ttl(Duration::from_secs(60)).await.expect_err("no markers, no TTL");
        assert!(matches!(error.kind(), ErrorKind::Unsupported { .. }), "{error}");
        let open = || world.store.bucket::<Plain>().name(plain.name());
        open().await.expect("nothing differs");
        let marked = open().limit_markers(Duration::from_secs(60)).on_drift(Drift::Update).await.unwrap();
        assert_eq!(marked.config().limit_markers, Some(Duration::from_secs(60)));
        let error = open().await.expect_err("markers are on");
        let ErrorKind::Drift { differences } = error.kind() else { panic!("{error}") };
        assert_eq!(differences[0].to_string(), "limit_markers: wanted off, found 60s");
        let off = open().limit_markers(LimitMarkers::Off).on_drift(Drift::Update).await.unwrap();
        assert_eq!(off.config().limit_markers, None);
        open().await.expect("nothing differs now");
    }
}

/// Another client creates the same bucket with its own defaults: the server compares whole configurations.
#[tokio::test]
async fn plain_bucket_matches_defaults_of_other_clients() {
    let World { store, .. } = World::nats().await;
    let client = async_nats::connect(harness::shared().await.url()).await.unwrap();
    let jetstream = async_nats::jetstream::new(client);
    let create = async |bucket: &str| {
        let defaults =
            async_nats::jetstream::kv::Config { bucket: bucket.to_owned(), history: 1, ..Default::default() };
        jetstream.create_key_value(defaults).await
    };
    let plain = store.bucket::<Plain>().name(unique("plain")).atomic(false).without_card().await.unwrap();
    plain.put(&Plain { id: 7 }).await.unwrap();
    let theirs = create(plain.name()).await.expect("the server takes the same configuration twice");
    assert!(theirs.get("7").await.unwrap().is_some());
    // The control: the defaults of this crate differ.
    let ours = store.bucket::<Session>().name(unique("ours")).await.unwrap();
    if ours.config().limit_markers.is_some() {
        create(ours.name()).await.expect_err("the configurations differ");
    }
}
