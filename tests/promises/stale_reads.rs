//! Stale reads, simulated on the memory backend. A seed decides about each read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::BoxFuture;
use kvtyped::backend::memory::MemoryBackend;
use kvtyped::backend::{Backend, Capabilities, Deadline, KeySpace, RawBucket, RawCounters, RawEntry, ReadAt, Write};
use kvtyped::config::BucketConfig;
use kvtyped::key::Key;
use kvtyped::prelude::*;
use kvtyped::{Error, ErrorKind, Read};

use crate::support::forward::forward;
use crate::support::{Session, SessionKey};

/// The state that all writers share: the backend, and all entries that were ever stored.
#[derive(Debug, Default)]
struct Shared {
    memory: MemoryBackend,
    past: Mutex<Vec<RawEntry>>,
}

/// The backend as one writer sees it: reads may be stale, and each operation yields to other tasks.
#[derive(Debug, Clone)]
struct Stale {
    shared: Arc<Shared>,
    mine: Arc<Mutex<Mine>>,
}

/// The state of one writer.
#[derive(Debug)]
struct Mine {
    dice: u64,
    /// The current revision in the last conflict.
    conflict: Revision,
    stale_reads: usize,
    /// The number of reads and writes that the writer sent.
    requests: usize,
}

#[derive(Debug)]
struct StaleBucket {
    stale: Stale,
    raw: Arc<dyn RawBucket>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stale {
    fn new(shared: &Arc<Shared>, seed: u64) -> Self {
        let mine = Mine { dice: seed, conflict: Revision::ZERO, stale_reads: 0, requests: 0 };
        Self { shared: Arc::clone(shared), mine: Arc::new(Mutex::new(mine)) }
    }

    fn mine(&self) -> MutexGuard<'_, Mine> {
        lock(&self.mine)
    }

    /// Returns the revision with this number of visits.
    fn revision_of(&self, visits: u32) -> Revision {
        let past = lock(&self.shared.past);
        past[usize::try_from(visits).expect("small")].revision
    }

    fn over(&self, raw: Arc<dyn RawBucket>) -> Arc<dyn RawBucket> {
        Arc::new(StaleBucket { stale: self.clone(), raw })
    }
}

impl Mine {
    /// Returns a number below `sides` (splitmix64).
    fn roll(&mut self, sides: u64) -> u64 {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.dice;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

impl Backend for Stale {
    fn capabilities(&self, deadline: Deadline) -> BoxFuture<'_, Result<Capabilities, Error>> {
        self.shared.memory.capabilities(deadline)
    }

    fn create(&self, config: BucketConfig, deadline: Deadline) -> BoxFuture<'_, Result<Arc<dyn RawBucket>, Error>> {
        async move { Ok(self.over(self.shared.memory.create(config, deadline).await?)) }.boxed()
    }

    fn open<'a>(
        &'a self,
        name: &'a str,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Option<Arc<dyn RawBucket>>, Error>> {
        async move { Ok(self.shared.memory.open(name, deadline).await?.map(|raw| self.over(raw))) }.boxed()
    }

    fn update(&self, config: BucketConfig, deadline: Deadline) -> BoxFuture<'_, Result<Arc<dyn RawBucket>, Error>> {
        async move { Ok(self.over(self.shared.memory.update(config, deadline).await?)) }.boxed()
    }

    fn delete<'a>(&'a self, name: &'a str, deadline: Deadline) -> BoxFuture<'a, Result<bool, Error>> {
        self.shared.memory.delete(name, deadline)
    }

    fn counters(
        &self,
        config: BucketConfig,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<Option<Arc<dyn RawCounters>>, Error>> {
        self.shared.memory.counters(config, deadline)
    }

    fn names(&self, deadline: Deadline) -> BoxFuture<'_, Result<Vec<String>, Error>> {
        self.shared.memory.names(deadline)
    }

    fn close(&self) -> BoxFuture<'_, Result<(), Error>> {
        self.shared.memory.close()
    }
}

impl RawBucket for StaleBucket {
    forward! { raw: config identity status commit purge_through read_many list_keys count_keys scan watch }

    fn write(&self, write: Write, deadline: Deadline) -> BoxFuture<'_, Result<Revision, Error>> {
        async move {
            self.stale.mine().requests += 1;
            tokio::task::yield_now().await;
            let key = write.key.clone();
            let result = self.raw.write(write, deadline).await;
            match &result {
                Ok(revision) => {
                    let stored = self.raw.read(KeySpace::Records, &key, ReadAt::Revision(*revision), deadline).await?;
                    lock(&self.stale.shared.past).extend(stored);
                }
                Err(error) => {
                    if let ErrorKind::Conflict { actual: Some(actual), .. } = error.kind() {
                        self.stale.mine().conflict = *actual;
                    }
                }
            }
            tokio::task::yield_now().await;
            result
        }
        .boxed()
    }

    fn read<'a>(
        &'a self,
        space: KeySpace,
        key: &'a Key,
        at: ReadAt,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Option<RawEntry>, Error>> {
        async move {
            self.stale.mine().requests += 1;
            tokio::task::yield_now().await;
            // A partitioned leader answers with an older state. Other servers do so more often.
            let percent = match at {
                ReadAt::Newest(Read::Any) => 30,
                ReadAt::Newest(Read::Leader) => 10,
                _ => 0,
            };
            let old = {
                let mut mine = self.stale.mine();
                let past = lock(&self.stale.shared.past);
                let back = usize::try_from(1 + mine.roll(8)).expect("small");
                let is_stale = mine.roll(100) < percent && past.len() > back;
                mine.stale_reads += usize::from(is_stale);
                is_stale.then(|| past[past.len() - 1 - back].clone())
            };
            match old {
                Some(entry) => Ok(Some(entry)),
                None => self.raw.read(space, key, at, deadline).await,
            }
        }
        .boxed()
    }
}

const WRITERS: u64 = 8;
const EACH: u32 = 50;

/// Runs concurrent writers, each with its own view of the backend. Returns the number of stale reads, and how often a
/// closure ran on an entry older than the last conflict of its writer.
async fn increment_at_once<F>(seed: u64, increment: impl Fn(Stale, Bucket<Session>) -> F) -> (usize, usize)
where
    F: Future<Output = usize>,
{
    let shared = Arc::new(Shared::default());
    let first: Bucket<Session> = Store::from_backend(Arc::new(Stale::new(&shared, seed))).bucket().await.unwrap();
    first.put(&Session::new("acme", 7)).await.unwrap();
    let mut views = HashMap::new();
    let mut running = Vec::new();
    for writer in 0..WRITERS {
        let stale = Stale::new(&shared, seed.wrapping_mul(WRITERS).wrapping_add(writer));
        let bucket = Store::from_backend(Arc::new(stale.clone())).bucket().await.unwrap();
        views.insert(writer, stale.clone());
        running.push(increment(stale, bucket));
    }
    let outdated = futures::future::join_all(running).await.into_iter().sum();
    let visits = lock(&shared.past).len() - 1;
    assert_eq!(visits, usize::try_from(WRITERS).expect("small") * EACH as usize, "no increment is lost");
    (views.values().map(|stale| stale.mine().stale_reads).sum(), outdated)
}

/// P3.
#[tokio::test(start_paused = true)]
async fn retry_never_uses_entry_older_than_conflict() {
    let mut stale_reads = 0;
    for seed in 0..20 {
        let (stale, outdated) = increment_at_once(seed, |stale, _| async move {
            let key = SessionKey::new("acme", 7);
            let mut outdated = 0;
            for _ in 0..EACH {
                // A new handle has no cached state, so it reads first.
                let store = Store::from_backend(Arc::new(stale.clone()));
                let bucket: Bucket<Session> = store.bucket().await.unwrap();
                stale.mine().conflict = Revision::ZERO;
                let mut runs = 0;
                let modify = bucket.modify(&key, |session| {
                    runs += 1;
                    outdated += usize::from(stale.revision_of(session.visits) < stale.mine().conflict);
                    session.visits += 1;
                });
                modify.max_attempts(60).await.expect("it succeeds, stale reads or not");
                assert!(runs <= 60);
            }
            outdated
        })
        .await;
        assert_eq!(outdated, 0, "seed {seed}");
        stale_reads += stale;
    }
    assert!(stale_reads > 1_000, "only {stale_reads} reads were stale");
}

/// P3, the control: a loop with plain reads runs on old entries.
#[tokio::test(start_paused = true)]
async fn naive_loop_uses_entry_older_than_conflict() {
    let (_, outdated) = increment_at_once(1, |stale, bucket| async move {
        let key = SessionKey::new("acme", 7);
        let mut outdated = 0;
        for _ in 0..EACH {
            stale.mine().conflict = Revision::ZERO;
            loop {
                let entry = bucket.get(&key).await.unwrap().expect("there");
                let revision = entry.revision();
                outdated += usize::from(revision < stale.mine().conflict);
                let visits = entry.visits + 1;
                match bucket.update(&entry.into_value().visited(visits), revision).await {
                    Ok(_) => break,
                    Err(error) => assert!(error.is_conflict(), "{error}"),
                }
            }
        }
        outdated
    })
    .await;
    assert!(outdated > 0, "no naive loop ran on an old entry: the test of kvtyped proves nothing");
}

/// A create over a delete marker that the handle knows costs one request. Over an unknown delete marker it is refused,
/// reads the key, and writes again. After such a marker the handle reads first, until a create finds no delete marker.
#[tokio::test(start_paused = true)]
async fn create_request_count_depends_on_known_markers() {
    let shared = Arc::new(Shared::default());
    let stale = Stale::new(&shared, 0);
    let mine: Bucket<Session> = Store::from_backend(Arc::new(stale.clone())).bucket().await.unwrap();
    let others: Bucket<Session> = Store::from_backend(Arc::new(Stale::new(&shared, 1))).bucket().await.unwrap();
    let create = async |id| {
        // Clears the history, so that no read is stale.
        lock(&shared.past).clear();
        let before = stale.mine().requests;
        let created = mine.create(&Session::new("acme", id)).await;
        (stale.mine().requests - before, created.is_ok())
    };
    let remove = async |bucket: &Bucket<Session>, id| bucket.delete(&SessionKey::new("acme", id)).await.unwrap();

    assert_eq!(create(1).await, (1, true), "nothing was there");
    remove(&mine, 1).await;
    assert_eq!(create(1).await, (1, true), "its own marker");
    remove(&others, 2).await;
    lock(&shared.past).clear();
    assert_eq!(mine.get(&SessionKey::new("acme", 2)).await.unwrap(), None);
    assert_eq!(create(2).await, (1, true), "a marker that it has read");
    remove(&others, 3).await;
    assert_eq!(create(3).await, (3, true), "another's marker");
    remove(&others, 4).await;
    assert_eq!(create(4).await, (2, true), "another's marker, again");
    assert_eq!(create(4).await, (2, false), "a record");
    remove(&others, 4).await;
    assert_eq!(create(4).await, (2, true), "another's marker, still");
    assert_eq!(create(5).await, (2, true), "nothing, where a marker was likely");
    assert_eq!(create(6).await, (1, true), "nothing");
    assert_eq!(create(6).await, (2, false), "a record");
}
