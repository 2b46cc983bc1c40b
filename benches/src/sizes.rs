//! Watches and caches of three sizes: the time until they are ready, the memory of a record, and how both grow.

use std::collections::HashMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use async_nats::jetstream::kv;
use futures::StreamExt;
use kvtyped::Event;
use kvtyped::prelude::*;

use crate::measure::{Measured, pairs, time, timed};
use crate::memory::bytes_of;
use crate::report::Unit;
use crate::workers::{self, Worker};
use crate::world::{Session, World, decode, encode, publish_all};

pub(crate) const SIZES: [usize; 3] = [10_000, 100_000, 1_000_000];
/// The size with a goal. At smaller sizes the creation of the consumer dominates.
const GOAL_SIZE: usize = 100_000;
/// The number of records that are written concurrently.
const CHUNK: usize = 50_000;
/// The number of keys that change twice while the connection is cut.
const CHANGED: [usize; 2] = [1, 100];
/// The time limit for filling a cache.
const LONG: Duration = Duration::from_secs(300);

/// The figures of one size.
struct Cost {
    watch: f64,
    cache: f64,
    bytes: f64,
    resume: f64,
}

pub(crate) async fn measure(world: &mut World) {
    world.report.group("Watches and caches by size");
    let mut costs = Vec::new();
    let most = world.effort.most;
    for size in SIZES.into_iter().filter(|size| *size <= most) {
        let size = world.effort.of(size);
        costs.push((size as f64, of_size(world, size).await));
    }
    let [(small, first), .., (large, last)] = costs.as_slice() else { return };
    let exponent = |of: fn(&Cost) -> f64| (of(last) / of(first)).ln() / (large / small).ln();
    let rows: [(&str, f64); 4] = [
        ("the time of a watch", exponent(|cost| cost.watch)),
        ("the time of a cache", exponent(|cost| cost.cache)),
        ("the memory of a cache", 1.0 + exponent(|cost| cost.bytes)),
        ("a resume with one changed key", exponent(|cost| cost.resume)),
    ];
    for (name, exponent) in rows {
        let name = format!("{name} grows with this power of its size");
        let row = world.report.row(name, "linear").unit(Unit::Exponent).at_most(1.05);
        row.measured(&Measured { ours: vec![vec![exponent]], theirs: vec![vec![1.0]] });
    }
}

async fn of_size(world: &mut World, size: usize) -> Cost {
    let name = format!("size-{size}");
    let (bucket, plain) = world.bucket(&name).await;
    for start in (0..size).step_by(CHUNK) {
        let records: Vec<_> = (start..size.min(start + CHUNK)).map(|id| Session::new("acme", id as u64)).collect();
        publish_all(&world.raw, &name, &records).await;
    }
    let blocks = world.effort.blocks(if size > 100_000 { 2 } else { 5 });
    let theirs = async || time(async { assert_eq!(watched(&plain).await, size) }).await;

    let ours = async || time(async { assert_eq!(ready(&bucket).await, size) }).await;
    let watch = pairs(blocks, 1, ours, theirs).await;
    let goal = (size == GOAL_SIZE).then_some(1.3);
    let row = world.report.row(format!("a watch of {size}, until ready"), "kv.watch_with_history + serde_json");
    row.goal(goal).measured(&watch);

    let url = world.server.url();
    let ours = async || filled(&url, &name, "cache", size);
    let cache = pairs(blocks, 1, ours, async || filled(&url, &name, "map", size)).await;
    let beside = "kv.watch_with_history + serde_json into a HashMap";
    world.report.row(format!("a cache of {size}, until ready"), beside).goal(goal).measured(&cache);

    let (map, bytes) = bytes_of(&world.server.url(), &name, size);
    let row =
        world.report.row(format!("a record in a cache of {size}"), "HashMap of decoded records").unit(Unit::Bytes);
    row.measured(&Measured { ours: vec![vec![bytes]], theirs: vec![vec![map]] });

    let mut resume = 0.0;
    for changed in CHANGED {
        let measured = resumed(world, &plain, changed, blocks).await;
        if changed == CHANGED[0] {
            resume = measured.medians().0;
        }
        let row = format!("a cache of {size} after a cut, {changed} keys changed twice");
        world.report.row(row, "until one is filled").measured(&measured);
    }
    Cost { watch: watch.medians().0, cache: cache.medians().0, bytes, resume }
}

/// Reads the events until a watch is ready.
async fn ready(bucket: &Bucket<Session>) -> usize {
    let mut events = bucket.watch(..).await.expect("it begins");
    let mut seen = 0;
    loop {
        match events.next().await.expect("the watch continues").expect("no error") {
            Event::Put(entry) => drop(black_box(entry)),
            Event::Ready => return seen,
            other => panic!("{other:?}"),
        }
        seen += 1;
    }
}

async fn watched(plain: &kv::Store) -> usize {
    let mut watch = plain.watch_with_history(">").await.expect("it watches");
    let mut seen = 0;
    while let Some(entry) = watch.next().await {
        let entry = entry.expect("the watch continues");
        black_box(decode(&entry.value));
        seen += 1;
        if entry.delta == 0 {
            break;
        }
    }
    seen
}

/// Fills a cache or a map in a new process, because freed memory of an earlier one would slow it down.
fn filled(url: &str, bucket: &str, what: &str, size: usize) -> Duration {
    let mut worker = Worker::start(&["fill", url, bucket]);
    worker.send(what);
    let answer = worker.receive();
    let (seconds, records) = answer.split_once(' ').expect("two numbers");
    assert_eq!(records.parse(), Ok(size));
    Duration::from_secs_f64(seconds.parse().expect("a number of seconds"))
}

/// Runs the process that fills a cache or a map. It answers with the time until it is full and the number of records.
pub(crate) async fn work(url: &str, bucket: &str) {
    let client = async_nats::connect(url).await.expect("the server is there");
    let plain = async_nats::jetstream::new(client).get_key_value(bucket).await.expect("the bucket is there");
    let store = Store::connect(url).await.expect("the server is there");
    let ours: Bucket<Session> = store.bucket().name(bucket).must_exist().await.expect("the bucket is there");
    workers::serve(async |line| match line {
        "map" => {
            let (time, map) = timed(mapped(&plain)).await;
            format!("{} {}", time.as_secs_f64(), map.len())
        }
        "cache" => {
            let (time, cache) = timed(ours.cache(..).timeout(LONG).into_future()).await;
            format!("{} {}", time.as_secs_f64(), cache.expect("it is filled").len())
        }
        other => panic!("no such filling: {other}"),
    })
    .await;
}

/// Keeps the records of a plain watch in a map.
async fn mapped(plain: &kv::Store) -> HashMap<String, Session> {
    let mut watch = plain.watch_with_history(">").await.expect("it watches");
    let mut map = HashMap::new();
    while let Some(entry) = watch.next().await {
        let entry = entry.expect("the watch continues");
        map.insert(entry.key, decode(&entry.value));
        if entry.delta == 0 {
            break;
        }
    }
    map
}

/// Measures the time from the end of a cut until a cache is up to date, against the time to fill a cache.
async fn resumed(world: &World, plain: &kv::Store, changed: usize, blocks: usize) -> Measured {
    let proxy = harness::Proxy::start(world.server.addr()).await;
    let store = Store::connect(proxy.url()).await.expect("the proxy is there");
    let bucket: Bucket<Session> = store.bucket().name(&plain.name).must_exist().await.expect("the bucket is there");
    let fill = || bucket.cache(..).timeout(LONG).into_future();
    let cache = fill().await.expect("it is filled");
    let ours = async || {
        proxy.set(harness::Mode::Refuse);
        while cache.last_error().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut last = 0;
        for round in 0..2 {
            for id in 0..changed as u64 {
                let session = Session { visits: round, ..Session::new("acme", id) };
                last = plain.put(session.by_hand(), encode(&session)).await.expect("it is put");
            }
        }
        proxy.set(harness::Mode::Pass);
        let started = Instant::now();
        cache.wait_for_revision(Revision::from(last)).await.expect("it comes");
        let time = started.elapsed();
        while cache.last_error().is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        time
    };
    let theirs = async || time(async { drop(fill().await.expect("it is filled")) }).await;
    pairs(blocks, 1, ours, theirs).await
}
