//! A periodic job that runs in one process: the leader.

use kvtyped::Error;
use kvtyped::prelude::*;
use kvtyped::recipes::Election;
use tokio::sync::watch;

/// The pause between two runs of the job.
const PERIOD: Duration = Duration::from_millis(500);

/// The value that a leader publishes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    pub name: String,
}

pub fn election(store: &Store) -> Election<Node> {
    store.election("web_leader")
}

/// Waits for the signal to stop.
pub async fn stopped(mut stopping: watch::Receiver<bool>) {
    // An error means that the program has ended.
    let _ = stopping.wait_for(|is_stopping| *is_stopping).await;
}

/// Leads whenever no other process does, until the signal to stop. Then resigns.
pub async fn run(store: Store, name: String, stopping: watch::Receiver<bool>) -> Result<(), Error> {
    let (election, me) = (election(&store).owner(&*name), Node { name });
    // The job is dropped as soon as another process may lead.
    let leads = election.run_forever(&me, |leadership| {
        let store = &store;
        async move {
            work(store).await;
            drop(leadership);
        }
    });
    leads.until(stopped(stopping)).await
}

/// Counts the periods in which a leader worked. Never returns: the future is dropped when the leadership ends.
async fn work(store: &Store) {
    let ticks = store.counters("web_ticks");
    loop {
        if let Err(error) = ticks.add("all", 1).await {
            tracing::warn!(%error, "the job failed");
        }
        tokio::time::sleep(PERIOD).await;
    }
}
