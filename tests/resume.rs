//! Large watches and caches, and what they cost when they resume.

use harness::{Server, wait};
use kvtyped::prelude::*;

use crate::support::{World, soon};

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
