//! Routine operations: rolling restarts and leader step-downs.

use std::time::Duration;

use harness::Server;

use super::{Effort, SECOND, cluster, leader as leader_of};
use crate::report::Row;
use crate::run::Run;

/// Terminates and restarts one server after the other.
pub(crate) async fn rolling_restart(name: &'static str, effort: Effort) -> Row {
    let (cluster, mut run) = cluster().await;
    for _ in 0..effort.of(1, 2) {
        for node in cluster.nodes() {
            run.fault();
            node.terminate().await;
            run.work_for(SECOND).await;
            node.restart().await;
            cluster.ready().await;
            run.recover().await;
        }
    }
    run.finish(name).await
}

/// Terminates and restarts a single server.
pub(crate) async fn single_restarted(name: &'static str, effort: Effort) -> Row {
    let server = Server::start().await;
    let mut run = Run::start(vec![server.url()], 1).await;
    for _ in 0..effort.of(1, 3) {
        run.fault();
        server.terminate().await;
        run.work_for(SECOND).await;
        server.restart().await;
        run.recover().await;
    }
    run.finish(name).await
}

/// Makes the leaders of all buckets step down, repeatedly.
pub(crate) async fn step_downs(name: &'static str, effort: Effort) -> Row {
    let (cluster, mut run) = cluster().await;
    for _ in 0..effort.of(2, 8) {
        for stream in ["KV_records", "KV_tallies", "KV_bank", "KV_locks", "KV_election", "KV_hits"] {
            leader_of(&cluster, stream).await;
            run.fault();
            cluster.step_down(stream).await;
        }
        run.work_for(Duration::from_millis(1_500)).await;
    }
    run.recover().await;
    run.finish(name).await
}
