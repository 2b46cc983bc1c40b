//! P43: few keys, many clients, several kinds of faults, and a history that must be linearizable.

use std::time::{Duration, Instant};

use harness::{Cluster, Server};

use super::{Effort, RECORDS, SECOND, leader};
use crate::report::Row;
use crate::run::Run;

/// Runs 9 clients on 5 keys for a minute, while leaders are killed, frozen and step down in turn.
pub(crate) async fn explained(name: &'static str, effort: Effort) -> Row {
    let cluster = Cluster::start(3).await;
    let urls = cluster.nodes().iter().map(Server::url).collect();
    let mut run = Run::start_clients(urls, 3).await;
    let end = Instant::now() + effort.of(10, 60) * SECOND;
    for round in 0.. {
        if Instant::now() > end {
            break;
        }
        run.work_for(2 * SECOND).await;
        let node = cluster.node(leader(&cluster, RECORDS).await);
        run.fault();
        match round % 3 {
            0 => {
                node.kill().await;
                run.work_for(SECOND).await;
                node.restart().await;
            }
            1 => {
                node.freeze();
                run.work_for(Duration::from_millis(2_500)).await;
                node.thaw();
            }
            _ => drop(cluster.step_down(RECORDS).await),
        }
    }
    cluster.ready().await;
    run.recover().await;
    run.finish(name).await
}
