//! The in-memory store, compared with a bucket on a server.

use std::hint::black_box;
use std::sync::Arc;

use kvtyped::observe::{Observer, OperationReport};
use kvtyped::prelude::*;

use crate::measure::{pairs, time, timed};
use crate::world::{Session, SessionKey, World, decode, encode};

/// The number of keys that the writes cycle through, and of operations in one measurement.
const KEYS: u64 = 1_000;

pub(crate) async fn measure(world: &mut World) {
    world.report.group("Without a server");
    let bucket: Bucket<Session> = Store::memory().bucket().await.expect("the bucket is made");
    let (_, plain) = world.bucket("beside-memory").await;
    let (blocks, each) = (world.effort.blocks(7), world.effort.of(500));
    let sessions: Vec<_> = (0..KEYS).map(|id| Session::new("acme", id)).collect();
    let keys: Vec<_> = sessions.iter().map(Session::key).collect();

    let ours = async || {
        let all = async {
            for session in &sessions {
                bucket.put(session).await.expect("it is put");
            }
        };
        time(all).await / KEYS as u32
    };
    let mut at = 0;
    let theirs = async || {
        at = (at + 1) % sessions.len();
        time(async { plain.put(sessions[at].by_hand(), encode(&sessions[at])).await.expect("it is put") }).await
    };
    let measured = pairs(blocks, each, ours, theirs).await;
    world.report.row("put, in memory", "kv.put + serde_json").goal(0.1).measured(&measured);

    let ours = async || {
        let all = async {
            for (key, session) in keys.iter().zip(&sessions) {
                assert!(bucket.get(key).await.expect("it is read").is_some_and(|entry| entry.id == session.id));
            }
        };
        time(all).await / KEYS as u32
    };
    let mut at = 0;
    let theirs = async || {
        at = (at + 1) % sessions.len();
        let read = async { plain.get(sessions[at].by_hand()).await.expect("it is read").map(|bytes| decode(&bytes)) };
        let (took, read) = timed(read).await;
        assert!(read.is_some_and(|session| session.id == sessions[at].id));
        took
    };
    let measured = pairs(blocks, each, ours, theirs).await;
    world.report.row("get, in memory", "kv.get + serde_json").at_most(3e-6).measured(&measured);
    observed(world, &keys, &sessions).await;
    lists(world).await;
}

/// An observer that does nothing.
struct Silent;

impl Observer for Silent {
    fn operation(&self, report: &OperationReport<'_>) {
        black_box(report.duration);
    }
}

/// Measures what an observer adds to one operation.
async fn observed(world: &mut World, keys: &[SessionKey], sessions: &[Session]) {
    let store = Store::memory();
    let plain: Bucket<Session> = store.bucket().await.expect("the bucket is made");
    let observed: Bucket<Session> = store.with_observer(Arc::new(Silent)).bucket().await.expect("the bucket is opened");
    plain.put_many(sessions).await.expect("they are put");
    let gets = async |bucket: &Bucket<Session>| {
        let all = async {
            for key in keys {
                assert!(bucket.get(key).await.expect("it is read").is_some());
            }
        };
        time(all).await / KEYS as u32
    };
    let (blocks, each) = (world.effort.blocks(7), world.effort.of(500));
    let added = async || {
        let with = gets(&observed).await;
        with.saturating_sub(gets(&plain).await)
    };
    let measured = pairs(blocks, each, added, async || gets(&plain).await).await;
    world.report.row("an observer, added to one get in memory", "the get").at_most(300e-9).measured(&measured);
}

/// Measures a list of a few records of a larger bucket. The cost must not grow with the size of the bucket.
async fn lists(world: &mut World) {
    const MATCHES: u64 = 10;
    const SMALL: u64 = 1_000;
    let (blocks, each) = (world.effort.blocks(7), world.effort.of(500));
    let list = async |bucket: &Bucket<Session>| {
        let records = async {
            let list = bucket.list(SessionKey::filter().tenant("acme")).await.expect("it lists");
            list.try_fold(0, async |seen, _| Ok(seen + 1)).await.expect("the list continues")
        };
        let (took, seen) = timed(records).await;
        assert_eq!(seen, MATCHES);
        took
    };
    let small = filled(SMALL, MATCHES).await;
    let size = world.effort.of(100_000) as u64;
    let large = filled(size, MATCHES).await;
    let measured = pairs(blocks, each, || list(&large), || list(&small)).await;
    let row = world.report.row(format!("list of {MATCHES} of {size}, in memory"), format!("the same of {SMALL}"));
    row.goal(1.5).measured(&measured);
}

/// Returns a bucket in memory with this many records and this many matches.
async fn filled(records: u64, matches: u64) -> Bucket<Session> {
    let bucket: Bucket<Session> = Store::memory().bucket().await.expect("the bucket is made");
    for id in 0..records {
        let tenant = if id < matches { "acme" } else { "other" };
        bucket.put(&Session::new(tenant, id)).await.expect("it is put");
    }
    bucket
}
