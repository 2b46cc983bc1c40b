//! Records that do not decode or that a check rejects. Caches, waits and live values distinguish them from absent
//! records.

use std::error::Error as _;

use harness::wait;
use kvtyped::codec::Bytes;
use kvtyped::prelude::*;
use kvtyped::{Error, ErrorKind};

use crate::support::sentinels::Everything;
use crate::support::{RawSession, SOON, Session, SessionKey, on_both_backends, seen_as, soon};

const SECOND: Duration = Duration::from_secs(1);

fn key(id: u64) -> SessionKey {
    SessionKey::new("acme", id)
}

fn is_decode(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Decode { .. })
}

on_both_backends! {
    async fn a_cache_tells_absent_from_undecodable(world: World) {
        let sessions = world.bucket::<Session>().await;
        let raw = seen_as::<RawSession>(&world, sessions.name()).await;
        let first = raw.put(&RawSession::new("acme", "1", b"\xc1")).await.unwrap();
        sessions.put(&Session::new("acme", 2)).await.unwrap();
        let cache = sessions.cache(..).await.unwrap();
        let mut changes = cache.changes();
        let error = cache.try_get(&key(1)).unwrap_err();
        assert!(is_decode(&error), "{error}");
        assert_eq!((error.key(), error.revision()), (Some("acme.1"), Some(first)));
        let place = format!("cache of `acme.1` in bucket `{}` as `Session` at revision {first}: ", sessions.name());
        assert!(error.to_string().starts_with(&place), "{error}");
        assert!(cache.try_get(&key(2)).unwrap().is_some());
        assert!(cache.try_get(&key(3)).unwrap().is_none());
        assert!(cache.get(&key(1)).is_none() && !cache.contains(&key(1)));

        // A live record becomes undecodable, and readers of changes see why.
        let bad = raw.put(&RawSession::new("acme", "2", b"\xc1")).await.unwrap();
        let change = soon(&mut changes).await.unwrap();
        assert_eq!((&change.key, change.old.is_some(), change.new.is_some()), (&key(2), true, false));
        let error = change.error.expect("the reason");
        assert!(is_decode(&error) && error.revision() == Some(bad), "{error}");
        assert!(cache.try_get(&key(2)).is_err());

        // An absent key becomes undecodable.
        raw.put(&RawSession::new("acme", "3", b"\xc1")).await.unwrap();
        let change = soon(&mut changes).await.unwrap();
        assert!(change.key == key(3) && change.old.is_none() && change.error.is_some());

        // A good record clears the error, and so does a removal.
        sessions.put(&Session::new("acme", 1)).await.unwrap();
        let change = soon(&mut changes).await.unwrap();
        assert!(change.key == key(1) && change.new.is_some() && change.error.is_none());
        assert!(cache.try_get(&key(1)).unwrap().is_some());
        let last = sessions.delete(&key(2)).await.unwrap();
        cache.wait_for_revision(last).await.unwrap();
        assert!(cache.try_get(&key(2)).unwrap().is_none());
    }

    async fn a_wait_for_an_undecodable_record_names_the_cause(world: World) {
        let sessions = world.bucket::<Session>().await;
        let raw = seen_as::<RawSession>(&world, sessions.name()).await;
        let bad = raw.put(&RawSession::new("acme", "1", b"\xc1")).await.unwrap();
        let late = sessions.wait_for(&key(1), |_| true).timeout(SECOND).await.unwrap_err();
        assert!(matches!(late.kind(), ErrorKind::Timeout { .. }), "{late}");
        let cause = late.source().and_then(|cause| cause.downcast_ref::<Error>()).expect("the cause");
        assert!(is_decode(cause) && cause.revision() == Some(bad), "{cause}");
        assert!(cause.to_string().starts_with("wait_for of `acme.1` in bucket "), "{cause}");
        // The wait ends with a later record that decodes.
        let key = key(1);
        let wait = sessions.wait_for(&key, |session| session.visits == 7).timeout(SOON);
        let (waited, _) = tokio::join!(wait.into_future(), async {
            sessions.put(&Session::new("acme", 1)).await.unwrap();
            sessions.put(&Session::new("acme", 1).visited(7)).await.unwrap();
        });
        assert_eq!(waited.unwrap().visits, 7);
        // The control: without such a record the timeout has no cause.
        let late = sessions.wait_for(&SessionKey::new("acme", 2), |_| true).timeout(SECOND / 4).await.unwrap_err();
        assert!(late.source().is_none(), "{late:?}");
    }

    async fn an_invalid_record_of_a_live_value_is_logged_once(world: World) {
        let everything = Everything::default();
        let _guard = tracing::subscriber::set_default(everything.clone());
        let sessions = world.bucket::<Session>().await;
        let raw = seen_as::<RawSession>(&world, sessions.name()).await;
        sessions.put(&Session::new("acme", 1)).await.unwrap();
        let check = |session: &Session| if session.visits < 10 { Ok(()) } else { Err("too many visits") };
        let key = key(1);
        let live = sessions.live(&key).validate(check).await.unwrap();
        let mut errors = live.errors();
        assert!(errors.borrow_and_update().is_none());
        let mut refused = Vec::new();
        for bad in [true, false] {
            let revision = match bad {
                true => raw.put(&RawSession::new("acme", "1", b"\xc1")).await.unwrap(),
                false => sessions.put(&Session::new("acme", 1).visited(99)).await.unwrap(),
            };
            refused.push(revision);
            tokio::time::timeout(SOON, errors.changed()).await.expect("it is seen").unwrap();
            let error = errors.borrow_and_update().clone().expect("the reason");
            assert_eq!((error.revision(), error.key()), (Some(revision), Some("acme.1")), "{error}");
            assert_eq!(is_decode(&error), bad, "{error}");
            assert_eq!(live.load().visits, 0, "the last good one");
        }
        sessions.put(&Session::new("acme", 1).visited(5)).await.unwrap();
        assert_eq!(tokio::time::timeout(SOON, live.changed()).await.expect("it changes").unwrap().visits, 5);
        assert!(live.last_error().is_none() && errors.borrow_and_update().is_none());
        let lines: Vec<_> =
            everything.lines().into_iter().filter(|line| line.contains("a live value skips an invalid record")).collect();
        assert_eq!(lines.len(), refused.len(), "{lines:#?}");
        for (line, revision) in lines.iter().zip(refused) {
            assert!(line.starts_with("kvtyped::watch") && line.contains("acme.1"), "{line}");
            assert!(line.contains(&format!("revision={revision}")), "{line}");
        }
    }
}

mod defaults {
    use super::*;

    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KvModel)]
    #[kv(bucket = "settings", key = "app", history = 1)]
    struct Settings {
        limit: u32,
    }

    /// The raw bytes under the same key.
    #[derive(Clone, Debug, PartialEq, KvModel)]
    #[kv(bucket = "settings", key = "app", codec = Bytes, history = 1)]
    struct RawSettings {
        #[kv(value)]
        bytes: Vec<u8>,
    }

    on_both_backends! {
        async fn a_default_does_not_hide_an_invalid_first_record(world: World) {
            let settings = world.bucket::<Settings>().await;
            let raw = seen_as::<RawSettings>(&world, settings.name()).await;
            let bad = raw.put(&RawSettings { bytes: b"no json".into() }).await.unwrap();
            let start = tokio::time::Instant::now();
            let open = settings.live(&SettingsKey).or_default().timeout(2 * SOON);
            let error = open.await.unwrap_err();
            assert!(is_decode(&error) && error.revision() == Some(bad), "{error}");
            assert!(start.elapsed() < SOON, "it fails at once");
            let error = settings.live(&SettingsKey).or_else(|| Settings { limit: 7 }).await.unwrap_err();
            assert!(is_decode(&error), "{error}");

            let lenient = settings.live(&SettingsKey).or_default_if_invalid().await.unwrap();
            assert_eq!((lenient.load().limit, lenient.revision()), (0, Revision::ZERO));
            assert!(is_decode(&lenient.last_error().expect("it says why")));
            let other = settings.live(&SettingsKey).or_else(|| Settings { limit: 7 }).or_default_if_invalid().await.unwrap();
            assert_eq!(other.load().limit, 7);

            // A rejected first record.
            settings.put(&Settings { limit: 99 }).await.unwrap();
            let check = |settings: &Settings| if settings.limit < 10 { Ok(()) } else { Err("too high") };
            let error = settings.live(&SettingsKey).or_default().validate(check).await.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Rejected { .. }), "{error}");
            // A valid record clears the errors of open values.
            wait::until("it is taken", SOON, async || (lenient.load().limit == 99).then_some(())).await;
            assert!(lenient.last_error().is_none());
            // The control: a removed record is not an invalid one.
            settings.delete(&SettingsKey).await.unwrap();
            let absent = settings.live(&SettingsKey).or_default().await.unwrap();
            assert_eq!(absent.load().limit, 0);
        }
    }
}
