//! The in-memory store, compared with a bucket on a server.

use kvtyped::prelude::*;

use crate::measure::{pairs, time, timed};
use crate::world::{Session, World, decode, encode};

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
}
