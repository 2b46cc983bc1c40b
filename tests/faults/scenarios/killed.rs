//! Servers that are killed with SIGKILL and restarted.

use harness::Server;

use super::{Effort, RECORDS, SECOND, cluster, leader as leader_of};
use crate::report::Row;
use crate::run::Run;

/// Kills the leader and restarts it when another node leads.
pub(crate) async fn leader(name: &'static str, effort: Effort) -> Row {
    one_of_three(name, effort, true).await
}

/// Kills a follower and restarts it.
pub(crate) async fn follower(name: &'static str, effort: Effort) -> Row {
    one_of_three(name, effort, false).await
}

async fn one_of_three(name: &'static str, effort: Effort, is_leader: bool) -> Row {
    let (cluster, mut run) = cluster().await;
    for _ in 0..effort.of(1, 2) {
        let leader = leader_of(&cluster, RECORDS).await;
        let node = if is_leader { leader } else { (leader + 1) % 3 };
        run.fault();
        cluster.node(node).kill().await;
        run.work_for(6 * SECOND).await;
        cluster.node(node).restart().await;
        cluster.ready().await;
        run.recover().await;
    }
    run.finish(name).await
}

/// Kills all servers at once and restarts them.
pub(crate) async fn all(name: &'static str, effort: Effort) -> Row {
    let (cluster, mut run) = cluster().await;
    for _ in 0..effort.of(1, 2) {
        run.fault();
        let nodes = cluster.nodes();
        futures::future::join_all(nodes.iter().map(Server::kill)).await;
        run.work_for(2 * SECOND).await;
        futures::future::join_all(nodes.iter().map(Server::restart)).await;
        cluster.ready().await;
        run.recover().await;
    }
    run.finish(name).await
}

/// Keeps two of three servers down for a while, so that there is no quorum.
pub(crate) async fn two_of_three(name: &'static str, effort: Effort) -> Row {
    let (cluster, mut run) = cluster().await;
    let leader = leader_of(&cluster, RECORDS).await;
    let gone = [cluster.node(leader), cluster.node((leader + 1) % 3)];
    run.fault();
    futures::future::join_all(gone.map(Server::kill)).await;
    run.work_for(effort.of(8, 20) * SECOND).await;
    futures::future::join_all(gone.map(Server::restart)).await;
    cluster.ready().await;
    run.recover().await;
    run.finish(name).await
}

/// Kills a single server and restarts it with its store.
pub(crate) async fn single(name: &'static str, effort: Effort) -> Row {
    let server = Server::start().await;
    let mut run = Run::start(vec![server.url()], 1).await;
    for _ in 0..effort.of(1, 4) {
        run.fault();
        server.kill().await;
        run.work_for(SECOND).await;
        server.restart().await;
        run.recover().await;
    }
    run.finish(name).await
}
