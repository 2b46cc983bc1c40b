//! The store in a file, compared with appends to a file, with SQLite and redb by hand, and with the store in memory.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kvtyped::prelude::*;
use redb::{Database, ReadableDatabase, TableDefinition};
use rusqlite::Connection;

use crate::allocator;
use crate::measure::{Effort, Measured, median, pairs, quantile, time, timed};
use crate::report::{Unit, home};
use crate::workers::Worker;
use crate::world::{Session, World};

/// The number of keys that the writes cycle through.
const KEYS: u64 = 1_000;
/// The number of concurrent writers.
const WRITERS: u64 = 64;

pub(crate) async fn measure(world: &mut World) {
    world.report.group("In a file");
    let folder = home().join("file");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("the folder is made");
    writes(world, &folder).await;
    reads(world, &folder).await;
    overwrites(world, &folder).await;
    memory(world, &folder);
    for size in [100_000, 1_000_000] {
        if size <= world.effort.most && !(world.effort.quick && size > 100_000) {
            reopens(world, &folder, world.effort.of(size) as u64).await;
        }
    }
    fs::remove_dir_all(&folder).expect("the folder is removed");
}

async fn open(path: &Path) -> Store {
    Store::file(path).timeout(Duration::from_secs(120)).await.expect("the file opens")
}

/// Appends bytes to a file and syncs it: the least that a durable write can cost.
struct Appends {
    file: File,
}

impl Appends {
    fn new(folder: &Path) -> Self {
        Self { file: File::create(folder.join("appends")).expect("the file is made") }
    }

    fn append(&mut self, bytes: &[u8]) {
        self.file.write_all(bytes).expect("it is written");
        self.file.sync_data().expect("it is synced");
    }
}

/// A table of keys and values, as a program without this crate would have it.
struct ByHand(Connection);

impl ByHand {
    fn new(path: &Path) -> Self {
        let db = Connection::open(path).expect("the database opens");
        db.execute_batch(
            "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             CREATE TABLE kv (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
        )
        .expect("the table is made");
        Self(db)
    }

    fn put(&self, key: &str, value: &[u8]) {
        let mut put = self.0.prepare_cached("INSERT OR REPLACE INTO kv VALUES (?, ?)").expect("it is valid");
        put.execute((key, value)).expect("it is put");
    }
}

/// A table of keys and values in redb. Each commit is synced.
struct Redb(Database);

impl Redb {
    const TABLE: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("kv");

    fn new(path: &Path) -> Self {
        Self(Database::create(path).expect("the database is made"))
    }

    /// Puts these records in one transaction.
    fn put(&self, sessions: &[Session]) {
        let write = self.0.begin_write().expect("it begins");
        {
            let mut table = write.open_table(Self::TABLE).expect("the table opens");
            for session in sessions {
                table.insert(session.by_hand().as_str(), session.encode().as_slice()).expect("it is put");
            }
        }
        write.commit().expect("it is committed");
    }

    fn get(&self, key: &str) -> Session {
        let read = self.0.begin_read().expect("it begins");
        let table = read.open_table(Self::TABLE).expect("the table opens");
        Session::decode(table.get(key).expect("it is read").expect("it is there").value())
    }
}

async fn writes(world: &mut World, folder: &Path) {
    let (blocks, each) = (world.effort.blocks(7), world.effort.of(200));
    let store = open(&folder.join("writes.kv")).await;
    let bucket: Bucket<Session> = store.bucket().await.expect("the bucket is made");
    let sessions: Vec<_> = (0..KEYS).map(|id| Session::new("acme", id)).collect();
    let encoded = sessions[0].encode();

    let mut appends = Appends::new(folder);
    let mut at = 0;
    let mut next = || {
        at = (at + 1) % sessions.len();
        at
    };
    let ours = async || time(put(&bucket, &sessions[next()])).await;
    let append = async || time(async { appends.append(&encoded) }).await;
    let measured = pairs(blocks, each, ours, append).await;
    world.report.row("put, in a file", "append + fdatasync").goal(1.8).measured(&measured);

    let by_hand = ByHand::new(&folder.join("by-hand.db"));
    let mut at = 0;
    let ours = async || time(put(&bucket, &sessions[next()])).await;
    let theirs = async || {
        at = (at + 1) % sessions.len();
        time(async { by_hand.put(&sessions[at].by_hand(), &sessions[at].encode()) }).await
    };
    let measured = pairs(blocks, each, ours, theirs).await;
    world.report.row("put, in a file", "rusqlite by hand").goal(1.2).measured(&measured);

    let by_hand = Redb::new(&folder.join("by-hand.redb"));
    let mut at = 0;
    let ours = async || time(put(&bucket, &sessions[next()])).await;
    let theirs = async || {
        at = (at + 1) % sessions.len();
        time(async { by_hand.put(&sessions[at..=at]) }).await
    };
    let measured = pairs(blocks, each, ours, theirs).await;
    world.report.row("put, in a file", "redb by hand").measured(&measured);

    // One group: all writers write once.
    let mut appends = Appends::new(folder);
    let together: Vec<u8> = encoded.repeat(WRITERS as usize);
    let burst = async || time(burst(&bucket, &sessions)).await;
    let append = async || time(async { appends.append(&together) }).await;
    let measured = pairs(blocks, each / 4, burst, append).await;
    let name = format!("{WRITERS} puts at once, in a file");
    world.report.row(name, "append of the same bytes + fdatasync").goal(4.0).measured(&measured);

    let ours = async || time(self::burst(&bucket, &sessions)).await;
    let theirs = async || time(async { by_hand.put(&sessions[..WRITERS as usize]) }).await;
    let measured = pairs(blocks, each / 4, ours, theirs).await;
    let name = format!("{WRITERS} puts at once, in a file");
    world.report.row(name, "redb by hand, in one transaction").measured(&measured);

    let ours = async || time(self::burst(&bucket, &sessions)).await / WRITERS as u32;
    let alone = async || time(put(&bucket, &sessions[next()])).await;
    let measured = pairs(blocks, each / 4, ours, alone).await;
    let name = format!("put of each of {WRITERS} writers, in a file");
    world.report.row(name, "put of one writer").goal(0.125).measured(&measured);

    // A step of a checkpoint must not stop the writers.
    let mut took: Vec<f64> = Vec::new();
    for number in 0..world.effort.of(8_000) {
        took.push(time(put(&bucket, &sessions[number % sessions.len()])).await.as_secs_f64());
    }
    let (middle, late) = (quantile(took.iter().copied(), 0.5), quantile(took.iter().copied(), 0.99));
    let measured = Measured { ours: vec![vec![late]], theirs: vec![vec![middle]] };
    world.report.row("put, in a file, 99th percentile", "median").goal(4.0).measured(&measured);
    store.close().await.expect("the store closes");
    checkpoints(world, folder).await;
}

/// The 99th percentile of bursts while checkpoints move the journal, and in a store that moves nothing. About one burst
/// in eight waits for a step.
async fn checkpoints(world: &mut World, folder: &Path) {
    let (blocks, each) = (world.effort.blocks(5), world.effort.of(1_000));
    let moving = open(&folder.join("moving.kv")).await;
    let still = Store::file(folder.join("still.kv")).test_limits(1_024, usize::MAX, None).await.expect("it opens");
    let in_moving: Bucket<Session> = moving.bucket().await.expect("the bucket is made");
    let in_still: Bucket<Session> = still.bucket().await.expect("the bucket is made");
    let sessions: Vec<_> = (0..WRITERS).map(|id| Session::new("acme", id)).collect();
    let ours = async || time(burst(&in_moving, &sessions)).await;
    let measured = pairs(blocks, each, ours, async || time(burst(&in_still, &sessions)).await).await;
    let late = |blocks: Vec<Vec<f64>>| blocks.into_iter().map(|block| vec![quantile(block, 0.99)]).collect();
    let middle = median(measured.ours.iter().flatten().copied());
    println!("  median of {WRITERS} puts at once while checkpoints run: {:.0} µs", middle * 1e6);
    let measured = Measured { ours: late(measured.ours), theirs: late(measured.theirs) };
    let name = format!("{WRITERS} puts at once during checkpoints, 99th percentile");
    world.report.row(name, "without checkpoints").goal(4.0).measured(&measured);
    moving.close().await.expect("the store closes");
    still.close().await.expect("the store closes");
}

async fn put(bucket: &Bucket<Session>, session: &Session) {
    bucket.put(session).await.expect("it is put");
}

/// Puts from all writers at once.
async fn burst(bucket: &Bucket<Session>, sessions: &[Session]) {
    let puts =
        sessions[..WRITERS as usize].iter().map(|session| std::future::IntoFuture::into_future(bucket.put(session)));
    futures::future::try_join_all(puts).await.expect("all are put");
}

async fn reads(world: &mut World, folder: &Path) {
    let (blocks, each) = (world.effort.blocks(7), world.effort.of(500));
    let store = open(&folder.join("reads.kv")).await;
    let in_file: Bucket<Session> = store.bucket().await.expect("the bucket is made");
    let in_memory: Bucket<Session> = Store::memory().bucket().await.expect("the bucket is made");
    for bucket in [&in_file, &in_memory] {
        fill(bucket, KEYS).await;
    }
    let keys: Vec<_> = (0..KEYS).map(|id| Session::new("acme", id).key()).collect();
    let read = async |bucket: &Bucket<Session>| {
        let all = async {
            for key in &keys {
                assert!(bucket.get(key).await.expect("it is read").is_some());
            }
        };
        time(all).await / KEYS as u32
    };
    let measured = pairs(blocks, each / 10, || read(&in_file), || read(&in_memory)).await;
    world.report.row("get, in a file", "get, in memory").goal(1.1).measured(&measured);

    let by_hand = Redb::new(&folder.join("reads.redb"));
    let sessions: Vec<_> = (0..KEYS).map(|id| Session::new("acme", id)).collect();
    by_hand.put(&sessions);
    let names: Vec<_> = sessions.iter().map(Session::by_hand).collect();
    let theirs = async || {
        let all = async { names.iter().for_each(|name| drop(std::hint::black_box(by_hand.get(name)))) };
        time(all).await / KEYS as u32
    };
    let measured = pairs(blocks, each / 10, || read(&in_file), theirs).await;
    world.report.row("get, in a file", "redb by hand").measured(&measured);
    store.close().await.expect("the store closes");
}

/// Writes records, several at once.
async fn fill(bucket: &Bucket<Session>, records: u64) {
    let sessions: Vec<_> = (0..records).map(|id| Session::new("acme", id)).collect();
    for some in sessions.chunks(4_096) {
        bucket.put_many(some).await.expect("they are put");
    }
}

/// The size of the files after each record was overwritten ten times, in order or in another order each time.
async fn overwrites(world: &mut World, folder: &Path) {
    let records = world.effort.of(10_000) as u64;
    for (order, steps) in [("in order", [1; 10]), ("in any order", [1, 3, 7, 9, 11, 13, 17, 19, 21, 23])] {
        let path = folder.join("overwrites.kv");
        let store = open(&path).await;
        let bucket: Bucket<Session> = store.bucket().await.expect("the bucket is made");
        let began = Instant::now();
        for step in steps {
            // No step has a common divisor with the number of records.
            let step = step * if step > 1 { 667 } else { 1 };
            let sessions: Vec<_> = (0..records).map(|id| Session::new("acme", id * step % records)).collect();
            for some in sessions.chunks(4_096) {
                bucket.put_many(some).await.expect("they are put");
            }
        }
        println!(
            "  {records} records written 10 times {order}: {:.0} a second",
            records as f64 * 10.0 / began.elapsed().as_secs_f64()
        );
        let live = records as f64 * (Session::new("acme", 1).encode().len() + 40) as f64;
        let size = |suffix: &str| {
            let path = folder.join(format!("overwrites.kv{suffix}"));
            fs::metadata(path).map_or(0.0, |file| file.len() as f64)
        };
        let open = size("") + size("-wal");
        store.close().await.expect("the store closes");
        for (state, size) in [("open file and WAL", open), ("closed file", size(""))] {
            let measured = Measured { ours: vec![vec![size]], theirs: vec![vec![live]] };
            let name = format!("{state}, {records} records, 10 writes of each {order}");
            let row = world.report.row(name, "the live bytes").unit(Unit::Bytes);
            if state == "closed file" { row.goal(2.0) } else { row }.measured(&measured);
        }
        fs::remove_file(&path).expect("the file is removed");
        fs::remove_file(folder.join("overwrites.kv-lock")).expect("the lock file is removed");
    }
}

/// The memory of a record, counted by the allocator of a separate process.
fn memory(world: &mut World, folder: &Path) {
    let records = world.effort.of(100_000);
    let bytes_of = |url: &str| -> f64 {
        let mut worker = Worker::start(&["embedded", url]);
        worker.send(&records.to_string());
        worker.receive().parse::<f64>().expect("a number of bytes") / records as f64
    };
    let in_file = bytes_of(&format!("file:{}?sync=off", folder.join("memory.kv").display()));
    let measured = Measured { ours: vec![vec![in_file]], theirs: vec![vec![bytes_of("memory:")]] };
    let row = world.report.row("memory of a record, in a file", "in memory");
    row.unit(Unit::Bytes).goal(1.05).measured(&measured);
}

/// Runs the process that counts allocated bytes.
pub(crate) async fn work(url: &str) {
    let store = Store::connect(url).await.expect("the store opens");
    let bucket: Bucket<Session> = store.bucket().await.expect("the bucket is made");
    crate::workers::serve(async |line| {
        let before = allocator::live();
        fill(&bucket, line.parse().expect("a number")).await;
        // Everything is written.
        assert!(bucket.status().await.is_ok());
        (allocator::live() - before).to_string()
    })
    .await;
}

/// The time of an open, compared with reading all rows and filling memory.
async fn reopens(world: &mut World, folder: &Path, records: u64) {
    let path = folder.join(format!("reopen-{records}.kv"));
    let store = open(&path).await;
    fill(&store.bucket().await.expect("the bucket is made"), records).await;
    store.close().await.expect("the store closes");
    let size = fs::metadata(&path).expect("the file is there").len() as f64 / records as f64;
    let one = Session::new("acme", 1);
    let measured =
        Measured { ours: vec![vec![size]], theirs: vec![vec![(one.encode().len() + one.by_hand().len()) as f64]] };
    let name = format!("file for each of {records} records");
    world.report.row(name, "its key and value").unit(Unit::Bytes).measured(&measured);
    let Effort { quick, .. } = world.effort;
    let blocks = if quick || records > 100_000 { 1 } else { 5 };
    let ours = async || {
        let (took, store) = timed(open(&path)).await;
        store.close().await.expect("the store closes");
        took
    };
    let theirs = async || time(select_and_fill(path.clone(), records)).await;
    let measured = pairs(blocks, 2, ours, theirs).await;
    let (name, most) = (format!("open of {records} records"), if records > 100_000 { 8.0 } else { 1.0 });
    let baseline = "SELECT of all rows, and filling the store in memory";
    world.report.row(name.clone(), baseline).goal(1.5).measured(&measured);
    world.report.row(format!("{name}, time"), baseline).at_most(most).measured(&measured);
    fs::remove_file(path).expect("the file is removed");
}

/// Reads all rows of the table of entries, and writes them to a store in memory.
async fn select_and_fill(path: PathBuf, records: u64) {
    let bucket: Bucket<Session> = Store::memory().bucket().await.expect("the bucket is made");
    let read = tokio::task::spawn_blocking(move || {
        let db = Connection::open(path).expect("the database opens");
        let mut select = db.prepare("SELECT key, value FROM entry ORDER BY seq").expect("it is valid");
        let rows = select.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?)));
        rows.expect("it reads").collect::<Result<Vec<_>, _>>().expect("it reads")
    });
    let rows = read.await.expect("it reads");
    assert_eq!(rows.len() as u64, records);
    for (_, value) in rows {
        bucket.put(&Session::decode(&value)).await.expect("it is put");
    }
}
