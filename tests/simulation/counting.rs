//! P2 and P3: a retried change reads the record that it conflicted with. The count is exact, or the outcome is reported
//! as unknown.

use std::time::Duration;

use kvtyped::Read;
use kvtyped::prelude::*;
use tokio::time::sleep;

use super::network::Client;
use super::world::{Faults, World};
use super::{Ledger, LedgerKey, every_seed, run};

const SECOND: Duration = Duration::from_secs(1);

/// The maximum number of attempts of a change.
const ATTEMPTS: u32 = 8;

#[derive(Debug, Default)]
struct Sum {
    acknowledged: u64,
    unknown: u64,
}

async fn increments(world: World, client: Client, bucket: Bucket<Ledger>) -> Sum {
    let mut sum = Sum::default();
    let key = LedgerKey::new("main");
    for _ in 0..20 {
        world.begins(client.number());
        let changed = bucket.modify(&key, |ledger| ledger.number += 1).max_attempts(ATTEMPTS);
        match changed.await {
            Ok(_) => sum.acknowledged += 1,
            Err(error) if error.outcome() == Outcome::Unknown => sum.unknown += 1,
            Err(_) => {}
        }
        if world.begins(client.number()) > u64::from(ATTEMPTS) {
            world.broken("P3", "more attempts than were allowed");
        }
        sleep(world.chance(|chance| chance.ms(0, 100))).await;
    }
    sum
}

#[test]
fn a_retried_change_is_exact_or_unknown_and_never_runs_on_what_lost() {
    let test = "simulation::counting::a_retried_change_is_exact_or_unknown_and_never_runs_on_what_lost";
    every_seed(test, 60, async |world| {
        let observer: Bucket<Ledger> = Client::new(&world, 9).store().bucket().await.expect("well yet");
        observer.put(&Ledger::new(0)).await.expect("well yet");
        let mut tasks = Vec::new();
        for number in 1..=3 {
            let client = Client::new(&world, number);
            let bucket = client.store().bucket().await.expect("well yet");
            tasks.push(tokio::spawn(increments(world.clone(), client, bucket)));
        }
        world.set_faults(Faults::ALL);
        let mut sum = Sum::default();
        let elections = tokio::spawn({
            let world = world.clone();
            async move {
                loop {
                    sleep(world.chance(|chance| chance.ms(1_000, 60_000))).await;
                    world.elect(world.chance(|chance| chance.ms(4_000, 9_000)));
                }
            }
        });
        for task in tasks {
            let Sum { acknowledged, unknown } = task.await.expect("it ends well");
            sum.acknowledged += acknowledged;
            sum.unknown += unknown;
        }
        elections.abort();
        world.set_faults(Faults::NONE);
        // Delayed writes arrive.
        sleep(60 * SECOND).await;
        let number = observer.get(&LedgerKey::new("main")).read(Read::Leader).await.expect("well again");
        let number = number.expect("it is there").number;
        let Sum { acknowledged, unknown } = sum;
        for (what, count) in [("acknowledged", acknowledged), ("unknown", unknown), ("applied", number)] {
            (0..count).for_each(|_| world.count(what));
        }
        if !(acknowledged..=acknowledged + unknown).contains(&number) {
            world.broken("P2", format!("{number}, of {acknowledged} acknowledged and {unknown} unknown"));
        }
    });
}

/// Two processes increment with several concurrent tasks each. A group commit stores several changes with one write.
async fn rows(world: &World, faults: Faults) -> Sum {
    let key = LedgerKey::new("main");
    let mut tasks = Vec::new();
    for number in 1..=2 {
        let bucket: Bucket<Ledger> = Client::new(world, number).store().bucket().await.expect("well yet");
        if number == 1 {
            bucket.put(&Ledger::new(0)).await.expect("well yet");
        }
        for _ in 0..6 {
            let (world, bucket, key) = (world.clone(), bucket.clone(), key.clone());
            tasks.push(tokio::spawn(async move {
                let mut sum = Sum::default();
                for _ in 0..6 {
                    let change = bucket.modify(&key, |ledger| ledger.number += 1).timeout(20 * SECOND);
                    match change.max_attempts(u32::MAX).await {
                        Ok(_) => sum.acknowledged += 1,
                        Err(error) if error.outcome() == Outcome::Unknown => sum.unknown += 1,
                        Err(_) => {}
                    }
                    sleep(world.chance(|chance| chance.ms(0, 30))).await;
                }
                sum
            }));
        }
    }
    world.set_faults(faults);
    let mut sum = Sum::default();
    for task in tasks {
        let Sum { acknowledged, unknown } = task.await.expect("it ends well");
        sum.acknowledged += acknowledged;
        sum.unknown += unknown;
    }
    world.set_faults(Faults::NONE);
    // Delayed writes arrive.
    sleep(60 * SECOND).await;
    sum
}

async fn stored(world: &World) -> u64 {
    let observer: Bucket<Ledger> = Client::new(world, 9).store().bucket().await.expect("well again");
    let ledger = observer.get(&LedgerKey::new("main")).read(Read::Leader).await.expect("well again");
    ledger.expect("it is there").number
}

#[test]
fn changes_that_one_write_stores_share_its_fate() {
    let test = "simulation::counting::changes_that_one_write_stores_share_its_fate";
    every_seed(test, 40, async |world| {
        let faults = Faults { lost: 50, lost_answer: 150, late: 50, slow_answer: 50, ..Faults::NONE };
        let Sum { acknowledged, unknown } = rows(&world, faults).await;
        let number = stored(&world).await;
        for (what, count) in [("acknowledged", acknowledged), ("unknown", unknown), ("applied", number)] {
            (0..count).for_each(|_| world.count(what));
        }
        if !(acknowledged..=acknowledged + unknown).contains(&number) {
            world.broken("P2", format!("{number}, of {acknowledged} acknowledged and {unknown} unknown"));
        }
    });
}

#[test]
fn changes_of_two_processes_that_come_between_each_other_all_count() {
    let test = "simulation::counting::changes_of_two_processes_that_come_between_each_other_all_count";
    every_seed(test, 20, async |world| {
        let Sum { acknowledged, unknown } = rows(&world, Faults::NONE).await;
        let number = stored(&world).await;
        if (acknowledged, unknown, number) != (72, 0, 72) {
            world.broken("P2", format!("{number}, of {acknowledged} acknowledged and {unknown} unknown"));
        }
        let writes = world.seen().sent.iter().filter(|sent| sent.put).count();
        if writes > 60 {
            world.broken("P2", format!("{writes} writes for 72 changes"));
        }
    });
}

#[test]
fn a_change_of_what_was_written_here_last_costs_no_read() {
    let seen = run(0, async |world| {
        let bucket: Bucket<Ledger> = Client::new(&world, 1).store().bucket().await.expect("it is well");
        bucket.put(&Ledger::new(0)).await.expect("it is well");
        for _ in 0..10 {
            bucket.modify(&LedgerKey::new("main"), |ledger| ledger.number += 1).await.expect("it is well");
        }
    });
    assert_eq!(seen.trace.iter().filter(|event| event.what == "read").count(), 1, "{:#?}", seen.trace);
    assert_eq!(seen.sent.len(), 11);
}
