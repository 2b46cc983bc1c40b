//! P22: a waiter misses no release for longer than its fallback interval, and writes at most once per release.

use std::collections::BTreeMap;
use std::time::Duration;

use kvtyped::prelude::*;
use tokio::time::{Instant, sleep, timeout};

use super::network::Client;
use super::world::{Faults, World, is_lease};
use super::{Ledger, LedgerKey, every_seed};

const SECOND: Duration = Duration::from_secs(1);

/// Passes the lock through all waiters. Returns how long it was free before each acquisition.
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
    // More than the longest permitted wait.
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
            // Writes that expect no record: one at the start, and one after the watch reported that the lock is free.
            if count > if over == 0 { 2 } else { 1 } {
                world.broken("P22", format!("c{client} wrote {count} times over {over}"));
            }
        }
    });
}

/// Returns a fair lock on the record.
fn fair(bucket: &Bucket<Ledger>, number: u64, ttl: Duration) -> kvtyped::recipes::Lock {
    bucket.lock(&LedgerKey::new("main")).ttl(ttl).owner(format!("c{number}")).fair()
}

/// Creates clients and their buckets.
async fn clients(world: &World, many: u64) -> Vec<(Client, Bucket<Ledger>)> {
    let mut clients = Vec::new();
    for number in 1..=many {
        let client = Client::new(world, number);
        let bucket = client.store().bucket().await.expect("the network is well yet");
        clients.push((client, bucket));
    }
    clients
}

#[test]
fn the_fair_have_it_in_their_order_by_one_write_each() {
    let test = "simulation::waiting::the_fair_have_it_in_their_order_by_one_write_each";
    every_seed(test, 30, async |world| {
        let ttl = world.chance(|chance| chance.one_of(&[3, 6, 30])) * SECOND;
        let mut clients = clients(&world, 6).await.into_iter().zip(1..);
        let (first, number) = clients.next().expect("six");
        let guard = fair(&first.1, number, ttl).await.expect("it is free");
        let (tell, mut order) = tokio::sync::mpsc::unbounded_channel();
        for ((_client, bucket), number) in clients {
            let tell = tell.clone();
            let holds = world.chance(|chance| chance.ms(10, 2 * ttl.as_millis() as u64));
            tokio::spawn(async move {
                let guard = fair(&bucket, number, ttl).await.expect("nothing is lost");
                let taken = Instant::now();
                sleep(holds).await;
                guard.check().expect("it is renewed from the beginning");
                let released = Instant::now();
                guard.release().await.expect("nothing is lost");
                let _ = tell.send((number, taken, released));
            });
            // Waits until the ticket is enqueued.
            sleep(world.chance(|chance| chance.ms(100, 2_000))).await;
        }
        drop(tell);
        let mut free = Instant::now();
        guard.release().await.expect("nothing is lost");
        for wanted in 2..=6 {
            let Ok(Some((number, taken, released))) = timeout(120 * SECOND, order.recv()).await else {
                return world.broken("FIFO", format!("c{wanted} does not get it"));
            };
            if number != wanted {
                world.broken("FIFO", format!("c{number} had it before c{wanted}"));
            }
            let waited = taken.saturating_duration_since(free);
            if waited > SECOND / 10 {
                world.broken("FIFO", format!("c{number} had it after {waited:?}"));
            }
            free = released;
        }
        let seen = world.seen();
        let removed = seen.sent.iter().filter(|sent| !sent.put && is_lease(&sent.key)).count();
        let handed_on = seen.counts.get("handed on").copied().unwrap_or_default();
        if (removed, handed_on) != (1, 5) {
            world.broken("FIFO", format!("it was removed {removed} times, and handed on {handed_on} times"));
        }
    });
}

/// The first waiter stops waiting at about the time of the release. The next waiter still acquires the lock.
#[test]
fn one_who_gives_up_holds_nobody_up() {
    let test = "simulation::waiting::one_who_gives_up_holds_nobody_up";
    every_seed(test, 200, async |world| {
        let ttl = 30 * SECOND;
        let clients = clients(&world, 3).await;
        let guard = fair(&clients[0].1, 1, ttl).await.expect("it is free");
        let gives_up = world.chance(|chance| chance.ms(1_900, 2_100));
        let quits = timeout(gives_up, fair(&clients[1].1, 2, ttl).into_future());
        let quits = tokio::spawn(async move { quits.await.map(drop).map_err(drop) });
        sleep(SECOND).await;
        let next = tokio::spawn(fair(&clients[2].1, 3, ttl).into_future());
        sleep(SECOND).await;
        guard.release().await.expect("nothing is lost");
        match timeout(SECOND, next).await {
            Ok(guard) => drop(guard.expect("no panic").expect("nothing is lost")),
            Err(_) => world.broken("P22", "a waiter that stopped waiting blocks the next one"),
        }
        let served = quits.await.expect("no panic").is_ok();
        world.count(if served { "had it" } else { "gave up" });
    });
}

/// The first waiter dies. The next waiter acquires the lock at most one TTL later, or at once if the death was long
/// ago.
#[test]
fn one_who_dies_holds_nobody_up_for_longer_than_its_time() {
    let test = "simulation::waiting::one_who_dies_holds_nobody_up_for_longer_than_its_time";
    every_seed(test, 60, async |world| {
        let ttl = world.chance(|chance| chance.one_of(&[2, 6, 15])) * SECOND;
        let clients = clients(&world, 3).await;
        let guard = fair(&clients[0].1, 1, ttl).await.expect("it is free");
        let dies = tokio::spawn(fair(&clients[1].1, 2, ttl).into_future());
        sleep(SECOND).await;
        let next = tokio::spawn(fair(&clients[2].1, 3, ttl).into_future());
        sleep(SECOND).await;
        clients[1].0.kill();
        let since = world.chance(|chance| chance.ms(0, 2 * ttl.as_millis() as u64));
        sleep(since).await;
        guard.release().await.expect("nothing is lost");
        let longest = if since > ttl { SECOND / 2 } else { ttl + SECOND };
        world.count(if since > ttl { "long dead" } else { "just dead" });
        match timeout(longest, next).await {
            Ok(guard) => drop(guard.expect("no panic").expect("nothing is lost")),
            Err(_) => world.broken("P22", format!("not had {longest:?} after the release, dead for {since:?}")),
        }
        dies.abort();
    });
}
