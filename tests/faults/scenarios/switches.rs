//! Write epochs: no write of an old epoch lands after the first write of the new one.
//!
//! Old writers on each of three servers keep 8 writes in flight while the epoch is switched, at the same moment as a
//! step-down or a kill of the leader. The first write of the new epoch is a marker. An old write is late if its
//! acknowledgement, or its message on any replica, has a later revision than the marker.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use harness::{Cluster, Server, wait};
use kvtyped::backend::nats::{NatsBackend, NatsOptions};
use kvtyped::backend::{Backend, Deadline, RawBucket, Write, WriteKind};
use kvtyped::config::{BucketConfig, WriteEpochs};
use kvtyped::prelude::*;
use kvtyped::{Error, ErrorKind, Key};
use serde_json::{Value, json};

use super::{Effort, SECOND, leader};
use crate::op_stats::Counts;
use crate::report::Row;

const BUCKET: &str = "switched";
const STREAM: &str = "KV_switched";
/// The number of writes that each writer keeps in flight.
const IN_FLIGHT: usize = 8;
/// The time limit of one write. A write without an answer counts as unknown.
const WRITE: Duration = Duration::from_secs(5);

/// The results of the old writers of one switch.
#[derive(Default)]
struct OldWrites {
    counts: Counts,
    /// The keys and revisions of the acknowledged writes.
    acknowledged: Vec<(String, Revision)>,
}

async fn connect(url: &str) -> NatsBackend {
    NatsBackend::connect(url, NatsOptions::new()).await.expect("the server is there")
}

fn put(key: &str, epoch: u64) -> Write {
    Write::new(Key::new(key).expect("a legal key"), WriteKind::Put("v".into())).in_epoch(Some(epoch))
}

/// Writes new keys until the server refuses the epoch. `acks` counts the acknowledgements of all writers.
async fn write_until_refused(
    bucket: Arc<dyn RawBucket>,
    prefix: String,
    epoch: u64,
    acks: Arc<AtomicU64>,
) -> OldWrites {
    let mut writes = OldWrites::default();
    for number in 0.. {
        let key = format!("{prefix}.{number}");
        match bucket.write(put(&key, epoch), Deadline::after(WRITE)).await {
            Ok(revision) => {
                writes.counts.ok += 1;
                writes.acknowledged.push((key, revision));
                acks.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) if matches!(error.kind(), ErrorKind::EpochMoved { .. }) => {
                writes.counts.refused += 1;
                return writes;
            }
            Err(error) if error.outcome() == Outcome::Unknown => writes.counts.unknown += 1,
            Err(_) => writes.counts.failed += 1,
        }
    }
    writes
}

/// A cluster with a replicated bucket and a backend on each server.
struct Site {
    cluster: Cluster,
    admin: NatsBackend,
    buckets: Vec<Arc<dyn RawBucket>>,
    epoch: u64,
    row: Row,
    started: Instant,
}

impl Site {
    async fn new(name: &'static str) -> Self {
        let (cluster, started) = (Cluster::start(3).await, Instant::now());
        let admin = connect(&cluster.urls()).await;
        let mut config = BucketConfig::new(BUCKET);
        config.replicas = Some(3);
        config.write_epochs = Some(WriteEpochs::Closed);
        admin.create(config, Deadline::after(10 * SECOND)).await.expect("nothing fails yet");
        let mut buckets = Vec::new();
        for node in cluster.nodes() {
            let opened = connect(&node.url()).await.open(BUCKET, Deadline::after(10 * SECOND)).await;
            buckets.push(opened.expect("nothing fails yet").expect("the bucket exists"));
        }
        Self { cluster, admin, buckets, epoch: 1, row: Row::new(name), started }
    }

    /// Starts the old writers. Waits until they have this number of acknowledgements.
    async fn start_writers(&self, acks: u64) -> Vec<tokio::task::JoinHandle<OldWrites>> {
        let done = Arc::new(AtomicU64::new(0));
        let mut writers = Vec::new();
        for (node, bucket) in self.buckets.iter().enumerate() {
            for task in 0..IN_FLIGHT {
                let prefix = format!("old.{}.{node}.{task}", self.epoch);
                writers.push(tokio::spawn(write_until_refused(bucket.clone(), prefix, self.epoch, done.clone())));
            }
        }
        wait::until("the old writers write", 60 * SECOND, async || {
            (done.load(Ordering::Relaxed) >= acks).then_some(())
        })
        .await;
        writers
    }

    /// Switches the epoch, and returns the revision of the first write of the new one.
    async fn switch(&self) -> Result<Revision, Error> {
        let mut config = BucketConfig::new(BUCKET);
        config.write_epoch = Some(self.epoch + 1);
        config.metadata = [("switch".to_owned(), format!("{:x}", self.epoch + 1))].into();
        let switched = self.admin.update(config, Deadline::after(60 * SECOND)).await?;
        let marker = format!("marker.{}", self.epoch + 1);
        loop {
            // A create may be sent again after a lost acknowledgement.
            let marker = put(&marker, self.epoch + 1).if_revision(Revision::ZERO);
            match switched.write(marker, Deadline::after(30 * SECOND)).await {
                Err(error) if error.outcome() == Outcome::Unknown => {}
                written => return written,
            }
        }
    }

    /// Checks the writes of the old epoch against the marker. Returns the numbers of late acknowledgements and of
    /// messages that some replica stored late.
    async fn check(&mut self, writers: Vec<tokio::task::JoinHandle<OldWrites>>, marker: Revision) -> (usize, usize) {
        let results = tokio::time::timeout(60 * SECOND, join_all(writers)).await.expect("every old writer is refused");
        let mut acknowledged = Vec::new();
        for writes in results {
            let writes = writes.expect("no writer panics");
            self.row.counts = self.row.counts.and(writes.counts);
            acknowledged.extend(writes.acknowledged);
        }
        let late = acknowledged.iter().filter(|(_, revision)| *revision > marker).count();
        let (mut missing, mut stored_late, mut copies) = (0, 0, BTreeSet::new());
        for node in 0..3 {
            let stored = self.stored_by(node).await;
            missing += acknowledged.iter().filter(|(key, _)| !stored.contains(key.as_str())).count();
            stored_late += self.stored_after(node, marker).await;
            copies.insert(stored.len());
        }
        if missing > 0 || copies.len() > 1 {
            let epoch = self.epoch;
            self.row.violations.push(format!(
                "epoch {epoch}: replicas miss {missing} of {} acknowledged writes, and hold {copies:?} keys",
                acknowledged.len()
            ));
        }
        (late, stored_late)
    }

    /// Makes a server lead the stream, so that it answers from its own replica.
    async fn lead(&self, node: usize) -> &Server {
        self.cluster.ready().await;
        while leader(&self.cluster, STREAM).await != node {
            self.cluster.step_down(STREAM).await;
        }
        self.cluster.node(node)
    }

    /// Returns the keys of the old epoch that a replica holds.
    async fn stored_by(&self, node: usize) -> BTreeSet<String> {
        let server = self.lead(node).await;
        let (mut keys, below) = (BTreeSet::new(), format!("$KV.{BUCKET}."));
        loop {
            let page = json!({ "subjects_filter": format!("{below}old.{}.>", self.epoch), "offset": keys.len() });
            let info = server.api(&format!("$JS.API.STREAM.INFO.{STREAM}"), &page).await.expect("the leader answers");
            let found = info["state"]["subjects"].as_object().cloned().unwrap_or_default();
            let before = keys.len();
            keys.extend(found.keys().filter_map(|subject| subject.strip_prefix(&below)).map(str::to_owned));
            if keys.len() == before {
                return keys;
            }
        }
    }

    /// Returns the number of messages of the old epoch that a replica stored after the marker, and of messages under
    /// other subjects than those of records.
    async fn stored_after(&self, node: usize, marker: Revision) -> usize {
        let server = self.lead(node).await;
        let mut found = 0;
        for filter in [format!("$KV.{BUCKET}.old.{}.>", self.epoch), "$KV.=w.>".to_owned()] {
            let mut from = if filter.starts_with("$KV.=w") { 1 } else { marker.get() + 1 };
            loop {
                let next = json!({ "seq": from, "next_by_subj": filter });
                let reply = server.api(&format!("$JS.API.STREAM.MSG.GET.{STREAM}"), &next).await;
                let reply = reply.expect("the leader answers");
                let Some(seq) = reply["message"]["seq"].as_u64() else { break };
                (found, from) = (found + 1, seq + 1);
            }
        }
        found
    }

    fn finish(mut self) -> Row {
        self.row.took = self.started.elapsed();
        self.row
    }
}

/// Switches the epoch while the leader steps down, and while it is killed.
pub(crate) async fn under_faults(name: &'static str, effort: Effort) -> Row {
    let mut site = Site::new(name).await;
    let (mut late, mut stored_late, mut longest) = (0, 0, Duration::ZERO);
    for round in 0..effort.of(2, 20) {
        let is_killed = round % 3 == 1;
        let writers = site.start_writers(effort.of(500, 2_000)).await;
        let node = leader(&site.cluster, STREAM).await;
        site.row.faults += 1;
        let begin = Instant::now();
        let fault = async {
            match is_killed {
                true => site.cluster.node(node).kill().await,
                false => drop(site.cluster.step_down(STREAM).await),
            }
        };
        let (switched, ()) = tokio::join!(site.switch(), fault);
        longest = longest.max(begin.elapsed());
        if is_killed {
            site.cluster.node(node).restart().await;
            site.cluster.ready().await;
        }
        let marker = match switched {
            Ok(marker) => marker,
            Err(error) => {
                site.row.violations.push(format!("the switch to {} failed: {error}", site.epoch + 1));
                return site.finish();
            }
        };
        let (acknowledged, stored) = site.check(writers, marker).await;
        (late, stored_late) = (late + acknowledged, stored_late + stored);
        site.epoch += 1;
    }
    let counts = site.row.counts;
    site.row.notes.push(format!(
        "{} switches: of {} old writes, {late} were acknowledged late and {stored_late} stored late; {} without an \
         answer; the longest switch with its first new write took {longest:?}",
        site.epoch - 1,
        counts.sum(),
        counts.unknown,
    ));
    if late + stored_late > 0 {
        site.row.violations.push(format!("{late} old writes were acknowledged late, and {stored_late} stored late"));
    }
    site.finish()
}

/// The control: the stream takes the new epoch in one update, and drops the old one in the next.
pub(crate) async fn in_two_updates(name: &'static str, _: Effort) -> Row {
    let mut site = Site::new(name).await;
    let writers = site.start_writers(200).await;
    let server = site.cluster.node(0);
    update(server, |raw| raw["subjects"] = json!([format!("$KV.=w.{BUCKET}.1.>"), format!("$KV.=w.{BUCKET}.2.>")]))
        .await;
    let marker = raw_marker(server).await;
    let follow = async || site.buckets[0].write(put("old.1.follow", 1), Deadline::after(SECOND)).await.ok();
    wait::until("an old write follows the marker", 10 * SECOND, follow).await;
    update(server, |raw| raw["subjects"] = json!([format!("$KV.=w.{BUCKET}.2.>")])).await;
    let (late, stored_late) = site.check(writers, marker).await;
    site.row.notes.push(format!("{late} old writes were acknowledged late, and {stored_late} stored late"));
    if late == 0 || stored_late == 0 {
        site.row.violations.push("a switch in two updates showed no late write, so the checks detect nothing".into());
    }
    site.finish()
}

/// The control: the transform names the epoch, so a switch changes the transform with the subject.
pub(crate) async fn with_moving_transform(name: &'static str, _: Effort) -> Row {
    let mut site = Site::new(name).await;
    let mut lost = 0;
    for _ in 0..20 {
        let (old, new) = (site.epoch, site.epoch + 1);
        let transform =
            |epoch| json!({ "src": format!("$KV.=w.{BUCKET}.{epoch}.>"), "dest": format!("$KV.{BUCKET}.>") });
        update(site.cluster.node(0), |raw| raw["subject_transform"] = transform(old)).await;
        let writers = site.start_writers(1_000).await;
        update(site.cluster.node(0), |raw| {
            raw["subjects"] = json!([format!("$KV.=w.{BUCKET}.{new}.>")]);
            raw["subject_transform"] = transform(new);
        })
        .await;
        let results = tokio::time::timeout(60 * SECOND, join_all(writers)).await.expect("every old writer is refused");
        for writes in results {
            site.row.counts = site.row.counts.and(writes.expect("no writer panics").counts);
        }
        for node in 0..3 {
            lost += site.stored_after(node, Revision::new(u64::MAX - 1)).await;
        }
        site.row.faults += 1;
        site.epoch = new;
        if lost > 0 {
            break;
        }
    }
    site.row.notes.push(format!("{lost} messages are no records after {} switches", site.row.faults));
    if lost == 0 {
        site.row.violations.push("a transform that names the epoch lost nothing, so the checks detect nothing".into());
    }
    site.finish()
}

/// Changes the stream without regard to the rules of a switch.
async fn update(server: &Server, change: impl Fn(&mut Value)) {
    wait::until("the stream is changed", 30 * SECOND, async || {
        let info = server.api(&format!("$JS.API.STREAM.INFO.{STREAM}"), &Value::Null).await.ok()?;
        let mut raw = info["config"].clone();
        change(&mut raw);
        let reply = server.api(&format!("$JS.API.STREAM.UPDATE.{STREAM}"), &raw).await.ok()?;
        reply["error"].is_null().then_some(())
    })
    .await;
}

/// Writes the marker of epoch 2 without the library, and returns its revision.
async fn raw_marker(server: &Server) -> Revision {
    let client = async_nats::connect(server.url()).await.expect("the server is there");
    wait::until("the marker is stored", 10 * SECOND, async || {
        let reply = client.request(format!("$KV.=w.{BUCKET}.2.marker"), "v".into()).await.ok()?;
        let ack: Value = serde_json::from_slice(&reply.payload).ok()?;
        ack["seq"].as_u64().map(Revision::new)
    })
    .await
}
