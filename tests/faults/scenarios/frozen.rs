//! Servers that are stopped with SIGSTOP and later resume with their old state.

use std::time::Duration;

use harness::Server;

use super::{Effort, RECORDS, SECOND, cluster, leader as leader_of};
use crate::report::Row;
use crate::run::Run;

/// Freezes the leader until another node leads. The old leader then resumes with the requests that it had received.
pub(crate) async fn leader(name: &'static str, effort: Effort) -> Row {
    one_of_three(name, true, 1, effort.of(10, 30) * SECOND).await
}

/// Freezes the leader for less time than an election takes.
pub(crate) async fn leader_briefly(name: &'static str, effort: Effort) -> Row {
    one_of_three(name, true, effort.of(2, 5), Duration::from_millis(2_500)).await
}

/// Freezes a follower.
pub(crate) async fn follower(name: &'static str, effort: Effort) -> Row {
    one_of_three(name, false, 1, effort.of(10, 30) * SECOND).await
}

/// Freezes a follower for a short time.
pub(crate) async fn follower_briefly(name: &'static str, effort: Effort) -> Row {
    one_of_three(name, false, effort.of(2, 5), Duration::from_millis(2_500)).await
}

async fn one_of_three(name: &'static str, is_leader: bool, rounds: usize, time: Duration) -> Row {
    let (cluster, mut run) = cluster().await;
    for _ in 0..rounds {
        let leader = leader_of(&cluster, RECORDS).await;
        let node = cluster.node(if is_leader { leader } else { (leader + 1) % 3 });
        run.fault();
        node.freeze();
        run.work_for(time).await;
        node.thaw();
        cluster.ready().await;
        run.recover().await;
    }
    run.finish(name).await
}

/// Freezes a single server for longer than the clients' idle timeout.
pub(crate) async fn single(name: &'static str, effort: Effort) -> Row {
    let server = Server::start().await;
    let mut run = Run::start(vec![server.url()], 1).await;
    for _ in 0..effort.of(1, 2) {
        run.fault();
        server.freeze();
        run.work_for(9 * SECOND).await;
        server.thaw();
        run.recover().await;
    }
    run.finish(name).await
}
