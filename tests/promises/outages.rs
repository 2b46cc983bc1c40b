//! Servers that crash and restart.

use std::sync::atomic::{AtomicBool, Ordering};

use harness::{Cluster, Server, wait};
use kvtyped::prelude::*;

use super::{Ledger, is_unknown};
use crate::support::{Document, DocumentKey, World, in_time, seen_as};

/// The timeout of a write, longer than the outage of a server.
const PATIENT: Duration = Duration::from_secs(20);

/// The timeout of a write that is not retried. If its acknowledgement is lost, the write waits for the whole timeout.
const HASTY: Duration = Duration::from_secs(4);

/// Writes repeatedly until `stop` is set: creates, blind writes, and updates of the previous write.
async fn write_on(writer: usize, documents: Bucket<Document>, stop: &AtomicBool) -> Ledger {
    let mut ledger = Ledger::default();
    for round in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let document = |text: &str| Document::new(&format!("{writer}.{round}"), text);
        let (created, put, updated) = (document("created"), document("put"), document("updated"));
        let result = in_time("create", PATIENT, documents.create(&created).timeout(PATIENT)).await;
        ledger.note(created, result);
        let result = in_time("put", HASTY, documents.put(&put).timeout(HASTY)).await;
        let revision = result.as_ref().ok().copied();
        ledger.note(put, result);
        if let Some(revision) = revision {
            let result = in_time("update", PATIENT, documents.update(&updated, revision).timeout(PATIENT)).await;
            ledger.note(updated, result);
        }
    }
    ledger
}

/// Runs writers during `fault` and compares their results with the stored records. Returns the number of acknowledged
/// writes, and the number of writes of unknown outcome.
async fn survives(
    writers: Vec<Bucket<Document>>,
    observer: &Bucket<Document>,
    fault: impl Future<Output = ()>,
) -> (usize, usize) {
    let stop = AtomicBool::new(false);
    let running = writers.iter().enumerate().map(|(n, bucket)| write_on(n, bucket.clone(), &stop));
    let (ledgers, ()) = tokio::join!(futures::future::join_all(running), async {
        fault.await;
        stop.store(true, Ordering::Relaxed);
    });
    let (mut acknowledged, mut unknown) = (0, 0);
    for ledger in ledgers {
        ledger.agrees_with(observer).await;
        for (document, result) in &ledger.0 {
            match result {
                Ok(_) => acknowledged += 1,
                // A write with a precondition is recovered or retried.
                Err(error) => assert_eq!(document.text, "put", "{error}"),
            }
            unknown += usize::from(is_unknown(result));
        }
    }
    (acknowledged, unknown)
}

/// Waits until `more` further entries were written.
async fn more_writes(documents: &Bucket<Document>, more: u64) {
    let mut before = None;
    wait::until("writes go on", 2 * PATIENT, async || {
        // The connected server may be the one that is down.
        let now = documents.status().await.ok()?.last_revision.get();
        (now >= *before.get_or_insert(now) + more).then_some(())
    })
    .await;
}

/// P4, P5: the server is killed twice during writes.
#[tokio::test]
async fn acknowledged_writes_survive_server_kill() {
    let server = Server::start().await;
    let world = World::at(&server.url()).await;
    let observer = world.bucket::<Document>().await;
    let mut writers = Vec::new();
    for _ in 0..4 {
        writers.push(seen_as(&World::at(&server.url()).await, observer.name()).await);
    }
    let fault = async {
        for _ in 0..2 {
            more_writes(&observer, 100).await;
            server.kill().await;
            server.restart().await;
        }
        more_writes(&observer, 100).await;
    };
    let (acknowledged, unknown) = survives(writers, &observer, fault).await;
    println!("{acknowledged} acknowledged, {unknown} unknown");
    assert!(acknowledged >= 300);
}

/// P4, P5: a write that starts while the server is down is applied as soon as the server is up.
#[tokio::test]
async fn write_started_in_outage_succeeds() {
    let server = Server::start().await;
    let world = World::at(&server.url()).await;
    let documents = world.bucket::<Document>().await;
    let first = documents.put(&Document::new("a", "old")).await.unwrap();
    server.kill().await;
    let (create, update) = (Document::new("b", "created"), Document::new("a", "updated"));
    let key = DocumentKey::new("a");
    let (created, updated, read, ()) = tokio::join!(
        in_time("create", PATIENT, documents.create(&create).timeout(PATIENT)),
        in_time("update", PATIENT, documents.update(&update, first).timeout(PATIENT)),
        in_time("get", PATIENT, documents.get(&key).timeout(PATIENT)),
        server.restart(),
    );
    assert!(created.is_ok() && updated.is_ok(), "{created:?} {updated:?}");
    assert!(read.unwrap().is_some());
    let mut ledger = Ledger::default();
    ledger.note(create, created);
    ledger.note(update, updated);
    ledger.agrees_with(&documents).await;
}

/// P4, P5: the leader is frozen during writes, and resumes with its buffered requests after another node has become the
/// leader.
#[tokio::test]
async fn acknowledged_writes_survive_frozen_leader() {
    let cluster = Cluster::start(3).await;
    let world = World::at(&cluster.urls()).await;
    let observer: Bucket<Document> = world.fresh().replicas(3).await.unwrap();
    let mut writers = Vec::new();
    for _ in 0..3 {
        writers.push(seen_as(&World::at(&cluster.urls()).await, observer.name()).await);
    }
    let stream = format!("KV_{}", observer.name());
    let fault = async {
        more_writes(&observer, 50).await;
        let leader = wait::until("the stream has a leader", PATIENT, async || cluster.leader_of(&stream).await).await;
        cluster.node(leader).freeze();
        more_writes(&observer, 50).await;
        cluster.node(leader).thaw();
        more_writes(&observer, 50).await;
    };
    let (acknowledged, unknown) = survives(writers, &observer, fault).await;
    println!("{acknowledged} acknowledged, {unknown} unknown");
    assert!(acknowledged >= 100);
}

/// P4: a former leader resumes and decides on its buffered requests before it learns of the new leader. The new leader
/// is slower, and its decision counts.
#[tokio::test]
async fn refusal_by_former_leader_is_not_final() {
    let cluster = Cluster::start(3).await;
    let made: Bucket<Document> = World::at(&cluster.urls()).await.fresh().replicas(3).await.unwrap();
    let stream = format!("KV_{}", made.name());
    let leader = async || cluster.leader_of(&stream).await;
    let old = wait::until("it has a leader", PATIENT, leader).await;
    cluster.node(old).freeze();
    let new =
        wait::until("it has another leader", 2 * PATIENT, async || leader().await.filter(|new| *new != old)).await;
    let third = 3 - old - new;
    let documents: Bucket<Document> = seen_as(&World::at(&cluster.node(third).url()).await, made.name()).await;
    let mut ledger = Ledger::default();
    let mut writes = Vec::new();
    for name in ["a", "b", "c"] {
        let (put, update) = (Document::new(name, "put"), Document::new(name, "updated"));
        let result = documents.put(&put).timeout(PATIENT).await;
        writes.push((update, *result.as_ref().expect("it has a leader")));
        ledger.note(put, result);
    }
    cluster.node(new).freeze();
    let updates = writes.iter().map(|(update, read)| documents.update(update, *read).timeout(PATIENT).into_future());
    let (results, ()) = tokio::join!(futures::future::join_all(updates), async {
        // No event shows that the former leader has received the requests and has answered them.
        tokio::time::sleep(Duration::from_millis(100)).await;
        cluster.node(old).thaw();
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster.node(new).thaw();
    });
    for ((update, _), result) in writes.into_iter().zip(results) {
        assert!(result.is_ok() || is_unknown(&result), "no other client wrote: {result:?}");
        ledger.note(update, result);
    }
    ledger.agrees_with(&documents).await;
}
