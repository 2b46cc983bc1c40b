//! Interoperability with an independent client: nats.py.

use std::time::Duration;

use kvtyped::bucket::OpenBucket;
use kvtyped::codec::Text;
use kvtyped::config::{Republish, WriteEpochs};
use kvtyped::prelude::*;
use kvtyped::{ErrorKind, KvVersion, Read, Storage, Ttl, Version};
use serde_json::{Value, json};

use crate::needs::needs;
use crate::support::{Document, DocumentKey, RawSession, Session, SessionKey, World, seen_as, unique};

const SECOND: Duration = Duration::from_secs(1);

/// Runs steps with nats.py and returns the result of each; see the script.
async fn python(bucket: &str, steps: Value) -> Vec<Value> {
    let url = harness::shared().await.url();
    let printed = harness::python::run(include_str!("interop/client.py"), &[&url, bucket, &steps.to_string()]).await;
    serde_json::from_str(&printed).expect("the script prints a list")
}

/// Returns the configuration of a bucket's stream, as the server reports it.
async fn stream(bucket: &str) -> serde_json::Map<String, Value> {
    let subject = format!("$JS.API.STREAM.INFO.KV_{bucket}");
    let info = harness::shared().await.api(&subject, &Value::Null).await.expect("the server answers");
    info["config"].as_object().unwrap_or_else(|| panic!("no stream: {info}")).clone()
}

fn revisions(found: &[Version<Document>]) -> Vec<u64> {
    found.iter().map(|version| version.revision().get()).collect()
}

/// A setting that is stored as plain text.
#[derive(Clone, Debug, PartialEq, KvModel)]
#[kv(key = "setting.{name}", codec = Text)]
struct Setting {
    name: String,
    #[kv(value)]
    text: String,
}

/// Records with a TTL, in a format that Python reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(key = "lease.{id}", history = 1)]
struct Lease {
    id: u64,
}

/// A client that does not know write epochs writes to an open bucket and not to a closed one. It reads both.
#[tokio::test]
async fn nats_py_writes_only_to_bucket_with_open_epochs() {
    needs!(WriteEpochs);
    let World { store, .. } = World::nats().await;
    for (epochs, is_open) in [(WriteEpochs::Open, true), (WriteEpochs::Closed, false)] {
        let name = unique("epochs");
        let documents: Bucket<Document> = store.bucket().name(&name).write_epochs(epochs).await.unwrap();
        documents.put(&Document { name: "a".into(), text: "ours".into() }).await.unwrap();
        let theirs = json!({ "name": "a", "text": "theirs" }).to_string();
        let steps =
            json!([["get", "doc.a"], ["put", "doc.a", theirs], ["update", "doc.a", theirs, 1], ["delete", "doc.a"]]);
        let reported = python(documents.name(), steps).await;
        assert_eq!(reported[0]["revision"], 1, "{reported:?}");
        for (step, wanted) in [(1, json!(2)), (3, json!(true))] {
            match is_open {
                true => assert_eq!(reported[step], wanted, "{reported:?}"),
                false => assert!(reported[step]["error"].is_string(), "{reported:?}"),
            }
        }
        let found = documents.get(&DocumentKey::new("a")).read(Read::Leader).await.unwrap();
        assert_eq!(found.map(|entry| entry.text.clone()), (!is_open).then(|| "ours".to_owned()));
    }
}

#[tokio::test]
async fn records_written_by_nats_py_are_read() {
    let documents = World::nats().await.bucket::<Document>().await;
    let text = |text: &str| json!({ "name": "a", "text": text }).to_string();
    let reported = python(
        documents.name(),
        json!([
            ["put", "doc.a", text("one")],
            ["update", "doc.a", text("two"), 1],
            ["delete", "doc.a"],
            ["create", "doc.a", text("three")],
        ]),
    )
    .await;
    assert_eq!(reported, [json!(1), json!(2), json!(true), json!(4)]);

    let key = DocumentKey::new("a");
    for read in [Read::Any, Read::Leader] {
        let entry = documents.get(&key).read(read).await.unwrap().expect("nats.py created it");
        assert_eq!((entry.text.as_str(), entry.revision().get(), entry.key()), ("three", 4, &key));
        assert!(entry.created().elapsed().unwrap_or_default() < 60 * SECOND);
    }
    let past = documents.history(&key).await.unwrap();
    assert_eq!(revisions(&past), [1, 2, 3, 4]);
    assert_eq!(past[1].entry().expect("an update").text, "two");
    assert!(matches!(past[2], Version::Removed { reason: Removed::Deleted, .. }), "{past:?}");
    assert_eq!(documents.get(&key).at(Revision::new(2)).await.unwrap().expect("kept").text, "two");

    let reported = python(documents.name(), json!([["purge", "doc.a"], ["put", "doc.b", text("four")]])).await;
    assert_eq!(reported, [json!(true), json!(6)]);
    assert_eq!(documents.get(&key).await.unwrap(), None);
    let past = documents.history(&key).await.unwrap();
    assert!(matches!(past.as_slice(), [Version::Removed { reason: Removed::Purged, .. }]), "{past:?}");
    let all: Vec<_> = documents.keys(..).await.unwrap().try_collect().await.unwrap();
    assert_eq!(all, [DocumentKey::new("b")]);
}

#[tokio::test]
async fn nats_py_reads_kvtyped_records() {
    let documents = World::nats().await.bucket::<Document>().await;
    let key = DocumentKey::new("a");
    let first = documents.create(&Document::new("a", "one")).await.unwrap();
    documents.update(&Document::new("a", "zwei \u{1f98a}"), first).await.unwrap();
    documents.delete(&key).await.unwrap();
    documents.put(&Document::new("a", "three")).await.unwrap();
    documents.put(&Document::new("b", "four")).await.unwrap();

    let reported = python(
        documents.name(),
        json!([["get_json", "doc.a"], ["get", "doc.a", 2], ["history", "doc.a"], ["get_json", "doc.b"]]),
    )
    .await;
    assert_eq!(reported[0], json!({ "name": "a", "text": "three" }));
    let second: Value = serde_json::from_str(reported[1]["value"].as_str().expect("a text")).expect("JSON");
    assert_eq!(second, json!({ "name": "a", "text": "zwei \u{1f98a}" }));
    let past: Vec<_> =
        reported[2].as_array().expect("a list").iter().map(|e| (&e["revision"], &e["operation"])).collect();
    assert_eq!(
        past,
        [(&json!(1), &Value::Null), (&json!(2), &Value::Null), (&json!(3), &json!("DEL")), (&json!(4), &Value::Null)]
    );
    assert_eq!(reported[3]["text"], "four");

    documents.purge(&key).await.unwrap();
    let reported =
        python(documents.name(), json!([["get", "doc.a"], ["history", "doc.a"], ["create", "doc.a", "{}"]])).await;
    assert_eq!(reported[0], json!({ "error": "KeyNotFoundError" }));
    assert_eq!(reported[1], json!([{ "key": "doc.a", "value": "", "revision": 6, "operation": "PURGE" }]));
    assert_eq!(reported[2], json!(7), "a purge leaves a key that can be created");
}

#[tokio::test]
async fn nats_py_lists_and_watches_kvtyped_records() {
    let sessions = World::nats().await.bucket::<RawSession>().await;
    for (tenant, id) in [("acme", "1"), ("acme", "2"), ("a.*", ">"), ("beta", "1")] {
        sessions.put(&RawSession::new(tenant, id, b"v")).await.unwrap();
    }
    sessions.delete(&RawSession::new("beta", "1", b"").key()).await.unwrap();
    sessions.put(&RawSession::new("acme", "1", b"w")).await.unwrap();

    let reported = python(sessions.name(), json!([["keys"], ["watch", "acme.*"], ["watch", ">"]])).await;
    assert_eq!(reported[0], json!(["a=2E=2A.=3E", "acme.1", "acme.2"]));
    let brief = |reported: &Value| -> Vec<_> {
        let entries = reported.as_array().expect("a list").iter();
        entries.map(|e| format!("{} {} {} {}", e["revision"], e["key"], e["value"], e["operation"])).collect()
    };
    assert_eq!(brief(&reported[1]), [r#"2 "acme.2" "v" null"#, r#"6 "acme.1" "w" null"#]);
    let all =
        [r#"2 "acme.2" "v" null"#, r#"3 "a=2E=2A.=3E" "v" null"#, r#"5 "beta.1" "" "DEL""#, r#"6 "acme.1" "w" null"#];
    assert_eq!(brief(&reported[2]), all);
}

#[tokio::test]
async fn concurrent_writes_with_nats_py_conflict() {
    let documents = World::nats().await.bucket::<Document>().await;
    let document = Document::new("a", "mine");
    let other = json!({ "name": "a", "text": "theirs" }).to_string();

    let read = documents.put(&document).await.unwrap();
    let reported = python(documents.name(), json!([["update", "doc.a", other, read.get()]])).await;
    assert_eq!(reported, [json!(2)]);
    let error = documents.update(&document, read).await.unwrap_err();
    let ErrorKind::Conflict { expected, actual } = error.kind() else { panic!("{error}") };
    assert_eq!((*expected, *actual), (read, Some(Revision::new(2))));
    assert!(documents.delete(&document.key()).if_revision(read).await.unwrap_err().is_conflict());
    let error = documents.create(&document).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::AlreadyExists), "{error}");

    let now = documents.update(&document, Revision::new(2)).await.unwrap();
    let reported = python(
        documents.name(),
        json!([
            ["update", "doc.a", other, 2],
            ["delete", "doc.a", 2],
            ["create", "doc.a", other],
            ["update", "doc.a", other, now.get()],
        ]),
    )
    .await;
    assert_eq!(reported[0], json!({ "error": "KeyWrongLastSequenceError" }));
    assert!(reported[1].get("error").is_some(), "{reported:?}");
    assert_eq!(reported[2], json!({ "error": "KeyWrongLastSequenceError" }));
    assert_eq!(reported[3], json!(now.get() + 1));
    let entry = documents.modify(&document.key(), |document| document.text.push('!')).await.unwrap();
    assert_eq!(entry.text, "theirs!");
}

#[tokio::test]
async fn text_codec_interoperates_with_nats_py() {
    let settings = World::nats().await.bucket::<Setting>().await;
    settings.put(&Setting { name: "colour".into(), text: "grün".into() }).await.unwrap();
    let reported = python(settings.name(), json!([["get", "setting.colour"], ["put", "setting.size", "größer"]])).await;
    assert_eq!(reported[0]["value"], "grün");
    let size = settings.get(&SettingKey::new("size")).await.unwrap().expect("nats.py put it");
    assert_eq!(size.text, "größer");
}

#[tokio::test]
async fn record_ttl_interoperates_with_nats_py() {
    needs!(RecordTtl);
    let leases = World::nats().await.bucket::<Lease>().await;
    let long = leases.create(&Lease { id: 4 }).ttl(900 * SECOND).await.unwrap();
    leases.create(&Lease { id: 1 }).ttl(SECOND).await.unwrap();
    let reported = python(
        leases.name(),
        json!([
            ["headers", long.get()],
            ["create", "lease.2", "{\"id\":2}", 1],
            ["create", "lease.3", "{\"id\":3}", 900],
        ]),
    )
    .await;
    assert_eq!(reported[0]["Nats-TTL"], "900");
    assert!(reported[1..].iter().all(Value::is_u64), "{reported:?}");
    let theirs = leases.get(&LeaseKey::new(3)).await.unwrap().expect("nats.py created it");
    assert_eq!(theirs.ttl(), Ttl::new(900 * SECOND));

    for id in [1, 2] {
        let gone = async || leases.get(&LeaseKey::new(id)).await.unwrap().is_none().then_some(());
        harness::wait::until("the lease expires", 20 * SECOND, gone).await;
        let past = leases.history(&LeaseKey::new(id)).await.unwrap();
        assert!(matches!(past.as_slice(), [Version::Removed { reason: Removed::Expired, .. }]), "{past:?}");
    }
    let reported = python(leases.name(), json!([["keys"], ["watch", "lease.1"], ["get", "lease.1"]])).await;
    assert_eq!(reported[0], json!(["lease.3", "lease.4"]));
    assert_eq!(reported[2]["value"], "", "nats.py does not know the marker of an expiry: the README says so");
    assert_eq!(reported[1][0]["operation"], "PURGE", "as nats.py calls an expiry");
    leases.create(&Lease { id: 2 }).await.expect("what expired can be created");
}

#[tokio::test]
async fn nats_py_bucket_is_adopted_or_updated() {
    needs!(LimitMarkers);
    let world = World::nats().await;
    let name = unique("theirs");
    let settings = json!({
        "history": 10, "ttl": 3600.0, "description": "made by nats.py", "max_value_size": 2048, "max_bytes": 1_000_000,
        "storage": "memory", "limit_marker_ttl": 90.0,
    });
    let value = json!({ "name": "a", "text": "one" }).to_string();
    python(&name, json!([["make", settings], ["put", "doc.a", value]])).await;

    // The bucket does not allow direct gets, so the leader answers every read.
    let open = || world.store.bucket::<Document>().name(&name);
    let error = open().await.expect_err("its stream is not that of a bucket");
    let ErrorKind::Drift { differences } = error.kind() else { panic!("{error}") };
    let reported: Vec<_> = differences.iter().map(ToString::to_string).collect();
    assert_eq!(reported, ["allow_direct: wanted true, found false"], "what the model says is so");
    let documents = open().on_drift(Drift::Adopt).await.expect("it is adopted");
    let config = documents.config();
    assert_eq!((config.history, config.ttl), (Some(10), Some(3600 * SECOND)));
    assert_eq!(config.description.as_deref(), Some("made by nats.py"));
    assert_eq!((config.max_value_size, config.max_bytes), (Some(2048), Some(1_000_000)));
    assert_eq!((config.storage, config.replicas), (Some(Storage::Memory), Some(1)));
    assert_eq!((config.limit_markers, config.compression), (Some(90 * SECOND), Some(false)));
    assert_eq!(documents.status().await.unwrap().config, *config);
    assert_eq!(stream(&name).await["allow_direct"], json!(false));
    assert_eq!(documents.get(&DocumentKey::new("a")).await.unwrap().expect("put").text, "one");

    let error = open().history(3).await.unwrap_err();
    let ErrorKind::Drift { differences } = error.kind() else { panic!("{error}") };
    let reported: Vec<_> = differences.iter().map(ToString::to_string).collect();
    assert_eq!(reported, ["history: wanted 3, found 10", "allow_direct: wanted true, found false"]);
    let before = stream(&name).await;
    open().description("changed here").on_drift(Drift::Update).await.unwrap();
    let reported = python(&name, json!([["status"]])).await;
    assert_eq!((&reported[0]["description"], &reported[0]["history"]), (&json!("changed here"), &json!(10)));
    assert_eq!(differing(&before, &stream(&name).await), ["allow_direct", "description"]);
}

#[tokio::test]
async fn nats_py_reads_bucket_settings() {
    needs!(LimitMarkers);
    let world = World::nats().await;
    let made = world.fresh::<Document>().ttl(3600 * SECOND).description("made here").max_value_size(2048);
    let made = made.max_bytes(1_000_000).storage(Storage::Memory).replicas(1).metadata("team", "core").await.unwrap();
    let marked = world.fresh::<Session>().limit_markers(90 * SECOND).await.unwrap();
    marked.put(&Session::new("acme", 1)).await.unwrap();

    let reported = python(made.name(), json!([["status"]])).await;
    let wanted = [
        ("history", json!(10)),
        ("ttl", json!(3600.0)),
        ("description", json!("made here")),
        ("max_value_size", json!(2048)),
        ("max_bytes", json!(1_000_000)),
        ("storage", json!("memory")),
        ("replicas", json!(1)),
        ("direct", json!(true)),
    ];
    for (field, value) in wanted {
        assert_eq!(reported[0][field], value, "{field} of {reported:?}");
    }
    assert_eq!(reported[0]["metadata"]["team"], "core");
    let reported = python(marked.name(), json!([["status"]])).await;
    let fields = ["values", "history", "ttl", "marker_ttl"].map(|field| reported[0][field].clone());
    assert_eq!(fields, [json!(1), json!(1), json!(0.0), json!(90.0)]);
}

/// Returns the differing fields of two configurations, except for the bucket name and the server version.
fn differing(one: &serde_json::Map<String, Value>, other: &serde_json::Map<String, Value>) -> Vec<String> {
    let plain = |value: Option<&Value>| match value {
        // Ignores the metadata that the server adds.
        Some(Value::Object(notes)) => {
            let notes = notes.iter().filter(|(key, _)| !key.starts_with("_nats."));
            let notes: serde_json::Map<_, _> = notes.map(|(key, value)| (key.clone(), value.clone())).collect();
            (!notes.is_empty()).then_some(Value::Object(notes))
        }
        value => value.cloned(),
    };
    let mut fields: Vec<_> = one.keys().chain(other.keys()).cloned().collect();
    fields.sort_unstable();
    fields.dedup();
    fields.retain(|field| !matches!(field.as_str(), "name" | "subjects"));
    fields.retain(|field| plain(one.get(field)) != plain(other.get(field)));
    fields
}

#[tokio::test]
async fn stream_config_matches_nats_py() {
    needs!(LimitMarkers);
    let world = World::nats().await;
    type Open = fn(OpenBucket<Document>) -> OpenBucket<Document>;
    // nats.py enables direct gets only on request, per-message TTLs always, and batches never.
    let cases: [(&str, Open, Value, &[&str]); 6] = [
        ("nothing said, history 10", |open| open, json!({ "history": 10 }), &["allow_msg_ttl"]),
        ("limit markers by default", |open| open.history(1), json!({ "history": 1 }), &["subject_delete_marker_ttl"]),
        (
            "the same limit markers",
            |open| open.history(1).limit_markers(90 * SECOND),
            json!({ "history": 1, "limit_marker_ttl": 90.0 }),
            &[],
        ),
        (
            "a TTL shorter than the window of duplicates",
            |open| open.ttl(30 * SECOND).limit_markers(10 * SECOND),
            json!({ "history": 10, "ttl": 30.0, "limit_marker_ttl": 10.0 }),
            &[],
        ),
        (
            "limits and a description",
            |open| open.description("text").max_value_size(2048).max_bytes(1_000_000).storage(Storage::Memory),
            json!({
                "history": 10, "description": "text", "max_value_size": 2048, "max_bytes": 1_000_000,
                "storage": "memory",
            }),
            &["allow_msg_ttl"],
        ),
        (
            "republished",
            |open| open.republish(Republish::new(">", "interop.changes.>").headers_only()),
            json!({ "history": 10, "republish": { "src": ">", "dest": "interop.changes.>", "headers_only": true } }),
            &["allow_msg_ttl"],
        ),
    ];
    for (what, open, mut settings, allowed) in cases {
        settings["direct"] = json!(true);
        let theirs = unique("made_by_nats_py");
        let reported = python(&theirs, json!([["make", settings]])).await;
        assert_eq!(reported, [Value::Null], "{what}");
        let mine = open(world.fresh::<Document>()).await.unwrap();
        let (mine, theirs) = (stream(mine.name()).await, stream(&theirs).await);
        let mut differing = differing(&mine, &theirs);
        // The metadata has the card of the model.
        differing.retain(|field| !matches!(field.as_str(), "allow_atomic" | "metadata"));
        assert_eq!(differing, allowed, "{what}: {mine:?} {theirs:?}");
        let names = |raw: &serde_json::Map<String, Value>| {
            let bucket = raw["name"].as_str().and_then(|name| name.strip_prefix("KV_")).expect("a bucket's").to_owned();
            assert_eq!(raw["subjects"], json!([format!("$KV.{bucket}.>")]));
        };
        names(&mine);
        names(&theirs);
    }
}

#[tokio::test]
async fn stored_headers_match_nats_py() {
    let documents = World::nats().await.bucket::<Document>().await;
    let document = Document::new("a", "one");
    let first = documents.put(&document).await.unwrap();
    let second = documents.update(&document, first).await.unwrap();
    documents.delete(&document.key()).if_revision(second).await.unwrap();
    documents.create(&document).await.unwrap(); // over the marker
    documents.delete(&document.key()).await.unwrap();
    let headers = || [1, 2, 3, 4, 5].map(|revision| json!(["headers", revision]));
    let mut mine = python(documents.name(), json!(headers())).await;
    documents.purge(&document.key()).await.unwrap();
    mine.extend(python(documents.name(), json!([["headers", 6]])).await);

    let text = json!({ "name": "a", "text": "one" }).to_string();
    let mut steps = vec![
        json!(["make", { "history": 10 }]),
        json!(["put", "doc.a", text]),
        json!(["update", "doc.a", text, 1]),
        json!(["delete", "doc.a", 2]),
        json!(["create", "doc.a", text]),
        json!(["delete", "doc.a"]),
    ];
    steps.extend(headers());
    steps.extend([json!(["purge", "doc.a"]), json!(["headers", 6])]);
    let mut theirs = python(&unique("stored_by_nats_py"), json!(steps)).await;
    theirs.drain(..6);
    theirs.remove(5);

    // Only this library writes an operation id. It identifies a write whose acknowledgement was lost.
    for headers in &mut mine {
        let headers = headers.as_object_mut().expect("headers");
        let id = headers.remove("Nats-Msg-Id").or_else(|| headers.remove("Kvtyped-Oid"));
        assert!(id.is_some_and(|id| id.as_str().is_some_and(|id| !id.is_empty())), "every write has an id");
    }
    assert_eq!(mine, theirs);
    assert_eq!(mine[0], json!({}));
    assert_eq!(mine[4], json!({ "KV-Operation": "DEL" }));
    assert_eq!(mine[5], json!({ "KV-Operation": "PURGE", "Nats-Rollup": "sub" }));
}

#[tokio::test]
async fn undecodable_record_of_nats_py_is_isolated() {
    let world = World::nats().await;
    let name = unique("mixed");
    let value = json!({ "name": "a", "text": "one" }).to_string();
    python(&name, json!([["make", { "history": 10 }], ["put", "doc.b", "no JSON"], ["put", "doc.a", value]])).await;
    let documents: Bucket<Document> = seen_as(&world, &name).await;
    let seen: Vec<_> = documents.list(..).await.unwrap().collect().await;
    assert!(matches!(seen.as_slice(), [Err(error), Ok(entry)] if error.key() == Some("doc.b") && entry.text == "one"));
    let error = documents.get(&DocumentKey::new("b")).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Decode { .. }), "{error}");
    assert!(world.bucket::<Session>().await.get(&SessionKey::new("acme", 1)).await.unwrap().is_none());
}

/// A model whose records other clients write too, with the version in a header.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(name = "member", key = "member.{id}", version = 2, upgrade_from = MemberV1)]
struct Member {
    id: u64,
    nick: String,
    email: Option<String>,
}

/// Version 1 of [`Member`]: the field has another name.
#[derive(Serialize, Deserialize, KvVersion)]
#[kv(version = 1)]
struct MemberV1 {
    id: u64,
    name: String,
}

impl From<MemberV1> for Member {
    fn from(MemberV1 { id, name }: MemberV1) -> Self {
        Self { id, nick: name, email: None }
    }
}

/// Version 1 of [`Profile`], in which the new field is the only difference.
#[derive(Serialize, Deserialize, KvVersion)]
#[kv(version = 1)]
struct ProfileV1 {
    id: u64,
    nick: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(name = "profile", key = "profile.{id}", version = 2, upgrade_from = ProfileV1)]
struct Profile {
    id: u64,
    nick: String,
    email: Option<String>,
}

impl From<ProfileV1> for Profile {
    fn from(ProfileV1 { id, nick }: ProfileV1) -> Self {
        Self { id, nick, email: None }
    }
}

/// A model with the version in the record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(name = "guest", key = "guest.{id}", version = 2, upgrade_from = MemberV1)]
struct Guest {
    id: u64,
    nick: String,
    #[kv(version)]
    v: u32,
}

impl From<MemberV1> for Guest {
    fn from(MemberV1 { id, name }: MemberV1) -> Self {
        Self { id, nick: name, v: 2 }
    }
}

/// Another client reads a record and writes it back. The header is lost, and the record counts as version 1: an error if
/// version 1 has another shape, and a lost field if it has a smaller one. A version field is kept.
#[tokio::test]
async fn nats_py_keeps_version_field_and_loses_version_header() {
    let World { store, .. } = World::nats().await;
    let name = unique("versions");
    let members: Bucket<Member> = store.bucket().name(&name).await.unwrap();
    let profiles: Bucket<Profile> = store.bucket().name(&name).await.unwrap();
    let guests: Bucket<Guest> = store.bucket().name(&name).await.unwrap();
    members.put(&Member { id: 7, nick: "ada".into(), email: None }).await.unwrap();
    profiles.put(&Profile { id: 7, nick: "ada".into(), email: Some("ada@example.com".into()) }).await.unwrap();
    guests.put(&Guest { id: 7, nick: "ada".into(), v: 2 }).await.unwrap();
    let reported = python(&name, json!([["headers", 1], ["headers", 2], ["headers", 3]])).await;
    let versions: Vec<_> = reported.iter().map(|headers| headers["Kvtyped-Version"].as_str()).collect();
    assert_eq!(versions, [Some("2"), Some("2"), None]);

    let keys = ["member.7", "profile.7", "guest.7"];
    let read = python(&name, json!(keys.map(|key| json!(["get", key])))).await;
    let back = keys.iter().zip(&read).map(|(key, entry)| json!(["update", key, entry["value"], entry["revision"]]));
    let written = python(&name, back.collect()).await;
    assert_eq!(written, [json!(4), json!(5), json!(6)]);

    let error = members.get(&MemberKey::new(7)).read(Read::Leader).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Decode { .. }), "{error}");
    let profile = profiles.get(&ProfileKey::new(7)).read(Read::Leader).await.unwrap().expect("it is there");
    assert_eq!((profile.schema_version(), profile.nick.as_str(), &profile.email), (1, "ada", &None));
    let guest = guests.get(&GuestKey::new(7)).read(Read::Leader).await.unwrap().expect("it is there");
    assert_eq!((guest.schema_version(), guest.nick.as_str(), guest.v), (2, "ada", 2));
}

/// The card of a model is metadata of the stream, and no record. A bucket of another client has no card.
#[tokio::test]
async fn card_is_no_record_for_nats_py() {
    let World { store, .. } = World::nats().await;
    let ours: Bucket<Member> = store.bucket().name(unique("versions")).await.unwrap();
    ours.put(&Member { id: 7, nick: "ada".into(), email: None }).await.unwrap();
    let reported = python(ours.name(), json!([["keys"], ["watch", ">"], ["put", "member.8", "{}"], ["status"]])).await;
    assert_eq!(reported[0], json!(["member.7"]));
    assert_eq!(reported[1].as_array().map(Vec::len), Some(1), "{reported:?}");
    assert!(reported[3]["metadata"]["kvtyped.model.member"].is_string(), "{reported:?}");
    assert!(ours.card().await.unwrap().is_some(), "the write of another client keeps the card");

    let theirs = unique("versions");
    let record = json!({ "id": 7, "name": "ada" }).to_string();
    python(&theirs, json!([["make", {}], ["put", "member.7", record]])).await;
    let members: Bucket<Member> = store.bucket().name(&theirs).on_drift(Drift::Adopt).await.unwrap();
    assert_eq!(members.card().await.unwrap(), None);
    let member = members.get(&MemberKey::new(7)).read(Read::Leader).await.unwrap().expect("nats.py put it");
    assert_eq!((member.schema_version(), member.nick.as_str()), (1, "ada"));
}
