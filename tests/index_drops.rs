//! Indexes that are dropped and built again while other handles read and write.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures::TryStreamExt;
use kvtyped::config::WriteEpochs;
use kvtyped::prelude::*;
use kvtyped::{ErrorKind, Outcome};

use crate::index_probe::{IndexProbe, User, UserKey, user};
use crate::support::{World, on_both_backends};

/// The users with other indexes of the same names.
mod changed {
    use kvtyped::prelude::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    #[kv(bucket = "users", key = "{id}")]
    pub(super) struct User {
        pub(super) id: u64,
        #[kv(unique)]
        pub(super) email: String,
        #[kv(index(with = upper))]
        pub(super) team: Option<String>,
        #[kv(index)]
        pub(super) tags: Vec<String>,
    }

    #[allow(clippy::ref_option, reason = "the function gets the field")]
    fn upper(team: &Option<String>) -> Option<String> {
        team.as_ref().map(|team| team.to_uppercase())
    }
}

const USERS: u64 = 20;

async fn twenty_users(users: &Bucket<User>) {
    users.put_many((0..USERS).map(|id| user(id, &format!("mail{id}")))).await.unwrap();
}

async fn opened(world: &World, name: &str) -> Bucket<User> {
    world.another().await.bucket().name(name).must_exist().await.unwrap()
}

async fn list(users: &Bucket<User>) -> Result<usize, kvtyped::Error> {
    let found: Vec<_> = users.list_by(User::by_team("core")).await?.try_collect().await?;
    Ok(found.len())
}

fn is_building<R: std::fmt::Debug>(result: Result<R, kvtyped::Error>, name: &str) {
    let error = result.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::IndexBuilding { index } if index == name), "{error:?}");
}

fn is_refused(error: &kvtyped::Error) -> bool {
    matches!(error.kind(), ErrorKind::SchemaDiffers { .. }) && error.outcome() == Outcome::NotApplied
}

/// Returns the number of records of each address.
async fn holders(users: &Bucket<User>) -> BTreeMap<String, u64> {
    let mut holders = BTreeMap::new();
    let records: Vec<_> = users.list(..).await.unwrap().try_collect().await.unwrap();
    records.iter().for_each(|user| *holders.entry(user.email.clone()).or_default() += 1);
    holders
}

on_both_backends! {
    async fn lookups_of_another_handle_fail_after_a_drop(world: World) {
        let probe = IndexProbe::new(&world).await;
        let users = &probe.users;
        twenty_users(users).await;
        let other = opened(&world, users.name()).await;
        assert_eq!(list(&other).await.unwrap(), 20);
        for index in ["team", "email"] {
            users.drop_index(index).all_writers_stopped().await.unwrap();
        }
        // A list of no entry, a count of zero and an absent record are misses too.
        is_building(list(&other).await, "team");
        let again = opened(&world, users.name()).await;
        is_building(list(&again).await, "team");
        for stale in [opened(&world, users.name()).await, other] {
            is_building(stale.count_by(User::by_team("core")).await, "team");
            is_building(stale.count_by(User::by_team("core")).exact().await, "team");
            is_building(stale.get_by(User::by_email("mail3")).await, "email");
        }
        users.build_index("team").all_writers_know().await.unwrap();
        users.build_index("email").all_writers_know().await.unwrap();
        assert_eq!(list(&again).await.unwrap(), 20);
        assert_eq!(again.get_by(User::by_email("mail3")).await.unwrap().map(|user| user.id), Some(3));
    }

    async fn lookups_beside_drops_and_builds_miss_nothing(world: World) {
        let probe = IndexProbe::new(&world).await;
        twenty_users(&probe.users).await;
        let other = opened(&world, probe.users.name()).await;
        let (is_over, complete, building) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
        let note = |found: Result<u64, kvtyped::Error>, what: &str| match found {
            Ok(found) => {
                assert!(found >= USERS, "{what} found {found} of {USERS} records");
                complete.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::IndexBuilding { .. }), "{what}: {error:?}");
                building.fetch_add(1, Ordering::Relaxed);
            }
        };
        let lookups = async {
            while !is_over.load(Ordering::Relaxed) {
                note(list(&other).await.map(|found| found as u64), "list_by");
                note(other.count_by(User::by_team("core")).await, "count_by");
                let found = other.get_by(User::by_email("mail7")).await;
                note(found.map(|found| found.map_or(0, |_| USERS)), "get_by");
                // The embedded backends may answer at once.
                tokio::task::yield_now().await;
            }
        };
        let drops = async {
            for _ in 0..15 {
                for index in ["team", "email"] {
                    probe.users.drop_index(index).all_writers_stopped().await.unwrap();
                    probe.users.build_index(index).all_writers_know().await.unwrap();
                }
            }
            is_over.store(true, Ordering::Relaxed);
        };
        futures::join!(lookups, drops);
        let (complete, building) = (complete.into_inner(), building.into_inner());
        assert!(complete > 0 && building > 0, "{complete} complete, {building} refused");
        probe.check_quiet(60).await;
    }

    async fn handle_that_drops_an_index_writes_on(world: World) {
        let probe = IndexProbe::new(&world).await;
        let users = &probe.users;
        twenty_users(users).await;
        users.drop_index("email").all_writers_stopped().await.unwrap();
        // The value has no claim, so it is not unique now.
        users.put(&user(100, "mail3")).await.unwrap();
        let built = users.build_index("email").all_writers_know().await.unwrap();
        assert_eq!(built.duplicates, [("100".to_owned(), "3".to_owned())], "{built:?}");
        users.delete(&UserKey::new(3)).await.unwrap();
        assert!(users.build_index("email").all_writers_know().await.unwrap().duplicates.is_empty());
        let taken = users.put(&user(101, "mail3")).await.unwrap_err();
        assert!(matches!(taken.kind(), ErrorKind::NotUnique { .. }), "{taken:?}");
    }

    async fn index_of_another_definition_is_not_read(world: World) {
        let probe = IndexProbe::new(&world).await;
        let users = &probe.users;
        twenty_users(users).await;
        let stale = opened(&world, users.name()).await;
        users.drop_index("team").all_writers_stopped().await.unwrap();
        let store = world.another().await;
        let changed: Bucket<changed::User> = store.bucket().name(users.name()).must_exist().await.unwrap();
        changed.build_index("team").all_writers_know().await.unwrap();
        let found = changed.count_by(changed::User::by_team(Some("core".to_owned()))).await.unwrap();
        assert_eq!(found, 20);
        for error in [
            list(&stale).await.unwrap_err(),
            stale.count_by(User::by_team("core")).await.unwrap_err(),
            stale.build_index("team").all_writers_know().await.unwrap_err(),
        ] {
            assert!(is_refused(&error) && error.to_string().contains("`team`"), "{error}");
        }
    }

    /// A handle that has seen the drop, here by a lookup, stores no value twice.
    async fn writer_that_knows_of_the_drop_is_refused(world: World) {
        let probe = IndexProbe::new(&world).await;
        twenty_users(&probe.users).await;
        let name = probe.users.name();
        let stale = opened(&world, name).await;
        probe.users.drop_index("email").all_writers_stopped().await.unwrap();
        is_building(stale.get_by(User::by_email("mail3")).await, "email");
        for error in [
            stale.create(&user(100, "mail3")).await.unwrap_err(),
            stale.put(&user(100, "mail3")).await.unwrap_err(),
            stale.modify(&UserKey::new(1), |user| user.email = "mail3".into()).await.unwrap_err(),
        ] {
            assert!(is_refused(&error), "{error:?}");
        }
        assert!(holders(&probe.users).await.values().all(|count| *count == 1));
        // A build on this handle, or a new handle, writes again.
        let fresh = opened(&world, name).await;
        fresh.put(&user(101, "new")).await.unwrap();
        stale.build_index("email").all_writers_know().await.unwrap();
        stale.put(&user(102, "newer")).await.unwrap();
        let taken = stale.put(&user(103, "mail3")).await.unwrap_err();
        assert!(matches!(taken.kind(), ErrorKind::NotUnique { .. }), "{taken:?}");
    }
}

mod in_transactions {
    use super::*;

    on_both_backends! {
        needs Transactions;

        async fn transaction_does_not_take_a_dropped_value_for_free(world: World) {
            let probe = IndexProbe::new(&world).await;
            twenty_users(&probe.users).await;
            let stale = opened(&world, probe.users.name()).await;
            let has = async |email: &'static str| {
                stale.transact(async |tx| Ok(tx.get_by(User::by_email(email)).await?.is_some())).await
            };
            assert!(has("mail3").await.unwrap() && !has("none").await.unwrap());
            probe.users.drop_index("email").all_writers_stopped().await.unwrap();
            let error = has("mail3").await.unwrap_err();
            let kind = error.kv().expect("an error of the bucket").kind();
            assert!(matches!(kind, ErrorKind::IndexBuilding { index } if index == "email"), "{error:?}");
            probe.users.build_index("email").all_writers_know().await.unwrap();
            assert!(has("mail3").await.unwrap() && !has("none").await.unwrap());
        }
    }
}

/// Eight writers of ten values, while the index is dropped. Returns the number of refused writes.
async fn contend_beside_a_drop(world: &World, name: &str, pace: Duration, drop: impl Future<Output = ()>) -> u64 {
    let (is_over, refused) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut writers = Vec::new();
    for writer in 0..8_u64 {
        let users = opened(world, name).await;
        let (is_over, refused) = (&is_over, &refused);
        writers.push(async move {
            let mut round = 0;
            while !is_over.load(Ordering::Relaxed) {
                round += 1;
                let record = user(writer * 100 + round % 3, &format!("mail{}", (writer * 7 + round * 3) % 10));
                match users.put(&record).await {
                    Err(error) if is_refused(&error) => {
                        refused.fetch_add(1, Ordering::Relaxed);
                        break;
                    }
                    Err(error) if matches!(error.kind(), ErrorKind::NotUnique { .. }) => {}
                    Err(error) if matches!(error.kind(), ErrorKind::RetriesExhausted { .. }) => {}
                    written => _ = written.unwrap(),
                }
                if round % 4 == 0 {
                    match users.delete(&UserKey::new(writer * 100 + round % 3)).await {
                        Err(error) if is_refused(&error) => {}
                        deleted => _ = deleted.unwrap(),
                    }
                }
                tokio::time::sleep(pace).await;
            }
        });
    }
    let drop = async {
        drop.await;
        // Every writer finds out by its own writes.
        while refused.load(Ordering::Relaxed) < 8 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        is_over.store(true, Ordering::Relaxed);
    };
    let everything = async { futures::join!(futures::future::join_all(writers), drop) };
    tokio::time::timeout(Duration::from_secs(600), everything).await.expect("every writer is refused");
    refused.into_inner()
}

mod in_epochs {
    use super::*;

    on_both_backends! {
        needs WriteEpochs;

        async fn writers_beside_a_drop_store_no_value_twice(world: World) {
            for _ in 0..3 {
                let open = world.fresh::<User>().write_epochs(WriteEpochs::Closed);
                let probe = IndexProbe::of(&world, open.await.unwrap()).await;
                let drop = async {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    probe.users.drop_index("email").await.unwrap();
                };
                assert_eq!(contend_beside_a_drop(&world, probe.users.name(), Duration::from_millis(1), drop).await, 8);
                let holders = holders(&probe.users).await;
                assert!(holders.values().all(|count| *count == 1), "{holders:?}");
            }
        }
    }
}

mod without_epochs {
    use super::*;

    /// The server cannot refuse a writer, so the drop waits until every writer has read the card again.
    #[tokio::test(start_paused = true)]
    async fn writers_beside_a_drop_store_no_value_twice() {
        let world = World::memory();
        let probe = IndexProbe::new(&world).await;
        let started = tokio::time::Instant::now();
        let drop = async {
            tokio::time::sleep(Duration::from_secs(45)).await;
            probe.users.drop_index("email").await.unwrap();
            assert!(started.elapsed() >= Duration::from_secs(45 + 60));
        };
        assert_eq!(contend_beside_a_drop(&world, probe.users.name(), Duration::from_secs(1), drop).await, 8);
        let holders = holders(&probe.users).await;
        assert!(holders.values().all(|count| *count == 1), "{holders:?}");
    }

    /// Negative control: a writer that has not stopped stores a value twice.
    #[tokio::test]
    async fn writer_that_did_not_stop_stores_a_value_twice() {
        let world = World::memory();
        let probe = IndexProbe::new(&world).await;
        twenty_users(&probe.users).await;
        let stale = opened(&world, probe.users.name()).await;
        probe.users.drop_index("email").all_writers_stopped().await.unwrap();
        stale.create(&user(100, "mail3")).await.unwrap();
        assert_eq!(holders(&probe.users).await["mail3"], 2);
    }
}
