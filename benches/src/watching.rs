//! Watches, caches and live values.

use std::cell::Cell;
use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use futures::StreamExt;
use kvtyped::Event;
use kvtyped::prelude::*;

use crate::measure::{pairs, time};
use crate::world::{Session, SessionKey, World, decode, encode, publish_all};

/// The number of cached records.
const CACHED: u64 = 10_000;
/// The number of reads that are timed together.
const READS: usize = 20_000;

pub(crate) async fn measure(world: &mut World) {
    world.report.group("Watching and local copies");
    delivery(world).await;
    cache(world).await;
    live(world).await;
    subscribers(world).await;
    reconnection(world).await;
}

/// Measures the time from the start of a put to its event. Both cases use the put of the plain client.
async fn delivery(world: &mut World) {
    let (bucket, plain) = world.bucket("delivery").await;
    let (ours, theirs) = (Session::new("ours", 1), Session::new("theirs", 1));
    let mut our_events = bucket.watch(ours.key()).await.expect("it watches");
    while !matches!(our_events.next().await.expect("the watch continues").expect("no error"), Event::Ready) {}
    let mut their_events = plain.watch(theirs.by_hand()).await.expect("it watches");

    let acknowledged = Cell::new(Duration::ZERO);
    let put = async |session: &Session| {
        let started = Instant::now();
        plain.put(session.by_hand(), encode(session)).await.expect("it is put");
        acknowledged.set(started.elapsed());
    };
    let our_event = async || {
        let started = Instant::now();
        let event = async {
            let event = our_events.next().await.expect("the watch continues").expect("no error");
            assert!(matches!(event, Event::Put(_)));
            started.elapsed()
        };
        tokio::join!(put(&ours), event).1
    };
    let their_event = async || {
        let started = Instant::now();
        let event = async {
            let entry = their_events.next().await.expect("the watch continues").expect("no error");
            black_box(decode(&entry.value));
            started.elapsed()
        };
        tokio::join!(put(&theirs), event).1
    };
    let measured = pairs(world.effort.blocks(7), world.effort.of(1_000), our_event, their_event).await;
    world.report.row("from a put to its event", "kv.watch + serde_json").goal(1.10).measured(&measured);

    let our_event = async || {
        let started = Instant::now();
        let event = async {
            our_events.next().await.expect("the watch continues").expect("no error");
            started.elapsed()
        };
        tokio::join!(put(&ours), event).1
    };
    let until_acknowledged = async || acknowledged.get();
    // Both times are of the same put.
    let measured = pairs_of(world.effort.blocks(7), world.effort.of(1_000), our_event, until_acknowledged).await;
    world.report.row("from a put to its event", "to its acknowledgement").goal(1.10).measured(&measured);
}

/// Like `pairs`, but the second closure returns a time that the first one recorded.
async fn pairs_of(
    blocks: usize,
    each: usize,
    mut ours: impl AsyncFnMut() -> Duration,
    mut baseline: impl AsyncFnMut() -> Duration,
) -> crate::measure::Measured {
    let mut measured = crate::measure::Measured::default();
    for _ in 0..blocks {
        let (mut of_ours, mut of_theirs) = (Vec::new(), Vec::new());
        for _ in 0..each {
            of_ours.push(ours().await.as_secs_f64());
            of_theirs.push(baseline().await.as_secs_f64());
        }
        measured.ours.push(of_ours);
        measured.theirs.push(of_theirs);
    }
    measured
}

async fn cache(world: &mut World) {
    let (bucket, plain) = world.bucket("cached").await;
    let records: Vec<_> = (0..CACHED).map(|id| Session::new("acme", id)).collect();
    publish_all(&world.raw, "cached", &records).await;
    let cache = bucket.cache(..).await.expect("it is filled");
    assert_eq!(cache.len(), records.len());
    let keys: Vec<_> = records.iter().map(Session::key).collect();
    let map: HashMap<SessionKey, Arc<Session>> = records.iter().map(|r| (r.key(), Arc::new(r.clone()))).collect();
    let (cache, map, keys) = (&cache, &map, keys.as_slice());

    let from_cache = |key: &SessionKey| black_box(cache.get(key)).is_some();
    let from_map = |key: &SessionKey| black_box(map.get(key).map(Arc::clone)).is_some();
    let blocks = world.effort.blocks(7);
    let ours = async || reads(keys, from_cache);
    let measured = pairs(blocks, 5, ours, async || reads(keys, from_map)).await.each(READS);
    let row = world.report.row("a read of a cache by key", "HashMap of the same keys, SipHash");
    row.goal(1.5).measured(&measured);

    let two = async || on_two_threads(|| reads(keys, from_cache));
    let measured = pairs(blocks, 5, two, ours).await.each(READS);
    world.report.row("a read of a cache on two threads", "on one").goal(1.6).measured(&measured);

    let mut at = 0;
    let remote = async || {
        at = (at + 7_919) % records.len();
        let by_hand = records[at].by_hand();
        time(async { decode(&plain.get(by_hand).await.expect("it is read").expect("it is there")) }).await
    };
    let ours = async || reads(keys, from_cache) / READS as u32;
    let measured = pairs(blocks, world.effort.of(200), ours, remote).await;
    world.report.row("a read of a cache by key", "kv.get + serde_json").goal(0.001).measured(&measured);
}

fn reads(keys: &[SessionKey], read: impl Fn(&SessionKey) -> bool) -> Duration {
    let mut at = 0;
    let started = Instant::now();
    for _ in 0..READS {
        at = (at + 7_919) % keys.len();
        assert!(read(&keys[at]));
    }
    started.elapsed()
}

/// Runs the work on two threads concurrently, and returns the longer time.
fn on_two_threads(work: impl Fn() -> Duration + Sync) -> Duration {
    thread::scope(|scope| {
        let [one, other] = [scope.spawn(&work), scope.spawn(&work)];
        one.join().expect("no panic").max(other.join().expect("no panic"))
    })
}

async fn live(world: &mut World) {
    let (bucket, _) = world.bucket("live").await;
    let session = Session::new("acme", 1);
    bucket.put(&session).await.expect("it is put");
    let key = session.key();
    let live = bucket.live(&key).await.expect("it is there");
    let swap = ArcSwap::from_pointee(session.clone());
    let ours = async || {
        let started = Instant::now();
        (0..READS).for_each(|_| drop(black_box(live.load())));
        started.elapsed()
    };
    let theirs = async || {
        let started = Instant::now();
        (0..READS).for_each(|_| drop(black_box(swap.load_full())));
        started.elapsed()
    };
    let measured = pairs(world.effort.blocks(7), 20, ours, theirs).await.each(READS);
    world.report.row("a load of a live value", "ArcSwap::load_full").goal(2.0).measured(&measured);
}

/// The number of tasks that subscribe to the changes of one cache.
const SUBSCRIBERS: usize = 100;

/// Measures the delay between the first and the last subscriber, and the cost of the subscribers for a writer.
async fn subscribers(world: &mut World) {
    let (bucket, plain) = world.bucket("subscribers").await;
    let key = Session::new("heard", 0).key();
    let cache = bucket.cache(..).await.expect("it is filled");
    let started = Cell::new(Instant::now());
    let (first, last) = (Cell::new(Duration::ZERO), Cell::new(Duration::ZERO));
    let mut tasks = tokio::task::JoinSet::new();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    for _ in 0..SUBSCRIBERS {
        let (mut changes, tell, key) = (cache.changes(), tell.clone(), key.clone());
        tasks.spawn(async move {
            while let Some(change) = changes.next().await {
                if change.is_ok_and(|change| change.key == key) {
                    let _ = tell.send(Instant::now());
                }
            }
        });
    }
    let mut put = async || {
        started.set(Instant::now());
        plain.put("heard.0", encode(&Session::new("heard", 0))).await.expect("it is put");
        let mut times = Vec::with_capacity(SUBSCRIBERS);
        while times.len() < SUBSCRIBERS {
            times.push(told.recv().await.expect("they are there").duration_since(started.get()));
        }
        first.set(times.iter().min().copied().unwrap_or_default());
        last.set(times.iter().max().copied().unwrap_or_default());
    };
    let ours = async || {
        put().await;
        last.get()
    };
    let measured = pairs_of(world.effort.blocks(5), world.effort.of(200), ours, async || first.get()).await;
    let name = format!("from a put to the last of {SUBSCRIBERS} cache subscribers");
    world.report.row(name, "to the first").goal(2.0).measured(&measured);

    let records: Vec<_> = (0..2_000).map(|id| Session::new("beside", id)).collect();
    let (_, unheard) = world.bucket("no-subscribers").await;
    let write = async |plain: &async_nats::jetstream::kv::Store| {
        let puts = futures::stream::iter(&records).map(|record| plain.put(record.by_hand(), encode(record)));
        time(puts.buffer_unordered(64).for_each(async |put| assert!(put.expect("it is put") > 0))).await
    };
    let measured = pairs(world.effort.blocks(5), 1, async || write(&plain).await, async || write(&unheard).await);
    let name = format!("2000 kv.put, 64 at once, with {SUBSCRIBERS} cache subscribers");
    world.report.row(name, "without subscribers").goal(1.33).measured(&measured.await);
    tasks.shutdown().await;
}

/// Measures the time from a broken connection until a cache is up to date, against the time to fill a cache.
async fn reconnection(world: &mut World) {
    const NAME: &str = "reconnection";
    let all = world.effort.of(100_000);
    let (_, plain) = world.bucket(NAME).await;
    let records: Vec<_> = (0..all as u64).map(|id| Session::new("acme", id)).collect();
    publish_all(&world.raw, NAME, &records).await;
    let proxy = harness::Proxy::start(world.server.addr()).await;
    let store = Store::connect(proxy.url()).await.expect("the proxy is there");
    let bucket: Bucket<Session> = store.bucket().name(NAME).must_exist().await.expect("the bucket is there");
    let fill = || bucket.cache(..).timeout(Duration::from_secs(60)).into_future();
    let cache = fill().await.expect("it is filled");
    let ours = async || {
        let revision = plain.put("acme.0", encode(&records[0])).await.expect("it is put");
        cache.wait_for_revision(Revision::from(revision)).await.expect("it comes");
        let started = Instant::now();
        proxy.cut();
        let revision = plain.put("acme.1", encode(&records[1])).await.expect("it is put");
        cache.wait_for_revision(Revision::from(revision)).await.expect("it comes");
        started.elapsed()
    };
    let theirs = async || time(async { assert_eq!(fill().await.expect("it is filled").len(), all) }).await;
    let measured = pairs(world.effort.blocks(5), 1, ours, theirs).await;
    let name = format!("a cache of {all} whose connection broke, until it is up to date");
    world.report.row(name, "until one is filled").goal(0.15).measured(&measured);
}
