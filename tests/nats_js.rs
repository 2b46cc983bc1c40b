//! Agreement on keys with nats.js and its base64 key codec.
//!
//! The tests need Node.js. Without Node.js, they print a message and pass. The keys in `golden/keys.base64-nats-js.txt`
//! were written by nats.js, and are tested without Node.js.

use std::collections::BTreeSet;
use std::path::Path;

use kvtyped::codec::Text;
use kvtyped::key::KeyCodec;
use kvtyped::prelude::*;
use kvtyped::{ErrorKind, Filter, Key, KvVersion, Outcome, Read, Version};
use serde_json::{Value, json};

use crate::support::{Observed, World, listing, reported, seen_as, unique};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(key = "app.{tenant}.user-{id}", key_codec = "base64-nats-js", history = 5)]
struct User {
    tenant: String,
    id: u64,
    visits: u32,
}

impl User {
    fn new(tenant: &str, id: u64) -> Self {
        Self { tenant: tenant.to_owned(), id, visits: 0 }
    }

    fn json(&self) -> String {
        serde_json::to_string(self).expect("JSON")
    }
}

/// The signal that nats.js writes once it watches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(key = "ready.{name}", key_codec = "base64-nats-js")]
struct Ready {
    #[serde(skip)]
    name: String,
}

/// A model with keys of any depth.
#[derive(Clone, Debug, PartialEq, KvModel)]
#[kv(key = "{key..}", key_codec = "base64-nats-js", codec = Text)]
struct Any {
    key: Key,
    #[kv(value)]
    text: String,
}

/// The same keys without the key codec.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(key = "app.{tenant}.user-{id}")]
struct Plain {
    tenant: String,
    id: u64,
    visits: u32,
}

/// Runs these steps with nats.js and returns the result of each. The script describes the steps.
async fn node(modules: &Path, bucket: &str, steps: Value) -> Vec<Value> {
    let url = harness::shared().await.url();
    let script = include_str!("interop/client.js");
    let printed = harness::javascript::run(modules.to_path_buf(), script, &[&url, bucket, &steps.to_string()]).await;
    serde_json::from_str(&printed).expect("the script prints a list")
}

/// The folder of nats.js. Without it, the test ends here.
macro_rules! nats_js {
    () => {
        match harness::javascript::nats_js() {
            Some(modules) => modules,
            None => return,
        }
    };
}

async fn keys(users: &Bucket<User>, filter: impl Into<Filter<User>>) -> BTreeSet<String> {
    let keys: Vec<UserKey> = users.keys(filter).await.unwrap().try_collect().await.unwrap();
    keys.iter().map(ToString::to_string).collect()
}

fn texts<const N: usize>(keys: [&str; N]) -> BTreeSet<String> {
    keys.map(str::to_owned).into()
}

#[tokio::test]
async fn records_written_by_nats_js_are_read() {
    let modules = nats_js!();
    let world = World::nats().await;
    let users = world.bucket::<User>().await;
    let (ada, bob, zoe) = (User::new("acme", 7), User::new("a b", 8), User::new("é?", 7));
    let reported = node(
        &modules,
        users.name(),
        json!([
            ["create", "app.acme.user-7", ada.json()],
            ["put", "app.a b.user-8", bob.json()],
            ["put", "app.é?.user-7", zoe.json()],
            ["update", "app.acme.user-7", User { visits: 1, ..ada.clone() }.json(), 1],
            ["delete", "app.é?.user-7"],
        ]),
    )
    .await;
    assert_eq!(reported, [json!(1), json!(2), json!(3), json!(4), json!(true)]);

    let entry = users.get(&ada.key()).await.unwrap().expect("nats.js created it");
    assert_eq!((entry.visits, entry.revision().get(), entry.key()), (1, 4, &ada.key()));
    assert_eq!(users.get(&bob.key()).await.unwrap().expect("nats.js put it").into_value(), bob);
    assert!(users.get(&zoe.key()).await.unwrap().is_none());
    let past = users.history(&zoe.key()).await.unwrap();
    assert!(matches!(past.as_slice(), [_, Version::Removed { reason: Removed::Deleted, .. }]), "{past:?}");
    assert_eq!(keys(&users, ..).await, texts(["app.acme.user-7", "app.a=20b.user-8"]));
    assert_eq!(keys(&users, UserKey::filter().tenant("a b")).await, texts(["app.a=20b.user-8"]));
    assert_eq!(keys(&users, UserKey::filter().id(7)).await, texts(["app.acme.user-7"]));
    assert_eq!(users.count(UserKey::filter().tenant("acme")).await.unwrap(), 1);

    // Without the codec, the same records are absent.
    let plain: Bucket<Plain> = seen_as(&world, users.name()).await;
    assert!(plain.get(&PlainKey::new("acme", 7)).await.unwrap().is_none());
}

#[tokio::test]
async fn nats_js_reads_kvtyped_records() {
    let modules = nats_js!();
    let users = World::nats().await.bucket::<User>().await;
    let (ada, bob, zoe) = (User::new("acme", 7), User::new("a b", 8), User::new("é?", 7));
    let first = users.create(&ada).await.unwrap();
    users.put(&bob).await.unwrap();
    users.put(&zoe).await.unwrap();
    users.update(&User { visits: 1, ..ada.clone() }, first).await.unwrap();
    users.delete(&zoe.key()).await.unwrap();

    let reported = node(
        &modules,
        users.name(),
        json!([
            ["get", "app.acme.user-7"],
            ["get", "app.é?.user-7"],
            ["history", "app.acme.user-7"],
            ["keys", ">"],
            ["keys", "app.acme.*"],
            ["keys", "app.*.user-8"],
            ["stored"],
        ]),
    )
    .await;
    let value: Value = serde_json::from_str(reported[0]["value"].as_str().expect("a text")).expect("JSON");
    assert_eq!(value, json!({ "tenant": "acme", "id": 7, "visits": 1 }));
    assert_eq!((&reported[0]["key"], &reported[0]["revision"]), (&json!("app.acme.user-7"), &json!(4)));
    assert_eq!((&reported[1]["key"], &reported[1]["operation"]), (&json!("app.é?.user-7"), &json!("DEL")));
    let past: Vec<_> = reported[2].as_array().expect("a list").iter().map(|e| e["revision"].clone()).collect();
    assert_eq!(past, [1, 4]);
    assert_eq!(reported[3], json!(["app.a b.user-8", "app.acme.user-7"]));
    assert_eq!(reported[4], json!(["app.acme.user-7"]));
    assert_eq!(reported[5], json!(["app.a b.user-8"]));
    assert_eq!(reported[6], json!(["YXBw.YSBi.dXNlci04", "YXBw.YWNtZQ==.dXNlci03"]));
}

#[tokio::test]
async fn nats_js_and_kvtyped_modify_same_record() {
    let modules = nats_js!();
    let users = World::nats().await.bucket::<User>().await;
    let ada = User::new("acme", 7);
    let key = "app.acme.user-7";
    let steps = json!([["create", key, ada.json()]]);
    assert_eq!(node(&modules, users.name(), steps).await, [json!(1)]);
    assert!(users.create(&ada).await.unwrap_err().is_conflict(), "nats.js created it");
    let second = users.update(&User { visits: 1, ..ada.clone() }, Revision::new(1)).await.unwrap();
    let reported = node(
        &modules,
        users.name(),
        json!([
            ["update", key, ada.json(), 1],
            ["update", key, User { visits: 2, ..ada.clone() }.json(), second.get()],
            ["stored"],
        ]),
    )
    .await;
    assert!(reported[0].get("error").is_some(), "it updates another revision: {reported:?}");
    assert_eq!((&reported[1], &reported[2]), (&json!(3), &json!(["YXBw.YWNtZQ==.dXNlci03"])));
    assert!(users.update(&ada, second).await.unwrap_err().is_conflict(), "nats.js updated it");
    assert_eq!(users.modify(&ada.key(), |user| user.visits += 1).await.unwrap().visits, 3);

    users.delete(&ada.key()).await.unwrap();
    let reported =
        node(&modules, users.name(), json!([["keys", ">"], ["create", key, ada.json()], ["purge", key]])).await;
    assert_eq!(reported, [json!([]), json!(6), json!(true)]);
    assert!(users.get(&ada.key()).await.unwrap().is_none());
    users.create(&ada).await.expect("nats.js purged it");
    users.purge(&ada.key()).await.unwrap();
    let reported = node(&modules, users.name(), json!([["history", key], ["create", key, ada.json()]])).await;
    assert_eq!(reported[0][0]["operation"], "PURGE");
    assert_eq!(reported[1], json!(10), "a purge leaves a key that can be created");
}

#[tokio::test]
async fn nats_js_and_kvtyped_watch_each_other() {
    let modules = nats_js!();
    let world = World::nats().await;
    let users = world.bucket::<User>().await;
    let (ada, bob) = (User::new("acme", 7), User::new("beta", 7));
    let mut events = users.watch(UserKey::filter().tenant("acme")).await.unwrap();
    assert_eq!(listing(&mut events).await, []);
    let steps = json!([
        ["put", "app.beta.user-7", bob.json()],
        ["put", "app.acme.user-7", ada.json()],
        ["delete", "app.acme.user-7"],
    ]);
    node(&modules, users.name(), steps).await;
    let key = ada.key().to_string();
    assert_eq!(reported(&mut events).await, Observed::Put(key.clone(), Revision::new(2)));
    assert_eq!(reported(&mut events).await, Observed::Removed(key, Revision::new(3), Removed::Deleted));

    let ready: Bucket<Ready> = seen_as(&world, users.name()).await;
    let mut signals = ready.watch(..).await.unwrap();
    assert_eq!(listing(&mut signals).await, []);
    let write = async {
        // The watcher of nats.js has started.
        reported(&mut signals).await;
        users.put(&bob).await.unwrap();
        users.put(&ada).await.unwrap();
        users.purge(&ada.key()).await.unwrap();
    };
    let steps = json!([["watch", "app.acme.*", 2, "ready.a"]]);
    let (seen, ()) = tokio::join!(node(&modules, users.name(), steps), write);
    let seen: Vec<_> = seen[0].as_array().expect("a list").iter().map(|e| (&e["key"], &e["operation"])).collect();
    let key = json!("app.acme.user-7");
    assert_eq!(seen, [(&key, &json!("PUT")), (&key, &json!("PURGE"))]);
}

#[tokio::test]
async fn nats_js_writes_golden_keys() {
    let modules = nats_js!();
    let any = World::nats().await.bucket::<Any>().await;
    let golden: Vec<(String, &str)> = include_str!("golden/keys.base64-nats-js.txt")
        .lines()
        .map(|line| {
            let (key, stored) = line.rsplit_once(' ').expect("a key and a stored key");
            (serde_json::from_str(key).expect("JSON"), stored)
        })
        .collect();
    let mut steps: Vec<_> = golden.iter().map(|(key, _)| json!(["put", key, key])).collect();
    steps.push(json!(["stored"]));
    let reported = node(&modules, any.name(), json!(steps)).await;
    let stored: BTreeSet<_> = golden.iter().map(|(_, stored)| *stored).collect();
    assert_eq!(reported.last(), Some(&json!(stored)));

    let mut written = 0;
    for (text, stored) in &golden {
        let key = KeyCodec::Base64NatsJs.decode(&Key::new(*stored).unwrap()).unwrap();
        let entry = any.get(&AnyKey::new(key.clone())).await.unwrap().expect("nats.js put it");
        assert_eq!(entry.text, *text, "{key}");
        any.update(&Any { key, text: format!("{text}!") }, entry.revision()).await.unwrap();
        written += 1;
    }
    assert_eq!(any.count(..).await.unwrap(), written, "each key is stored once");
    let steps: Vec<_> = golden.iter().map(|(key, _)| json!(["get", key])).collect();
    for (entry, (key, _)) in node(&modules, any.name(), json!(steps)).await.iter().zip(&golden) {
        assert_eq!((&entry["key"], &entry["value"]), (&json!(key), &json!(format!("{key}!"))));
    }
}

#[tokio::test]
async fn key_unsupported_by_nats_js_is_rejected() {
    let modules = nats_js!();
    let users = World::nats().await.bucket::<User>().await;
    // An encoding with `+`, and a character beyond Latin-1.
    for tenant in ["\u{fb}\u{ef}", "€"] {
        let steps = json!([["put", format!("app.{tenant}.user-1"), "{}"], ["stored"]]);
        let reported = node(&modules, users.name(), steps).await;
        assert!(reported[0].get("error").is_some(), "{tenant}: {reported:?}");
        assert_eq!(reported[1], json!([]));
        let error = users.put(&User::new(tenant, 1)).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidKey), "{error}");
        assert_eq!(error.outcome(), Outcome::NotApplied);
    }
}

/// A model with the version in a header.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(name = "member", key = "member.{id}", key_codec = "base64-nats-js", version = 2, upgrade_from = MemberV1)]
struct Member {
    id: u64,
    nick: String,
    email: Option<String>,
}

#[derive(Serialize, Deserialize, KvVersion)]
#[kv(version = 1)]
struct MemberV1 {
    id: u64,
    nick: String,
}

impl From<MemberV1> for Member {
    fn from(MemberV1 { id, nick }: MemberV1) -> Self {
        Self { id, nick, email: None }
    }
}

/// A model with the version in the record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(name = "guest", key = "guest.{id}", key_codec = "base64-nats-js", version = 2)]
struct Guest {
    id: u64,
    #[kv(version)]
    v: u32,
}

/// nats.js writes a record back without its header, so that it counts as version 1 and loses its new field.
#[tokio::test]
async fn nats_js_keeps_version_field_and_loses_version_header() {
    let modules = nats_js!();
    let World { store, .. } = World::nats().await;
    let members: Bucket<Member> = store.bucket().name(unique("versions")).await.unwrap();
    let guests: Bucket<Guest> = store.bucket().name(members.name()).await.unwrap();
    members.put(&Member { id: 7, nick: "ada".into(), email: Some("ada@example.com".into()) }).await.unwrap();
    guests.put(&Guest { id: 7, v: 2 }).await.unwrap();
    let keys = ["member.7", "guest.7"];
    let read = node(&modules, members.name(), json!(keys.map(|key| json!(["get", key])))).await;
    let back = keys.iter().zip(&read).map(|(key, entry)| json!(["update", key, entry["value"], entry["revision"]]));
    assert_eq!(node(&modules, members.name(), back.collect()).await, [json!(3), json!(4)]);
    let member = members.get(&MemberKey::new(7)).read(Read::Leader).await.unwrap().expect("it is there");
    assert_eq!((member.schema_version(), member.nick.as_str(), &member.email), (1, "ada", &None));
    let guest = guests.get(&GuestKey::new(7)).read(Read::Leader).await.unwrap().expect("it is there");
    assert_eq!((guest.schema_version(), guest.v), (2, 2));
}
