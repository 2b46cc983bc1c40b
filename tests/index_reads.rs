//! Lookups by indexes: `get_by`, `list_by`, `count_by`, and `get_by` in a transaction.

use futures::future::join_all;
use kvtyped::backend::Write;
use kvtyped::index::IndexCursor;
use kvtyped::key::ModelKey;
use kvtyped::prelude::*;
use kvtyped::{ErrorKind, Key, Read};

use crate::index_probe::{IndexProbe, User, UserKey, user};
use crate::needs::needs;
use crate::support::{on_both_backends, unique};

async fn ids(list: kvtyped::index::ListBy<'_, User>) -> Vec<u64> {
    let found: Vec<_> = list.await.unwrap().try_collect().await.unwrap();
    found.iter().map(|user| user.id).collect()
}

/// Writes an entry that no record has, like a writer that died.
async fn stale(probe: &IndexProbe, on: &str) {
    let deadline = kvtyped::backend::Deadline::after(Duration::from_secs(10));
    let entry = Write::index_entry(Key::new(on).unwrap(), "".into());
    probe.raw().write(entry, deadline).await.unwrap();
}

fn member(id: u64, team: &str, tags: &[&str]) -> User {
    let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
    User { id, email: format!("mail{id}"), team: Some(team.into()), tags }
}

on_both_backends! {
    async fn get_by_follows_the_unique_value(world: World) {
        let probe = IndexProbe::new(&world).await;
        let users = &probe.users;
        let revision = users.put(&user(1, "ada")).await.unwrap();
        let found = users.get_by(User::by_email("ada")).await.unwrap().expect("just written");
        assert_eq!((found.id, found.revision()), (1, revision));
        assert!(users.get_by(User::by_email("eve")).await.unwrap().is_none());
        users.put(&user(1, "eve")).await.unwrap();
        for read in [Read::Any, Read::Leader] {
            assert!(users.get_by(User::by_email("ada")).read(read).await.unwrap().is_none(), "{read:?}");
            assert_eq!(users.get_by(User::by_email("eve")).read(read).await.unwrap().map(|user| user.id), Some(1));
        }
        users.put(&user(2, "ada")).await.unwrap();
        assert_eq!(users.get_by(User::by_email("ada")).await.unwrap().map(|user| user.id), Some(2));
        users.delete(&UserKey::new(2)).await.unwrap();
        assert!(users.get_by(User::by_email("ada")).await.unwrap().is_none());
    }

    async fn list_by_is_ordered_by_value_and_key(world: World) {
        let probe = IndexProbe::new(&world).await;
        let users = &probe.users;
        for id in [10, 9, 100, 8] {
            users.put(&member(id, "core", &["b", "a"])).await.unwrap();
        }
        users.put(&member(7, "web", &["a"])).await.unwrap();
        let core = || users.list_by(User::by_team("core"));
        assert_eq!(ids(core()).await, [8, 9, 10, 100], "numbers by size");
        assert_eq!(ids(core().descending()).await, [100, 10, 9, 8]);
        assert_eq!(ids(core().limit(2)).await, [8, 9]);
        assert!(ids(core().limit(0)).await.is_empty());
        assert_eq!(ids(users.list_by(User::by_tags("a"))).await, [7, 8, 9, 10, 100]);
        assert!(ids(users.list_by(User::by_team("none"))).await.is_empty());
        assert_eq!(ids(users.list_by(User::by_email("mail9"))).await, [9], "a unique index");
        // Page by page, in both directions, with the cursor as text.
        for is_descending in [false, true] {
            let (mut pages, mut cursor) = (Vec::new(), None::<String>);
            loop {
                let mut list = core().limit(3);
                if is_descending {
                    list = list.descending();
                }
                if let Some(cursor) = &cursor {
                    list = list.after(cursor.parse::<IndexCursor>().unwrap());
                }
                let mut page = list.await.unwrap();
                let found: Vec<_> = page.by_ref().try_collect().await.unwrap();
                if found.is_empty() {
                    break;
                }
                pages.push(found.iter().map(|user| user.id).collect::<Vec<_>>());
                cursor = page.cursor().map(|cursor| cursor.to_string());
            }
            let wanted: [&[u64]; 2] = if is_descending { [&[100, 10, 9], &[8]] } else { [&[8, 9, 10], &[100]] };
            assert_eq!(pages, wanted);
        }
        let mut web = users.list_by(User::by_team("web")).await.unwrap();
        assert!(web.cursor().is_none());
        web.try_next().await.unwrap();
        let foreign = users.list_by(User::by_tags("a")).after(web.cursor().unwrap()).await.unwrap_err();
        assert!(matches!(foreign.kind(), ErrorKind::InvalidConfig { .. }), "{foreign}");
    }

    async fn stale_entries_are_filtered(world: World) {
        let probe = IndexProbe::new(&world).await;
        let users = &probe.users;
        users.put(&member(1, "core", &["x"])).await.unwrap();
        users.put(&member(2, "web", &["x"])).await.unwrap();
        // A record with another value, and no record.
        for on in ["user.team.core.2", "user.team.core.99", "user.tags.y.1"] {
            stale(&probe, on).await;
        }
        let core = || User::by_team("core");
        assert_eq!(ids(users.list_by(core())).await, [1]);
        assert_eq!(users.count_by(core()).await.unwrap(), 3, "an upper bound");
        assert_eq!(users.count_by(core()).exact().await.unwrap(), 1);
        assert_eq!(users.count_by(User::by_tags("y")).exact().await.unwrap(), 0);
        assert_eq!(ids(users.list_by(core()).limit(1)).await, [1], "stale entries do not count");
        assert_eq!(users.count_by(User::by_email("mail1")).await.unwrap(), 1);
        // A record that does not decode is an item with its key.
        let raw = probe.foreign(&world).await;
        raw.put(&kvtyped::RawRecord::new(UserKey::new(1).encode().unwrap(), "no user")).await.unwrap();
        let mut list = users.list_by(core()).await.unwrap();
        let error = list.try_next().await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Decode { .. }) && error.key() == Some("1"), "{error:?}");
        assert!(list.try_next().await.unwrap().is_none());
    }

    async fn list_by_of_many_pages_is_complete(world: World) {
        let probe = IndexProbe::new(&world).await;
        let users = &probe.users;
        let all: Vec<_> = (0..2_300).map(|id| member(id, if id % 2 == 0 { "even" } else { "odd" }, &[])).collect();
        users.put_many(&all).await.unwrap();
        let even = ids(users.list_by(User::by_team("even"))).await;
        assert!(even.iter().copied().eq((0..2_300).step_by(2)), "{} records", even.len());
        assert_eq!(users.count_by(User::by_team("odd")).await.unwrap(), 1_150);
        let last = ids(users.list_by(User::by_team("odd")).descending().limit(3)).await;
        assert_eq!(last, [2_299, 2_297, 2_295]);
    }

    async fn unbuilt_index_is_refused(world: World) {
        let open = world.store.bucket::<User>().name(unique("users")).without_card();
        let users: Bucket<User> = open.await.unwrap();
        let building = |error: kvtyped::Error| {
            let ErrorKind::IndexBuilding { index } = error.kind() else { panic!("{error:?}") };
            index.clone()
        };
        assert_eq!(building(users.get_by(User::by_email("ada")).await.unwrap_err()), "email");
        assert_eq!(building(users.list_by(User::by_team("core")).await.unwrap_err()), "team");
        assert_eq!(building(users.count_by(User::by_tags("a")).await.unwrap_err()), "tags");
    }

    async fn transaction_reads_by_unique_value(world: World) {
        needs!(world, Transactions);
        let probe = IndexProbe::new(&world).await;
        let users = &probe.users;
        let sign_up = |id: u64, email: &'static str| async move {
            let created = users.transact(|tx| async move {
                if let Some(other) = tx.get_by(User::by_email(email)).await? {
                    return Ok(Err(other.id));
                }
                tx.put(&user(id, email))?;
                let seen = tx.get_by(User::by_email(email)).await?;
                assert_eq!(seen.map(|user| user.id), Some(id), "its own write");
                Ok(Ok(()))
            });
            created.await
        };
        let mut owner = 0;
        for (contenders, email) in [(32, "bob"), (16, "eve"), (8, "ada")] {
            let outcomes = join_all((1..=contenders).map(|id| sign_up(100 * contenders + id, email))).await;
            owner = users.get_by(User::by_email(email)).await.unwrap().expect("one has won").id;
            for (id, outcome) in (1..).zip(outcomes) {
                // The closure of a loser runs again, and finds the winner.
                let expected = if 100 * contenders + id == owner { Ok(()) } else { Err(owner) };
                assert_eq!(outcome.unwrap(), expected, "{id} of {contenders}");
            }
        }
        // The value moves to another record in one transaction.
        let moved = users.transact(|tx| async move {
            let mut owner = tx.get_by(User::by_email("ada")).await?.expect("there");
            owner.email = "free".into();
            tx.put(&owner)?;
            tx.put(&user(50, "ada"))?;
            Ok(())
        });
        moved.await.unwrap();
        assert_eq!(users.get_by(User::by_email("ada")).await.unwrap().map(|user| user.id), Some(50));
        assert_eq!(users.get_by(User::by_email("free")).await.unwrap().map(|user| user.id), Some(owner));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicated_lookup_finds_acknowledged_write() {
    needs!(WriteEpochs);
    let urls = harness::cluster::shared().await.urls();
    let store = Store::connect(urls).await.expect("the cluster is there");
    let other = Store::connect(harness::cluster::shared().await.node(1).url()).await.expect("the node is there");
    let users: Bucket<User> = store.bucket().name(unique("users")).replicas(3).await.unwrap();
    let theirs: Bucket<User> = other.bucket().name(users.name()).must_exist().on_drift(Drift::Adopt).await.unwrap();
    for id in 0..40 {
        users.put(&user(id, &format!("mail{id}"))).await.unwrap();
        let found = theirs.get_by(User::by_email(format!("mail{id}"))).await.unwrap();
        assert_eq!(found.map(|user| user.id), Some(id));
        assert_eq!(ids(theirs.list_by(User::by_team("core"))).await, (0..=id).collect::<Vec<_>>());
    }
}
