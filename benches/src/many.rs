//! Many records at once, by their keys.

use futures::{StreamExt, TryStreamExt, stream};
use kvtyped::prelude::*;

use crate::measure::{Measured, pairs, time};
use crate::world::{Session, SessionKey, WINDOW, World, decode, encode, publish_all};

const NAME: &str = "many";
/// The bucket for bulk writes.
const WRITES: &str = "many-writes";

pub(crate) async fn measure(world: &mut World) {
    world.report.group("Many records");
    reads(world).await;
    writes(world).await;
    removals(world).await;
    compaction(world).await;
}

async fn reads(world: &mut World) {
    let all = world.effort.of(20_000);
    let (bucket, plain) = world.bucket(NAME).await;
    let records = records("acme", all);
    publish_all(&world.raw, NAME, &records).await;

    for (many, sequential_goal, parallel_goal) in
        [(10, None, None), (16, Some(0.3), None), (1_000, Some(0.05), Some(0.55)), (10_000, None, None)]
    {
        let many = if many > 100 { world.effort.of(many) } else { many };
        // Keys that are far apart.
        let picked: Vec<&Session> = (0..many).map(|n| &records[n * 7_919 % all]).collect();
        let keys: Vec<_> = picked.iter().map(|record| record.key()).collect();
        let by_hand: Vec<_> = picked.iter().map(|record| record.by_hand()).collect();
        let ours = async || {
            time(async {
                let got = bucket.get_many(&keys).await.expect("they are read");
                assert_eq!(got.iter().flatten().count(), many);
            })
            .await
        };
        let at_once = async |width: usize| {
            time(async {
                let gets = stream::iter(&by_hand).map(|key| plain.get(key.as_str())).buffered(width);
                let got = gets.fold(0, async |seen, bytes| {
                    decode(&bytes.expect("it is read").expect("it is there"));
                    seen + 1
                });
                assert_eq!(got.await, many);
            })
            .await
        };
        let each = (world.effort.of(4_000) / many).clamp(1, 100);
        let blocks = world.effort.blocks(5);
        let measured = pairs(blocks, each, ours, async || at_once(1).await).await;
        let name = format!("get_many of {many}");
        world.report.row(&name, "kv.get one after the other").goal(sequential_goal).measured(&measured);
        let measured = pairs(blocks, each, ours, async || at_once(64).await).await;
        world.report.row(&name, "64 kv.get at once").goal(parallel_goal).measured(&measured);
    }
}

async fn writes(world: &mut World) {
    let (bucket, plain) = world.bucket(WRITES).await;
    for (many, blocks, each) in [(10_000, 5, 2), (100_000, 3, 1)] {
        let many = world.effort.of(many);
        let [ours, theirs] = ["ours", "theirs"].map(|tenant| records(tenant, many));
        let put_many = async || {
            time(async {
                let written = bucket.put_many(&ours).window(WINDOW).await.expect("they are written");
                assert_eq!(written.len(), many);
            })
            .await
        };
        let blocks = world.effort.blocks(blocks);
        let by_hand = async || time(publish_all(&world.raw, WRITES, &theirs)).await;
        let measured = pairs(blocks, each, put_many, by_hand).await;
        let name = format!("put_many of {many}");
        let beside = format!("publish + serde_json, {WINDOW} on their way");
        world.report.row(&name, beside).goal(1.5).measured(&measured);
        if many > 10_000 {
            continue;
        }
        let one_by_one = async || {
            time(async {
                for record in &theirs {
                    plain.put(record.by_hand(), encode(record)).await.expect("it is put");
                }
            })
            .await
        };
        let measured = pairs(world.effort.blocks(3), 1, put_many, one_by_one).await;
        world.report.row(&name, "kv.put one after the other").goal(0.067).measured(&measured);
    }
}

async fn removals(world: &mut World) {
    let many = world.effort.of(1_000);
    let (bucket, plain) = world.bucket("many-removals").await;
    let [ours, theirs] = ["ours", "theirs"].map(|tenant| records(tenant, many));
    let keys: Vec<_> = ours.iter().map(Session::key).collect();
    let delete_many = async || {
        publish_all(&world.raw, "many-removals", &ours).await;
        time(async { bucket.delete_many(&keys).await.expect("they are removed") }).await
    };
    let one_by_one = async || {
        publish_all(&world.raw, "many-removals", &theirs).await;
        time(async {
            for record in &theirs {
                plain.delete(record.by_hand()).await.expect("it is removed");
            }
        })
        .await
    };
    let measured = pairs(world.effort.blocks(5), 2, delete_many, one_by_one).await;
    let name = format!("delete_many of {many}");
    world.report.row(name, "kv.delete one after the other").goal(0.125).measured(&measured);

    let prefix = async || {
        publish_all(&world.raw, "many-removals", &ours).await;
        let filter = || SessionKey::filter().tenant("ours");
        time(async {
            let keys: Vec<_> = bucket.keys(filter()).await.expect("they are listed").try_collect().await.expect("all");
            assert_eq!(bucket.delete_many(&keys).await.expect("they are removed").len(), many);
        })
        .await
    };
    let measured = pairs(world.effort.blocks(5), 2, prefix, one_by_one).await;
    let name = format!("keys, then delete_many, of a prefix of {many}");
    world.report.row(name, "kv.delete one after the other").goal(0.125).measured(&measured);
}

/// Measures the removal of delete markers, with and without an open cache of the bucket.
async fn compaction(world: &mut World) {
    for size in [10_000, 100_000] {
        let many = world.effort.of(size);
        let beside = compaction_of(world, &format!("compact-beside-{size}"), many, true).await;
        let alone = compaction_of(world, &format!("compact-alone-{size}"), many, false).await;
        let measured = Measured { ours: vec![vec![beside]], theirs: vec![vec![alone]] };
        world.report.row(format!("compact {many} delete markers, with a cache"), "without a cache").measured(&measured);
    }
}

async fn compaction_of(world: &World, name: &str, many: usize, cached: bool) -> f64 {
    let (bucket, _) = world.bucket(name).await;
    let records = records("acme", many);
    publish_all(&world.raw, name, &records).await;
    let cache = bucket.cache(..).timeout(Duration::from_secs(60)).await.expect("it is filled");
    assert_eq!(cache.len(), many);
    let keys: Vec<_> = records.iter().map(Session::key).collect();
    let deleted = bucket.delete_many(&keys).await.expect("they are removed");
    let last = deleted.iter().copied().max().expect("a revision");
    cache.wait_for_revision(last).await.expect("the cache is empty");
    let cache = cached.then_some(cache);
    let taken = time(async {
        let compacted =
            bucket.compact(Duration::ZERO).timeout(Duration::from_secs(60)).await.expect("they are removed");
        assert_eq!(compacted.markers, many as u64);
    })
    .await;
    drop(cache);
    taken.as_secs_f64()
}

fn records(tenant: &str, many: usize) -> Vec<Session> {
    (0..many as u64).map(|id| Session::new(tenant, id)).collect()
}
