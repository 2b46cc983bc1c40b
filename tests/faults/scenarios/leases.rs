//! P15: leases with the default TTL survive the loss of the leader.

use std::time::{Duration, Instant};

use harness::{Cluster, wait};
use kvtyped::prelude::*;

use super::{Effort, SECOND, leader};
use crate::figures::Figure;
use crate::op_stats::Counts;
use crate::report::Row;

/// The number of leases that are held at the same time.
const LEASES: usize = 12;
/// The time limit for a renewal: the default renewal interval plus the remaining lease at that time.
const RENEWAL: Duration = Duration::from_secs(27);

/// Kills the leader, freezes the leader for 9 s, and restarts all servers, in turn. Every lease must be renewed in
/// every round.
pub(crate) async fn outlive_leaders(name: &'static str, effort: Effort) -> Row {
    let began = Instant::now();
    let cluster = Cluster::start(3).await;
    let all = cluster.urls();
    let mut guards = Vec::new();
    for number in 0..LEASES {
        // Half of the clients have the addresses of all servers, the others have one address.
        let url = if number % 2 == 0 { all.clone() } else { cluster.node(number / 2 % 3).url() };
        let store = Store::connect(url).await.expect("nothing fails yet");
        let locks = store.locks("leases").replicas(3).await.expect("nothing fails yet");
        let guard = locks.lock(format!("lease-{number}")).await.expect("nothing fails yet");
        guards.push((store, guard));
        // Spreads the renewals over the whole round.
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    let mut row = Row::new(name);
    let mut shortest = Duration::MAX;
    for round in 0..effort.of(3, 21) {
        row.faults += 1;
        let node = cluster.node(leader(&cluster, "KV_leases").await);
        let fault = Instant::now();
        match round % 3 {
            0 => {
                node.kill().await;
                tokio::time::sleep(6 * SECOND).await;
                node.restart().await;
            }
            1 => {
                node.freeze();
                tokio::time::sleep(9 * SECOND).await;
                node.thaw();
            }
            _ => {
                for node in cluster.nodes() {
                    node.terminate().await;
                    node.restart().await;
                    cluster.ready().await;
                }
            }
        }
        for (number, (_, guard)) in guards.iter().enumerate() {
            shortest = shortest.min(renewed_since(guard, fault).await);
            let held = guard.is_held();
            row.figures.add(Figure::LeaseRounds, 1);
            row.figures.add(Figure::LeasesHeld, usize::from(held));
            row.counts =
                row.counts.and(Counts { ok: usize::from(held), failed: usize::from(!held), ..Counts::default() });
            if !held {
                row.violations.push(format!("lease {number} is lost in round {round}"));
            }
        }
        guards.retain(|(_, guard)| guard.is_held());
        cluster.ready().await;
    }
    row.notes.push(format!("shortest remaining term of a lease at its renewal: {shortest:.1?} of 30 s"));
    for (_, guard) in guards {
        if let Err(error) = guard.release().await {
            row.notes.push(format!("a release: {error}"));
        }
    }
    row.took = began.elapsed();
    row
}

/// Waits until a lease is renewed after a fault, or lost. Returns the minimum of the remaining lease.
async fn renewed_since(guard: &LockGuard, fault: Instant) -> Duration {
    let mut least = guard.remaining();
    wait::within(RENEWAL + SECOND, async || {
        let remaining = guard.remaining();
        least = least.min(remaining);
        // The renewal was sent after the fault: an earlier renewal would leave less time.
        let renewed = remaining + fault.elapsed() > RENEWAL + Duration::from_millis(50);
        (renewed || !guard.is_held()).then_some(())
    })
    .await;
    least
}
