//! Operations on one record at a time.

use std::cell::Cell;

use async_nats::HeaderMap;
use kvtyped::Storage;
use kvtyped::config::WriteEpochs;
use kvtyped::prelude::*;

use crate::measure::{pairs, time, timed};
use crate::world::{Session, SessionKey, World, decode, encode};

/// The number of keys that the writes cycle through.
const KEYS: u64 = 1_000;
/// The number of reads that one spawned task awaits.
const AWAITED: usize = 50;

pub(crate) async fn measure(world: &mut World) {
    world.report.group("One record");
    reads(world).await;
    tasks(world).await;
    writes(world).await;
    creates(world).await;
    changes(world).await;
    counters(world).await;
    for (storage, goal) in [(Storage::Memory, Some(2.3)), (Storage::File, None)] {
        transactions(world, storage, goal).await;
    }
}

async fn reads(world: &mut World) {
    let (bucket, plain) = world.bucket("reads").await;
    let effort = world.effort;
    let short = Session::new("acme", 1);
    let long = Session::new("acme", 2).long();
    for (session, size, goal) in [(short, "200 B", 1.03), (long, "2 KB", 1.10)] {
        bucket.put(&session).await.expect("it is put");
        let (key, by_hand) = (session.key(), session.by_hand());
        let ours = async || {
            let (took, entry) = timed(bucket.get(&key).into_future()).await;
            assert_eq!(*entry.expect("it is read").expect("it is there"), session);
            took
        };
        let theirs = async || {
            let read = async { plain.get(by_hand.as_str()).await.map(|bytes| bytes.map(|bytes| decode(&bytes))) };
            let (took, read) = timed(read).await;
            assert_eq!(read.expect("it is read").expect("it is there"), session);
            took
        };
        let measured = pairs(effort.blocks(7), effort.of(1_500), ours, theirs).await;
        world.report.row(format!("get, {size}"), "kv.get + serde_json").goal(goal).measured(&measured);
    }
}

/// Measures reads that a spawned task awaits. All other rows await in `block_on`, on the main thread.
async fn tasks(world: &mut World) {
    let (bucket, _) = world.bucket("tasks").await;
    let session = Session::new("acme", 1);
    bucket.put(&session).await.expect("it is put");
    let reads = async |bucket: Bucket<Session>, key: SessionKey| {
        time(async {
            for _ in 0..AWAITED {
                assert!(bucket.get(&key).await.expect("it is read").is_some());
            }
        })
        .await
    };
    let in_task =
        async || tokio::spawn(reads(bucket.clone(), session.key())).await.expect("the task ends without a panic");
    let in_main = async || reads(bucket.clone(), session.key()).await;
    let measured = pairs(world.effort.blocks(7), world.effort.of(40), in_task, in_main).await.each(AWAITED);
    world.report.row("get, awaited in a spawned task", "get, awaited in block_on").measured(&measured);
}

async fn writes(world: &mut World) {
    let (bucket, plain) = world.bucket("writes").await;
    let (blocks, each) = (world.effort.blocks(7), world.effort.of(1_500));
    let next = rounds();
    let ours = async || {
        let session = Session::new("acme", next());
        time(async { bucket.put(&session).await.expect("it is put") }).await
    };
    let theirs = async || {
        let session = Session::new("acme", next());
        time(async { plain.put(session.by_hand(), encode(&session)).await.expect("it is put") }).await
    };
    let measured = pairs(blocks, each, ours, theirs).await;
    world.report.row("put", "kv.put + serde_json").goal(1.05).measured(&measured);

    let in_epochs = world.store.bucket().name("writes-in-epochs").write_epochs(WriteEpochs::Closed);
    let in_epochs: Bucket<Session> = in_epochs.await.expect("the bucket is made");
    let in_epoch = async || {
        let session = Session::new("acme", next());
        time(async { in_epochs.put(&session).await.expect("it is put") }).await
    };
    let measured = pairs(blocks, each, in_epoch, ours).await;
    world.report.row("put in a write epoch", "put").goal(1.02).measured(&measured);

    // The same client, with a message id to look up a write: a header that the server reads and stores.
    let mut publishes = 0_u64;
    let stamped = async || {
        let session = Session::new("acme", next());
        publishes += 1;
        time(async {
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Msg-Id", format!("{:024x}{publishes:x}", u64::MAX));
            let subject = format!("$KV.writes.{}", session.by_hand());
            let sent = world.raw.publish_with_headers(subject, headers, encode(&session)).await.expect("it is sent");
            sent.await.expect("it is stored")
        })
        .await
    };
    let measured = pairs(blocks, each, ours, stamped).await;
    world.report.row("put", "publish with a message id + serde_json").measured(&measured);

    let session = Session::new("update", 1);
    let other = Session::new("update", 2);
    let mut revision = bucket.put(&session).await.expect("it is put");
    let mut theirs_at = plain.put(other.by_hand(), encode(&other)).await.expect("it is put");
    let ours = async || {
        let (took, updated) = timed(bucket.update(&session, revision).into_future()).await;
        revision = updated.expect("it is updated");
        took
    };
    let theirs = async || {
        let update = async { plain.update(other.by_hand(), encode(&other), theirs_at).await };
        let (took, updated) = timed(update).await;
        theirs_at = updated.expect("it is updated");
        took
    };
    let measured = pairs(blocks, each, ours, theirs).await;
    world.report.row("update", "kv.update + serde_json").goal(1.05).measured(&measured);
}

async fn creates(world: &mut World) {
    let (bucket, plain) = world.bucket("creates").await;
    let (blocks, each) = (world.effort.blocks(7), world.effort.of(400));
    let next = rounds();
    let known = async || {
        let session = Session::new("known", next());
        bucket.delete(&session.key()).await.expect("it is deleted");
        time(async { bucket.create(&session).await.expect("it is created") }).await
    };
    let unknown = async || {
        let session = Session::new("unknown", next());
        plain.delete(session.by_hand()).await.expect("it is deleted");
        time(async { bucket.create(&session).await.expect("it is created") }).await
    };
    let put = async || {
        let session = Session::new("put", next());
        time(async { plain.put(session.by_hand(), encode(&session)).await.expect("it is put") }).await
    };
    let theirs = async || {
        let session = Session::new("theirs", next());
        plain.delete(session.by_hand()).await.expect("it is deleted");
        time(async { plain.create(session.by_hand(), encode(&session)).await.expect("it is created") }).await
    };
    let measured = pairs(blocks, each, known, put).await;
    world.report.row("create, deleted by this process before", "kv.put").goal(1.1).measured(&measured);
    let measured = pairs(blocks, each, unknown, put).await;
    world.report.row("create, deleted by another before", "kv.put").goal(2.2).measured(&measured);
    let measured = pairs(blocks, each, unknown, theirs).await;
    world.report.row("create, deleted by another before", "kv.create").measured(&measured);
}

async fn changes(world: &mut World) {
    let (bucket, plain) = world.bucket("changes").await;
    let (blocks, each) = (world.effort.blocks(7), world.effort.of(1_000));
    let (session, other) = (Session::new("acme", 1), Session::new("acme", 2));
    bucket.put(&session).await.expect("it is put");
    bucket.put(&other).await.expect("it is put");
    let (key, by_hand) = (session.key(), other.by_hand());
    let ours =
        async || time(async { bucket.modify(&key, |session| session.visits += 1).await.expect("modified") }).await;
    let theirs = async || {
        time(async {
            let entry = plain.entry(by_hand.as_str()).await.expect("it is read").expect("it is there");
            let mut session = decode(&entry.value);
            session.visits += 1;
            plain.update(&by_hand, encode(&session), entry.revision).await.expect("it is updated")
        })
        .await
    };
    let measured = pairs(blocks, each, ours, theirs).await;
    world.report.row("modify, alone", "kv.entry + kv.update").goal(0.55).measured(&measured);
}

async fn transactions(world: &mut World, storage: Storage, goal: Option<f64>) {
    let name = format!("transactions-{storage:?}").to_lowercase();
    let bucket: Bucket<Session> = world.store.bucket().name(&name).storage(storage).await.expect("the bucket is made");
    let plain = world.plain(&name).await;
    let (blocks, each) = (world.effort.blocks(7), world.effort.of(if goal.is_some() { 400 } else { 100 }));
    let next = rounds();
    let ours = async || {
        let sessions = [1, 2, 3].map(|part| Session::new(format!("part-{part}"), next()));
        time(async {
            let [one, two, three] = &sessions;
            bucket.transaction().put(one).put(two).put(three).commit().await.expect("it is committed")
        })
        .await
    };
    let theirs = async || {
        let session = Session::new("acme", next());
        time(async { plain.put(session.by_hand(), encode(&session)).await.expect("it is put") }).await
    };
    let measured = pairs(blocks, each, ours, theirs).await;
    let storage = format!("{storage:?}").to_lowercase();
    world.report.row(format!("transaction of 3 keys, {storage} storage"), "one kv.put").goal(goal).measured(&measured);
}

async fn counters(world: &mut World) {
    let (_, plain) = world.bucket("beside-counters").await;
    let counters = world.store.counters("counters").await.expect("the bucket is made");
    assert!(counters.is_server_side().await.unwrap(), "this server supports counters");
    let next = rounds();
    let ours = async || time(async { counters.add("requests", 1).await.expect("it is added") }).await;
    let theirs = async || {
        let session = Session::new("acme", next());
        time(async { plain.put(session.by_hand(), encode(&session)).await.expect("it is put") }).await
    };
    let measured = pairs(world.effort.blocks(7), world.effort.of(1_000), ours, theirs).await;
    world.report.row("add to a counter", "kv.put + serde_json").goal(1.1).measured(&measured);
}

/// Returns a source of ids that cycles through [`KEYS`] ids, so that a bucket does not grow.
fn rounds() -> impl Fn() -> u64 {
    let at = Cell::new(0);
    move || at.replace((at.get() + 1) % KEYS)
}
