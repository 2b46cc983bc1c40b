//! Ids: no id is issued twice.

use std::collections::HashSet;

use harness::{Mode, Proxy};
use kvtyped::ErrorKind;
use kvtyped::prelude::*;

use crate::support::{SOON, Session, World, on_both_backends, unique};

on_both_backends! {
    async fn ids_are_unique_and_increase_per_task(world: World) {
        let name = unique("orders");
        let handles = [
            world.store.ids(&name).block(7).await.unwrap(),
            world.store.ids(&name).block(5).await.unwrap(),
        ];
        let tasks = (0..16).map(|task| {
            let ids = handles[task % 2].clone();
            tokio::spawn(async move {
                let mut taken = Vec::new();
                for _ in 0..40 {
                    taken.push(ids.next().await.unwrap());
                    tokio::task::yield_now().await;
                }
                assert!(taken.is_sorted_by(|a, b| a < b), "{taken:?}");
                taken
            })
        });
        let all = futures::future::try_join_all(tasks).await.unwrap().concat();
        let unique: HashSet<_> = all.iter().copied().collect();
        assert_eq!(unique.len(), all.len(), "an id was given out twice");
        let highest = all.iter().max().copied().unwrap();
        assert!(highest <= 640 + 12, "blocks are used up: {highest}");
    }

    async fn start_at_moves_sequence_only_forward(world: World) {
        let name = unique("orders");
        let ids = world.store.ids(&name).block(10).await.unwrap();
        assert_eq!(ids.next().await.unwrap(), 1);
        let later = world.store.ids(&name).start_at(1000).block(1).await.unwrap();
        assert_eq!((later.next().await.unwrap(), later.next().await.unwrap()), (1000, 1001));
        let lower = world.store.ids(&name).start_at(5).await.unwrap();
        assert_eq!(lower.next().await.unwrap(), 1002, "it has got further");
        assert_eq!(ids.next().await.unwrap(), 2, "of the block that it has");
        let zero = world.store.ids(unique("orders")).start_at(0).await.unwrap();
        assert_eq!(zero.next().await.unwrap(), 0);
    }

    async fn exhausted_ids_return_out_of_range(world: World) {
        let name = unique("orders");
        let ids = world.store.ids(&name).start_at(u64::MAX - 3).await.unwrap();
        for id in [u64::MAX - 3, u64::MAX - 2, u64::MAX - 1] {
            assert_eq!(ids.next().await.unwrap(), id);
        }
        for _ in 0..2 {
            let error = ids.next().await.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::OutOfRange { .. }), "{error}");
        }
    }

    /// Wherever the future is dropped.
    async fn dropped_next_causes_no_duplicate_ids(world: World) {
        let ids = world.store.ids(unique("orders")).block(2).await.unwrap();
        let mut taken = HashSet::new();
        for polls in 0..60 {
            let mut next = Box::pin(ids.next());
            for _ in 0..polls % 12 {
                if futures::poll!(&mut next).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            drop(next);
            assert!(taken.insert(ids.next().await.unwrap()), "given out twice");
        }
    }

    async fn invalid_options_are_rejected(world: World) {
        let refused = world.store.ids(unique("orders")).block(0).await.unwrap_err();
        assert!(matches!(refused.kind(), ErrorKind::InvalidConfig { .. }), "{refused}");
        let refused = world.store.ids("my orders").await.unwrap_err();
        assert!(matches!(refused.kind(), ErrorKind::InvalidConfig { .. }), "{refused}");
        let forgetful: Bucket<Session> = world.fresh().ttl(Duration::from_secs(60)).await.unwrap();
        let refused = world.store.ids(forgetful.name()).await.unwrap_err();
        assert!(matches!(refused.kind(), ErrorKind::Unsupported { .. }), "{refused}");
    }
}

/// Blocks with a lost acknowledgement are recovered or skipped.
#[tokio::test]
async fn lost_acks_cause_no_duplicate_ids() {
    let name = unique("orders");
    let direct = World::nats().await.store.ids(&name).block(1).await.unwrap();
    let proxy = Proxy::start(harness::shared().await.addr()).await;
    let store = World::at(&proxy.url()).await.store;
    let through = store.ids(&name).block(1).timeout(Duration::from_secs(2)).await.unwrap();
    let mut taken = HashSet::new();
    // The client may replace a silent connection, so a call may fail.
    let next = async || harness::wait::until("an id comes", SOON, async || through.next().await.ok()).await;
    for _ in 0..3 {
        assert!(taken.insert(next().await));
        proxy.set(Mode::DropReplies);
        let error = through.next().await.unwrap_err();
        assert!(error.operation() == Some("next") && error.bucket() == Some(&name), "{error:?}");
        assert!(taken.insert(direct.next().await.unwrap()));
        proxy.set(Mode::Pass);
    }
    assert!(taken.insert(next().await));
}
