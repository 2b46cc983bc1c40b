//! P3 and P2: a retried change reads what it lost against, and counts exactly, or says that it does not know.

use std::time::Duration;

use kvtyped::prelude::*;
use tokio::time::sleep;

use super::network::Client;
use super::world::{Faults, World};
use super::{Ledger, LedgerKey, every_seed};

const SECOND: Duration = Duration::from_secs(1);

/// How often a change is tried.
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
        // What is on its way lands.
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
