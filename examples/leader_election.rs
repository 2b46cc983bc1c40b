//! One of several nodes leads. The other nodes know the leader, and another one takes over when it dies.
//!
//! ```sh
//! cargo run --example leader_election                                           # two nodes and an observer; one dies
//! KVTYPED_URL=nats://127.0.0.1:4222 cargo run --example leader_election -- ada  # in one terminal
//! KVTYPED_URL=nats://127.0.0.1:4222 cargo run --example leader_election -- bob  # in another; then kill the leader
//! ```

use kvtyped::Error;
use kvtyped::prelude::*;
use kvtyped::recipes::Election;

/// The value that a node publishes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Node {
    name: String,
    jobs: u32,
}

/// Short, so that the hand-over is quick. The default of 30 s outlives the election of a new leader in a cluster.
const TTL: Duration = Duration::from_secs(2);

fn election(store: &Store, name: &str) -> Election<Node> {
    store.election("scheduler").ttl(TTL).owner(name)
}

/// Campaigns, and runs `jobs` jobs as the leader.
async fn lead(store: Store, name: &str, jobs: u32) -> Result<(), Error> {
    let mut me = Node { name: name.to_owned(), jobs: 0 };
    let leadership = election(&store, name).campaign(&me).await?;
    println!("{name}: leads, term {}", leadership.fence());

    // The future is dropped when another node may lead.
    let schedule = leadership.run(async {
        for _ in 0..jobs {
            tokio::time::sleep(Duration::from_millis(300)).await;
            me.jobs += 1;
            leadership.proclaim(&me).await?;
        }
        Ok::<_, Error>(())
    });
    schedule.await??;
    leadership.resign().await?;
    println!("{name}: has resigned");
    Ok(())
}

/// Prints each leader and its published value.
async fn observe(store: Store) -> Result<(), Error> {
    let mut leaders = election(&store, "observer").observe().await?;
    while let Some(leader) = leaders.try_next().await? {
        println!("        {} leads, term {}, jobs: {}", leader.name, leader.fence(), leader.jobs);
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let url = std::env::var("KVTYPED_URL").unwrap_or_else(|_| "memory:".into());
    let store = Store::connect(url).await?;
    if let Some(name) = std::env::args().nth(1) {
        tokio::spawn(observe(store.clone()));
        return lead(store, &name, 60).await;
    }

    let observer = tokio::spawn(observe(store.clone()));
    // A node that dies: everything in its runtime ends, including the renewal of its lease.
    let doomed = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let doomed = doomed.expect("a runtime of its own");
    doomed.spawn(lead(store.clone(), "ada", 1_000));
    tokio::time::sleep(Duration::from_millis(200)).await;
    let bob = tokio::spawn(lead(store, "bob", 3));
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    println!("ada is killed");
    doomed.shutdown_background();
    bob.await.expect("bob does not panic")?;
    // The observer never ends. It may have missed the value that was published right before the resignation.
    observer.abort();
    Ok(())
}
