//! `get put create update delete purge touch history list keys`, on the memory backend and on a server.

use std::time::Instant;

use kvtyped::codec::{Codec, Text};
use kvtyped::prelude::*;
use kvtyped::{Error, ErrorKind, Read, Ttl, Version};

use crate::needs::needs;
use crate::support::{Document, DocumentKey, RawSession, Session, SessionKey, on_both_backends, seen_as};

const SECOND: Duration = Duration::from_secs(1);
const NONE: [u64; 0] = [];

/// Waits until the key has no record. Returns how long that took.
async fn gone(sessions: &Bucket<Session>, key: &SessionKey) -> Duration {
    let start = Instant::now();
    while sessions.get(key).read(Read::Leader).await.expect("it reads").is_some() {
        assert!(start.elapsed() < 20 * SECOND, "{key} does not expire");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    start.elapsed()
}

async fn ids(found: impl futures::Stream<Item = Result<Entry<Session>, Error>>) -> Vec<u64> {
    found.map_ok(|session| session.id).try_collect().await.expect("all decode")
}

on_both_backends! {
    async fn get_returns_put_record(world: World) {
        let sessions = world.bucket::<Session>().await;
        let session = Session::new("acme", 7).visited(3);
        assert_eq!(sessions.get(&session.key()).await.unwrap(), None);

        let revision = sessions.put(&session).await.unwrap();
        let entry = sessions.get(&session.key()).await.unwrap().expect("it was put");
        assert_eq!(entry.value(), &session);
        assert_eq!((entry.key(), entry.revision()), (&session.key(), revision));
        let age = entry.created().elapsed().unwrap_or_default();
        assert!(age < 60 * SECOND, "it was created {age:?} ago");
        assert_eq!(entry.into_value(), session);
    }

    async fn revisions_grow_across_keys(world: World) {
        let sessions = world.bucket::<Session>().await;
        let mut last = Revision::ZERO;
        for id in [1, 2, 1, 3, 2] {
            let revision = sessions.put(&Session::new("acme", id)).await.unwrap();
            assert!(revision > last);
            last = revision;
        }
    }

    async fn create_rejects_existing_key(world: World) {
        let sessions = world.bucket::<Session>().await;
        let session = Session::new("acme", 7);
        let revision = sessions.create(&session).await.unwrap();
        let error = sessions.create(&session.clone().visited(9)).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::AlreadyExists));
        assert!(error.is_conflict() && !error.is_retryable());
        assert_eq!(error.outcome(), Outcome::NotApplied);
        assert_eq!((error.operation(), error.key(), error.revision()), (Some("create"), Some("acme.7"), Some(revision)));
        assert_eq!(sessions.get(&session.key()).await.unwrap().expect("kept").visits, 0);
    }

    async fn create_rechecks_outdated_delete_marker(world: World) {
        let sessions = world.bucket::<Session>().await;
        let other = seen_as::<Session>(&world, sessions.name()).await;
        let session = Session::new("acme", 7);
        let key = session.key();

        sessions.delete(&key).await.unwrap(); // remembered
        other.create(&session.clone().visited(9)).await.unwrap();
        let error = sessions.create(&session).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::AlreadyExists), "{error}");
        assert_eq!(sessions.get(&key).read(Read::Leader).await.unwrap().expect("kept").visits, 9);

        sessions.delete(&key).await.unwrap(); // remembered, and not the newest any more
        other.purge(&key).await.unwrap();
        sessions.create(&session).await.unwrap();
        assert_eq!(sessions.get(&key).read(Read::Leader).await.unwrap().expect("created").visits, 0);
    }

    async fn create_respects_writes_of_other_handles(world: World) {
        let sessions = world.bucket::<Session>().await;
        let other = seen_as::<Session>(&world, sessions.name()).await;
        for id in 1..4 {
            let session = Session::new("acme", id);
            let key = session.key();
            other.delete(&key).await.unwrap();
            sessions.create(&session).await.unwrap();
            let last = other.modify(&key, |session| session.visits += 1).await.unwrap().revision();
            let error = sessions.create(&session).await.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::AlreadyExists), "{error}");
            assert_eq!(error.revision(), Some(last));
            other.purge(&key).await.unwrap();
            sessions.create(&session).await.unwrap();
            // A delete marker that this handle has read, and that was since overwritten.
            other.delete(&key).await.unwrap();
            assert_eq!(sessions.get(&key).read(Read::Leader).await.unwrap(), None);
            other.create(&session.clone().visited(7)).await.unwrap();
            let error = sessions.create(&session).await.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::AlreadyExists), "{error}");
            assert_eq!(sessions.get(&key).read(Read::Leader).await.unwrap().expect("kept").visits, 7);
        }
    }

    async fn create_over_delete_marker_applies_ttl(world: World) {
        needs!(world, RecordTtl);
        let sessions = world.bucket::<Session>().await;
        let session = Session::new("acme", 7);
        let key = session.key();
        let ttl = 2 * SECOND;

        sessions.put(&session).await.unwrap();
        sessions.delete(&key).await.unwrap();
        sessions.create(&session).ttl(ttl).await.unwrap(); // over the marker of a delete
        let entry = sessions.get(&key).read(Read::Leader).await.unwrap().expect("created");
        assert_eq!(entry.ttl(), Ttl::new(ttl));

        sessions.purge(&key).await.unwrap();
        sessions.create(&session).ttl(ttl).await.unwrap(); // of a purge
        let entry = sessions.get(&key).read(Read::Leader).await.unwrap().expect("created");
        assert_eq!(entry.ttl(), Ttl::new(ttl));

        gone(&sessions, &key).await;
        sessions.create(&session).ttl(ttl).await.unwrap(); // of an expiry
        let entry = sessions.get(&key).read(Read::Leader).await.unwrap().expect("created");
        assert_eq!(entry.ttl(), Ttl::new(ttl));
        gone(&sessions, &key).await;
    }

    async fn update_with_stale_revision_conflicts(world: World) {
        let sessions = world.bucket::<Session>().await;
        let session = Session::new("acme", 7);
        let first = sessions.put(&session).await.unwrap();
        let second = sessions.update(&session.clone().visited(1), first).await.unwrap();
        let error = sessions.update(&session.clone().visited(2), first).await.unwrap_err();
        let ErrorKind::Conflict { expected, actual } = error.kind() else { panic!("{error}") };
        assert_eq!((*expected, *actual), (first, Some(second)));
        assert_eq!(error.outcome(), Outcome::NotApplied);
        assert_eq!(sessions.get(&session.key()).await.unwrap().expect("kept").visits, 1);
    }

    async fn update_of_missing_record_conflicts(world: World) {
        let sessions = world.bucket::<Session>().await;
        let error = sessions.update(&Session::new("acme", 7), Revision::new(5)).await.unwrap_err();
        assert!(error.is_conflict());
        assert_eq!(sessions.get(&SessionKey::new("acme", 7)).await.unwrap(), None);
    }

    async fn delete_and_purge_check_expected_revision(world: World) {
        let sessions = world.bucket::<Session>().await;
        let session = Session::new("acme", 7);
        let stale = sessions.put(&session).await.unwrap();
        let fresh = sessions.put(&session).await.unwrap();
        assert!(sessions.delete(&session.key()).if_revision(stale).await.unwrap_err().is_conflict());
        assert!(sessions.purge(&session.key()).if_revision(stale).await.unwrap_err().is_conflict());
        assert!(sessions.get(&session.key()).await.unwrap().is_some());
        let marker = sessions.delete(&session.key()).if_revision(fresh).await.unwrap();
        assert!(marker > fresh);
        assert_eq!(sessions.get(&session.key()).await.unwrap(), None);
        sessions.purge(&session.key()).if_revision(marker).await.unwrap();
    }

    async fn missing_record_can_be_deleted(world: World) {
        let sessions = world.bucket::<Session>().await;
        sessions.delete(&SessionKey::new("acme", 1)).await.unwrap();
        sessions.purge(&SessionKey::new("acme", 2)).await.unwrap();
    }

    async fn get_at_returns_record_of_revision(world: World) {
        let documents = world.bucket::<Document>().await;
        let key = DocumentKey::new("a");
        let first = documents.put(&Document::new("a", "one")).await.unwrap();
        documents.put(&Document::new("a", "two")).await.unwrap();
        let other = documents.put(&Document::new("b", "three")).await.unwrap();
        let marker = documents.delete(&key).await.unwrap();
        assert_eq!(documents.get(&key).at(first).await.unwrap().expect("kept").text, "one");
        assert_eq!(documents.get(&key).at(other).await.unwrap(), None, "another key's revision");
        assert_eq!(documents.get(&key).at(marker).await.unwrap(), None, "a marker");
        assert_eq!(documents.get(&key).at(Revision::new(9_999)).await.unwrap(), None, "the future");
        assert_eq!(documents.get(&key).at(Revision::ZERO).await.unwrap(), None, "before the first");
    }

    async fn consistent_reads_see_acknowledged_writes(world: World) {
        let sessions = world.bucket::<Session>().await;
        let session = Session::new("acme", 7);
        for visits in 0..20 {
            let revision = sessions.put(&session.clone().visited(visits)).await.unwrap();
            for read in [Read::Leader, Read::AtLeast(revision)] {
                let entry = sessions.get(&session.key()).read(read).await.unwrap().expect("put");
                assert_eq!((entry.visits, entry.revision()), (visits, revision));
            }
        }
    }

    async fn history_lists_versions_oldest_first(world: World) {
        let documents = world.bucket::<Document>().await;
        let key = DocumentKey::new("a");
        assert!(documents.history(&key).await.unwrap().is_empty());
        documents.put(&Document::new("other", "x")).await.unwrap();
        let first = documents.put(&Document::new("a", "one")).await.unwrap();
        let second = documents.delete(&key).await.unwrap();
        let third = documents.put(&Document::new("a", "two")).await.unwrap();
        let past = documents.history(&key).await.unwrap();
        assert_eq!(past.iter().map(Version::revision).collect::<Vec<_>>(), [first, second, third]);
        assert_eq!(past[0].entry().expect("a put").text, "one");
        assert!(matches!(past[1], Version::Removed { reason: Removed::Deleted, .. }));
        assert_eq!(past[2].entry().expect("a put").text, "two");

        documents.purge(&key).await.unwrap();
        let past = documents.history(&key).await.unwrap();
        assert!(matches!(past.as_slice(), [Version::Removed { reason: Removed::Purged, .. }]), "{past:?}");
    }

    async fn history_is_limited_by_model(world: World) {
        let documents = world.bucket::<Document>().await;
        for number in 0..15 {
            documents.put(&Document::new("a", &number.to_string())).await.unwrap();
        }
        let past = documents.history(&DocumentKey::new("a")).await.unwrap();
        let texts: Vec<_> = past.iter().map(|version| version.entry().expect("a put").text.clone()).collect();
        assert_eq!(texts, (5..15).map(|number: i32| number.to_string()).collect::<Vec<_>>());
    }

    async fn record_expires_after_its_ttl(world: World) {
        needs!(world, RecordTtl);
        let sessions = world.bucket::<Session>().await;
        let session = Session::new("acme", 7);
        let asked = Duration::from_millis(1_900);
        let start = Instant::now();
        sessions.create(&session).ttl(asked).await.unwrap();
        let entry = sessions.get(&session.key()).read(Read::Leader).await.unwrap().expect("created");
        assert_eq!(entry.ttl().expect("it has one").as_duration(), 2 * SECOND, "rounded up, never down");
        gone(&sessions, &session.key()).await;
        assert!(start.elapsed() >= asked, "it went {:?} after it was created", start.elapsed());
        let past = sessions.history(&session.key()).await.unwrap();
        assert!(matches!(past.as_slice(), [Version::Removed { reason: Removed::Expired, .. }]), "{past:?}");
    }

    async fn put_without_ttl_removes_earlier_ttl(world: World) {
        needs!(world, RecordTtl);
        let sessions = world.bucket::<Session>().await;
        let session = Session::new("acme", 7);
        let other = Session::new("acme", 8);
        sessions.create(&session).ttl(SECOND).await.unwrap();
        sessions.put(&session).await.unwrap();
        sessions.create(&other).ttl(2 * SECOND).await.unwrap();
        gone(&sessions, &other.key()).await; // later than the first would have gone
        assert_eq!(sessions.get(&session.key()).await.unwrap().expect("it stays").ttl(), None);
    }

    async fn touch_restarts_ttl(world: World) {
        needs!(world, RecordTtl);
        let sessions = world.bucket::<Session>().await;
        let session = Session::new("acme", 7).visited(5);
        let (clock, start) = (Session::new("clock", 1), Instant::now());
        sessions.create(&session).ttl(2 * SECOND).await.unwrap();
        sessions.create(&clock).ttl(SECOND).await.unwrap();
        gone(&sessions, &clock.key()).await;
        let touched = sessions.touch(&session.key()).ttl(3 * SECOND).await.unwrap();
        let entry = sessions.get(&session.key()).read(Read::Leader).await.unwrap().expect("there");
        assert_eq!((entry.revision(), entry.visits, entry.ttl()), (touched, 5, Ttl::new(3 * SECOND)));
        sessions.touch(&session.key()).await.unwrap();
        let entry = sessions.get(&session.key()).read(Read::Leader).await.unwrap().expect("there");
        assert_eq!(entry.ttl(), Ttl::new(3 * SECOND), "the TTL that it had");
        gone(&sessions, &session.key()).await;
        assert!(start.elapsed() >= 4 * SECOND, "it went {:?} after it was created", start.elapsed());
        let error = sessions.touch(&session.key()).ttl(SECOND).await.unwrap_err();
        assert!(error.is_not_found());
    }

    async fn invalid_ttls_are_rejected(world: World) {
        let sessions = world.bucket::<Session>().await;
        let session = Session::new("acme", 7);
        for ttl in [Duration::ZERO, Duration::from_millis(999), Duration::MAX] {
            let error = sessions.put(&session).ttl(ttl).await.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{ttl:?}: {error}");
        }
        assert_eq!(sessions.get(&session.key()).await.unwrap(), None);
    }

    async fn ttl_is_rejected_with_history(world: World) {
        let sessions: Bucket<Session> = world.fresh().history(5).await.unwrap();
        let session = Session::new("acme", 7);
        let error = sessions.create(&session).ttl(SECOND).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Unsupported { found, .. } if found == "history = 5"), "{error}");
        let error = sessions.modify(&session.key(), |_| {}).ttl(SECOND).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Unsupported { .. }), "{error}");
    }

    async fn kept_ttl_is_rejected_with_history(world: World) {
        needs!(world, RecordTtl);
        let before = world.bucket::<Session>().await;
        let session = Session::new("acme", 7);
        let created = before.create(&session).ttl(100 * SECOND).await.unwrap();
        let open = world.store.bucket::<Session>().name(before.name()).history(5).on_drift(Drift::Update);
        let sessions = open.await.unwrap();
        let key = session.key();
        let visit = |session: &mut Session| session.visits += 1;
        for (operation, error) in [
            ("touch", sessions.touch(&key).await.unwrap_err()),
            ("touch", sessions.touch(&key).ttl(SECOND).await.unwrap_err()),
            ("modify", sessions.modify(&key, visit).await.unwrap_err()),
            ("modify", sessions.modify(&key, visit).ttl(SECOND).await.unwrap_err()),
            (
                "transform",
                sessions.transform(&key, |session| session.map_or(Change::Keep, |session| Change::Put(session.visited(9)))).await.unwrap_err(),
            ),
            ("update", sessions.update(&session, created).ttl(SECOND).await.unwrap_err()),
        ] {
            assert!(matches!(error.kind(), ErrorKind::Unsupported { needs, .. } if needs.contains("`history = 1`")), "{error}");
            assert_eq!((error.operation(), error.outcome()), (Some(operation), Outcome::NotApplied), "{error}");
        }
        // A change that writes nothing needs no TTL, and a removal keeps none.
        let same = sessions.modify(&key, |_| {}).await.unwrap();
        assert_eq!((same.revision(), same.ttl()), (created, Ttl::new(100 * SECOND)));
        let updated = sessions.update(&session.clone().visited(3), created).await.unwrap();
        let entry = sessions.get(&key).read(Read::Leader).await.unwrap().expect("there");
        assert_eq!((entry.revision(), entry.ttl()), (updated, None), "it no longer expires");
        assert_eq!(sessions.modify(&key, visit).await.unwrap().visits, 4);
        sessions.touch(&key).await.unwrap();
    }

    async fn bucket_ttl_expires_records(world: World) {
        let sessions: Bucket<Session> = world.fresh().ttl(SECOND).await.unwrap();
        let session = Session::new("acme", 7);
        sessions.put(&session).await.unwrap();
        gone(&sessions, &session.key()).await;
    }

    async fn list_returns_records_matching_filter(world: World) {
        let sessions = world.bucket::<Session>().await;
        for (tenant, id) in [("acme", 1), ("beta", 2), ("acme", 3), ("gamma", 1)] {
            sessions.put(&Session::new(tenant, id)).await.unwrap();
        }
        sessions.put(&Session::new("acme", 4)).await.unwrap();
        sessions.delete(&SessionKey::new("acme", 4)).await.unwrap();
        sessions.put(&Session::new("acme", 1).visited(1)).await.unwrap();

        assert_eq!(ids(sessions.list(..).await.unwrap()).await, [2, 3, 1, 1]);
        assert_eq!(ids(sessions.list(SessionKey::filter().tenant("acme")).await.unwrap()).await, [3, 1]);
        assert_eq!(ids(sessions.list(SessionKey::filter().id(1)).await.unwrap()).await, [1, 1]);
        assert_eq!(ids(sessions.list(SessionKey::new("beta", 2)).await.unwrap()).await, [2]);
        assert_eq!(ids(sessions.list(SessionKey::filter().tenant("nobody")).await.unwrap()).await, NONE);
        // The filters overlap, but each record is returned once.
        let filters = vec![SessionKey::filter().tenant("acme"), SessionKey::filter().id(1)];
        assert_eq!(ids(sessions.list(filters).await.unwrap()).await, [3, 1, 1]);
        let none: Vec<SessionKey> = Vec::new();
        assert_eq!(ids(sessions.list(none).await.unwrap()).await, NONE);

        let keys: Vec<_> = sessions.keys(SessionKey::filter().tenant("acme")).await.unwrap().try_collect().await.unwrap();
        assert_eq!(keys, [SessionKey::new("acme", 3), SessionKey::new("acme", 1)]);
    }

    async fn list_of_empty_bucket_is_empty(world: World) {
        let sessions = world.bucket::<Session>().await;
        assert_eq!(ids(sessions.list(..).await.unwrap()).await, NONE);
        sessions.delete(&SessionKey::new("acme", 1)).await.unwrap();
        assert_eq!(ids(sessions.list(..).await.unwrap()).await, NONE, "a marker is no record");
    }

    async fn large_list_returns_each_record_once(world: World) {
        let sessions = world.bucket::<Session>().await;
        let puts = (0..3_000).map(|id| {
            let sessions = sessions.clone();
            async move { sessions.put(&Session::new("acme", id)).await }
        });
        futures::stream::iter(puts).buffer_unordered(128).try_collect::<Vec<_>>().await.unwrap();
        let mut found = ids(sessions.list(..).await.unwrap()).await;
        found.sort_unstable();
        assert!(found.into_iter().eq(0..3_000));
    }

    /// P35.
    async fn undecodable_record_does_not_stop_list(world: World) {
        let sessions = world.bucket::<Session>().await;
        let raw = seen_as::<RawSession>(&world, sessions.name()).await;
        for id in 0..100 {
            sessions.put(&Session::new("acme", id)).await.unwrap();
        }
        let planted = raw.put(&RawSession::new("acme", "50", b"\xc1 s3cret")).await.unwrap();
        let foreign = raw.put(&RawSession::new("acme", "fifty", b"")).await.unwrap();

        let found: Vec<_> = sessions.list(..).await.unwrap().collect().await;
        let (good, bad): (Vec<_>, Vec<_>) = found.into_iter().partition(Result::is_ok);
        assert_eq!((good.len(), bad.len()), (99, 2));
        let errors: Vec<_> = bad.into_iter().map(Result::unwrap_err).collect();
        assert_eq!((errors[0].key(), errors[0].revision()), (Some("acme.50"), Some(planted)));
        assert!(matches!(errors[0].kind(), ErrorKind::Decode { codec: "msgpack", .. }), "{}", errors[0]);
        assert_eq!((errors[1].key(), errors[1].revision()), (Some("acme.fifty"), Some(foreign)));
        assert!(matches!(errors[1].kind(), ErrorKind::Decode { codec: "key", .. }), "{}", errors[1]);

        let error = sessions.get(&SessionKey::new("acme", 50)).await.unwrap_err();
        assert_eq!((error.bucket(), error.key(), error.revision()), (Some(sessions.name()), Some("acme.50"), Some(planted)));
        assert!(!format!("{error} {error:?}").contains("s3cret"));
        let past = sessions.history(&SessionKey::new("acme", 50)).await.unwrap();
        assert!(matches!(past.as_slice(), [Version::Undecodable { .. }]), "{past:?}");
        let error = sessions.modify(&SessionKey::new("acme", 50), |session| session.visits += 1).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Decode { .. }), "a bad record is not overwritten: {error}");
    }

    async fn mismatched_key_is_a_decode_error(world: World) {
        let sessions = world.bucket::<Session>().await;
        let raw = seen_as::<RawSession>(&world, sessions.name()).await;
        let other = MsgPack::encode(&Session::new("victim", 1)).unwrap();
        raw.put(&RawSession::new("acme", "7", &other)).await.unwrap();
        let error = sessions.get(&SessionKey::new("acme", 7)).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Decode { codec: "key", .. }), "{error}");
    }

    async fn any_text_works_as_key_field(world: World) {
        let sessions = world.bucket::<Session>().await;
        let hostile = ["", ".", "*", ">", "a.b", "a b", "=", "=2E", "\0", "ünï/côdé-🦀", "_kv", "\r\n"];
        for (id, tenant) in (0..).zip(hostile) {
            sessions.put(&Session::new(tenant, id)).await.unwrap();
        }
        for (id, tenant) in (0..).zip(hostile) {
            let entry = sessions.get(&SessionKey::new(tenant, id)).await.unwrap().expect("put");
            assert_eq!(entry.tenant, tenant);
            assert_eq!(ids(sessions.list(SessionKey::filter().tenant(tenant)).await.unwrap()).await, [id]);
        }
        assert_eq!(sessions.keys(..).await.unwrap().try_collect::<Vec<_>>().await.unwrap().len(), hostile.len());
    }

    /// P32.
    async fn overlong_key_fails_only_its_operation(world: World) {
        let sessions = world.bucket::<Session>().await;
        let puts = (0..200).map(|id| {
            let sessions = sessions.clone();
            let tenant = if id == 100 { "x".repeat(5_000) } else { "acme".into() };
            async move { sessions.put(&Session::new(&tenant, id)).await }
        });
        let results: Vec<_> = futures::future::join_all(puts).await;
        let errors: Vec<_> = results.into_iter().filter_map(Result::err).collect();
        assert!(matches!(errors.as_slice(), [error] if matches!(error.kind(), ErrorKind::InvalidKey)), "{errors:?}");
        let long = SessionKey::new("x".repeat(5_000), 1);
        assert!(matches!(sessions.get(&long).await.unwrap_err().kind(), ErrorKind::InvalidKey));
        assert!(matches!(sessions.delete(&long).await.unwrap_err().kind(), ErrorKind::InvalidKey));
    }

    async fn too_large_value_is_rejected(world: World) {
        let documents: Bucket<Document> = world.fresh().max_value_size(1024).await.unwrap();
        let error = documents.put(&Document::new("a", &"x".repeat(2_000))).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::TooLarge { .. }), "{error}");
        assert_eq!(error.outcome(), Outcome::NotApplied);
        documents.put(&Document::new("a", &"x".repeat(500))).await.unwrap();
        let documents = world.bucket::<Document>().await;
        let error = documents.put(&Document::new("a", &"x".repeat(1 << 21))).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::TooLarge { .. }), "{error}");
        documents.put(&Document::new("a", "small")).await.unwrap();
    }

    async fn put_to_full_bucket_is_rejected(world: World) {
        let documents: Bucket<Document> = world.fresh().max_bytes(10_000).await.unwrap();
        let mut results = Vec::new();
        for number in 0..20 {
            results.push(documents.put(&Document::new(&number.to_string(), &"x".repeat(900))).await);
        }
        let errors: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
        assert!(!errors.is_empty() && errors.len() < 20);
        assert!(errors.iter().all(|error| matches!(error.kind(), ErrorKind::BucketFull)), "{errors:?}");
        assert!(errors.iter().all(|error| error.outcome() == Outcome::NotApplied));
    }
}

mod values {
    use super::*;

    #[derive(Clone, Debug, PartialEq, KvModel)]
    #[kv(bucket = "values", key = "app.{name}", codec = Text)]
    pub(crate) struct Setting {
        name: String,
        #[kv(value)]
        text: String,
    }

    /// The key contains fields that the value omits.
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    #[kv(bucket = "lean", key = "{tenant}.{id}")]
    pub(crate) struct Lean {
        #[serde(skip)]
        tenant: String,
        #[serde(rename = "number", skip_deserializing, default)]
        id: u64,
        visits: u32,
    }

    on_both_backends! {
        async fn skipped_key_field_is_read_from_key(world: World) {
            let records = world.bucket::<Lean>().await;
            let lean = Lean { tenant: "acme".into(), id: 7, visits: 3 };
            records.put(&lean).await.unwrap();
            assert_eq!(records.get(&lean.key()).await.unwrap().expect("put").into_value(), lean);
            assert_eq!(records.modify(&lean.key(), |lean| lean.visits += 1).await.unwrap().visits, 4);
        }

        async fn bare_value_is_completed_from_key(world: World) {
            let settings = world.bucket::<Setting>().await;
            let setting = Setting { name: "version".into(), text: "1.2.3".into() };
            settings.put(&setting).await.unwrap();
            let entry = settings.get(&SettingKey::new("version")).await.unwrap().expect("put");
            assert_eq!(entry.into_value(), setting);
            settings.put(&Setting { name: "empty".into(), text: String::new() }).await.unwrap();
            let entry = settings.get(&SettingKey::new("empty")).await.unwrap().expect("an empty value is a value");
            assert_eq!(entry.text, "");
        }
    }
}
