//! Writes of a lease whose acknowledgement is lost: the lease is still acquired, released and completed, or its outcome
//! is reported as unknown.

use std::time::Duration;

use kvtyped::Error;
use kvtyped::prelude::*;
use tokio::time::sleep;

use super::network::Client;
use super::world::{Faults, World, is_lease};
use super::{Ledger, LedgerKey, every_seed, run};

const SECOND: Duration = Duration::from_secs(1);

/// Loses every acknowledgement of a write, and nothing else.
const DEAF: Faults = Faults { lost_answer: 1_000, ..Faults::NONE };

/// Loses every request.
const MUTE: Faults = Faults { lost: 1_000, ..Faults::NONE };

async fn ledger(world: &World, number: u64) -> Bucket<Ledger> {
    Client::new(world, number).store().bucket().await.expect("the network is well yet")
}

/// Returns the number of sent writes: puts and removals of the lease, then puts and removals of other keys.
fn writes(world: &World) -> [usize; 4] {
    let sent = world.seen().sent;
    [(true, true), (true, false), (false, true), (false, false)]
        .map(|(lease, put)| sent.iter().filter(|sent| (is_lease(&sent.key), sent.put) == (lease, put)).count())
}

#[test]
fn uncontended_lock_sends_minimal_writes() {
    run(0, async |world| {
        let (bucket, key) = (ledger(&world, 1).await, LedgerKey::new("main"));
        let guard = bucket.lock(&key).await.expect("it is free");
        sleep(5 * SECOND).await;
        guard.release().await.expect("it is held");
        assert_eq!(writes(&world), [1, 1, 1, 1]);
    });
}

#[test]
fn lost_acks_of_acquire_and_release_are_recovered() {
    run(0, async |world| {
        let (bucket, key) = (ledger(&world, 1).await, LedgerKey::new("main"));
        world.set_faults(DEAF);
        let guard = bucket.lock(&key).ttl(120 * SECOND).await.expect("it has it, and can see that");
        assert!(guard.is_held());
        assert_eq!(writes(&world), [1, 0, 1, 0]);
        world.set_faults(Faults::NONE);
        bucket.put(&Ledger::new(guard.fence().get())).fenced_by(&guard).await.expect("its fence is there");
        world.set_faults(DEAF);
        guard.release().await.expect("it is gone, and that can be seen");
        assert_eq!(writes(&world)[1], 1);
        world.set_faults(Faults::NONE);
        let another = ledger(&world, 2).await.try_lock(&key).await.expect("the network is well");
        another.expect("it is free").release().await.expect("it is held");
    });
}

#[test]
fn lost_release_is_sent_again() {
    run(0, async |world| {
        let (bucket, key) = (ledger(&world, 1).await, LedgerKey::new("main"));
        let guard = bucket.lock(&key).await.expect("it is free");
        world.set_faults(MUTE);
        let release = tokio::spawn(guard.release());
        sleep(SECOND).await;
        world.set_faults(Faults::NONE);
        release.await.expect("it ends").expect("it is given back in the end");
        assert_eq!(writes(&world)[1], 2);
        assert!(ledger(&world, 2).await.try_lock(&key).await.expect("the network is well").is_some());
    });
}

#[test]
fn lease_survives_lost_renewals_and_acks() {
    run(0, async |world| {
        let (bucket, key) = (ledger(&world, 1).await, LedgerKey::new("main"));
        let guard = bucket.lock(&key).ttl(30 * SECOND).await.expect("it is free");
        for faults in [DEAF, MUTE, DEAF, MUTE] {
            world.set_faults(faults);
            sleep(12 * SECOND).await;
            world.set_faults(Faults::NONE);
            sleep(4 * SECOND).await;
            assert!(guard.is_held(), "{faults:?}");
            assert!(guard.remaining() > 20 * SECOND, "{:?} under {faults:?}", guard.remaining());
        }
        guard.release().await.expect("it is held");
    });
}

#[test]
fn once_outcome_is_exact_or_unknown() {
    let test = "simulation::lost_acks::once_outcome_is_exact_or_unknown";
    every_seed(test, 60, async |world| {
        let once = Client::new(&world, 1).store().once::<u64>("once");
        let observer = Client::new(&world, 2).store().once::<u64>("once");
        assert_eq!(once.get("none").await.expect("the network is well yet"), None);
        for number in 0..6 {
            let key = number.to_string();
            let faults = Faults { lost: 250, lost_answer: 250, late: 100, slow: 50, slow_answer: 100, ..Faults::NONE };
            let work = async || {
                // The lease is held now. The faults affect only the write of the result.
                world.set_faults(faults);
                number
            };
            let reported = once.run(&key, work).await;
            sleep(world.chance(|chance| chance.ms(0, 2_000))).await;
            world.set_faults(Faults::NONE);
            // Delayed writes arrive.
            sleep(60 * SECOND).await;
            let stored = observer.get(&key).await.expect("well again");
            let error = match reported {
                Ok(reported) => {
                    world.count("stored");
                    if (reported, stored) != (number, Some(number)) {
                        world
                            .broken("P19", format!("`run` returned {reported} for {number}, but {stored:?} is stored"));
                    }
                    continue;
                }
                Err(error) => Error::from(error),
            };
            match (error.outcome(), stored) {
                (Outcome::Unknown, _) => world.count("unknown"),
                (_, None) => world.count("not stored"),
                (_, Some(_)) => world.broken("P19", format!("stored, and told that it is not: {error}")),
            }
        }
    });
}

/// Runs work and stores its result while acknowledgements are lost. After 5 s, the faults `then` apply.
async fn finished(world: &World, then: Faults) -> (Result<u64, Error>, Option<u64>) {
    let once = Client::new(world, 1).store().once::<u64>("once");
    let work = async || {
        world.set_faults(DEAF);
        let world = world.clone();
        tokio::spawn(async move {
            sleep(5 * SECOND).await;
            world.set_faults(then);
        });
        7
    };
    let reported = once.run("a", work).await.map_err(Error::from);
    world.set_faults(Faults::NONE);
    sleep(60 * SECOND).await;
    (reported, Client::new(world, 2).store().once::<u64>("once").get("a").await.expect("well again"))
}

#[test]
fn lost_ack_of_result_is_recovered() {
    run(0, async |world| {
        let (reported, stored) = finished(&world, Faults::NONE).await;
        assert_eq!((reported.expect("it is stored"), stored), (7, Some(7)));
    });
}

#[test]
fn unverifiable_result_has_unknown_outcome() {
    run(0, async |world| {
        let (reported, stored) = finished(&world, MUTE).await;
        assert_eq!((reported.expect_err("the outcome is unknown").outcome(), stored), (Outcome::Unknown, Some(7)));
    });
}
