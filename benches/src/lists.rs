//! Listing a large bucket, and a part of it.

use std::time::Duration;

use async_nats::jetstream::{self, kv};
use futures::{StreamExt, TryStreamExt, stream};
use kvtyped::prelude::*;

use crate::measure::{pairs, time};
use crate::world::{Session, SessionKey, World, decode, publish_all};

const NAME: &str = "lists";
/// The records of one tenant.
const EACH: u64 = 1_000;

pub(crate) async fn measure(world: &mut World) {
    world.report.group("Listing");
    let (bucket, plain) = world.bucket(NAME).await;
    let tenants = world.effort.of(100);
    for tenant in 0..tenants {
        let records: Vec<_> = (0..EACH).map(|id| Session::new(format!("tenant-{tenant:03}"), id)).collect();
        publish_all(&world.raw, NAME, &records).await;
    }
    let all = tenants * EACH as usize;
    let bucket = &bucket;

    let list = async || time(async { assert_eq!(listed(bucket, (..).into()).await, all) }).await;
    let watch = async || time(async { assert_eq!(watched(&plain, ">").await, all) }).await;
    let measured = pairs(world.effort.blocks(5), 1, list, watch).await;
    let row = world.report.row(format!("list {all}"), "kv.watch_with_history, nothing decoded");
    row.goal(1.5).measured(&measured);

    let get_each = async || time(async { assert_eq!(got(&plain, |_| true).await, all) }).await;
    let measured = pairs(world.effort.blocks(2), 1, list, get_each).await;
    world.report.row(format!("list {all}"), "kv.keys, then 64 kv.get at once").goal(0.2).measured(&measured);

    let few = "tenant-001";
    let filter = || SessionKey::filter().tenant(few).into();
    let list = async || time(async { assert_eq!(listed(bucket, filter()).await, EACH as usize) }).await;
    let watch = async || time(async { assert_eq!(watched(&plain, "tenant-001.*").await, EACH as usize) }).await;
    let measured = pairs(world.effort.blocks(7), 10, list, watch).await;
    let name = format!("list the {EACH} of a prefix among {all}");
    world.report.row(&name, "kv.watch_with_history, nothing decoded").measured(&measured);

    let raw = async || time(async { assert_eq!(raw(&world.raw, "tenant-001.*").await, EACH as usize) }).await;
    let measured = pairs(world.effort.blocks(7), 10, list, raw).await;
    let row = world.report.row(&name, "one raw request (multi_last), nothing decoded");
    row.goal(1.5).measured(&measured);

    let picked = async || {
        let wanted = |key: &str| key.starts_with("tenant-001.");
        time(async { assert_eq!(got(&plain, wanted).await, EACH as usize) }).await
    };
    let measured = pairs(world.effort.blocks(3), 1, list, picked).await;
    world.report.row(&name, "kv.keys, picked by hand, then 64 kv.get at once").goal(0.02).measured(&measured);
}

async fn listed(bucket: &Bucket<Session>, filter: kvtyped::Filter<Session>) -> usize {
    let list = bucket.list(filter).timeout(Duration::from_secs(60)).await.expect("it lists");
    list.try_fold(0, async |seen, _| Ok(seen + 1)).await.expect("the list continues")
}

/// The fastest way of the plain client: a consumer of the newest of each key.
async fn watched(plain: &kv::Store, key: &str) -> usize {
    let mut watch = plain.watch_with_history(key).await.expect("it watches");
    let mut seen = 0;
    while let Some(entry) = watch.next().await {
        seen += 1;
        if entry.expect("the watch continues").delta == 0 {
            break;
        }
    }
    seen
}

/// One request, whose answer the plain client has no call for.
async fn raw(context: &jetstream::Context, keys: &str) -> usize {
    let client = context.client();
    let inbox = client.new_inbox();
    let mut answer = client.subscribe(inbox.clone()).await.expect("it listens");
    let body = format!(r#"{{"multi_last":["$KV.{NAME}.{keys}"]}}"#);
    let subject = format!("$JS.API.DIRECT.GET.KV_{NAME}");
    client.publish_with_reply(subject, inbox, body.into()).await.expect("it is sent");
    let mut seen = 0;
    while let Some(message) = answer.next().await {
        match message.status {
            None => seen += 1,
            Some(status) if status.as_u16() == 204 => break,
            Some(status) => panic!("{status}: {:?}", message.description),
        }
    }
    seen
}

/// The way that its documentation shows: the keys, and then a read of each.
async fn got(plain: &kv::Store, wanted: impl Fn(&str) -> bool) -> usize {
    let keys: Vec<String> = plain.keys().await.expect("it lists").try_collect().await.expect("the listing continues");
    let gets = stream::iter(keys.into_iter().filter(|key| wanted(key))).map(|key| plain.get(key)).buffered(64);
    gets.fold(0, async |seen, bytes| {
        decode(&bytes.expect("it is read").expect("it is there"));
        seen + 1
    })
    .await
}
