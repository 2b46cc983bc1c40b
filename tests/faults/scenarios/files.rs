//! P45 to P49: stores in files. Writers that are killed, losses of power, two processes, full disks, failing calls.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvtyped::backend::{Backend, KeySpace};
use kvtyped::{ErrorKind, Outcome, Revision};

use super::{Effort, SECOND};
use crate::figures::Figure;
use crate::file::folder::{Folder, bucket, create, deadline, entries, key, put};
use crate::file::small_disk::SmallDisk;
use crate::file::writer::{Job, Printed, Writer, check, command};
use crate::file::{large, power, recovery, trace};
use crate::report::Row;

/// Starts a writer, and returns it after it has printed this number of lines.
async fn started(file: &Path, job: Job, lines: u64) -> Writer {
    let command = command(&[], file, job);
    let started = tokio::task::spawn_blocking(move || {
        let mut writer = Writer::start(command);
        writer.read(lines);
        writer
    });
    started.await.expect("the writer starts")
}

/// Runs a writer to its end.
async fn finished(command: Command) -> Printed {
    tokio::task::spawn_blocking(move || Writer::start(command).finish()).await.expect("the writer starts")
}

/// Opens a store, and compares it with everything that a writer printed.
async fn compare(row: &mut Row, folder: &Folder, printed: &Printed, fault: &str) {
    row.counts.ok += usize::try_from(printed.lines).unwrap_or(usize::MAX);
    let checked = match folder.open().await {
        Ok(backend) => {
            let checked = check(&backend, printed).await;
            backend.close().await.map_err(|error| error.to_string()).and(checked)
        }
        Err(error) => Err(error.to_string()),
    };
    if let Err(reason) = checked {
        row.violations.push(format!("{fault}: {reason}"));
    }
}

/// Kills a writer again and again, on one file.
pub(crate) async fn killed(name: &'static str, effort: Effort) -> Row {
    let (began, folder, mut row) = (Instant::now(), Folder::new(name), Row::new(name));
    for round in 0..effort.of(5, 200) {
        let job = Job { workers: 4, rounds: 0, sync: round % 4 != 3, journal: 0 };
        // Some rounds end during the open.
        let lines = [300, 0, 1_500, 1, 50][round % 5];
        let writer = started(&folder.file(), job, lines).await;
        let printed = writer.kill();
        row.faults += 1;
        row.violations.extend(printed.errors.iter().map(|error| format!("kill {round}: {error}")));
        compare(&mut row, &folder, &printed, &format!("kill {round}")).await;
    }
    row.figures.add(Figure::FileKills, row.faults);
    row.figures.add(Figure::FileKillsWrites, row.counts.ok);
    row.took = began.elapsed();
    row
}

/// Loses power at many calls of a recorded writer.
pub(crate) async fn power_lost(name: &'static str, effort: Effort) -> Row {
    let (began, mut row) = (Instant::now(), Row::new(name));
    if !trace::is_available() {
        return row;
    }
    let calls = power::record(true).await;
    row.faults = effort.of(25, 500);
    row.counts.ok = calls.iter().filter(|call| matches!(call, trace::Call::Print(_))).count();
    let (wrong, first) = power::losses(&calls, row.faults).await;
    if wrong > 0 {
        row.violations.push(format!("{wrong} of {} losses of power: {first}", row.faults));
    }
    row.figures.add(Figure::PowerLosses, row.faults);
    row.figures.add(Figure::PowerLossesWrites, row.counts.ok);
    row.took = began.elapsed();
    row
}

/// Loses power during recoveries: of a killed store, and of stores that lost power before.
pub(crate) async fn power_lost_again(name: &'static str, effort: Effort) -> Row {
    let (began, mut row) = (Instant::now(), Row::new(name));
    if !trace::is_available() {
        return row;
    }
    let recoveries = effort.of(2, 10);
    let (losses, wrong, first) = recovery::losses_in_recoveries(recoveries, effort.of(10, 40)).await;
    row.faults = losses;
    if wrong > 0 {
        row.violations.push(format!("{wrong} of {losses} losses of power: {first}"));
    }
    row.figures.add(Figure::RecoveryLosses, losses);
    row.figures.add(Figure::Recoveries, recoveries);
    row.took = began.elapsed();
    row
}

/// The control: without the syncs, the same check finds lost writes.
pub(crate) async fn power_lost_unsynced(name: &'static str, effort: Effort) -> Row {
    let (began, mut row) = (Instant::now(), Row::new(name));
    if !trace::is_available() {
        return row;
    }
    let calls = power::record(false).await;
    row.faults = effort.of(15, 200);
    let (wrong, _) = power::losses(&calls, row.faults).await;
    if wrong == 0 {
        row.violations.push("the check finds no lost write".to_owned());
    }
    row.figures.add(Figure::UnsyncedLosses, row.faults);
    row.figures.add(Figure::UnsyncedLossesLost, wrong);
    row.took = began.elapsed();
    row
}

/// Opens the file of a running process, kills the process, and takes over.
pub(crate) async fn taken_over(name: &'static str, effort: Effort) -> Row {
    let (began, folder, mut row) = (Instant::now(), Folder::new(name), Row::new(name));
    for round in 0..effort.of(4, 40) {
        let writer = started(&folder.file(), Job { workers: 2, rounds: 0, sync: true, journal: 0 }, 100).await;
        let refused = folder.store().timeout(SECOND).await;
        match refused.as_ref().map_err(kvtyped::Error::kind) {
            Err(ErrorKind::InUse { process, .. }) if process.contains(&writer.id().to_string()) => {}
            other => row.violations.push(format!("round {round}: a second process got {other:?}")),
        }
        let waiting = tokio::spawn(folder.store().timeout(30 * SECOND).backend());
        tokio::task::yield_now().await;
        let printed = writer.kill();
        let killed = Instant::now();
        row.faults += 1;
        match waiting.await.expect("the open does not panic") {
            Ok(backend) => {
                row.figures.longest(Figure::LongestFileTakeover, killed.elapsed());
                let backend: Arc<dyn Backend> = Arc::new(backend);
                if let Err(reason) = check(&backend, &printed).await {
                    row.violations.push(format!("round {round}: {reason}"));
                }
                row.counts.ok += usize::try_from(printed.lines).unwrap_or(usize::MAX);
                if let Err(error) = backend.close().await {
                    row.violations.push(format!("round {round}: {error}"));
                }
            }
            Err(error) => row.violations.push(format!("round {round}: not taken over: {error}")),
        }
    }
    row.figures.add(Figure::FileTakeovers, row.faults);
    row.took = began.elapsed();
    row
}

/// Fills the disk, erases records, and makes the disk larger, with a reopen in each round.
pub(crate) async fn disk_full(name: &'static str, effort: Effort) -> Row {
    let (began, mut row) = (Instant::now(), Row::new(name));
    let Some(disk) = SmallDisk::new(name, 3) else { return row };
    let mut erased_while_full = 0;
    for round in 0..effort.of(2, 5_u32) {
        let backend = match disk.0.open().await {
            Ok(backend) => backend,
            Err(error) => {
                row.violations.push(format!("round {round}: {error}"));
                break;
            }
        };
        let small = match backend.open("b", deadline()).await {
            Ok(Some(small)) => small,
            _ => create(&backend, |_| {}).await,
        };
        let mut expected: Vec<Revision> = entries(&small).await.iter().map(|entry| entry.revision).collect();
        let full = loop {
            match put(&small, &format!("k{round}.{}", expected.len()), vec![b'v'; 3_000]).await {
                Ok(revision) => expected.push(revision),
                Err(error) => break error,
            }
            row.counts.ok += 1;
        };
        row.faults += 1;
        // Many writers at once, on the full disk.
        let puts = (0..20).map(|number| {
            let small = Arc::clone(&small);
            async move { put(&small, &format!("n{number}"), vec![b'v'; 300_000]).await }
        });
        let refused = futures::future::join_all(puts).await.into_iter().filter_map(Result::err).chain([full]);
        for error in refused {
            let is_expected = error.outcome() == Outcome::NotApplied && error.to_string().contains("no space left");
            row.counts.failed += 1;
            if !is_expected {
                row.violations.push(format!("round {round}: {:?} {error}", error.outcome()));
            }
        }
        let found = entries(&small).await;
        if !found.iter().map(|entry| entry.revision).eq(expected.iter().copied()) {
            row.violations.push(format!("round {round}: {} records of {}", found.len(), expected.len()));
        }
        let erase = async |name: &str| {
            small.purge_through(KeySpace::Records, &key(name), Revision::new(u64::MAX), deadline()).await
        };
        for entry in found.iter().take(20) {
            match erase(entry.key.as_str()).await {
                Ok(_) => erased_while_full += 1,
                Err(error) if error.outcome() == Outcome::NotApplied => row.counts.failed += 1,
                Err(error) => row.violations.push(format!("round {round}: an erasure: {error}")),
            }
        }
        // With room for the WAL, the same store accepts writes.
        disk.grow(3 + 6 * (round + 1));
        for entry in found.iter().skip(40) {
            match erase(entry.key.as_str()).await {
                Ok(_) => row.counts.ok += 1,
                Err(error) => row.violations.push(format!("round {round}: an erasure with room: {error}")),
            }
        }
        let last = entries(&small).await;
        let closed = backend.close().await;
        drop((backend, small));
        match disk.0.open().await {
            Ok(backend) if closed.is_ok() => {
                if entries(&bucket(&backend).await).await != last {
                    row.violations.push(format!("round {round}: a reopen found other records"));
                }
                let _ = backend.close().await;
            }
            other => row.violations.push(format!("round {round}: closed {closed:?}, opened {:?}", other.err())),
        }
    }
    row.counts.ok += erased_while_full;
    row.notes.push(format!("{erased_while_full} erasures succeeded on the full disk"));
    row.figures.add(Figure::DisksFull, row.faults);
    row.figures.add(Figure::DisksFullRefused, row.counts.failed);
    row.took = began.elapsed();
    row
}

/// Lets one call of a writer fail, each time another one.
pub(crate) async fn calls_failing(name: &'static str, effort: Effort) -> Row {
    let (began, mut row) = (Instant::now(), Row::new(name));
    if !trace::is_available() {
        return row;
    }
    let mut ended = 0;
    for (call, error) in [("fsync,fdatasync", "EIO"), ("pwrite64", "EIO"), ("pwrite64", "ENOSPC")] {
        for number in 0..effort.of(2, 20) {
            let at = 1 + number * number / 2 + number;
            let folder = Folder::new(name);
            let inject = format!("inject={call}:error={error}:when={at}");
            let wrapper = ["strace", "-f", "-o", "/dev/null", "-e", &inject];
            let job = Job { workers: 3, rounds: 15, sync: true, journal: 0 };
            let printed = finished(command(&wrapper, &folder.file(), job)).await;
            row.faults += 1;
            ended += usize::from(!printed.errors.is_empty());
            if !printed.is_done && printed.errors.is_empty() {
                row.violations.push(format!("{call} {at} {error}: the writer ended without an error"));
            }
            compare(&mut row, &folder, &printed, &format!("{call} {at} {error}")).await;
        }
    }
    row.notes.push(format!("{ended} of {} writers ended with an error", row.faults));
    row.figures.add(Figure::FailedCalls, row.faults);
    row.figures.add(Figure::FailedCallsEnded, ended);
    row.took = began.elapsed();
    row
}

/// Writes a million records, changes a tenth, and reopens the file.
pub(crate) async fn million(name: &'static str, effort: Effort) -> Row {
    let (began, mut row) = (Instant::now(), Row::new(name));
    let records = effort.of(20_000, 1_000_000);
    let took: Duration = large::store_of(records).await;
    row.faults = 1;
    row.counts.ok = usize::try_from(records + records / 10).unwrap_or(usize::MAX);
    row.figures.add(Figure::LargestFile, usize::try_from(records).unwrap_or(usize::MAX));
    row.figures.longest(Figure::LargestFileOpen, took);
    row.took = began.elapsed();
    row
}
