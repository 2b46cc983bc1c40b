//! P46: losses of power. The calls of a writer are recorded, and cut at many places. Synced data survives. Of the other
//! data, any part survives.

use std::sync::Arc;

use kvtyped::backend::Backend;

use super::folder::{Folder, Random};
use super::trace::{Call, Disk, arguments, is_available, parse};
use super::writer::{Job, Printed, Writer, check, command};

/// Records a writer.
pub(crate) async fn record(sync: bool) -> Vec<Call> {
    record_on(&Folder::new("power"), Job { workers: 3, rounds: 25, sync, journal: 0 }).await
}

/// Records a writer on the store of a folder.
pub(crate) async fn record_on(folder: &Folder, job: Job) -> Vec<Call> {
    let traces = Folder::new("trace");
    let trace = traces.path("trace.txt");
    let command = command(&arguments(trace.to_str().unwrap()), &folder.file(), job);
    let writer = tokio::task::spawn_blocking(move || Writer::start(command).finish());
    let printed = writer.await.unwrap();
    assert!(printed.is_done && printed.errors.is_empty(), "{printed:?}");
    parse(&trace, &folder.path(""))
}

/// Loses power at this number of places. Counts the stores that do not open or lack an acknowledged write.
pub(crate) async fn losses(calls: &[Call], crashes: usize) -> (usize, String) {
    losses_after(Disk::default(), Printed::default(), calls, crashes, 7).await
}

/// Loses power at this number of places of a process that began with this disk, after other processes printed something.
pub(crate) async fn losses_after(
    mut disk: Disk,
    mut printed: Printed,
    calls: &[Call],
    crashes: usize,
    seed: u64,
) -> (usize, String) {
    let mut random = Random(seed);
    let (mut wrong, mut first) = (0, String::new());
    let mut places: Vec<_> = (0..crashes).map(|_| 1 + random.below(calls.len() - 1)).collect();
    places.sort_unstable();
    let mut done = 0;
    for (crash, place) in places.into_iter().enumerate() {
        for call in &calls[done..place] {
            disk.apply(call);
            printed.add_call(call);
        }
        done = place;
        let folder = Folder::new("lost");
        let share = [0, 20, 50, 90, 100][crash % 5];
        disk.lose_power(&folder.path(""), || random.percent(share));
        let checked = match folder.store().test_limits(64, 0, None).backend().await {
            Ok(backend) => {
                let backend: Arc<dyn Backend> = Arc::new(backend);
                let checked = check(&backend, &printed).await;
                backend.close().await.map_err(|error| error.to_string()).and(checked)
            }
            Err(error) => Err(error.to_string()),
        };
        if let Err(reason) = checked {
            wrong += 1;
            first = if first.is_empty() { format!("crash {crash} at call {place}: {reason}") } else { first };
        }
    }
    (wrong, first)
}

/// The number of losses of power. The promise covers 500.
fn crashes() -> usize {
    std::env::var("KVTYPED_POWER_LOSSES").map_or(60, |text| text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_of_power_loses_no_acknowledged_write() {
    if !is_available() {
        return;
    }
    let calls = record(true).await;
    let syncs = calls.iter().filter(|call| matches!(call, Call::Sync { .. })).count();
    assert!(syncs > 50, "each commit is synced: {syncs}");
    let (wrong, first) = losses(&calls, crashes()).await;
    eprintln!("{} losses of power in {} calls with {syncs} syncs, {wrong} wrong", crashes(), calls.len());
    assert_eq!(wrong, 0, "{first}");
}

/// The control: without the syncs, the same check finds lost writes, and the store still opens.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_of_power_loses_writes_without_sync() {
    if !is_available() {
        return;
    }
    let calls = record(false).await;
    let (wrong, first) = losses(&calls, 40).await;
    assert!(wrong > 0, "the check finds lost writes");
    assert!(first.contains("acknowledged") || first.contains("the bucket is lost"), "{first}");
}
