//! Many records at once, by their keys.

use futures::{StreamExt, stream};
use kvtyped::prelude::*;

use crate::measure::{pairs, time};
use crate::world::{Session, World, decode, publish_all};

const NAME: &str = "many";

pub(crate) async fn measure(world: &mut World) {
    world.report.group("Many records");
    let all = world.effort.of(20_000);
    let (bucket, plain) = world.bucket(NAME).await;
    let records: Vec<_> = (0..all as u64).map(|id| Session::new("acme", id)).collect();
    publish_all(&world.raw, NAME, &records).await;

    for (many, sequential_goal, parallel_goal) in
        [(10, None, None), (16, Some(0.3), None), (1_000, Some(0.05), Some(0.55)), (10_000, None, None)]
    {
        let many = if many > 100 { world.effort.of(many) } else { many };
        // Keys that are far from each other.
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
