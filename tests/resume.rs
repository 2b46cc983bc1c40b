//! Large watches and caches, and the cost of resuming them.

use std::collections::HashSet;

use harness::{Mode, Proxy, Server, wait};
use kvtyped::codec::Text;
use kvtyped::connect::NatsOptions;
use kvtyped::prelude::*;
use kvtyped::{ErrorKind, Event};

use crate::needs::needs;
use crate::recovery::roll;
use crate::support::{SOON, World, on_both_backends, seen_as, soon};

/// A small record of a large bucket.
#[derive(Clone, Debug, PartialEq, KvModel)]
#[kv(key = "item.{id}", codec = Text, history = 1)]
struct Item {
    id: u64,
    #[kv(value)]
    text: String,
}

/// The time limit of a large watch on a loaded machine.
const LONG: Duration = Duration::from_secs(60);

/// Writes small records with these ids as fast as the plain client can, and waits until all are stored.
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

/// Reads events up to the next `Ready`. Returns the number of records and the number of resyncs.
async fn until_ready(events: &mut kvtyped::watch::Events<Item>) -> (usize, usize) {
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

/// A server compares each purge with every unacknowledged message. Unacknowledged messages of a cache would slow down
/// `compact`.
#[tokio::test]
async fn idle_cache_leaves_no_message_unacknowledged() {
    let server = harness::shared().await;
    let world = World::at(&server.url()).await;
    let items = world.bucket::<Item>().await;
    load(server, items.name(), 0..1_000).await;
    let cache = items.cache(..).await.expect("it is filled");
    assert_eq!(cache.len(), 1_000);
    let client = async_nats::connect(server.url()).await.expect("the server is up");
    let jetstream = async_nats::jetstream::new(client);
    let stream = jetstream.get_stream(format!("KV_{}", items.name())).await.expect("the bucket exists");
    wait::until("everything is acknowledged", SOON, async || {
        let consumers: Vec<_> = stream.consumers().try_collect().await.ok()?;
        let [consumer] = consumers.as_slice() else { return None };
        assert_eq!(consumer.delivered.consumer_sequence, 1_000);
        (consumer.num_ack_pending == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn watch_of_200_000_records_takes_one_pass() {
    let server = harness::shared().await;
    let world = World::at(&server.url()).await;
    let bucket = world.bucket::<Item>().await;
    load(server, bucket.name(), 0..200_000).await;
    let mut events = bucket.watch(..).await.unwrap();
    assert_eq!(until_ready(&mut events).await, (200_000, 0));
    let cache = bucket.cache(..).timeout(LONG).await.unwrap();
    assert_eq!(cache.len(), 200_000);
}

/// Fills a bucket with large values through the plain client, and reads it with one watch, with a list, and with single
/// reads.
async fn watch_large_values_once(count: u64, size: usize) {
    let server = Server::start().await;
    let world = World::at(&server.url()).await;
    let bucket = world.bucket::<Item>().await;
    let client = async_nats::connect(server.url()).await.expect("the server is up");
    let jetstream = async_nats::jetstream::new(client.clone());
    let value = bytes::Bytes::from(vec![b'x'; size]);
    for id in 0..count {
        let subject = format!("$KV.{}.item.{id}", bucket.name());
        // The server drops messages if too many bytes wait to be stored. An acknowledgement covers all earlier
        // messages.
        if id % 64 == 63 || id + 1 == count {
            jetstream.publish(subject, value.clone()).await.expect("it is sent").await.expect("it is stored");
        } else {
            client.publish(subject, value.clone()).await.expect("it is sent");
        }
    }
    assert_eq!(bucket.status().await.unwrap().values, count);
    let mut events = bucket.watch(..).await.unwrap();
    let mut seen = 0;
    loop {
        match soon(&mut events).await.expect("an event") {
            Event::Put(entry) => {
                assert_eq!((entry.id, entry.text.len()), (seen, size));
                seen += 1;
            }
            Event::Ready => break,
            other => panic!("{other:?} after {seen} records"),
        }
    }
    assert_eq!(seen, count);
    let listed = bucket.list(..).await.unwrap().try_fold(0, async |listed, entry| {
        assert_eq!(entry.text.len(), size);
        Ok(listed + 1)
    });
    assert_eq!(listed.await.unwrap(), count);
}

#[tokio::test]
async fn watch_of_large_values_takes_one_pass() {
    watch_large_values_once(512, 512 * 1_024).await;
}

/// To run it manually: `cargo test -p kvtyped-tests --test suite -- --ignored 4_gib`.
#[tokio::test]
#[ignore = "it needs 4 GiB of disk, and minutes"]
async fn watch_of_4_gib_takes_one_pass() {
    watch_large_values_once(8_192, 512 * 1_024).await;
}

/// The marker of an expired record may itself expire before a slow reader gets to it.
#[tokio::test]
async fn slow_reader_learns_of_a_record_whose_marker_expired() {
    needs!(Locks);
    let server = harness::shared().await;
    let world = World::at(&server.url()).await;
    let bucket: Bucket<Item> = world.fresh().limit_markers(Duration::from_secs(1)).await.unwrap();
    bucket.put(&item(u64::MAX, "x")).ttl(Duration::from_secs(5)).await.unwrap();
    let mut events = bucket.watch(..).await.unwrap();
    assert_eq!(until_ready(&mut events).await, (1, 0));
    // More records than the server sends to a reader that does not acknowledge any.
    load(server, bucket.name(), 0..40_000).await;
    wait::until("the record and its marker have expired", SOON, async || {
        (bucket.status().await.ok()?.values == 40_000).then_some(())
    })
    .await;
    let mut known = HashSet::from([u64::MAX]);
    while known.len() != 40_000 || known.contains(&u64::MAX) {
        match soon(&mut events).await.expect("an event") {
            Event::Put(entry) => drop(known.insert(entry.id)),
            Event::Resync => known.clear(),
            Event::Removed { key, .. } => drop(known.remove(&key.id)),
            _ => {}
        }
    }
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

/// Creates a bucket with `count` records, and opens it again behind a proxy.
async fn behind_proxy(server: &Server, count: u64) -> (World, Bucket<Item>, Proxy, Bucket<Item>) {
    let world = World::at(&server.url()).await;
    let bucket = world.bucket::<Item>().await;
    load(server, bucket.name(), 0..count).await;
    let proxy = Proxy::start(server.addr()).await;
    let watching = seen_as(&World::at(&proxy.url()).await, bucket.name()).await;
    (world, bucket, proxy, watching)
}

/// The connection breaks after every 5,000 records. No record arrives twice.
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
                // The server has sent at most one window beyond this record.
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

/// Cuts the connection during these writes. Returns the puts, removals and resyncs up to the event of the last write.
async fn after_cut(
    events: &mut kvtyped::watch::Events<Item>,
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
    // A filter, while other keys change.
    let mut one = watching.watch(ItemKey::new(9)).await.unwrap();
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
        // A new key restores the number of records, which deceives a rule that compares two numbers of records.
        bucket.put(&item(1_000 + round, "new")).await.unwrap();
        let last = bucket.put(&item(50, "second")).await.unwrap();
        let stored = bucket.status().await.unwrap().values;
        assert_eq!(stored, cache.len() as u64, "the naive rule finds nothing");
        proxy.set(Mode::Pass);
        cache.wait_for_revision(last).await.unwrap();
        wait::until("the removed record leaves the cache", SOON, async || {
            (!cache.contains(&ItemKey::new(round))).then_some(())
        })
        .await;
        assert_eq!(cache.len(), 100);
    }
}

/// Later revisions do not change, or do not exist. Only the number of keys reveals the removal.
#[tokio::test]
async fn removal_without_a_trace_and_without_a_gap_is_found() {
    let server = harness::shared().await;
    let world = World::at(&server.url()).await;
    for (filter, purged, is_written) in [
        (ItemKey::filter(), 19, false),
        (ItemKey::filter(), 0, true),
        (ItemKey::filter(), 5, true),
        (ItemKey::filter().id(5), 5, true),
    ] {
        let bucket = world.bucket::<Item>().await;
        for id in 0..20 {
            bucket.put(&item(id, "x")).await.unwrap();
        }
        let proxy = Proxy::start(server.addr()).await;
        let watching = seen_as::<Item>(&World::at(&proxy.url()).await, bucket.name()).await;
        let cache = watching.cache(filter).await.unwrap();
        proxy.set(Mode::Refuse);
        let purge = serde_json::json!({ "filter": format!("$KV.{}.item.{purged}", bucket.name()) });
        let answer = server.api(&format!("$JS.API.STREAM.PURGE.KV_{}", bucket.name()), &purge).await.unwrap();
        assert_eq!(answer["purged"], 1);
        if is_written {
            bucket.put(&item(100, "new")).await.unwrap();
        }
        assert!(cache.contains(&ItemKey::new(purged)));
        proxy.set(Mode::Pass);
        wait::until("the removed record leaves the cache", SOON, async || {
            (!cache.contains(&ItemKey::new(purged))).then_some(())
        })
        .await;
    }
}

/// The cache grew during a session, and then lost its connection.
#[tokio::test]
async fn grown_cache_reports_its_staleness_and_catches_up() {
    let server = harness::shared().await;
    let (_world, bucket, proxy, watching) = behind_proxy(server, 1_000).await;
    let cache = watching.cache(..).await.unwrap();
    load(server, bucket.name(), 1_000..90_000).await;
    wait::until("the cache grows", LONG, async || (cache.len() == 90_000).then_some(())).await;
    assert!(cache.last_error().is_none());

    proxy.set(Mode::Refuse);
    bucket.put(&item(7, "first")).await.unwrap();
    let last = bucket.put(&item(7, "second")).await.unwrap();
    wait::until("the cache reports that it is stale", SOON, async || {
        (cache.staleness() > Duration::from_millis(1_500)).then_some(())
    })
    .await;
    let error = cache.last_error().expect("the cache says why");
    assert!(matches!(error.kind(), ErrorKind::Unavailable { .. }), "{error}");
    assert_ne!(cache.get(&ItemKey::new(7)).expect("the old record").text, "second");

    proxy.set(Mode::Pass);
    tokio::time::timeout(SOON, cache.wait_for_revision(last)).await.expect("the cache catches up").unwrap();
    assert_eq!(cache.get(&ItemKey::new(7)).expect("the new record").text, "second");
    wait::until("the cache is up to date", SOON, async || {
        (cache.last_error().is_none() && cache.staleness() < Duration::from_millis(1_500)).then_some(())
    })
    .await;
    assert_eq!(cache.len(), 90_000);
}

/// Removals of every kind, with and without delete markers, among overwritten and new records.
#[tokio::test]
async fn cache_equals_its_bucket_after_random_gaps() {
    needs!(LimitMarkers);
    const SECOND: Duration = Duration::from_secs(1);
    let server = harness::shared().await;
    let world = World::at(&server.url()).await;
    let bucket: Bucket<Item> = world.fresh().limit_markers(Duration::from_secs(1)).await.unwrap();
    let proxy = Proxy::start(server.addr()).await;
    let watching = seen_as::<Item>(&World::at(&proxy.url()).await, bucket.name()).await;
    let cache = watching.cache(..).await.unwrap();
    let mut dice = 7;
    for round in 0..10_u32 {
        proxy.set(Mode::Refuse);
        for step in 0..roll(&mut dice, 12) {
            let key = ItemKey::new(roll(&mut dice, 30));
            let put = item(key.id, &format!("{round} {step}"));
            match roll(&mut dice, 10) {
                0 => drop(bucket.delete(&key).await.unwrap()),
                1 => drop(bucket.purge(&key).ttl(SECOND).await.unwrap()),
                2 => drop(bucket.put(&put).ttl(SECOND).await.unwrap()),
                3 => {
                    let purge = serde_json::json!({ "filter": format!("$KV.{}.{key}", bucket.name()) });
                    let subject = format!("$JS.API.STREAM.PURGE.KV_{}", bucket.name());
                    assert_eq!(server.api(&subject, &purge).await.unwrap()["success"], true);
                }
                _ => drop(bucket.put(&put).await.unwrap()),
            }
        }
        if round % 2 == 1 {
            // The records, their markers, and the markers of the purges expire.
            tokio::time::sleep(3 * SECOND).await;
        }
        proxy.set(Mode::Pass);
        let equal = wait::within(SOON, async || {
            let stored: Vec<_> = bucket.list(..).await.ok()?.try_collect().await.ok()?;
            let mut stored: Vec<_> = stored.iter().map(|entry| (entry.id, entry.text.clone())).collect();
            let mut cached: Vec<_> = cache.iter().map(|entry| (entry.id, entry.text.clone())).collect();
            stored.sort();
            cached.sort();
            (stored == cached).then_some(())
        });
        assert!(equal.await.is_some(), "round {round}: {cache:?} differs from its bucket");
    }
}

/// Forwards all API requests to the server, except for requests to create the first consumer. Returns the requested
/// consumer names.
async fn api_that_forgets_a_consumer(server: &Server, prefix: &str) -> tokio::sync::mpsc::UnboundedReceiver<String> {
    let client = async_nats::connect(server.url()).await.unwrap();
    let mut requests = client.subscribe(format!("{prefix}.>")).await.unwrap();
    client.flush().await.unwrap();
    let (sender, names) = tokio::sync::mpsc::unbounded_channel();
    let start = format!("{prefix}.");
    tokio::spawn(async move {
        let mut forgotten = HashSet::new();
        while let Some(request) = requests.next().await {
            let verb = request.subject.strip_prefix(&start).expect("the prefix");
            if let Some(name) = verb.strip_prefix("CONSUMER.CREATE.").and_then(|verb| verb.split('.').nth(1)) {
                sender.send(name.to_owned()).expect("the test listens");
                if forgotten.is_empty() || forgotten.contains(name) {
                    forgotten.insert(name.to_owned());
                    continue;
                }
            }
            let reply = request.reply.expect("a request");
            client.publish_with_reply(format!("$JS.API.{verb}"), reply, request.payload).await.expect("it is sent");
        }
    });
    names
}

/// A request without a reply is not repeated until the deadline. Another name is tried, which another server may host.
#[tokio::test]
async fn consumer_without_an_answer_is_tried_under_another_name() {
    let server = harness::shared().await;
    let world = World::at(&server.url()).await;
    let bucket = world.bucket::<Item>().await;
    load(server, bucket.name(), 0..10).await;
    for operation in ["watch", "keys"] {
        let prefix = format!("forgetful.{operation}");
        let mut names = api_that_forgets_a_consumer(server, &prefix).await;
        let client = async_nats::connect(server.url()).await.unwrap();
        let store = Store::from_client_with(client, NatsOptions::new().prefix(&prefix)).unwrap();
        let bucket: Bucket<Item> =
            store.bucket().name(bucket.name()).must_exist().on_drift(Drift::Adopt).await.unwrap();
        if operation == "watch" {
            let mut events = bucket.watch(..).timeout(SOON).await.unwrap();
            assert_eq!(until_ready(&mut events).await, (10, 0));
        } else {
            let keys: Vec<_> = bucket.keys(..).timeout(SOON).await.unwrap().try_collect().await.unwrap();
            assert_eq!(keys.len(), 10);
        }
        let mut name = async || tokio::time::timeout(SOON, names.recv()).await.expect("a name").unwrap();
        let first = name().await;
        let mut asked = 1;
        while name().await == first {
            asked += 1;
        }
        assert!(asked <= 3, "{operation} asked {asked} times for one consumer");
    }
}

/// Measures the time until a watch and a list on each of three servers work again after the leader of their stream is
/// killed. To run it manually: `cargo test -p kvtyped-tests --test suite -- --ignored --nocapture kills`.
#[tokio::test]
#[ignore = "it takes minutes, and measures times"]
async fn figures_of_50_kills() {
    let cluster = harness::Cluster::start(3).await;
    let world = World::at(&cluster.urls()).await;
    let bucket: Bucket<Item> = world.fresh().replicas(3).await.unwrap();
    for id in 0..1_000 {
        bucket.put(&item(id, "x")).timeout(SOON).await.unwrap();
    }
    let (mut watches, mut lists) = (Vec::new(), Vec::new());
    for kill in 0..50_u64 {
        let leader = wait::until("a leader", SOON, async || cluster.leader_of(&format!("KV_{}", bucket.name())).await);
        let victim = if kill % 2 == 0 { leader.await } else { (kill / 2 % 3) as usize };
        let others: Vec<_> = (0..3).filter(|node| *node != victim).map(|node| cluster.node(node).url()).collect();
        let watching = seen_as::<Item>(&World::at(&others.join(",")).await, bucket.name()).await;
        let caches = [watching.cache(..).await.unwrap(), watching.cache(..).await.unwrap()];
        let writing = seen_as::<Item>(&World::at(&others[0]).await, bucket.name()).await;
        cluster.node(victim).kill().await;
        let fault = std::time::Instant::now();
        let written = std::cell::Cell::new(0.0);
        let list = async {
            let entries: Vec<_> = watching.list(..).timeout(SOON).await.unwrap().try_collect().await.unwrap();
            assert_eq!(entries.len(), 1_000);
            fault.elapsed().as_secs_f64()
        };
        let watch = async {
            // A write that was sent to the killed leader gets no answer.
            let last = wait::until("a write is applied", SOON, async || {
                writing.put(&item(kill, "y")).timeout(Duration::from_secs(1)).await.ok()
            });
            let last = last.await;
            written.set(fault.elapsed().as_secs_f64());
            for cache in &caches {
                tokio::time::timeout(LONG, cache.wait_for_revision(last)).await.expect("it recovers").unwrap();
            }
            fault.elapsed().as_secs_f64()
        };
        let (list, watch) = tokio::join!(list, watch);
        println!("kill {kill}: write {:.1} s, watch {watch:.1} s, list {list:.1} s", written.get());
        watches.push(watch);
        lists.push(list);
        cluster.node(victim).restart().await;
        cluster.ready().await;
    }
    for (name, mut figures) in [("watch", watches), ("list", lists)] {
        figures.sort_by(f64::total_cmp);
        println!("{name}: median {:.1} s, p90 {:.1} s, worst {:.1} s", figures[25], figures[45], figures[49]);
    }
}

on_both_backends! {
    async fn entry_of_watch_and_list_has_its_pending_count(world: World) {
        let bucket = world.bucket::<Item>().await;
        for id in 0..5 {
            bucket.put(&item(id, "x")).await.unwrap();
        }
        let listed: Vec<_> = bucket.list(..).await.unwrap().try_collect().await.unwrap();
        let pending: Vec<_> = listed.iter().map(|entry| entry.pending()).collect();
        assert_eq!(pending, [4, 3, 2, 1, 0].map(Some));
        let mut events = bucket.watch(..).await.unwrap();
        for pending in [4, 3, 2, 1, 0] {
            match soon(&mut events).await.unwrap() {
                Event::Put(entry) => assert_eq!(entry.pending(), Some(pending)),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(bucket.get(&ItemKey::new(1)).await.unwrap().unwrap().pending(), None);
    }
}
