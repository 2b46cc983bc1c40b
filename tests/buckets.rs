//! Opening, comparing, listing, deleting and closing buckets, on the memory backend and on a server.

use kvtyped::bucket::OpenBucket;
use kvtyped::config::{Placement, Republish};
use kvtyped::prelude::*;
use kvtyped::{Error, ErrorKind, Read, Storage};

use crate::needs::{Feature, needs};
use crate::support::{Document, DocumentKey, Session, SessionKey, World, on_both_backends, unique};

/// A bucket of users who do not trust each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", rollups = false)]
struct Shared {
    id: u64,
}

async fn fails<T: KvModel>(open: OpenBucket<T>) -> Error {
    open.await.expect_err("it does not open")
}

on_both_backends! {
    async fn bucket_uses_model_settings_and_defaults(world: World) {
        let documents = world.bucket::<Document>().await;
        let config = documents.status().await.unwrap().config;
        assert_eq!(config.name, documents.name());
        assert_eq!((config.history, config.ttl, config.replicas), (Some(10), None, Some(1)));
        assert_eq!((config.storage, config.compression), (Some(Storage::File), Some(false)));
        assert_eq!((config.max_bytes, config.max_value_size, config.mirror), (None, None, None));
    }

    async fn destroy_refuses_a_recreated_bucket(world: World) {
        let old: Bucket<Document> = world.bucket().await;
        assert!(world.store.delete_bucket(old.name()).await.unwrap());
        let new: Bucket<Document> = world.store.bucket().name(old.name()).must_create().await.unwrap();
        let error = old.clone().destroy().await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::BucketReplaced), "{error}");
        new.status().await.expect("the new bucket is not deleted");
        new.clone().destroy().await.unwrap();
        let error = new.destroy().await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Closed), "{error}");
    }

    async fn status_reports_the_builder_options(world: World) {
        let name = unique("options");
        let open: OpenBucket<Document> = world.store.bucket().name(&name);
        let republish = Republish::new(format!("$KV.{name}.>"), format!("changes.{name}.>")).headers_only();
        let has_markers = world.has(Feature::LimitMarkers);
        let open = if has_markers { open.limit_markers(Duration::from_secs(90)) } else { open };
        let documents = open
            .history(7)
            .ttl(Duration::from_secs(3_600))
            .max_value_size(4_096)
            .max_bytes(1 << 20)
            .storage(Storage::Memory)
            .compression(false)
            .description("for a test")
            .republish(republish.clone())
            .metadata("team", "core")
            .await
            .unwrap();
        let status = documents.status().await.unwrap();
        let config = status.config;
        assert_eq!((config.history, config.ttl), (Some(7), Some(Duration::from_secs(3_600))));
        assert_eq!((config.max_value_size, config.max_bytes), (Some(4_096), Some(1 << 20)));
        assert_eq!((config.storage, config.description.as_deref()), (Some(Storage::Memory), Some("for a test")));
        assert_eq!(config.republish, Some(republish));
        assert_eq!(config.metadata.get("team").map(String::as_str), Some("core"));
        assert_eq!(config.limit_markers, has_markers.then_some(Duration::from_secs(90)));
    }

    async fn limit_markers_are_off_with_a_size_limit(world: World) {
        needs!(world, LimitMarkers);
        let plain = world.bucket::<Session>().await;
        assert!(plain.config().limit_markers.is_some());
        // In a bucket of limited size, a delete marker without room would prevent the expiry of its record. Limit
        // markers are therefore off by default.
        let full: Bucket<Session> = world.fresh().max_bytes(10_000).await.unwrap();
        assert_eq!(full.config().limit_markers, None);
        let error = full.put(&Session::new("acme", 7)).ttl(Duration::from_secs(60)).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Unsupported { .. }), "{error}");
    }

    async fn reopened_bucket_keeps_its_records(world: World) {
        let first = world.bucket::<Document>().await;
        first.put(&Document::new("a", "one")).await.unwrap();
        let again: Bucket<Document> = world.store.bucket().name(first.name()).await.unwrap();
        assert_eq!(again.get(&DocumentKey::new("a")).await.unwrap().expect("kept").text, "one");
    }

    async fn drift_lists_each_differing_setting(world: World) {
        let name = unique("drift");
        let open = || world.store.bucket::<Document>().name(&name);
        open().history(3).description("old").metadata("team", "core").await.unwrap();
        let error = fails(open().description("new").max_value_size(2_048)).await;
        let ErrorKind::Drift { differences } = error.kind() else { panic!("{error}") };
        let reported: Vec<_> = differences.iter().map(ToString::to_string).collect();
        let expected = [
            "history: wanted 10, found 3",
            "max_value_size: wanted 2048, found none",
            "description: wanted \"new\", found \"old\"",
        ];
        assert_eq!(reported, expected);

        let adopted = open().on_drift(Drift::Adopt).await.unwrap();
        assert_eq!(adopted.config().history, Some(3));
        let updated = open().description("new").max_value_size(2_048).on_drift(Drift::Update).await.unwrap();
        assert_eq!((updated.config().history, updated.config().max_value_size), (Some(10), Some(2_048)));
        let config = updated.status().await.unwrap().config;
        assert_eq!(config.description.as_deref(), Some("new"));
        assert_eq!(config.metadata.get("team").map(String::as_str), Some("core"), "an update keeps other metadata");
        open().await.expect("the updated bucket has no drift");
    }

    async fn disabled_rollups_are_drift_from_default_model(world: World) {
        let bucket: Bucket<Session> = world.fresh().rollups(false).await.unwrap();
        let again = || world.store.bucket::<Session>().name(bucket.name());
        let ErrorKind::Drift { differences } = fails(again()).await.kind().clone() else { panic!("it differs") };
        let reported: Vec<_> = differences.iter().map(ToString::to_string).collect();
        assert_eq!(reported, ["allow_rollup_hdrs: wanted true, found false"]);
        assert_eq!(again().rollups(false).await.unwrap().config().rollups, Some(false));
        let repaired = again().on_drift(Drift::Update).await.unwrap();
        assert_eq!((repaired.config().rollups, repaired.config().irregular.len()), (Some(true), 0));
        again().await.unwrap();
    }

    async fn model_can_disable_rollups(world: World) {
        let bucket: Bucket<Shared> = world.fresh().await.unwrap();
        let config = bucket.config();
        assert_eq!((config.rollups, config.limit_markers), (Some(false), None));
        let error = bucket.purge(&SharedKey::new(1)).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Unsupported { .. }), "{error}");
        let again = || world.store.bucket::<Shared>().name(bucket.name());
        assert_eq!(again().await.expect("nothing differs").config().rollups, Some(false));
        // The builder takes precedence.
        let allowed = again().rollups(true).on_drift(Drift::Update).await.unwrap();
        assert_eq!(allowed.config().rollups, Some(true));
        let ErrorKind::Drift { differences } = fails(again()).await.kind().clone() else { panic!("it differs") };
        let reported: Vec<_> = differences.iter().map(ToString::to_string).collect();
        assert_eq!(reported, ["rollups: wanted false, found true"]);
    }

    async fn immutable_setting_update_fails_without_change(world: World) {
        let name = unique("storage");
        let open = || world.store.bucket::<Document>().name(&name);
        open().storage(Storage::File).await.unwrap();
        let error = fails(open().storage(Storage::Memory).description("x").on_drift(Drift::Update)).await;
        assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error}");
        assert_eq!(open().await.unwrap().config().description, None);
    }

    async fn must_exist_and_must_create_are_enforced(world: World) {
        let name = unique("presence");
        let open = || world.store.bucket::<Document>().name(&name);
        assert!(matches!(fails(open().must_exist()).await.kind(), ErrorKind::BucketNotFound));
        assert!(!world.store.buckets().await.unwrap().contains(&name));
        open().must_create().await.unwrap();
        let error = fails(open().must_create()).await;
        assert!(matches!(error.kind(), ErrorKind::BucketExists), "{error}");
        assert_eq!(error.bucket(), Some(&*name));
        open().must_exist().await.unwrap();
    }

    async fn concurrent_opens_of_a_bucket_succeed(world: World) {
        let name = unique("race");
        let opens = (0..16).map(|_| world.store.bucket::<Document>().name(&name).into_future());
        let opened: Vec<_> = futures::future::try_join_all(opens).await.unwrap();
        assert_eq!(opened.len(), 16);
    }

    async fn invalid_setting_is_refused(world: World) {
        let open = || world.store.bucket::<Document>().name(unique("wrong"));
        let wrong = [
            open().history(0),
            open().history(65),
            open().replicas(9),
            open().ttl(Duration::from_millis(5)),
            open().limit_markers(Duration::from_millis(5)),
            open().max_value_size(0),
            open().max_bytes(u64::MAX),
            open().name("no.dots"),
            open().name(""),
            open().metadata("_nats.level", "9"),
            open().mirror(kvtyped::config::Source::new("KV_other")),
            open().sources([kvtyped::config::Source::new("other"), kvtyped::config::Source::new("KV_other")]),
        ];
        for open in wrong {
            let shown = format!("{open:?}");
            let error = fails(open).await;
            assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error} from {shown}");
        }
    }

    async fn buckets_are_listed_and_deleted(world: World) {
        let documents = world.bucket::<Document>().await;
        let name = documents.name().to_owned();
        assert!(world.store.buckets().await.unwrap().contains(&name));
        assert!(world.store.delete_bucket(&name).await.unwrap());
        assert!(!world.store.delete_bucket(&name).await.unwrap());
        assert!(!world.store.buckets().await.unwrap().contains(&name));
        assert!(matches!(world.store.delete_bucket("a.b").await.unwrap_err().kind(), ErrorKind::InvalidConfig { .. }));
    }

    async fn verbs_report_a_deleted_bucket(world: World) {
        let documents = world.bucket::<Document>().await;
        let document = Document::new("a", "one");
        documents.clone().destroy().await.unwrap();
        let documents: Bucket<Document> = {
            // A handle that was open when another client deleted the bucket.
            let documents: Bucket<Document> = world.store.bucket().name(documents.name()).await.unwrap();
            assert!(world.store.delete_bucket(documents.name()).await.unwrap());
            documents
        };
        let gone = |error: Error| {
            assert!(matches!(error.kind(), ErrorKind::BucketNotFound), "{error}");
            assert!(error.is_not_found());
            assert_eq!(error.outcome(), Outcome::NotApplied);
        };
        gone(documents.put(&document).await.unwrap_err());
        gone(documents.create(&document).await.unwrap_err());
        gone(documents.update(&document, Revision::new(1)).await.unwrap_err());
        gone(documents.get(&document.key()).await.unwrap_err());
        gone(documents.get(&document.key()).read(Read::Leader).await.unwrap_err());
        gone(documents.delete(&document.key()).await.unwrap_err());
        gone(documents.purge(&document.key()).await.unwrap_err());
        gone(documents.history(&document.key()).await.unwrap_err());
        gone(documents.modify(&document.key(), |_| {}).await.unwrap_err());
        gone(documents.status().await.unwrap_err());
        gone(documents.list(..).await.unwrap().try_next().await.unwrap_err());
        gone(documents.destroy().await.unwrap_err());
    }

    async fn recreated_bucket_refuses_old_revisions(world: World) {
        let documents = world.bucket::<Document>().await;
        let document = Document::new("a", "old");
        for _ in 0..5 {
            documents.put(&document).await.unwrap();
        }
        let old = documents.put(&document).await.unwrap();
        assert!(world.store.delete_bucket(documents.name()).await.unwrap());
        let reopened: Bucket<Document> = world.store.bucket().name(documents.name()).must_create().await.unwrap();
        reopened.put(&Document::new("a", "new")).await.unwrap();

        for error in [
            documents.update(&document, old).await.unwrap_err(),
            documents.delete(&document.key()).if_revision(old).await.unwrap_err(),
            documents.purge(&document.key()).if_revision(old).await.unwrap_err(),
        ] {
            assert!(matches!(error.kind(), ErrorKind::BucketReplaced), "{error}");
            assert_eq!(error.outcome(), Outcome::NotApplied);
        }
        assert_eq!(reopened.get(&document.key()).read(Read::Leader).await.unwrap().expect("kept").text, "new");
        // A verb that reads before it writes works correctly.
        documents.modify(&document.key(), |document| document.text += "er").await.unwrap();
        assert_eq!(reopened.get(&document.key()).read(Read::Leader).await.unwrap().expect("kept").text, "newer");
    }

    async fn closed_handle_fails_and_others_continue(world: World) {
        let documents = world.bucket::<Document>().await;
        let other: Bucket<Document> = world.store.bucket().name(documents.name()).await.unwrap();
        let clone = documents.clone();
        documents.close();
        let document = Document::new("a", "one");
        for error in [
            clone.put(&document).await.unwrap_err(),
            clone.get(&document.key()).await.unwrap_err(),
            clone.list(..).await.unwrap_err(),
            clone.status().await.unwrap_err(),
            clone.modify(&document.key(), |_| {}).await.unwrap_err(),
        ] {
            assert!(matches!(error.kind(), ErrorKind::Closed), "{error}");
        }
        other.put(&document).await.unwrap();
    }

    async fn closed_store_opens_no_bucket(world: World) {
        let World { store, .. } = world;
        store.close().await.unwrap();
        store.close().await.unwrap();
        let error = fails(store.bucket::<Document>().name(unique("closed"))).await;
        assert!(matches!(error.kind(), ErrorKind::Closed), "{error}");
        assert!(matches!(store.buckets().await.unwrap_err().kind(), ErrorKind::Closed));
    }

    async fn read_only_handle_creates_and_changes_nothing(world: World) {
        let name = unique("readers");
        let open = || world.store.bucket::<Session>().name(&name);
        let error = open().read_only().await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::BucketNotFound), "{error}");
        let writer = open().await.unwrap();
        writer.put(&Session::new("acme", 7)).await.unwrap();
        let reader: ReadBucket<Session> = open().read_only().await.unwrap();
        assert!(reader.get(&SessionKey::new("acme", 7)).await.unwrap().is_some());
        assert_eq!(writer.read_only().keys(..).await.unwrap().try_collect::<Vec<_>>().await.unwrap().len(), 1);
        let error = open().history(5).on_drift(Drift::Update).read_only().await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Drift { .. }), "a reader changes no bucket: {error}");
    }

    async fn status_reflects_every_write(world: World) {
        let documents = world.bucket::<Document>().await;
        assert_eq!(documents.status().await.unwrap().values, 0);
        for number in 1..=3 {
            let revision = documents.put(&Document::new(&number.to_string(), "x")).await.unwrap();
            let status = documents.status().await.unwrap();
            assert_eq!((status.values, status.last_revision), (number, revision));
            assert!(status.bytes > 0);
        }
        documents.delete(&DocumentKey::new("1")).await.unwrap();
        assert_eq!(documents.status().await.unwrap().values, 4, "a marker is stored, too");
    }

    async fn record_of_another_model_is_listed_as_error(world: World) {
        let documents = world.bucket::<Document>().await;
        let sessions: Bucket<Session> = world.store.bucket().name(documents.name()).on_drift(Drift::Adopt).await.unwrap();
        documents.put(&Document::new("a", "one")).await.unwrap();
        let all: Vec<_> = documents.list(..).await.unwrap().try_collect().await.unwrap();
        assert_eq!(all.len(), 1);
        // `{tenant}.{id}` and `doc.{name}` both have two segments. A record that is not a session is reported and hides
        // no other record.
        let seen: Vec<_> = sessions.list(..).await.unwrap().collect().await;
        assert!(matches!(seen.as_slice(), [Err(error)] if error.key() == Some("doc.a")), "{seen:?}");
    }
}

#[tokio::test]
async fn memory_urls_with_same_name_share_a_store() {
    let open = async |url: &str| -> Bucket<Session> { Store::connect(url).await.unwrap().bucket().await.unwrap() };
    let (one, two, other) = (open("memory:shared").await, open("memory:shared").await, open("memory:").await);
    one.put(&Session::new("acme", 7)).await.unwrap();
    assert!(two.get(&SessionKey::new("acme", 7)).await.unwrap().is_some());
    assert!(other.get(&SessionKey::new("acme", 7)).await.unwrap().is_none());
}

#[tokio::test]
async fn invalid_url_is_refused_without_showing_secrets() {
    for url in [
        "redis://user:s3cret@host",
        "",
        "localhost:4222",
        "nats",
        "nats://",
        "nats://user:s3cret@ho st:1",
        "nats://h:99999",
    ] {
        let error = Store::connect(url).timeout(Duration::from_secs(2)).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{url}: {error}");
        assert!(!format!("{error} {error:?} {:?}", Store::connect(url)).contains("s3cret"));
    }
}

#[tokio::test]
async fn unreachable_server_fails_within_seconds() {
    let start = std::time::Instant::now();
    let error = Store::connect("nats://127.0.0.1:1").await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unavailable { .. }), "{error}");
    assert!(error.is_retryable());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[tokio::test]
async fn memory_store_refuses_mirror_but_takes_replicas() {
    let store = Store::memory();
    let mirror = store.bucket::<Session>().mirror(kvtyped::config::Source::new("origin"));
    assert!(matches!(fails(mirror).await.kind(), ErrorKind::Unsupported { .. }));
    let placed = store.bucket::<Session>().placement(Placement::tags(["ssd"])).replicas(3).await.unwrap();
    assert_eq!(placed.config().replicas, Some(3));
}
