//! Buckets with keys in the encodings of other clients.

use std::collections::BTreeSet;

use kvtyped::codec::Bytes;
use kvtyped::key::{KeyCodec, KeyError};
use kvtyped::prelude::*;
use kvtyped::{Drift, ErrorKind, Key};
use proptest::prelude::*;

use crate::support::on_both_backends;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "sessions", key = "app.{tenant}.user-{id}", key_codec = "base64")]
struct Session {
    tenant: String,
    id: u64,
    visits: u32,
}

/// The same bucket with its encoded keys.
#[derive(Clone, Debug, PartialEq, KvModel)]
#[kv(bucket = "sessions", key = "{key..}", codec = Bytes)]
struct Stored {
    key: Key,
    #[kv(value)]
    bytes: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "files", key = "{path..}", key_codec = "path")]
struct File {
    path: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "names", key = "{name}", key_codec = "base64-nats-js")]
struct Name {
    name: String,
}

fn session(tenant: &str, id: u64) -> Session {
    Session { tenant: tenant.to_owned(), id, visits: 0 }
}

async fn stored<T: KvModel>(bucket: &Bucket<T>, store: &Store) -> BTreeSet<String> {
    let stored: Bucket<Stored> = store.bucket().name(bucket.name()).must_exist().on_drift(Drift::Adopt).await.unwrap();
    let keys: Vec<_> = stored.keys(..).await.unwrap().try_collect().await.unwrap();
    keys.into_iter().map(|key| key.to_string()).collect()
}

fn texts<const N: usize>(keys: [&str; N]) -> BTreeSet<String> {
    keys.map(str::to_owned).into()
}

on_both_backends! {
    async fn every_verb_uses_the_key_codec(world: World) {
        let sessions = world.bucket::<Session>().await;
        let (ada, bob) = (session("acme", 7), session("a b", 8));
        let revision = sessions.put(&ada).await.unwrap();
        assert_eq!(stored(&sessions, &world.store).await, texts(["YXBw.YWNtZQ.dXNlci03"]));
        assert_eq!(sessions.get(&ada.key()).await.unwrap().expect("it was put").into_value(), ada);
        sessions.update(&Session { visits: 1, ..ada.clone() }, revision).await.unwrap();
        let error = sessions.update(&ada, revision).await.unwrap_err();
        assert!(error.is_conflict() && error.key() == Some("app.acme.user-7"), "{error}");
        assert_eq!(sessions.modify(&ada.key(), |session| session.visits += 1).await.unwrap().visits, 2);
        sessions.create(&bob).await.unwrap();
        let found = sessions.get_many(&[bob.key(), SessionKey::new("none", 1)]).await.unwrap();
        assert_eq!(found[0].as_ref().map(|entry| entry.key()), Some(&bob.key()));
        assert!(found[1].is_none());
        assert_eq!(sessions.history(&bob.key()).await.unwrap().len(), 1);
        sessions.put_many((10..20).map(|id| session("many", id))).await.unwrap();
        sessions.delete(&bob.key()).await.unwrap();
        assert_eq!(sessions.count(..).await.unwrap(), 11);
    }

    async fn filters_match_as_in_a_plain_bucket(world: World) {
        let sessions = world.bucket::<Session>().await;
        for (tenant, id) in [("acme", 7), ("acme", 8), ("beta", 7)] {
            sessions.put(&session(tenant, id)).await.unwrap();
        }
        for (filter, expected) in [
            (SessionKey::filter(), vec!["app.acme.user-7", "app.acme.user-8", "app.beta.user-7"]),
            (SessionKey::filter().tenant("acme"), vec!["app.acme.user-7", "app.acme.user-8"]),
            (SessionKey::filter().id(7), vec!["app.acme.user-7", "app.beta.user-7"]),
            (SessionKey::filter().tenant("none"), vec![]),
        ] {
            let keys: Vec<SessionKey> = sessions.keys(filter.clone()).await.unwrap().try_collect().await.unwrap();
            let mut keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
            keys.sort();
            assert_eq!(keys, expected, "{filter:?}");
        }
        // A key of the same shape without the half-open literal does not match the filter.
        let foreign: Bucket<Stored> =
            world.store.bucket().name(sessions.name()).must_exist().on_drift(Drift::Adopt).await.unwrap();
        let other = KeyCodec::Base64.encode(&Key::new("app.acme.7").unwrap()).unwrap();
        foreign.put(&Stored { key: other, bytes: vec![] }).await.unwrap();
        assert_eq!(sessions.count(SessionKey::filter().tenant("acme")).await.unwrap(), 2);
    }

    async fn a_cache_and_a_watch_use_the_key_codec(world: World) {
        let sessions = world.bucket::<Session>().await;
        sessions.put(&session("acme", 7)).await.unwrap();
        let cache = sessions.cache(..).await.unwrap();
        assert!(cache.get(&SessionKey::new("acme", 7)).is_some());
        let revision = sessions.put(&session("beta", 8)).await.unwrap();
        cache.wait_for_revision(revision).await.unwrap();
        assert!(cache.get(&SessionKey::new("beta", 8)).is_some());
    }

    async fn a_foreign_key_is_an_error_that_names_it(world: World) {
        let names = world.bucket::<Name>().await;
        names.put(&Name { name: "a".to_owned() }).await.unwrap();
        let foreign: Bucket<Stored> =
            world.store.bucket().name(names.name()).must_exist().on_drift(Drift::Adopt).await.unwrap();
        foreign.put(&Stored { key: Key::new("plain").unwrap(), bytes: vec![] }).await.unwrap();
        assert_eq!(stored(&names, &world.store).await, texts(["YQ==", "plain"]));
        let keys: Vec<_> = names.keys(..).await.unwrap().collect().await;
        let (good, bad): (Vec<_>, Vec<_>) = keys.into_iter().partition(Result::is_ok);
        assert_eq!(good.into_iter().map(|key| key.unwrap().name).collect::<Vec<_>>(), ["a"]);
        let error = bad.into_iter().next().expect("one is no key").unwrap_err();
        assert_eq!(error.key(), Some("plain"));
        assert!(matches!(error.kind(), ErrorKind::Decode { codec: "key", .. }), "{error}");
    }

    async fn paths_are_stored_as_segments(world: World) {
        let files = world.bucket::<File>().await;
        for path in ["/usr/lib/x", "/usr/lib/y", "/usr", "usr/lib"] {
            files.put(&File { path: path.to_owned() }).await.unwrap();
        }
        let expected = texts(["_root_.usr.lib.x", "_root_.usr.lib.y", "_root_.usr", "usr.lib"]);
        assert_eq!(stored(&files, &world.store).await, expected);
        let below: Vec<FileKey> =
            files.keys(FileKey::filter().path_below("/usr")).await.unwrap().try_collect().await.unwrap();
        let below: BTreeSet<_> = below.into_iter().map(|key| key.path).collect();
        assert_eq!(below, texts(["/usr/lib/x", "/usr/lib/y"]));
        let error = files.put(&File { path: "/usr/".to_owned() }).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidKey), "{error}");
        assert_eq!(error.outcome(), Outcome::NotApplied);
    }

    async fn a_bucket_chooses_its_key_codec(world: World) {
        let plain = world.bucket::<Session>().await;
        let other: Bucket<Session> = world.store.bucket().name(plain.name()).key_codec(KeyCodec::Escaped).await.unwrap();
        other.put(&session("acme", 7)).await.unwrap();
        assert_eq!(stored(&plain, &world.store).await, texts(["app.acme.user-7"]));
        let error = world.store.bucket::<Session>().key_codec(KeyCodec::Path).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error}");
    }

    async fn locks_beside_encoded_records_keep_their_keys(world: World) {
        let sessions = world.bucket::<Session>().await;
        let lease = sessions.lock(&SessionKey::new("acme", 7)).await.unwrap();
        sessions.put(&session("acme", 7)).await.unwrap();
        assert_eq!(sessions.count(..).await.unwrap(), 1);
        lease.release().await.unwrap();
    }
}

/// Keys that orbit.go and nats.js wrote: the key as JSON text, and the stored key.
#[test]
fn keys_of_other_clients_are_read_and_written() {
    for (codec, golden) in [
        (KeyCodec::Base64, include_str!("golden/keys.base64.txt")),
        (KeyCodec::Base64NatsJs, include_str!("golden/keys.base64-nats-js.txt")),
    ] {
        for line in golden.lines() {
            let (key, stored) = line.rsplit_once(' ').expect("a key and a stored key");
            let key: String = serde_json::from_str(key).expect("JSON");
            let escaped: Vec<_> = key.split('.').map(|text| kvtyped::key::escape(text).into_owned()).collect();
            let (key, stored) = (Key::new(escaped.join(".")).unwrap(), Key::new(stored).unwrap());
            assert_eq!(codec.encode(&key).unwrap(), stored, "{line}");
            assert_eq!(codec.decode(&stored).unwrap(), key, "{line}");
        }
    }
}

fn plain_key() -> impl Strategy<Value = Key> {
    let segment = prop_oneof!["[a-z]{1,3}", "\\PC{0,4}", "[/_.=~?]{0,3}"];
    proptest::collection::vec(segment, 1..4).prop_map(|segments| {
        let segments: Vec<_> = segments.iter().map(|text| kvtyped::key::escape(text).into_owned()).collect();
        Key::new(segments.join(".")).unwrap()
    })
}

proptest! {
    #[test]
    fn what_a_key_codec_writes_it_reads(key in plain_key()) {
        for codec in [KeyCodec::Escaped, KeyCodec::Base64, KeyCodec::Base64NatsJs, KeyCodec::Path] {
            match codec.encode(&key) {
                Ok(stored) => prop_assert_eq!(codec.decode(&stored), Ok(key.clone())),
                Err(KeyError::Segment { .. } | KeyError::IllegalCharacter { .. }) => {}
                Err(error) => prop_assert!(false, "{}", error),
            }
        }
    }

    #[test]
    fn a_stored_key_has_one_reading(text in "[A-Za-z0-9/_=-]{1,6}(\\.[A-Za-z0-9/_=-]{1,6}){0,2}") {
        let stored = Key::new(text).unwrap();
        for codec in [KeyCodec::Base64, KeyCodec::Base64NatsJs, KeyCodec::Path] {
            if let Ok(key) = codec.decode(&stored) {
                prop_assert_eq!(codec.encode(&key), Ok(stored.clone()));
            }
        }
    }
}
