//! The comparisons.

use std::time::Duration;

use harness::Server;
use kvtyped::Storage;

use crate::etcd::{self, Etcd};
use crate::measure::{Effort, Measured, time};
use crate::nats::Nats;
use crate::record::Session;
use crate::redis::{self, Redis};
use crate::side::{BULK, LISTED, RECORDS, Side};
use crate::{process, report};

/// The number of keys that the writes cycle through.
const KEYS: u64 = 1_000;

/// An operation of both sides.
#[derive(Debug, Clone, Copy)]
enum Operation {
    Put,
    Get,
    Modify,
    Update,
    Lock,
    Event,
    List,
    Cache,
    Transaction,
    PutMany,
}

impl Operation {
    fn name(self) -> String {
        match self {
            Self::Put => "put".to_owned(),
            Self::Get => "get".to_owned(),
            Self::Modify => "modify one record, alone".to_owned(),
            Self::Update => "update at a known revision".to_owned(),
            Self::Lock => "lock and release, alone".to_owned(),
            Self::Event => "from a put to its event".to_owned(),
            Self::List => format!("list {RECORDS} records"),
            Self::Cache => format!("fill a cache of {RECORDS} records (peers: list them)"),
            Self::Transaction => "transaction of 2 keys".to_owned(),
            Self::PutMany => format!("put {BULK} records at once"),
        }
    }

    /// Returns how often each block repeats the operation in a full run.
    fn repetitions(self) -> usize {
        match self {
            Self::Put | Self::Get | Self::Modify | Self::Update => 400,
            Self::Lock | Self::Event | Self::Transaction => 200,
            Self::List | Self::Cache | Self::PutMany => 4,
        }
    }
}

/// The operations that are compared on all kinds of storage.
const WRITES: [Operation; 4] = [Operation::Put, Operation::Modify, Operation::Transaction, Operation::PutMany];

/// The servers of a run.
#[derive(Debug)]
pub(crate) struct Servers {
    nats: Server,
    /// A server that syncs each write.
    synced: Server,
    has_etcd: bool,
    has_redis: bool,
}

impl Servers {
    /// Finds the wanted peers, etcd and Redis, and starts the NATS servers.
    pub(crate) async fn start(wanted: [bool; 2]) -> Self {
        let nats = Server::start().await;
        let synced = Server::builder().jetstream("sync_interval: always").start().await;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        println!("On {cores} cores over loopback; load before the run: {}", load.split(' ').next().unwrap_or_default());
        println!("nats-server {}", harness::binary::version().map(|number| number.to_string()).join("."));
        let has_etcd = wanted[0] && installed("etcd", etcd::PROGRAM);
        let has_redis = wanted[1] && installed("Redis", redis::PROGRAM);
        Self { nats, synced, has_etcd, has_redis }
    }
}

/// Compares kvtyped with each peer.
pub(crate) async fn measure(effort: Effort, servers: Servers) {
    let watched = watched();
    let mut file = Nats::connect(servers.nats.url(), Storage::File, &watched).await;
    let mut memory = Nats::connect(servers.nats.url(), Storage::Memory, &watched).await;
    let mut synced = Nats::connect(servers.synced.url(), Storage::File, &watched).await;
    fill(&mut file).await;

    if servers.has_etcd {
        let mut etcd = Etcd::start(&watched).await;
        fill(&mut etcd).await;
        let theirs = "etcd, file, fsync per write";
        all(effort, &mut file, &mut etcd, theirs).await;
        writes(effort, ["memory", theirs], &mut memory, &mut etcd).await;
        writes(effort, ["file, fsync per write", theirs], &mut synced, &mut etcd).await;
    }
    if servers.has_redis {
        let mut redis = Redis::start(false).await;
        fill(&mut redis).await;
        let theirs = "Redis, memory";
        all(effort, &mut file, &mut redis, theirs).await;
        writes(effort, ["memory", theirs], &mut memory, &mut redis).await;
        drop(redis);
        let mut redis = Redis::start(true).await;
        let theirs = "Redis, append-only file, fsync per write";
        writes(effort, ["file, fsync per write", theirs], &mut synced, &mut redis).await;
    }
}

/// Returns whether a peer is installed. Prints its version, or how to install it.
fn installed(peer: &str, (program, package): (&str, &str)) -> bool {
    let version = process::version(program);
    match &version {
        Some(version) => println!("{version}"),
        None => println!("NOT DONE: {peer} is not installed (apt-get install {package})"),
    }
    version.is_some()
}

/// The record whose events are measured.
fn watched() -> Session {
    Session::new("watched", 1)
}

async fn fill(side: &mut impl Side) {
    let records: Vec<_> = (0..RECORDS).map(|id| Session::new(LISTED, id)).collect();
    for records in records.chunks(BULK as usize) {
        side.put_many(records).await;
    }
}

/// Compares all operations with a bucket on file storage.
async fn all(effort: Effort, ours: &mut Nats, theirs: &mut impl Side, name: &str) {
    report::head("file, no fsync per write", name);
    for operation in [
        Operation::Put,
        Operation::Get,
        Operation::Modify,
        Operation::Update,
        Operation::Lock,
        Operation::Event,
        Operation::List,
        Operation::Cache,
        Operation::Transaction,
        Operation::PutMany,
    ] {
        compare(effort, operation, ours, theirs).await;
    }
}

/// Compares the writes.
async fn writes(effort: Effort, storage: [&str; 2], ours: &mut Nats, theirs: &mut impl Side) {
    report::head(storage[0], storage[1]);
    for operation in WRITES {
        compare(effort, operation, ours, theirs).await;
    }
}

/// Does ours and theirs in turn, as `measure::pairs` does. The futures of its closures are not `Send`.
async fn compare(effort: Effort, operation: Operation, ours: &mut impl Side, theirs: &mut impl Side) {
    let each = effort.of(operation.repetitions());
    let mut measured = Measured::default();
    let mut id = 0;
    // The first block only warms up.
    for block in 0..=effort.blocks(7) {
        let (mut of_ours, mut of_theirs) = (Vec::with_capacity(each), Vec::with_capacity(each));
        for pair in 0..if block == 0 { each.div_ceil(10) } else { each } {
            id += 1;
            if (block + pair) % 2 == 0 {
                of_ours.push(run(ours, operation, id).await.as_secs_f64());
                of_theirs.push(run(theirs, operation, id).await.as_secs_f64());
            } else {
                of_theirs.push(run(theirs, operation, id).await.as_secs_f64());
                of_ours.push(run(ours, operation, id).await.as_secs_f64());
            }
        }
        if block > 0 {
            measured.ours.push(of_ours);
            measured.theirs.push(of_theirs);
        }
    }
    report::row(&operation.name(), &measured);
}

/// Runs an operation once. Returns the time that it took.
async fn run(side: &mut impl Side, operation: Operation, id: u64) -> Duration {
    let record = Session::new("acme", id % KEYS);
    match operation {
        Operation::Put => time(side.put(&record)).await,
        Operation::Get => time(async { assert_eq!(side.get(&Session::new(LISTED, id)).await.id, id) }).await,
        Operation::Modify => time(side.modify(&Session::new("acme", 1))).await,
        Operation::Update => time(side.update(&Session::new("updated", 1))).await,
        Operation::Lock => time(side.lock()).await,
        Operation::Event => side.put_until_event(&watched()).await,
        Operation::List => time(async { assert_eq!(side.list().await as u64, RECORDS) }).await,
        Operation::Cache => time(async { assert_eq!(side.cache().await as u64, RECORDS) }).await,
        Operation::Transaction => {
            let records = [record, Session::new("other", id % KEYS)];
            time(side.transaction(&records)).await
        }
        Operation::PutMany => {
            let records: Vec<_> = (0..BULK).map(|id| Session::new("bulk", id)).collect();
            time(side.put_many(&records)).await
        }
    }
}
