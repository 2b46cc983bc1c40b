//! Several followers, and followers that end anywhere.

use super::*;
use crate::index_probe::{IndexProbe, dies_after, user};
use crate::support::{World, on_both_backends};

on_both_backends! {
    needs Locks;

    async fn another_follower_continues_after_the_leader(world: World) {
        let probe = IndexProbe::new(&world).await;
        let (users, raw) = (&probe.users, probe.foreign(&world).await);
        let mut stores = Vec::new();
        let mut followers = Vec::new();
        for _ in 0..2 {
            let store = world.another().await;
            let users: Bucket<User> = store.bucket().name(users.name()).await.unwrap();
            followers.push((Follower::start(&users), users));
            stores.push(store);
        }
        put_foreign(&raw, &user(1, "mail1")).await;
        synced(users).await;
        let leads = async |users: &Bucket<User>| users.health().await.unwrap().index_follower.is_some();
        let mut led = Vec::new();
        for (_, users) in &followers {
            led.push(leads(users).await);
        }
        assert_eq!(led.iter().filter(|led| **led).count(), 1, "one follower leads");
        let (leader, _) = followers.remove(led.iter().position(|led| *led).unwrap_or_default());
        // The task is dropped at any await.
        leader.task.abort();
        for id in 2..40 {
            put_foreign(&raw, &user(id, &format!("mail{id}"))).await;
        }
        synced(users).await;
        assert_eq!(users.count_by(User::by_team("core")).await.unwrap(), 39);
        assert!(users.verify_indexes().await.unwrap().is_clean());
        let (other, users) = followers.remove(0);
        assert!(leads(&users).await);
        other.stop().await;
    }

    async fn follower_may_end_at_any_await(world: World) {
        let probe = IndexProbe::new(&world).await;
        let (users, raw) = (&probe.users, probe.foreign(&world).await);
        for polls in 0..60_u64 {
            let id = polls % 7;
            put_foreign(&raw, &User { team: Some(format!("t{polls}")), ..user(id, &format!("mail{polls}")) }).await;
            if polls % 3 == 0 {
                raw.delete(&key((polls + 3) % 7)).await.unwrap();
            }
            let follower = Box::pin(users.maintain_indexes().ttl(SECOND).into_future());
            let ended = tokio::time::timeout(SECOND / 20, dies_after(follower, polls)).await;
            assert!(!matches!(ended, Ok(Some(_))), "{ended:?}");
        }
        let follower = Follower::sweeping(users, Duration::ZERO);
        synced(users).await;
        until_clean(users).await;
        follower.stop().await;
    }
}

/// A bucket that keeps several revisions cannot hold a lease, so two followers work at once.
#[tokio::test]
async fn two_followers_at_once_keep_the_indexes() {
    let world = World::memory();
    let open = world.store.bucket::<User>().name("users").history(3);
    let probe = IndexProbe::of(&world, open.await.unwrap()).await;
    let (users, raw) = (&probe.users, probe.foreign(&world).await);
    let followers = [Follower::start(users), Follower::start(users)];
    for round in 0..50 {
        put_foreign(&raw, &User { team: Some(format!("t{}", round % 5)), ..user(round % 9, &format!("mail{round}")) })
            .await;
        users.put(&user(20 + round % 3, &format!("typed{round}"))).await.unwrap();
    }
    synced(users).await;
    for follower in followers {
        follower.stop().await;
    }
    let follower = Follower::sweeping(users, Duration::ZERO);
    until_clean(users).await;
    follower.stop().await;
}
