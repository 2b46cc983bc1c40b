//! The TTL of a record and the TTL of its bucket.

use kvtyped::bucket::OpenBucket;
use kvtyped::prelude::*;
use kvtyped::{Error, ErrorKind, Event, Read, Ttl};

use crate::needs::{Feature, needs};
use crate::support::{Session, SessionKey, World, on_both_backends};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

fn key() -> SessionKey {
    SessionKey::new("acme", 7)
}

fn session() -> Session {
    Session::new("acme", 7)
}

async fn open(world: &World, open: OpenBucket<Session>) -> Bucket<Session> {
    let open = if world.has(Feature::LimitMarkers) { open.limit_markers(MINUTE) } else { open };
    open.await.expect("the bucket opens")
}

/// Checks a refusal that names both durations and the remedy.
fn is_refused(verb: &str, error: &Error) {
    assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{verb}: {error}");
    assert_eq!(error.outcome(), Outcome::NotApplied, "{verb}");
    for part in ["3600s", "60s", "raise the `ttl`"] {
        assert!(error.to_string().contains(part), "{verb}: `{part}` is missing: {error}");
    }
}

async fn every_verb_refuses(sessions: &Bucket<Session>, stored: Revision) {
    let (record, key) = (&session(), &key());
    let other = &Session::new("acme", 8);
    is_refused("put", &sessions.put(record).ttl(HOUR).await.unwrap_err());
    is_refused("create", &sessions.create(other).ttl(HOUR).await.unwrap_err());
    is_refused("update", &sessions.update(record, stored).ttl(HOUR).await.unwrap_err());
    is_refused("touch", &sessions.touch(key).ttl(HOUR).await.unwrap_err());
    is_refused("modify", &sessions.modify(key, |_| {}).ttl(HOUR).await.unwrap_err());
    let refused = sessions.try_modify(key, |_| Ok::<_, ()>(())).ttl(HOUR).await.unwrap_err();
    is_refused("try_modify", refused.kv().expect("the bucket's"));
    is_refused("transform", &sessions.transform(key, |_| Change::Keep).ttl(HOUR).await.unwrap_err());
    is_refused("put_many", &sessions.put_many([record]).ttl(HOUR).await.unwrap_err());
    is_refused("transaction", &sessions.transaction().put(record).ttl(HOUR).commit().await.unwrap_err());
    let put_for = sessions.transact(|tx| async move { Ok(tx.put_for(record, HOUR)?) }).await;
    is_refused("transact", &put_for.unwrap_err().into());
    assert_eq!(sessions.status().await.unwrap().last_revision, stored, "nothing was written");
}

on_both_backends! {
    async fn a_ttl_longer_than_the_buckets_is_refused_by_every_verb(world: World) {
        needs!(world, RecordTtl);
        let sessions = open(&world, world.fresh().ttl(MINUTE)).await;
        let stored = sessions.put(&session()).await.unwrap();
        every_verb_refuses(&sessions, stored).await;
        // A bucket can keep a record for its own TTL or less.
        sessions.touch(&key()).ttl(MINUTE).await.unwrap();
        sessions.put(&session()).ttl(MINUTE / 2).await.unwrap();
        // A bucket without a TTL accepts every TTL.
        let unbounded = open(&world, world.fresh()).await;
        unbounded.put(&session()).ttl(HOUR).await.unwrap();
    }

    async fn an_adopted_bucket_applies_its_own_ttl(world: World) {
        needs!(world, RecordTtl);
        let made = open(&world, world.fresh().ttl(MINUTE)).await;
        // The model, and this builder, ask for another TTL.
        let adopted: Bucket<Session> =
            world.store.bucket().name(made.name()).ttl(24 * HOUR).on_drift(Drift::Adopt).await.unwrap();
        let stored = adopted.put(&session()).await.unwrap();
        every_verb_refuses(&adopted, stored).await;
    }

    async fn a_write_without_a_ttl_leaves_the_ttl_of_the_bucket(world: World) {
        needs!(world, RecordTtl);
        let sessions = open(&world, world.fresh().ttl(Duration::from_secs(3))).await;
        sessions.put(&session()).ttl(Duration::from_secs(1)).await.unwrap();
        let second = sessions.put(&session()).await.unwrap();
        let expired = sessions.watch(key()).updates_only().await.unwrap();
        let entry = sessions.get(&key()).read(Read::Leader).await.unwrap().expect("it lives on");
        assert_eq!((entry.revision(), entry.ttl()), (second, None::<Ttl>));
        let mut removals = std::pin::pin!(expired.try_filter_map(|event| async move {
            Ok(matches!(event, Event::Removed { .. }).then_some(event))
        }));
        let removed = tokio::time::timeout(crate::support::SOON, removals.try_next()).await;
        let event = removed.expect("the bucket's TTL removes it").unwrap().expect("the watch continues");
        assert!(matches!(event, Event::Removed { reason: Removed::Expired, .. }), "{event:?}");
    }

    async fn too_long_keep_is_refused_before_the_work_runs(world: World) {
        needs!(world, RecordTtl);
        let bucket = open(&world, world.fresh().ttl(MINUTE)).await;
        let once = world.store.once::<u32>("charges").bucket(bucket.name()).ttl(Duration::from_secs(5)).retention(HOUR);
        let mut ran = false;
        let refused = once.run("charge", || async { ran = true; 7 }).await.unwrap_err();
        let kvtyped::recipes::OnceError::Kv(error) = refused;
        is_refused("once", &error);
        assert!(!ran, "the work ran");
    }
}
