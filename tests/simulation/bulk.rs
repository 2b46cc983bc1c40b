//! Bulk operations over a slow network: each request has its own deadline.

use std::time::Duration;

use kvtyped::prelude::*;
use tokio::time::Instant;

use super::network::Client;
use super::world::{Faults, World};
use super::{Ledger, LedgerKey};

/// Each request takes 1 s to 4.9 s. The store's timeout is 10 s.
async fn slow() -> Bucket<Ledger> {
    let world = World::new(7);
    let ledgers = Client::new(&world, 1).store().bucket().await.expect("there are no faults yet");
    world.set_faults(Faults { slow: 1_000, slow_answer: 1_000, ..Faults::NONE });
    ledgers
}

#[tokio::test(start_paused = true)]
async fn put_many_applies_timeout_to_each_write() {
    let ledgers = slow().await;
    let rows = (0..20_000).map(|number| Ledger { name: number.to_string(), fence: 0, number });
    let started = Instant::now();
    assert_eq!(ledgers.put_many(rows).await.unwrap().len(), 20_000);
    assert!(started.elapsed() > Duration::from_secs(20), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn get_many_applies_timeout_to_each_read() {
    let ledgers = slow().await;
    let keys = (0..110_000).map(|number| LedgerKey::new(number.to_string()));
    let started = Instant::now();
    let found = ledgers.get_many(keys).await.unwrap();
    assert_eq!(found.iter().filter(|entry| entry.is_none()).count(), 110_000);
    assert!(started.elapsed() > Duration::from_secs(10), "{:?}", started.elapsed());
}
