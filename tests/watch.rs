//! `watch` and `wait_for`, on the memory backend and on a server.

use std::collections::BTreeSet;
use std::time::Instant;

use kvtyped::codec::Codec;
use kvtyped::prelude::*;
use kvtyped::watch::Watch;
use kvtyped::{ErrorKind, Event, Filter};

use crate::needs::needs;
use crate::support::{Document, DocumentKey, RawSession, Session, SessionKey, Told};
use crate::support::{SOON, listing, on_both_backends, seen_as, soon, told};

const SECOND: Duration = Duration::from_secs(1);

fn put(key: &str, revision: Revision) -> Told {
    Told::Put(key.into(), revision)
}

fn removed(key: &str, revision: Revision, reason: Removed) -> Told {
    Told::Removed(key.into(), revision, reason)
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
    fn tells(self, told: Told) -> Option<Told> {
        match told {
            Told::Removed(..) if self.ignore_deletes => None,
            Told::Put(key, revision) if self.headers_only => Some(Told::Touched(key, revision)),
            other => Some(other),
        }
    }

    /// Returns the expected initial events.
    fn listing(self, kept: &[Told]) -> Vec<Told> {
        let newest = |told: &Told| {
            let newer = |other: &Told| key_of(other) == key_of(told) && revision_of(other) > revision_of(told);
            !kept.iter().any(newer)
        };
        let in_time = |told: &&Told| match self.start {
            Start::Newest => newest(told),
            Start::Now => false,
            Start::History => true,
            Start::From(revision) => revision_of(told) >= revision,
        };
        kept.iter().filter(in_time).cloned().filter_map(|told| self.tells(told)).collect()
    }
}

fn revision_of(told: &Told) -> Revision {
    match told {
        Told::Put(_, revision) | Told::Touched(_, revision) => *revision,
        Told::Removed(_, revision, _) | Told::Undecodable(_, revision) => *revision,
        other => panic!("{other:?} has no revision"),
    }
}

fn key_of(told: &Told) -> &str {
    match told {
        Told::Put(key, _) | Told::Touched(key, _) | Told::Removed(key, ..) | Told::Undecodable(key, _) => key,
        other => panic!("{other:?} has no key"),
    }
}

on_both_backends! {
    async fn current_values_come_first_then_ready_then_changes(world: World) {
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
        assert_eq!(told(&mut events).await, removed("acme.1", gone, Removed::Deleted));
    }

    async fn it_is_ready_at_once_where_nothing_matches(world: World) {
        let sessions = world.bucket::<Session>().await;
        let start = Instant::now();
        assert_eq!(told(&mut sessions.watch(..).await.unwrap()).await, Told::Ready, "an empty bucket");
        sessions.put(&Session::new("acme", 1)).await.unwrap();
        let mut events = sessions.watch(SessionKey::filter().tenant("beta")).await.unwrap();
        assert_eq!(told(&mut events).await, Told::Ready, "a filter that matches nothing");
        let mut updates = sessions.watch(..).updates_only().await.unwrap();
        assert_eq!(told(&mut updates).await, Told::Ready, "nothing old is wanted");
        let none: Vec<SessionKey> = Vec::new();
        let error = sessions.watch(none).await.expect_err("it would wait forever");
        assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error}");
        assert!(start.elapsed() < 5 * SECOND, "it took {:?}", start.elapsed());
        let first = sessions.put(&Session::new("beta", 1)).await.unwrap();
        assert_eq!(told(&mut events).await, put("beta.1", first));
        assert_eq!(told(&mut updates).await, put("beta.1", first));
    }

    async fn a_removal_says_how_the_record_went(world: World) {
        needs!(world, RecordTtl);
        let sessions = world.bucket::<Session>().await;
        let mut events = sessions.watch(..).await.unwrap();
        assert_eq!(told(&mut events).await, Told::Ready);
        let mut puts = Vec::new();
        for id in [1, 2] {
            puts.push(put(&format!("acme.{id}"), sessions.put(&Session::new("acme", id)).await.unwrap()));
        }
        puts.push(put("acme.3", sessions.put(&Session::new("acme", 3)).ttl(SECOND).await.unwrap()));
        for expected in puts {
            assert_eq!(told(&mut events).await, expected);
        }
        let deleted = sessions.delete(&SessionKey::new("acme", 1)).await.unwrap();
        let purged = sessions.purge(&SessionKey::new("acme", 2)).await.unwrap();
        assert_eq!(told(&mut events).await, removed("acme.1", deleted, Removed::Deleted));
        assert_eq!(told(&mut events).await, removed("acme.2", purged, Removed::Purged));
        let Told::Removed(key, revision, Removed::Expired) = told(&mut events).await else { panic!("an expiry") };
        assert_eq!(key, "acme.3");
        assert!(revision > purged);
        // A later watch reports the same reasons.
        let mut later = sessions.watch(..).await.unwrap();
        let reasons = listing(&mut later).await.into_iter().map(|told| match told {
            Told::Removed(_, _, reason) => reason,
            other => panic!("{other:?}"),
        });
        assert!(reasons.eq([Removed::Deleted, Removed::Purged, Removed::Expired]));
    }

    /// P35.
    async fn one_bad_record_stops_no_watch_and_says_where_it_is(world: World) {
        let sessions = world.bucket::<Session>().await;
        let raw = seen_as::<RawSession>(&world, sessions.name()).await;
        for id in 0..100 {
            sessions.put(&Session::new("acme", id)).await.unwrap();
        }
        let planted = raw.put(&RawSession::new("acme", "50", b"\xc1 s3cret")).await.unwrap();
        let foreign = raw.put(&RawSession::new("acme", "fifty", b"")).await.unwrap();

        let mut events = sessions.watch(..).await.unwrap();
        let (good, bad): (Vec<_>, Vec<_>) =
            listing(&mut events).await.into_iter().partition(|told| matches!(told, Told::Put(..)));
        assert_eq!(good.len(), 99);
        let undecodable = |key: &str, revision| Told::Undecodable(key.into(), revision);
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
        assert_eq!(told(&mut events).await, undecodable("acme.fifty", gone), "no key of the model, however it went");
        let mended = sessions.put(&Session::new("acme", 50)).await.unwrap();
        assert_eq!(told(&mut events).await, put("acme.50", mended));

        // A watch of headers does not decode values, but it still reports an invalid key.
        let mut headers = sessions.watch(..).headers_only().from_revision(planted).await.unwrap();
        let seen = listing(&mut headers).await;
        assert!(seen.contains(&undecodable("acme.fifty", gone)), "{seen:?}");
        assert_eq!(seen.iter().filter(|told| matches!(told, Told::Touched(..))).count(), 3, "{seen:?}");
    }

    async fn filters_unite_and_may_overlap(world: World) {
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
        assert_eq!([told(&mut events).await, told(&mut events).await], [put("acme.2", again), put("delta.2", new)]);
    }

    async fn options_work_alone_and_together(world: World) {
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
            let begun = options.on(documents.watch(..)).await;
            if !options.is_legal() {
                assert!(matches!(begun.unwrap_err().kind(), ErrorKind::InvalidConfig { .. }), "{options:?}");
                continue;
            }
            let mut events = begun.unwrap();
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
                    assert_eq!(told(events).await, expected, "{options:?}");
                }
            }
        }
    }

    async fn removals_of_every_kind_can_be_left_out(world: World) {
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
        while !matches!(told(&mut plain).await, Told::Removed(_, _, Removed::Expired)) {}
        let last = sessions.put(&Session::new("acme", 4)).await.unwrap();
        for (what, events) in [("values", &mut events), ("headers", &mut headers)] {
            assert_eq!(told(events).await, Told::Ready);
            let mut keys = BTreeSet::new();
            loop {
                let told = told(events).await;
                assert!(!matches!(told, Told::Removed(..)), "{what}: {told:?}");
                keys.insert(key_of(&told).to_owned());
                if revision_of(&told) == last {
                    break;
                }
            }
            assert!(keys.contains("acme.4"), "{keys:?}");
        }
        let mut later = sessions.watch(..).ignore_deletes().await.unwrap();
        assert_eq!(listing(&mut later).await, [put("acme.4", last)]);
    }

    async fn options_that_exclude_each_other_are_refused(world: World) {
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

    async fn a_watch_from_a_revision_begins_wherever_that_is(world: World) {
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
        assert_eq!(told(&mut events).await, Told::Ready, "the next one is still to come");
        let next = documents.put(&Document::new("a", "four")).await.unwrap();
        assert_eq!(told(&mut events).await, put("doc.a", next));
        // The revision belongs to another bucket: the watch reports a resync and lists the existing records.
        let mut events = documents.watch(..).from_revision(Revision::new(1_000)).await.unwrap();
        assert_eq!(told(&mut events).await, Told::Resync);
        assert_eq!(listing(&mut events).await, [put("doc.a", next)]);
    }

    async fn a_slow_reader_that_coalesces_gets_the_newest_of_each_key(world: World) {
        let sessions = world.bucket::<Session>().await;
        let mut events = sessions.watch(..).coalesce().await.unwrap();
        assert_eq!(told(&mut events).await, Told::Ready);
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
    async fn a_slow_reader_that_coalesces_gets_every_current_key_before_ready(world: World) {
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

    async fn a_closed_store_ends_its_watches(world: World) {
        let sessions = world.bucket::<Session>().await;
        let mut events = sessions.watch(..).await.unwrap();
        assert_eq!(told(&mut events).await, Told::Ready);
        world.store.close().await.unwrap();
        let error = soon(&mut events).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Closed), "{error}");
        assert!(tokio::time::timeout(SOON, events.next()).await.unwrap().is_none(), "that is the last word");
    }

    async fn a_watch_of_a_closed_handle_does_not_begin(world: World) {
        let sessions = world.bucket::<Session>().await;
        let mut events = sessions.watch(..).await.unwrap();
        assert_eq!(told(&mut events).await, Told::Ready);
        let other = seen_as::<Session>(&world, sessions.name()).await;
        sessions.close();
        let key = SessionKey::new("acme", 1);
        assert!(matches!(sessions.watch(..).await.unwrap_err().kind(), ErrorKind::Closed));
        assert!(matches!(sessions.cache(..).await.unwrap_err().kind(), ErrorKind::Closed));
        assert!(matches!(sessions.live(&key).await.unwrap_err().kind(), ErrorKind::Closed));
        assert!(matches!(sessions.wait_for(&key, |_| true).await.unwrap_err().kind(), ErrorKind::Closed));
        let revision = other.put(&Session::new("acme", 1)).await.unwrap();
        assert_eq!(told(&mut events).await, put("acme.1", revision), "an open watch continues");
    }

    /// P27.
    async fn a_bucket_that_goes_is_told_once_and_one_made_anew_is_listed(world: World) {
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

        let anew: Bucket<Session> = world.store.bucket().name(sessions.name()).must_create().await.unwrap();
        let first = anew.put(&Session::new("beta", 1)).await.unwrap();
        assert_eq!(told(&mut events).await, Told::Resync);
        let mut seen = listing(&mut events).await;
        if seen.is_empty() {
            seen.push(told(&mut events).await); // it was made, found and then written
        }
        assert_eq!(seen, [put("beta.1", first)], "revisions below the old ones are not skipped");
        let second = anew.put(&Session::new("beta", 2)).await.unwrap();
        assert_eq!(told(&mut events).await, put("beta.2", second));
    }

    async fn waiting_sees_what_is_there_and_what_comes(world: World) {
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

    async fn waiting_for_what_cannot_be_there_says_why(world: World) {
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
