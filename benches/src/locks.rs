//! Locks: without contention, and handed over.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_nats::jetstream::kv;
use futures::future::join_all;
use kvtyped::prelude::*;
use kvtyped::recipes::Locks;

use crate::measure::{Measured, median, pairs, quantile, time};
use crate::world::{Session, World, encode};

/// The number of puts by each holder of a contended lock. A hand-over is compared with one of these puts. While the
/// holder writes, the other tasks start to wait.
const WORK: usize = 5;

pub(crate) async fn measure(world: &mut World) {
    world.report.group("Locks");
    alone(world).await;
    many_alive(world).await;
    for fair in [false, true] {
        for shared in [false, true] {
            for (waiters, goals) in [(2, [2.0, 6.0]), (8, [2.0, 6.0]), (32, [3.5, f64::INFINITY])] {
                hand_over(world, Contest { waiters, fair, shared }, goals).await;
            }
        }
    }
}

async fn alone(world: &mut World) {
    let (bucket, plain) = world.bucket("locked").await;
    let locks = world.store.locks("jobs").await.expect("the bucket is made");
    let session = Session::new("acme", 1);
    let key = session.key();
    let (blocks, each) = (world.effort.blocks(7), world.effort.of(300));
    let put = async || time(async { plain.put("put", encode(&session)).await.expect("it is put") }).await;
    let by_name = async || {
        time(async {
            let guard = locks.lock("job").await.expect("it is free");
            guard.release().await.expect("it is held");
        })
        .await
    };
    let baseline = async || {
        time(async {
            let guard = bucket.lock(&key).await.expect("it is free");
            guard.release().await.expect("it is held");
        })
        .await
    };
    let measured = pairs(blocks, each, by_name, put).await;
    world.report.row("lock by name and release, alone", "kv.put").goal(2.5).measured(&measured);
    let measured = pairs(blocks, each, baseline, put).await;
    world.report.row("lock of a record, fenced, and release", "kv.put").measured(&measured);
}

/// Measures `try_lock` of a held lock while this process holds many others, in memory. The cost must not grow with
/// their number.
async fn many_alive(world: &mut World) {
    const FEW: usize = 1_000;
    /// The number of calls in one measurement.
    const LOOKS: usize = 1_000;
    let few = holding(world.effort.of(FEW)).await;
    let look = async |(locks, guards): &(Locks, Vec<LockGuard>)| {
        let looks = async {
            for look in 0..LOOKS {
                // The same locks are measured for every size, so cache misses do not distort the comparison.
                let name = guards[look % 100].name();
                assert!(locks.try_lock(name).await.expect("memory is there").is_none());
            }
        };
        time(looks).await / LOOKS as u32
    };
    for many in [4 * FEW, 16 * FEW] {
        let held = holding(world.effort.of(many)).await;
        let measured = pairs(world.effort.blocks(7), 20, || look(&held), || look(&few)).await;
        // The total time grows with an exponent of at most 1.05.
        let goal = ((many / FEW) as f64).powf(0.05);
        let row = world.report.row(format!("try_lock, {many} locks alive"), format!("the same, {FEW} alive"));
        row.goal(goal).measured(&measured);
    }
}

/// Acquires this many locks.
async fn holding(many: usize) -> (Locks, Vec<LockGuard>) {
    let locks = Store::memory().locks("jobs").await.expect("memory is there");
    let mut guards = Vec::with_capacity(many);
    for lock in 0..many {
        guards.push(locks.lock(lock.to_string()).await.expect("it is free"));
    }
    (locks, guards)
}

/// The waiters for a lock.
#[derive(Debug, Clone, Copy)]
struct Contest {
    /// The number of waiters while another task holds the lock.
    waiters: usize,
    /// Whether waiters acquire the lock in the order of their arrival.
    fair: bool,
    /// Whether all tasks share one `Locks` handle. Otherwise each task has a separate store and connection.
    shared: bool,
}

/// Measures the time from the call of `release` until another task has the guard. `goals` are the longest times of the
/// median and of the 99th percentile, as multiples of a put.
async fn hand_over(world: &mut World, contest: Contest, goals: [f64; 2]) {
    let Contest { waiters, fair, shared } = contest;
    let mut locks: Vec<Locks> = Vec::new();
    for _ in 0..=waiters {
        let another = match locks.first() {
            Some(one) if shared => one.clone(),
            _ => {
                let open = world.another_store().await.locks("handed");
                if fair { open.fair().await } else { open.await }.expect("the bucket is made")
            }
        };
        locks.push(another);
    }
    let (_, plain) = world.bucket("baseline").await;
    let name = format!("{waiters}-{fair}-{shared}");
    let mut measured = Measured::default();
    contend(&locks, &plain, &name, waiters).await;
    for _ in 0..world.effort.blocks(5) {
        let Contended { gaps, puts } = contend(&locks, &plain, &name, world.effort.of(100)).await;
        measured.ours.push(gaps);
        measured.theirs.push(puts);
    }
    let how = if fair { "fair" } else { "not fair" };
    let whose = if shared { "tasks of one process" } else { "connections" };
    let row = format!("hand-over to one of {waiters} {whose}, {how}");
    world.report.row(format!("{row}: median"), "kv.put of the holder").goal(goals[0]).measured(&measured);
    // A block has too few samples for the 99th percentile, so all blocks share one ratio.
    let ours = quantile(measured.ours.into_iter().flatten(), 0.99);
    let theirs = median(measured.theirs.into_iter().flatten());
    let measured = Measured { ours: vec![vec![ours]], theirs: vec![vec![theirs]] };
    let goal = Some(goals[1]).filter(|goal| goal.is_finite());
    world.report.row(format!("{row}: p99"), "kv.put of the holder").goal(goal).measured(&measured);
}

/// The measured times in seconds.
#[derive(Debug, Default)]
struct Contended {
    gaps: Vec<f64>,
    puts: Vec<f64>,
}

/// Lets all tasks acquire the lock repeatedly, until it has changed hands `changes` times.
async fn contend(locks: &[Locks], plain: &kv::Store, name: &str, changes: usize) -> Contended {
    let left = Arc::new(AtomicUsize::new(changes));
    // The time of the last release, and the task that released the lock while the others waited.
    let given: Arc<Mutex<Option<(Instant, usize)>>> = Arc::default();
    let seen: Arc<Mutex<Contended>> = Arc::default();
    let tasks = locks.iter().cloned().enumerate().map(|(who, locks)| {
        let (left, given, seen) = (Arc::clone(&left), Arc::clone(&given), Arc::clone(&seen));
        let (plain, name) = (plain.clone(), name.to_owned());
        tokio::spawn(async move {
            loop {
                let guard = locks.lock(&name).wait(Duration::from_secs(60)).await.expect("it comes");
                let now = Instant::now();
                let over = left.load(Ordering::SeqCst) == 0;
                let before = given.lock().expect("no panic").take();
                if let Some((at, by)) = before
                    && by != who
                    && !over
                {
                    seen.lock().expect("no panic").gaps.push((now - at).as_secs_f64());
                    left.fetch_sub(1, Ordering::SeqCst);
                }
                if !over {
                    let puts = puts(&plain).await;
                    seen.lock().expect("no panic").puts.extend(puts);
                    *given.lock().expect("no panic") = Some((Instant::now(), who));
                }
                guard.release().await.expect("it is held");
                if over {
                    return;
                }
            }
        })
    });
    for task in join_all(tasks).await {
        task.expect("no task panics");
    }
    std::mem::take(&mut *seen.lock().expect("no panic"))
}

async fn puts(plain: &kv::Store) -> [f64; WORK] {
    let bytes = encode(&Session::new("acme", 1));
    let mut took = [0.0; WORK];
    for took in &mut took {
        let put = async { plain.put("put", bytes.clone()).await.expect("it is put") };
        *took = time(put).await.as_secs_f64();
    }
    took
}
