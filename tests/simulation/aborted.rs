//! P21: a lock future or guard that is dropped at any point, while waiting, holding or releasing, leaves no renewal
//! behind.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use kvtyped::Error;
use kvtyped::prelude::*;
use tokio::time::{Instant, sleep, timeout};

use super::network::Client;
use super::world::{Faults, World, is_lease};
use super::{Ledger, LedgerKey, every_seed, run};

const SECOND: Duration = Duration::from_secs(1);
const TTL: Duration = Duration::from_secs(6);

/// A drop point of a future.
#[derive(Debug, Clone, Copy)]
enum Cut {
    /// The number of polls before the drop.
    Polls(u64),
    /// The time before the drop. At that instant, the drop comes before any further poll.
    After(Duration),
}

/// Drops a future at the given point. Returns whether it completed before.
async fn cut<F: Future>(future: F, cut: Cut) -> bool {
    let mut polls = match cut {
        Cut::Polls(polls) => polls,
        Cut::After(after) => {
            let mut future = Box::pin(future);
            return tokio::select! {
                biased;
                () = sleep(after) => false,
                _ = &mut future => true,
            };
        }
    };
    let mut future: Option<Pin<Box<F>>> = Some(Box::pin(future));
    poll_fn(move |context| match future.as_mut().map(|future| future.as_mut().poll(context)) {
        Some(Poll::Ready(_)) => Poll::Ready(true),
        _ if polls > 1 => {
            polls -= 1;
            Poll::Pending
        }
        _ => {
            future = None;
            Poll::Ready(false)
        }
    })
    .await
}

/// The scenario of an aborted lock.
#[derive(Debug, Clone, Copy)]
struct Setup {
    /// Whether another client holds the lock at first.
    waits: bool,
    fair: bool,
    faults: Faults,
}

async fn live(client: &Client, bucket: &Bucket<Ledger>, setup: Setup) -> Result<(), Error> {
    let key = LedgerKey::new("main");
    let lock = bucket.lock(&key).ttl(TTL).owner(format!("c{}", client.number()));
    let guard = if setup.fair { lock.fair().await? } else { lock.await? };
    bucket.put(&Ledger::new(guard.fence().get())).fenced_by(&guard).await?;
    sleep(2 * SECOND).await;
    guard.ensure_remaining(TTL / 2 + SECOND).await?;
    let _ = timeout(3 * SECOND, guard.lost()).await;
    guard.run(sleep(SECOND)).await?;
    guard.release().await
}

/// Runs one lock lifecycle and drops it at a point. Returns whether it completed before.
async fn abort(world: &World, setup: Setup, at: Cut) -> bool {
    let clients: Vec<_> = (1..=3).map(|number| Client::new(world, number)).collect();
    let mut buckets: Vec<Bucket<Ledger>> = Vec::new();
    for client in &clients {
        buckets.push(client.store().bucket().await.expect("the network is well yet"));
    }
    let key = LedgerKey::new("main");
    if setup.waits {
        let lock = buckets[1].lock(&key).ttl(TTL).owner("c2");
        // A fair lock has a wait queue, so the holder hands the lock over.
        let guard = if setup.fair { lock.fair() } else { lock }.await.expect("the network is well yet");
        tokio::spawn(async move {
            sleep(4 * SECOND).await;
            guard.release().await
        });
    }
    world.set_faults(setup.faults);
    let over = cut(live(&clients[0], &buckets[0], setup), at).await;
    let dropped = Instant::now();
    world.note(1, "dropped", 0, u64::from(over));
    if setup.waits {
        sleep(5 * SECOND).await;
    }
    let is_wild = setup.faults != Faults::NONE;
    if is_wild {
        sleep(5 * SECOND).await;
        world.set_faults(Faults::NONE);
    }
    let waited = Instant::now();
    let lock = buckets[2].lock(&key).ttl(TTL).owner("c3");
    // A delayed write may be applied later. Its lease then lives for a full TTL.
    let longest = if is_wild { 3 * TTL + 30 * SECOND } else { SECOND };
    match timeout(longest, if setup.fair { lock.fair() } else { lock }).await {
        Ok(Ok(guard)) => {
            world.count("taken after an abort");
            let _ = guard.release().await;
        }
        Ok(Err(error)) => world.broken("P21", format!("not taken: {error}")),
        Err(_) => world.broken("P21", format!("not free {:?} after the drop", waited.elapsed())),
    }
    sleep(TTL).await;
    let seen = world.seen();
    let own = seen.landed.iter().filter(|landed| landed.client == 1 && landed.put && is_lease(&landed.key));
    let own: BTreeSet<_> = own.filter_map(|landed| landed.revision.ok()).collect();
    let renewals = seen.sent.iter().filter(|sent| sent.client == 1 && sent.put && sent.at > dropped);
    // A handover to another client is not a renewal.
    let renewals = renewals.filter(|sent| sent.holder.as_deref() == Some("c1"));
    let renewals = renewals.filter(|sent| sent.over.is_some_and(|over| own.contains(&over))).count();
    if renewals > 0 {
        world.broken("P21", format!("{renewals} renewals after the drop"));
    }
    over
}

/// Aborts the lifecycle after each poll, at each event of its client, and 1 ms after each event.
fn at_every_point(setup: Setup) {
    let whole = run(0, async |world| assert!(abort(&world, setup, Cut::Polls(u64::MAX)).await));
    let end = whole.trace.iter().position(|event| event.what == "dropped").expect("it comes to its end");
    let moments: BTreeSet<_> = whole.trace[..end].iter().map(|event| event.at).collect();
    let later = moments.iter().map(|at| *at + Duration::from_millis(1));
    let cuts: Vec<_> = (1..=12).map(Cut::Polls).chain(moments.iter().copied().chain(later).map(Cut::After)).collect();
    for cut in &cuts {
        let seen = run(0, async |world| {
            abort(&world, setup, *cut).await;
        });
        assert!(seen.broken.is_empty(), "{cut:?}: {:#?}\n{:?}", seen.trace, seen.broken);
    }
    println!("cut at {} points; waits: {}, fair: {}", cuts.len(), setup.waits, setup.fair);
    assert!(cuts.len() > 30, "{cuts:?}");
}

const CALM: Setup = Setup { waits: false, fair: false, faults: Faults::NONE };
#[test]
fn a_lock_that_is_dropped_at_any_point_is_free_within_its_time() {
    at_every_point(CALM);
    at_every_point(Setup { waits: true, ..CALM });
}

#[test]
fn a_fair_lock_that_is_dropped_at_any_point_is_free_within_its_time() {
    at_every_point(Setup { fair: true, ..CALM });
    at_every_point(Setup { fair: true, waits: true, ..CALM });
}

#[test]
fn a_lock_that_is_dropped_at_some_point_under_faults_is_free_soon() {
    let test = "simulation::aborted::a_lock_that_is_dropped_at_some_point_under_faults_is_free_soon";
    every_seed(test, 100, async |world| {
        let (at, waits, fair) = world.chance(|chance| {
            let at = if chance.happens(500) { chance.ms(1, 200) } else { chance.ms(1, 15_000) };
            (Cut::After(at), chance.happens(500), chance.happens(300))
        });
        abort(&world, Setup { waits, fair, faults: Faults::ALL }, at).await;
    });
}
