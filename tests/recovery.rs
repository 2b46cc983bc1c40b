//! Watches and caches across server crashes, broken connections, and replaced buckets.
//!
//! Each test compares the content of a cache, and the folded events of a watch, with the stored records. A test with
//! the prefix `naive_` does the same with the plain client and expects a failure.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use harness::{Mode, Proxy, Server, wait};
use kvtyped::prelude::*;
use kvtyped::{Error, ErrorKind, Event, Read};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::needs::{Feature, needs};
use crate::support::{Document, DocumentKey, Observed, SOON, Session, SessionKey, World, reported, seen_as, soon};

const SECOND: Duration = Duration::from_secs(1);

/// The number of keys.
const KEYS: u64 = 20;

/// The key whose writes show that a watch works again.
const PROBE: u64 = KEYS - 1;

type View = BTreeMap<SessionKey, (Revision, u32)>;

fn key(id: u64) -> SessionKey {
    SessionKey::new("acme", id)
}

/// Returns the stored records.
async fn truth(bucket: &Bucket<Session>) -> View {
    let mut view = View::new();
    for id in 0..KEYS {
        let read = bucket.get(&key(id)).read(Read::Leader).await;
        if let Some(entry) = read.expect("the leader answers") {
            view.insert(key(id), (entry.revision(), entry.visits));
        }
    }
    view
}

/// The state that results from a sequence of events.
#[derive(Debug, Default)]
struct Fold {
    view: View,
    last: Revision,
    resyncs: usize,
    /// How often the bucket was reported as missing.
    gone: usize,
    /// The first event that arrived out of order.
    disorder: Option<String>,
}

impl Fold {
    fn take(&mut self, item: Result<Event<Session>, Error>) {
        let revision = match &item {
            Ok(Event::Put(entry)) => entry.revision(),
            Ok(Event::Removed { revision, .. }) => *revision,
            _ => Revision::new(u64::MAX),
        };
        match item {
            Ok(Event::Put(entry)) => {
                self.view.insert(entry.key().clone(), (revision, entry.visits));
            }
            Ok(Event::Removed { key, .. }) => {
                self.view.remove(&key);
            }
            Ok(Event::Resync) => {
                self.resyncs += 1;
                self.view.clear();
                self.last = Revision::ZERO;
            }
            Err(error) if matches!(error.kind(), ErrorKind::BucketNotFound) => self.gone += 1,
            Err(error) => self.disorder = Some(error.to_string()),
            Ok(_) => {}
        }
        if revision.get() < u64::MAX {
            if revision <= self.last {
                self.disorder.get_or_insert_with(|| format!("{revision} came after {}", self.last));
            }
            self.last = revision;
        }
    }
}

/// A bucket with a cache and a watch.
struct Watched {
    cache: Cache<Session>,
    fold: Arc<Mutex<Fold>>,
    folding: JoinHandle<()>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.folding.abort();
    }
}

impl Watched {
    async fn new(bucket: &Bucket<Session>) -> Self {
        let cache = bucket.cache(..).await.expect("it is filled");
        let mut events = bucket.watch(..).await.expect("it begins");
        let fold = Arc::new(Mutex::new(Fold::default()));
        let folded = Arc::clone(&fold);
        let folding = tokio::spawn(async move {
            while let Some(item) = events.next().await {
                folded.lock().unwrap_or_else(PoisonError::into_inner).take(item);
            }
        });
        Self { cache, fold, folding }
    }

    fn fold(&self) -> MutexGuard<'_, Fold> {
        self.fold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how often the bucket was reported as missing, and the number of resyncs.
    fn reported(&self) -> (usize, usize) {
        let fold = self.fold();
        (fold.gone, fold.resyncs)
    }

    fn cached(&self) -> View {
        self.cache.iter().map(|entry| (entry.key().clone(), (entry.revision(), entry.visits))).collect()
    }

    /// Waits until the cache and the watch see a new write.
    async fn sees_writes(&self, bucket: &Bucket<Session>) {
        let probe = bucket.put(&Session::new("acme", PROBE)).timeout(SOON).await.expect("it is written");
        let seen = wait::within(SOON, async || {
            let cached = self.cache.get(&key(PROBE)).is_some_and(|entry| entry.revision() == probe);
            let folded = self.fold().view.get(&key(PROBE)).is_some_and(|(revision, _)| *revision == probe);
            (cached && folded).then_some(())
        });
        assert!(seen.await.is_some(), "{:?}, {:?}", self.cache, self.fold());
    }

    /// Waits until both views work again, and prints how long that took.
    async fn recovers(&self, what: &str, fault: Instant, over: Instant, bucket: &Bucket<Session>) {
        self.sees_writes(bucket).await;
        println!("{what}: seen again {:?} after the fault, {:?} after its end", fault.elapsed(), over.elapsed());
        self.agrees_with(bucket).await;
    }

    /// P25: both views are equal to the stored records.
    async fn agrees_with(&self, bucket: &Bucket<Session>) {
        let agreed = wait::within(SOON, async || {
            let truth = truth(bucket).await;
            (self.cached() == truth && self.fold().view == truth).then_some(())
        });
        if agreed.await.is_none() {
            let (truth, cached) = (truth(bucket).await, self.cached());
            panic!("there is {truth:#?}\ncached is {cached:#?}\n{:#?}", self.fold());
        }
        assert_eq!(self.fold().disorder, None);
    }
}

/// Writes of all kinds: some keys are created, some change, some are removed.
async fn write(bucket: &Bucket<Session>, visits: u32) {
    for id in 0..PROBE {
        let session = Session::new("acme", id).visited(visits);
        let written = match (id + u64::from(visits)) % 5 {
            0 => bucket.delete(&key(id)).timeout(SOON).await,
            1 => bucket.purge(&key(id)).timeout(SOON).await,
            _ => bucket.put(&session).timeout(SOON).await,
        };
        written.expect("it is written");
    }
}

/// Opens a bucket for writing on one connection, and watches it on another.
async fn two_sides(server: &Server, watching: &str) -> (World, Bucket<Session>, Watched) {
    let world = World::at(&server.url()).await;
    let writing = world.bucket::<Session>().await;
    write(&writing, 0).await;
    let watching = seen_as(&World::at(watching).await, writing.name()).await;
    let watched = Watched::new(&watching).await;
    watched.agrees_with(&writing).await;
    (world, writing, watched)
}

async fn consumers(server: &Server, bucket: &str) -> Vec<String> {
    let names = server.api(&format!("$JS.API.CONSUMER.NAMES.KV_{bucket}"), &Value::Null).await.expect("it answers");
    let names = names["consumers"].as_array().cloned().unwrap_or_default();
    names.iter().filter_map(|name| Some(name.as_str()?.to_owned())).collect()
}

async fn delete_consumers(server: &Server, bucket: &str) -> usize {
    let names = consumers(server, bucket).await;
    for name in &names {
        let deleted = server.api(&format!("$JS.API.CONSUMER.DELETE.KV_{bucket}.{name}"), &Value::Null).await;
        assert_eq!(deleted.expect("it answers")["success"], true);
    }
    names.len()
}

/// Waits until there are no consumers, for less time than the server needs to remove idle ones.
async fn no_consumers(server: &Server, bucket: &str) {
    wait::until("the consumers are gone", 10 * SECOND, async || {
        consumers(server, bucket).await.is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn watch_recovers_after_server_kill() {
    let server = Server::start().await;
    let (_world, bucket, watched) = two_sides(&server, &server.url()).await;
    for visits in 1..3 {
        let fault = Instant::now();
        server.kill().await;
        server.restart().await;
        let over = Instant::now();
        write(&bucket, visits).await;
        watched.recovers("server killed", fault, over, &bucket).await;
    }
    assert_eq!(watched.fold().gone, 0);
}

#[tokio::test]
async fn watch_recovers_after_consumer_is_deleted() {
    let server = harness::shared().await;
    let (_world, bucket, watched) = two_sides(server, &server.url()).await;
    for visits in 1..3 {
        assert_eq!(delete_consumers(server, bucket.name()).await, 2);
        let fault = Instant::now();
        write(&bucket, visits).await;
        watched.recovers("consumers deleted", fault, fault, &bucket).await;
        assert!(fault.elapsed() < 15 * SECOND, "it took {:?}", fault.elapsed());
    }
    assert_eq!(consumers(server, bucket.name()).await.len(), 2);
    // P44.
    drop(watched);
    no_consumers(server, bucket.name()).await;
}

#[tokio::test]
async fn watch_recovers_after_connection_is_cut() {
    let server = harness::shared().await;
    let proxy = Proxy::start(server.addr()).await;
    let (_world, bucket, watched) = two_sides(server, &proxy.url()).await;
    for visits in 1..4 {
        let fault = Instant::now();
        proxy.cut();
        write(&bucket, visits).await;
        watched.recovers("connection cut", fault, fault, &bucket).await;
    }
    let before = watched.fold().resyncs;
    let fault = Instant::now();
    proxy.cut();
    watched.recovers("connection cut, nothing missed", fault, fault, &bucket).await;
    assert_eq!(watched.fold().resyncs, before, "nothing was missed, so the watch does not resync");
    drop(watched);
    no_consumers(server, bucket.name()).await;
}

/// The consumers no longer exist after the outage, as after thirty seconds of inactivity.
#[tokio::test]
async fn watch_recovers_after_long_disconnect() {
    let server = harness::shared().await;
    let proxy = Proxy::start(server.addr()).await;
    let (_world, bucket, watched) = two_sides(server, &proxy.url()).await;
    let fault = Instant::now();
    proxy.set(Mode::Refuse);
    delete_consumers(server, bucket.name()).await;
    write(&bucket, 1).await;
    wait::until("the cache is stale", SOON, async || (watched.cache.staleness() > 3 * SECOND).then_some(())).await;
    write(&bucket, 2).await;
    let over = Instant::now();
    proxy.set(Mode::Pass);
    watched.recovers("connection refused for long", fault, over, &bucket).await;
    assert!(over.elapsed() < 15 * SECOND, "it took {:?}", over.elapsed());
}

/// The connection stays open, but delivers nothing.
#[tokio::test]
async fn watch_recovers_after_stalled_connection() {
    let server = harness::shared().await;
    let proxy = Proxy::start(server.addr()).await;
    let (_world, bucket, watched) = two_sides(server, &proxy.url()).await;
    let fault = Instant::now();
    proxy.set(Mode::Stall);
    write(&bucket, 1).await;
    wait::until("the cache is stale", SOON, async || (watched.cache.staleness() > 4 * SECOND).then_some(())).await;
    let over = Instant::now();
    proxy.set(Mode::Pass);
    watched.recovers("connection stalled", fault, over, &bucket).await;
}

#[tokio::test]
async fn watch_recovers_after_server_freeze() {
    let server = Server::start().await;
    let (_world, bucket, watched) = two_sides(&server, &server.url()).await;
    let fault = Instant::now();
    server.freeze();
    wait::until("the cache is stale", SOON, async || (watched.cache.staleness() > 4 * SECOND).then_some(())).await;
    let over = Instant::now();
    server.thaw();
    write(&bucket, 1).await;
    watched.recovers("server frozen", fault, over, &bucket).await;
}

#[tokio::test]
async fn watch_recovers_after_leader_step_down() {
    let cluster = harness::cluster::shared().await;
    let world = World::at(&cluster.urls()).await;
    let bucket: Bucket<Session> = world.fresh().replicas(3).await.unwrap();
    write(&bucket, 0).await;
    let mut watched = Vec::new();
    for node in cluster.nodes() {
        let watching = seen_as(&World::at(&node.url()).await, bucket.name()).await;
        watched.push(Watched::new(&watching).await);
    }
    for visits in 1..4 {
        let fault = Instant::now();
        cluster.step_down(&format!("KV_{}", bucket.name())).await;
        write(&bucket, visits).await;
        for watched in &watched {
            watched.recovers("leader stepped down", fault, fault, &bucket).await;
        }
    }
    drop(watched);
    no_consumers(cluster.node(0), bucket.name()).await;
}

/// P27: the bucket is recreated, first while the watch is connected and then during an outage.
#[tokio::test]
async fn watch_recovers_after_bucket_is_recreated() {
    let server = harness::shared().await;
    let proxy = Proxy::start(server.addr()).await;
    let (world, bucket, watched) = two_sides(server, &proxy.url()).await;
    let fault = Instant::now();
    assert!(world.store.delete_bucket(bucket.name()).await.unwrap());
    wait::until("the watch reports the deletion", 6 * SECOND, async || (watched.fold().gone == 1).then_some(())).await;
    println!("bucket deleted: reported after {:?}", fault.elapsed());
    assert!(matches!(watched.cache.last_error().expect("told").kind(), ErrorKind::BucketNotFound));
    let reopened: Bucket<Session> = world.store.bucket().name(bucket.name()).must_create().await.unwrap();
    let over = Instant::now();
    write(&reopened, 1).await;
    watched.recovers("bucket recreated", fault, over, &reopened).await;
    assert_eq!(watched.reported(), (1, 1));

    // Recreated during an outage, with more revisions than the old bucket had.
    let fault = Instant::now();
    proxy.set(Mode::Refuse);
    assert!(world.store.delete_bucket(bucket.name()).await.unwrap());
    let reopened: Bucket<Session> = world.store.bucket().name(bucket.name()).must_create().await.unwrap();
    for visits in 2..6 {
        write(&reopened, visits).await;
    }
    let over = Instant::now();
    proxy.set(Mode::Pass);
    watched.recovers("bucket recreated during an outage", fault, over, &reopened).await;
    // The removal itself may or may not be reported.
    assert_eq!(watched.reported().1, 2);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("it is copied");
        }
    }
}

/// P28: a revision from before a rewind is invalid, even if the bucket has reached that revision again.
#[tokio::test]
async fn rewound_bucket_rejects_lost_revision() {
    let server = Server::start().await;
    let world = World::at(&server.url()).await;
    let mine = world.bucket::<Session>().await;
    let key = key(0);
    for visits in 0..10 {
        mine.put(&Session::new("acme", 0).visited(visits)).await.unwrap();
    }
    server.terminate().await;
    let (store, aside) = (server.store(), server.store().with_extension("aside"));
    copy(&store, &aside);
    server.restart().await;
    let mut lost = Revision::ZERO;
    for visits in 10..20 {
        lost = mine.put(&Session::new("acme", 0).visited(visits)).await.unwrap();
    }
    server.kill().await;
    std::fs::remove_dir_all(&store).expect("it is removed");
    copy(&aside, &store);
    server.restart().await;

    let update = async || mine.update(&Session::new("acme", 0).visited(999), lost).await.unwrap_err();
    let error = update().await;
    assert!(matches!(error.kind(), ErrorKind::BucketReplaced), "{error}");

    // Another client writes until the bucket reaches the revision again, with a value that this client has not seen.
    let theirs = seen_as::<Session>(&World::at(&server.url()).await, mine.name()).await;
    while theirs.put(&Session::new("acme", 0).visited(777)).await.unwrap() < lost {}
    let naive = theirs.get(&key).read(Read::Leader).await.unwrap().expect("there");
    assert_eq!(naive.revision(), lost, "the guard alone would let the update pass");
    let error = update().await;
    assert!(matches!(error.kind(), ErrorKind::BucketReplaced), "{error}");
    assert_eq!(theirs.get(&key).read(Read::Leader).await.unwrap().expect("there").visits, 777);

    // A client that reads first can continue.
    let entry = mine.get(&key).read(Read::Leader).await.unwrap().expect("there");
    mine.update(&Session::new("acme", 0).visited(778), entry.revision()).await.unwrap();
}

/// P27, and no reader of the cache sees a state between the new and the old one.
#[tokio::test]
async fn watch_recovers_after_older_store_is_restored() {
    let server = Server::start().await;
    let (_world, bucket, watched) = two_sides(&server, &server.url()).await;
    server.terminate().await;
    let (store, aside) = (server.store(), server.store().with_extension("aside"));
    copy(&store, &aside);
    server.restart().await;
    watched.sees_writes(&bucket).await;
    for id in 0..KEYS {
        bucket.put(&Session::new("acme", id).visited(77)).await.unwrap();
    }
    watched.agrees_with(&bucket).await;
    assert_eq!(watched.cache.len(), usize::try_from(KEYS).unwrap());
    let resyncs = watched.fold().resyncs;

    let stop = Arc::new(AtomicBool::new(false));
    let sizes = std::thread::spawn({
        let (cache, stop) = (watched.cache.clone(), Arc::clone(&stop));
        move || {
            let mut sizes = vec![cache.snapshot().len()];
            while !stop.load(Ordering::Relaxed) {
                let now = cache.snapshot().len();
                if sizes.last() != Some(&now) {
                    sizes.push(now);
                }
                std::thread::sleep(Duration::from_micros(50));
            }
            sizes
        }
    });
    let fault = Instant::now();
    server.kill().await;
    std::fs::remove_dir_all(&store).expect("it is removed");
    copy(&aside, &store);
    server.restart().await;
    let over = Instant::now();
    let old = truth(&bucket).await;
    wait::until("the cache is what is restored", SOON, async || (watched.cached() == old).then_some(())).await;
    println!("older copy restored: known {:?} after the fault, {:?} after its end", fault.elapsed(), over.elapsed());
    stop.store(true, Ordering::Relaxed);
    assert_eq!(sizes.join().expect("it ends"), [usize::try_from(KEYS).unwrap(), old.len()], "in one step");
    write(&bucket, 5).await;
    watched.recovers("older copy restored", fault, over, &bucket).await;
    assert!(watched.fold().resyncs > resyncs, "{:?}", watched.fold());
}

/// P26.
#[tokio::test]
async fn recovery_never_reports_old_records_as_new() {
    let server = harness::shared().await;
    let world = World::at(&server.url()).await;
    let documents = world.bucket::<Document>().await;
    let mut start = Revision::ZERO;
    for text in ["1", "2", "3", "4", "5", "6"] {
        start = documents.put(&Document::new("a", text)).await.unwrap();
    }
    let next = Revision::new(start.get() + 1);
    let mut watches = [
        documents.watch(..).updates_only().await.unwrap(),
        documents.watch(..).from_revision(next).await.unwrap(),
        documents.watch(..).updates_only().headers_only().await.unwrap(),
        documents.watch(..).updates_only().coalesce().await.unwrap(),
    ];
    // A watch that is not polled makes no progress.
    let reported_first = futures::future::join_all(watches.iter_mut().map(reported)).await;
    assert!(reported_first.iter().all(|reported| *reported == Observed::Ready), "{reported_first:?}");
    assert_eq!(delete_consumers(server, documents.name()).await, watches.len());
    let news = documents.put(&Document::new("b", "7")).await.unwrap();
    let more = documents.put(&Document::new("a", "8")).await.unwrap();
    for events in &mut watches {
        let mut seen = Vec::new();
        while seen.len() < 2 {
            match reported(events).await {
                Observed::Put(_, revision) | Observed::Touched(_, revision) => seen.push(revision),
                Observed::Ready => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(seen, [news, more]);
    }
}

/// P26 after a possible gap: existing records may be reported again, but only as a resync.
#[tokio::test]
async fn records_reported_again_follow_resync() {
    let server = harness::shared().await;
    let world = World::at(&server.url()).await;
    let sessions = world.bucket::<Session>().await;
    for id in 0..6 {
        sessions.put(&Session::new("acme", id)).await.unwrap();
    }
    let mut events = sessions.watch(..).updates_only().await.unwrap();
    assert_eq!(reported(&mut events).await, Observed::Ready);
    let start = sessions.status().await.unwrap().last_revision;
    assert_eq!(delete_consumers(server, sessions.name()).await, 1);
    sessions.put(&Session::new("acme", 1).visited(1)).await.unwrap();
    let last = sessions.put(&Session::new("acme", 1).visited(2)).await.unwrap();
    let mut resynced = false;
    loop {
        match reported(&mut events).await {
            Observed::Resync => resynced = true,
            Observed::Put(_, revision) if revision == last => break,
            Observed::Put(_, revision) => assert!(resynced || revision > start, "{revision} is no news after {start}"),
            Observed::Ready => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn stock(server: &Server, bucket: &str) -> async_nats::jetstream::kv::Store {
    let client = async_nats::connect(server.url()).await.expect("the server is there");
    async_nats::jetstream::new(client).get_key_value(bucket).await.expect("the bucket is there")
}

/// P26 and P27, the control. The plain client needs a long time to detect a missing consumer.
#[tokio::test]
async fn naive_watch_repeats_records_and_misses_deletion() {
    tokio::join!(naive_news(), naive_silence());
}

async fn naive_news() {
    let server = harness::shared().await;
    let world = World::at(&server.url()).await;
    let documents = world.bucket::<Document>().await;
    let mut start = Revision::ZERO;
    for text in ["1", "2", "3", "4", "5", "6"] {
        start = documents.put(&Document::new("a", text)).await.unwrap();
    }
    let kv = stock(server, documents.name()).await;
    let mut watch = kv.watch(">").await.unwrap();
    assert_eq!(delete_consumers(server, documents.name()).await, 1);
    let reading = tokio::spawn(async move {
        loop {
            if let Ok(entry) = soon(&mut watch).await {
                return entry.revision;
            }
        }
    });
    wait::until("the watch has another consumer", SOON, async || {
        (!consumers(server, documents.name()).await.is_empty()).then_some(())
    })
    .await;
    documents.put(&Document::new("a", "7")).await.unwrap();
    let first = reading.await.unwrap();
    assert!(first <= start.get(), "a watch begun after {start} began with {first}: the test of kvtyped proves nothing");
}

async fn naive_silence() {
    let server = harness::shared().await;
    let world = World::at(&server.url()).await;
    let documents = world.bucket::<Document>().await;
    let kv = stock(server, documents.name()).await;
    let mut watch = kv.watch(">").await.unwrap();
    assert!(world.store.delete_bucket(documents.name()).await.unwrap());
    let said = tokio::time::timeout(6 * SECOND, watch.next()).await;
    assert!(said.is_err(), "the test of kvtyped proves nothing: {said:?}");
}

/// A record that was removed during an outage without leaving a delete marker still leaves the cache.
#[tokio::test]
async fn cache_drops_record_with_expired_marker() {
    needs!(LimitMarkers);
    let server = harness::shared().await;
    let proxy = Proxy::start(server.addr()).await;
    let world = World::at(&server.url()).await;
    let bucket: Bucket<Session> = world.fresh().limit_markers(SECOND).await.unwrap();
    for id in 0..5 {
        bucket.put(&Session::new("acme", id)).await.unwrap();
    }
    let watching = seen_as(&World::at(&proxy.url()).await, bucket.name()).await;
    let watched = Watched::new(&watching).await;
    watched.agrees_with(&bucket).await;

    let fault = Instant::now();
    proxy.set(Mode::Refuse);
    bucket.purge(&key(1)).ttl(SECOND).await.unwrap();
    bucket.put(&Session::new("acme", 2)).ttl(SECOND).await.unwrap(); // and expires
    wait::until("both histories are empty", SOON, async || {
        let (one, two) = (bucket.history(&key(1)).await.ok()?, bucket.history(&key(2)).await.ok()?);
        (one.is_empty() && two.is_empty()).then_some(())
    })
    .await;
    assert!(watched.cache.contains(&key(1)) && watched.cache.contains(&key(2)));
    let over = Instant::now();
    proxy.set(Mode::Pass);
    watched.recovers("markers expired during an outage", fault, over, &bucket).await;
    assert!(!watched.cache.contains(&key(1)) && !watched.cache.contains(&key(2)));
    assert_eq!(watched.fold().resyncs, 1);
}

/// Returns a number below `sides` (splitmix64).
pub(crate) fn roll(dice: &mut u64, sides: u64) -> u64 {
    *dice = dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *dice;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) % sides
}

async fn write_on(bucket: Bucket<Session>, mut dice: u64, stop: &AtomicBool) -> usize {
    let mut written = 0;
    while !stop.load(Ordering::Relaxed) {
        let id = roll(&mut dice, PROBE);
        let session = Session::new("acme", id).visited(u32::try_from(roll(&mut dice, 1_000)).expect("small"));
        let result = match roll(&mut dice, 10) {
            0 => bucket.delete(&key(id)).timeout(SECOND).await,
            1 => bucket.purge(&key(id)).timeout(SECOND).await,
            2 => bucket.purge(&key(id)).ttl(SECOND).timeout(SECOND).await,
            3 | 4 => bucket.put(&session).ttl(SECOND).timeout(SECOND).await,
            _ => bucket.put(&session).timeout(SECOND).await,
        };
        written += usize::from(result.is_ok());
        tokio::time::sleep(Duration::from_millis(roll(&mut dice, 10))).await;
    }
    written
}

/// P25.
#[tokio::test]
async fn cache_equals_bucket_after_random_faults() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.addr()).await;
    let world = World::at(&server.url()).await;
    // Without limit markers, the bucket has no TTLs, and writes with a TTL are refused.
    let open = world.fresh::<Session>();
    let open = if world.has(Feature::LimitMarkers) { open.limit_markers(SECOND) } else { open };
    let bucket = open.await.unwrap();
    let watching = seen_as(&World::at(&proxy.url()).await, bucket.name()).await;
    let watched = Watched::new(&watching).await;
    let other = seen_as(&World::at(&server.url()).await, bucket.name()).await;
    let stop = AtomicBool::new(false);
    let (first, second, ()) = tokio::join!(write_on(bucket.clone(), 1, &stop), write_on(other, 2, &stop), async {
        for round in 0..5 {
            tokio::time::sleep(SECOND).await;
            match round {
                0 => proxy.cut(),
                1 => {
                    delete_consumers(&server, bucket.name()).await;
                }
                2 => {
                    server.kill().await;
                    server.restart().await;
                }
                3 => {
                    proxy.set(Mode::Stall);
                    tokio::time::sleep(SECOND / 2).await;
                    proxy.set(Mode::Pass);
                }
                _ => {
                    proxy.set(Mode::Refuse);
                    tokio::time::sleep(2 * SECOND).await;
                    proxy.set(Mode::Pass);
                }
            }
        }
        tokio::time::sleep(SECOND).await;
        stop.store(true, Ordering::Relaxed);
    });
    let end = Instant::now();
    watched.sees_writes(&bucket).await;
    watched.agrees_with(&bucket).await;
    println!("soak: {} writes; equal {:?} after its end; {:?}", first + second, end.elapsed(), watched.cache);
    assert!(first + second > 200, "{first} + {second}");
    assert_eq!(watched.fold().gone, 0);
}

/// P44 for a watch that is dropped during an outage.
#[tokio::test]
async fn watch_dropped_in_outage_leaves_no_consumer() {
    let server = harness::shared().await;
    let proxy = Proxy::start(server.addr()).await;
    let (_world, bucket, watched) = two_sides(server, &proxy.url()).await;
    proxy.set(Mode::Refuse);
    wait::until("the cache becomes stale", SOON, async || (watched.cache.staleness() > 2 * SECOND).then_some(())).await;
    drop(watched);
    proxy.set(Mode::Pass);
    let start = Instant::now();
    no_consumers(server, bucket.name()).await;
    println!("dropped in an outage: no consumer after {:?}", start.elapsed());
}

/// Measures the time from a write to its event.
#[tokio::test]
async fn median_event_delay_is_below_a_second() {
    let world = World::nats().await;
    let sessions = world.bucket::<Session>().await;
    let mut events = sessions.watch(..).await.unwrap();
    assert_eq!(reported(&mut events).await, Observed::Ready);
    let mut times = Vec::new();
    for visits in 0..300 {
        let session = Session::new("acme", 1).visited(visits);
        let start = Instant::now();
        let (_, time) = tokio::join!(sessions.put(&session).into_future(), async {
            reported(&mut events).await;
            start.elapsed()
        });
        times.push(time);
    }
    times.sort_unstable();
    println!("put to event: p50 {:?}, p99 {:?}", times[150], times[297]);
    assert!(times[150] < SECOND, "{:?}", times[150]);
}

mod stalled {
    use super::*;

    const NAME: &str = "recovery::stalled::stalled_reader_uses_little_memory";
    const ALONE: &str = "KVTYPED_TESTS_ALONE";
    const DOCUMENTS: u64 = 5_000;
    const ROUNDS: u64 = 4;
    const SIZE: usize = 2_048;

    /// Returns the resident memory of this process in MiB.
    fn resident() -> Option<u64> {
        let pages: u64 = std::fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok()?;
        Some(pages * 4_096 / (1 << 20))
    }

    async fn write(documents: &Bucket<Document>, round: u64) -> Revision {
        let puts = (0..DOCUMENTS).map(|number| {
            let documents = documents.clone();
            let document = Document::new(&number.to_string(), &format!("{round}{}", "x".repeat(SIZE)));
            async move { documents.put(&document).await }
        });
        let revisions = futures::stream::iter(puts).buffer_unordered(64);
        revisions.try_fold(Revision::ZERO, async |last, next| Ok(last.max(next))).await.expect("they are written")
    }

    async fn stall() {
        let server = Server::start().await;
        let writing: Bucket<Document> = World::at(&server.url()).await.fresh().history(1).await.unwrap();
        let world = World::at(&server.url()).await;
        let documents: Bucket<Document> = seen_as(&world, writing.name()).await;
        let mut stalled = documents.watch(..).updates_only().await.unwrap();
        assert_eq!(reported(&mut stalled).await, Observed::Ready);
        let bystander = documents.cache(DocumentKey::new("0")).await.unwrap();
        let before = resident();
        let mut last = Revision::ZERO;
        for round in 1..=ROUNDS {
            last = write(&writing, round).await;
        }
        let start = Instant::now();
        // The same connection serves other operations at the same time.
        let revision = documents.put(&Document::new("0", "last")).await.unwrap();
        assert_eq!(documents.get(&DocumentKey::new("0")).await.unwrap().expect("put").revision(), revision);
        tokio::time::timeout(SOON, bystander.wait_for_revision(revision)).await.unwrap().unwrap();
        println!("with a stalled reader: put, read and cached in {:?}", start.elapsed());
        if let (Some(before), Some(after)) = (before, resident()) {
            println!(
                "a stalled reader of {} MiB: {before} MiB before, {after} MiB after",
                DOCUMENTS * ROUNDS * SIZE as u64 / (1 << 20)
            );
            assert!(after.saturating_sub(before) < 20, "{before} MiB before, {after} MiB after");
        }

        let mut finals = BTreeMap::new();
        let mut lagging = 0;
        while finals.get("0") != Some(&revision) {
            match soon(&mut stalled).await.unwrap() {
                Event::Put(document) => {
                    let (name, revision) = (document.name.clone(), document.revision());
                    assert!(finals.insert(name, revision).is_none_or(|older| older < revision));
                }
                Event::Lagging { pending: proxied } => {
                    assert!(proxied >= 1_000, "{proxied}");
                    lagging += 1;
                }
                Event::Resync => finals.clear(),
                _ => {}
            }
        }
        assert!(lagging > 0, "no `Lagging` event");
        assert_eq!(finals.len() as u64, DOCUMENTS);
        assert_eq!(finals.values().filter(|final_one| **final_one > last).count(), 1);
        println!("{lagging} `Lagging` events");
    }

    /// Runs in a separate process, so that no other test affects its memory.
    #[tokio::test]
    async fn stalled_reader_uses_little_memory() {
        if std::env::var_os(ALONE).is_some() {
            return stall().await;
        }
        let ran = tokio::task::spawn_blocking(|| {
            let program = std::env::current_exe().expect("this program");
            let mut command = std::process::Command::new(program);
            command.args(["--exact", NAME, "--nocapture"]).env(ALONE, "1").output().expect("it runs")
        });
        let ran = ran.await.unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        println!("{said}");
        assert!(ran.status.success() && said.contains("1 passed"), "{said}");
    }
}
