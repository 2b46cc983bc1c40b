//! The memory of a cached record, counted by the allocator of a separate process.

use std::collections::HashMap;
use std::time::Duration;

use futures::StreamExt;
use kvtyped::prelude::*;

use crate::allocator::live;
use crate::measure::Measured;
use crate::report::Unit;
use crate::workers::{self, Worker};
use crate::world::{Session, World, decode, publish_all};

const NAME: &str = "memory";

pub(crate) async fn measure(world: &mut World) {
    world.report.group("Memory");
    let entries = world.effort.of(100_000);
    let updates = world.effort.of(10_000);
    let (bucket, _) = world.bucket(NAME).await;
    let records: Vec<_> = (0..entries as u64).map(|id| Session::new("acme", id)).collect();
    publish_all(&world.raw, NAME, &records).await;

    let url = world.server.url();
    let ask = |worker: &mut Worker, what: &str| -> f64 {
        worker.send(what);
        worker.receive().parse().expect("a number of bytes")
    };
    let mut worker = Worker::start(&["memory", &url, NAME]);
    let map = ask(&mut worker, "map") / entries as f64;
    let cache = ask(&mut worker, "cache") / entries as f64;
    // A few of the records, spread over all. If a cached record kept the buffer of its delivery alive, their updates
    // would increase the memory.
    let sparse: Vec<_> = records.iter().step_by(entries / updates).cloned().collect();
    publish_all(&world.raw, NAME, &sparse).await;
    let last = bucket.status().await.expect("it has a status").last_revision;
    let later = ask(&mut worker, &format!("until {last}")) / entries as f64;

    let compare = |ours, theirs| Measured { ours: vec![vec![ours]], theirs: vec![vec![theirs]] };
    let report = &mut world.report;
    report
        .row("a cached record", "HashMap of decoded records")
        .unit(Unit::Bytes)
        .at_most(900.0)
        .measured(&compare(cache, map));
    let name = format!("a cached record after {updates} sparse updates");
    report.row(name, "before them").unit(Unit::Bytes).goal(1.05).measured(&compare(later, cache));
}

/// Returns the bytes of a record in a plain map and in a cache, in a bucket with this many records.
pub(crate) fn bytes_of(url: &str, bucket: &str, records: usize) -> (f64, f64) {
    let mut worker = Worker::start(&["memory", url, bucket]);
    let [map, cache] = ["map", "cache"].map(|what| {
        worker.send(what);
        worker.receive().parse::<f64>().expect("a number of bytes") / records as f64
    });
    (map, cache)
}

/// Runs the process that counts allocated bytes.
pub(crate) async fn work(url: &str, bucket: &str) {
    let client = async_nats::connect(url).await.expect("the server is there");
    let plain = async_nats::jetstream::new(client).get_key_value(bucket).await.expect("the bucket is there");
    let store = Store::connect(url).await.expect("the server is there");
    let ours: Bucket<Session> = store.bucket().name(bucket).must_exist().await.expect("the bucket is there");
    let mut cache = None;
    let mut before = 0;
    workers::serve(async |line| {
        if line == "map" {
            let before = live();
            let mut map = HashMap::new();
            let mut watch = plain.watch_with_history(">").await.expect("it watches");
            while let Some(entry) = watch.next().await {
                let entry = entry.expect("the watch continues");
                map.insert(entry.key.clone(), decode(&entry.value));
                if entry.delta == 0 {
                    break;
                }
            }
            drop(watch);
            return (settled().await - before).to_string();
        }
        if line == "cache" {
            before = settled().await;
            cache = Some(ours.cache(..).timeout(Duration::from_secs(300)).await.expect("it is filled"));
        } else if let (Some(cache), Some(revision)) = (&cache, line.strip_prefix("until ")) {
            let revision: u64 = revision.parse().expect("a revision");
            cache.wait_for_revision(Revision::from(revision)).await.expect("it comes");
        }
        (settled().await - before).to_string()
    })
    .await;
}

/// Returns the number of allocated bytes after pending drops have completed, when the number stops decreasing.
async fn settled() -> isize {
    let mut least = live();
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = live();
        if now >= least {
            return now;
        }
        least = now;
    }
}
