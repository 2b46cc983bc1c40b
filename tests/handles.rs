//! The handles of recipes: created without I/O, opened by the first use or by awaiting them, once for all clones.

use std::sync::Arc;
use std::task::Poll;

use futures::future::join_all;
use harness::{Mode, Proxy};
use kvtyped::prelude::*;
use kvtyped::recipes::Quota;
use kvtyped::{Error, ErrorKind};

use crate::needs::needs;
use crate::support::{ForeignRecord, LATE, SOON, World, in_time, on_both_backends, unique};

const SECOND: Duration = Duration::from_secs(1);

const RECIPES: [&str; 8] = ["locks", "election", "semaphore", "group", "once", "counters", "ids", "rate_limiter"];

/// Uses a recipe once, through a handle that is not awaited.
async fn use_unopened(recipe: &str, store: &Store, name: &str) -> Result<(), Error> {
    match recipe {
        "locks" => store.locks(name).lock("a").await?.release().await,
        "election" => store.election::<u32>(name).campaign(&1).await?.resign().await,
        "semaphore" => store.semaphore(name, 2).acquire().await?.release().await,
        "group" => store.group::<u32>(name).join("a", &1).await?.leave().await,
        "once" => store.once::<u32>(name).run("a", || async { 1 }).await.map(drop).map_err(Error::from),
        "counters" => store.counters(name).add("a", 1).await.map(drop),
        "ids" => store.ids(name).next().await.map(drop),
        "rate_limiter" => store.rate_limiter(name, Quota::per_second(9)).check("a").await.map(drop),
        other => unreachable!("{other} is not a recipe"),
    }
}

/// Uses a recipe once, through a handle that is awaited first.
async fn use_opened(recipe: &str, store: &Store, name: &str) -> Result<(), Error> {
    match recipe {
        "locks" => store.locks(name).await?.lock("a").await?.release().await,
        "election" => store.election::<u32>(name).await?.campaign(&1).await?.resign().await,
        "semaphore" => store.semaphore(name, 2).await?.acquire().await?.release().await,
        "group" => store.group::<u32>(name).await?.join("a", &1).await?.leave().await,
        "once" => store.once::<u32>(name).await?.run("a", || async { 1 }).await.map(drop).map_err(Error::from),
        "counters" => store.counters(name).await?.add("a", 1).await.map(drop),
        "ids" => store.ids(name).await?.next().await.map(drop),
        "rate_limiter" => store.rate_limiter(name, Quota::per_second(9)).await?.check("a").await.map(drop),
        other => unreachable!("{other} is not a recipe"),
    }
}

/// A handle of any recipe, kept for several uses.
enum Handle {
    Locks(kvtyped::recipes::Locks),
    Election(kvtyped::recipes::Election<u32>),
    Semaphore(kvtyped::recipes::Semaphore),
    Group(kvtyped::recipes::Group<u32>),
    Once(kvtyped::recipes::Once<u32>),
    Counters(kvtyped::recipes::Counters),
    Ids(kvtyped::recipes::Ids),
    RateLimiter(kvtyped::recipes::RateLimiter),
}

impl Handle {
    fn new(recipe: &str, store: &Store, name: &str) -> Self {
        match recipe {
            "locks" => Self::Locks(store.locks(name)),
            "election" => Self::Election(store.election(name)),
            "semaphore" => Self::Semaphore(store.semaphore(name, 2)),
            "group" => Self::Group(store.group(name)),
            "once" => Self::Once(store.once(name)),
            "counters" => Self::Counters(store.counters(name)),
            "ids" => Self::Ids(store.ids(name)),
            "rate_limiter" => Self::RateLimiter(store.rate_limiter(name, Quota::per_second(9))),
            other => unreachable!("{other} is not a recipe"),
        }
    }

    /// Uses the handle for a read or a small write that holds nothing.
    async fn touch(&self) -> Result<(), Error> {
        match self {
            Self::Locks(locks) => locks.holder("a").await.map(drop),
            Self::Election(election) => election.leader().await.map(drop),
            Self::Semaphore(semaphore) => semaphore.available().await.map(drop),
            Self::Group(group) => group.members().await.map(drop),
            Self::Once(once) => once.get("a").await.map(drop),
            Self::Counters(counters) => counters.get("a").await.map(drop),
            Self::Ids(ids) => ids.next().await.map(drop),
            Self::RateLimiter(limiter) => limiter.check("a").await.map(drop),
        }
    }
}

on_both_backends! {
    needs Locks;

    async fn handle_works_without_await(world: World) {
        for recipe in RECIPES {
            let used = use_unopened(recipe, &world.store, &unique(recipe)).await;
            assert!(used.is_ok(), "{recipe}: {used:?}");
        }
    }

    async fn handle_works_after_await(world: World) {
        for recipe in RECIPES {
            let used = use_opened(recipe, &world.store, &unique(recipe)).await;
            assert!(used.is_ok(), "{recipe}: {used:?}");
        }
    }

    async fn unused_handle_performs_no_io(world: World) {
        let name = unique("untouched");
        let locks = world.store.locks(&name).ttl(5 * SECOND);
        let _ = (locks.lock("a"), world.store.counters(&name), world.store.ids(&name));
        assert!(!world.store.buckets().await.unwrap().contains(&name));
        let opened = locks.await.unwrap();
        assert!(world.store.buckets().await.unwrap().contains(&name));
        // Awaiting an open handle does nothing.
        world.store.delete_bucket(&name).await.unwrap();
        let _still_open = opened.await.unwrap();
        assert!(!world.store.buckets().await.unwrap().contains(&name));
    }

    async fn next_use_repeats_failed_open(world: World) {
        for recipe in RECIPES {
            let name = unique(recipe);
            // The values of this bucket are too small for any recipe.
            let unfit = world.store.bucket::<ForeignRecord>().name(&name).history(1).max_value_size(100).await.unwrap();
            let handle = Handle::new(recipe, &world.store, &name);
            for _ in 0..2 {
                let error = handle.touch().await.expect_err("the bucket does not fit");
                assert!(matches!(error.kind(), ErrorKind::Unsupported { .. }), "{recipe}: {error}");
                assert_eq!(error.bucket(), Some(&*name), "{recipe}");
            }
            drop(unfit);
            world.store.delete_bucket(&name).await.unwrap();
            let again = handle.touch().await;
            assert!(again.is_ok(), "{recipe}: {again:?}");
        }
    }

    async fn locks_open_a_deleted_bucket_again(world: World) {
        let name = unique("locks");
        let locks = world.store.locks(&name);
        locks.lock("a").await.unwrap().release().await.unwrap();
        world.store.delete_bucket(&name).await.unwrap();
        let error = locks.try_lock("a").await.expect_err("the bucket is deleted");
        assert!(matches!(error.kind(), ErrorKind::BucketNotFound), "{error}");
        locks.try_lock("a").await.unwrap().expect("it is free").release().await.unwrap();
    }

    async fn dropped_first_use_does_not_block(world: World) {
        for recipe in RECIPES {
            for polls in [1, 2, 3, 8] {
                let handle = Handle::new(recipe, &world.store, &unique(recipe));
                let (mut first, mut second) = (Box::pin(handle.touch()), Box::pin(handle.touch()));
                let mut used = None;
                for _ in 0..polls {
                    if futures::poll!(&mut first).is_ready() {
                        break;
                    }
                    // The second use waits while the first is in progress.
                    if let Poll::Ready(result) = futures::poll!(&mut second) {
                        used = Some(result);
                        break;
                    }
                    tokio::task::yield_now().await;
                }
                drop(first);
                let used = match used {
                    Some(used) => used,
                    None => tokio::time::timeout(SOON, second).await.expect("nothing blocks it"),
                };
                assert!(used.is_ok(), "{recipe} after {polls} polls: {used:?}");
            }
        }
    }

    async fn unpolled_first_use_does_not_block(world: World) {
        for recipe in RECIPES {
            let handle = Handle::new(recipe, &world.store, &unique(recipe));
            let mut first = Box::pin(handle.touch());
            let _ = futures::poll!(&mut first);
            let used = tokio::time::timeout(SOON, handle.touch()).await;
            assert!(used.is_ok_and(|used| used.is_ok()), "{recipe}");
        }
    }

    async fn clones_share_one_open(world: World) {
        let ids = world.store.ids(unique("ids"));
        let clones: Vec<_> = (0..8).map(|_| ids.clone()).collect();
        let mut given: Vec<_> = join_all(clones.iter().map(|ids| ids.next())).await.into_iter().map(Result::unwrap).collect();
        given.sort_unstable();
        // Each opening would start a block.
        assert_eq!(given, (1..=8).collect::<Vec<_>>());

        let locks = world.store.locks(unique("locks"));
        let (one, other) = (locks.clone(), locks.clone());
        let (one, other) = tokio::join!(one.try_lock("a").into_future(), other.try_lock("a").into_future());
        let guards: Vec<_> = [one.unwrap(), other.unwrap()].into_iter().flatten().collect();
        assert_eq!(guards.len(), 1);
    }

    async fn options_after_first_use_change_a_copy(world: World) {
        let (name, other_name) = (unique("hits"), unique("other"));
        let hits = world.store.counters(&name);
        assert_eq!(hits.add("a", 1).await.unwrap(), 1);
        // An option that does not concern the bucket keeps it.
        assert_eq!(hits.clone().timeout(SOON).add("a", 1).await.unwrap(), 2);
        let other_store = hits.clone().bucket(&other_name);
        assert_eq!(other_store.add("a", 1).await.unwrap(), 1);
        assert_eq!(hits.get("a").await.unwrap(), 2);

        let ids = world.store.ids(unique("ids"));
        assert_eq!(ids.next().await.unwrap(), 1);
        let large = ids.clone().start_at(1_000);
        assert_eq!(large.next().await.unwrap(), 1_000);
        assert_eq!(ids.next().await.unwrap(), 2);

        let locks = world.store.locks(unique("locks")).owner("one");
        let guard = locks.lock("a").await.unwrap();
        let renamed = locks.clone().owner("other");
        assert!(renamed.try_lock("a").await.unwrap().is_none());
        let there = renamed.lock("b").await.unwrap();
        let owners = [locks.holder("a").await.unwrap(), locks.holder("b").await.unwrap()];
        assert_eq!(owners.map(|holder| holder.expect("it is held").owner), ["one", "other"]);
        guard.release().await.unwrap();
        there.release().await.unwrap();
    }

    async fn invalid_options_fail_first_use_and_await(world: World) {
        let store = &world.store;
        let errors = [
            store.locks("a").ttl(Duration::ZERO).await.err(),
            store.locks("a").ttl(Duration::ZERO).lock("a").await.err(),
            store.locks("a b").await.err(),
            store.locks("a b").try_lock("a").await.err(),
            store.election::<u32>("a").ttl(Duration::ZERO).await.err(),
            store.election::<u32>("a").ttl(Duration::ZERO).campaign(&1).await.err(),
            store.semaphore("a", 0).await.err(),
            store.semaphore("a", 0).available().await.err(),
            store.group::<u32>("a").safety_margin(60 * SECOND).await.err(),
            store.group::<u32>("a").safety_margin(60 * SECOND).members().await.err(),
            store.once::<u32>("a").retention(Duration::ZERO).await.err(),
            store.once::<u32>("a").retention(Duration::ZERO).run("a", || async { 1 }).await.map_err(Error::from).err(),
            store.counters("a b").await.err(),
            store.counters("a b").add("a", 1).await.err(),
            store.ids("a").block(0).await.err(),
            store.ids("a").block(0).next().await.err(),
            store.rate_limiter("a", Quota::per_second(0)).await.err(),
            store.rate_limiter("a", Quota::per_second(0)).check("a").await.err(),
        ];
        for (number, error) in errors.into_iter().enumerate() {
            let error = error.unwrap_or_else(|| panic!("number {number} is accepted"));
            assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "number {number}: {error}");
        }
        assert!(store.buckets().await.unwrap().iter().all(|name| name != "a"));
    }

    async fn single_attempt_accepts_timeout(world: World) {
        let locks = world.store.locks(unique("locks"));
        let guard = locks.try_lock("a").timeout(SOON).await.unwrap().expect("it is free");
        assert!(locks.try_lock("a").timeout(SOON).await.unwrap().is_none());
        guard.release().await.unwrap();
        let semaphore = world.store.semaphore(unique("semaphore"), 1);
        let permit = semaphore.try_acquire().timeout(SOON).await.unwrap().expect("it is free");
        assert!(semaphore.try_acquire().timeout(SOON).await.unwrap().is_none());
        permit.release().await.unwrap();
    }
}

/// A store that reaches the shared server through a proxy.
async fn through_proxy() -> (Proxy, Store) {
    let proxy = Proxy::start(harness::shared().await.addr()).await;
    let store = World::at(&proxy.url()).await.store.with_timeout(SECOND);
    (proxy, store)
}

#[tokio::test]
async fn next_use_succeeds_after_outage() {
    needs!(Locks);
    let (proxy, store) = through_proxy().await;
    let handles: Vec<_> = RECIPES.map(|recipe| (recipe, Handle::new(recipe, &store, &unique(recipe)))).into();
    proxy.set(Mode::Stall);
    for (recipe, error) in
        join_all(handles.iter().map(|(recipe, handle)| async move { (recipe, handle.touch().await) })).await
    {
        let error = error.expect_err("there is no server");
        assert!(matches!(error.kind(), ErrorKind::Timeout { .. } | ErrorKind::Unavailable { .. }), "{recipe}: {error}");
    }
    proxy.set(Mode::Pass);
    for (recipe, handle) in &handles {
        let works = async || handle.touch().await.ok();
        harness::wait::until(recipe, SOON, works).await;
    }
}

#[tokio::test]
async fn concurrent_first_uses_share_failed_open() {
    needs!(Locks);
    let (proxy, store) = through_proxy().await;
    let handle = Handle::new("election", &store, &unique("election"));
    proxy.set(Mode::Stall);
    let uses = async { join_all((0..8).map(|_| handle.touch())).await };
    let errors = in_time("eight first uses", SECOND + 2 * LATE, uses).await;
    assert!(errors.into_iter().all(|result| result.is_err()));
}

#[tokio::test]
async fn dropped_first_use_in_outage_hands_over() {
    needs!(Locks);
    for recipe in RECIPES {
        let (proxy, store) = through_proxy().await;
        let handle = Arc::new(Handle::new(recipe, &store.with_timeout(SOON), &unique(recipe)));
        proxy.set(Mode::Stall);
        let use_it = |handle: &Arc<Handle>| {
            let handle = Arc::clone(handle);
            tokio::spawn(async move { handle.touch().await })
        };
        let first = use_it(&handle);
        tokio::time::sleep(SECOND / 5).await;
        let second = use_it(&handle);
        tokio::time::sleep(SECOND / 5).await;
        first.abort();
        proxy.set(Mode::Pass);
        let used = tokio::time::timeout(2 * SOON, second).await.expect("nothing blocks it").unwrap();
        assert!(used.is_ok(), "{recipe}: {used:?}");
    }
}

#[tokio::test]
async fn timeout_includes_opening_the_bucket() {
    needs!(Locks);
    let (proxy, store) = through_proxy().await;
    let store = store.with_timeout(SOON);
    proxy.set(Mode::Stall);
    let limit = SECOND / 2;
    let name = unique("limited");
    let errors = [
        in_time("try_lock", limit, store.locks(&name).try_lock("a").timeout(limit)).await.err(),
        in_time("try_acquire", limit, store.semaphore(&name, 1).try_acquire().timeout(limit)).await.err(),
        in_time("lock", limit, store.locks(&name).lock("a").wait(limit)).await.err(),
        in_time("acquire", limit, store.semaphore(&name, 1).acquire().wait(limit)).await.err(),
        in_time("campaign", limit, store.election::<u32>(&name).campaign(&1).wait(limit)).await.err(),
        in_time("add", limit, async { store.counters(&name).timeout(limit).add("a", 1).await }).await.err(),
        in_time("next", limit, async { store.ids(&name).timeout(limit).next().await }).await.err(),
        in_time("check", limit, async {
            store.rate_limiter(&name, Quota::per_second(9)).timeout(limit).check("a").await
        })
        .await
        .err(),
    ];
    for (number, error) in errors.into_iter().enumerate() {
        let error = error.expect("there is no server");
        assert!(matches!(error.kind(), ErrorKind::Timeout { .. }), "number {number}: {error}");
    }
}

#[tokio::test]
async fn wait_survives_outage_at_its_start() {
    needs!(Locks);
    let (proxy, store) = through_proxy().await;
    proxy.set(Mode::Stall);
    let name = unique("waited");
    let (locks, election) = (store.locks(&name), store.election::<u32>(&name));
    let lock = tokio::spawn(locks.lock("a").wait(SOON).into_future());
    let campaign = tokio::spawn(election.campaign(&1).wait(SOON).into_future());
    tokio::time::sleep(3 * SECOND / 2).await;
    proxy.set(Mode::Pass);
    let (guard, leadership) = tokio::join!(lock, campaign);
    guard.unwrap().unwrap().release().await.unwrap();
    leadership.unwrap().unwrap().resign().await.unwrap();
}
