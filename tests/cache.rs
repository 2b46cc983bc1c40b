//! Caches and live values, on the memory backend and on a server.

use std::collections::BTreeMap;
use std::time::Instant;

use harness::wait;
use kvtyped::ErrorKind;
use kvtyped::codec::Bytes;
use kvtyped::prelude::*;

use crate::needs::{Feature, needs};
use crate::support::{RawSession, SOON, Session, SessionKey, World, on_both_backends, seen_as, soon};

const SECOND: Duration = Duration::from_secs(1);

fn key(id: u64) -> SessionKey {
    SessionKey::new("acme", id)
}

fn ids(found: impl IntoIterator<Item = std::sync::Arc<Entry<Session>>>) -> Vec<u64> {
    let mut ids: Vec<_> = found.into_iter().map(|session| session.id).collect();
    ids.sort_unstable();
    ids
}

/// Waits until this runtime has at most `few` tasks.
async fn tasks_fall_to(few: usize) {
    let metrics = tokio::runtime::Handle::current().metrics();
    wait::until("the tasks end", SOON, async || (metrics.num_alive_tasks() <= few).then_some(())).await;
}

on_both_backends! {
    async fn closed_store_ends_caches_and_live_values(world: World) {
        let sessions = world.bucket::<Session>().await;
        let cache = sessions.cache(..).await.unwrap();
        let mut changes = cache.changes();
        let revision = sessions.put(&Session::new("acme", 1)).await.unwrap();
        cache.wait_for_revision(revision).await.unwrap();
        let live = sessions.live(&key(1)).await.unwrap();
        let mut values = live.subscribe();
        world.store.close().await.unwrap();
        let never = Revision::new(revision.get() + 100);
        let error = tokio::time::timeout(SOON, cache.wait_for_revision(never)).await.unwrap().unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Closed), "{error}");
        assert!(cache.contains(&key(1)));
        assert!(tokio::time::timeout(SOON, changes.next()).await.unwrap().unwrap().is_ok(), "an earlier change");
        assert!(tokio::time::timeout(SOON, changes.next()).await.unwrap().is_none(), "the change stream ends");
        assert!(tokio::time::timeout(SOON, values.changed()).await.unwrap().is_err(), "the value channel closes");
        assert!(matches!(live.last_error().expect("it says why").kind(), ErrorKind::Closed));
        let end = tokio::time::timeout(SOON, live.changed()).await.expect("it ends").unwrap_err();
        assert!(matches!(end.kind(), ErrorKind::Closed), "{end}");
        assert_eq!(live.load().id, 1);
    }

    async fn panicking_index_ends_cache_with_error(world: World) {
        let sessions = world.bucket::<Session>().await;
        let cache = sessions.cache(..).await.unwrap();
        let mut changes = cache.changes();
        let index = cache.index_by(|session| {
            assert_ne!(session.visits, 13, "as the test wants it");
            session.visits
        });
        let revision = sessions.put(&Session::new("acme", 1).visited(1)).await.unwrap();
        cache.wait_for_revision(revision).await.unwrap();
        assert_eq!(index.get(&1).len(), 1);
        let revision = sessions.put(&Session::new("acme", 1).visited(13)).await.unwrap();
        let error = tokio::time::timeout(SOON, cache.wait_for_revision(revision)).await.unwrap().unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Closed), "{error}");
        let why = cache.last_error().expect("it says why");
        assert!(why.to_string().contains("panicked"), "{why}");
        let reported = tokio::time::timeout(SOON, async { while changes.next().await.is_some() {} });
        reported.await.expect("the changes end");
    }

    async fn awaited_cache_holds_every_matching_record(world: World) {
        let sessions = world.bucket::<Session>().await;
        let empty = sessions.cache(..).await.unwrap();
        assert!(empty.is_empty() && empty.snapshot().is_empty());
        assert!(empty.get(&key(1)).is_none() && !empty.contains(&key(1)));

        for id in 0..100 {
            sessions.put(&Session::new("acme", id)).await.unwrap();
        }
        sessions.put(&Session::new("beta", 7)).await.unwrap();
        sessions.delete(&key(99)).await.unwrap();
        let cache = sessions.cache(SessionKey::filter().tenant("acme")).await.unwrap();
        assert_eq!(cache.len(), 99);
        assert!(cache.contains(&key(7)) && !cache.contains(&key(99)));
        assert!(!cache.contains(&SessionKey::new("beta", 7)));
        assert!(ids(cache.snapshot()).into_iter().eq(0..99) && ids(cache.iter()).into_iter().eq(0..99));
        let cached = cache.get(&key(7)).expect("cached");
        assert_eq!(Some(cached.as_ref()), sessions.get(&key(7)).await.unwrap().as_ref());
        assert!(cache.last_error().is_none());
    }

    async fn cache_reports_puts_removals_and_expiries(world: World) {
        needs!(world, RecordTtl);
        let sessions = world.bucket::<Session>().await;
        let first = sessions.put(&Session::new("acme", 1)).await.unwrap();
        let cache = sessions.cache(..).await.unwrap();
        let mut changes = cache.changes();
        let stream_state = |entry: &Option<std::sync::Arc<Entry<Session>>>| entry.as_ref().map(|entry| entry.revision());

        let second = sessions.put(&Session::new("acme", 1).visited(1)).await.unwrap();
        let change = soon(&mut changes).await.unwrap();
        assert_eq!((change.key.clone(), stream_state(&change.old), stream_state(&change.new)), (key(1), Some(first), Some(second)));
        assert_eq!(cache.get(&key(1)).expect("cached").visits, 1, "the cache is ahead of its stream");

        let third = sessions.put(&Session::new("acme", 2)).await.unwrap();
        let change = soon(&mut changes).await.unwrap();
        assert_eq!((change.key.clone(), stream_state(&change.old), stream_state(&change.new)), (key(2), None, Some(third)));

        sessions.delete(&key(9)).await.unwrap(); // was not there: no change
        sessions.delete(&key(1)).await.unwrap();
        let change = soon(&mut changes).await.unwrap();
        assert_eq!((change.key.clone(), stream_state(&change.old), stream_state(&change.new)), (key(1), Some(second), None));
        assert!(!cache.contains(&key(1)));

        sessions.purge(&key(2)).await.unwrap();
        let change = soon(&mut changes).await.unwrap();
        assert_eq!((change.key.clone(), stream_state(&change.old), stream_state(&change.new)), (key(2), Some(third), None));

        let fourth = sessions.put(&Session::new("acme", 3)).ttl(SECOND).await.unwrap();
        assert_eq!(stream_state(&soon(&mut changes).await.unwrap().new), Some(fourth));
        let change = soon(&mut changes).await.unwrap();
        assert_eq!((change.key.clone(), stream_state(&change.old), stream_state(&change.new)), (key(3), Some(fourth), None));
        assert!(cache.is_empty());
    }

    async fn slow_reader_gets_number_of_missed_changes(world: World) {
        let sessions = world.bucket::<Session>().await;
        let cache = sessions.cache(..).await.unwrap();
        let mut changes = cache.changes();
        let puts = (0..3_000).map(|id| {
            let sessions = sessions.clone();
            async move { sessions.put(&Session::new("acme", id)).await }
        });
        let revisions: Vec<_> = futures::stream::iter(puts).buffer_unordered(64).try_collect().await.unwrap();
        let last = revisions.into_iter().max().expect("many");
        cache.wait_for_revision(last).await.unwrap();
        assert_eq!(cache.len(), 3_000);
        let missed = soon(&mut changes).await.unwrap_err();
        let mut reported = 0;
        loop {
            reported += 1;
            if soon(&mut changes).await.unwrap().new.expect("a put").revision() == last {
                break;
            }
        }
        assert_eq!(missed + reported, 3_000);
    }

    async fn index_follows_the_cached_records(world: World) {
        let sessions = world.bucket::<Session>().await;
        for (id, visits) in [(1, 10), (2, 10), (3, 20)] {
            sessions.put(&Session::new("acme", id).visited(visits)).await.unwrap();
        }
        let cache = sessions.cache(..).await.unwrap();
        let index = cache.index_by(|session| session.visits);
        let parity = cache.index_by(|session| session.id % 2 == 0);
        assert_eq!((ids(index.get(&10)), ids(index.get(&20))), (vec![1, 2], vec![3]));
        assert_eq!((ids(parity.get(&true)), ids(parity.get(&false))), (vec![2], vec![1, 3]));
        assert!(index.get(&30).is_empty() && !index.contains(&30));

        let moved = sessions.put(&Session::new("acme", 2).visited(20)).await.unwrap();
        cache.wait_for_revision(moved).await.unwrap();
        assert_eq!((ids(index.get(&10)), ids(index.get(&20))), (vec![1], vec![2, 3]));
        let stays = sessions.put(&Session::new("acme", 2).visited(20)).await.unwrap();
        cache.wait_for_revision(stays).await.unwrap();
        assert_eq!(ids(index.get(&20)), [2, 3], "once");
        assert!(index.get(&20).iter().any(|session| session.revision() == stays), "the newest");

        let gone = sessions.delete(&key(1)).await.unwrap();
        cache.wait_for_revision(gone).await.unwrap();
        assert!(!index.contains(&10), "the index drops an empty group");
        assert_eq!(index.keys(), [20]);
        assert_eq!(ids(parity.get(&false)), [3]);
    }

    async fn wait_for_revision_makes_writes_visible(world: World) {
        let sessions = world.bucket::<Session>().await;
        let cache = sessions.cache(SessionKey::filter().tenant("acme")).await.unwrap();
        let mut last = cache.revision();
        for visits in 0..50 {
            let revision = sessions.put(&Session::new("acme", 7).visited(visits)).await.unwrap();
            cache.wait_for_revision(revision).await.unwrap();
            assert_eq!(cache.get(&key(7)).expect("cached").visits, visits);
            assert!(cache.revision() >= revision && cache.revision() > last);
            last = cache.revision();
        }
        cache.wait_for_revision(last).await.unwrap(); // at once
        // The cache soon learns that a write of another key does not concern it.
        let other = sessions.put(&Session::new("beta", 1)).await.unwrap();
        tokio::time::timeout(SOON, cache.wait_for_revision(other)).await.unwrap().unwrap();
        let later = sessions.cache(..).await.unwrap();
        tokio::time::timeout(SOON, later.wait_for_revision(other)).await.unwrap().unwrap();
    }

    async fn idle_cache_is_not_stale(world: World) {
        let sessions = world.bucket::<Session>().await;
        let cache = sessions.cache(..).await.unwrap();
        let start = Instant::now();
        let mut worst = Duration::ZERO;
        while start.elapsed() < 5 * SECOND / 2 {
            worst = worst.max(cache.staleness());
            tokio::time::sleep(SECOND / 20).await;
        }
        assert!(worst < 2 * SECOND, "{worst:?}");
    }

    async fn cache_ends_with_its_last_handle(world: World) {
        let sessions = world.bucket::<Session>().await;
        let before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        let cache = sessions.cache(..).await.unwrap();
        let live = sessions.live(&key(1)).or_else(|| Session::new("acme", 1)).await.unwrap();
        let coalesced = sessions.watch(..).coalesce().await.unwrap();
        let other = cache.clone();
        drop(cache);
        let revision = sessions.put(&Session::new("acme", 2)).await.unwrap();
        other.wait_for_revision(revision).await.unwrap();
        assert!(other.contains(&key(2)), "a clone keeps it going");
        drop((other, live, coalesced));
        tasks_fall_to(before).await;
    }

    async fn undecodable_record_leaves_cache_with_error(world: World) {
        let sessions = world.bucket::<Session>().await;
        let raw = seen_as::<RawSession>(&world, sessions.name()).await;
        sessions.put(&Session::new("acme", 1)).await.unwrap();
        let cache = sessions.cache(..).await.unwrap();
        let index = cache.index_by(|session| session.id);
        raw.put(&RawSession::new("acme", "one", b"foreign")).await.unwrap();
        let planted = raw.put(&RawSession::new("acme", "1", b"\xc1")).await.unwrap();
        let last = sessions.put(&Session::new("acme", 2)).await.unwrap();
        cache.wait_for_revision(last).await.unwrap();
        assert_eq!(ids(cache.snapshot()), [2], "a snapshot omits an undecodable record");
        assert!(!index.contains(&1));
        let error = cache.last_error().expect("told");
        assert!(matches!(error.kind(), ErrorKind::Decode { .. }), "{error}");
        assert_eq!((error.key(), error.revision()), (Some("acme.1"), Some(planted)));
        // A cache that is opened now reports the same error.
        let later = sessions.cache(..).await.unwrap();
        assert_eq!(ids(later.snapshot()), [2]);
        assert!(later.last_error().is_some());
    }

    async fn cache_keeps_state_until_bucket_is_recreated(world: World) {
        let sessions = world.bucket::<Session>().await;
        let last = sessions.put(&Session::new("acme", 1)).await.unwrap();
        let cache = sessions.cache(..).await.unwrap();
        world.store.delete_bucket(sessions.name()).await.unwrap();
        let error = wait::until("the cache knows", SOON, async || cache.last_error()).await;
        assert!(matches!(error.kind(), ErrorKind::BucketNotFound), "{error}");
        assert!(cache.contains(&key(1)), "the cache keeps its last state");
        assert!(matches!(sessions.cache(..).await.unwrap_err().kind(), ErrorKind::BucketNotFound));

        let mut changes = cache.changes();
        let reopened: Bucket<Session> = world.store.bucket().name(sessions.name()).must_create().await.unwrap();
        wait::until("the old state is forgotten", SOON, async || (!cache.contains(&key(1))).then_some(())).await;
        assert_eq!(soon(&mut changes).await.unwrap().key, key(1), "which is a change");
        let first = reopened.put(&Session::new("acme", 2)).await.unwrap();
        assert!(first <= last, "revisions restart in the new bucket");
        wait::until("the new state is there", SOON, async || cache.get(&key(2))).await;
        assert_eq!(cache.len(), 1);
    }

    /// Readers on other threads run while the cache is written.
    async fn readers_never_miss_a_cached_key(world: World) {
        let sessions = world.bucket::<Session>().await;
        for id in 0..50 {
            sessions.put(&Session::new("acme", id)).await.unwrap();
        }
        let cache = sessions.cache(..).await.unwrap();
        let index = cache.index_by(|session| session.tenant.clone());
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let reader = std::thread::spawn({
            let (cache, index, stop) = (cache.clone(), index.clone(), std::sync::Arc::clone(&stop));
            move || {
                let mut newest = BTreeMap::new();
                let mut rounds = 0_u32;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let mut seen = 0;
                    for id in 0..50 {
                        let revision = cache.get(&key(id)).expect("it is there").revision();
                        let before = newest.insert(id, revision).unwrap_or_default();
                        assert!(revision >= before, "{id} went back from {before} to {revision}");
                        seen += 1;
                    }
                    assert_eq!((seen, index.get(&"acme".to_owned()).len()), (50, 50));
                    rounds += 1;
                }
                rounds
            }
        });
        let mut last = Revision::ZERO;
        for visits in 0..1_000 {
            last = sessions.put(&Session::new("acme", u64::from(visits) % 50).visited(visits)).await.unwrap();
        }
        cache.wait_for_revision(last).await.unwrap();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(reader.join().expect("no reader saw a gap") > 0);
    }
}

/// P44.
#[tokio::test]
async fn dropped_watches_leave_no_consumer() {
    let world = World::nats().await;
    let sessions = world.bucket::<Session>().await;
    let stream = format!("$JS.API.STREAM.INFO.KV_{}", sessions.name());
    let consumers = async || {
        let info = harness::shared().await.api(&stream, &serde_json::Value::Null).await.ok()?;
        info["state"]["consumer_count"].as_u64()
    };
    let watch = sessions.watch(..).await.unwrap();
    let coalesced = sessions.watch(..).coalesce().await.unwrap();
    let cache = sessions.cache(..).await.unwrap();
    let live = sessions.live(&key(1)).or_else(|| Session::new("acme", 1)).await.unwrap();
    assert!(sessions.wait_for(&key(2), |_| true).timeout(SECOND / 4).await.is_err());
    // The consumer of the `wait_for` that timed out is removed shortly afterwards.
    wait::until("there are four", SOON, async || (consumers().await? == 4).then_some(())).await;
    drop((watch, coalesced, cache, live));
    let start = Instant::now();
    wait::until("the consumers are gone", SOON, async || (consumers().await? == 0).then_some(())).await;
    assert!(start.elapsed() < 5 * SECOND, "{:?}", start.elapsed());

    // Started and cancelled at once.
    for _ in 0..20 {
        let _ = tokio::time::timeout(SECOND / 1_000, sessions.watch(..).into_future()).await;
        let _ = tokio::time::timeout(SECOND / 1_000, sessions.cache(..).into_future()).await;
    }
    wait::until("the consumers are gone", SOON, async || (consumers().await? == 0).then_some(())).await;
}

mod live {
    use super::*;

    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KvModel)]
    #[kv(bucket = "config", key = "app", history = 1)]
    struct AppConfig {
        limit: u32,
    }

    /// The raw bytes under the same key.
    #[derive(Clone, Debug, PartialEq, KvModel)]
    #[kv(bucket = "config", key = "app", codec = Bytes, history = 1)]
    struct RawConfig {
        #[kv(value)]
        bytes: Vec<u8>,
    }

    fn limit(limit: u32) -> AppConfig {
        AppConfig { limit }
    }

    async fn changes_to(config: &Live<AppConfig>, limit: u32) {
        let changed = tokio::time::timeout(SOON, config.changed()).await.expect("it changes").expect("a value");
        assert_eq!(changed.limit, limit);
    }

    on_both_backends! {
        async fn live_value_follows_its_record(world: World) {
            let configs = world.bucket::<AppConfig>().await;
            let first = configs.put(&limit(1)).await.unwrap();
            let config = configs.live(&AppConfigKey).await.unwrap();
            assert_eq!((config.load().limit, config.revision()), (1, first));
            let mut receiver = config.subscribe();
            assert_eq!(receiver.borrow_and_update().limit, 1);
            let other = config.clone();
            for next in 2..5 {
                let revision = configs.put(&limit(next)).await.unwrap();
                changes_to(&config, next).await;
                tokio::time::timeout(SOON, receiver.changed()).await.unwrap().unwrap();
                assert_eq!((receiver.borrow_and_update().limit, config.revision()), (next, revision));
            }
            changes_to(&other, 4).await; // which has not looked since
            assert!(config.last_error().is_none());
            let nothing = tokio::time::timeout(SECOND / 5, config.changed()).await;
            assert!(nothing.is_err(), "nothing changed since");
        }

        async fn panicking_validation_rejects_the_value(world: World) {
            let configs = world.bucket::<AppConfig>().await;
            configs.put(&limit(1)).await.unwrap();
            let check = |config: &AppConfig| {
                assert_ne!(config.limit, 13, "as the test wants it");
                Ok::<(), String>(())
            };
            let config = configs.live(&AppConfigKey).validate(check).await.unwrap();
            configs.put(&limit(13)).await.unwrap();
            wait::until("the value is judged", SOON, async || config.last_error()).await;
            let error = config.last_error().expect("it says why");
            assert!(matches!(error.kind(), ErrorKind::Rejected { reason } if reason.contains("panicked")), "{error}");
            assert_eq!(config.load().limit, 1);
            configs.put(&limit(2)).await.unwrap();
            changes_to(&config, 2).await;
            assert!(config.last_error().is_none());
        }

        async fn failed_derive_keeps_last_value(world: World) {
            let configs = world.bucket::<AppConfig>().await;
            let derive = |config: &AppConfig| match config.limit {
                13 => panic!("as the test wants it"),
                limit => u8::try_from(limit).map(|limit| format!("at most {limit}")),
            };
            let text: Live<String> = configs.live(&AppConfigKey).or_default().derive(derive).await.unwrap();
            assert_eq!((text.load().as_str(), text.revision()), ("at most 0", Revision::ZERO));
            let first = configs.put(&limit(7)).await.unwrap();
            let changed = tokio::time::timeout(SOON, text.changed()).await.unwrap().unwrap();
            assert_eq!((changed.as_str(), text.revision()), ("at most 7", first));

            for (refused, expected) in [(300, "out of range"), (13, "panicked")] {
                let revision = configs.put(&limit(refused)).await.unwrap();
                let rejection = async || text.last_error().filter(|error| error.revision() == Some(revision));
                let error = wait::until("the rejection is seen", SOON, rejection).await;
                assert!(matches!(error.kind(), ErrorKind::Rejected { reason } if reason.contains(expected)), "{error}");
                assert_eq!((text.load().as_str(), text.revision()), ("at most 7", first));
            }
            configs.delete(&AppConfigKey).await.unwrap();
            let changed = tokio::time::timeout(SOON, text.changed()).await.unwrap().unwrap();
            assert_eq!((changed.as_str(), text.last_error().is_none()), ("at most 0", true));
        }

        async fn invalid_default_fails_the_open_at_once(world: World) {
            let configs = world.bucket::<AppConfig>().await;
            let derive = |_: &AppConfig| Err::<(), _>("no file");
            let open = configs.live(&AppConfigKey).or_default().derive(derive);
            let error = tokio::time::timeout(SECOND, open.into_future()).await.expect("at once").unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Rejected { reason } if reason == "no file"), "{error}");
            assert_eq!((error.operation(), error.key()), (Some("live"), Some("app")));
        }

        async fn live_value_starts_with_default_or_waits(world: World) {
            let configs = world.bucket::<AppConfig>().await;
            let config = configs.live(&AppConfigKey).or_default().await.unwrap();
            assert_eq!((config.load().limit, config.revision()), (0, Revision::ZERO));
            let early = configs.live(&AppConfigKey).or_else(|| limit(77)).await.unwrap();
            assert_eq!(early.load().limit, 77);
            // Without a default, the live value waits for the record.
            let waiting = configs.live(&AppConfigKey).timeout(SOON);
            let (waited, revision) = tokio::join!(waiting.into_future(), async {
                configs.create(&limit(5)).await.unwrap()
            });
            let waited = waited.unwrap();
            assert_eq!((waited.load().limit, waited.revision()), (5, revision));
            changes_to(&config, 5).await;
            changes_to(&early, 5).await;
        }

        async fn live_value_without_valid_record_fails(world: World) {
            let configs = world.bucket::<AppConfig>().await;
            let error = configs.live(&AppConfigKey).timeout(SECOND / 2).await.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::NotFound), "{error}");
            assert_eq!((error.operation(), error.key()), (Some("live"), Some("app")));
            configs.put(&limit(9_999)).await.unwrap();
            let check = |config: &AppConfig| if config.limit < 1_000 { Ok(()) } else { Err("too many") };
            let error = configs.live(&AppConfigKey).validate(check).timeout(SECOND / 2).await.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Rejected { .. }), "{error}");
        }

        async fn live_value_keeps_last_valid_value(world: World) {
            let configs = world.bucket::<AppConfig>().await;
            let raw = seen_as::<RawConfig>(&world, configs.name()).await;
            configs.put(&limit(10)).await.unwrap();
            let check = |config: &AppConfig| if config.limit < 1_000 { Ok(()) } else { Err("too many") };
            let config = configs.live(&AppConfigKey).validate(check).await.unwrap();

            let wrong = configs.put(&limit(9_999)).await.unwrap();
            let error = wait::until("the rejection is seen", SOON, async || config.last_error()).await;
            let ErrorKind::Rejected { reason } = error.kind() else { panic!("{error}") };
            assert_eq!((reason.as_str(), error.revision()), ("too many", Some(wrong)));
            assert_eq!(config.load().limit, 10);

            configs.put(&limit(20)).await.unwrap();
            changes_to(&config, 20).await;
            assert!(config.last_error().is_none(), "a good value ends it");

            raw.put(&RawConfig { bytes: b"no json".into() }).await.unwrap();
            let error = wait::until("the bad record is seen", SOON, async || config.last_error()).await;
            assert!(matches!(error.kind(), ErrorKind::Decode { .. }), "{error}");
            assert_eq!(config.load().limit, 20);

            // The invalid record after the removal shows when the removal was processed.
            configs.put(&limit(30)).await.unwrap();
            changes_to(&config, 30).await;
            configs.delete(&AppConfigKey).await.unwrap();
            configs.put(&limit(8_888)).await.unwrap();
            wait::until("the rejection is seen", SOON, async || config.last_error()).await;
            assert_eq!(config.load().limit, 30, "a removal takes nothing away where there is no default");
        }

        async fn removal_restores_default_of_live_value(world: World) {
            let configs = world.bucket::<AppConfig>().await;
            configs.put(&limit(10)).await.unwrap();
            let config = configs.live(&AppConfigKey).or_default().await.unwrap();
            assert_eq!(config.load().limit, 10);
            let gone = configs.delete(&AppConfigKey).await.unwrap();
            changes_to(&config, 0).await;
            assert_eq!(config.revision(), gone);
            if world.has(Feature::RecordTtl) {
                configs.create(&limit(11)).ttl(SECOND).await.unwrap();
                changes_to(&config, 11).await;
                changes_to(&config, 0).await; // when it expires
            }
            configs.put(&limit(12)).await.unwrap();
            changes_to(&config, 12).await;
            configs.purge(&AppConfigKey).await.unwrap();
            changes_to(&config, 0).await;
        }

        async fn live_value_survives_bucket_recreation(world: World) {
            let configs = world.bucket::<AppConfig>().await;
            configs.put(&limit(10)).await.unwrap();
            let kept = configs.live(&AppConfigKey).await.unwrap();
            let config = configs.live(&AppConfigKey).or_default().await.unwrap();
            world.store.delete_bucket(configs.name()).await.unwrap();
            let error = wait::until("it knows", SOON, async || config.last_error()).await;
            assert!(matches!(error.kind(), ErrorKind::BucketNotFound), "{error}");
            assert_eq!((config.load().limit, kept.load().limit), (10, 10));
            let reopened: Bucket<AppConfig> = world.store.bucket().name(configs.name()).must_create().await.unwrap();
            changes_to(&config, 0).await; // there is no such record any more
            reopened.put(&limit(11)).await.unwrap();
            changes_to(&config, 11).await;
            changes_to(&kept, 11).await;
            assert!(config.last_error().is_none() && kept.last_error().is_none());
        }
    }
}
