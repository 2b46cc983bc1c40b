//! Filters: unions of many keys, empty unions, reserved keys.

use std::fmt;
use std::str::FromStr;

use kvtyped::codec::Text;
use kvtyped::config::BucketConfig;
use kvtyped::key::{Key, KeyBuilder, KeyError, KeyParser, ModelKey, Pattern};
use kvtyped::prelude::*;
use kvtyped::{Error, ErrorKind, Event, Filter};

use crate::support::{Session, SessionKey, on_both_backends, seen_as};

/// The keys of a tenant with these ids.
fn keys(tenant: &str, ids: std::ops::Range<u64>) -> Vec<SessionKey> {
    ids.map(|id| SessionKey::new(tenant, id)).collect()
}

/// A text under any key of four segments. The key is written by hand: its pattern is every key.
#[derive(Clone, Debug, PartialEq)]
struct Note {
    key: NoteKey,
    text: String,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct NoteKey([String; 4]);

impl ModelKey for NoteKey {
    const TEMPLATE: &'static str = "{a}.{b}.{c}.{d}";

    fn write(&self, out: &mut KeyBuilder) {
        let [a, b, c, d] = &self.0;
        out.segment(a).literal(".").segment(b).literal(".").segment(c).literal(".").segment(d);
    }

    fn parse(parser: &mut KeyParser<'_>) -> Result<Self, KeyError> {
        let mut next = || parser.segment("part", "", "");
        Ok(Self([next()?, next()?, next()?, next()?]))
    }

    fn pattern() -> Pattern {
        Pattern::all()
    }
}

impl fmt::Display for NoteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = KeyBuilder::new();
        self.write(&mut out);
        f.pad(out.as_str())
    }
}

impl FromStr for NoteKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::decode(text)
    }
}

impl KvModel for Note {
    type Key = NoteKey;
    type Value = String;
    type Codec = Text;

    fn settings() -> BucketConfig {
        BucketConfig::new("notes")
    }

    fn key(&self) -> NoteKey {
        self.key.clone()
    }

    fn stored(&self) -> &String {
        &self.text
    }

    fn from_stored(key: NoteKey, text: String) -> Self {
        Self { key, text }
    }
}

fn note(last: &str) -> Note {
    Note { key: NoteKey(["a", "b", "c", last].map(str::to_owned)), text: last.to_owned() }
}

/// Reads a watch until it is ready, and returns the ids of the records.
async fn listed(events: &mut kvtyped::watch::Events<Session>) -> Vec<u64> {
    let mut ids = Vec::new();
    loop {
        match events.try_next().await.expect("no error").expect("the watch continues") {
            Event::Put(session) => ids.push(session.id),
            Event::Ready => break,
            other => panic!("{other:?}"),
        }
    }
    ids.sort_unstable();
    ids
}

/// Checks that every verb matches exactly a union of this many keys, 500 of them existing.
async fn keeps_to_many_keys(world: &crate::support::World, count: u64) {
    let sessions: Bucket<Session> = world.bucket().await;
    let rows = (0..1_500).map(|id| Session::new("acme", id)).chain((1_000..1_100).map(|id| Session::new("beta", id)));
    sessions.put_many(rows.collect::<Vec<_>>()).await.unwrap();
    let filter: Filter<Session> = keys("acme", 1_000..1_000 + count).into();
    let wanted: Vec<u64> = (1_000..1_500).collect();

    let mut events = sessions.watch(filter.clone()).await.unwrap();
    assert_eq!(listed(&mut events).await, wanted);
    let cache = sessions.cache(filter.clone()).await.unwrap();
    assert_eq!(cache.len(), 500);
    let entries: Vec<_> = sessions.list(filter.clone()).await.unwrap().try_collect().await.unwrap();
    assert_eq!(entries.len(), 500);
    let mut found: Vec<_> = sessions.keys(filter.clone()).await.unwrap().try_collect().await.unwrap();
    found.sort_unstable();
    assert_eq!(found, keys("acme", 1_000..1_500));
    assert_eq!(sessions.count(filter).await.unwrap(), 500);

    // Only keys of the union are delivered.
    for (tenant, id) in [("acme", 999), ("beta", 1_001), ("acme", 1_000 + count), ("acme", 999 + count)] {
        sessions.put(&Session::new(tenant, id)).await.unwrap();
    }
    let event = events.try_next().await.unwrap();
    assert!(matches!(&event, Some(Event::Put(session)) if session.id == 999 + count), "{event:?}");
}

fn matches_nothing<T>(result: Result<T, Error>) {
    let Err(error) = result else { panic!("a filter that matches nothing is accepted") };
    assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error:?}");
}

on_both_backends! {
    async fn every_verb_matches_a_union_of_20_000_keys(world: World) {
        keeps_to_many_keys(&world, 20_000).await;
    }

    async fn every_verb_matches_a_union_of_200_000_keys(world: World) {
        keeps_to_many_keys(&world, 200_000).await;
    }

    async fn every_verb_matches_a_union_of_wildcards(world: World) {
        let sessions: Bucket<Session> = world.bucket().await;
        let tenant = |number: u64| format!("tenant-{number}");
        let rows: Vec<_> = (0..2_000).map(|number| Session::new(&tenant(number), number)).collect();
        sessions.put_many(rows).await.unwrap();
        let filters: Vec<_> = (1_000..3_000).map(|number| SessionKey::filter().tenant(tenant(number))).collect();
        let mut events = sessions.watch(filters.clone()).await.unwrap();
        assert_eq!(listed(&mut events).await, (1_000..2_000).collect::<Vec<_>>());
        assert_eq!(sessions.count(filters).await.unwrap(), 1_000);
    }

    async fn an_empty_union_has_no_records_and_cannot_be_watched(world: World) {
        let sessions: Bucket<Session> = world.bucket().await;
        sessions.put(&Session::new("acme", 1)).await.unwrap();
        let too_long = SessionKey::new("x".repeat(2_000), 1);
        for filter in [Filter::from(Vec::<SessionKey>::new()), Filter::from(vec![too_long.clone()])] {
            assert_eq!(sessions.list(filter.clone()).await.unwrap().count().await, 0);
            assert_eq!(sessions.keys(filter.clone()).await.unwrap().count().await, 0);
            assert_eq!(sessions.count(filter.clone()).await.unwrap(), 0);
            matches_nothing(sessions.watch(filter.clone()).await);
            matches_nothing(sessions.cache(filter).await);
        }
        let Err(error) = sessions.live(&too_long).await else { panic!("no record has this key") };
        assert!(matches!(error.kind(), ErrorKind::InvalidKey), "{error:?}");
        let error = sessions.wait_for(&too_long, |_| true).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidKey), "{error:?}");
    }

    async fn a_pattern_of_every_key_leaves_out_reserved_keys(world: World) {
        let notes: Bucket<Note> = world.bucket().await;
        let sessions: Bucket<Session> = seen_as(&world, notes.name()).await;
        let guard = sessions.lock(&SessionKey::new("acme", 1)).await.unwrap();
        notes.put(&note("1")).await.unwrap();

        let entries: Vec<_> = notes.list(..).await.unwrap().try_collect().await.unwrap();
        assert_eq!(entries.iter().map(|entry| entry.value()).collect::<Vec<_>>(), [&note("1")]);
        assert_eq!(notes.keys(..).await.unwrap().try_collect::<Vec<_>>().await.unwrap(), [note("1").key]);
        assert_eq!(notes.count(..).await.unwrap(), 1);
        assert_eq!(notes.cache(..).await.unwrap().len(), 1);
        let mut events = notes.watch(..).await.unwrap();
        assert!(matches!(events.try_next().await.unwrap(), Some(Event::Put(found)) if *found == note("1")));
        assert!(matches!(events.try_next().await.unwrap(), Some(Event::Ready)));
        guard.release().await.unwrap();
        notes.put(&note("2")).await.unwrap();
        assert!(matches!(events.try_next().await.unwrap(), Some(Event::Put(found)) if *found == note("2")));

        // The pattern of the reserved keys finds the record of a lock, which is not a record of the model.
        let _guard = sessions.lock(&SessionKey::new("acme", 2)).await.unwrap();
        let reserved = Filter::<Note>::pattern(Pattern::reserved());
        let found: Vec<_> = notes.keys(reserved).await.unwrap().collect().await;
        let reserved = |item: &Result<NoteKey, Error>| {
            item.as_ref().err().and_then(Error::key).is_some_and(|key| key.starts_with(Key::RESERVED))
        };
        assert!(!found.is_empty() && found.iter().all(reserved), "{found:?}");
    }
}
