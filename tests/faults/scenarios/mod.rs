//! The fault scenarios, one file for each kind of fault.
//!
//! To add a scenario, write a function from an [`Effort`] to a [`Row`] in the file of its kind, or in a new file, and
//! add a line to [`SCENARIOS`]. The function does the following:
//!
//! 1. Starts its servers. They end when they are dropped.
//! 2. Starts a [`Run`] with the addresses of the servers, which starts all workers.
//! 3. Calls [`Run::fault`] before each fault and injects it.
//! 4. Heals everything and awaits [`Run::recover`].
//! 5. Ends with [`Run::finish`], which checks everything that was recorded.
//!
//! A scenario whose name begins with `file-` has a store in a file and no server. `-- --save` writes these scenarios to a
//! separate table.
//!
//! [`Run::note`] and [`Run::violation`] add further results. A `quick` scenario must end within half a minute with
//! `effort.quick`.

mod consumers;
mod control;
mod crashed;
mod faulty_connections;
mod files;
mod frozen;
mod history;
mod indexes;
mod killed;
mod leases;
mod orderly;
mod parted;
mod switches;

pub(crate) use crashed::{HOLD, hold};

use std::time::Duration;

use futures::future::LocalBoxFuture;
use harness::{Cluster, Server, wait};

use crate::report::Row;
use crate::run::Run;

/// The amount of work of a scenario.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// Do the minimum that exercises the scenario.
    pub(crate) quick: bool,
}

impl Effort {
    /// Selects one of two values.
    pub(crate) fn of<T>(self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }
}

/// A named scenario.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// Whether a quick run includes the scenario.
    pub(crate) quick: bool,
    pub(crate) act: fn(Effort) -> LocalBoxFuture<'static, Row>,
}

/// Builds an entry of the list.
macro_rules! scenario {
    ($name:literal, $about:literal, $quick:expr, $act:path) => {
        Scenario { name: $name, about: $about, quick: $quick, act: |effort| Box::pin($act($name, effort)) }
    };
}

/// All scenarios, in execution order.
pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!("control", "the control: the checks detect the losses of a memory bucket", true, control::losses),
    scenario!("leader-killed", "kill -9 of the leader of the records, and its restart", true, killed::leader),
    scenario!("follower-killed", "kill -9 of a follower, and its restart", false, killed::follower),
    scenario!("all-killed", "kill -9 of all three, and their restart", false, killed::all),
    scenario!("two-of-three-down", "kill -9 of two of three, down for 20 s", false, killed::two_of_three),
    scenario!("single-killed", "kill -9 of a server that is alone", false, killed::single),
    scenario!("leader-frozen", "SIGSTOP of the leader for 30 s", false, frozen::leader),
    scenario!("leader-frozen-briefly", "SIGSTOP of the leader for 2.5 s", true, frozen::leader_briefly),
    scenario!("follower-frozen", "SIGSTOP of a follower for 30 s", false, frozen::follower),
    scenario!("follower-frozen-briefly", "SIGSTOP of a follower for 2.5 s", false, frozen::follower_briefly),
    scenario!("single-frozen", "SIGSTOP of a server that is alone, for 9 s", false, frozen::single),
    scenario!("rolling-restart", "SIGTERM and restart, one after the other", false, orderly::rolling_restart),
    scenario!("single-restarted", "SIGTERM and restart of a server that is alone", false, orderly::single_restarted),
    scenario!("step-downs", "the leaders of all buckets step down", true, orderly::step_downs),
    scenario!("consumers-deleted", "the consumers under all watches are deleted", true, consumers::deleted),
    scenario!(
        "acknowledgements-lost",
        "answers are lost on their way",
        true,
        faulty_connections::acknowledgements_lost
    ),
    scenario!("connections-cut", "connections break, and are refused", false, faulty_connections::connections_cut),
    scenario!("servers-hung", "connections to one server stall for 9 s", false, faulty_connections::hung),
    scenario!(
        "single-behind-a-bad-wire",
        "a server that is alone, behind all of that",
        false,
        faulty_connections::single
    ),
    scenario!("parted", "the leader, and the clients who know it alone, cut off from the others", true, parted::leader),
    scenario!("clients-cut-off", "all clients of the leader cut off from it", false, parted::clients),
    scenario!("histories", "9 clients on 5 keys, under leaders that die, hang, step down", false, history::explained),
    scenario!("leases", "leases of 30 s, under leaders that die, hang, are restarted", false, leases::outlive_leaders),
    scenario!(
        "epoch-switches",
        "write epochs switch while the leader steps down or dies",
        true,
        switches::under_faults
    ),
    scenario!(
        "epoch-control",
        "the control: a switch in two updates lets old writes land",
        true,
        switches::in_two_updates
    ),
    scenario!(
        "epoch-control-transform",
        "the control: a transform that names the epoch loses writes",
        false,
        switches::with_moving_transform
    ),
    scenario!(
        "indexes-leader-killed",
        "kill -9 of the leader between entries and records of indexes",
        true,
        indexes::leader_killed
    ),
    scenario!("holders-killed", "kill -9 of processes that hold locks, and of the leader", false, crashed::holders),
    scenario!("file-killed", "kill -9 of a process that writes to a file", true, files::killed),
    scenario!("file-power-lost", "losses of power at calls of a recorded writer to a file", true, files::power_lost),
    scenario!("file-power-lost-again", "losses of power during recoveries of a file", true, files::power_lost_again),
    scenario!(
        "file-power-control",
        "the control: without syncs, losses of power lose writes",
        true,
        files::power_lost_unsynced
    ),
    scenario!("file-taken-over", "a second process at a file, and kill -9 of the first", true, files::taken_over),
    scenario!("file-disk-full", "a small file system fills up, and grows", true, files::disk_full),
    scenario!("file-calls-failing", "a sync or write of a file fails once", true, files::calls_failing),
    scenario!("file-million", "a million records in a file, and a reopen", false, files::million),
];

const SECOND: Duration = Duration::from_secs(1);

/// The stream of the records.
const RECORDS: &str = "KV_records";

/// Starts a cluster of three servers with all workers.
async fn cluster() -> (Cluster, Run) {
    let cluster = Cluster::start(3).await;
    let urls = cluster.nodes().iter().map(Server::url).collect();
    let run = Run::start(urls, 3).await;
    (cluster, run)
}

/// Returns the node that leads a stream.
async fn leader(cluster: &Cluster, stream: &str) -> usize {
    wait::until("the stream has a leader", 60 * SECOND, async || cluster.leader_of(stream).await).await
}
