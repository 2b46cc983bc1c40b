//! Indexes with `#[kv(index(eventual))]`, which the follower alone keeps.

use kvtyped::ErrorKind;
use kvtyped::model::index::IndexState;

use super::*;
use crate::support::{on_both_backends, unique};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "late", name = "late", key = "{id}")]
struct Late {
    id: u64,
    #[kv(index(eventual))]
    team: String,
    #[kv(index)]
    city: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "padded", name = "padded", key = "{id}")]
struct Padded {
    id: u64,
    #[kv(index(eventual))]
    team: String,
    text: String,
}

fn padded(id: u64, length: usize) -> Padded {
    Padded { id, team: "core".into(), text: "x".repeat(length) }
}

fn late(id: u64, team: &str) -> Late {
    Late { id, team: team.into(), city: "Oslo".into() }
}

on_both_backends! {
    needs Locks;

    async fn eventual_index_is_readable_after_the_first_pass(world: World) {
        let bucket: Bucket<Late> = world.store.bucket().name(unique("late")).await.unwrap();
        bucket.put_many((0..20).map(|id| late(id, "core"))).await.unwrap();
        // Before a follower has reached the end, an empty answer would be wrong.
        for error in [
            bucket.count_by(Late::by_team("core")).await.unwrap_err(),
            bucket.list_by(Late::by_team("core")).await.map(drop).unwrap_err(),
        ] {
            assert!(matches!(error.kind(), ErrorKind::IndexBuilding { index } if index == "team"), "{error:?}");
        }
        let error = bucket.build_index("team").all_writers_know().await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error:?}");
        assert_eq!(bucket.count_by(Late::by_city("Oslo")).await.unwrap(), 20);

        let (stop, stopped) = oneshot::channel::<()>();
        let follower = tokio::spawn({
            let bucket = bucket.clone();
            async move { bucket.maintain_indexes().until(stopped).await }
        });
        let readable = async {
            while bucket.count_by(Late::by_team("core")).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENT, readable).await.expect("a follower has run");
        let card = bucket.card().await.unwrap().expect("the program created it");
        assert_eq!(card.indexes["team"].state, IndexState::Readable);
        for id in 0..5 {
            bucket.put(&late(id, "ops")).await.unwrap();
            bucket.put(&late(id + 30, "ops")).await.unwrap();
            bucket.put(&late(id + 30, "web")).await.unwrap();
        }
        let written = bucket.delete(&LateKey::new(19)).await.unwrap();
        let count = async |team: &str| {
            bucket.count_by(Late::by_team(team)).at_least(written).timeout(PATIENT).await.unwrap()
        };
        assert_eq!((count("core").await, count("ops").await, count("web").await), (14, 5, 5));
        // Another value and the first one again.
        bucket.put(&late(0, "core")).await.unwrap();
        let written = bucket.put(&late(0, "ops")).await.unwrap();
        let list = bucket.list_by(Late::by_team("ops")).at_least(written).timeout(PATIENT).await.unwrap();
        assert_eq!(list.map_ok(|entry| entry.id).try_collect::<Vec<_>>().await.unwrap(), [0, 1, 2, 3, 4]);
        assert_eq!(bucket.count_by(Late::by_team("ops")).await.unwrap(), 5);
        stop.send(()).unwrap();
        follower.await.unwrap().unwrap();
        assert!(bucket.verify_indexes().await.unwrap().is_clean());
        assert_eq!(bucket.drop_index("team").await.unwrap(), 24);
    }

    /// A follower that runs during the removal would store some entries again, and others not.
    async fn eventual_index_is_dropped_only_without_a_follower(world: World) {
        let bucket: Bucket<Late> = world.store.bucket().name(unique("late")).await.unwrap();
        let written = bucket.put(&late(1, "core")).await.unwrap();
        let following = |bucket: &Bucket<Late>| {
            let (stop, stopped) = oneshot::channel::<()>();
            let bucket = bucket.clone();
            (stop, tokio::spawn(async move { bucket.maintain_indexes().until(stopped).await }))
        };
        let readable = async |bucket: &Bucket<Late>| {
            let count = async {
                while bucket.count_by(Late::by_team("core")).await.is_err() {
                    tokio::task::yield_now().await;
                }
                bucket.count_by(Late::by_team("core")).at_least(written).await.unwrap()
            };
            tokio::time::timeout(PATIENT, count).await.expect("a follower has run")
        };
        let (stop, follower) = following(&bucket);
        assert_eq!(readable(&bucket).await, 1);
        let error = bucket.drop_index("team").timeout(SECOND).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Unavailable { .. }), "{error:?}");
        assert!(error.report().contains("maintain_indexes"), "{}", error.report());
        // Nothing has changed.
        assert_eq!(readable(&bucket).await, 1);
        stop.send(()).unwrap();
        follower.await.unwrap().unwrap();
        assert_eq!(bucket.drop_index("team").timeout(PATIENT).await.unwrap(), 1);
        let error = bucket.count_by(Late::by_team("core")).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::IndexBuilding { .. }), "{error:?}");
        // The next follower builds it again.
        let (stop, follower) = following(&bucket);
        assert_eq!(readable(&bucket).await, 1);
        stop.send(()).unwrap();
        follower.await.unwrap().unwrap();
    }

    /// A full bucket refuses the entries. The follower stores them when there is room.
    async fn entries_without_room_are_stored_later(world: World) {
        let name = unique("padded");
        let open = async |most: u64| -> Bucket<Padded> {
            let bucket = world.store.bucket().name(name.as_str()).max_bytes(most).limit_markers(600 * SECOND);
            bucket.on_drift(Drift::Update).await.unwrap()
        };
        let bucket = open(20_000).await;
        let (stop, stopped) = oneshot::channel::<()>();
        let follower = tokio::spawn({
            let bucket = bucket.clone();
            async move { bucket.maintain_indexes().until(stopped).await }
        });
        let readable = async {
            while bucket.count_by(Padded::by_team("core")).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENT, readable).await.expect("a follower has run");
        let (mut records, mut length) = (0, 2_000);
        while length > 0 {
            match bucket.create(&padded(records, length)).await {
                Ok(_) => records += 1,
                Err(error) => {
                    assert!(matches!(error.kind(), ErrorKind::BucketFull), "{error:?}");
                    length /= 2;
                }
            }
        }
        let bucket = open(2_000_000).await;
        let written = bucket.create(&padded(records, 10)).await.unwrap();
        let count = bucket.count_by(Padded::by_team("core")).at_least(written).timeout(PATIENT).await.unwrap();
        assert_eq!(count, records + 1);
        stop.send(()).unwrap();
        follower.await.unwrap().unwrap();
    }
}
