//! The age and the remaining time of entries, by the server's clock.

use std::time::SystemTime;

use kvtyped::backend::memory::MemoryBackend;
use kvtyped::{Event, Version};

use crate::support::*;

use kvtyped::prelude::*;

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn key(id: u64) -> SessionKey {
    SessionKey::new("acme", id)
}

/// Whether a time is at most half a minute below `time`.
fn is_just_below(time: Duration, found: Option<Duration>) -> bool {
    found.is_some_and(|found| found <= time && found > time - MINUTE / 2)
}

on_both_backends! {
    needs RecordTtl;

    async fn every_read_returns_the_remaining_time(world: World) {
        let sessions: Bucket<Session> = world.bucket().await;
        sessions.put(&Session::new("acme", 1)).ttl(5 * MINUTE).await.unwrap();
        let found = sessions.get(&key(1)).await.unwrap().unwrap();
        assert!(is_just_below(5 * MINUTE, found.remaining()) && found.age() < MINUTE / 2, "{found:?}");
        let many = sessions.get_many([key(1)]).await.unwrap();
        assert!(is_just_below(5 * MINUTE, many[0].as_ref().unwrap().remaining()));
        let listed: Vec<Entry<Session>> = sessions.list(..).await.unwrap().try_collect().await.unwrap();
        assert!(is_just_below(5 * MINUTE, listed[0].remaining()));
        let history = sessions.history(&key(1)).await.unwrap();
        assert!(matches!(&history[0], Version::Put(entry) if is_just_below(5 * MINUTE, entry.remaining())));
        let Event::Put(watched) = soon(&mut sessions.watch(..).await.unwrap()).await.unwrap() else { panic!("a record") };
        assert!(is_just_below(5 * MINUTE, watched.remaining()));
        let cache = sessions.cache(..).await.unwrap();
        assert!(is_just_below(5 * MINUTE, cache.get(&key(1)).unwrap().remaining()));

        let changed = sessions.modify(&key(1), |session| session.visits += 1).await.unwrap();
        let stored = sessions.get(&key(1)).await.unwrap().unwrap();
        assert!(is_just_below(5 * MINUTE, changed.remaining()));
        let apart = stored.created().duration_since(changed.created()).unwrap_or_else(|before| before.duration());
        assert!(apart < Duration::from_secs(5), "the estimate is {apart:?} away");
    }

    async fn shorter_ttl_of_bucket_and_record_is_the_remaining_time(world: World) {
        let sessions: Bucket<Session> = world.fresh().ttl(10 * MINUTE).await.unwrap();
        sessions.put(&Session::new("acme", 1)).await.unwrap();
        sessions.put(&Session::new("acme", 2)).ttl(5 * MINUTE).await.unwrap();
        let left = async |id| sessions.get(&key(id)).await.unwrap().unwrap().remaining();
        assert!(is_just_below(10 * MINUTE, left(1).await));
        assert!(is_just_below(5 * MINUTE, left(2).await));
        let plain: Bucket<Session> = world.bucket().await;
        plain.put(&Session::new("acme", 1)).await.unwrap();
        assert_eq!(plain.get(&key(1)).await.unwrap().unwrap().remaining(), None);
    }

    async fn touch_skips_a_young_record(world: World) {
        let sessions: Bucket<Session> = world.bucket().await;
        let created = sessions.create(&Session::new("acme", 1)).ttl(5 * MINUTE).await.unwrap();
        let one = key(1);
        let touch = || sessions.touch(&one).ttl(10 * MINUTE);
        assert_eq!(touch().if_older_than(MINUTE).await.unwrap(), created);
        let found = sessions.get(&key(1)).await.unwrap().unwrap();
        assert_eq!((found.revision(), found.ttl().map(|ttl| ttl.as_secs())), (created, Some(300)));
        assert!(touch().if_older_than(Duration::ZERO).await.unwrap() > created);
        assert!(sessions.touch(&key(2)).if_older_than(MINUTE).await.unwrap_err().is_not_found());
    }
}

#[tokio::test(start_paused = true)]
async fn local_wall_clock_does_not_date_own_writes() {
    // The clock of the backend runs away from the wall clock of this process.
    let store = Store::from_backend(std::sync::Arc::new(MemoryBackend::new()));
    let sessions: Bucket<Session> = store.bucket().await.unwrap();
    tokio::time::advance(DAY).await;
    sessions.put(&Session::new("acme", 1)).ttl(MINUTE).await.unwrap();
    let changed = sessions.modify(&key(1), |session| session.visits += 1).await.unwrap();
    let one = key(1);
    let together = (0..3).map(|_| sessions.modify(&one, |session| session.visits += 1).into_future());
    for changed in futures::future::join_all(together).await {
        assert!(changed.unwrap().created() > SystemTime::now() + DAY / 2);
    }
    let stored = sessions.get(&key(1)).await.unwrap().unwrap();
    assert!(changed.created() > SystemTime::now() + DAY / 2 && changed.created() <= stored.created());
    assert!(changed.age() < Duration::from_secs(1));
    tokio::time::advance(MINUTE / 2).await;
    assert_eq!(stored.age().as_secs(), 30);
    assert_eq!(stored.remaining().map(|left| left.as_secs().div_ceil(10)), Some(3));
    let unchanged = sessions.modify(&key(1), |_| {}).await.unwrap();
    assert_eq!(unchanged.created(), stored.created());
}
