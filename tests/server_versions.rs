//! Servers of other versions: missing features are reported, and a handle survives an upgrade of its server.

use harness::Server;
use kvtyped::prelude::*;
use kvtyped::{ErrorKind, Outcome};

use crate::needs::Feature;
use crate::support::{OLD, SOON, Session, World, seen_as, unique};

const SECOND: Duration = Duration::from_secs(1);

/// A server version with per-record TTLs and without batches.
const ELEVEN: &str = "2.11.11";

async fn check_missing_features(version: &str, numbers: [u64; 3]) {
    let server = Server::builder().version(version).start().await;
    let world = World::at(&server.url()).await;
    for feature in Feature::ALL.into_iter().filter(|feature| feature.is_missing(numbers)) {
        println!("{feature:?}: {}", feature.check_missing(&world, numbers).await);
    }
}

#[tokio::test]
async fn oldest_server_reports_missing_features() {
    check_missing_features(OLD, [2, 10, 26]).await;
}

#[tokio::test]
async fn server_without_batches_reports_missing_features() {
    check_missing_features(ELEVEN, [2, 11, 11]).await;
}

/// A store and a bucket that were opened on an old server use the features of the new server after an upgrade.
#[tokio::test]
async fn handle_uses_features_after_server_upgrade() {
    let server = Server::builder().version(OLD).start().await;
    let World { store, .. } = World::at(&server.url()).await;
    let store = store.with_timeout(SOON);
    let name = unique("upgraded");
    let old: Bucket<Session> = store.bucket().name(&name).await.unwrap();
    let session = Session::new("acme", 7);
    let there = old.put(&session).await.unwrap();
    let error = old.put(&session).ttl(5 * SECOND).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unsupported { found, .. } if found.contains(OLD)), "{error}");
    let error = store.locks("locks").await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unsupported { found, .. } if found.contains(OLD)), "{error}");

    server.restart_as(Some(ELEVEN)).await;
    assert_eq!(old.get(&session.key()).await.unwrap().expect("it is kept").revision(), there);
    let locks = store.locks("locks").await.expect("the store detects the new server version");
    locks.lock("a").await.unwrap().release().await.unwrap();
    let marked: Bucket<Session> =
        store.bucket().name(&name).limit_markers(60 * SECOND).on_drift(Drift::Update).await.unwrap();
    marked.put(&session).ttl(600 * SECOND).await.expect("the new handle knows");
    old.put(&session).ttl(600 * SECOND).await.expect("so does the old one");
    let error = old.transaction().put(&session).put(&Session::new("acme", 8)).commit().await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unsupported { found, .. } if found.contains(ELEVEN)), "{error}");
}

/// After a downgrade of its server, a handle refuses features that the old server would store but ignore: TTLs, fencing
/// tokens and batches.
#[tokio::test]
async fn handle_detects_server_downgrade() {
    const TWELVE: &str = "2.12.8";
    let server = Server::builder().version(TWELVE).start().await;
    let world = World::at(&server.url()).await;
    let sessions: Bucket<Session> = world.bucket().await;
    let [a, b] = [1, 2].map(|id| Session::new("acme", id));
    let lock = sessions.lock(&a.key()).ttl(600 * SECOND).await.unwrap();
    sessions.put(&a).ttl(600 * SECOND).fenced_by(&lock).await.expect("2.12 heeds them");
    let both = sessions.transaction().put(&a).put(&b).commit().await.expect("2.12 takes batches");

    server.restart_as(Some(OLD)).await;
    for error in [
        sessions.put(&a).ttl(5 * SECOND).await.unwrap_err(),
        sessions.put(&a).fenced_by(&lock).await.unwrap_err(),
        sessions.transaction().put(&a).put(&b).commit().await.unwrap_err(),
    ] {
        assert!(matches!(error.kind(), ErrorKind::Unsupported { found, .. } if found.contains(OLD)), "{error}");
        assert_eq!(error.outcome(), Outcome::NotApplied);
    }
    let now: Bucket<Session> = seen_as(&world, sessions.name()).await;
    let stored: Vec<_> = now.list(..).await.unwrap().try_collect().await.unwrap();
    let revisions: Vec<_> = stored.iter().map(|entry| entry.revision()).collect();
    assert_eq!(revisions, both.revisions(), "nothing was written");
}
