//! Servers that die by `kill -9`, and come back.

use super::{Effort, RECORDS, SECOND, cluster, leader as leader_of};
use crate::report::Row;

/// The leader dies, and comes back when another leads.
pub(crate) async fn leader(name: &'static str, effort: Effort) -> Row {
    kills(name, effort, true).await
}

/// A follower dies, and comes back.
pub(crate) async fn follower(name: &'static str, effort: Effort) -> Row {
    kills(name, effort, false).await
}

async fn kills(name: &'static str, effort: Effort, of_the_leader: bool) -> Row {
    let (cluster, mut run) = cluster().await;
    for _ in 0..effort.of(1, 3) {
        let leader = leader_of(&cluster, RECORDS).await;
        let node = if of_the_leader { leader } else { (leader + 1) % 3 };
        run.fault();
        cluster.node(node).kill().await;
        run.work_for(effort.of(6, 8) * SECOND).await;
        cluster.node(node).restart().await;
        cluster.ready().await;
        run.recover().await;
    }
    run.finish(name).await
}
