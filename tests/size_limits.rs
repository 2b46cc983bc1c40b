//! Recipes in buckets of a limited size, as some accounts require them.

use harness::{Cluster, Server};
use kvtyped::config::Storage;
use kvtyped::prelude::*;
use kvtyped::recipes::{Locks, OnceError, Quota};
use kvtyped::{Error, ErrorKind};

use crate::needs::needs;
use crate::support::{SOON, Session, SessionKey, World, on_both_backends, unique};

const SECOND: Duration = Duration::from_secs(1);

/// Acquires locks until the bucket is full, and lets their holder die. The leases must expire, so that locks can be
/// acquired again.
async fn locks_of_a_full_bucket_expire(world: &World, open: impl Fn(&Store) -> Locks) {
    let doomed = world.another().await;
    let theirs = open(&doomed).ttl(2 * SECOND).await.unwrap();
    let mut guards = Vec::new();
    let error = loop {
        match theirs.try_lock(format!("lock-{}", guards.len())).await {
            Ok(guard) => guards.push(guard.expect("it is free")),
            Err(error) => break error,
        }
        assert!(guards.len() < 1_000);
    };
    assert!(matches!(error.kind(), ErrorKind::BucketFull), "{error}");
    assert!(guards.len() > 10, "{}", guards.len());
    let ours = open(&world.store).await.unwrap();
    assert!(matches!(ours.lock("another").wait(SOON).await.unwrap_err().kind(), ErrorKind::BucketFull));
    // A full bucket still accepts renewals.
    let guard = guards.pop().expect("there are some");
    guard.ensure_remaining(1_200 * Duration::from_millis(1)).await.unwrap();
    doomed.close().await.unwrap();
    for name in ["another", "lock-0"] {
        let again = async || ours.try_lock(name).await.ok().flatten();
        harness::wait::until("the leases expire", SOON, again).await.release().await.unwrap();
    }
}

on_both_backends! {
    needs Locks;

    async fn locks_in_full_bucket_expire(world: World) {
        for storage in [Storage::File, Storage::Memory] {
            let name = unique("locks");
            locks_of_a_full_bucket_expire(&world, |store| store.locks(&name).max_bytes(16_384).storage(storage)).await;
            let bucket: Bucket<crate::support::ForeignRecord> = crate::support::seen_as(&world, &name).await;
            assert_eq!((bucket.config().max_bytes, bucket.config().storage), (Some(16_384), Some(storage)));
        }
    }

    async fn recipes_reject_bucket_with_tiny_max_bytes(world: World) {
        let mut names = Vec::new();
        for bytes in [1, 100, 2_047] {
            let (store, name) = (&world.store, unique("tiny"));
            let refused = each_recipe(store, &name, Some(bytes)).await;
            for (recipe, error) in refused {
                let error = error.unwrap_or_else(|| panic!("{recipe} works with {bytes} bytes"));
                assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{recipe}: {error}");
                assert!(error.to_string().contains("`max_bytes`"), "{recipe}: {error}");
            }
            names.push(name);
        }
        let buckets = world.store.buckets().await.unwrap();
        assert!(!buckets.iter().any(|bucket| names.contains(bucket)), "nothing is created: {buckets:?}");

        // An existing bucket is refused, too.
        let tiny = world.fresh::<Session>().max_bytes(2_047).limit_markers(SECOND).await.unwrap();
        for (recipe, error) in each_recipe(&world.store, tiny.name(), None).await {
            let error = error.unwrap_or_else(|| panic!("{recipe} works"));
            assert!(matches!(error.kind(), ErrorKind::Unsupported { .. }), "{recipe}: {error}");
            assert!(error.to_string().contains("max_bytes = 2047"), "{recipe}: {error}");
        }
        let error = tiny.lock(&SessionKey::new("acme", 1)).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Unsupported { .. }), "{error}");

        // The smallest bucket holds each record.
        for recipe in RECIPES {
            let error = run(recipe, &world.store, &unique("small"), Some(2_048)).await.err();
            assert!(error.is_none(), "{recipe}: {error:?}");
        }
    }
}

const RECIPES: [&str; 8] = ["locks", "election", "semaphore", "group", "once", "ids", "counters", "rate limiter"];

/// Uses a recipe once, in the bucket of its name.
async fn run(recipe: &str, store: &Store, name: &str, bytes: Option<u64>) -> Result<(), Error> {
    let me = "me".to_owned();
    macro_rules! sized {
        ($recipe:expr) => {
            match bytes {
                Some(bytes) => $recipe.max_bytes(bytes),
                None => $recipe,
            }
        };
    }
    match recipe {
        "locks" => sized!(store.locks(name)).await?.lock("a").await?.release().await,
        "election" => sized!(store.election::<String>(name)).campaign(&me).await?.resign().await,
        "semaphore" => sized!(store.semaphore(name, 2)).acquire().await?.release().await,
        "group" => sized!(store.group::<String>(name)).join("me", &me).await?.leave().await,
        "once" => match sized!(store.once::<u32>(name)).run("a", || async { 1 }).await {
            Ok(_) => Ok(()),
            Err(OnceError::Kv(error)) => Err(error),
            Err(error) => panic!("{error}"),
        },
        "ids" => sized!(store.ids(name)).await?.next().await.map(drop),
        "counters" => sized!(store.counters(name)).await?.add("home", 3).await.map(drop),
        "rate limiter" => sized!(store.rate_limiter(name, Quota::per_hour(2))).await?.check("ada").await.map(drop),
        other => panic!("there is no recipe {other}"),
    }
}

/// The error of each recipe in this bucket.
async fn each_recipe(store: &Store, name: &str, bytes: Option<u64>) -> Vec<(&'static str, Option<Error>)> {
    let mut errors = Vec::new();
    for recipe in RECIPES {
        errors.push((recipe, run(recipe, store, name, bytes).await.err()));
    }
    errors
}

/// On a cluster, each server must have room before it replaces a record.
#[tokio::test]
async fn locks_in_full_replicated_bucket_expire() {
    needs!(Locks);
    let cluster = Cluster::start(3).await;
    let world = World::at(&cluster.urls()).await;
    locks_of_a_full_bucket_expire(&world, |store| store.locks("jobs").max_bytes(16_384).replicas(3)).await;
}

#[tokio::test]
async fn recipes_work_with_max_bytes_required() {
    needs!(Locks);
    let config = r#"
        accounts { A { jetstream { max_mem: 64MB, max_store: 64MB, max_bytes_required: true }, users [{ user: a, password: a }] } }
        no_auth_user: a
    "#;
    let server = Server::builder().config(config).start().await;
    let store = World::at(&server.url()).await.store;
    store.locks("control").await.expect_err("the account requires a limit");
    for recipe in RECIPES {
        let name = recipe.replace(' ', "_");
        let error = run(recipe, &store, &name, Some(1 << 20)).await.err();
        assert!(error.is_none(), "{recipe}: {error:?}");
    }
    assert!(!store.counters("counters").max_bytes(1 << 20).await.unwrap().is_server_side().await.unwrap());
}
