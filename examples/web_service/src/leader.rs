//! A periodic job that runs in one process: the leader.

use kvtyped::Error;
use kvtyped::prelude::*;
use kvtyped::recipes::Election;
use tokio::sync::watch;

/// The pause between two runs of the job, and between two attempts after an error.
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

/// Campaigns and leads until the signal to stop, and then resigns.
pub async fn run(store: Store, name: String, stopping: watch::Receiver<bool>) -> Result<(), Error> {
    let (election, me) = (election(&store).owner(&*name), Node { name });
    loop {
        let elected = tokio::select! {
            elected = election.campaign(&me) => elected,
            () = stopped(stopping.clone()) => return Ok(()),
        };
        let lost = match elected {
            Ok(leadership) => {
                tokio::select! {
                    // The job is dropped as soon as another process may lead.
                    led = leadership.run(work(&store)) => led.err(),
                    () = stopped(stopping.clone()) => return leadership.resign().await,
                }
            }
            Err(error) if error.is_retryable() || error.outcome() == Outcome::Unknown => Some(error),
            Err(error) => return Err(error),
        };
        if let Some(error) = lost {
            eprintln!("the leadership is lost: {error}");
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// Counts the periods in which a leader worked.
async fn work(store: &Store) {
    let ticks = store.counters("web_ticks");
    loop {
        if let Err(error) = ticks.add("all", 1).await {
            eprintln!("the job failed: {error}");
        }
        tokio::time::sleep(PERIOD).await;
    }
}
