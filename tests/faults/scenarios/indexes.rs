//! Indexed writes on three replicas whose leader dies: no live record lacks an entry, and no value has two records.
//!
//! Writers on each server store, change and remove records of one model with a unique and two secondary indexes. Some of
//! them die between their requests. The leader is killed while they write, so between entries and records, too. An auditor
//! reads the records and their entries all the time. A client that does not know the indexes writes other records, and two
//! followers repair their entries.

use std::collections::HashMap;
use std::future::{Future, IntoFuture, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Instant;

use futures::TryStreamExt;
use futures::future::join_all;
use harness::Cluster;
use kvtyped::backend::nats::{NatsBackend, NatsOptions};
use kvtyped::backend::{Backend, Deadline, KeySpace, RawBucket, Read, ReadAt};
use kvtyped::key::ModelKey;
use kvtyped::model::index::{Claim, claim_key, entry_key, values_of};
use kvtyped::prelude::*;
use kvtyped::{Error, ErrorKind, Key, RawRecord};

use super::{Effort, SECOND, leader};
use crate::op_stats::Counts;
use crate::report::Row;

const BUCKET: &str = "members";
const STREAM: &str = "KV_members";
/// The number of records of the writers, and of unique values.
const RECORDS: u64 = 12;
const VALUES: u64 = 8;
/// The first record of the client that does not know the indexes.
const FOREIGN: u64 = 1_000;
const WRITE: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(120);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "members", key = "{id}", replicas = 3)]
struct Member {
    id: u64,
    #[kv(unique)]
    email: String,
    #[kv(index)]
    team: String,
    #[kv(index)]
    tags: Vec<String>,
}

/// A sequence of numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// The shared state of the tasks.
#[derive(Default)]
struct Run {
    has_ended: AtomicBool,
    done: AtomicU64,
    died: AtomicU64,
    observed: AtomicUsize,
}

impl Run {
    fn goes_on(&self) -> bool {
        !self.has_ended.load(Ordering::Relaxed)
    }
}

/// Polls a future this many times, and then drops it.
async fn dies_after<F: Future + Unpin>(mut future: F, mut polls: u64) -> Option<F::Output> {
    poll_fn(move |context| {
        if polls == 0 {
            return Poll::Ready(None);
        }
        polls -= 1;
        Pin::new(&mut future).poll(context).map(Some)
    })
    .await
}

async fn connect(url: &str) -> (Store, Bucket<Member>) {
    let store = Store::connect(url).timeout(WRITE).await.expect("the server is there");
    let members = store.bucket().must_exist().await.expect("the bucket exists");
    (store, members)
}

/// Writes records of eight values until the end.
async fn write(url: String, number: u64, run: Arc<Run>) -> Counts {
    let (_store, members) = connect(&url).await;
    let mut random = Random(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut counts = Counts::default();
    while run.goes_on() {
        let id = random.below(RECORDS);
        let member = Member {
            id,
            email: format!("mail{}", random.below(VALUES)),
            team: format!("t{}", random.below(3)),
            tags: vec![format!("a{}", random.below(2)), "b".into()],
        };
        let key = MemberKey::new(id);
        let polls = if random.below(25) == 0 { 1 + random.below(6) } else { u64::MAX };
        let written: Option<Result<(), Error>> = match random.below(6) {
            0 => dies_after(members.delete(&key).into_future(), polls).await.map(|done| done.map(drop)),
            1 => dies_after(members.create(&member).into_future(), polls).await.map(|done| done.map(drop)),
            _ => dies_after(members.put(&member).into_future(), polls).await.map(|done| done.map(drop)),
        };
        match written {
            None => {
                run.died.fetch_add(1, Ordering::Relaxed);
                counts.unknown += 1;
            }
            Some(Ok(())) => {
                run.done.fetch_add(1, Ordering::Relaxed);
                counts.ok += 1;
            }
            Some(Err(error)) => match error.kind() {
                ErrorKind::NotUnique { .. } | ErrorKind::AlreadyExists | ErrorKind::Conflict { .. } => {
                    counts.refused += 1;
                }
                _ if error.outcome() == Outcome::Unknown => counts.unknown += 1,
                _ => counts.failed += 1,
            },
        }
    }
    counts
}

/// Writes and removes records without their entries until the end.
async fn write_foreign(url: String, run: Arc<Run>) -> u64 {
    let (store, _members) = connect(&url).await;
    let raw = store.raw(BUCKET).await.expect("the bucket exists");
    let mut count = 0;
    while run.goes_on() {
        let id = FOREIGN + count % 20;
        let key = MemberKey::new(id).encode().expect("a legal key");
        let (email, team) = (format!("foreign{count}"), format!("f{}", count % 3));
        let body = serde_json::to_vec(&Member { id, email, team, tags: Vec::new() }).expect("it is JSON");
        let written = match count % 5 {
            4 => raw.delete(&key).await,
            _ => raw.put(&RawRecord::new(key, body)).await,
        };
        count += u64::from(written.is_ok());
        tokio::task::yield_now().await;
    }
    count
}

/// Follows the bucket until the end.
async fn follow(url: String, run: Arc<Run>) -> Result<(), Error> {
    let (_store, members) = connect(&url).await;
    let ended = async {
        while run.goes_on() {
            tokio::time::sleep(SECOND / 10).await;
        }
    };
    members.maintain_indexes().until(ended).await
}

/// Reads records and entries, and returns the violations of the invariants.
struct Auditor {
    members: Bucket<Member>,
    raw: Arc<dyn RawBucket>,
}

impl Auditor {
    async fn read(&self, space: KeySpace, key: &Key) -> Result<Option<kvtyped::backend::RawEntry>, Error> {
        self.raw.read(space, key, ReadAt::Newest(Read::Leader), Deadline::after(WRITE)).await
    }

    async fn is_at(&self, key: &Key, revision: Revision) -> Result<bool, Error> {
        Ok(self.read(KeySpace::Records, key).await?.is_some_and(|entry| entry.revision == revision))
    }

    async fn audit(&self) -> Result<Vec<String>, Error> {
        let records: Vec<Entry<Member>> = self.members.list(..).await?.try_collect().await?;
        let (mut violations, mut holders) = (Vec::new(), HashMap::<String, (Key, Revision)>::new());
        for entry in records.iter().filter(|entry| entry.id < FOREIGN) {
            let (key, revision) = (entry.key().encode().expect("a legal key"), entry.revision());
            for value in values_of(entry.value()).iter() {
                let info = &Member::__INDEXES[value.index];
                let slot = match info.is_unique() {
                    true => claim_key("member", info, &value.text),
                    false => entry_key("member", info, &value.text, &key),
                };
                let slot = slot.expect("it is short");
                let found = self.read(KeySpace::Index, &slot).await?;
                let owner = found.as_ref().and_then(|found| Claim::decode(&found.value).ok()).map(|claim| claim.owner);
                let holds = if info.is_unique() { owner.as_ref() == Some(&key) } else { found.is_some() };
                if !holds && self.is_at(&key, revision).await? {
                    violations.push(format!("{key} at {revision} lacks {slot}"));
                }
            }
            if let Some((other, at)) = holders.insert(entry.email.clone(), (key.clone(), revision))
                && self.is_at(&other, at).await?
                && self.is_at(&key, revision).await?
                && self.is_at(&other, at).await?
            {
                violations.push(format!("{other} and {key} have one unique value"));
            }
        }
        Ok(violations)
    }

    /// Audits until the end. A read that fails while no server leads is repeated.
    async fn run(self, run: Arc<Run>) -> Vec<String> {
        let mut violations = Vec::new();
        while run.goes_on() {
            if let Ok(found) = self.audit().await {
                run.observed.fetch_add(1, Ordering::Relaxed);
                violations.extend(found);
            }
        }
        violations
    }
}

/// Kills the leader again and again while indexed records are written.
pub(crate) async fn leader_killed(name: &'static str, effort: Effort) -> Row {
    let (cluster, started) = (Cluster::start(3).await, Instant::now());
    let mut row = Row::new(name);
    let admin = Store::connect(cluster.urls()).timeout(WRITE).await.expect("the servers are there");
    let members: Bucket<Member> = admin.bucket().await.expect("nothing fails yet");
    let raw = NatsBackend::connect(&cluster.urls(), NatsOptions::new()).await.expect("the servers are there");
    let raw = raw.open(BUCKET, Deadline::after(WRITE)).await.expect("nothing fails yet").expect("the bucket exists");

    let run = Arc::<Run>::default();
    let writers: Vec<_> = (0..8).map(|number| tokio::spawn(write(cluster.urls(), number, Arc::clone(&run)))).collect();
    let foreign = tokio::spawn(write_foreign(cluster.urls(), Arc::clone(&run)));
    let followers: Vec<_> = (0..2).map(|_| tokio::spawn(follow(cluster.urls(), Arc::clone(&run)))).collect();
    let auditor = tokio::spawn(Auditor { members: members.clone(), raw }.run(Arc::clone(&run)));
    let progress = async |more: u64| {
        let from = run.done.load(Ordering::Relaxed);
        let progress = async || (run.done.load(Ordering::Relaxed) >= from + more).then_some(());
        harness::wait::until("the writers go on", LONG, progress).await;
    };
    for _ in 0..effort.of(2, 12) {
        progress(effort.of(100, 400)).await;
        row.faults += 1;
        let node = leader(&cluster, STREAM).await;
        cluster.node(node).kill().await;
        progress(effort.of(50, 200)).await;
        cluster.node(node).restart().await;
        cluster.ready().await;
    }
    progress(100).await;
    run.has_ended.store(true, Ordering::Relaxed);
    for counts in join_all(writers).await {
        row.counts = row.counts.and(counts.expect("no writer panics"));
    }
    let foreign = foreign.await.expect("it does not panic");
    for ended in join_all(followers).await {
        if let Err(error) = ended.expect("no follower panics") {
            row.violations.push(format!("a follower failed: {error:?}"));
        }
    }
    row.violations.extend(auditor.await.expect("it does not panic"));
    row.violations.extend(quiet(&members).await.unwrap_or_else(|error| vec![format!("no quiet audit: {error:?}")]));
    let (died, observed) = (run.died.load(Ordering::Relaxed), run.observed.load(Ordering::Relaxed));
    row.notes.push(format!("{died} writers died, {observed} audits, {foreign} foreign writes were followed"));
    if observed == 0 {
        row.violations.push("the auditor saw nothing".into());
    }
    row.took = started.elapsed();
    row
}

/// Lets a follower reach the end, and compares all records and entries.
async fn quiet(members: &Bucket<Member>) -> Result<Vec<String>, Error> {
    let last = members.status().await?.last_revision;
    let follower = std::pin::pin!(members.maintain_indexes().sweep_every(Duration::ZERO).into_future());
    let lookup = members.count_by(Member::by_team("t1")).at_least(last).timeout(LONG).into_future();
    let mut violations = Vec::new();
    match futures::future::select(follower, lookup).await {
        futures::future::Either::Left((ended, _)) => violations.push(format!("the follower ended: {ended:?}")),
        futures::future::Either::Right((found, _)) => drop(found?),
    }
    let report = members.verify_indexes().await?;
    for index in &report.indexes {
        if index.missing > 0 || !index.duplicates.is_empty() {
            violations.push(format!("at the end: {index:?}"));
        }
    }
    if !members.verify_indexes().repair().await?.indexes.iter().all(|index| index.stale == index.repaired) {
        violations.push("a stale entry was not repaired".into());
    }
    let report = members.verify_indexes().await?;
    if !report.is_clean() {
        violations.push(format!("after the repair: {report:?}"));
    }
    Ok(violations)
}
