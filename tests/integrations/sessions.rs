//! The guarantees of the session store: concurrent changes, logouts, ids, expiry, faults.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::future::join_all;
use harness::{Mode, Proxy, wait};
use kvtyped::Read;
use kvtyped::codec::Bytes;
use kvtyped::integrations::tower_sessions_0_15::{KvStore, OnConflict, SessionRecord, SessionRecordKey};
use kvtyped::prelude::*;
use serde_json::json;
use time::OffsetDateTime;
use tower_sessions::Session;
use tower_sessions::session::{Id, Record};
use tower_sessions::session_store::{self, SessionStore};

use crate::support::{SECOND, SOON, World, is_supported, on_both_backends, unique};

fn record(life: Duration) -> Record {
    Record { id: Id::default(), data: HashMap::new(), expiry_date: OffsetDateTime::now_utc() + life }
}

async fn store(world: &World) -> KvStore {
    KvStore::new(world.sessions().await.expect("the bucket opens"))
}

/// Returns the store of the same sessions in another process.
async fn another(world: &World, store: &KvStore) -> KvStore {
    KvStore::new(world.another().await.bucket().name(store.bucket().name()).await.expect("the bucket opens"))
}

/// Starts a session with data.
async fn start(store: &impl SessionStore, life: Duration) -> Record {
    let mut record = record(life);
    record.data.insert("user".into(), json!("ada"));
    store.create(&mut record).await.expect("it is created");
    record
}

/// Returns the data of a session, without the copy that the store adds.
async fn data(store: &impl SessionStore, id: &Id) -> Option<HashMap<String, serde_json::Value>> {
    let mut data = store.load(id).await.expect("it is read")?.data;
    data.retain(|key, _| !key.starts_with('='));
    Some(data)
}

/// Two requests that load a session before either saves it. Returns the data afterwards.
async fn overlapping_requests<S: SessionStore>(first: S, second: S) -> HashMap<String, serde_json::Value> {
    let id = start(&first, 60 * SECOND).await.id;
    let (first, second) = (Arc::new(first), Arc::new(second));
    let slow = Session::new(Some(id), Arc::clone(&first), None);
    let fast = Session::new(Some(id), Arc::clone(&second), None);
    slow.insert("slow", 1).await.unwrap();
    fast.insert("fast", 1).await.unwrap();
    fast.save().await.unwrap();
    slow.save().await.unwrap();
    data(&*first, &id).await.expect("the session lasts")
}

/// A request that loads a session before a logout and saves it afterwards. Returns whether the session exists.
async fn late_save_restores<S: SessionStore>(first: S, second: S) -> bool {
    let id = start(&first, 60 * SECOND).await.id;
    let slow = Session::new(Some(id), Arc::new(first), None);
    slow.insert("slow", 1).await.unwrap();
    second.delete(&id).await.unwrap();
    slow.save().await.unwrap();
    second.load(&id).await.unwrap().is_some()
}

on_both_backends! {
    async fn concurrent_saves_keep_all_keys(world: World) {
        let first = store(&world).await;
        let second = another(&world, &first).await;
        let mut kept: Vec<_> = overlapping_requests(first.clone(), second.clone()).await.into_keys().collect();
        kept.sort();
        assert_eq!(kept, ["fast", "slow", "user"]);

        // Many requests at once, on both instances.
        let id = start(&first, 60 * SECOND).await.id;
        let requests = (0..40).map(|number| {
            let store = if number % 2 == 0 { first.clone() } else { second.clone() };
            let session = Session::new(Some(id), Arc::new(store), None);
            async move {
                session.insert(&format!("key-{number}"), number).await.unwrap();
                session.save().await.unwrap();
            }
        });
        join_all(requests).await;
        assert_eq!(data(&first, &id).await.unwrap().len(), 41);
    }

    async fn removed_and_changed_keys_merge(world: World) {
        let store = store(&world).await;
        let mut created = record(60 * SECOND);
        created.data.extend([("a".into(), json!(1)), ("b".into(), json!(1)), ("c".into(), json!(1))]);
        store.create(&mut created).await.unwrap();
        let (mut one, mut two) = (store.load(&created.id).await.unwrap().unwrap(), created.clone());
        one.data.remove("a");
        one.data.insert("b".into(), json!("one"));
        two.data.insert("b".into(), json!("two"));
        two.data.insert("d".into(), json!("two"));
        store.save(&one).await.unwrap();
        store.save(&two).await.unwrap();
        let merged = data(&store, &created.id).await.unwrap();
        let expected = [("b".into(), json!("two")), ("c".into(), json!(1)), ("d".into(), json!("two"))];
        assert_eq!(merged, HashMap::from(expected), "a stays removed, and the later change of b wins");
    }

    async fn save_after_logout_does_not_restore_session(world: World) {
        let first = store(&world).await;
        let second = another(&world, &first).await;
        assert!(!late_save_restores(first.clone(), second).await);
        for reaction in [OnConflict::Merge, OnConflict::Overwrite] {
            let store = first.clone().on_conflict(reaction);
            assert!(!late_save_restores(store.clone(), store).await, "{reaction:?}");
        }
        // A record without the copy of its load, such as after `clear`.
        let store = store(&world).await;
        let gone = start(&store, 60 * SECOND).await;
        store.delete(&gone.id).await.unwrap();
        store.save(&Record { data: HashMap::new(), ..gone.clone() }).await.unwrap();
        assert_eq!(data(&store, &gone.id).await, None);
    }

    /// The negative control of the two tests above.
    async fn naive_store_loses_keys_and_restores_sessions(world: World) {
        let naive = Naive(world.sessions().await.unwrap());
        let kept = overlapping_requests(naive.clone(), naive.clone()).await;
        assert!(!kept.contains_key("fast"), "{kept:?}");
        assert!(late_save_restores(naive.clone(), naive).await);
    }

    async fn conflict_overwrites_or_fails_on_request(world: World) {
        let store = store(&world).await;
        let overwriting = store.clone().on_conflict(OnConflict::Overwrite);
        let kept = overlapping_requests(overwriting.clone(), overwriting).await;
        assert!(kept.contains_key("slow") && !kept.contains_key("fast"), "{kept:?}");

        let failing = store.clone().on_conflict(OnConflict::Fail);
        let created = start(&failing, 60 * SECOND).await;
        failing.save(&created).await.unwrap();
        let error = failing.save(&created).await.unwrap_err();
        assert!(error.to_string().contains("conflict: expected revision"), "{error}");
    }

    async fn two_saves_of_one_request_are_both_stored(world: World) {
        let store = store(&world).await;
        let session = Session::new(None, Arc::new(store.clone()), None);
        for number in 0..3 {
            session.insert("number", number).await.unwrap();
            session.save().await.unwrap();
        }
        let id = session.id().unwrap();
        assert_eq!(data(&store, &id).await.unwrap(), HashMap::from([("number".into(), json!(2))]));
    }

    async fn colliding_id_is_replaced(world: World) {
        let store = store(&world).await;
        let first = start(&store, 60 * SECOND).await;
        let mut second = Record { id: first.id, ..record(60 * SECOND) };
        store.create(&mut second).await.unwrap();
        assert_ne!(first.id, second.id);
        assert_eq!(data(&store, &first.id).await.unwrap().len(), 1, "the first session is unchanged");
        assert_eq!(data(&store, &second.id).await.unwrap().len(), 0);
    }

    async fn expired_session_is_removed(world: World) {
        let store = store(&world).await;
        let id = start(&store, SECOND).await.id;
        assert!(store.load(&id).await.unwrap().is_some());
        let (bucket, key) = (store.bucket(), SessionRecord::key_of(&id));
        wait::until("the record is gone", SOON, async || bucket.get(&key).await.unwrap().is_none().then_some(())).await;
        assert_eq!(store.load(&id).await.unwrap(), None);
        store.delete(&id).await.expect("a missing session is no error");
    }

    async fn past_expiry_stores_nothing_and_deletes(world: World) {
        let store = store(&world).await;
        let mut past = record(Duration::ZERO);
        store.create(&mut past).await.unwrap();
        assert_eq!(store.bucket().status().await.unwrap().values, 0);
        let mut ended = start(&store, 60 * SECOND).await;
        ended.expiry_date = OffsetDateTime::now_utc() - SECOND;
        store.save(&ended).await.unwrap();
        assert_eq!(store.bucket().get(&SessionRecord::key_of(&ended.id)).await.unwrap(), None);
    }

    async fn distant_expiry_is_kept(world: World) {
        let store = store(&world).await;
        let mut distant = Record { expiry_date: time::Date::MAX.midnight().assume_utc(), ..record(SECOND) };
        store.create(&mut distant).await.unwrap();
        assert_eq!(store.load(&distant.id).await.unwrap().map(|found| found.expiry_date), Some(distant.expiry_date));
    }

    async fn save_extends_expiry(world: World) {
        let store = store(&world).await;
        let mut session = start(&store, 2 * SECOND).await;
        let key = SessionRecord::key_of(&session.id);
        session.expiry_date = OffsetDateTime::now_utc() + 60 * SECOND;
        store.save(&session).await.unwrap();
        let entry = store.bucket().get(&key).await.unwrap().expect("it exists");
        assert!(entry.ttl().is_some_and(|ttl| ttl.as_duration() > 50 * SECOND), "{:?}", entry.ttl());
        // Also in a merge.
        session.expiry_date = OffsetDateTime::now_utc() + 600 * SECOND;
        store.save(&session).await.unwrap();
        let entry = store.bucket().get(&key).await.unwrap().expect("it exists");
        assert!(entry.ttl().is_some_and(|ttl| ttl.as_duration() > 550 * SECOND), "{:?}", entry.ttl());
        assert_eq!(entry.expires.0, session.expiry_date.unix_timestamp());
    }

    async fn cached_store_sees_login_and_logout(world: World) {
        let store = store(&world).await;
        let cached = another(&world, &store).await;
        let cache = cached.bucket().cache(..).await.unwrap();
        let cached = cached.cached(cache.clone());
        let session = start(&store, 60 * SECOND).await;
        assert!(data(&cached, &session.id).await.is_some(), "a session that is not cached yet is read");
        let key = SessionRecord::key_of(&session.id);
        wait::until("it is cached", SOON, async || cache.get(&key)).await;
        let mut loaded = cached.load(&session.id).await.unwrap().unwrap();
        loaded.data.insert("cart".into(), json!([1]));
        store.save(&Record { data: HashMap::from([("user".into(), json!("bob"))]), ..session.clone() }).await.unwrap();
        cached.save(&loaded).await.unwrap();
        let merged = data(&store, &session.id).await.unwrap();
        assert_eq!(merged, HashMap::from([("user".into(), json!("bob")), ("cart".into(), json!([1]))]));
        store.delete(&session.id).await.unwrap();
        wait::until("the logout is seen", SOON, async || cached.load(&session.id).await.unwrap().is_none().then_some(())).await;
    }

    async fn older_session_format_is_read(world: World) {
        let store = store(&world).await;
        let raw: Bucket<RawSession> = world.store.bucket().name(store.bucket().name()).await.unwrap();
        let bytes = include_bytes!("golden/session.json").trim_ascii().to_vec();
        let key = SessionRecord::key_of(&Id(7)).id;
        raw.put(&RawSession { id: key.clone(), bytes: bytes.clone() }).await.unwrap();
        let mut loaded = store.load(&Id(7)).await.unwrap().expect("it exists");
        assert_eq!(loaded.expiry_date.unix_timestamp_nanos(), 4_102_444_800_123_456_789);
        assert_eq!((&loaded.data["user"], &loaded.data["nested"]["big"]), (&json!("ada"), &json!(u64::MAX)));

        // A session that is written now has the same fields.
        loaded.data.insert("cart".into(), json!([]));
        store.save(&loaded).await.unwrap();
        let written = raw.get(&RawSessionKey::new(key)).await.unwrap().expect("it exists");
        let json = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
        let (mut before, after) = (json(&bytes), json(&written.bytes));
        before["data"]["cart"] = json!([]);
        assert_eq!(after, before);
    }

    async fn oversized_session_reports_limit(world: World) {
        let bucket = world.store.bucket().name(unique("sessions")).max_value_size(1_024).await.unwrap();
        let store = KvStore::new(bucket);
        let mut session = start(&store, 60 * SECOND).await;
        session.data.insert("text".into(), json!("x".repeat(2_000)));
        let error = store.save(&session).await.unwrap_err();
        assert!(matches!(&error, session_store::Error::Backend(text) if text.contains("1024 are allowed")), "{error}");
        assert_eq!(data(&store, &session.id).await.unwrap().len(), 1, "the stored session is unchanged");
    }

    async fn session_id_is_absent_from_errors_logs_and_keys(world: World) {
        let lines = Arc::new(Mutex::new(String::new()));
        let _logged = tracing::subscriber::set_default(Recorder(Arc::clone(&lines)));
        let store = store(&world).await;
        let session = start(&store, 60 * SECOND).await;
        let mut shown = String::new();
        let key = SessionRecord::key_of(&session.id);
        let _ = write!(shown, "{store:?} {key} {key:?}");
        for key in store.bucket().keys(..).await.unwrap().try_collect::<Vec<_>>().await.unwrap() {
            let _ = write!(shown, " {key}");
        }
        let raw: Bucket<RawSession> = world.store.bucket().name(store.bucket().name()).await.unwrap();
        let bytes = raw.get(&RawSessionKey::new(key.id)).await.unwrap().expect("it exists").into_value().bytes;
        let _ = write!(shown, " {}", String::from_utf8_lossy(&bytes));
        world.store.close().await.unwrap();
        for error in [
            store.save(&session).await.unwrap_err(),
            store.create(&mut session.clone()).await.unwrap_err(),
            store.load(&session.id).await.unwrap_err(),
            store.delete(&session.id).await.unwrap_err(),
        ] {
            let _ = write!(shown, " {error} {error:?}");
        }
        shown += &lines.lock().unwrap();
        assert!(shown.contains("closed") && shown.contains(&SessionRecord::key_of(&session.id).id), "{shown}");
        for secret in [session.id.to_string(), session.id.0.to_string(), format!("{:x}", session.id.0)] {
            assert!(!shown.contains(&secret), "{secret} in {shown}");
        }
    }
}

/// A login on one server is visible on the others at once.
#[tokio::test]
async fn login_is_visible_on_another_server() {
    if !is_supported().await {
        return;
    }
    let cluster = harness::cluster::shared().await;
    let name = unique("sessions");
    let mut stores = Vec::new();
    for node in cluster.nodes() {
        let store = Store::connect(node.url()).await.unwrap();
        stores.push(KvStore::new(store.bucket().name(&*name).replicas(3).await.unwrap()));
    }
    for round in 0..30 {
        let login = start(&stores[round % 3], 60 * SECOND).await;
        for (node, store) in stores.iter().enumerate() {
            assert!(data(store, &login.id).await.is_some(), "round {round}, server {node}");
        }
    }
}

#[tokio::test]
async fn save_survives_lost_acknowledgement() {
    if !is_supported().await {
        return;
    }
    let server = harness::shared().await;
    let proxy = Proxy::start(server.addr()).await;
    let (direct, through) = (World::at(&server.url()).await, World::at(&proxy.url()).await);
    let name = unique("sessions");
    let direct = KvStore::new(direct.store.bucket().name(&*name).await.unwrap());
    let through = KvStore::new(through.store.bucket().name(&*name).await.unwrap());
    let mut session = start(&through, 60 * SECOND).await;
    let before = direct.bucket().status().await.unwrap().last_revision;
    session.data.insert("cart".into(), json!([1]));

    proxy.set(Mode::DropReplies);
    let dropped = proxy.dropped_replies();
    let (saved, ()) = tokio::join!(through.save(&session), async {
        proxy.await_dropped(dropped + 1).await;
        proxy.set(Mode::Pass);
    });
    saved.expect("the acknowledgement is recovered");
    assert_eq!(data(&direct, &session.id).await.unwrap().len(), 2);
    let entry = direct.bucket().get(&SessionRecord::key_of(&session.id)).read(Read::Leader).await.unwrap();
    assert_eq!(entry.unwrap().revision().get(), before.get() + 1, "the session was written once");
}

/// A store as one writes it first: each save replaces the session.
#[derive(Clone, Debug)]
struct Naive(Bucket<SessionRecord>);

#[async_trait]
impl SessionStore for Naive {
    async fn save(&self, record: &Record) -> session_store::Result<()> {
        let id = SessionRecord::key_of(&record.id).id;
        let expires = (record.expiry_date.unix_timestamp(), record.expiry_date.nanosecond());
        self.0.put(&SessionRecord { id, data: record.data.clone(), expires }).await.unwrap();
        Ok(())
    }

    async fn load(&self, id: &Id) -> session_store::Result<Option<Record>> {
        let entry = self.0.get(&SessionRecord::key_of(id)).read(Read::Leader).await.unwrap();
        let expiry_date = OffsetDateTime::now_utc() + SECOND;
        Ok(entry.map(|entry| Record { id: *id, data: entry.into_value().data, expiry_date }))
    }

    async fn delete(&self, id: &Id) -> session_store::Result<()> {
        self.0.purge(&SessionRecord::key_of(id)).await.unwrap();
        Ok(())
    }
}

/// The raw bytes under the keys of [`SessionRecord`].
#[derive(Clone, Debug, PartialEq, KvModel)]
#[kv(key = "{id}", codec = Bytes, history = 1)]
struct RawSession {
    id: String,
    #[kv(value)]
    bytes: Vec<u8>,
}

/// Records the text of all events and spans.
struct Recorder(Arc<Mutex<String>>);

impl Recorder {
    fn record(&self, record: impl FnOnce(&mut Line<'_>)) {
        record(&mut Line(&mut self.0.lock().unwrap()));
    }
}

struct Line<'a>(&'a mut String);

impl tracing::field::Visit for Line<'_> {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        let _ = writeln!(self.0, "{field}={value:?}");
    }
}

impl tracing::Subscriber for Recorder {
    // The client traces the bytes of messages at this level; the library does not.
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        !metadata.target().starts_with("async_nats")
    }

    fn new_span(&self, span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        self.record(|line| span.record(line));
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, values: &tracing::span::Record<'_>) {
        self.record(|line| values.record(line));
    }

    fn event(&self, event: &tracing::Event<'_>) {
        self.record(|line| event.record(line));
    }

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// Checked at compile time: the key type is public.
#[test]
fn key_of_session_is_constructible() {
    assert_eq!(SessionRecordKey::new("a").to_string(), "a");
}
