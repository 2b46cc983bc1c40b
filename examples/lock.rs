//! A lock around a job, and its hand-over when the holder dies.
//!
//! ```sh
//! cargo run --example lock                                           # two workers in this process; one dies
//! KVTYPED_URL=nats://127.0.0.1:4222 cargo run --example lock -- ada  # in one terminal
//! KVTYPED_URL=nats://127.0.0.1:4222 cargo run --example lock -- bob  # in another; then kill the one that works
//! ```

use kvtyped::prelude::*;
use kvtyped::{Error, Read};

/// The record that the job changes. Its lock is in the same bucket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "reports", key = "{month}", history = 1)]
struct Report {
    month: String,
    pages: u32,
    last_writer: String,
}

/// Short, so that the hand-over is quick. The default of 30 s outlives the election of a new leader in a cluster.
const TTL: Duration = Duration::from_secs(2);

/// Adds pages to the report, one every half second, under its lock.
async fn work(store: Store, name: &str, pages: u32) -> Result<(), Error> {
    let reports: Bucket<Report> = store.bucket().await?;
    let key = ReportKey::new("2026-11");

    println!("{name}: waits for the lock");
    let guard = reports.lock(&key).owner(name).ttl(TTL).await?;
    println!("{name}: has the lock, fence {}", guard.fence());

    // The future is dropped when the lock is lost.
    let job = guard.run(async {
        for _ in 0..pages {
            let mut report = match reports.get(&key).read(Read::Leader).await? {
                Some(report) => report.into_value(),
                None => Report { month: "2026-11".into(), pages: 0, last_writer: String::new() },
            };
            report.pages += 1;
            report.last_writer = name.to_owned();
            // The server refuses the write if another holder has taken the lock since.
            reports.put(&report).fenced_by(&guard).await?;
            println!("{name}: page {}", report.pages);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Ok::<_, Error>(())
    });
    job.await??;
    guard.release().await?;
    println!("{name}: done");
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let url = std::env::var("KVTYPED_URL").unwrap_or_else(|_| "memory:".into());
    let store = Store::connect(url).await?;
    if let Some(name) = std::env::args().nth(1) {
        return work(store, &name, 60).await;
    }

    // A worker that dies: everything in its runtime ends, including the renewal of its lock.
    let doomed = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let doomed = doomed.expect("a runtime of its own");
    doomed.spawn(work(store.clone(), "ada", 1_000));
    tokio::time::sleep(Duration::from_millis(200)).await;
    let bob = tokio::spawn(work(store, "bob", 3));
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    println!("ada is killed");
    doomed.shutdown_background();
    bob.await.expect("bob does not panic")
}
