//! Many concurrent writers of one key.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

use async_nats::jetstream::kv;
use kvtyped::prelude::*;
use kvtyped::{Error, Read};

use super::{SECOND, TestCluster, is_refused, on_both_sites};
use crate::support::{Session, World, seen_as, unique};

const WRITERS: usize = 8;

/// Opens the same bucket on one connection per writer, distributed over the servers.
async fn writers<T: kvtyped::KvModel>(site: TestCluster) -> Vec<Bucket<T>> {
    let made: Bucket<T> = site.fresh(&site.world().await).await.expect("the bucket opens");
    let mut buckets = Vec::new();
    for n in 0..WRITERS {
        let world = World::at(&site.nth_server(n).await.url()).await;
        buckets.push(seen_as(&world, made.name()).await);
    }
    buckets
}

/// Returns the one acknowledged revision. Asserts that all other writes were refused.
fn winner(results: Vec<Result<Revision, Error>>) -> Revision {
    let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    for error in lost.iter().filter_map(|result| result.as_ref().err()) {
        assert!(is_refused(error), "{error}");
    }
    match won.as_slice() {
        [Ok(revision)] => *revision,
        _ => panic!("{} writers won", won.len()),
    }
}

on_both_sites! {
    /// P1: 200 rounds of 8 writers.
    async fn one_of_many_concurrent_updates_wins(site: TestCluster) {
        let writers = writers::<Session>(site).await;
        let session = Session::new("acme", 7);
        let mut revision = writers[0].put(&session).await.unwrap();
        for round in 1..=200 {
            let mine = session.clone().visited(round);
            let updates = writers.iter().map(|bucket| bucket.update(&mine, revision).into_future());
            let next = winner(futures::future::join_all(updates).await);
            assert_eq!(next.get(), revision.get() + 1, "nothing else was written");
            revision = next;
        }
    }

    /// P1: 100 rounds of 8 writers; half of the keys had a record before.
    async fn one_of_many_concurrent_creates_wins(site: TestCluster) {
        let writers = writers::<Session>(site).await;
        let mut before = Revision::ZERO;
        for round in 0..100 {
            let session = Session::new("acme", round);
            if round % 2 == 0 {
                before = writers[0].delete(&session.key()).await.unwrap();
            }
            let creates = writers.iter().map(|bucket| bucket.create(&session).into_future());
            let revision = winner(futures::future::join_all(creates).await);
            assert_eq!(revision.get(), before.get() + 1, "nothing else was written");
            before = revision;
        }
    }
}

/// P1, the control: the plain client cannot distinguish a conflict from a failure while another write is in flight.
#[tokio::test]
async fn naive_updates_get_errors_besides_conflicts() {
    let cluster = harness::cluster::shared().await;
    let bucket = unique("naive");
    let mut stores = Vec::new();
    for n in 0..WRITERS {
        let client = async_nats::connect(cluster.node(n % 3).url()).await.unwrap();
        let jetstream = async_nats::jetstream::new(client);
        let config = kv::Config { bucket: bucket.clone(), num_replicas: 3, ..Default::default() };
        stores.push(jetstream.create_or_update_key_value(config).await.unwrap());
    }
    let mut revision = stores[0].put("k", "0".into()).await.unwrap();
    let mut other = 0;
    for _ in 0..400 {
        let updates = stores.iter().map(|store| store.update("k", "x".into(), revision));
        for result in futures::future::join_all(updates).await {
            match result {
                Ok(written) => revision = revision.max(written),
                Err(error) if error.kind() == kv::UpdateErrorKind::WrongLastRevision => {}
                Err(_) => other += 1,
            }
        }
        if other > 0 {
            return;
        }
    }
    // Before 2.11, both cases had the same error code.
    assert!(harness::binary::version() < [2, 11, 0], "every error was a conflict: the tests of kvtyped prove nothing");
}

/// A counter that lists the increments that it contains.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, kvtyped::KvModel)]
#[kv(bucket = "counters", key = "counter", codec = MsgPack, history = 1)]
struct Counter {
    value: u32,
    increments: Vec<u32>,
}

/// P2: 16 tasks increment while the leader steps down repeatedly.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn increments_survive_leader_step_downs() {
    const TASKS: u32 = 16;
    const EACH: u32 = 100;
    let writers = writers::<Counter>(TestCluster::ThreeServers).await;
    writers[0].put(&Counter { value: 0, increments: Vec::new() }).await.unwrap();
    let end = tokio::time::Instant::now() + 8 * SECOND;
    let tasks = (0..TASKS).map(|task| {
        let bucket = writers[task as usize % WRITERS].clone();
        tokio::spawn(async move {
            let mut results = Vec::new();
            for id in task * EACH..(task + 1) * EACH {
                if tokio::time::Instant::now() > end {
                    break;
                }
                let increment = bucket.modify(&CounterKey, |counter| {
                    counter.value += 1;
                    counter.increments.push(id);
                });
                let result = increment.max_attempts(u32::MAX).timeout(10 * SECOND).await;
                results.push((id, result.map(|entry| entry.revision())));
            }
            results
        })
    });
    let done = AtomicBool::new(false);
    let (results, step_downs) = tokio::join!(
        async {
            let results = futures::future::try_join_all(tasks.collect::<Vec<_>>()).await.unwrap();
            done.store(true, Ordering::Relaxed);
            results
        },
        async {
            let stream = format!("KV_{}", writers[0].name());
            let mut step_downs = 0;
            while !done.load(Ordering::Relaxed) {
                harness::cluster::shared().await.step_down(&stream).await;
                step_downs += 1;
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            step_downs
        }
    );
    assert!(step_downs > 0, "no leader stepped down");
    let counter = writers[0].get(&CounterKey).read(Read::Leader).await.unwrap().expect("there");
    let held: HashSet<_> = counter.increments.iter().copied().collect();
    assert_eq!(held.len(), counter.increments.len(), "an increment was applied twice");
    assert_eq!(held.len(), counter.value as usize);
    let results: Vec<_> = results.into_iter().flatten().collect();
    let (mut acknowledged, mut unknown, mut refused) = (0, 0, 0);
    for (id, result) in &results {
        match result {
            Ok(_) => {
                acknowledged += 1;
                assert!(held.contains(id), "increment {id} is lost");
            }
            Err(error) if error.outcome() == Outcome::Unknown => unknown += 1,
            Err(error) => {
                refused += 1;
                assert!(!held.contains(id), "increment {id} was applied, but returned: {error}");
            }
        }
    }
    assert_eq!(acknowledged + unknown + refused, results.len());
    println!(
        "{acknowledged} acknowledged, {unknown} unknown, {refused} refused over {step_downs} step-downs; the counter: {}",
        counter.value
    );
    assert!(acknowledged > 0 && refused == 0, "each increment succeeds in the end");
}
