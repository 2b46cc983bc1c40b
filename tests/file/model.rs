//! Model-based test: the memory backend and a file run the same random operations, and all answers are compared. A reopen
//! is one of the operations. Time is virtual.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::SystemTime;

use futures::StreamExt;
use kvtyped::backend::file::SyncMode;
use kvtyped::backend::memory::MemoryBackend;
use kvtyped::backend::{
    Backend, Batch, Delivered, KeySpace, Precondition, RawBucket, RawEntry, ReadAt, StartFrom, WatchRequest,
    WatchSignal, Write, WriteKind,
};
use kvtyped::config::BucketConfig;
use kvtyped::key::{Pattern, Patterns};
use kvtyped::prelude::*;
use kvtyped::{Error, Key, Outcome, Read, Ttl};
use tokio::time::Instant;

use super::folder::{Folder, Random, deadline, entries, key};

/// The two backends.
struct Twins {
    memory: Arc<dyn Backend>,
    file: Arc<dyn Backend>,
    folder: Folder,
    /// Whether each commit is synced, so that the files may be copied at any time.
    synced: bool,
    /// Whether buckets have `max_bytes` and no markers.
    sized: bool,
    wall: SystemTime,
    start: Instant,
    random: Random,
}

impl Twins {
    async fn new(seed: u64) -> Self {
        let (folder, synced) = (Folder::new("model"), seed.is_multiple_of(2));
        let (wall, start) = (SystemTime::now(), Instant::now());
        let file = open(&folder, synced, wall).await;
        Self {
            memory: Arc::new(MemoryBackend::new()),
            file,
            folder,
            synced,
            sized: seed.is_multiple_of(3),
            wall,
            start,
            random: Random(seed),
        }
    }

    fn key(&mut self) -> Key {
        key(["a", "a.b", "b", "c", "c.d", "e"][self.random.below(6)])
    }

    fn config(&mut self) -> BucketConfig {
        let mut config = BucketConfig::new("b");
        config.history = [None, Some(1), Some(2), Some(5)][self.random.below(4)];
        config.ttl = self.random.percent(20).then(|| Duration::from_secs(5 + self.random.below(10) as u64));
        config.max_bytes = self.random.percent(20).then(|| 400 + self.random.below(2_000) as u64);
        config.max_value_size = self.random.percent(10).then(|| 200 + self.random.below(300) as u32);
        config.limit_markers = self.random.percent(70).then(|| Duration::from_secs(1 + self.random.below(6) as u64));
        // Of several markers that do not all fit, another one may be the first after a reopen.
        match self.sized {
            true => config.limit_markers = Some(Duration::ZERO),
            false => config.max_bytes = None,
        }
        config.atomic = Some(self.random.percent(80));
        config.description = self.random.percent(30).then(|| "text".to_owned());
        config
    }

    fn write(&mut self, last: Revision) -> Write {
        let key = self.key();
        let kind = match self.random.below(8) {
            0 => WriteKind::Delete,
            1 => WriteKind::Purge,
            _ => WriteKind::Put(vec![b'v'; self.random.below(60)].into()),
        };
        let ttl = self.random.percent(30).then(|| Ttl::new(Duration::from_secs(1 + self.random.below(8) as u64)));
        let mut write = Write::new(key, kind).with_ttl(ttl.flatten());
        write.headers.version = self.random.percent(20).then_some(3);
        let signature = self.random.percent(10).then(|| vec![7, 8].into());
        write.headers = write.headers.with_signature(signature);
        if self.random.percent(30) {
            let revision = Revision::new(last.get().saturating_sub(self.random.below(4) as u64));
            write.precondition = Some(Precondition { space: KeySpace::Records, key: self.key(), revision });
        }
        write
    }

    async fn reopen(&mut self) {
        // A marker that does not fit is tried again every two seconds, and also by an open.
        tokio::time::advance(Duration::from_secs(2)).await;
        self.buckets().await;
        let now = self.wall + self.start.elapsed();
        if self.synced && self.random.percent(50) {
            // As after `kill -9`: the files of an open store.
            let copy = self.folder.copy("model");
            self.file = open(&copy, self.synced, now).await;
            self.folder = copy;
        } else {
            self.file.close().await.expect("the file closes");
            self.file = open(&self.folder, self.synced, now).await;
        }
    }

    async fn buckets(&self) -> Option<[Arc<dyn RawBucket>; 2]> {
        let memory = self.memory.open("b", deadline()).await.expect("memory answers");
        let file = self.file.open("b", deadline()).await.expect("the file answers");
        assert_eq!(memory.is_some(), file.is_some());
        Some([memory?, file?])
    }

    /// Runs one operation on both.
    async fn step(&mut self) -> &'static str {
        let what = self.random.below(100);
        if what < 12 {
            tokio::time::advance(Duration::from_millis(self.random.below(2_500) as u64)).await;
            return "time";
        }
        if what < 20 {
            self.reopen().await;
            return "reopen";
        }
        let Some([memory, file]) = self.buckets().await else {
            let config = self.config();
            let created = [&self.memory, &self.file].map(|backend| backend.create(config.clone(), deadline()));
            let [memory, file] = created;
            same(memory.await.map(|b| b.config().clone()), file.await.map(|b| b.config().clone()), "create");
            return "create";
        };
        match what {
            20..22 => {
                let deleted = (self.memory.delete("b", deadline()).await, self.file.delete("b", deadline()).await);
                same(deleted.0, deleted.1, "delete");
                "delete"
            }
            22..30 => {
                let config = self.config();
                let memory = self.memory.update(config.clone(), deadline()).await.map(|b| b.config().clone());
                let file = self.file.update(config, deadline()).await.map(|b| b.config().clone());
                same(memory, file, "update");
                "update"
            }
            30..36 => {
                let (key, through) = (self.key(), Revision::new(self.random.below(60) as u64));
                let memory = memory.purge_through(KeySpace::Records, &key, through, deadline()).await;
                same(memory, file.purge_through(KeySpace::Records, &key, through, deadline()).await, "erase");
                "erase"
            }
            36..48 => {
                let last = last(&memory).await;
                let writes = (0..self.random.below(4)).map(|_| self.write(last)).collect();
                let batch = Batch { writes, preconditions: Vec::new() };
                same(memory.commit(batch.clone(), deadline()).await, file.commit(batch, deadline()).await, "batch");
                "batch"
            }
            48..60 => {
                let at = match self.random.below(3) {
                    0 => ReadAt::Revision(Revision::new(self.random.below(60) as u64)),
                    _ => ReadAt::Newest(Read::Leader),
                };
                let key = self.key();
                let found = [
                    memory.read(KeySpace::Records, &key, at, deadline()).await,
                    file.read(KeySpace::Records, &key, at, deadline()).await,
                ];
                let [memory, file] = found.map(|found| found.map(|entry| entry.map(timeless)));
                same(memory, file, "read");
                "read"
            }
            _ => {
                let last = last(&memory).await;
                let write = self.write(last);
                same(memory.write(write.clone(), deadline()).await, file.write(write, deadline()).await, "write");
                "write"
            }
        }
    }

    /// Compares everything that a reader can see.
    async fn compare(&mut self) {
        let Some([memory, file]) = self.buckets().await else { return };
        let found = [entries(&memory).await, entries(&file).await];
        let [in_memory, in_file] = found.map(|entries| entries.into_iter().map(timeless).collect::<Vec<_>>());
        assert_eq!(in_memory, in_file, "memory, file");
        let status = [memory.status(deadline()).await.unwrap(), file.status(deadline()).await.unwrap()];
        let [of_memory, of_file] =
            status.map(|status| (status.config, status.values, status.bytes, status.last_revision));
        assert_eq!(of_memory, of_file, "memory, file");
        let after = Revision::new(self.random.below(of_file.3.get() as usize + 2) as u64);
        assert_eq!(resumed(&memory, after).await, resumed(&file, after).await, "after {after}: memory, file");
    }
}

async fn open(folder: &Folder, synced: bool, now: SystemTime) -> Arc<dyn Backend> {
    let sync = if synced { SyncMode::Always } else { SyncMode::Off };
    let builder = folder.store().sync(sync).test_clock(now).test_limits(8, 2_000, None);
    Arc::new(builder.backend().await.expect("the file opens"))
}

async fn last(bucket: &Arc<dyn RawBucket>) -> Revision {
    bucket.status(deadline()).await.expect("the bucket has a status").last_revision
}

/// Returns whether a watch after this revision misses nothing, and its listing.
async fn resumed(bucket: &Arc<dyn RawBucket>, after: Revision) -> (bool, Vec<Revision>) {
    let request = WatchRequest {
        patterns: Patterns::new(vec![Pattern::all()]),
        since: StartFrom::After(after),
        headers_only: true,
        idle_timeout: Duration::from_secs(20),
        delivered: Delivered::default(),
    };
    let (mut contiguous, mut found) = (false, Vec::new());
    let mut signals = bucket.watch(request);
    loop {
        match signals.next().await.expect("the watch continues").expect("no error") {
            WatchSignal::Started(started) => contiguous = started.contiguous,
            WatchSignal::Entry { entry, .. } => found.push(entry.revision),
            WatchSignal::Ready => return (contiguous, found),
            _ => {}
        }
    }
}

fn timeless(entry: RawEntry) -> RawEntry {
    RawEntry { created: SystemTime::UNIX_EPOCH, ..entry }
}

fn same<T: std::fmt::Debug>(memory: Result<T, Error>, file: Result<T, Error>, what: &str) {
    let shown = |result: Result<T, Error>| match result {
        Ok(value) => format!("{value:?}"),
        Err(error) => {
            assert_eq!(error.outcome(), Outcome::NotApplied, "{error}");
            match error.kind() {
                // Names the backend.
                kvtyped::ErrorKind::Unsupported { .. } => "Unsupported".to_owned(),
                kind => format!("{kind:?}"),
            }
        }
    };
    assert_eq!(shown(memory), shown(file), "{what}: memory, file");
}

/// The number of sequences. The promise covers 300: `KVTYPED_MODEL_CASES=300`.
fn seeds() -> u64 {
    std::env::var("KVTYPED_MODEL_CASES").map_or(30, |text| text.parse().expect("a number"))
}

#[tokio::test(start_paused = true)]
async fn file_behaves_like_memory_over_reopens() {
    // Virtual time moves only when the test moves it, and not while the thread of the file works.
    let (stop, stopped) = mpsc::channel::<()>();
    let blocker = tokio::task::spawn_blocking(move || stopped.recv());
    let (mut operations, mut reopens) = (0, 0);
    for seed in 0..seeds() {
        let mut twins = Twins::new(seed).await;
        for step in 0..150 {
            let what = twins.step().await;
            eprintln_on_panic(seed, step, what);
            operations += 1;
            reopens += usize::from(what == "reopen");
            if step % 5 == 0 || what == "reopen" {
                twins.compare().await;
            }
        }
        twins.file.close().await.unwrap();
    }
    drop(stop);
    let _ = blocker.await;
    eprintln!("{operations} operations with {reopens} reopens, no difference");
    assert!(reopens as u64 > seeds() * 5, "{reopens}");
}

/// Shows the seed and the step of a difference.
fn eprintln_on_panic(seed: u64, step: u32, what: &'static str) {
    if std::env::var_os("KVTYPED_MODEL_TRACE").is_some() {
        eprintln!("seed {seed}, step {step}: {what}");
    }
}
