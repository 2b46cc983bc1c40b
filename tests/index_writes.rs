//! The verbs of an indexed model keep its entries and claims.

use std::collections::BTreeSet;

use kvtyped::key::ModelKey;
use kvtyped::prelude::*;
use kvtyped::{Change, ErrorKind};

use crate::index_probe::{IndexProbe, User, UserKey, user};
use crate::support::on_both_backends;

fn set<const N: usize>(keys: [&str; N]) -> BTreeSet<String> {
    keys.into_iter().map(str::to_owned).collect()
}

on_both_backends! {
    async fn each_verb_keeps_entries_and_claims(world: World) {
        let probe = IndexProbe::new(&world).await;
        let users = &probe.users;
        let mut ada = user(1, "ada");
        users.put(&ada).await.unwrap();
        probe.settle(&set(["user.email.ada", "user.team.core.1", "user.tags.a.1"])).await;
        ada.email = "lovelace".into();
        let revision = users.put(&ada).await.unwrap();
        probe.settle(&set(["user.email.lovelace", "user.team.core.1", "user.tags.a.1"])).await;
        ada.team = None;
        ada.tags = vec!["b".into(), "c".into()];
        users.update(&ada, revision).await.unwrap();
        probe.settle(&set(["user.email.lovelace", "user.tags.b.1", "user.tags.c.1"])).await;
        assert!(matches!(users.update(&ada, revision).await.unwrap_err().kind(), ErrorKind::Conflict { .. }));
        users.modify(&ada.key(), |user| user.team = Some("ops".into())).await.unwrap();
        users.touch(&ada.key()).await.unwrap();
        probe.settle(&set(["user.email.lovelace", "user.team.ops.1", "user.tags.b.1", "user.tags.c.1"])).await;
        users.delete(&ada.key()).await.unwrap();
        probe.settle(&set([])).await;
        users.create(&ada).await.unwrap();
        probe.settle(&set(["user.email.lovelace", "user.tags.b.1", "user.tags.c.1"])).await;
        assert!(matches!(users.create(&user(1, "eve")).await.unwrap_err().kind(), ErrorKind::AlreadyExists));
        probe.settle(&set(["user.email.lovelace", "user.tags.b.1", "user.tags.c.1"])).await;
        users.purge(&ada.key()).await.unwrap();
        probe.settle(&set([])).await;
        let key = ada.key();
        users.transform(&key, |_| Change::Put(user(1, "ada"))).await.unwrap();
        probe.settle(&set(["user.email.ada", "user.team.core.1", "user.tags.a.1"])).await;
        users.transform(&ada.key(), |_| Change::Delete).await.unwrap();
        probe.settle(&set([])).await;
    }

    async fn many_writes_keep_entries_and_claims(world: World) {
        let probe = IndexProbe::new(&world).await;
        let users = &probe.users;
        let mut all: Vec<_> = (0..200).map(|id| user(id, &format!("mail{id}"))).collect();
        users.put_many(&all).await.unwrap();
        probe.check_quiet(600).await;
        all.iter_mut().for_each(|user| user.team = None);
        // One record twice.
        all.push(User { email: "again".into(), ..all[0].clone() });
        users.put_many(&all).await.unwrap();
        probe.check_quiet(400).await;
        let clash = users.put_many([&User { id: 900, ..user(0, "mail7") }]).results().await.unwrap().remove(0);
        let Err(error) = clash else { panic!("the value is taken") };
        assert!(matches!(error.kind(), ErrorKind::NotUnique { index: "email", owner } if owner == "7"), "{error:?}");
        users.delete_many((0..200).map(UserKey::new)).await.unwrap();
        probe.settle(&set([])).await;
    }

    async fn concurrent_bulk_writes_keep_entries_and_claims(world: World) {
        let probe = IndexProbe::new(&world).await;
        let other: Bucket<User> = world.another().await.bucket().name(probe.users.name()).await.unwrap();
        // The records that were read ahead are replaced before they are written.
        let ours = (0..150).map(|id| User { team: Some("web".into()), ..user(id, &format!("a{id}")) });
        let theirs = (0..150).rev().map(|id| user(id, &format!("b{id}")));
        for _ in 0..2 {
            let (ours, theirs) =
                futures::join!(probe.users.put_many(ours.clone()).into_future(), other.put_many(theirs.clone()).into_future());
            assert_eq!((ours.unwrap().len(), theirs.unwrap().len()), (150, 150));
            probe.check_violations().await;
        }
        probe.check_quiet(450).await;
    }

    async fn second_record_with_a_unique_value_is_refused(world: World) {
        let probe = IndexProbe::new(&world).await;
        let users = &probe.users;
        let first = users.create(&user(1, "ada")).await.unwrap();
        let before = set(["user.email.ada", "user.team.core.1", "user.tags.a.1"]);
        probe.settle(&before).await;
        let refused = |error: kvtyped::Error| {
            assert!(error.is_conflict() && !error.is_retryable());
            assert_eq!(error.outcome(), kvtyped::Outcome::NotApplied);
            let ErrorKind::NotUnique { index, owner } = error.kind() else { panic!("{error:?}") };
            assert_eq!((*index, owner.as_str()), ("email", "1"));
        };
        refused(users.create(&user(2, "ada")).await.unwrap_err());
        refused(users.put(&user(3, "ada")).await.unwrap_err());
        refused(users.transform(&UserKey::new(4), |_| Change::Put(user(4, "ada"))).await.unwrap_err());
        assert!(users.get(&UserKey::new(2)).await.unwrap().is_none());
        // A refused write leaves nothing behind.
        probe.settle(&before).await;
        users.update(&user(1, "eve"), first).await.unwrap();
        users.create(&user(2, "ada")).await.unwrap();
        probe.check_quiet(6).await;
    }

    async fn undecodable_record_is_replaced_with_its_entries(world: World) {
        let probe = IndexProbe::new(&world).await;
        let raw = probe.foreign(&world).await;
        raw.put(&kvtyped::RawRecord::new(UserKey::new(1).encode().unwrap(), "no user")).await.unwrap();
        probe.users.put(&user(1, "ada")).await.unwrap();
        probe.settle(&set(["user.email.ada", "user.team.core.1", "user.tags.a.1"])).await;
    }

    async fn values_survive_a_group_commit(world: World) {
        let probe = IndexProbe::new(&world).await;
        probe.users.put(&user(1, "ada")).await.unwrap();
        let key = UserKey::new(1);
        let changes = (0..40).map(|n| {
            let (users, key) = (probe.users.clone(), key.clone());
            async move { users.modify(&key, move |user| user.tags.push(format!("t{n}"))).await }
        });
        futures::future::try_join_all(changes).await.unwrap();
        probe.check_quiet(43).await;
        // A refused change of one member does not refuse the others.
        probe.users.put(&user(2, "eve")).await.unwrap();
        let steal = probe.users.modify(&key, |user| user.email = "eve".into()).into_future();
        let others = (0..20).map(|n| probe.users.modify(&key, move |user| user.tags.push(format!("u{n}"))).into_future());
        let (stolen, others) = futures::join!(steal, futures::future::join_all(others));
        assert!(matches!(stolen.unwrap_err().kind(), ErrorKind::NotUnique { .. }));
        others.into_iter().for_each(|other| drop(other.unwrap()));
        probe.check_quiet(66).await;
    }

    async fn rewrite_keeps_entries_and_claims(world: World) {
        let probe = IndexProbe::new(&world).await;
        let users = &probe.users;
        users.put_many((0..50).map(|id| user(id, &format!("mail{id}")))).await.unwrap();
        users.rewrite(.., |user| Change::Put(User { team: Some("new".into()), ..user })).await.unwrap();
        probe.check_quiet(150).await;
        let done = users.rewrite(.., |user| Change::Put(User { email: "one".into(), ..user })).await.unwrap();
        assert_eq!((done.rewritten, done.refused.len()), (1, 49));
        assert!(done.refused.iter().all(|(_, error)| matches!(error.kind(), ErrorKind::NotUnique { .. })));
        probe.check_quiet(150).await;
    }

    async fn one_of_a_hundred_writers_gets_a_unique_value(world: World) {
        let probe = IndexProbe::new(&world).await;
        for round in 0..3_u64 {
            let mail = format!("mail{round}");
            let create = |id| {
                let (users, mail) = (probe.users.clone(), mail.clone());
                async move { users.create(&user(1_000 * (round + 1) + id, &mail)).await }
            };
            let results = futures::future::join_all((0..100).map(create)).await;
            let won = results.iter().filter(|result| result.is_ok()).count();
            for error in results.iter().filter_map(|result| result.as_ref().err()) {
                assert!(matches!(error.kind(), ErrorKind::NotUnique { .. }), "{error:?}");
            }
            assert_eq!(won, 1, "round {round}");
        }
        probe.check_quiet(9).await;
    }

    async fn unique_value_survives_writers_that_die(world: World) {
        let probe = IndexProbe::new(&world).await;
        for round in 0..3_u64 {
            let mail = format!("mail{round}");
            let create = |id: u64| {
                let (users, mail) = (probe.users.clone(), mail.clone());
                async move {
                    let record = user(1_000 * (round + 1) + id, &mail);
                    let create = Box::pin(users.create(&record).into_future());
                    match id % 2 {
                        0 => Some(create.await),
                        _ => crate::index_probe::dies_after(create, id / 2 % 12).await,
                    }
                }
            };
            let results = futures::future::join_all((0..100).map(create)).await;
            probe.check_violations().await;
            // A writer that died may have won. Otherwise one of the living did.
            let won = results.iter().flatten().filter(|result| result.is_ok()).count();
            assert!(won <= 1, "round {round}: {won} winners");
            let holders = probe.holders(&mail).await;
            assert_eq!(holders, 1, "round {round}");
        }
    }

    async fn write_cancelled_at_each_await_keeps_the_index(world: World) {
        let probe = IndexProbe::new(&world).await;
        let users = &probe.users;
        for polls in 0..40 {
            let (mail, id) = (format!("mail{polls}"), 10 * polls);
            let record = user(id, &mail);
            let ended = crate::index_probe::dies_after(Box::pin(users.put(&record).into_future()), polls).await;
            probe.check_violations().await;
            // Another record gets the value, unless the dropped write was applied.
            let other = users.create(&user(id + 1, &mail)).await;
            probe.check_violations().await;
            assert!(other.is_ok() || probe.holders(&mail).await == 1, "{ended:?}, {other:?}");
            let changed = User { email: format!("new{polls}"), team: Some("ops".into()), ..user(id, "") };
            crate::index_probe::dies_after(Box::pin(users.put(&changed).into_future()), polls).await;
            crate::index_probe::dies_after(Box::pin(users.delete(&UserKey::new(id + 1)).into_future()), polls).await;
            probe.check_violations().await;
        }
    }
}
