//! Programs of several schema versions at the same time: the records that each reads and writes, and the card of the
//! model.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;
use kvtyped::backend::memory::MemoryBackend;
use kvtyped::backend::{Backend, Deadline, RecordHeaders, Write, WriteKind};
use kvtyped::prelude::*;
use kvtyped::{Error, ErrorKind, Event, Key, KvVersion, UnknownFields};

use crate::support::{World, on_both_backends};

/// The first program. It knows version 1.
mod old {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    #[kv(bucket = "users", key = "{id}")]
    pub(super) struct User {
        pub(super) id: u64,
        pub(super) name: String,
    }
}

/// The second program. It knows version 2, and reads version 1.
mod new {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    #[kv(bucket = "users", key = "{id}", version = 2, upgrade_from = UserV1)]
    pub(super) struct User {
        pub(super) id: u64,
        pub(super) first: String,
        pub(super) last: String,
        pub(super) email: Option<String>,
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvVersion)]
    #[kv(version = 1)]
    pub(super) struct UserV1 {
        pub(super) id: u64,
        pub(super) name: String,
    }

    impl TryFrom<UserV1> for User {
        type Error = NoLastName;

        fn try_from(UserV1 { id, name }: UserV1) -> Result<Self, NoLastName> {
            let (first, last) = name.split_once(' ').ok_or(NoLastName)?;
            Ok(Self { id, first: first.into(), last: last.into(), email: None })
        }
    }

    #[derive(Debug)]
    pub(super) struct NoLastName;

    impl std::fmt::Display for NoLastName {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("the name has one word")
        }
    }

    impl std::error::Error for NoLastName {}
}

/// The second program in a rolling deploy. It writes version 1 until the bucket is switched.
mod careful {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    #[kv(bucket = "users", key = "{id}", version = 2, upgrade_from = UserV1, writes = 1)]
    pub(super) struct User {
        pub(super) id: u64,
        pub(super) name: String,
        pub(super) email: Option<String>,
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvVersion)]
    #[kv(version = 1)]
    pub(super) struct UserV1 {
        id: u64,
        name: String,
    }

    impl From<UserV1> for User {
        fn from(UserV1 { id, name }: UserV1) -> Self {
            Self { id, name, email: None }
        }
    }

    impl From<User> for UserV1 {
        fn from(User { id, name, .. }: User) -> Self {
            Self { id, name }
        }
    }
}

/// The first program, which keeps the fields of newer records.
mod keeping {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    #[kv(bucket = "users", key = "{id}", newer = "keep")]
    pub(super) struct User {
        pub(super) id: u64,
        pub(super) first: String,
        #[serde(flatten)]
        pub(super) rest: UnknownFields,
    }
}

/// A model that another client writes too, with the version in the record.
mod shared {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    #[kv(bucket = "users", key = "{id}", version = 2, upgrade_from = UserV1)]
    pub(super) struct User {
        pub(super) id: u64,
        pub(super) name: String,
        #[kv(version)]
        pub(super) v: u32,
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvVersion)]
    #[kv(version = 1)]
    pub(super) struct UserV1 {
        id: u64,
        nick: String,
    }

    impl From<UserV1> for User {
        fn from(UserV1 { id, nick }: UserV1) -> Self {
            Self { id, name: nick, v: 2 }
        }
    }
}

fn ada() -> new::User {
    new::User { id: 7, first: "Ada".into(), last: "Lovelace".into(), email: Some("ada@example.com".into()) }
}

fn old_ada() -> old::User {
    old::User { id: 7, name: "Ada Lovelace".into() }
}

/// Opens a bucket that another program created, whatever its card says.
async fn adopt<T: KvModel>(world: &World, name: &str) -> Bucket<T> {
    world.store.bucket().name(name).on_schema(Drift::Adopt).await.unwrap()
}

/// Opens one bucket without a card of the model by two programs.
async fn side_by_side<A: KvModel, B: KvModel>(world: &World) -> (Bucket<A>, Bucket<B>) {
    let raw = world.bucket::<Json>().await;
    let open = world.store.bucket::<A>().name(raw.name());
    (open.await.unwrap(), world.store.bucket().name(raw.name()).await.unwrap())
}

fn assert_newer(error: &Error, found: u32, knows: u32) {
    assert!(matches!(error.kind(), ErrorKind::Newer { found: f, knows: k } if (*f, *k) == (found, knows)), "{error}");
    assert_eq!(error.outcome(), Outcome::NotApplied);
}

on_both_backends! {
    async fn new_program_reads_old_records(world: World) {
        let (new, old) = side_by_side::<new::User, old::User>(&world).await;
        old.put(&old_ada()).await.unwrap();
        let entry = new.get(&new::UserKey::new(7)).await.unwrap().expect("it was put");
        assert_eq!((entry.schema_version(), entry.first.as_str(), entry.email.as_deref()), (1, "Ada", None));
        let entry = new.modify(&new::UserKey::new(7), |user| user.email = Some("ada@example.com".into())).await.unwrap();
        assert_eq!((entry.schema_version(), entry.value()), (2, &ada()));
        let read = new.get(&new::UserKey::new(7)).await.unwrap().expect("it was put");
        assert_eq!((read.schema_version(), read.value()), (2, &ada()));
    }

    async fn old_program_never_writes_over_a_newer_record(world: World) {
        let (new, old) = side_by_side::<new::User, old::User>(&world).await;
        let revision = new.put(&ada()).await.unwrap();
        let key = old::UserKey::new(7);
        let change = |user: &mut old::User| user.name = "Countess".into();
        assert_newer(&old.get(&key).await.unwrap_err(), 2, 1);
        assert_newer(&old.modify(&key, change).await.unwrap_err(), 2, 1);
        let error = old.modify(&key, change).or_insert_with(old_ada).await.unwrap_err();
        assert_newer(&error, 2, 1);
        let error = old.transform(&key, |_| Change::Put(old_ada())).await.unwrap_err();
        assert_newer(&error, 2, 1);
        let error = old.transact(|tx| {
            let key = key.clone();
            async move {
                tx.get(&key).await?;
                tx.put(&old_ada())?;
                Ok(())
            }
        }).await.unwrap_err();
        assert!(error.to_string().contains("version"), "{error}");
        assert!(old.create(&old_ada()).await.unwrap_err().is_conflict());
        let read = new.get(&new::UserKey::new(7)).await.unwrap().expect("it is unchanged");
        assert_eq!((read.revision(), read.value()), (revision, &ada()));
        // A touch keeps the bytes and the version.
        old.touch(&key).await.unwrap();
        let read = new.get(&new::UserKey::new(7)).await.unwrap().expect("it is there");
        assert_eq!((read.schema_version(), read.value()), (2, &ada()));
    }

    async fn list_watch_and_cache_report_newer_records(world: World) {
        let (new, old) = side_by_side::<new::User, old::User>(&world).await;
        old.put(&old::User { id: 1, name: "Bob Ross".into() }).await.unwrap();
        new.put(&ada()).await.unwrap();
        old.put(&old::User { id: 9, name: "Cy Twombly".into() }).await.unwrap();
        let listed: Vec<_> = old.list(..).await.unwrap().collect().await;
        let found: Vec<_> = listed.iter().map(|entry| entry.as_ref().map(|entry| entry.id).ok()).collect();
        assert_eq!(found, [Some(1), None, Some(9)]);
        assert_newer(listed[1].as_ref().unwrap_err(), 2, 1);
        let mut events = old.watch(..).await.unwrap();
        let (mut ids, mut errors) = (Vec::new(), Vec::new());
        while let Some(event) = events.try_next().await.unwrap() {
            match event {
                Event::Put(entry) => ids.push(entry.id),
                Event::Undecodable { error, .. } => errors.push(error),
                Event::Ready => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(ids, [1, 9]);
        assert_newer(&errors[0], 2, 1);
        let cache = old.cache(..).await.unwrap();
        assert_newer(&cache.try_get(&old::UserKey::new(7)).unwrap_err(), 2, 1);
        assert_eq!(cache.try_get(&old::UserKey::new(1)).unwrap().map(|entry| entry.id), Some(1));
    }

    async fn unchanged_old_record_is_not_rewritten(world: World) {
        let (new, old) = side_by_side::<new::User, old::User>(&world).await;
        let revision = old.put(&old_ada()).await.unwrap();
        let key = new::UserKey::new(7);
        let entry = new.modify(&key, |user| user.email = None).await.unwrap();
        assert_eq!((entry.revision(), entry.schema_version()), (revision, 1));
        let kept = new.transform(&key, |_| Change::Keep).await.unwrap().expect("it stays");
        assert_eq!((kept.revision(), kept.schema_version()), (revision, 1));
        let entry = new.modify(&key, |_| {}).ttl(Duration::from_secs(600)).await.unwrap();
        assert_eq!(entry.schema_version(), 2, "a requested TTL is a change, and stores the current version");
    }

    async fn failed_upgrade_is_a_typed_error(world: World) {
        let (new, old) = side_by_side::<new::User, old::User>(&world).await;
        old.put(&old::User { id: 7, name: "Prince".into() }).await.unwrap();
        let error = new.get(&new::UserKey::new(7)).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Decode { codec: "upgrade", .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("version 1") && text.contains("version 2") && !text.contains("Prince"), "{text}");
        let cause = std::error::Error::source(&error).and_then(std::error::Error::source).expect("the user's error");
        assert_eq!(cause.to_string(), "the name has one word");
    }

    async fn program_writes_the_earlier_version_until_the_switch(world: World) {
        let careful = world.bucket::<careful::User>().await;
        let old: Bucket<old::User> = world.store.bucket().name(careful.name()).await.unwrap();
        let grace = careful::User { id: 1, name: "Grace".into(), email: Some("g@example.com".into()) };
        careful.put(&grace).await.unwrap();
        let read = old.get(&old::UserKey::new(1)).await.unwrap().expect("the old program reads it");
        assert_eq!(read.name, "Grace");
        let entry = careful.get(&careful::UserKey::new(1)).await.unwrap().expect("it was put");
        assert_eq!((entry.schema_version(), &entry.email), (1, &None));
        let card = careful.card().await.unwrap().expect("the program created the bucket");
        assert_eq!((card.version, card.writes, card.oldest), (2, 1, 1));
    }

    async fn record_is_never_written_as_an_earlier_version(world: World) {
        // The handle was opened before the switch. It has read a record of the newer version, so it keeps its fields.
        let (careful, switched) = side_by_side::<careful::User, shared_shape::User>(&world).await;
        let grace = shared_shape::User { id: 1, name: "Grace".into(), email: Some("g@example.com".into()) };
        switched.put(&grace).await.unwrap();
        let key = careful::UserKey::new(1);
        let entry = careful.modify(&key, |user| user.name = "Hopper".into()).await.unwrap();
        assert_eq!((entry.schema_version(), entry.email.as_deref()), (2, Some("g@example.com")));
        let left = careful.transact(|tx| async move {
            let mut user = tx.get(&careful::UserKey::new(1)).await?.expect("it is there");
            user.name = "Grace Hopper".into();
            tx.put(&user)?;
            Ok(user.email)
        }).await.unwrap();
        assert_eq!(left.as_deref(), Some("g@example.com"));
        let read = switched.get(&shared_shape::UserKey::new(1)).await.unwrap().expect("it is there");
        assert_eq!((read.schema_version(), read.name.as_str(), read.email.as_deref()), (2, "Grace Hopper", Some("g@example.com")));
    }

    async fn running_program_follows_a_switch_that_it_reads(world: World) {
        let first = world.bucket::<careful::User>().await;
        let second: Bucket<careful::User> = world.store.bucket().name(first.name()).await.unwrap();
        first.switch_version(2).await.unwrap();
        let grace = careful::User { id: 1, name: "Grace".into(), email: Some("g@example.com".into()) };
        first.put(&grace).await.unwrap();
        let entry = second.get(&grace.key()).await.unwrap().expect("it was put");
        let revision = entry.revision();
        second.update(&careful::User { name: "Grace Hopper".into(), ..entry.into_value() }, revision).await.unwrap();
        second.create(&careful::User { id: 2, ..grace.clone() }).await.unwrap();
        for id in [1, 2] {
            let read = first.get(&careful::UserKey::new(id)).await.unwrap().expect("it was written");
            assert_eq!((read.schema_version(), read.email.as_deref()), (2, Some("g@example.com")), "{id}");
        }
    }

    async fn modify_returns_the_record_as_it_is_stored(world: World) {
        let careful = world.bucket::<careful::User>().await;
        let grace = careful::User { id: 1, name: "Grace".into(), email: None };
        careful.put(&grace).await.unwrap();
        let entry = careful.modify(&grace.key(), |user| user.email = Some("g@example.com".into())).await.unwrap();
        assert_eq!((entry.schema_version(), &entry.email), (1, &None), "version 1 has no address");
        let entry = careful.modify(&grace.key(), |user| {
            (user.name, user.email) = ("Grace Hopper".into(), Some("g@example.com".into()));
        }).await.unwrap();
        assert_eq!((entry.name.as_str(), &entry.email), ("Grace Hopper", &None));
    }

    async fn keeping_program_writes_unknown_fields_back(world: World) {
        let (new, keeping) = side_by_side::<new::User, keeping::User>(&world).await;
        new.put(&ada()).await.unwrap();
        let key = keeping::UserKey::new(7);
        let entry = keeping.modify(&key, |user| user.first = "Augusta".into()).await.unwrap();
        assert_eq!((entry.schema_version(), entry.rest.len()), (2, 2));
        let read = new.get(&new::UserKey::new(7)).await.unwrap().expect("it is there");
        assert_eq!((read.schema_version(), read.value()), (2, &new::User { first: "Augusta".into(), ..ada() }));
    }

    async fn concurrent_programs_lose_no_field(world: World) {
        let (new, keeping) = side_by_side::<new::User, keeping::User>(&world).await;
        new.put(&new::User { first: String::new(), last: String::new(), email: Some(String::new()), ..ada() }).await.unwrap();
        let (key, other) = (new::UserKey::new(7), keeping::UserKey::new(7));
        let changes = (0..20).map(|number| {
            let (new, keeping, key, other) = (&new, &keeping, &key, &other);
            async move {
                match number % 2 {
                    0 => new.modify(key, |user| user.email.as_mut().unwrap().push('e')).await.map(drop).unwrap(),
                    _ => keeping.modify(other, |user| user.first.push('f')).await.map(drop).unwrap(),
                }
            }
        });
        join_all(changes).await;
        let read = new.get(&key).await.unwrap().expect("it is there");
        assert_eq!((read.first.len(), read.email.as_ref().map(String::len)), (10, Some(10)));
    }

    async fn version_field_takes_the_place_of_the_header(world: World) {
        let shared = world.bucket::<shared::User>().await;
        let user = shared::User { id: 7, name: "Ada".into(), v: 2 };
        shared.put(&user).await.unwrap();
        let entry = shared.get(&user.key()).await.unwrap().expect("it was put");
        assert_eq!((entry.schema_version(), entry.value()), (2, &user));
        let error = shared.put(&shared::User { v: 1, ..user.clone() }).await.unwrap_err();
        assert!(error.to_string().contains("version field is 1"), "{error}");
        // Another client writes the old shape without a version, and a later shape with one.
        let raw: Bucket<Json> = adopt(&world, shared.name()).await;
        raw.put(&Json { id: 8, value: serde_json::json!({ "id": 8, "nick": "Bob" }) }).await.unwrap();
        let entry = shared.get(&shared::UserKey::new(8)).await.unwrap().expect("it was put");
        assert_eq!((entry.schema_version(), entry.name.as_str(), entry.v), (1, "Bob", 2));
        raw.put(&Json { id: 9, value: serde_json::json!({ "id": 9, "v": 3 }) }).await.unwrap();
        assert_newer(&shared.get(&shared::UserKey::new(9)).await.unwrap_err(), 3, 2);
    }

    async fn new_bucket_has_a_card(world: World) {
        let new = world.bucket::<new::User>().await;
        let card = new.card().await.unwrap().expect("the bucket is new");
        assert_eq!((card.key.as_str(), card.codec.as_str()), ("{id}", "json"));
        assert_eq!((card.version, card.writes, card.oldest), (2, 2, 2));
        let models: BTreeMap<_, _> = new.config().metadata.iter().filter(|(key, _)| key.starts_with("kvtyped.model.")).collect();
        assert_eq!(models.len(), 1);
    }

    async fn old_program_is_refused_by_the_card(world: World) {
        let new = world.bucket::<new::User>().await;
        let error = world.store.bucket::<old::User>().name(new.name()).await.unwrap_err();
        assert_newer(&error, 2, 1);
        let error = world.store.bucket::<old::User>().name(new.name()).read_only().await.unwrap_err();
        assert_newer(&error, 2, 1);
    }

    async fn another_key_or_codec_is_refused_by_name(world: World) {
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
        #[kv(name = "user", bucket = "users", key = "{team}.{id}")]
        struct Moved { team: String, id: u64 }
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
        #[kv(name = "user", bucket = "users", key = "{id}", codec = MsgPack)]
        struct Packed { id: u64, name: String }
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
        #[kv(name = "user", bucket = "users", key = "{user_id}")]
        struct Renamed { #[serde(rename = "id")] user_id: u64, name: String }
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
        #[kv(name = "user", bucket = "users", key = "{id}", key_codec = "base64")]
        struct Encoded { id: u64, name: String }

        let old = world.bucket::<old::User>().await;
        old.put(&old_ada()).await.unwrap();
        let error = world.store.bucket::<Moved>().name(old.name()).await.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error.kind(), ErrorKind::SchemaDiffers { .. }), "{text}");
        assert!(text.contains("`{team}.{id}`") && text.contains("`{id}`"), "{text}");
        let text = world.store.bucket::<Packed>().name(old.name()).await.unwrap_err().to_string();
        assert!(text.contains("msgpack") && text.contains("json"), "{text}");
        let text = world.store.bucket::<Encoded>().name(old.name()).await.unwrap_err().to_string();
        assert!(text.contains("base64") && text.contains("escaped"), "{text}");
        let renamed: Bucket<Renamed> = world.store.bucket().name(old.name()).await.unwrap();
        assert_eq!(renamed.get(&RenamedKey::new(7)).await.unwrap().expect("it is there").user_id, 7);
    }

    async fn bucket_without_a_card_opens_as_before(world: World) {
        let raw = world.bucket::<Json>().await;
        let new: Bucket<new::User> = world.store.bucket().name(raw.name()).await.unwrap();
        assert_eq!(new.card().await.unwrap(), None);
        let updated: Bucket<new::User> = world.store.bucket().name(raw.name()).on_schema(Drift::Update).await.unwrap();
        let card = updated.card().await.unwrap().expect("it was written");
        assert_eq!((card.version, card.writes, card.oldest), (2, 2, 1));
        let again: Bucket<new::User> = world.store.bucket().name(raw.name()).await.unwrap();
        assert_eq!(again.card().await.unwrap(), Some(card));
    }

    async fn models_share_a_bucket_with_a_card_each(world: World) {
        let new = world.bucket::<new::User>().await;
        let orders: Bucket<Order> = world.store.bucket().name(new.name()).on_schema(Drift::Update).await.unwrap();
        assert_eq!(orders.card().await.unwrap().map(|card| card.key), Some("order.{id}".to_owned()));
        assert_eq!(new.card().await.unwrap().map(|card| card.key), Some("{id}".to_owned()));
    }

    async fn reserved_metadata_is_refused(world: World) {
        let error = world.store.bucket::<old::User>().metadata("kvtyped.model.user", "{}").await.unwrap_err();
        assert!(error.to_string().contains("reserved"), "{error}");
    }
}

/// Version 2 of the model in [`careful`], written without regard to old programs.
mod shared_shape {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    #[kv(bucket = "users", key = "{id}", version = 2)]
    pub(super) struct User {
        pub(super) id: u64,
        pub(super) name: String,
        pub(super) email: Option<String>,
    }
}

/// The records of another client, which knows neither models nor versions.
#[derive(Clone, Debug, PartialEq, KvModel)]
#[kv(name = "json", bucket = "users", key = "{id}")]
struct Json {
    id: u64,
    #[kv(value)]
    value: serde_json::Value,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "users", key = "order.{id}")]
struct Order {
    id: u64,
}

#[tokio::test]
async fn unreadable_version_and_encoding_are_errors() {
    let memory = Arc::new(MemoryBackend::new());
    let users: Bucket<old::User> = Store::from_backend(Arc::clone(&memory) as _).bucket().await.unwrap();
    let deadline = Deadline::after(Duration::from_secs(5));
    let raw = memory.open("users", deadline).await.unwrap().expect("it exists");
    let error = async |headers: RecordHeaders| {
        let write = Write::new(Key::new("7").unwrap(), WriteKind::Put(r#"{"id":7,"name":"Ada"}"#.into()));
        raw.write(write.with_headers(headers), deadline).await.unwrap();
        users.get(&old::UserKey::new(7)).await.map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(error(RecordHeaders::of_version(Some(1))).await, Ok(()));
    let text = error(RecordHeaders::of_version(Some(0))).await.unwrap_err();
    assert!(text.contains("schema version of the record is not a number"), "{text}");
    let text = error(RecordHeaders::default().with_encoding(Some("zstd"))).await.unwrap_err();
    assert!(text.contains("zstd"), "{text}");
}
