//! Transactions, repair and builds of indexes.

use std::future::IntoFuture;

use futures::TryStreamExt;
use kvtyped::backend::{Deadline, Write, WriteKind};
use kvtyped::config::{Drift, WriteEpochs};
use kvtyped::key::ModelKey;
use kvtyped::prelude::*;
use kvtyped::{ErrorKind, Event, RawRecord, Read, Ttl};

use crate::index_probe::{IndexProbe, User, UserKey, user};
use crate::support::{World, on_both_backends, unique};

/// The users before they got indexes.
mod before {
    use kvtyped::prelude::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    #[kv(bucket = "users", name = "user", key = "{id}")]
    pub(super) struct Plain {
        pub(super) id: u64,
        pub(super) email: String,
        pub(super) team: Option<String>,
        pub(super) tags: Vec<String>,
    }
}
use before::Plain;

fn plain(id: u64, email: &str) -> Plain {
    let User { id, email, team, tags } = user(id, email);
    Plain { id, email, team, tags }
}

fn not_unique(error: &kvtyped::Error, of: &str) {
    assert!(matches!(error.kind(), ErrorKind::NotUnique { index: "email", owner } if owner == of), "{error:?}");
}

on_both_backends! {
    needs Transactions;

    async fn transactions_keep_entries_and_claims(world: World) {
        let probe = IndexProbe::new(&world).await;
        let users = &probe.users;
        users.transaction().create(&user(1, "ada")).create(&user(2, "eve")).commit().await.unwrap();
        probe.check_quiet(6).await;
        // Two records exchange a unique value.
        users.transaction().put(&user(1, "eve")).put(&user(2, "ada")).commit().await.unwrap();
        probe.check_quiet(6).await;
        not_unique(&users.transaction().put(&user(3, "eve")).put(&user(4, "bob")).commit().await.unwrap_err(), "1");
        not_unique(&users.transaction().put(&user(5, "cy")).put(&user(6, "cy")).commit().await.unwrap_err(), "5");
        probe.check_quiet(6).await;
        users.transaction().delete(&UserKey::new(1)).put(&user(3, "eve")).commit().await.unwrap();
        probe.check_quiet(6).await;
        let moved = users.transact(async |tx| {
            let mut ada = tx.get(&UserKey::new(2)).await?.expect("she exists");
            ada.team = Some("ops".into());
            tx.put(&ada)?;
            tx.put(&user(7, "new"))?;
            Ok(())
        });
        moved.await.unwrap();
        probe.check_quiet(9).await;
        let clash = users.transact(async |tx| Ok(tx.put(&user(8, "new"))?)).await.unwrap_err();
        not_unique(clash.kv().expect("it is an error of the bucket"), "7");
        let free = users.transact(async |tx| {
            tx.delete(&UserKey::new(7))?;
            tx.put(&user(8, "new"))?;
            Ok(())
        });
        free.await.unwrap();
        probe.check_quiet(9).await;
    }

    async fn repair_stores_missing_entries_and_erases_stale_ones(world: World) {
        let probe = IndexProbe::new(&world).await;
        let (users, raw) = (&probe.users, probe.foreign(&world).await);
        users.put_many((0..20).map(|id| user(id, &format!("mail{id}")))).await.unwrap();
        probe.check_quiet(60).await;
        assert!(users.verify_indexes().await.unwrap().is_clean());
        // A client that does not know the indexes writes and deletes.
        let foreign = serde_json::to_vec(&user(100, "foreign")).unwrap();
        raw.put(&RawRecord::new(UserKey::new(100).encode().unwrap(), foreign)).await.unwrap();
        let copy = serde_json::to_vec(&user(101, "mail0")).unwrap();
        raw.put(&RawRecord::new(UserKey::new(101).encode().unwrap(), copy)).await.unwrap();
        raw.delete(&UserKey::new(7).encode().unwrap()).await.unwrap();
        assert!(!probe.violations().await.is_empty(), "the observer sees what foreign writes break");
        let report = users.verify_indexes().await.unwrap();
        let email = &report.indexes[0];
        assert_eq!((report.records, email.missing, email.stale), (21, 2, 1), "{report:?}");
        let report = users.verify_indexes().repair().await.unwrap();
        let email = &report.indexes[0];
        assert_eq!(email.duplicates, [("0".to_owned(), "101".to_owned())], "{report:?}");
        assert_eq!((email.repaired, report.indexes[1].repaired), (2, 3), "{report:?}");
        users.delete(&UserKey::new(101)).await.unwrap();
        probe.check_quiet(60).await;
        assert!(users.verify_indexes().await.unwrap().is_clean());
    }

    async fn build_indexes_existing_records(world: World) {
        let name = unique("users");
        let old: Bucket<Plain> = world.store.bucket().name(&name).await.unwrap();
        old.put_many((0..300).map(|id| plain(id, &format!("mail{id}")))).await.unwrap();
        old.put(&plain(999, "mail7")).await.unwrap();
        let open = world.store.bucket::<User>().name(&name).on_drift(Drift::Update);
        let probe = IndexProbe::of(&world, open.await.unwrap()).await;
        let users = &probe.users;
        let refused = users.build_index("team").await.unwrap_err();
        assert!(matches!(refused.kind(), ErrorKind::Unsupported { .. }), "{refused:?}");
        for (index, duplicates) in [("team", 0), ("tags", 0), ("email", 1)] {
            let mut last = 0;
            let build = users.build_index(index).all_writers_know().on_progress(|progress| last = progress.records);
            let built = build.await.unwrap();
            assert_eq!((built.records, built.duplicates.len()), (301, duplicates), "{index}: {built:?}");
            assert_eq!(last, 301);
        }
        users.delete(&UserKey::new(999)).await.unwrap();
        let built = users.build_index("email").all_writers_know().await.unwrap();
        assert!(built.duplicates.is_empty());
        probe.check_quiet(900).await;
        // A readable index is not built again.
        assert_eq!(users.build_index("email").all_writers_know().await.unwrap().records, 0);
    }

    async fn interrupted_build_resumes_at_its_position(world: World) {
        let name = unique("users");
        let old: Bucket<Plain> = world.store.bucket().name(&name).await.unwrap();
        old.put_many((0..600).map(|id| plain(id, &format!("mail{id}")))).await.unwrap();
        let open = world.store.bucket::<User>().name(&name).on_drift(Drift::Update);
        let probe = IndexProbe::of(&world, open.await.unwrap()).await;
        let users = &probe.users;
        let interrupt = async |at: u64| {
            let (sender, receiver) = tokio::sync::oneshot::channel();
            let mut sender = Some(sender);
            let began = std::time::Instant::now();
            let progress = |progress: kvtyped::maintenance::IndexBuildProgress| {
                if progress.records == at {
                    sender.take().map(|sender| sender.send(()));
                }
            };
            let build = users.build_index("team").all_writers_know().pace(200).on_progress(progress).into_future();
            match futures::future::select(build, receiver).await {
                futures::future::Either::Left((built, _)) => panic!("it ended: {built:?}"),
                futures::future::Either::Right(_) => began.elapsed(),
            }
        };
        let took = interrupt(320).await;
        assert!(took >= Duration::from_millis(1_300), "320 records at a pace of 200 took {took:?}");
        let error = users.count_by(User::by_team("core")).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::IndexBuilding { .. }), "{error:?}");
        let built = users.build_index("team").all_writers_know().await.unwrap();
        // Positions are a second apart.
        assert!(built.records >= 280 && built.records < 600, "{built:?}");
        assert_eq!(users.count_by(User::by_team("core")).await.unwrap(), 600);
        // An index that was dropped is built from the start.
        users.drop_index("team").all_writers_stopped().await.unwrap();
        interrupt(230).await;
        users.drop_index("team").all_writers_stopped().await.unwrap();
        assert_eq!(users.build_index("team").all_writers_know().await.unwrap().records, 600);
        assert_eq!(users.count_by(User::by_team("core")).exact().await.unwrap(), 600);
    }

    async fn expired_owner_frees_its_unique_value(world: World) {
        let probe = IndexProbe::new(&world).await;
        let users = &probe.users;
        let mut events = users.watch(..).updates_only().await.unwrap();
        users.create(&user(1, "ada")).ttl(Duration::from_secs(1)).await.unwrap();
        loop {
            if let Some(Event::Removed { .. }) = events.try_next().await.unwrap() {
                break;
            }
        }
        assert!(!users.verify_indexes().await.unwrap().is_clean(), "expiry writes nothing to the indexes");
        users.create(&user(2, "ada")).await.unwrap();
        probe.check_violations().await;
        users.verify_indexes().repair().await.unwrap();
        probe.check_quiet(3).await;
    }

    async fn repair_of_an_entry_keeps_the_ttl_of_its_record(world: World) {
        let second = Duration::from_secs(1);
        // With a history, the TTL is at least that of the markers.
        for (history, lives) in [(1, 100), (5, 600)] {
            let open = world.store.bucket::<User>().name(unique("users")).history(history).limit_markers(600 * second);
            let probe = IndexProbe::of(&world, open.await.unwrap()).await;
            let users = &probe.users;
            users.put(&user(1, "ada")).await.unwrap();
            // Another client changes the team and sets a TTL. The entry of the old team stays.
            let moved = serde_json::to_vec(&User { team: Some("ops".into()), ..user(1, "ada") }).unwrap();
            let write = Write::new(UserKey::new(1).encode().unwrap(), WriteKind::Put(moved.into()));
            let write = write.with_ttl(Ttl::new(100 * second));
            let foreign = probe.raw().write(write, Deadline::after(10 * second)).await.unwrap();
            users.verify_indexes().repair().await.unwrap();
            let repaired = users.get(&UserKey::new(1)).read(Read::Leader).await.unwrap().expect("it has not expired");
            assert!(repaired.revision() > foreign, "the record was written again before its entry was erased");
            let kept = repaired.ttl().expect("it must not become permanent").as_secs();
            assert!((lives - 10..=lives).contains(&kept), "history {history}: {kept} s");
        }
    }
}

/// Without an epoch, a program that does not know the index would write records without entries.
async fn old_program_writes_during_a_build(
    world: World,
    epochs: bool,
) -> (IndexProbe, Result<Revision, kvtyped::Error>) {
    let name = unique("users");
    let open = world.store.bucket::<Plain>().name(&name);
    let open = if epochs { open.write_epochs(WriteEpochs::Closed) } else { open };
    let old = open.await.unwrap();
    old.put_many((0..50).map(|id| plain(id, &format!("mail{id}")))).await.unwrap();
    let open = world.another().await;
    let open = open.bucket::<User>().name(&name).on_drift(Drift::Update);
    let open = if epochs { open.write_epochs(WriteEpochs::Closed) } else { open };
    let probe = IndexProbe::of(&world, open.await.unwrap()).await;
    for index in ["email", "team", "tags"] {
        let build = probe.users.build_index(index);
        let build = if epochs { build } else { build.all_writers_know() };
        build.await.unwrap();
    }
    let written = old.put(&plain(7, "late")).await;
    (probe, written)
}

mod old_programs {
    use super::*;

    #[tokio::test]
    async fn epoch_refuses_a_program_without_the_index() {
        crate::needs::needs!(WriteEpochs);
        let (probe, written) = old_program_writes_during_a_build(World::nats().await, true).await;
        let error = written.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::SchemaDiffers { .. }), "{error:?}");
        probe.check_quiet(150).await;
    }

    #[tokio::test]
    async fn without_epoch_entries_are_missing() {
        let (probe, written) = old_program_writes_during_a_build(World::nats().await, false).await;
        written.unwrap();
        assert!(!probe.violations().await.is_empty());
    }
}

mod marker_ttl {
    use super::*;

    #[tokio::test]
    async fn delete_markers_outlive_writes_in_flight() {
        let world = World::memory();
        let name = unique("users");
        let short = world.store.bucket::<User>().name(&name).limit_markers(Duration::from_secs(60)).await;
        assert!(matches!(short.unwrap_err().kind(), ErrorKind::InvalidConfig { .. }));
        let plain: Bucket<Plain> = world.store.bucket().name(&name).await.unwrap();
        assert_eq!(plain.config().limit_markers, Some(Duration::from_secs(300)));
        for drift in [Drift::Fail, Drift::Adopt] {
            let refused = world.store.bucket::<User>().name(&name).on_drift(drift).await.unwrap_err();
            assert!(matches!(refused.kind(), ErrorKind::Drift { .. }), "{refused:?}");
        }
        let users = world.store.bucket::<User>().name(&name).on_drift(Drift::Update).await.unwrap();
        assert_eq!(users.config().limit_markers, Some(Duration::from_secs(600)));
        let fresh: Bucket<User> = world.bucket().await;
        assert_eq!(fresh.config().limit_markers, Some(Duration::from_secs(600)));
        let purge = fresh.purge(&UserKey::new(1)).ttl(Duration::from_secs(60)).await.unwrap_err();
        assert!(matches!(purge.kind(), ErrorKind::InvalidConfig { .. }));
        fresh.delete(&UserKey::new(1)).await.unwrap();
        assert_eq!(fresh.compact(Duration::ZERO).await.unwrap().markers, 0, "the marker is younger than 10 minutes");
    }
}
