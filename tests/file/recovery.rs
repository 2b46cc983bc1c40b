//! P45 and P46: the end of a process and losses of power while a store recovers, moves its journal and returns space.

use kvtyped::config::BucketConfig;

use super::folder::{Folder, Random, deadline, put};
use super::power::{losses_after, record, record_on};
use super::trace::{Call, Disk, is_available};
use super::writer::{BULK, Job, Printed, Writer, check, command};

/// The process that recovers a store, writes to it and closes it.
const RECOVERY: Job = Job { workers: 2, rounds: 2, sync: true, journal: 0 };

/// Returns the files of a killed writer, and its output. The files contain a long journal and the entries of a deleted
/// bucket.
async fn killed_store() -> (Folder, Printed) {
    let folder = Folder::new("killed");
    let backend = folder.open().await.expect("the file opens");
    let bulk = backend.create(BucketConfig::new(BULK), deadline()).await.expect("the bucket is created");
    let names: Vec<_> = (0..400).map(|number| format!("k{number}")).collect();
    futures::future::try_join_all(names.iter().map(|name| put(&bulk, name, vec![b'v'; 1_000]))).await.expect("all fit");
    backend.close().await.expect("the file closes");
    let job = Job { workers: 3, rounds: 0, sync: true, journal: usize::MAX };
    let command = command(&[], &folder.file(), job);
    let printed = tokio::task::spawn_blocking(move || {
        let mut writer = Writer::start(command);
        writer.read(200);
        writer.kill()
    });
    (folder, printed.await.expect("the writer starts"))
}

/// Recovers a store in a process, below another command.
async fn recover(wrapper: &[&str], folder: &Folder, printed: &Printed) -> Printed {
    let command = command(wrapper, &folder.file(), RECOVERY);
    let recovery = tokio::task::spawn_blocking(move || Writer::start(command).finish()).await;
    let mut recovery = recovery.expect("the writer starts");
    for (series, number) in &printed.numbers {
        let last = recovery.numbers.entry(series.clone()).or_default();
        *last = (*number).max(*last);
    }
    recovery
}

/// The calls of a process on its files.
const CALLS: &str = "pwrite64,write,fsync,fdatasync,ftruncate,unlink";

/// Kills the recovery at its calls, each time at another one.
async fn kills(step: usize) {
    if !is_available() {
        return;
    }
    let (folder, printed) = killed_store().await;
    let (mut at, mut kills) = (1, 0);
    loop {
        let copy = folder.copy("recovery");
        let inject = format!("inject={CALLS}:signal=SIGKILL:when={at}");
        let wrapper = ["strace", "-f", "-o", "/dev/null", "-e", &format!("trace={CALLS}"), "-e", &inject];
        let recovery = recover(&wrapper, &copy, &printed).await;
        assert!(recovery.errors.is_empty(), "call {at}: {recovery:?}");
        let backend = copy.open().await.unwrap_or_else(|error| panic!("call {at}: {error}"));
        check(&backend, &recovery).await.unwrap_or_else(|error| panic!("call {at}: {error}"));
        assert_eq!(backend.names(deadline()).await.unwrap(), ["b"], "call {at}");
        backend.close().await.unwrap();
        if recovery.is_done {
            break;
        }
        kills += 1;
        at += step;
    }
    eprintln!("{kills} kills in {at} calls of a recovery, no acknowledged write lost");
    assert!(kills >= 10, "{kills}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recovery_killed_at_a_call_loses_no_acknowledged_write() {
    kills(23).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: a kill at every call"]
async fn recovery_killed_at_every_call_loses_no_acknowledged_write() {
    kills(1).await;
}

/// Loses power during recoveries: of a killed store, and of stores that lost power before. Returns the number of losses,
/// the number of stores that do not open or lack an acknowledged write, and the first reason.
pub(crate) async fn losses_in_recoveries(recoveries: usize, crashes: usize) -> (usize, usize, String) {
    let writer = record(true).await;
    let mut random = Random(23);
    let (mut losses, mut wrong, mut first) = (0, 0, String::new());
    for number in 0..recoveries {
        let (folder, printed) = match number {
            0 => killed_store().await,
            _ => {
                let (mut disk, mut printed) = (Disk::default(), Printed::default());
                for call in &writer[..1 + random.below(writer.len() - 1)] {
                    disk.apply(call);
                    printed.add_call(call);
                }
                let folder = Folder::new("lost");
                disk.lose_power(&folder.path(""), || random.percent(50));
                (folder, printed)
            }
        };
        let disk = Disk::of(&folder.path(""));
        let calls: Vec<Call> = record_on(&folder, RECOVERY).await;
        let (lost, reason) = losses_after(disk, printed, &calls, crashes, number as u64).await;
        losses += crashes;
        wrong += lost;
        first = if first.is_empty() && lost > 0 { format!("recovery {number}: {reason}") } else { first };
    }
    (losses, wrong, first)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_of_power_in_a_recovery_loses_no_acknowledged_write() {
    if !is_available() {
        return;
    }
    let (losses, wrong, first) = losses_in_recoveries(3, 25).await;
    eprintln!("{losses} losses of power in 3 recoveries, {wrong} wrong");
    assert_eq!(wrong, 0, "{first}");
}
