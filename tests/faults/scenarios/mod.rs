//! What fails, and when: a file for each kind of fault.
//!
//! To add a scenario: write a function from an [`Effort`] to a [`Row`] in the file of its kind, or in a new one, and give it a
//! line in [`SCENARIOS`]. It starts its servers (they end when it drops them), then a [`Run`] by the addresses of the servers,
//! by which all workers start; it does what is to be done with [`Run::fault`] before each fault; heals everything; awaits
//! [`Run::recover`]; and ends with [`Run::finish`], which checks all that was recorded. What it has to say beyond that goes to
//! [`Run::note`] and [`Run::violation`]. Those that are `quick` must be over in half a minute with `effort.quick`.

mod killed;
mod parted;

use std::time::Duration;

use futures::future::LocalBoxFuture;
use harness::{Cluster, Server, wait};

use crate::report::Row;
use crate::run::Run;

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// As little as shows something.
    pub(crate) quick: bool,
}

impl Effort {
    /// One number or the other.
    pub(crate) fn of<T>(self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }
}

/// A scenario by its name.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// Whether it belongs to the quick ones.
    pub(crate) quick: bool,
    pub(crate) act: fn(Effort) -> LocalBoxFuture<'static, Row>,
}

/// A line of the list.
macro_rules! scenario {
    ($name:literal, $about:literal, $quick:expr, $act:path) => {
        Scenario { name: $name, about: $about, quick: $quick, act: |effort| Box::pin($act($name, effort)) }
    };
}

/// All scenarios, in the order in which they run.
pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!("leader-killed", "kill -9 of the leader of the records, and its restart", true, killed::leader),
    scenario!("follower-killed", "kill -9 of a follower, and its restart", false, killed::follower),
    scenario!(
        "parted",
        "the leader of the records, and the clients of it alone, cut off from the others",
        true,
        parted::leader
    ),
];

const SECOND: Duration = Duration::from_secs(1);

/// The stream of the records.
const RECORDS: &str = "KV_records";

/// A cluster of three, with everybody at work.
async fn cluster() -> (Cluster, Run) {
    let cluster = Cluster::start(3).await;
    let urls = cluster.nodes().iter().map(Server::url).collect();
    let run = Run::start(urls, 3).await;
    (cluster, run)
}

/// The node that leads a stream.
async fn leader(cluster: &Cluster, stream: &str) -> usize {
    wait::until("the stream has a leader", 60 * SECOND, async || cluster.leader_of(stream).await).await
}
