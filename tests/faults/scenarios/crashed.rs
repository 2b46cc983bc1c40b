//! P20: lock holders that run as separate processes and are killed.
//!
//! The process is this program itself. With [`HOLD`] as the first argument it [`hold`]s a lock.

use std::io::{BufRead, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use harness::Cluster;
use kvtyped::prelude::*;

use super::{Effort, SECOND, leader};
use crate::figures::Figure;
use crate::op_stats::Counts;
use crate::report::Row;

/// The argument that makes this program a lock holder.
pub(crate) const HOLD: &str = "hold";

const TTL: Duration = Duration::from_secs(6);
/// The tolerance for the takeover of a lease after its TTL. The promise is 3 s, plus 3 s if the leader is killed too.
/// The rest is for a loaded machine.
const LATE: Duration = Duration::from_secs(12);

/// Another client acquires the lock of a killed holder, not before the lease can have expired and not long after.
pub(crate) async fn holders(name: &'static str, effort: Effort) -> Row {
    let began = Instant::now();
    let cluster = Cluster::start(3).await;
    let mut row = Row::new(name);
    let mut took = [Vec::new(), Vec::new()];
    let mut fences = Vec::new();
    for round in 0..effort.of(2, 6_u64) {
        let holder = start(&cluster.urls()).await;
        let (mut holder, fence) = holder;
        fences.push(fence);
        let store = Store::connect(cluster.urls()).await.expect("the cluster is sound");
        let locks = store.locks("crashes").replicas(3).ttl(TTL).await.expect("the cluster is sound");
        let waiter = tokio::spawn(locks.lock("a").wait(60 * SECOND).into_future());
        // Kills the holder at varying times between two renewals.
        tokio::time::sleep(Duration::from_millis(500 * (round % 4))).await;
        let with_leader = round % 2 == 1;
        let node = leader(&cluster, "KV_crashes").await;
        row.faults += 1;
        let killed = Instant::now();
        holder.kill().expect("it is there");
        if with_leader {
            row.faults += 1;
            cluster.node(node).kill().await;
        }
        match waiter.await.expect("it ends") {
            Ok(guard) => {
                let elapsed = killed.elapsed();
                row.counts.ok += 1;
                took[usize::from(with_leader)].push(elapsed);
                let (counted, longest) = if with_leader {
                    (Figure::TakeoversWithLeader, Figure::LongestTakeoverWithLeader)
                } else {
                    (Figure::Takeovers, Figure::LongestTakeover)
                };
                row.figures.add(counted, 1);
                row.figures.longest(longest, elapsed);
                // The last renewal was at most one renewal interval before the kill.
                if elapsed + TTL / 3 + SECOND / 2 < TTL {
                    row.violations.push(format!("taken over after {elapsed:?} of {TTL:?}: too early"));
                }
                if elapsed > TTL + LATE {
                    row.violations.push(format!("taken over after {elapsed:?} of {TTL:?}: too late"));
                }
                fences.push(guard.fence().get());
                if let Err(error) = guard.release().await {
                    row.notes.push(format!("a release: {error}"));
                }
            }
            Err(error) => {
                row.counts = row.counts.and(Counts { failed: 1, ..Counts::default() });
                row.violations.push(format!("not taken over: {error}"));
            }
        }
        let _ = holder.wait();
        if with_leader {
            cluster.node(node).restart().await;
        }
        cluster.ready().await;
    }
    if !fences.is_sorted_by(|one, next| one < next) {
        row.violations.push(format!("fences do not grow: {fences:?}"));
    }
    row.notes.push(format!("taken over after {:.1?} of {TTL:?}, with the leader killed {:.1?}", took[0], took[1]));
    row.took = began.elapsed();
    row
}

/// Starts a holder. Returns the process and the fencing token after it has acquired the lock.
async fn start(urls: &str) -> (Child, u64) {
    let program = std::env::current_exe().expect("this program has a path");
    let mut holder = Command::new(program);
    holder.args([HOLD, urls]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut holder = holder.spawn().expect("it starts");
    let output = holder.stdout.take().expect("it is piped");
    let fence = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).expect("it is text");
        line.trim().parse().expect("the holder prints its fence")
    });
    (holder, fence.await.expect("it is read"))
}

/// Runs in the child process: acquires the lock, prints the fencing token, and holds the lock until stdin is closed.
pub(crate) async fn hold(urls: &str) {
    let store = Store::connect(urls).await.expect("the cluster is sound");
    let locks = store.locks("crashes").replicas(3).ttl(TTL).await.expect("the cluster is sound");
    let guard = locks.lock("a").wait(60 * SECOND).await.expect("it is free soon");
    println!("{}", guard.fence().get());
    // Stdin is closed when the parent process has ended.
    let _ = tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0])).await;
    drop(guard);
}
