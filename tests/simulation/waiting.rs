//! P22: a waiter misses no release for longer than its fallback, and writes once for what it hears.

use std::collections::BTreeMap;
use std::time::Duration;

use kvtyped::prelude::*;
use tokio::time::{Instant, sleep, timeout};

use super::network::Client;
use super::world::{Faults, World, is_lease};
use super::{Ledger, LedgerKey, every_seed};

const SECOND: Duration = Duration::from_secs(1);

/// The lock goes through the hands of all who wait; how long it was free before each of them had it.
async fn hand_over(world: &World, faults: Faults, ttl: Duration, waiters: u64) -> Vec<Duration> {
    let key = LedgerKey::new("main");
    let mut buckets: Vec<Bucket<Ledger>> = Vec::new();
    for number in 1..=waiters + 1 {
        buckets.push(Client::new(world, number).store().bucket().await.expect("the network is well yet"));
    }
    let first = buckets[0].lock(&key).ttl(ttl).owner("c1").await.expect("it is free");
    world.set_faults(faults);
    let (given, mut taken) = tokio::sync::mpsc::unbounded_channel();
    for (number, bucket) in (2..).zip(buckets.drain(1..)) {
        let (given, key) = (given.clone(), key.clone());
        let holds = world.chance(|chance| chance.ms(10, 3_000));
        tokio::spawn(async move {
            let guard = bucket.lock(&key).ttl(ttl).owner(format!("c{number}")).await.expect("nothing is lost");
            let taken = Instant::now();
            sleep(holds).await;
            guard.release().await.expect("nothing is lost");
            let _ = given.send((taken, Instant::now()));
        });
    }
    drop(given);
    sleep(world.chance(|chance| chance.ms(100, 30_000))).await;
    first.release().await.expect("nothing is lost");
    let mut free = Instant::now();
    let mut waits = Vec::new();
    // The longest that anybody may wait, and more.
    while let Ok(Some((taken, released))) = timeout(60 * SECOND, taken.recv()).await {
        waits.push(taken.saturating_duration_since(free));
        free = released;
    }
    waits
}

#[test]
fn a_waiter_whose_watch_is_blind_looks_for_itself() {
    let test = "simulation::waiting::a_waiter_whose_watch_is_blind_looks_for_itself";
    every_seed(test, 60, async |world| {
        let faults = Faults { blind: 1_000, blind_within: 2_000, ..Faults::NONE };
        let ttl = world.chance(|chance| chance.one_of(&[3, 6, 15, 30])) * SECOND;
        let waits = hand_over(&world, faults, ttl, 3).await;
        if waits.len() != 3 {
            world.broken("P22", format!("{} of 3 had it", waits.len()));
        }
        let longest = ttl.min(10 * SECOND) + SECOND / 2;
        for wait in waits {
            world.count(if wait > SECOND { "fallbacks" } else { "heard" });
            if wait > longest {
                world.broken("P22", format!("it was free for {wait:?}, of {ttl:?}"));
            }
        }
    });
}

#[test]
fn a_waiter_writes_once_for_what_it_hears() {
    let test = "simulation::waiting::a_waiter_writes_once_for_what_it_hears";
    every_seed(test, 30, async |world| {
        let waits = hand_over(&world, Faults::NONE, 30 * SECOND, 8).await;
        if waits.len() != 8 || waits.iter().any(|wait| *wait > SECOND / 2) {
            world.broken("P22", format!("{waits:?}"));
        }
        let mut writes: BTreeMap<(u64, u64), u64> = BTreeMap::new();
        for sent in world.seen().sent.iter().filter(|sent| sent.put && is_lease(&sent.key)) {
            *writes.entry((sent.client, sent.over.unwrap_or_default())).or_default() += 1;
        }
        for ((client, over), count) in writes {
            // Over nothing: at first, and once its watch told that nobody has it.
            if count > if over == 0 { 2 } else { 1 } {
                world.broken("P22", format!("c{client} wrote {count} times over {over}"));
            }
        }
    });
}
