//! Reads right after writes, in a bucket of three servers.

use kvtyped::prelude::*;

use super::Site;
use crate::support::{Session, World, seen_as};

const PAIRS: u64 = 9;

/// How often a read was older than what its own writer had been told, and older than the read before.
#[derive(Debug, Default, PartialEq)]
struct Staleness {
    below_own: usize,
    decreasing: usize,
}

/// Pairs of a writer and a reader, each on a key and on connections of its own, write and read at once.
async fn write_then_read(rounds: u32, read: impl Fn(Revision) -> Read + Copy) -> Staleness {
    let made: Bucket<Session> = Site::ThreeServers.fresh(&Site::ThreeServers.world().await).await.unwrap();
    let pairs = (0..PAIRS).map(|pair| {
        let name = made.name().to_owned();
        async move {
            let at = usize::try_from(pair).expect("small");
            let writer = World::at(&Site::ThreeServers.nth_server(at).await.url()).await;
            let reader = World::at(&Site::ThreeServers.nth_server(at / 3).await.url()).await;
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
async fn a_read_of_at_least_a_revision_is_never_older() {
    assert_eq!(write_then_read(200, Read::AtLeast).await, Staleness::default());
}

/// P29.
#[tokio::test]
async fn a_read_of_the_leader_sees_every_write_that_was_acknowledged() {
    assert_eq!(write_then_read(200, |_| Read::Leader).await, Staleness::default());
}

/// P29, the control: a plain read is answered by whichever server is nearest.
#[tokio::test]
async fn naive_reads_right_after_a_write_miss_it() {
    let (mut reads, mut below_own) = (0, 0);
    for _ in 0..10 {
        below_own += write_then_read(100, |_| Read::Any).await.below_own;
        reads += PAIRS * 100;
        if below_own > 0 {
            println!("{below_own} of {reads} plain reads were stale");
            return;
        }
    }
    panic!("none of {reads} plain reads was stale: the tests of kvtyped prove nothing");
}
