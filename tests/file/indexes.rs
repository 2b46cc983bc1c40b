//! Indexes in a file: over a reopen, in a backup, after a salvage, and in a copy on a server.

use kvtyped::ErrorKind;
use kvtyped::backend::file::salvage;
use kvtyped::bucket::copy_bucket;
use kvtyped::prelude::*;

use super::folder::Folder;
use crate::support::unique;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "users", key = "{id}")]
struct User {
    id: u64,
    #[kv(unique)]
    email: String,
    #[kv(index)]
    team: String,
}

fn user(id: u64) -> User {
    User { id, email: format!("mail{id}"), team: if id.is_multiple_of(3) { "core" } else { "web" }.into() }
}

async fn ids(users: &Bucket<User>, team: &str) -> Vec<u64> {
    let found: Vec<_> = users.list_by(User::by_team(team)).await.unwrap().try_collect().await.unwrap();
    found.iter().map(|user| user.id).collect()
}

/// Checks lookups of thirty users. The first user moved to another team, and the second was deleted.
async fn check(users: &Bucket<User>) {
    assert_eq!(ids(users, "core").await, [3, 6, 9, 12, 15, 18, 21, 24, 27]);
    assert_eq!(ids(users, "ops").await, [0]);
    assert_eq!(users.get_by(User::by_email("moved")).await.unwrap().map(|user| user.id), Some(0));
    assert!(users.get_by(User::by_email("mail0")).await.unwrap().is_none());
    assert!(users.get_by(User::by_email("mail1")).await.unwrap().is_none());
    assert_eq!(users.count_by(User::by_team("web")).exact().await.unwrap(), 19);
    settle(users).await;
}

/// Waits until no entry is stale. Erasures continue after a verb has returned.
async fn settle(users: &Bucket<User>) {
    let settled = async {
        loop {
            let report = users.verify_indexes().await.unwrap();
            assert!(report.indexes.iter().all(|index| index.missing == 0), "{report:?}");
            if report.is_clean() {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), settled).await.expect("stale entries are erased");
}

/// The unique value of a stored record is refused, and a free one is stored.
async fn check_claims(users: &Bucket<User>) {
    let taken = users.create(&User { id: 100, ..user(9) }).await.unwrap_err();
    assert!(matches!(taken.kind(), ErrorKind::NotUnique { index: "email", owner } if owner == "9"), "{taken}");
    users.create(&user(100)).await.unwrap();
    users.create(&User { id: 101, ..user(1) }).await.expect("the deleted user released the value");
    settle(users).await;
}

async fn store_with_users(folder: &Folder, name: &str) -> (Store, Bucket<User>) {
    let store = folder.store().await.unwrap();
    let users: Bucket<User> = store.bucket().name(name).await.unwrap();
    users.put_many((0..30).map(user)).await.unwrap();
    users.put(&User { id: 0, email: "moved".into(), team: "ops".into() }).await.unwrap();
    users.delete(&user(1).key()).await.unwrap();
    check(&users).await;
    (store, users)
}

#[tokio::test]
async fn indexes_work_after_a_reopen_and_in_a_backup() {
    let folder = Folder::new("indexes");
    let (store, users) = store_with_users(&folder, "users").await;
    let backup = Folder::new("indexes-backup");
    store.backup(backup.file()).await.unwrap();
    // As after a kill.
    let killed = folder.copy("indexes-killed");
    drop(users);
    store.close().await.unwrap();
    for copy in [&folder, &backup, &killed] {
        let store = copy.store().await.unwrap();
        let users: Bucket<User> = store.bucket().must_exist().await.unwrap();
        check(&users).await;
        check_claims(&users).await;
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn indexes_work_after_a_salvage() {
    for closes in [true, false] {
        let folder = Folder::new("indexes");
        let (store, users) = store_with_users(&folder, "users").await;
        let killed = folder.copy("indexes-killed");
        drop(users);
        store.close().await.unwrap();
        let from = if closes { &folder } else { &killed };
        let copy = Folder::new("indexes-salvaged");
        let report = salvage(from.file(), copy.file()).unwrap();
        assert!(report.problems.is_empty(), "{report:?}");
        let store = copy.store().await.unwrap();
        let users: Bucket<User> = store.bucket().must_exist().await.unwrap();
        check(&users).await;
        check_claims(&users).await;
        store.close().await.unwrap();
    }
}

/// A copy has no entries. It says so, and is complete after its indexes are built.
async fn check_copy(to: &Store, name: &str) {
    let users: Bucket<User> = to.bucket().name(name).must_exist().await.unwrap();
    assert_eq!(users.count(..).await.unwrap(), 29);
    let early = users.get_by(User::by_email("mail9")).await.unwrap_err();
    assert!(matches!(early.kind(), ErrorKind::IndexBuilding { .. }), "{early}");
    assert!(matches!(users.list_by(User::by_team("web")).await.unwrap_err().kind(), ErrorKind::IndexBuilding { .. }));
    for index in ["email", "team"] {
        users.build_index(index).all_writers_know().await.unwrap();
    }
    check(&users).await;
    check_claims(&users).await;
}

#[tokio::test]
async fn copy_on_a_server_and_back_is_usable_after_a_build() {
    crate::needs::needs!(Transactions);
    let (folder, name) = (Folder::new("indexes"), unique("file_indexes"));
    let (store, users) = store_with_users(&folder, &name).await;
    let server = Store::connect(harness::shared().await.url()).await.unwrap();
    let view = store.raw(&*name).await.unwrap();
    copy_bucket(&view, &server).await.unwrap();
    check_copy(&server, &name).await;

    let back = Folder::new("indexes-back");
    let file = back.store().await.unwrap();
    let of_server = server.raw(&*name).await.unwrap();
    copy_bucket(&of_server, &file).await.unwrap();
    let copied: Bucket<User> = file.bucket().name(&*name).must_exist().await.unwrap();
    assert_eq!(copied.count(..).await.unwrap(), 31);
    copied.build_index("email").all_writers_know().await.unwrap();
    copied.build_index("team").all_writers_know().await.unwrap();
    assert!(copied.verify_indexes().await.unwrap().is_clean());
    assert_eq!(copied.get_by(User::by_email("moved")).await.unwrap().map(|user| user.id), Some(0));
    drop(users);
    store.close().await.unwrap();
}

#[tokio::test]
async fn lookups_of_another_handle_fail_after_a_drop() {
    let folder = Folder::new("indexes-dropped");
    let (store, users) = store_with_users(&folder, "users").await;
    let other: Bucket<User> = store.bucket().must_exist().await.unwrap();
    check(&other).await;
    for index in ["email", "team"] {
        users.drop_index(index).all_writers_stopped().await.unwrap();
    }
    let refused = async |users: &Bucket<User>| {
        for error in [
            users.get_by(User::by_email("moved")).await.unwrap_err(),
            users.list_by(User::by_team("core")).await.unwrap_err(),
            users.count_by(User::by_team("core")).await.unwrap_err(),
        ] {
            assert!(matches!(error.kind(), ErrorKind::IndexBuilding { .. }), "{error}");
        }
    };
    refused(&other).await;
    let error = other.put(&user(50)).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::SchemaDiffers { .. }), "{error}");
    drop((users, other));
    store.close().await.unwrap();
    let store = folder.store().await.unwrap();
    let users: Bucket<User> = store.bucket().must_exist().await.unwrap();
    refused(&users).await;
    users.put(&user(50)).await.unwrap();
    users.delete(&user(50).key()).await.unwrap();
    for index in ["email", "team"] {
        users.build_index(index).all_writers_know().await.unwrap();
    }
    check(&users).await;
    check_claims(&users).await;
    store.close().await.unwrap();
}
