//! Many writers of one record: tasks of one process, and several processes.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::kv;
use futures::future::{BoxFuture, join_all};
use futures::{FutureExt, StreamExt, stream};
use kvtyped::prelude::*;

use crate::measure::{Effort, Measured, pairs, time};
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
            .row(format!("modify, {tasks} tasks of one process"), "kv.entry + kv.update, retried")
            .goal(goal)
            .measured(&measured);
    }
    let mut passes = Vec::new();
    for (keys, name) in [(1_000, "1,000"), (10_000, "10,000"), (100_000, "100,000")] {
        let keys = world.effort.of(keys);
        let measured = on_distinct_keys(world, &format!("distinct-{name}").replace(',', "-"), keys).await;
        passes.push((keys as f64, measured.medians()));
        let row = format!("modify on {name} distinct keys, 64 at once");
        world.report.row(row, "kv.entry + kv.update").measured(&measured);
    }
    if let [(few, (ours, theirs)), .., (many, (our_last, their_last))] = passes[..] {
        let exponent = |first: f64, last: f64| 1.0 + (last / first).ln() / (many / few).ln();
        eprintln!(
            "modify on distinct keys: the time of a pass grows with the number of keys to the power of {:.2}, that of the \
             plain client to the power of {:.2}",
            exponent(ours, our_last),
            exponent(theirs, their_last)
        );
    }
    for (processes, goal) in [(8, 1.0), (32, 1.0)] {
        let measured = in_processes(world, processes).await;
        world
            .report
            .row(format!("modify, {processes} processes"), "kv.entry + kv.update, retried")
            .goal(goal)
            .measured(&measured);
    }
    rivals(world).await;
}

async fn rivals(world: &mut World) {
    let baseline = "kv.entry + kv.update, retried";
    for (many, goal) in [(8, 1.2), (32, 1.5)] {
        let rivals = Rivals::connect(world, many).await;
        let measured = rivals.bursts(world.effort).await;
        let row = format!("modify, {many} connections once each, until all are done");
        world.report.row(row, baseline).goal(goal).measured(&measured);
        let [all, longest] = rivals.modify(world.effort).await;
        world.report.row(format!("modify, {many} connections"), baseline).goal(1.0).measured(&all);
        let row = format!("modify, {many} connections, the longest update of a round");
        world.report.row(row, baseline).goal(2.0).measured(&longest);
    }
    let many = 8;
    let [all, longest] = Rivals::connect(world, many).await.transact(world.effort).await;
    let baseline = "get_many + conditional commit, retried";
    world.report.row(format!("transact, {many} connections"), baseline).goal(1.0).measured(&all);
    let row = format!("transact, {many} connections, the longest of a round");
    world.report.row(row, baseline).goal(2.0).measured(&longest);
}

/// Writers of the same records. Each has its own connection.
struct Rivals {
    ours: Arc<[Bucket<Session>]>,
    theirs: Arc<[kv::Store]>,
}

/// One of the records.
fn record(id: u64) -> Session {
    Session::new("acme", id)
}

impl Rivals {
    async fn connect(world: &World, many: usize) -> Self {
        let name = format!("connections-{many}");
        let (bucket, _) = world.bucket(&name).await;
        for id in 1..=4 {
            bucket.put(&record(id)).await.expect("it is put");
        }
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..many {
            let opened = world.another_store().await.bucket().name(&name).must_exist().await;
            ours.push(opened.expect("the bucket is there"));
            let client = async_nats::connect(world.server.url()).await.expect("the server is there");
            theirs.push(async_nats::jetstream::new(client).get_key_value(&name).await.expect("the bucket is there"));
        }
        Self { ours: ours.into(), theirs: theirs.into() }
    }

    fn our_increment(&self) -> impl Fn(usize) -> BoxFuture<'static, ()> + Clone + Send + use<> {
        let ours = Arc::clone(&self.ours);
        move |n| our_increments(ours[n].clone(), record(1).key(), 1).boxed()
    }

    fn their_increment(&self) -> impl Fn(usize) -> BoxFuture<'static, ()> + Clone + Send + use<> {
        let theirs = Arc::clone(&self.theirs);
        move |n| their_increments(theirs[n].clone(), record(2).by_hand(), 1).boxed()
    }

    /// The time until each writer has made one increment.
    async fn bursts(&self, effort: Effort) -> Measured {
        let (ours, theirs) = (self.our_increment(), self.their_increment());
        let rounds = Rounds { many: self.ours.len(), times: 1, blocks: effort.blocks(5), each: effort.of(40) };
        let [all, _] = rounds.measure(ours, theirs).await;
        all
    }

    /// The time of an increment while all writers are active, and of the longest one of each round.
    async fn modify(&self, effort: Effort) -> [Measured; 2] {
        let (many, blocks) = (self.ours.len(), effort.blocks(5));
        let rounds = Rounds { many, times: (effort.of(4 * INCREMENTS) / many).max(2), blocks, each: 4 };
        let [all, longest] = rounds.measure(self.our_increment(), self.their_increment()).await;
        [all.each(rounds.times * many), longest]
    }

    /// The same times for transactions over two records.
    async fn transact(&self, effort: Effort) -> [Measured; 2] {
        let (many, blocks) = (self.ours.len(), effort.blocks(3));
        let rounds = Rounds { many, times: 4, blocks, each: 3 };
        let [ours, theirs] = [&self.ours; 2].map(Arc::clone);
        let our_transfer = move |n: usize| our_transfer(ours[n].clone()).boxed();
        let their_transfer = move |n: usize| their_transfer(theirs[n].clone()).boxed();
        let [all, longest] = rounds.measure(our_transfer, their_transfer).await;
        [all.each(rounds.times * many), longest]
    }
}

/// The size of a comparison. In each round, `many` writers make `times` updates each.
struct Rounds {
    many: usize,
    times: usize,
    blocks: usize,
    each: usize,
}

impl Rounds {
    /// The time of each round, and of the longest update in it.
    async fn measure<F: Future<Output = ()> + Send>(
        &self,
        ours: impl Fn(usize) -> F + Clone + Send + 'static,
        theirs: impl Fn(usize) -> F + Clone + Send + 'static,
    ) -> [Measured; 2] {
        let longest = [const { RefCell::new(Vec::new()) }; 2];
        let [of_ours, of_theirs] = &longest;
        let all = pairs(
            self.blocks,
            self.each,
            async || self.round(ours.clone(), of_ours).await,
            async || self.round(theirs.clone(), of_theirs).await,
        );
        let all = all.await;
        let blocks = |rounds: RefCell<Vec<f64>>| {
            let rounds = rounds.into_inner();
            // The first rounds do not count.
            rounds[rounds.len() - self.blocks * self.each..].chunks(self.each).map(<[f64]>::to_vec).collect()
        };
        let [ours, theirs] = longest.map(blocks);
        [all, Measured { ours, theirs }]
    }

    async fn round<F: Future<Output = ()> + Send>(
        &self,
        update: impl Fn(usize) -> F + Clone + Send + 'static,
        longest: &RefCell<Vec<f64>>,
    ) -> Duration {
        // Late messages of the last round arrive.
        tokio::time::sleep(Duration::from_millis(5)).await;
        let started = Instant::now();
        let tasks = (0..self.many).map(|n| {
            let (update, times) = (update.clone(), self.times);
            tokio::spawn(async move {
                let mut longest = Duration::ZERO;
                for _ in 0..times {
                    longest = longest.max(time(update(n)).await);
                }
                longest
            })
        });
        let tasks = join_all(tasks.collect::<Vec<_>>()).await;
        let took = started.elapsed();
        let all = tasks.into_iter().map(|longest| longest.expect("no task panics").as_secs_f64());
        longest.borrow_mut().push(all.fold(0.0, f64::max));
        took
    }
}

async fn our_transfer(bucket: Bucket<Session>) {
    let keys = &[record(1).key(), record(2).key()];
    let transfer = bucket.transact(|tx| async move {
        for key in keys {
            let mut session = tx.get(key).await?.expect("it is there");
            session.visits += 1;
            tx.put(&session)?;
        }
        Ok(())
    });
    transfer.max_attempts(u32::MAX).timeout(Duration::from_secs(60)).await.expect("it is applied");
}

/// The retry loop without `transact`.
async fn their_transfer(bucket: Bucket<Session>) {
    let keys = [record(3).key(), record(4).key()];
    loop {
        let found = bucket.get_many(&keys).await.expect("they are read");
        let mut both = bucket.transaction();
        for entry in found.into_iter().flatten() {
            let revision = entry.revision();
            let mut session = entry.into_value();
            session.visits += 1;
            both = both.update(&session, revision);
        }
        match both.commit().await {
            Ok(_) => break,
            Err(error) => assert!(error.is_conflict(), "{error}"),
        }
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

/// The time until all of these tasks are done.
async fn spread_over<F>(tasks: usize, work: impl Fn() -> F) -> Duration
where
    F: Future<Output = ()> + Send + 'static,
{
    let started = Instant::now();
    for task in join_all((0..tasks).map(|_| tokio::spawn(work()))).await {
        task.expect("no task panics");
    }
    started.elapsed()
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
    let workers = RefCell::new(workers.collect::<Vec<_>>());
    let round = async |who: &str| {
        let started = Instant::now();
        let mut workers = workers.borrow_mut();
        workers.iter_mut().for_each(|worker| worker.send(&format!("{who} {increments}")));
        workers.iter_mut().for_each(|worker| assert_eq!(worker.receive(), "done"));
        started.elapsed()
    };
    let measured = pairs(world.effort.blocks(5), 2, async || round("ours").await, async || round("theirs").await);
    measured.await.each(increments * processes)
}

/// Runs one worker process.
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
