//! Followers of a server that restarts, and of one that refuses their writes.

use harness::Server;
use kvtyped::ErrorKind;

use super::*;
use crate::index_probe::{IndexProbe, user};
use crate::support::World;

#[tokio::test]
async fn follower_survives_restarts_of_the_server() {
    crate::needs::needs!(Locks);
    let server = Server::builder().start().await;
    let world = World::at(&server.url()).await;
    let probe = IndexProbe::new(&world).await;
    let (users, raw) = (&probe.users, probe.foreign(&world).await);
    let follower = Follower::start(users);
    put_foreign(&raw, &user(0, "mail0")).await;
    synced(users).await;
    for round in 1..4_u64 {
        // Some changes are cut off from the watch, and some follow after the restart.
        for id in 0..10 {
            put_foreign(&raw, &user(round * 10 + id, &format!("mail{round}.{id}"))).await;
        }
        raw.delete(&key(round * 10)).await.unwrap();
        server.restart().await;
        let retry = async {
            while raw.delete(&key(round * 10 + 1)).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENT, retry).await.expect("the server is back");
        let newest = put_foreign(&raw, &user(round, &format!("again{round}"))).await;
        let team = users.count_by(User::by_team("core")).at_least(newest).timeout(PATIENT);
        assert_eq!(team.await.unwrap(), 1 + round * 9);
        let found = users.get_by(User::by_email(format!("again{round}"))).await.unwrap();
        assert_eq!(found.map(|user| user.id), Some(round));
    }
    follower.stop().await;
    let follower = Follower::sweeping(users, Duration::ZERO);
    until_clean(users).await;
    follower.stop().await;
}

/// A follower without the permission to erase fails, and does not write the records again and again.
#[tokio::test]
async fn follower_without_the_permission_to_erase_fails() {
    crate::needs::needs!(Locks);
    let config = r#"
        authorization { users: [
            { user: admin, password: admin }
            { user: clerk, password: clerk, permissions: { publish: { deny: ["$JS.API.STREAM.PURGE.KV_users"] } } }
        ] }
    "#;
    let server = Server::builder().config(config).auth().start().await;
    let url = |user: &str| format!("nats://{user}:{user}@{}", server.addr());
    let admin = Store::connect(url("admin")).await.unwrap();
    let users: Bucket<User> = admin.bucket().await.unwrap();
    users.put(&user(1, "ada")).await.unwrap();
    admin.raw("users").await.unwrap().delete(&key(1)).await.unwrap();
    let clerk = Store::connect(url("clerk")).timeout(5 * SECOND).await.unwrap();
    let follows: Bucket<User> = clerk.bucket().must_exist().await.unwrap();
    let ended = tokio::time::timeout(PATIENT, follows.maintain_indexes().into_future()).await;
    let error = ended.expect("it ends").unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::PermissionDenied { .. }), "{error:?}");
    assert!(follows.health().await.unwrap().index_follower.is_some(), "the age grows after a failure");
}
