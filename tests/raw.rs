//! The raw view of a bucket: verbatim keys and bytes, record headers, reserved records.

use std::collections::BTreeSet;

use kvtyped::backend::RecordHeaders;
use kvtyped::bucket::RawWrite;
use kvtyped::model::ModelCard;
use kvtyped::{ErrorKind, Event, Filter, Key, RawRecord};

use crate::support::*;

use kvtyped::prelude::*;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "raw_users", key = "{id}", history = 1, version = 3)]
struct User {
    id: u64,
    name: String,
}

fn key(text: &str) -> Key {
    Key::new(text).expect("a legal key")
}

fn record(text: &str, bytes: &'static str) -> RawRecord {
    RawRecord::new(key(text), bytes)
}

/// Headers that no model of this version writes.
fn foreign_headers() -> RecordHeaders {
    let mut headers = RecordHeaders::of_version(Some(7));
    assert!(headers.set(RecordHeaders::ENCODING, "zstd") && headers.set(RecordHeaders::KEY_ID, "2026-11"));
    headers
}

async fn raw(world: &World, name: &str) -> Bucket<RawRecord> {
    world.store.raw(name).await.expect("the bucket exists")
}

async fn all_keys(bucket: &Bucket<RawRecord>, filter: impl Into<Filter<RawRecord>>) -> BTreeSet<String> {
    let keys: Vec<Key> = bucket.keys(filter).await.unwrap().try_collect().await.unwrap();
    keys.iter().map(Key::to_string).collect()
}

fn set<const N: usize>(keys: [&str; N]) -> BTreeSet<String> {
    keys.map(str::to_owned).into()
}

on_both_backends! {
    async fn raw_view_never_creates_a_bucket(world: World) {
        let missing = unique("missing");
        let error = world.store.raw(&*missing).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::BucketNotFound), "{error}");
        assert!(world.store.raw(&*missing).read_only().await.is_err());
        assert!(!world.store.buckets().await.unwrap().contains(&missing));
        let error = world.store.raw("a name").await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error}");
    }

    async fn bucket_is_created_like_another(world: World) {
        let users: Bucket<User> = world.fresh().description("of users").await.unwrap();
        let mut settings = users.config().clone();
        let (key, text) = settings.metadata.iter().find(|(key, _)| key.starts_with("kvtyped.model.")).expect("a card");
        let index = r#","indexes":{"email":{"state":"readable","definition":"{email}","fingerprint":"0"}}}"#;
        let indexed = text.strip_suffix('}').expect("an object").to_owned() + index;
        let card = ModelCard::parse(text).unwrap();
        let key = key.clone();
        settings.metadata.insert(key.clone(), indexed);

        let name = unique("like");
        let like: Bucket<RawRecord> = world.store.raw(&*name).create_like(&settings).await.unwrap();
        assert_eq!((like.name(), like.config().description.as_deref()), (&*name, Some("of users")));
        let copied = ModelCard::parse(&like.config().metadata[&key]).unwrap();
        assert_eq!(copied, card, "the card is that of the model, without the index");
        world.store.bucket::<User>().name(&*name).must_exist().await.expect("it fits the model");
        settings.history = Some(9);
        let again = world.store.raw(&*name).create_like(&settings).await.unwrap();
        assert_eq!(again.config().history, Some(1), "an existing bucket keeps its settings");
        let error = world.store.raw("a name").create_like(&settings).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error}");
    }

    async fn raw_view_opens_a_bucket_with_any_settings(world: World) {
        let documents: Bucket<Document> = world.fresh().history(3).description("of other people").await.unwrap();
        documents.put(&Document::new("a", "b")).await.unwrap();
        let view = world.store.raw(documents.name()).read_only().await.unwrap();
        let entry = view.get(&key("doc.a")).await.unwrap().unwrap();
        assert_eq!((&entry.key, &*entry.bytes), (&key("doc.a"), &br#"{"name":"a","text":"b"}"#[..]));
        assert_eq!(view.config().history, Some(3));
        let error = raw(&world, documents.name()).await.put(&record("x", "y")).ttl(Duration::from_secs(60)).await;
        assert!(matches!(error.unwrap_err().kind(), ErrorKind::Unsupported { .. }), "the history is checked");
    }

    async fn foreign_keys_and_bytes_are_verbatim(world: World) {
        let sessions: Bucket<Session> = world.bucket().await;
        let view = raw(&world, sessions.name()).await;
        for name in ["k=v.a", "=2A.7", "a=2e", "one", "a.b.c.d.e", "=x"] {
            view.put(&record(name, "\u{0}\u{ff}")).await.unwrap();
            let entry = view.get(&key(name)).await.unwrap().unwrap();
            assert_eq!(*entry.value(), record(name, "\u{0}\u{ff}"));
            assert_eq!(*entry.headers(), RecordHeaders::default());
        }
        assert_eq!(all_keys(&view, ..).await, set(["k=v.a", "=2A.7", "a=2e", "one", "a.b.c.d.e", "=x"]));
        assert_eq!(all_keys(&view, Filter::subject("*.*").unwrap()).await, set(["k=v.a", "=2A.7"]));
        view.modify(&key("one"), |record| record.bytes = "two".into()).await.unwrap();
        assert_eq!(view.history(&key("one")).await.unwrap().len(), 1);
        let changed = view.modify(&key("one"), |record| record.key = key("other")).await.unwrap_err();
        assert!(matches!(changed.kind(), ErrorKind::KeyChanged), "{changed}");
    }

    async fn reserved_records_are_left_out_by_default(world: World) {
        crate::needs::needs!(Locks);
        let sessions: Bucket<Session> = world.bucket().await;
        sessions.put(&Session::new("acme", 7)).await.unwrap();
        let locks = world.store.locks("x").bucket(sessions.name()).await.unwrap();
        let guard = locks.lock("invoice-42").await.unwrap();
        let view = raw(&world, sessions.name()).await;
        let lease = key("=kvtyped.lock.invoice-42.lease");

        assert_eq!(all_keys(&view, ..).await, set(["acme.7"]));
        assert_eq!(view.count(..).await.unwrap(), 1);
        let reserved: Vec<Key> = view.keys(..).include_reserved().await.unwrap().try_collect().await.unwrap();
        assert!(reserved.contains(&lease) && reserved.contains(&key("acme.7")), "{reserved:?}");
        assert_eq!(view.count(..).include_reserved().await.unwrap(), reserved.len() as u64);
        let half: Vec<_> = view.list(Filter::subject("*.lock.>").unwrap()).include_reserved().await.unwrap()
            .try_collect().await.unwrap();
        assert!(half.iter().any(|entry| entry.key == lease) && half.iter().all(|entry| entry.key != key("acme.7")));
        assert!(all_keys(&view, Filter::subject("=kvtyped.>").unwrap()).await.contains(lease.as_str()), "it is named");
        assert!(view.get(&lease).await.unwrap().is_some());

        let mut plain = view.watch(..).await.unwrap();
        assert_eq!(listing(&mut plain).await.len(), 1);
        let mut watch = view.watch(..).include_reserved().await.unwrap();
        assert_eq!(listing(&mut watch).await.len(), reserved.len());
        let cache = view.cache(..).include_reserved().await.unwrap();
        assert!(cache.get(&lease).is_some() && view.cache(..).await.unwrap().get(&lease).is_none());

        guard.release().await.unwrap();
        loop {
            match soon(&mut watch).await.unwrap() {
                Event::Removed { key, .. } if key == lease => break,
                _ => {}
            }
        }
    }

    async fn raw_put_stores_no_headers_unless_set(world: World) {
        let users: Bucket<User> = world.fresh().await.unwrap();
        users.put(&User { id: 1, name: "ada".into() }).await.unwrap();
        let view = raw(&world, users.name()).await;
        let found = view.get(&key("1")).await.unwrap().unwrap();
        assert_eq!((found.headers().version, found.schema_version()), (Some(3), 3));

        let plain = view.put(found.value()).await.unwrap();
        let stored = view.get(&key("1")).await.unwrap().unwrap();
        assert_eq!((stored.headers(), stored.revision()), (&RecordHeaders::default(), plain));

        view.update(found.value(), plain).headers(foreign_headers()).await.unwrap();
        view.create(&record("2", "b")).headers(foreign_headers()).await.unwrap();
        view.put(&record("3", "c")).headers(foreign_headers()).await.unwrap();
        for id in ["1", "2", "3"] {
            assert_eq!(*view.get(&key(id)).await.unwrap().unwrap().headers(), foreign_headers());
        }
        let error = users.get(&UserKey::new(1)).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Decode { .. } | ErrorKind::Newer { .. }), "{error}");
    }

    async fn changes_keep_the_headers_of_a_raw_record(world: World) {
        crate::needs::needs!(Locks);
        let users: Bucket<User> = world.fresh().await.unwrap();
        let view = raw(&world, users.name()).await;
        let mut migrated = foreign_headers();
        assert!(migrated.set(RecordHeaders::CAUSE, RecordHeaders::REWRITE));
        view.put(&record("1", "a")).headers(migrated.clone()).await.unwrap();
        assert_eq!(*view.get(&key("1")).await.unwrap().unwrap().headers(), migrated);

        let changed = view.modify(&key("1"), |record| record.bytes = "b".into()).await.unwrap();
        assert_eq!((changed.headers(), changed.schema_version()), (&foreign_headers(), 7));
        view.touch(&key("1")).ttl(Duration::from_secs(60)).await.unwrap();
        let touched = view.get(&key("1")).await.unwrap().unwrap();
        assert_eq!((touched.headers(), &touched.bytes[..]), (&foreign_headers(), &b"b"[..]));
        let unchanged = view.modify(&key("1"), |_| {}).await.unwrap();
        assert_eq!((unchanged.revision(), unchanged.headers()), (touched.revision(), &foreign_headers()));
        // Without a change, only the TTL is written.
        let kept = view.modify(&key("1"), |_| {}).ttl(Duration::from_secs(90)).await.unwrap();
        assert_eq!(*kept.headers(), foreign_headers());
        let one = key("1");
        let concurrent = (0..4).map(|number| {
            let append = move |record: &mut RawRecord| {
                record.bytes = [&record.bytes[..], number.to_string().as_bytes()].concat().into();
            };
            view.modify(&one, append).into_future()
        });
        for changed in futures::future::join_all(concurrent).await {
            assert_eq!(*changed.unwrap().headers(), foreign_headers());
        }
        let last = view.get(&key("1")).await.unwrap().unwrap();
        assert_eq!((last.headers(), last.bytes.len()), (&foreign_headers(), 5));
    }

    async fn transactions_keep_the_headers_of_records_that_they_read(world: World) {
        crate::needs::needs!(Transactions);
        let users: Bucket<User> = world.fresh().await.unwrap();
        let view = raw(&world, users.name()).await;
        view.put(&record("1", "a")).headers(foreign_headers()).await.unwrap();
        view.put(&record("2", "a")).headers(foreign_headers()).await.unwrap();
        let moved = view.transact(|tx| async move {
            let mut read = tx.get(&key("1")).await?.expect("it exists");
            read.bytes = "b".into();
            tx.put(&read)?;
            tx.put(&record("2", "b"))?;
            Ok(())
        });
        moved.await.unwrap();
        assert_eq!(*view.get(&key("1")).await.unwrap().unwrap().headers(), foreign_headers());
        assert_eq!(*view.get(&key("2")).await.unwrap().unwrap().headers(), RecordHeaders::default());
    }

    async fn headers_that_cannot_be_sent_are_refused(world: World) {
        let users: Bucket<User> = world.fresh().await.unwrap();
        let view = raw(&world, users.name()).await;
        for text in ["a\r\nNats-TTL: 1", "\u{0}", "é", "a\n"] {
            let mut headers = RecordHeaders::default();
            assert!(headers.set(RecordHeaders::ENCODING, text));
            let error = view.put(&record("1", "a")).headers(headers.clone()).await.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error}");
            let many = view.write_many([RawWrite::new(record("1", "a")).headers(headers)]).await.unwrap_err();
            assert!(matches!(many.kind(), ErrorKind::InvalidConfig { .. }), "{many}");
        }
        assert!(view.get(&key("1")).await.unwrap().is_none());
    }

    async fn import_restores_headers_and_ttl_of_each_record(world: World) {
        crate::needs::needs!(Locks);
        let (from, to): (Bucket<User>, Bucket<User>) = (world.fresh().await.unwrap(), world.fresh().await.unwrap());
        from.put(&User { id: 1, name: "ada".into() }).ttl(Duration::from_secs(60)).await.unwrap();
        from.put(&User { id: 2, name: "bob".into() }).await.unwrap();
        let exported: Vec<Entry<RawRecord>> =
            raw(&world, from.name()).await.list(..).await.unwrap().try_collect().await.unwrap();
        let writes = exported.iter().map(|entry| {
            let ttl = entry.ttl().map(|_| Duration::from_secs(30));
            RawWrite::new(entry.value().clone()).headers(entry.headers().clone()).ttl(ttl)
        });
        let target = raw(&world, to.name()).await;
        let results = target.write_many(writes.chain([RawWrite::new(record("3", "c")).ttl(Duration::from_millis(1))]));
        let results = results.results().await.unwrap();
        assert!(results[0].is_ok() && results[1].is_ok());
        assert!(matches!(results[2].as_ref().unwrap_err().kind(), ErrorKind::InvalidConfig { .. }));
        let ada = to.get(&UserKey::new(1)).await.unwrap().unwrap();
        assert_eq!((ada.name.as_str(), ada.schema_version()), ("ada", 3));
        assert_eq!(ada.ttl().map(|ttl| ttl.as_secs()), Some(30));
        assert_eq!(to.get(&UserKey::new(2)).await.unwrap().unwrap().ttl(), None);
    }
}

#[test]
fn subject_filters_are_checked() {
    for legal in ["a", "a.b", "*", "*.b", "a.*.c", ">", "a.>", "*.>", "=kvtyped.lock.>", "a=2E.*"] {
        assert_eq!(Filter::<RawRecord>::subject(legal).unwrap().to_string(), legal);
    }
    let long = format!("{}.>", "a".repeat(Key::MAX_BYTES + 1));
    for illegal in
        ["", ".", "a.", ".a", "a..b", "a.>.b", ">.a", "a>", "a*", "*a.b", "a b", "a\r\nb", "é", "a.*>", &long]
    {
        let error = Filter::<RawRecord>::subject(illegal).unwrap_err();
        assert!(!error.to_string().is_empty(), "{illegal:?}");
    }
}

#[test]
fn debug_output_shows_no_bytes() {
    let text = format!("{:?}", record("a", "secret"));
    assert_eq!(text, r#"RawRecord { key: Key("a"), bytes: 6 bytes }"#);
}
