//! Correct servers behind faulty connections.

use std::time::Duration;

use futures::future::join_all;
use harness::{Cluster, Mode, Proxy, Server};

use super::{Effort, SECOND};
use crate::report::Row;
use crate::run::Run;

/// Starts a cluster with a proxy in front of each server. All workers connect through the proxies.
async fn behind_proxies() -> (Cluster, Vec<Proxy>, Run) {
    let cluster = Cluster::start(3).await;
    let proxies = join_all(cluster.nodes().iter().map(|node| Proxy::start(node.addr()))).await;
    let run = Run::start(proxies.iter().map(Proxy::url).collect(), 3).await;
    (cluster, proxies, run)
}

/// Drops the replies of servers that process their requests.
pub(crate) async fn acknowledgements_lost(name: &'static str, effort: Effort) -> Row {
    let (_cluster, proxies, mut run) = behind_proxies().await;
    for round in 0..effort.of(2, 8) {
        run.fault();
        // Either all proxies, or one of them.
        let struck = if round % 2 == 0 { 0..3 } else { round % 3..round % 3 + 1 };
        for proxy in &proxies[struck] {
            proxy.set(Mode::DropReplies);
        }
        run.work_for(Duration::from_millis(700)).await;
        for proxy in &proxies {
            proxy.set(Mode::Pass);
        }
        run.work_for(2 * SECOND).await;
    }
    run.recover().await;
    let dropped: u64 = proxies.iter().map(Proxy::dropped_replies).sum();
    run.note(format!("{dropped} messages of servers were lost"));
    run.finish(name).await
}

/// Cuts connections, and refuses new ones for a while.
pub(crate) async fn connections_cut(name: &'static str, effort: Effort) -> Row {
    let (_cluster, proxies, mut run) = behind_proxies().await;
    for round in 0..effort.of(2, 8) {
        run.fault();
        for proxy in &proxies {
            proxy.cut();
        }
        run.work_for(SECOND).await;
        run.fault();
        let struck = &proxies[round % 3];
        struck.set(Mode::Refuse);
        run.work_for(2 * SECOND).await;
        struck.set(Mode::Pass);
    }
    run.recover().await;
    run.finish(name).await
}

/// Stalls the connections to a server for longer than the clients' idle timeout.
pub(crate) async fn hung(name: &'static str, effort: Effort) -> Row {
    let (_cluster, proxies, mut run) = behind_proxies().await;
    for proxy in &proxies[..effort.of(1, 3)] {
        run.fault();
        proxy.set(Mode::Stall);
        run.work_for(9 * SECOND).await;
        proxy.set(Mode::Pass);
        run.recover().await;
    }
    run.finish(name).await
}

/// A single server behind a connection that drops replies, refuses clients and stalls in turn.
pub(crate) async fn single(name: &'static str, effort: Effort) -> Row {
    let server = Server::start().await;
    let proxy = Proxy::start(server.addr()).await;
    let mut run = Run::start(vec![proxy.url()], 1).await;
    for _ in 0..effort.of(1, 4) {
        for mode in [Mode::DropReplies, Mode::Refuse, Mode::Stall] {
            run.fault();
            proxy.set(mode);
            run.work_for(Duration::from_millis(1_500)).await;
            proxy.set(Mode::Pass);
            run.work_for(SECOND).await;
        }
    }
    run.recover().await;
    run.finish(name).await
}
