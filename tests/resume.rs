//! Large watches and caches, and what they cost when they resume.

use std::collections::HashSet;

use harness::{Mode, Proxy, Server, wait};
use kvtyped::prelude::*;

use crate::support::{SOON, World, seen_as, soon};

/// A small record of a large bucket.
#[derive(Clone, Debug, PartialEq, KvModel)]
#[kv(key = "item.{id}", codec = Text, history = 1)]
struct Item {
    id: u64,
    #[kv(value)]
    text: String,
}

/// How long a large watch may take on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// Writes small records of these ids as fast as the plain client goes, and waits until all are stored.
async fn load(server: &Server, bucket: &str, ids: impl IntoIterator<Item = u64>) {
    let client = async_nats::connect(server.url()).await.expect("the server is up");
    let jetstream = async_nats::jetstream::new(client.clone());
    let stream = jetstream.get_stream(format!("KV_{bucket}")).await.expect("the bucket exists");
    let before = stream.get_info().await.expect("the server answers").state.last_sequence;
    let text = bytes::Bytes::from_static(&[b'x'; 60]);
    let mut count = 0;
    for id in ids {
        client.publish(format!("$KV.{bucket}.item.{id}"), text.clone()).await.expect("the message is sent");
        count += 1;
    }
    client.flush().await.expect("the messages are sent");
    wait::until("the records are stored", LONG, async || {
        (stream.get_info().await.ok()?.state.last_sequence == before + count).then_some(())
    })
    .await;
}

/// The events up to and including the next `Ready`: how many records, and how many resyncs.
async fn until_ready(events: &mut kvtyped::Events<Item>) -> (usize, usize) {
    let (mut puts, mut resyncs) = (0, 0);
    loop {
        match soon(events).await.expect("an event") {
            Event::Put(_) => puts += 1,
            Event::Resync => resyncs += 1,
            Event::Ready => return (puts, resyncs),
            _ => {}
        }
    }
}

#[tokio::test]
async fn watch_of_200_000_records_takes_one_pass() {
    let server = harness::shared().await;
    let world = World::at(&server.url()).await;
    let bucket = world.bucket::<Item>().await;
    load(server, bucket.name(), 0..200_000).await;
    let began = std::time::Instant::now();
    let mut events = bucket.watch(..).await.unwrap();
    assert_eq!(until_ready(&mut events).await, (200_000, 0));
    println!("watch: {:?}", began.elapsed());
    let began = std::time::Instant::now();
    let cache = bucket.cache(..).timeout(LONG).await.unwrap();
    println!("cache: {:?}", began.elapsed());
    assert_eq!(cache.len(), 200_000);
}

#[tokio::test]
async fn live_burst_reaches_a_slow_reader_without_resync() {
    let server = harness::shared().await;
    let world = World::at(&server.url()).await;
    let bucket = world.bucket::<Item>().await;
    let mut events = bucket.watch(..).await.unwrap();
    assert_eq!(until_ready(&mut events).await, (0, 0));
    load(server, bucket.name(), 0..150_000).await;
    let (mut puts, mut resyncs) = (0, 0);
    while puts < 150_000 && resyncs == 0 {
        match soon(&mut events).await.expect("an event") {
            Event::Put(entry) => {
                assert_eq!(entry.id, puts);
                puts += 1;
            }
            Event::Resync => resyncs += 1,
            _ => {}
        }
    }
    assert_eq!((puts, resyncs), (150_000, 0));
}

/// A bucket of this many records on a server of its own connection, with a watching side behind a proxy.
async fn behind_proxy(server: &Server, count: u64) -> (World, Bucket<Item>, Proxy, Bucket<Item>) {
    let world = World::at(&server.url()).await;
    let bucket = world.bucket::<Item>().await;
    load(server, bucket.name(), 0..count).await;
    let proxy = Proxy::start(server.addr()).await;
    let watching = seen_as(&World::at(&proxy.url()).await, bucket.name()).await;
    (world, bucket, proxy, watching)
}

/// Every session is cut after a few thousand records: what is told twice is bounded by what was on its way.
#[tokio::test]
async fn interrupted_listing_makes_progress() {
    const COUNT: u64 = 30_000;
    let server = harness::shared().await;
    let (_world, _bucket, proxy, watching) = behind_proxy(server, COUNT).await;
    let mut events = watching.watch(..).await.unwrap();
    let (mut keys, mut puts, mut cuts) = (HashSet::new(), 0_u64, 0);
    loop {
        match soon(&mut events).await.expect("an event") {
            Event::Put(entry) => {
                keys.insert(entry.id);
                puts += 1;
                // The server has told no more than its window beyond this one.
                if puts % 5_000 == 0 && puts < COUNT {
                    proxy.cut();
                    cuts += 1;
                }
            }
            Event::Ready => break,
            Event::Resync => panic!("the listing starts over after {puts} records"),
            _ => {}
        }
    }
    assert_eq!((keys.len() as u64, puts), (COUNT, COUNT), "after {cuts} cuts");
    assert!(cuts >= 5);
}

/// The events after a cut and these writes, until the last of them is told: puts, removals and resyncs.
async fn after_cut(
    events: &mut kvtyped::Events<Item>,
    proxy: &Proxy,
    writes: impl Future<Output = Revision>,
) -> (usize, usize, usize) {
    proxy.set(Mode::Refuse);
    let last = writes.await;
    proxy.set(Mode::Pass);
    let (mut puts, mut removed, mut resyncs) = (0, 0, 0);
    loop {
        let revision = match soon(events).await.expect("an event") {
            Event::Put(entry) => {
                puts += 1;
                entry.revision()
            }
            Event::Removed { revision, .. } => {
                removed += 1;
                revision
            }
            Event::Resync => {
                resyncs += 1;
                continue;
            }
            _ => continue,
        };
        if revision == last {
            return (puts, removed, resyncs);
        }
    }
}

fn item(id: u64, text: &str) -> Item {
    Item { id, text: text.to_owned() }
}

#[tokio::test]
async fn resume_costs_what_changed() {
    let server = harness::shared().await;
    let (_world, bucket, proxy, watching) = behind_proxy(server, 20_000).await;
    let mut events = watching.watch(..).await.unwrap();
    assert_eq!(until_ready(&mut events).await, (20_000, 0));
    let one_key_twice = after_cut(&mut events, &proxy, async {
        bucket.put(&item(7, "first")).await.unwrap();
        bucket.put(&item(7, "second")).await.unwrap()
    });
    assert_eq!(one_key_twice.await, (1, 0, 0));
    let new_key_and_delete = after_cut(&mut events, &proxy, async {
        bucket.put(&item(1_000_000, "new")).await.unwrap();
        bucket.put(&item(1_000_000, "newer")).await.unwrap();
        bucket.delete(&ItemKey::new(8)).await.unwrap();
        bucket.put(&item(9, "first")).await.unwrap();
        bucket.put(&item(9, "second")).await.unwrap()
    });
    assert_eq!(new_key_and_delete.await, (2, 1, 0));
    // The same for a filter, beside which other keys are written.
    let mut one = watching.watch(&ItemKey::new(9)).await.unwrap();
    assert_eq!(until_ready(&mut one).await, (1, 0));
    let filtered = after_cut(&mut one, &proxy, async {
        bucket.put(&item(9, "third")).await.unwrap();
        bucket.put(&item(3, "other")).await.unwrap();
        bucket.put(&item(3, "others")).await.unwrap();
        bucket.put(&item(9, "fourth")).await.unwrap()
    });
    assert_eq!(filtered.await, (1, 0, 0));
}

/// A purge without a marker, hidden among overwritten records, is found.
#[tokio::test]
async fn removal_without_a_trace_among_overwritten_records_is_found() {
    let server = harness::shared().await;
    let (_world, bucket, proxy, watching) = behind_proxy(server, 100).await;
    let cache = watching.cache(..).await.unwrap();
    for round in 0..3 {
        proxy.set(Mode::Refuse);
        let purge = serde_json::json!({ "filter": format!("$KV.{}.item.{round}", bucket.name()) });
        let purged = server.api(&format!("$JS.API.STREAM.PURGE.KV_{}", bucket.name()), &purge).await.unwrap();
        assert_eq!(purged["purged"], 1);
        bucket.put(&item(50, "first")).await.unwrap();
        // A new key makes the number of records what it was: a rule that compares two numbers of records is deceived.
        bucket.put(&item(1_000 + round, "new")).await.unwrap();
        let last = bucket.put(&item(50, "second")).await.unwrap();
        proxy.set(Mode::Pass);
        cache.wait_for_revision(last).await.unwrap();
        wait::until("the removed record leaves the cache", SOON, async || {
            (!cache.contains(&ItemKey::new(round))).then_some(())
        })
        .await;
        assert_eq!(cache.len(), 100);
    }
}
