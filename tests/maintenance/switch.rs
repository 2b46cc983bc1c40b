//! Switches of the version that all programs write.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use kvtyped::ErrorKind;
use kvtyped::config::WriteEpochs;
use kvtyped::prelude::*;

use super::faulty::{Fate, Faulty, Refusal};
use super::models::{First, FirstKey, Second, User, UserKey, deployed, first, opened_as, user};
use crate::support::{Document, World, on_both_backends};

on_both_backends! {
    async fn switch_changes_the_version_that_programs_write(world: World) {
        let (old, new) = deployed(&world, world.fresh()).await;
        new.put(&user(1)).await.unwrap();
        assert_eq!(old.get(&FirstKey::new(1)).await.unwrap().unwrap().into_value(), first(1));
        let switch = new.switch_version(3).await.unwrap();
        assert_eq!((switch.from, switch.to, switch.epoch, switch.changed), (1, 3, None, true));
        assert!(switch.to_string().contains("from version 1 to version 3, without write epochs"), "{switch}");

        let card = new.card().await.unwrap().unwrap();
        assert_eq!((card.version, card.writes, card.oldest), (3, 3, 1));
        // The handle continues in the new version at once.
        new.put(&user(2)).await.unwrap();
        let entry = new.get(&UserKey::new(2)).await.unwrap().unwrap();
        assert_eq!(entry.schema_version(), 3);
        let error = old.get(&FirstKey::new(2)).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Newer { found: 3, knows: 1 }), "{error}");
        let error = world.store.bucket::<First>().name(new.name()).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Newer { found: 3, knows: 1 }), "{error}");
    }

    async fn same_version_again_changes_nothing(world: World) {
        let (_, new) = deployed(&world, world.fresh()).await;
        new.switch_version(2).await.unwrap();
        let before = new.status().await.unwrap().config;
        let switch = new.switch_version(2).await.unwrap();
        assert_eq!((switch.from, switch.to, switch.changed), (2, 2, false));
        assert!(switch.to_string().starts_with("version 2 was current already"), "{switch}");
        assert_eq!(new.status().await.unwrap().config, before);
    }

    async fn switch_keeps_other_metadata(world: World) {
        let open = world.fresh::<First>().metadata("owner", "team-7");
        let (_, new) = deployed(&world, open).await;
        new.switch_version(3).await.unwrap();
        let config = new.status().await.unwrap().config;
        assert_eq!(config.metadata.get("owner").map(String::as_str), Some("team-7"));
    }

    async fn version_out_of_range_is_refused(world: World) {
        let (_, new) = deployed(&world, world.fresh()).await;
        let second: Bucket<Second> =
            world.store.bucket().name(new.name()).on_schema(Drift::Adopt).await.unwrap();
        for (error, remedy) in [
            (new.switch_version(4).await.unwrap_err(), "deploy a program"),
            (new.switch_version(0).await.unwrap_err(), "set `writes`"),
            (second.switch_version(1).await.unwrap_err(), "set `writes`"),
        ] {
            assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error}");
            assert!(error.to_string().contains(remedy), "{error}");
            assert_eq!(error.outcome(), Outcome::NotApplied);
        }
        assert_eq!(new.card().await.unwrap().unwrap().writes, 1);
        // The program without a conversion back switches, as the error of its opening says.
        assert_eq!(second.switch_version(2).await.unwrap().from, 1);
    }

    async fn switch_creates_a_missing_card(world: World) {
        // A bucket that another client created.
        let documents = world.bucket::<Document>().await;
        let new: Bucket<User> = world.store.bucket().name(documents.name()).on_drift(Drift::Adopt).await.unwrap();
        assert_eq!(new.card().await.unwrap(), None);
        let switch = new.switch_version(1).await.unwrap();
        assert_eq!((switch.from, switch.to, switch.changed), (1, 1, true));
        let card = new.card().await.unwrap().unwrap();
        assert_eq!((card.version, card.writes, card.oldest), (3, 1, 1));
    }

    async fn downgrade_is_refused_while_newer_records_exist(world: World) {
        let (_, new) = deployed(&world, world.fresh()).await;
        new.switch_version(3).await.unwrap();
        new.put(&user(1)).await.unwrap();
        let error = new.switch_version(2).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::SchemaDiffers { .. }), "{error}");
        for part in ["3: 1", ".force()", "migrate().to(2)"] {
            assert!(error.to_string().contains(part), "{error}");
        }
        assert_eq!(new.card().await.unwrap().unwrap().writes, 3);
        let switch = new.switch_version(2).force().await.unwrap();
        assert_eq!((switch.from, switch.to), (3, 2));
        new.put(&user(1)).await.unwrap();
        assert_eq!(new.schema_versions().await.unwrap().to_string(), "2: 1");
        // The records of version 2 are gone, so `force` is not needed.
        new.delete(&UserKey::new(1)).await.unwrap();
        let switch = new.switch_version(1).await.unwrap();
        assert_eq!((switch.from, switch.to), (2, 1));
        let card = new.card().await.unwrap().unwrap();
        assert_eq!((card.version, card.writes, card.oldest), (3, 1, 1));
    }

    async fn switches_at_once_change_the_card_once(world: World) {
        let (_, new) = deployed(&world, world.fresh()).await;
        let stores = [world.another().await, world.another().await, world.another().await];
        let mut others = Vec::new();
        for store in &stores {
            others.push(opened_as::<User>(store, new.name()).await);
        }
        let switches = others.iter().map(|users| users.switch_version(3).into_future());
        let switches = futures::future::try_join_all(switches).await.unwrap();
        assert!(switches.iter().all(|switch| switch.to == 3));
        assert_eq!(switches.iter().filter(|switch| switch.changed).count(), 1, "{switches:?}");
        assert_eq!(new.card().await.unwrap().unwrap().writes, 3);
    }
}

#[tokio::test]
async fn switch_starts_the_next_epoch() {
    let world = World::memory();
    let (_, new) = super::models::deployed_in_epochs(&world).await;
    let first = new.status().await.unwrap().config.write_epoch.unwrap_or_default();
    for (number, version) in [2, 3, 2, 1].into_iter().enumerate() {
        let switch = new.switch_version(version).await.unwrap();
        assert_eq!(switch.epoch, Some(first + number as u64 + 1), "{switch}");
        new.put(&user(7)).await.unwrap();
        new.delete(&UserKey::new(7)).await.unwrap();
    }
    let before = new.status().await.unwrap().config.write_epoch;
    assert_eq!(new.switch_version(1).await.unwrap().epoch, before);
}

/// An update that is applied without a reply, and an update that is lost.
#[tokio::test(start_paused = true)]
async fn lost_reply_of_a_switch_is_recovered() {
    for lost in [Fate::LostReply, Fate::Lost, Fate::Refused(Refusal::Unavailable)] {
        let faulty = Faulty::default();
        let store = faulty.store();
        let users: Bucket<User> = store.bucket().write_epochs(WriteEpochs::Open).await.unwrap();
        let before = users.status().await.unwrap().config.write_epoch.unwrap_or_default();
        let updates = Arc::new(AtomicU32::new(0));
        let (count, fate) = (Arc::clone(&updates), lost.clone());
        faulty
            .on_update(move |_| if count.fetch_add(1, Ordering::Relaxed) == 0 { fate.clone() } else { Fate::Applied });
        let switch = users.switch_version(3).await;
        let switch = switch.unwrap_or_else(|error| panic!("{lost:?}: {error}"));
        assert_eq!((switch.from, switch.to, switch.changed), (1, 3, true), "{lost:?}");
        assert_eq!(switch.epoch, Some(before + 1), "{lost:?}: the epoch moves once");
        let expected = if lost == Fate::LostReply { 1 } else { 2 };
        assert_eq!(updates.load(Ordering::Relaxed), expected, "{lost:?}");
    }
}

/// Every update is applied, and every reply is lost.
#[tokio::test(start_paused = true)]
async fn switch_without_any_reply_is_one_switch() {
    let faulty = Faulty::default();
    let users: Bucket<User> = faulty.store().bucket().await.unwrap();
    faulty.on_update(|_| Fate::LostReply);
    assert!(users.switch_version(3).await.unwrap().changed);
    faulty.on_update(|_| Fate::Lost);
    let error = users.switch_version(2).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
    assert_eq!(users.card().await.unwrap().unwrap().writes, 3);
}
