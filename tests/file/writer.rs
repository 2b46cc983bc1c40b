//! A process that writes to a store until it is killed, and the checks of the store afterwards.
//!
//! The process is this test binary, running the test [`file_writer_process`]. It prints what the store acknowledged and
//! what its reads and watches returned. All of that must be stored, whenever the process ends.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use futures::StreamExt;
use kvtyped::Read;
use kvtyped::backend::file::SyncMode;
use kvtyped::backend::{
    Backend, Batch, Delivered, KeySpace, RawBucket, ReadAt, StartFrom, WatchRequest, WatchSignal, Write, WriteKind,
};
use kvtyped::key::{Pattern, Patterns};
use kvtyped::prelude::*;

use super::child::{self, Child};
use super::folder::{deadline, entries, key};
use super::trace::Call;

const HISTORY: u8 = 3;
/// The bucket that a writer deletes.
pub(crate) const BULK: &str = "bulk";

/// The work of a writer process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    pub(crate) workers: u32,
    /// The number of rounds of each worker, or zero for rounds without an end.
    pub(crate) rounds: u32,
    /// Whether each commit is synced.
    pub(crate) sync: bool,
    /// The size of the journal that starts a checkpoint.
    pub(crate) journal: usize,
}

/// The last number of each series that the process printed.
#[derive(Debug, Default, Clone)]
pub(crate) struct Printed {
    pub(crate) numbers: BTreeMap<String, u64>,
    pub(crate) errors: Vec<String>,
    pub(crate) is_done: bool,
    pub(crate) lines: u64,
}

impl Printed {
    /// Adds a text: the name of a series and a number that never decreases.
    pub(crate) fn add(&mut self, line: &str) {
        self.lines += 1;
        let (series, number) = line.trim_end().split_once(' ').expect("a series and a number");
        match (series, number.parse::<u64>()) {
            ("error", _) => self.errors.push(number.to_owned()),
            ("done", _) => self.is_done = true,
            (series, number) => {
                let number = number.expect("a number");
                let last = self.numbers.entry(series.to_owned()).or_default();
                *last = number.max(*last);
            }
        }
    }
}

impl Printed {
    /// Adds what a recorded process printed in one call.
    pub(crate) fn add_call(&mut self, call: &Call) {
        if let Call::Print(text) = call {
            text.split_inclusive('\n').filter_map(child::said).for_each(|line| self.add(line));
        }
    }
}

/// The command that starts a writer process, below another command such as `strace`.
pub(crate) fn command(wrapper: &[&str], file: &Path, job: Job) -> Command {
    let Job { workers, rounds, sync, journal } = job;
    let numbers = [workers.to_string(), rounds.to_string(), sync.to_string(), journal.to_string()];
    let arguments: Vec<_> = numbers.into_iter().chain([file.display().to_string()]).collect();
    child::command(wrapper, "file::writer::file_writer_process", &arguments)
}

/// A running writer process.
pub(crate) struct Writer {
    child: Child,
    pub(crate) printed: Printed,
}

impl Writer {
    pub(crate) fn start(command: Command) -> Self {
        Self { child: Child::start(command), printed: Printed::default() }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.process.id()
    }

    /// Reads this number of lines, or all.
    pub(crate) fn read(&mut self, lines: u64) {
        while self.printed.lines < lines
            && let Some(text) = self.child.next()
        {
            self.printed.add(&text);
        }
    }

    /// Waits for the end of the process, and returns everything that it printed.
    pub(crate) fn finish(mut self) -> Printed {
        self.read(u64::MAX);
        self.child.process.wait().expect("the process ends");
        self.printed
    }

    /// Kills the process, and returns everything that it printed.
    pub(crate) fn kill(mut self) -> Printed {
        self.child.kill();
        self.read(u64::MAX);
        self.printed
    }
}

fn say(series: &str, number: impl std::fmt::Display) {
    child::say(format_args!("{series} {number}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the process that other tests start"]
async fn file_writer_process() {
    run().await;
}

/// Runs the job of this process.
pub(crate) async fn run() {
    let arguments = child::arguments().expect("started by another test");
    let [workers, rounds, sync, journal, file] = arguments.as_slice() else { panic!("five arguments: {arguments:?}") };
    let (workers, rounds, journal) = (workers.parse().unwrap(), rounds.parse().unwrap(), journal.parse().unwrap());
    let sync = if sync == "true" { SyncMode::Always } else { SyncMode::Off };
    let opened = Store::file(file).sync(sync).test_limits(64, journal, None).backend().await;
    let backend: Arc<dyn Backend> = match opened {
        Ok(backend) => Arc::new(backend),
        Err(error) => return say("error", format!("open: {error}")),
    };
    // A bucket of another test, whose rows stay in the file until the store has time.
    if let Err(error) = backend.delete(BULK, deadline()).await {
        return say("error", format!("delete: {error}"));
    }
    let bucket = match backend.open("b", deadline()).await.unwrap() {
        Some(bucket) => bucket,
        None => {
            let mut config = kvtyped::config::BucketConfig::new("b");
            config.history = Some(HISTORY);
            match backend.create(config, deadline()).await {
                Ok(bucket) => bucket,
                Err(error) => return say("error", format!("create: {error}")),
            }
        }
    };
    let watcher = tokio::spawn(watch(Arc::clone(&bucket)));
    let workers: Vec<_> = (0..workers).map(|worker| tokio::spawn(work(Arc::clone(&bucket), worker, rounds))).collect();
    for worker in workers {
        worker.await.unwrap();
    }
    watcher.abort();
    if let Err(error) = backend.close().await {
        say("error", format!("close: {error}"));
    }
    say("done", 1);
}

/// Writes growing numbers: a record with a history, a batch of two records, and a record that is deleted at times.
async fn work(bucket: Arc<dyn RawBucket>, worker: u32, rounds: u32) {
    let name = format!("w{worker}");
    let put = |name: String, number: u64| Write::new(key(&name), WriteKind::Put(number.to_string().into()));
    let first = read(&bucket, &name).await + 1;
    let last = if rounds == 0 { u64::MAX } else { first + u64::from(rounds) };
    for number in first..last {
        let steps = [
            bucket.write(put(name.clone(), number), deadline()).await.map(drop),
            bucket
                .commit(
                    Batch {
                        writes: vec![put(format!("{name}.a"), number), put(format!("{name}.b"), number)],
                        preconditions: Vec::new(),
                    },
                    deadline(),
                )
                .await
                .map(drop),
            match number % 3 {
                0 => {
                    let erased = key(&format!("{name}.gone"));
                    bucket
                        .purge_through(KeySpace::Records, &erased, Revision::new(u64::MAX), deadline())
                        .await
                        .map(drop)
                }
                _ => bucket.write(put(format!("{name}.gone"), number), deadline()).await.map(drop),
            },
        ];
        for (step, series) in steps.into_iter().zip([name.clone(), format!("{name}.a"), format!("{name}.gone")]) {
            match step {
                Ok(()) => say(&series, number),
                Err(error) => return say("error", format!("{:?} {error}", error.outcome())),
            }
        }
        // Another worker's record: a read returns only what is stored.
        let other = format!("w{}", (worker + 1) % 4);
        say(&other, read(&bucket, &other).await);
    }
}

async fn read(bucket: &Arc<dyn RawBucket>, name: &str) -> u64 {
    match bucket.read(KeySpace::Records, &key(name), ReadAt::Newest(Read::Leader), deadline()).await {
        Ok(entry) => entry.map_or(0, |entry| number(&entry.value)),
        // The writers report the failure.
        Err(_) => 0,
    }
}

/// Prints everything that a watch delivers.
async fn watch(bucket: Arc<dyn RawBucket>) {
    let request = WatchRequest {
        patterns: Patterns::new(vec![Pattern::all()]),
        since: StartFrom::Newest,
        headers_only: false,
        idle_timeout: Duration::from_secs(20),
        delivered: Delivered::default(),
    };
    let mut signals = bucket.watch(request);
    while let Some(Ok(signal)) = signals.next().await {
        match signal {
            WatchSignal::Entry { entry, .. } if entry.is_live() => {
                say("revision", entry.revision);
                if !entry.key.as_str().ends_with("gone") {
                    say(entry.key.as_str(), number(&entry.value));
                }
            }
            WatchSignal::Heartbeat { through } => say("revision", through),
            _ => {}
        }
    }
}

fn number(value: &[u8]) -> u64 {
    std::str::from_utf8(value).expect("text").parse().expect("a number")
}

/// Checks that a store contains everything that was printed, and that every operation is whole.
pub(crate) async fn check(backend: &Arc<dyn Backend>, printed: &Printed) -> Result<(), String> {
    let Some(bucket) = backend.open("b", deadline()).await.map_err(|error| error.to_string())? else {
        return if printed.numbers.is_empty() { Ok(()) } else { Err("the bucket is lost".to_owned()) };
    };
    let status = bucket.status(deadline()).await.map_err(|error| error.to_string())?;
    let mut newest = BTreeMap::new();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for entry in entries(&bucket).await {
        *counts.entry(entry.key.to_string()).or_default() += 1;
        newest.insert(entry.key.to_string(), number(&entry.value));
    }
    if let Some((key, count)) = counts.iter().find(|(_, count)| **count > usize::from(HISTORY)) {
        return Err(format!("`{key}` has {count} entries, and the history is {HISTORY}"));
    }
    for (series, acknowledged) in &printed.numbers {
        let stored = match series.as_str() {
            "revision" => status.last_revision.get(),
            gone if gone.ends_with("gone") => {
                // A number divisible by three erases the record.
                let stored = newest.get(gone).copied();
                let is_lost = match acknowledged % 3 {
                    0 => stored.is_some_and(|stored| stored < *acknowledged),
                    1 => {
                        // A later process skips the next round if its first write is stored, and may have erased the
                        // record in the round after it, without an acknowledgement.
                        let round = newest.get(gone.trim_end_matches(".gone")).copied().unwrap_or_default();
                        let is_erased = stored.is_none() && round >= acknowledged + 2;
                        stored != Some(*acknowledged) && stored != Some(*acknowledged + 1) && !is_erased
                    }
                    _ => stored.is_some_and(|stored| stored < *acknowledged),
                };
                if is_lost {
                    return Err(format!("`{gone}` is {stored:?}, and {acknowledged} was acknowledged"));
                }
                continue;
            }
            series => newest.get(series).copied().unwrap_or_default(),
        };
        if stored < *acknowledged {
            return Err(format!("`{series}` is {stored}, and {acknowledged} was acknowledged"));
        }
    }
    for (name, first) in newest.iter().filter(|(name, _)| name.ends_with(".a")) {
        let second = newest.get(&name.replace(".a", ".b"));
        if second != Some(first) {
            return Err(format!("the batch of `{name}` is not whole: {first} and {second:?}"));
        }
    }
    Ok(())
}
