//! `watch` and `wait_for`, on the memory backend and on a server.

use std::collections::BTreeSet;
use std::time::Instant;

use kvtyped::codec::Codec;
use kvtyped::prelude::*;
use kvtyped::watch::Watch;
use kvtyped::{ErrorKind, Event, Filter};

use crate::needs::needs;
use crate::support::{Document, DocumentKey, Observed, RawSession, Session, SessionKey};
use crate::support::{SOON, listing, on_both_backends, reported, seen_as, soon};

const SECOND: Duration = Duration::from_secs(1);

fn put(key: &str, revision: Revision) -> Observed {
    Observed::Put(key.into(), revision)
}

fn removed(key: &str, revision: Revision, reason: Removed) -> Observed {
    Observed::Removed(key.into(), revision, reason)
}

/// The start of a watch.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Start {
    Newest,
    Now,
    History,
    From(Revision),
}

/// The options of one watch.
#[derive(Debug, Clone, Copy)]
struct Options {
    start: Start,
    headers_only: bool,
    ignore_deletes: bool,
    coalesce: bool,
}

impl Options {
    fn all(from: Revision) -> Vec<Self> {
        let mut all = Vec::new();
        for start in [Start::Newest, Start::Now, Start::History, Start::From(from)] {
            for bits in 0..8 {
                let (headers_only, ignore_deletes, coalesce) = (bits & 1 > 0, bits & 2 > 0, bits & 4 > 0);
                all.push(Self { start, headers_only, ignore_deletes, coalesce });
            }
        }
        all
    }

    fn is_legal(self) -> bool {
        !(self.start == Start::History && self.coalesce)
    }

    fn on<T: KvModel>(self, watch: Watch<'_, T>) -> Watch<'_, T> {
        let watch = match self.start {
            Start::Newest => watch,
            Start::Now => watch.updates_only(),
            Start::History => watch.history(),
            Start::From(revision) => watch.from_revision(revision),
        };
        let watch = if self.headers_only { watch.headers_only() } else { watch };
        let watch = if self.ignore_deletes { watch.ignore_deletes() } else { watch };
        if self.coalesce { watch.coalesce() } else { watch }
    }

    /// Returns the event that a watch with these options delivers for an event of a plain watch.
    fn tells(self, reported: Observed) -> Option<Observed> {
        match reported {
            Observed::Removed(..) if self.ignore_deletes => None,
            Observed::Put(key, revision) if self.headers_only => Some(Observed::Touched(key, revision)),
            other => Some(other),
        }
    }

    /// Returns the expected initial events.
    fn listing(self, kept: &[Observed]) -> Vec<Observed> {
        let newest = |reported: &Observed| {
            let newer =
                |other: &Observed| key_of(other) == key_of(reported) && revision_of(other) > revision_of(reported);
            !kept.iter().any(newer)
        };
        let in_time = |reported: &&Observed| match self.start {
            Start::Newest => newest(reported),
            Start::Now => false,
            Start::History => true,
            Start::From(revision) => revision_of(reported) >= revision,
        };
        kept.iter().filter(in_time).cloned().filter_map(|reported| self.tells(reported)).collect()
    }
}

fn revision_of(reported: &Observed) -> Revision {
    match reported {
        Observed::Put(_, revision) | Observed::Touched(_, revision) => *revision,
        Observed::Removed(_, revision, _) | Observed::Undecodable(_, revision) => *revision,
        other => panic!("{other:?} has no revision"),
    }
}

fn key_of(reported: &Observed) -> &str {
    match reported {
        Observed::Put(key, _)
        | Observed::Touched(key, _)
        | Observed::Removed(key, ..)
        | Observed::Undecodable(key, _) => key,
        other => panic!("{other:?} has no key"),
    }
}

on_both_backends! {
    async fn watch_lists_values_then_ready_then_changes(world: World) {
        let sessions = world.bucket::<Session>().await;
        sessions.put(&Session::new("acme", 1)).await.unwrap();
        let other = sessions.put(&Session::new("beta", 2)).await.unwrap();
        let newer = sessions.put(&Session::new("acme", 1).visited(1)).await.unwrap();

        let mut events = sessions.watch(..).await.unwrap();
        assert_eq!(listing(&mut events).await, [put("beta.2", other), put("acme.1", newer)], "in revision order");
        let changed = sessions.put(&Session::new("beta", 2).visited(3)).await.unwrap();
        let gone = sessions.delete(&SessionKey::new("acme", 1)).await.unwrap();
        let Event::Put(entry) = soon(&mut events).await.unwrap() else { panic!("a put") };
        assert_eq!((entry.visits, entry.revision()), (3, changed));
        assert!(entry.created().elapsed().unwrap_or_default() < SOON);
        assert_eq!(reported(&mut events).await, removed("acme.1", gone, Removed::Deleted));
    }

    async fn watch_without_matches_is_ready_at_once(world: World) {
        let sessions = world.bucket::<Session>().await;
        let start = Instant::now();
        assert_eq!(reported(&mut sessions.watch(..).await.unwrap()).await, Observed::Ready, "an empty bucket");
        sessions.put(&Session::new("acme", 1)).await.unwrap();
        let mut events = sessions.watch(SessionKey::filter().tenant("beta")).await.unwrap();
        assert_eq!(reported(&mut events).await, Observed::Ready, "a filter that matches nothing");
        let mut updates = sessions.watch(..).updates_only().await.unwrap();
        assert_eq!(reported(&mut updates).await, Observed::Ready, "nothing old is wanted");
        let none: Vec<SessionKey> = Vec::new();
        let error = sessions.watch(none).await.expect_err("it would wait forever");
        assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error}");
        assert!(start.elapsed() < 5 * SECOND, "it took {:?}", start.elapsed());
        let first = sessions.put(&Session::new("beta", 1)).await.unwrap();
        assert_eq!(reported(&mut events).await, put("beta.1", first));
        assert_eq!(reported(&mut updates).await, put("beta.1", first));
    }

    async fn removal_event_reports_reason(world: World) {
        needs!(world, RecordTtl);
        let sessions = world.bucket::<Session>().await;
        let mut events = sessions.watch(..).await.unwrap();
        assert_eq!(reported(&mut events).await, Observed::Ready);
        let mut puts = Vec::new();
        for id in [1, 2] {
            puts.push(put(&format!("acme.{id}"), sessions.put(&Session::new("acme", id)).await.unwrap()));
        }
        puts.push(put("acme.3", sessions.put(&Session::new("acme", 3)).ttl(SECOND).await.unwrap()));
        for expected in puts {
            assert_eq!(reported(&mut events).await, expected);
        }
        let deleted = sessions.delete(&SessionKey::new("acme", 1)).await.unwrap();
        let purged = sessions.purge(&SessionKey::new("acme", 2)).await.unwrap();
        assert_eq!(reported(&mut events).await, removed("acme.1", deleted, Removed::Deleted));
        assert_eq!(reported(&mut events).await, removed("acme.2", purged, Removed::Purged));
        let Observed::Removed(key, revision, Removed::Expired) = reported(&mut events).await else { panic!("an expiry") };
        assert_eq!(key, "acme.3");
        assert!(revision > purged);
        // A later watch reports the same reasons.
        let mut later = sessions.watch(..).await.unwrap();
        let reasons = listing(&mut later).await.into_iter().map(|reported| match reported {
            Observed::Removed(_, _, reason) => reason,
            other => panic!("{other:?}"),
        });
        assert!(reasons.eq([Removed::Deleted, Removed::Purged, Removed::Expired]));
    }

    /// P35.
    async fn undecodable_record_does_not_stop_watch(world: World) {
        let sessions = world.bucket::<Session>().await;
        let raw = seen_as::<RawSession>(&world, sessions.name()).await;
        for id in 0..100 {
            sessions.put(&Session::new("acme", id)).await.unwrap();
        }
        let planted = raw.put(&RawSession::new("acme", "50", b"\xc1 s3cret")).await.unwrap();
        let foreign = raw.put(&RawSession::new("acme", "fifty", b"")).await.unwrap();

        let mut events = sessions.watch(..).await.unwrap();
        let (good, bad): (Vec<_>, Vec<_>) =
            listing(&mut events).await.into_iter().partition(|reported| matches!(reported, Observed::Put(..)));
        assert_eq!(good.len(), 99);
        let undecodable = |key: &str, revision| Observed::Undecodable(key.into(), revision);
        assert_eq!(bad, [undecodable("acme.50", planted), undecodable("acme.fifty", foreign)]);

        raw.put(&RawSession::new("acme", "51", b"\xc1 s3cret")).await.unwrap();
        let Event::Undecodable { error, .. } = soon(&mut events).await.unwrap() else { panic!("undecodable") };
        assert!(matches!(error.kind(), ErrorKind::Decode { codec: "msgpack", .. }), "{error}");
        assert_eq!(error.key(), Some("acme.51"));
        assert!(!format!("{error} {error:?}").contains("s3cret"));
        let other = MsgPack::encode(&Session::new("victim", 1)).unwrap();
        raw.put(&RawSession::new("acme", "7", &other)).await.unwrap();
        let Event::Undecodable { error, .. } = soon(&mut events).await.unwrap() else { panic!("another's record") };
        assert!(matches!(error.kind(), ErrorKind::Decode { codec: "key", .. }), "{error}");
        let gone = raw.delete(&RawSession::new("acme", "fifty", b"").key()).await.unwrap();
        assert_eq!(reported(&mut events).await, undecodable("acme.fifty", gone), "no key of the model, however it went");
        let mended = sessions.put(&Session::new("acme", 50)).await.unwrap();
        assert_eq!(reported(&mut events).await, put("acme.50", mended));

        // A watch of headers does not decode values, but it still reports an invalid key.
        let mut headers = sessions.watch(..).headers_only().from_revision(planted).await.unwrap();
        let seen = listing(&mut headers).await;
        assert!(seen.contains(&undecodable("acme.fifty", gone)), "{seen:?}");
        assert_eq!(seen.iter().filter(|reported| matches!(reported, Observed::Touched(..))).count(), 3, "{seen:?}");
    }

    async fn watch_merges_overlapping_filters(world: World) {
        let sessions = world.bucket::<Session>().await;
        let mut revisions = Vec::new();
        for (tenant, id) in [("acme", 1), ("beta", 1), ("acme", 2), ("gamma", 2), ("gamma", 3)] {
            revisions.push(sessions.put(&Session::new(tenant, id)).await.unwrap());
        }
        let filters: Vec<Filter<Session>> = vec![
            SessionKey::filter().tenant("acme").into(),
            SessionKey::filter().id(2u64).into(),
            SessionKey::new("acme", 2).into(),
            SessionKey::new("gamma", 3).into(),
        ];
        let mut events = sessions.watch(filters).await.unwrap();
        let expected = [("acme.1", 0), ("acme.2", 2), ("gamma.2", 3), ("gamma.3", 4)];
        assert_eq!(listing(&mut events).await, expected.map(|(key, at)| put(key, revisions[at])), "each once");

        sessions.put(&Session::new("beta", 1)).await.unwrap();
        let again = sessions.put(&Session::new("acme", 2)).await.unwrap();
        sessions.put(&Session::new("beta", 3)).await.unwrap();
        let new = sessions.put(&Session::new("delta", 2)).await.unwrap();
        assert_eq!([reported(&mut events).await, reported(&mut events).await], [put("acme.2", again), put("delta.2", new)]);
    }

    async fn watch_options_combine(world: World) {
        let documents = world.bucket::<Document>().await;
        let document = |name: &str, text: &str| Document::new(name, text);
        let [a, b, c, d] = ["a", "b", "c", "d"].map(DocumentKey::new);
        let mut kept = vec![
            put("doc.a", documents.put(&document("a", "one")).await.unwrap()),
            put("doc.b", documents.put(&document("b", "one")).await.unwrap()),
            removed("doc.b", documents.delete(&b).await.unwrap(), Removed::Deleted),
            put("doc.a", documents.put(&document("a", "two")).await.unwrap()),
        ];
        let from = revision_of(&kept[2]);
        documents.put(&document("c", "one")).await.unwrap();
        kept.push(removed("doc.c", documents.purge(&c).await.unwrap(), Removed::Purged));
        kept.push(put("doc.d", documents.put(&document("d", "one")).await.unwrap()));

        let mut watches = Vec::new();
        for options in Options::all(from) {
            let started = options.on(documents.watch(..)).await;
            if !options.is_legal() {
                assert!(matches!(started.unwrap_err().kind(), ErrorKind::InvalidConfig { .. }), "{options:?}");
                continue;
            }
            let mut events = started.unwrap();
            assert_eq!(listing(&mut events).await, options.listing(&kept), "{options:?}");
            watches.push((options, events));
        }
        assert_eq!(watches.len(), 28);

        for step in 0..4 {
            let change = match step {
                0 => put("doc.e", documents.put(&document("e", "one")).await.unwrap()),
                1 => removed("doc.a", documents.delete(&a).await.unwrap(), Removed::Deleted),
                2 => removed("doc.d", documents.purge(&d).await.unwrap(), Removed::Purged),
                _ => put("doc.a", documents.put(&document("a", "three")).await.unwrap()),
            };
            for (options, events) in &mut watches {
                if let Some(expected) = options.tells(change.clone()) {
                    assert_eq!(reported(events).await, expected, "{options:?}");
                }
            }
        }
    }

    async fn ignore_deletes_omits_all_removals(world: World) {
        needs!(world, RecordTtl);
        let sessions = world.bucket::<Session>().await;
        let mut plain = sessions.watch(..).await.unwrap();
        let mut events = sessions.watch(..).ignore_deletes().await.unwrap();
        let mut headers = sessions.watch(..).ignore_deletes().headers_only().await.unwrap();
        for id in [1, 2] {
            sessions.put(&Session::new("acme", id)).await.unwrap();
        }
        sessions.put(&Session::new("acme", 3)).ttl(SECOND).await.unwrap();
        sessions.delete(&SessionKey::new("acme", 1)).await.unwrap();
        sessions.purge(&SessionKey::new("acme", 2)).await.unwrap();
        while !matches!(reported(&mut plain).await, Observed::Removed(_, _, Removed::Expired)) {}
        let last = sessions.put(&Session::new("acme", 4)).await.unwrap();
        for (what, events) in [("values", &mut events), ("headers", &mut headers)] {
            assert_eq!(reported(events).await, Observed::Ready);
            let mut keys = BTreeSet::new();
            loop {
                let reported = reported(events).await;
                assert!(!matches!(reported, Observed::Removed(..)), "{what}: {reported:?}");
                keys.insert(key_of(&reported).to_owned());
                if revision_of(&reported) == last {
                    break;
                }
            }
            assert!(keys.contains("acme.4"), "{keys:?}");
        }
        let mut later = sessions.watch(..).ignore_deletes().await.unwrap();
        assert_eq!(listing(&mut later).await, [put("acme.4", last)]);
    }

    async fn conflicting_watch_options_are_rejected(world: World) {
        let sessions = world.bucket::<Session>().await;
        let one = Revision::new(1);
        let wrong = [
            sessions.watch(..).updates_only().history(),
            sessions.watch(..).updates_only().from_revision(one),
            sessions.watch(..).history().from_revision(one),
            sessions.watch(..).updates_only().history().from_revision(one),
            sessions.watch(..).history().coalesce(),
        ];
        for watch in wrong {
            let error = watch.await.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error}");
            assert_eq!((error.operation(), error.bucket()), (Some("watch"), Some(sessions.name())));
        }
    }

    async fn watch_starts_from_any_revision(world: World) {
        let documents = world.bucket::<Document>().await;
        let mut kept = Vec::new();
        for text in ["one", "two", "three"] {
            kept.push(put("doc.a", documents.put(&Document::new("a", text)).await.unwrap()));
        }
        let last = revision_of(&kept[2]);
        for from in [0, 1] {
            let mut events = documents.watch(..).from_revision(Revision::new(from)).await.unwrap();
            assert_eq!(listing(&mut events).await, kept, "from {from}");
        }
        let mut events = documents.watch(..).from_revision(last).await.unwrap();
        assert_eq!(listing(&mut events).await, kept[2..]);
        let mut events = documents.watch(..).from_revision(Revision::new(last.get() + 1)).await.unwrap();
        assert_eq!(reported(&mut events).await, Observed::Ready, "the next one is still to come");
        let next = documents.put(&Document::new("a", "four")).await.unwrap();
        assert_eq!(reported(&mut events).await, put("doc.a", next));
        // The revision belongs to another bucket: the watch reports a resync and lists the existing records.
        let mut events = documents.watch(..).from_revision(Revision::new(1_000)).await.unwrap();
        assert_eq!(reported(&mut events).await, Observed::Resync);
        assert_eq!(listing(&mut events).await, [put("doc.a", next)]);
    }

    async fn coalescing_reader_gets_newest_of_each_key(world: World) {
        let sessions = world.bucket::<Session>().await;
        let mut events = sessions.watch(..).coalesce().await.unwrap();
        assert_eq!(reported(&mut events).await, Observed::Ready);
        let mut cache = Vec::new();
        for visits in 0..200 {
            for id in 0..5 {
                cache.push(sessions.put(&Session::new("acme", id).visited(visits)).await.unwrap());
            }
        }
        // The cache shows when all events have arrived.
        let watched = sessions.cache(..).await.unwrap();
        watched.wait_for_revision(cache[cache.len() - 1]).await.unwrap();
        let mut finals = BTreeSet::new();
        let mut seen = 0;
        while finals.len() < 5 {
            let Event::Put(session) = soon(&mut events).await.unwrap() else { panic!("a put") };
            seen += 1;
            if session.visits == 199 {
                assert!(finals.insert(session.id), "once");
            }
        }
        assert!(seen <= 50, "{seen} events of 5 keys waited");
    }

    /// The listing is complete before `Ready`, even for a slow reader.
    async fn coalescing_reader_gets_all_keys_before_ready(world: World) {
        let sessions = world.bucket::<Session>().await;
        for id in 0..3 {
            sessions.put(&Session::new("acme", id)).await.unwrap();
        }
        let mut events = sessions.watch(..).coalesce().await.unwrap();
        let other = sessions.cache(..).await.unwrap();
        for visits in 1..50 {
            let revision = sessions.put(&Session::new("acme", 1).visited(visits)).await.unwrap();
            other.wait_for_revision(revision).await.unwrap();
        }
        let before = listing(&mut events).await;
        let keys: BTreeSet<_> = before.iter().map(key_of).collect();
        assert_eq!(keys.len(), 3, "{before:?}");
    }

    async fn closing_store_ends_watches(world: World) {
        let sessions = world.bucket::<Session>().await;
        let mut events = sessions.watch(..).await.unwrap();
        assert_eq!(reported(&mut events).await, Observed::Ready);
        world.store.close().await.unwrap();
        let error = soon(&mut events).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Closed), "{error}");
        assert!(tokio::time::timeout(SOON, events.next()).await.unwrap().is_none(), "that is the last word");
    }

    async fn closed_handle_rejects_watch(world: World) {
        let sessions = world.bucket::<Session>().await;
        let mut events = sessions.watch(..).await.unwrap();
        assert_eq!(reported(&mut events).await, Observed::Ready);
        let other = seen_as::<Session>(&world, sessions.name()).await;
        sessions.close();
        let key = SessionKey::new("acme", 1);
        assert!(matches!(sessions.watch(..).await.unwrap_err().kind(), ErrorKind::Closed));
        assert!(matches!(sessions.cache(..).await.unwrap_err().kind(), ErrorKind::Closed));
        assert!(matches!(sessions.live(&key).await.unwrap_err().kind(), ErrorKind::Closed));
        assert!(matches!(sessions.wait_for(&key, |_| true).await.unwrap_err().kind(), ErrorKind::Closed));
        let revision = other.put(&Session::new("acme", 1)).await.unwrap();
        assert_eq!(reported(&mut events).await, put("acme.1", revision), "an open watch continues");
    }

    /// P27.
    async fn watch_reports_deletion_and_lists_new_bucket(world: World) {
        let sessions = world.bucket::<Session>().await;
        for id in 0..5 {
            sessions.put(&Session::new("acme", id)).await.unwrap();
        }
        let mut events = sessions.watch(..).await.unwrap();
        assert_eq!(listing(&mut events).await.len(), 5);
        let start = Instant::now();
        assert!(world.store.delete_bucket(sessions.name()).await.unwrap());
        let error = soon(&mut events).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::BucketNotFound), "{error}");
        assert_eq!((error.operation(), error.bucket()), (Some("watch"), Some(sessions.name())));
        assert!(start.elapsed() < 6 * SECOND, "the error took {:?}", start.elapsed());

        let reopened: Bucket<Session> = world.store.bucket().name(sessions.name()).must_create().await.unwrap();
        let first = reopened.put(&Session::new("beta", 1)).await.unwrap();
        assert_eq!(reported(&mut events).await, Observed::Resync);
        let mut seen = listing(&mut events).await;
        if seen.is_empty() {
            seen.push(reported(&mut events).await); // it was made, found and then written
        }
        assert_eq!(seen, [put("beta.1", first)], "revisions below the old ones are not skipped");
        let second = reopened.put(&Session::new("beta", 2)).await.unwrap();
        assert_eq!(reported(&mut events).await, put("beta.2", second));
    }

    async fn wait_for_sees_current_and_future_records(world: World) {
        let sessions = world.bucket::<Session>().await;
        let key = SessionKey::new("acme", 7);
        let first = sessions.put(&Session::new("acme", 7).visited(4)).await.unwrap();
        let entry = sessions.wait_for(&key, |session| session.visits > 3).timeout(SOON).await.unwrap();
        assert_eq!((entry.revision(), entry.visits), (first, 4));

        let future = sessions.wait_for(&key, |session| session.visits > 5).timeout(SOON);
        let (entry, _) = tokio::join!(future.into_future(), async {
            sessions.put(&Session::new("acme", 7).visited(5)).await.unwrap();
            sessions.delete(&key).await.unwrap();
            sessions.put(&Session::new("acme", 8).visited(9)).await.unwrap();
            sessions.put(&Session::new("acme", 7).visited(6)).await.unwrap();
        });
        assert_eq!(entry.unwrap().visits, 6);

        let start = Instant::now();
        let error = sessions.wait_for(&key, |_| false).timeout(SECOND / 2).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Timeout { .. }), "{error}");
        assert_eq!((error.operation(), error.key()), (Some("wait_for"), Some("acme.7")));
        assert!((SECOND / 2..5 * SECOND).contains(&start.elapsed()), "{:?}", start.elapsed());
    }

    async fn wait_for_reports_invalid_key_or_lost_bucket(world: World) {
        let sessions = world.bucket::<Session>().await;
        let long = SessionKey::new("x".repeat(5_000), 1);
        let error = sessions.wait_for(&long, |_| true).timeout(SOON).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidKey), "{error}");

        let key = SessionKey::new("acme", 7);
        let (error, ()) = tokio::join!(sessions.wait_for(&key, |_| true).timeout(SOON).into_future(), async {
            tokio::task::yield_now().await;
            world.store.delete_bucket(sessions.name()).await.unwrap();
        });
        let error = error.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::BucketNotFound), "{error}");
    }
}
