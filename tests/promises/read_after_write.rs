//! Reads immediately after writes, in a bucket with three replicas.

use kvtyped::Read;
use kvtyped::prelude::*;

use super::TestCluster;
use crate::support::{Session, World, seen_as};

const PAIRS: u64 = 9;

/// The number of reads that were older than the reader's own last write, and of reads that were older than the previous
/// read.
#[derive(Debug, Default, PartialEq)]
struct Staleness {
    below_own: usize,
    decreasing: usize,
}

/// Runs pairs of a writer and a reader concurrently. Each pair has its own key and its own connections.
async fn write_then_read(rounds: u32, read: impl Fn(Revision) -> Read + Copy) -> Staleness {
    let made: Bucket<Session> =
        TestCluster::ThreeServers.fresh(&TestCluster::ThreeServers.world().await).await.unwrap();
    let pairs = (0..PAIRS).map(|pair| {
        let name = made.name().to_owned();
        async move {
            let at = usize::try_from(pair).expect("small");
            let writer = World::at(&TestCluster::ThreeServers.nth_server(at).await.url()).await;
            let reader = World::at(&TestCluster::ThreeServers.nth_server(at / 3).await.url()).await;
            let (writer, reader) = (seen_as::<Session>(&writer, &name).await, seen_as::<Session>(&reader, &name).await);
            let session = Session::new("acme", pair);
            let mut staleness = Staleness::default();
            let mut before = Revision::ZERO;
            for visits in 1..=rounds {
                let written = writer.put(&session.clone().visited(visits)).await.unwrap();
                let entry = reader.get(&session.key()).read(read(written)).await.unwrap();
                let found = entry.map_or(Revision::ZERO, |entry| entry.revision());
                staleness.below_own += usize::from(found < written);
                staleness.decreasing += usize::from(found < before);
                before = found;
            }
            staleness
        }
    });
    futures::future::join_all(pairs).await.into_iter().fold(Staleness::default(), |sum, one| Staleness {
        below_own: sum.below_own + one.below_own,
        decreasing: sum.decreasing + one.decreasing,
    })
}

/// P29.
#[tokio::test]
async fn read_at_least_revision_is_never_stale() {
    assert_eq!(write_then_read(200, Read::AtLeast).await, Staleness::default());
}

/// P29.
#[tokio::test]
async fn leader_read_sees_acknowledged_writes() {
    assert_eq!(write_then_read(200, |_| Read::Leader).await, Staleness::default());
}

/// P3: a stale server must not decide that the key has no record or that there is nothing to change.
#[tokio::test]
async fn no_op_change_sees_newest_record() {
    let site = TestCluster::ThreeServers;
    let writer: Bucket<Session> = site.fresh(&site.world().await).await.unwrap();
    let mut others = Vec::new();
    for n in 0..3 {
        let world = World::at(&site.nth_server(n).await.url()).await;
        others.push(seen_as::<Session>(&world, writer.name()).await);
    }
    for id in 0..200 {
        let session = Session::new("acme", id);
        let key = session.key();
        writer.create(&session).await.unwrap();
        let touched = others.iter().map(|other| other.touch(&key).into_future());
        futures::future::try_join_all(touched).await.unwrap();
        writer.put(&session.visited(1)).await.unwrap();
        let unchanged =
            others.iter().map(|other| other.modify(&key, |found| found.visits = found.visits.min(1)).into_future());
        for entry in futures::future::try_join_all(unchanged).await.unwrap() {
            assert_eq!(entry.visits, 1, "of {key}");
        }
        writer.delete(&key).await.unwrap();
    }
}

/// P29, the control: the nearest server answers a plain read.
#[tokio::test]
async fn naive_read_after_write_is_stale() {
    let site = TestCluster::ThreeServers;
    let writer: Bucket<Session> = site.fresh(&site.world().await).await.unwrap();
    let mut readers = Vec::new();
    for n in 0..3 {
        let world = World::at(&site.nth_server(n).await.url()).await;
        readers.push(seen_as::<Session>(&world, writer.name()).await);
    }
    let session = Session::new("acme", 7);
    let key = session.key();
    let (mut reads, mut missed) = (0, 0);
    for visits in 0..5_000 {
        let written = writer.put(&session.clone().visited(visits)).await.unwrap();
        let found = futures::future::try_join_all(readers.iter().map(|bucket| bucket.get(&key).into_future()));
        for entry in found.await.unwrap() {
            reads += 1;
            missed += usize::from(entry.is_none_or(|entry| entry.revision() < written));
        }
        if missed > 0 && visits > 100 {
            break;
        }
    }
    println!("{missed} of {reads} plain reads were stale");
    assert!(missed > 0, "none of {reads} plain reads was stale: the tests of kvtyped prove nothing");
}
