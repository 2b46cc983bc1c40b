//! The recipes as an operator sees them: who holds them, who waits, and how to intervene.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::SystemTime;

use kvtyped::recipes::{LockEvent, OnceState, Quota, RecipeKind};
use kvtyped::{ErrorKind, Removed};
use serde_json::{Value, json};

use crate::support::*;

use kvtyped::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

/// Whether the time is that of a lease with a TTL of 30 s, which was just renewed.
fn is_fresh(expires_in: Duration, renewed: SystemTime) -> bool {
    let age = SystemTime::now().duration_since(renewed).unwrap_or_default();
    expires_in <= 30 * SECOND && expires_in > 15 * SECOND && age < 15 * SECOND
}

/// Returns the next event of a lock, without `Ready` and `Resync`.
async fn changed(events: &mut kvtyped::recipes::LockEvents) -> (String, Option<String>, Option<Removed>) {
    loop {
        match soon(events).await.unwrap() {
            LockEvent::Held { name, holder } => return (name, Some(holder.owner), None),
            LockEvent::Free { name, reason } => return (name, None, Some(reason)),
            _ => {}
        }
    }
}

on_both_backends! {
    needs Locks;

    async fn all_held_locks_are_listed(world: World) {
        let name = unique("listed");
        let locks = world.store.locks(&*name).owner("worker-7").await.unwrap();
        let (a, b) = (locks.lock("a").note("monthly").await.unwrap(), locks.lock("b.c *").await.unwrap());
        locks.lock("free").await.unwrap().release().await.unwrap();
        let held: Vec<_> = locks.all().await.unwrap().try_collect().await.unwrap();
        let names: Vec<_> = held.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "b.c *"]);
        let holder = &held[0].1;
        assert_eq!((holder.owner.as_str(), holder.note.as_deref(), holder.fence), ("worker-7", Some("monthly"), a.fence()));
        assert!(is_fresh(holder.expires_in, holder.renewed), "{holder:?}");
        let single = locks.holder("a").await.unwrap().unwrap();
        assert!(single.fence == holder.fence && is_fresh(single.expires_in, single.renewed));

        let sessions: Bucket<Session> = world.bucket().await;
        let guard = sessions.lock(&SessionKey::new("acme", 7)).await.unwrap();
        let beside = world.store.locks("any").bucket(sessions.name());
        let held: Vec<_> = beside.all().await.unwrap().try_collect().await.unwrap();
        assert_eq!((held.len(), held[0].0.as_str(), held[0].1.fence), (1, "acme.7", guard.fence()));
        drop((a, b, guard));
    }

    async fn waiters_are_listed_in_order(world: World) {
        let name = unique("queue");
        let locks = world.store.locks(&*name).await.unwrap();
        let guard = locks.lock("a").await.unwrap();
        assert!(locks.waiters("a").await.unwrap().is_empty());
        let mut waiting = Vec::new();
        for (number, owner) in ["first", "second", "third"].into_iter().enumerate() {
            let lock = world.another().await.locks(&*name).lock("a").owner(owner).note("a note").fair();
            waiting.push(tokio::spawn(lock.into_future()));
            while locks.waiters("a").await.unwrap().len() <= number {
                tokio::time::sleep(SECOND / 50).await;
            }
        }
        let waiters = locks.waiters("a").await.unwrap();
        let owners: Vec<_> = waiters.iter().map(|waiter| waiter.owner.as_str()).collect();
        assert_eq!(owners, ["first", "second", "third"]);
        assert!(waiters[0].note.as_deref() == Some("a note") && waiters[0].expires_in <= 30 * SECOND);
        assert!(waiters[0].renewed <= waiters[2].renewed);
        guard.release().await.unwrap();
        let first = waiting.remove(0).await.unwrap().unwrap();
        let owners: Vec<_> = locks.waiters("a").await.unwrap().into_iter().map(|waiter| waiter.owner).collect();
        assert_eq!(owners, ["second", "third"]);
        waiting.iter().for_each(|waiter| waiter.abort());
        drop(first);
    }

    async fn lock_watch_reports_each_term_once(world: World) {
        let name = unique("watched");
        let locks = world.store.locks(&*name).ttl(2 * SECOND).renew_every(SECOND / 4).await.unwrap();
        let first = locks.lock("a").owner("one").await.unwrap();
        let mut events = locks.watch().await.unwrap();
        assert_eq!(changed(&mut events).await, ("a".into(), Some("one".into()), None));
        // Several renewals, which are not reported.
        let renewed = locks.holder("a").await.unwrap().unwrap().renewed;
        while locks.holder("a").await.unwrap().unwrap().renewed == renewed {
            tokio::time::sleep(SECOND / 20).await;
        }
        first.release().await.unwrap();
        assert_eq!(changed(&mut events).await, ("a".into(), None, Some(Removed::Purged)));
        let second = locks.lock("b").owner("two").await.unwrap();
        assert_eq!(changed(&mut events).await, ("b".into(), Some("two".into()), None));
        second.release().await.unwrap();
        assert_eq!(changed(&mut events).await, ("b".into(), None, Some(Removed::Purged)));
        let other = world.another().await;
        let crashed = other.locks(&*name).ttl(SECOND).lock("c").owner("three").await.unwrap();
        assert_eq!(changed(&mut events).await, ("c".into(), Some("three".into()), None));
        other.close().await.unwrap();
        assert_eq!(changed(&mut events).await, ("c".into(), None, Some(Removed::Expired)));
        drop(crashed);
    }

    async fn broken_lock_is_free_for_the_next_holder(world: World) {
        let locks = world.store.locks(unique("broken")).ttl(3 * SECOND).await.unwrap();
        let stuck = locks.lock("a").await.unwrap();
        let older = {
            let guard = locks.lock("b").await.unwrap();
            let fence = guard.fence();
            guard.release().await.unwrap();
            fence
        };
        let newer = locks.lock("b").await.unwrap();
        let error = locks.break_lock("b", older).await.unwrap_err();
        assert!(error.is_conflict() && newer.check().is_ok(), "{error}");

        locks.break_lock("a", stuck.fence()).await.unwrap();
        locks.break_lock("a", stuck.fence()).await.unwrap();
        assert_eq!(locks.holder("a").await.unwrap(), None);
        tokio::time::timeout(SOON, stuck.lost()).await.expect("the holder learns of it");
        let next = locks.lock("a").wait(SOON).await.unwrap();
        assert!(next.fence() > stuck.fence());
        assert!(locks.break_lock("a", stuck.fence()).await.unwrap_err().is_conflict());
        assert!(next.check().is_ok());
    }

    async fn deposed_leader_loses_its_term_and_a_candidate_is_elected(world: World) {
        let name = unique("deposed");
        let election = world.store.election::<String>(&*name).ttl(3 * SECOND).await.unwrap();
        let stuck = election.campaign(&"one".to_owned()).await.unwrap();
        let another = world.another().await.election::<String>(&*name).ttl(3 * SECOND);
        let candidate = tokio::spawn(another.campaign(&"two".to_owned()).wait(SOON).into_future());
        election.depose(stuck.fence()).await.unwrap();
        tokio::time::timeout(SOON, stuck.lost()).await.expect("the leader learns of it");
        let next = candidate.await.unwrap().unwrap();
        assert!(next.fence() > stuck.fence());
        assert!(election.depose(stuck.fence()).await.unwrap_err().is_conflict());
        assert_eq!(election.leader().await.unwrap().unwrap().value(), "two");
        next.resign().await.unwrap();
        election.depose(stuck.fence()).await.unwrap();
    }

    async fn broken_lock_goes_to_a_waiter(world: World) {
        let locks = world.store.locks(unique("broken")).await.unwrap();
        let stuck = locks.lock("a").await.unwrap();
        let waiter = tokio::spawn(locks.lock("a").wait(SOON).into_future());
        while locks.waiters("a").await.unwrap().is_empty() {
            tokio::time::sleep(SECOND / 50).await;
        }
        locks.break_lock("a", stuck.fence()).await.unwrap();
        assert!(waiter.await.unwrap().unwrap().fence() > stuck.fence());
    }

    async fn writes_of_a_broken_record_lock_are_refused(world: World) {
        let sessions: Bucket<Session> = world.bucket().await;
        let session = Session::new("acme", 7);
        let guard = sessions.lock(&session.key()).await.unwrap();
        sessions.put(&session).fenced_by(&guard).await.unwrap();
        let locks = world.store.locks("any").bucket(sessions.name());
        locks.break_lock("acme.7", guard.fence()).await.unwrap();
        let error = sessions.put(&session).fenced_by(&guard).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Fenced | ErrorKind::Lost), "{error}");
        assert!(sessions.lock_holder(&session.key()).await.unwrap().is_none());
    }

    async fn elections_of_a_bucket_are_listed_without_their_type(world: World) {
        let name = unique("cluster");
        let (a, b) = (world.store.election::<u32>("a").bucket(&*name), world.store.election::<String>("b").bucket(&*name));
        let a = a.owner("one").campaign(&7).await.unwrap();
        let b = b.owner("two").campaign(&"x".to_owned()).await.unwrap();
        let any = world.store.election::<Value>("a").bucket(&*name);
        let leader = any.leader().await.unwrap().unwrap();
        assert_eq!((leader.value(), leader.fence()), (&json!(7), a.fence()));
        assert!(is_fresh(leader.expires_in(), leader.renewed()));
        let all: Vec<_> = any.all().await.unwrap().try_collect().await.unwrap();
        let found: Vec<_> = all.iter().map(|(name, leader)| (name.as_str(), leader.value().clone(), leader.owner())).collect();
        assert_eq!(found, [("a", json!(7), "one"), ("b", json!("x"), "two")]);
        let typed = world.store.election::<u32>("a").bucket(&*name);
        let all: Vec<_> = typed.all().await.unwrap().collect().await;
        assert!(all[0].is_ok() && matches!(all[1].as_ref().unwrap_err().kind(), ErrorKind::Decode { .. }));
        drop((a, b));
    }

    async fn holders_of_a_semaphore_are_listed(world: World) {
        let name = unique("gpu");
        let wide = world.store.semaphore(&*name, 3).owner("one");
        let held = [wide.acquire().await.unwrap(), wide.acquire().await.unwrap(), wide.acquire().await.unwrap()];
        let holders = world.store.semaphore(&*name, 1).holders().await.unwrap();
        assert_eq!(holders.iter().map(|holder| holder.slot).collect::<Vec<_>>(), [0, 1, 2]);
        let fences: BTreeSet<_> = holders.iter().map(|holder| holder.fence).collect();
        assert_eq!(fences, held.iter().map(|permit| permit.fence()).collect());
        assert!(holders.iter().all(|holder| holder.owner == "one" && is_fresh(holder.expires_in, holder.renewed)));
    }

    async fn keys_of_once_are_listed_and_forgotten(world: World) {
        let charges = world.store.once::<u32>(unique("charges")).owner("one").await.unwrap();
        charges.run("done", || async { 5 }).await.unwrap();
        let _: Result<u32, _> = charges.run("failed", || async { Err::<u32, _>("declined") }).await;
        let (started, running) = tokio::sync::oneshot::channel();
        let run = tokio::spawn({
            let charges = charges.clone();
            async move {
                let work = || async {
                    started.send(()).unwrap();
                    std::future::pending::<u32>().await
                };
                charges.run("running", work).await
            }
        });
        running.await.unwrap();
        let keys: Vec<(String, OnceState)> = charges.all().await.unwrap().try_collect().await.unwrap();
        assert_eq!(keys.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["done", "running"]);
        assert!(matches!(keys[0].1, OnceState::Done { expires_in: None, .. }), "{keys:?}");
        let OnceState::Running { owner, expires_in, renewed, .. } = &keys[1].1 else { panic!("{keys:?}") };
        assert!(owner == "one" && is_fresh(*expires_in, *renewed));

        assert!(!charges.forget("running").await.unwrap() && !charges.forget("failed").await.unwrap());
        assert!(charges.forget("done").await.unwrap() && !charges.forget("done").await.unwrap());
        assert_eq!(charges.run("done", || async { 6 }).await.unwrap(), 6);
        run.abort();
    }

    async fn peek_counts_nothing(world: World) {
        let quota = Quota::per_hour(2).burst(2);
        let api = world.store.rate_limiter(unique("api"), quota).await.unwrap();
        assert_eq!((api.quota().events(), api.quota().period(), api.quota().max_burst()), (2, 3_600 * SECOND, 2));
        for _ in 0..3 {
            let peeked = api.peek("c").await.unwrap();
            assert!(peeked.is_allowed() && peeked.remaining() == 2);
        }
        assert!(!api.reset("c").await.unwrap());
        for _ in 0..2 {
            assert!(api.check("c").await.unwrap().is_allowed());
        }
        let (peeked, checked) = (api.peek("c").await.unwrap(), api.check("c").await.unwrap());
        let wait = peeked.retry_after().unwrap();
        assert!(wait.abs_diff(checked.retry_after().unwrap()) < 10 * SECOND && wait > 1_700 * SECOND);
        assert!(api.reset("c").await.unwrap());
        assert!(api.check("c").await.unwrap().is_allowed());
    }

    async fn ids_peek_allocates_nothing(world: World) {
        let orders = world.store.ids(unique("orders")).start_at(10).block(5).await.unwrap();
        assert_eq!((orders.peek().await.unwrap(), orders.peek().await.unwrap()), (10, 10));
        assert_eq!((orders.next().await.unwrap(), orders.peek().await.unwrap()), (10, 15));
        assert_eq!(orders.next().await.unwrap(), 11);
    }

    async fn recipes_of_a_bucket_are_listed(world: World) {
        let name = unique("mixed");
        let sessions: Bucket<Session> = world.store.bucket().name(&*name).await.unwrap();
        sessions.put(&Session::new("acme", 1)).await.unwrap();
        let lock = sessions.lock(&SessionKey::new("acme", 1)).await.unwrap();
        let leader = world.store.election::<u32>("boss").bucket(&*name).campaign(&1).await.unwrap();
        let permit = world.store.semaphore("gpu", 1).bucket(&*name).acquire().await.unwrap();
        world.store.once::<u32>("charges").bucket(&*name).run("k", || async { 1 }).await.unwrap();
        world.store.ids("orders").bucket(&*name).next().await.unwrap();
        let limiter = world.store.rate_limiter("api", Quota::per_hour(1)).bucket(&*name);
        assert!(limiter.check("c").await.unwrap().is_allowed());
        let found = world.store.recipes(&name).await.unwrap();
        let found: Vec<_> = found.iter().map(|found| (found.kind.as_str(), found.name.as_str(), found.records)).collect();
        assert_eq!(found, [
            ("lock", "acme.1", 2),
            ("election", "boss", 1),
            ("semaphore", "gpu", 1),
            ("once", "charges", 1),
            ("ids", "orders", 1),
            ("rate", "api", 1),
        ]);
        assert_eq!(RecipeKind::RateLimiter.to_string(), "rate");
        let error = world.store.recipes("no_such_bucket").await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::BucketNotFound) && world.store.buckets().await.is_ok());
        drop((lock, leader, permit));
    }
}

#[tokio::test]
async fn connection_name_is_part_of_the_owner() {
    crate::needs::needs!(Locks);
    let options = kvtyped::backend::nats::NatsOptions::new().name("billing");
    let store = Store::connect(harness::shared().await.url()).options(options).await.unwrap();
    let locks = store.locks(unique("named")).await.unwrap();
    let guard = locks.lock("a").await.unwrap();
    let owner = locks.holder("a").await.unwrap().unwrap().owner;
    let pid = format!("(pid {})", std::process::id());
    assert!(owner.starts_with("billing@") && owner.ends_with(&pid), "{owner}");
    drop(guard);
}

/// Runs in a child process, and prints the default owner and that of an option.
#[tokio::test]
#[ignore = "the process that another test of this file starts"]
async fn owner_process() {
    let locks = Store::memory().locks("jobs").await.unwrap();
    let (a, b) = (locks.lock("a").await.unwrap(), locks.lock("b").owner("option").await.unwrap());
    let owner = async |name| locks.holder(name).await.unwrap().unwrap().owner;
    println!("owners <{}> <{}>", owner("a").await, owner("b").await);
    drop((a, b));
}

#[test]
fn environment_names_the_default_owner() {
    let owners = |variable: Option<&str>| {
        let mut command = Command::new(std::env::current_exe().expect("this binary has a path"));
        command.args(["--ignored", "--exact", "inspect::owner_process", "--nocapture", "--test-threads=1"]);
        match variable {
            Some(owner) => command.env("KVTYPED_OWNER", owner),
            None => command.env_remove("KVTYPED_OWNER"),
        };
        let output = String::from_utf8(command.output().expect("it runs").stdout).expect("it is text");
        let (_, line) = output.split_once("owners ").expect("the process prints its owners");
        line.lines().next().unwrap_or_default().to_owned()
    };
    assert_eq!(owners(Some("ops team")), "<ops team> <option>");
    for unset in [None, Some("")] {
        let line = owners(unset);
        let (default, option) = line.split_once("> <").expect("two owners");
        assert!(default.contains("(pid ") && option == "option>", "{line}");
    }
}
