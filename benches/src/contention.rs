//! Many writers of one record: tasks of one process, and processes.

use std::time::{Duration, Instant};

use async_nats::jetstream::kv;
use futures::future::join_all;
use futures::{StreamExt, stream};
use kvtyped::prelude::*;

use crate::measure::{Measured, pairs, time};
use crate::workers::{self, Worker};
use crate::world::{Session, SessionKey, World, decode, encode, publish_all};

/// The increments of a round, all writers together.
const INCREMENTS: usize = 256;

pub(crate) async fn measure(world: &mut World) {
    world.report.group("Many writers of one record");
    for (tasks, goal) in [(8, 0.1), (64, 0.02)] {
        let measured = in_one_process(world, tasks).await;
        world
            .report
            .row(format!("modify, {tasks} tasks of one process"), "kv.entry + kv.update, again at once")
            .goal(goal)
            .measured(&measured);
    }
    let mut passes = Vec::new();
    for (keys, name) in [(1_000, "1,000"), (10_000, "10,000"), (100_000, "100,000")] {
        let keys = world.effort.of(keys);
        let measured = on_distinct_keys(world, &format!("distinct-{name}").replace(',', "-"), keys).await;
        passes.push((keys as f64, measured.medians().0 * keys as f64));
        let row = format!("modify on {name} distinct keys, 64 at once");
        world.report.row(row, "kv.entry + kv.update").measured(&measured);
    }
    if let [(few, short), .., (many, long)] = passes[..] {
        let exponent = (long / short).ln() / (many / few).ln();
        eprintln!(
            "modify on distinct keys: the time of a pass grows with the number of keys to the power of {exponent:.2}"
        );
    }
    for (processes, goal) in [(8, 1.0), (32, 0.56)] {
        let measured = in_processes(world, processes).await;
        world
            .report
            .row(format!("modify, {processes} processes"), "kv.entry + kv.update, again at once")
            .goal(goal)
            .measured(&measured);
    }
}

/// Updates many keys in turn, 64 at a time, to measure how the cost of a call depends on the number of keys.
async fn on_distinct_keys(world: &World, name: &str, keys: usize) -> Measured {
    let (bucket, plain) = world.bucket(name).await;
    let tenants =
        ["ours", "theirs"].map(|tenant| (0..keys as u64).map(|id| Session::new(tenant, id)).collect::<Vec<_>>());
    for records in &tenants {
        publish_all(&world.raw, name, records).await;
    }
    let [ours, theirs] = tenants;
    let ours: Vec<_> = ours.iter().map(Session::key).collect();
    let theirs: Vec<_> = theirs.iter().map(Session::by_hand).collect();
    let our_pass = async || {
        let all = stream::iter(&ours).map(|key| bucket.modify(key, |session| session.visits += 1).into_future());
        time(all.buffer_unordered(64).for_each(async |entry| drop(entry.expect("it is modified")))).await
    };
    let their_pass = async || {
        let all = stream::iter(&theirs).map(|key| their_increments(plain.clone(), key.clone(), 1));
        time(all.buffer_unordered(64).for_each(async |()| {})).await
    };
    pairs(world.effort.blocks(3), 1, our_pass, their_pass).await.each(keys)
}

async fn in_one_process(world: &World, tasks: usize) -> Measured {
    let name = format!("tasks-{tasks}");
    let (bucket, plain) = world.bucket(&name).await;
    let (ours, theirs) = (Session::new("acme", 1), Session::new("acme", 2));
    bucket.put(&ours).await.expect("it is put");
    bucket.put(&theirs).await.expect("it is put");
    let increments = world.effort.of(INCREMENTS) / tasks + 1;
    let measured = pairs(
        world.effort.blocks(5),
        2,
        async || spread_over(tasks, || our_increments(bucket.clone(), ours.key(), increments)).await,
        async || spread_over(tasks, || their_increments(plain.clone(), theirs.by_hand(), increments)).await,
    );
    measured.await.each(increments * tasks)
}

/// How long it takes until all of these tasks are done.
async fn spread_over<F>(tasks: usize, work: impl Fn() -> F) -> Duration
where
    F: Future<Output = ()> + Send + 'static,
{
    let begun = Instant::now();
    for task in join_all((0..tasks).map(|_| tokio::spawn(work()))).await {
        task.expect("no task panics");
    }
    begun.elapsed()
}

pub(crate) async fn our_increments(bucket: Bucket<Session>, key: SessionKey, increments: usize) {
    for _ in 0..increments {
        let modified = bucket.modify(&key, |session| session.visits += 1);
        modified.max_attempts(u32::MAX).await.expect("it is modified");
    }
}

pub(crate) async fn their_increments(plain: kv::Store, key: String, increments: usize) {
    for _ in 0..increments {
        loop {
            let entry = plain.entry(key.as_str()).await.expect("it is read").expect("it is there");
            let mut session = decode(&entry.value);
            session.visits += 1;
            if plain.update(&key, encode(&session), entry.revision).await.is_ok() {
                break;
            }
        }
    }
}

async fn in_processes(world: &World, processes: usize) -> Measured {
    let name = format!("processes-{processes}");
    let (bucket, _) = world.bucket(&name).await;
    bucket.put(&Session::new("acme", 1)).await.expect("it is put");
    bucket.put(&Session::new("acme", 2)).await.expect("it is put");
    let increments = (world.effort.of(2 * INCREMENTS) / processes).max(1);
    let workers = (0..processes).map(|_| Worker::start(&["increments", &world.server.url(), &name]));
    let workers = std::cell::RefCell::new(workers.collect::<Vec<_>>());
    let round = async |who: &str| {
        let begun = Instant::now();
        let mut workers = workers.borrow_mut();
        workers.iter_mut().for_each(|worker| worker.tell(&format!("{who} {increments}")));
        workers.iter_mut().for_each(|worker| assert_eq!(worker.hear(), "done"));
        begun.elapsed()
    };
    let measured = pairs(world.effort.blocks(5), 2, async || round("ours").await, async || round("theirs").await);
    measured.await.each(increments * processes)
}

/// What each of the processes does.
pub(crate) async fn work(url: &str, bucket: &str) {
    let store = Store::connect(url).await.expect("the server is there");
    let ours: Bucket<Session> = store.bucket().name(bucket).must_exist().await.expect("the bucket is there");
    let client = async_nats::connect(url).await.expect("the server is there");
    let plain = async_nats::jetstream::new(client).get_key_value(bucket).await.expect("the bucket is there");
    workers::serve(async |line| {
        let (who, increments) = line.split_once(' ').expect("who, and how many");
        let increments = increments.parse().expect("a number");
        match who {
            "ours" => our_increments(ours.clone(), Session::new("acme", 1).key(), increments).await,
            _ => their_increments(plain.clone(), Session::new("acme", 2).by_hand(), increments).await,
        }
        "done".to_owned()
    })
    .await;
}
