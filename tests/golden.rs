//! P36: the stored format of the recipes is stable, and records of older versions can be read.
//!
//! `golden/records.txt` has a line for each record that a recipe stores: its key and its value, with one sample of each
//! part that varies (`id`, `since`, …). Lines may be added, but existing lines never change. If a key has two lines,
//! this version writes the last one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kvtyped::Event;
use kvtyped::backend::memory::MemoryBackend;
use kvtyped::backend::{Backend, Deadline, RecordHeaders};
use kvtyped::bucket::VersionReport;
use kvtyped::config::BucketConfig;
use kvtyped::key::{escape, unescape};
use kvtyped::prelude::*;
use kvtyped::recipes::Quota;
use serde_json::Value;

use crate::needs::needs;
use crate::support::{ForeignRecord, ForeignRecordKey, Session, SessionKey, World, seen_as, unique};

const GOLDEN: &str = include_str!("golden/records.txt");

/// The bucket of all records.
const BUCKET: &str = "golden";

fn golden() -> Vec<(String, Value)> {
    let line = |line: &str| {
        let (key, value) = line.split_once(' ').expect("a key and a value");
        (key.to_owned(), serde_json::from_str(value).expect("JSON"))
    };
    GOLDEN.lines().map(line).collect()
}

/// Replaces the varying parts of a value with placeholders.
fn shape(value: &str) -> String {
    let mut value: serde_json::Map<String, Value> = serde_json::from_str(value).expect("an object");
    for (name, value) in &mut value {
        *value = match (name.as_str(), &*value) {
            ("id", Value::String(id)) => Value::from(format!("{} digits of hexadecimal numbers", id.len())),
            ("since" | "whole_at", Value::Number(time)) => Value::from(format!("{} digits", time.to_string().len())),
            ("term", Value::Number(_)) => Value::from("a term"),
            ("owner", Value::String(owner)) if owner.contains("(pid ") || owner.starts_with("process ") => {
                Value::from("a process")
            }
            (_, other) => other.clone(),
        };
    }
    Value::Object(value).to_string()
}

/// Removes the varying part of a key: the number of a permit or the name of a clock.
fn named(key: &str) -> String {
    let numbered = ["=kvtyped.semaphore.", "=kvtyped.rate-clock."].iter().any(|prefix| key.starts_with(prefix));
    let stem = key.rsplit_once('.').map(|(stem, _)| stem);
    stem.filter(|_| numbered).unwrap_or(key).to_owned()
}

async fn junk(world: &World) -> Bucket<ForeignRecord> {
    world.store.bucket().name(BUCKET).limit_markers(Duration::from_secs(1)).await.expect("it opens")
}

/// Returns all records under reserved keys, by key.
async fn stored(world: &World) -> BTreeMap<String, String> {
    let junk = seen_as::<ForeignRecord>(world, BUCKET).await;
    let all: Vec<_> = junk.list(..).await.unwrap().try_collect().await.unwrap();
    all.into_iter().map(|record| (record.key().to_string(), record.text.clone())).collect()
}

/// Runs every recipe once.
async fn everything_is_stored(world: &World) -> BTreeMap<String, String> {
    junk(world).await;
    let store = &world.store;
    let locks = store.locks("golden").bucket(BUCKET).await.unwrap();
    let guard = locks.lock("invoice.42").owner("me").note("why").await.unwrap();
    let fair = locks.lock("golden-fair").owner("me").fair().await.unwrap();
    let sessions = seen_as::<Session>(world, BUCKET).await;
    let fenced = sessions.lock(&SessionKey::new("acme", 7)).owner("me").await.unwrap();
    let leader = store.election::<String>("boss").bucket(BUCKET).campaign(&"me".into()).owner("me").await.unwrap();
    let permit = store.semaphore("pool", 3).bucket(BUCKET).acquire().owner("me").await.unwrap();
    let nodes = store.group::<String>("nodes").bucket(BUCKET);
    let member = nodes.join("node.1", &"a".into()).owner("me").await.unwrap();
    store.once::<String>("jobs").bucket(BUCKET).run("job.1", || async { "done".to_owned() }).await.unwrap();
    store.counters("hits").bucket(BUCKET).await.unwrap().add("a.b", 7).await.unwrap();
    store.ids("orders").bucket(BUCKET).block(10).await.unwrap().next().await.unwrap();
    let api = store.rate_limiter("api", Quota::per_hour(2).burst(3)).bucket(BUCKET).await.unwrap();
    assert!(api.check("ada").await.unwrap().is_allowed());
    let mut all = stored(world).await;
    // A ticket is a lease and may already be released.
    all.retain(|key, _| !key.contains(".ticket-"));
    drop((guard, fair, fenced, leader, permit, member));
    all
}

#[tokio::test]
async fn stored_record_shapes_match_the_golden_file() {
    let now = everything_is_stored(&World::memory()).await;
    let lines: String = now.iter().map(|(key, value)| format!("{key} {value}\n")).collect();
    let golden: BTreeMap<_, _> = golden().into_iter().map(|(key, value)| (key, value.to_string())).collect();
    let shapes = |all: &BTreeMap<String, String>| -> BTreeMap<_, _> {
        all.iter().map(|(key, value)| (named(key), shape(value))).collect()
    };
    assert_eq!(shapes(&now), shapes(&golden), "stored records now:\n{lines}");
}

#[tokio::test]
async fn golden_records_are_understood() {
    let (first, last) = (golden().into_iter().rev().collect(), golden().into_iter().collect());
    assert_ne!(first, last, "the format was declared later");
    for records in [first, last] {
        is_understood(records).await;
    }
}

async fn is_understood(records: BTreeMap<String, Value>) {
    let world = World::memory();
    let junk = junk(&world).await;
    for (key, value) in records {
        let key: ForeignRecordKey = key.parse().expect("a reserved key");
        junk.put(&ForeignRecord::new(&key.recipe, &key.name, &key.part, &value.to_string())).await.unwrap();
    }
    let store = &world.store;
    let locks = store.locks("golden").bucket(BUCKET).await.unwrap();
    for (name, note) in [("invoice.42", Some("why")), ("golden-fair", None), ("acme.7", None)] {
        let holder = locks.holder(name).await.unwrap().expect("it is held");
        assert_eq!((holder.owner.as_str(), holder.note.as_deref()), ("me", note), "{name}");
        assert!(locks.try_lock(name).await.unwrap().is_none(), "{name}");
    }
    let leader = store.election::<String>("boss").bucket(BUCKET).leader().await.unwrap().expect("there is one");
    assert_eq!(leader.value(), "me");
    assert_eq!(store.semaphore("pool", 3).bucket(BUCKET).available().await.unwrap(), 2);
    let members = store.group::<String>("nodes").bucket(BUCKET).members().await.unwrap();
    assert!(matches!(members.as_slice(), [member] if member.id() == "node.1" && member.value() == "a"), "{members:?}");
    assert_eq!(store.once::<String>("jobs").bucket(BUCKET).get("job.1").await.unwrap().as_deref(), Some("done"));
    assert_eq!(store.counters("hits").bucket(BUCKET).await.unwrap().get("a.b").await.unwrap(), 7);
    assert_eq!(store.ids("orders").bucket(BUCKET).await.unwrap().next().await.unwrap(), 11);
    let api = store.rate_limiter("api", Quota::per_hour(2).burst(3)).bucket(BUCKET).await.unwrap();
    assert_eq!(api.check("ada").await.unwrap().remaining(), 2, "the quota is replenished");
}

/// Each line has a text and its key segment.
#[test]
fn texts_keep_their_key_segments() {
    for line in include_str!("golden/segments.txt").lines() {
        let (text, segment) = line.rsplit_once(' ').expect("a text and a segment");
        let text: String = serde_json::from_str(text).expect("a text");
        assert_eq!(escape(&text), segment);
        assert_eq!(unescape(segment).as_deref(), Ok(&*text));
    }
}

/// The message format of server-side counters (ADR-49).
#[tokio::test]
async fn increment_message_format_is_stable() {
    needs!(Counters);
    let world = World::nats().await;
    let name = unique("hits");
    let hits = world.store.counters(&name).await.unwrap();
    hits.add("a.b", -7).await.unwrap();
    let client = async_nats::connect(harness::shared().await.url()).await.unwrap();
    let stream = async_nats::jetstream::new(client).get_stream(format!("KV_{name}")).await.unwrap();
    let message = stream.get_raw_message(1).await.unwrap();
    let mut names: Vec<_> = message.headers.iter().map(|(name, _)| name.to_string()).collect();
    names.sort_unstable();
    assert_eq!(message.subject.as_str(), format!("$KV.{name}.a=2Eb"));
    assert_eq!(
        (names, &message.payload[..]),
        (vec!["Nats-Incr".to_owned(), "Nats-Msg-Id".to_owned()], &br#"{"val":"-7"}"#[..])
    );
    assert_eq!(message.headers.get("Nats-Incr").map(|value| value.as_str()), Some("-7"));
}

// ---- Schema versions ----

/// The names and texts of schema versions, one a line: the headers of a record, the metadata of a bucket, reserved keys.
const VERSIONS: &str = include_str!("golden/versions.txt");

/// A model with two versions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(name = "golden-person", key = "{tenant}.{id}", version = 2, upgrade_from = PersonV1, writes = 1)]
struct Person {
    tenant: String,
    id: u64,
    #[serde(alias = "mail")]
    email: Option<String>,
    role: Role,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, kvtyped::KvVersion)]
#[kv(version = 1, codec = MsgPack)]
struct PersonV1 {
    tenant: String,
    id: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Role {
    Reader,
    Writer {
        quotas: Vec<u8>,
    },
    #[serde(other)]
    Unknown,
}

impl From<PersonV1> for Person {
    fn from(PersonV1 { tenant, id }: PersonV1) -> Self {
        Self { tenant, id, email: None, role: Role::Reader }
    }
}

impl From<Person> for PersonV1 {
    fn from(Person { tenant, id, .. }: Person) -> Self {
        Self { tenant, id }
    }
}

/// Returns the headers of a record that has all of them.
fn all_headers() -> RecordHeaders {
    RecordHeaders::of_version(Some(3))
        .with_encoding(Some("zstd, aead"))
        .with_key_id(Some("2026-11"))
        .with_signature(Some(vec![0, 127, 255].into()))
        .with_cause(Some(RecordHeaders::REWRITE))
}

/// Returns a line of metadata, with placeholders for its varying parts.
fn metadata_line((key, text): (&String, &String)) -> String {
    let text = text.replace(concat!("\"crate\":\"", env!("CARGO_PKG_VERSION"), "\""), "\"crate\":\"0.0.0\"");
    let is_random = text.len() == 32 && text.chars().all(|digit| digit.is_ascii_hexdigit());
    format!("metadata {key} {}", if is_random { "32 digits".to_owned() } else { text })
}

#[tokio::test(start_paused = true)]
async fn version_formats_match_the_golden_file() {
    let mut lines = Vec::new();
    all_headers().for_each(|name, text| lines.push(format!("header {name} {text}")));
    let world = World::memory();
    let persons: Bucket<Person> = world.store.bucket().name(BUCKET).must_create().await.unwrap();
    let mut events = seen_as::<ForeignRecord>(&world, BUCKET).await.watch(..).await.unwrap();
    for id in 0..4 {
        persons.put(&PersonV1 { tenant: "acme".into(), id }.into()).await.unwrap();
    }
    persons.switch_version(2).await.unwrap();
    lines.extend(persons.status().await.unwrap().config.metadata.iter().map(metadata_line));
    // Slow enough for a stored position.
    persons.migrate().pace(1).resume().await.unwrap();
    // Both jobs write and release their leases.
    let mut keys = BTreeSet::new();
    loop {
        match events.try_next().await.unwrap() {
            Some(Event::Put(entry)) => drop(keys.insert(format!("key {}", entry.key()))),
            Some(Event::Removed { key, .. }) if key.name == "golden-person" && key.part == "lease" => break,
            event => assert!(event.is_some(), "the migration releases its lease"),
        }
    }
    lines.extend(keys);
    let golden: Vec<_> = VERSIONS.lines().collect();
    assert_eq!(lines, golden, "the lines now:\n{}", lines.join("\n"));
}

/// A program opens a bucket with the stored card and schemas, and finds no difference.
#[tokio::test]
async fn golden_version_formats_are_understood() {
    let mut headers = RecordHeaders::default();
    let mut config = BucketConfig::new(BUCKET);
    for line in VERSIONS.lines() {
        let (kind, rest) = line.split_once(' ').expect("a kind");
        let (name, text) = rest.split_once(' ').unwrap_or((rest, ""));
        match kind {
            "header" => assert!(headers.set(name, text), "{name}"),
            "metadata" => drop(config.metadata.insert(name.to_owned(), text.to_owned())),
            _ => assert!(name.starts_with("=kvtyped."), "{name}"),
        }
    }
    assert_eq!(headers, all_headers());
    let memory = Arc::new(MemoryBackend::new());
    memory.create(config, Deadline::after(Duration::from_secs(5))).await.unwrap();
    let persons: Bucket<Person> = Store::from_backend(memory).bucket().name(BUCKET).await.unwrap();
    let card = persons.card().await.unwrap().expect("the card is readable");
    assert_eq!((card.key.as_str(), card.codec.as_str()), ("{tenant}.{id}", "json"));
    assert_eq!((card.version, card.writes, card.oldest), (2, 2, 1));
    let report = persons.check_schema().await.unwrap();
    let is_identical =
        |version: &VersionReport| version.compatibility.as_ref().is_some_and(|found| found.is_identical());
    assert!(report.versions.len() == 2 && report.versions.iter().all(is_identical), "{report}");
}

/// The version is a header of the message.
#[tokio::test]
async fn version_header_of_a_message_is_stable() {
    let world = World::nats().await;
    let name = unique("golden-persons");
    let persons: Bucket<Person> = world.store.bucket().name(&name).await.unwrap();
    persons.put(&PersonV1 { tenant: "acme".into(), id: 7 }.into()).await.unwrap();
    persons.switch_version(2).await.unwrap();
    let revision = persons.put(&PersonV1 { tenant: "acme".into(), id: 8 }.into()).await.unwrap();
    let client = async_nats::connect(harness::shared().await.url()).await.unwrap();
    let stream = async_nats::jetstream::new(client).get_stream(format!("KV_{name}")).await.unwrap();
    let version = async |revision| {
        let headers = stream.get_raw_message(revision).await.unwrap().headers;
        headers.get("Kvtyped-Version").map(|value| value.as_str().to_owned())
    };
    assert_eq!((version(1).await, version(revision.get()).await), (None, Some("2".to_owned())));
}
